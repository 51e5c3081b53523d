"""A stand-in for the hub on the loopback interface, with the part of its API that uploads a folder.

The contract, as huggingface_hub 1 and 2 use it:

    POST /api/repos/create                        {"name", "organization", "visibility"} -> {"url"}
    POST /api/validate-yaml                       the header of a model card -> {"errors", "warnings"}
    POST /api/models/OWNER/NAME/preupload/main    {"files": [{"path"}]} -> {"files": [{"path", "uploadMode"}]}
    POST /OWNER/NAME.git/info/lfs/objects/batch   {"objects": [{"oid"}]} -> {"objects": [{"oid", "actions"}]}
    PUT  /lfs/OID                                 the bytes of a large file, checked against its SHA-256
    POST /api/models/OWNER/NAME/commit/main       lines of JSON: header, file (base64), lfsFile (oid) -> {"commitUrl"}
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_made_up"


class Hub:
    """The state of the stand-in.

    Attributes:
        address: Its URL.
        private: Repositories, and if they are private.
        files: Files of the main branch, by repository.
    """

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._answer({"error": "Invalid username or password."}, 401)
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif self.path.endswith("/preupload/main"):
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
                self._answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self._answer({"transfer": "basic", "objects": [self._action(o) for o in json.loads(body)["objects"]]})
            elif self.path.endswith("/commit/main"):
                self._commit("/".join(self.path.split("/")[3:5]), [json.loads(line) for line in body.splitlines()])
            else:
                self._answer({"error": f"not in the stand-in: {self.path}"}, 501)

        def do_PUT(self) -> None:
            content, oid = self._body(), self.path.rpartition("/")[2]
            hub.large[oid] = content
            self._answer({}, 200 if hashlib.sha256(content).hexdigest() == oid else 422)

        def _create(self, given: dict[str, Any]) -> None:
            name = f"{given['organization']}/{given['name']}"
            exists = name in hub.private
            hub.private.setdefault(name, given.get("visibility") == "private" or bool(given.get("private")))
            self._answer({"url": f"{hub.address}/{name}"}, 409 if exists else 200)

        def _action(self, given: dict[str, Any]) -> dict[str, Any]:
            upload = {"href": f"{hub.address}/lfs/{given['oid']}"}
            return {"oid": given["oid"], "size": given["size"], "actions": {"upload": upload}}

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            files = hub.files.setdefault(name, {})
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.large[value["oid"]]
            self._answer({"commitUrl": f"{hub.address}/{name}/commit/abc", "commitOid": "abc"})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run the stand-in in a thread."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
