from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from lmrc.inference.fingerprint import work_fingerprint

ROW = pa.schema([("title", pa.string())])


def test_fingerprint_changes_with_every_input(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = work_fingerprint(tmp_path, ROW, threshold=0.5, documents=3)
    assert work_fingerprint(tmp_path, ROW, documents=3, threshold=0.5) == first
    # A temporary file of another process.
    (tmp_path / ".partial").write_text("")
    assert work_fingerprint(tmp_path, ROW, threshold=0.5, documents=3) == first

    others = [
        work_fingerprint(tmp_path, ROW, threshold=0.4, documents=3),
        work_fingerprint(tmp_path, pa.schema([("title", pa.large_string())]), threshold=0.5, documents=3),
    ]
    (tmp_path / "model.safetensors").write_bytes(b"others!")
    others.append(work_fingerprint(tmp_path, ROW, threshold=0.5, documents=3))
    (tmp_path / "model.safetensors").rename(tmp_path / "renamed")
    others.append(work_fingerprint(tmp_path, ROW, threshold=0.5, documents=3))
    assert len({first, *others}) == 5
