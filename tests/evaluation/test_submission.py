from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.evaluation.submission import write_submission

ROWS = [
    Prediction("B", 1, 0, "P2", 0.5, (3, 1)),
    Prediction("Ä", 10, 1, "P1"),
    Prediction("B", 1, 0, "P2", 0.5, (2, 3)),
    Prediction("B", 0, 1, "P2"),
]


def test_submission_has_each_triple_once_with_the_official_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.zip"
    assert write_submission(Predictions.of(ROWS), path) == 3
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["result.json"]
        assert archive.testzip() is None
        rows = json.loads(archive.read("result.json"))
    assert rows == [
        {"title": "B", "h_idx": 0, "t_idx": 1, "r": "P2", "evidence": []},
        {"title": "B", "h_idx": 1, "t_idx": 0, "r": "P2", "evidence": [1, 2, 3]},
        {"title": "Ä", "h_idx": 10, "t_idx": 1, "r": "P1", "evidence": []},
    ]
    assert list(rows[0]) == ["title", "h_idx", "t_idx", "r", "evidence"]


def test_equal_predictions_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_submission(Predictions.of(ROWS), tmp_path / "a.zip")
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    again = [*ROWS, ROWS[1]]
    random.Random(1).shuffle(again)
    write_submission(Predictions.of(again), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_unwritable_path_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_submission(Predictions.of(ROWS), tmp_path / "file" / "x.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
