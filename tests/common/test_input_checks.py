from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.common.input_checks import MODELS, check_model, check_output


@pytest.mark.parametrize("stage", MODELS)
def test_the_best_folder_is_suggested(tmp_path: Path, stage: str) -> None:
    file = MODELS[stage][1]
    with pytest.raises(UserError, match=rf"run is no folder: give --{stage} the best/ folder"):
        check_model(tmp_path / "run", stage)
    best = tmp_path / "run" / "best"
    best.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"holds no .* \({file} is missing\): give --{stage} the best/ folder"):
        check_model(tmp_path / "run", stage)
    (best / file).write_text("{}")
    with pytest.raises(UserError, match=rf"did you mean {best}\?"):
        check_model(tmp_path / "run", stage)
    check_model(best, stage)


def test_the_model_of_the_other_stage(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"it holds what launch/rc\.py trained; give --rcp the best/ folder"):
        check_model(tmp_path, "rcp")


def test_outputs(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deeper" / "out.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"is a folder: give a file to write"):
        check_output(tmp_path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=rf"no permission to write in {tmp_path}; give another --out"):
        check_output(tmp_path / "out.json")
