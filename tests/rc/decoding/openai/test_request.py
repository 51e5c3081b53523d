from __future__ import annotations

from typing import Any

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.client import ServerRequest, build_request, check_body, messages_to_text

ASKED = [{"role": "user", "content": "Prompt\n### Response:\n"}]


def test_chat_request_is_greedy() -> None:
    request = build_request(ServerOptions(model="m"), ASKED, 17)
    assert request.endpoint == "chat"
    assert request.body == {"model": "m", "messages": ASKED, "max_tokens": 17, "temperature": 0.0, "seed": 66}


def test_completion_request_has_the_unchanged_prompt() -> None:
    request = build_request(ServerOptions(model="m", endpoint="completions"), ASKED, 17)
    assert request.body["prompt"] == "Prompt\n### Response:\n"
    assert "messages" not in request.body


def test_body_overrides_fields_and_null_removes_them() -> None:
    fields = {"temperature": None, "max_tokens": None, "max_completion_tokens": 900, "top_k": 1}
    body = build_request(ServerOptions(model="m", body=fields), ASKED, 17).body
    assert body == {"model": "m", "messages": ASKED, "seed": 66, "max_completion_tokens": 900, "top_k": 1}


def test_messages_to_text_separates_demonstrations_by_a_blank_line() -> None:
    turns = [("system", "S"), ("user", "P1:\n"), ("assistant", "A1"), ("user", "P2:\n"), ("assistant", "A2")]
    messages = [{"role": role, "content": content} for role, content in [*turns, ("user", "P3:\n")]]
    assert messages_to_text(messages) == "S\n\nP1:\nA1\n\nP2:\nA2\n\nP3:\n"


@pytest.mark.parametrize("field", ["model", "messages", "prompt", "stream", "n"])
def test_reserved_fields_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"server\.body contains '{field}'"):
        check_body(ServerOptions(model="m", body={field: 1}))


def test_empty_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.model is empty"):
        check_body(ServerOptions())


def test_cache_key_depends_on_everything_that_decides_the_answer() -> None:
    base = ServerOptions(model="m")
    keys = {build_request(base, ASKED, 17).cache_key}
    different: list[dict[str, Any]] = [
        {"model": "o"},
        {"seed": 1},
        {"body": {"top_p": 0.5}},
        {"endpoint": "completions"},
    ]
    for changes in different:
        keys.add(build_request(ServerOptions(**{"model": "m", **changes}), ASKED, 17).cache_key)
    keys.add(build_request(base, ASKED, 18).cache_key)
    keys.add(build_request(base, [{"role": "user", "content": "other"}], 17).cache_key)
    keys.add(ServerRequest("completions", build_request(base, ASKED, 17).body).cache_key)
    assert len(keys) == 8
    # Address, concurrency, prices and retries do not change the answer.
    moved = ServerOptions(model="m", url="https://elsewhere.org/v1", concurrency=2, prompt_price=1.0, retries=0)
    assert build_request(moved, ASKED, 17).cache_key in keys


def test_cache_key_is_stable_across_versions() -> None:
    # sha256 of {"body":{"max_tokens":1,"messages":[{"content":"é","role":"user"}],"model":"m","seed":66,
    # "temperature":0.0},"endpoint":"chat"} with é as \u00e9. With another key,
    # all cached answers would be paid again.
    request = build_request(ServerOptions(model="m"), [{"role": "user", "content": "é"}], 1)
    assert request.cache_key == "c4fe10d9fe8d7f73591351968b2bfe816990f77ae3513e8f1b190c619ae5700a"


def test_tokens_are_estimated_as_four_characters() -> None:
    text = [{"role": "user", "content": "x" * 4000}]
    assert build_request(ServerOptions(model="m"), text, 50).tokens == 1050
    assert build_request(ServerOptions(model="m", endpoint="completions"), text, 50).tokens == 1050
