from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lmrc.evaluation.report.provenance import option_items, provenance_item, provenance_line
from lmrc.evaluation.tables.table import Table
from lmrc.runs.events import History

ENVIRONMENT: dict[str, Any] = {
    "lmrc": "0.1.0",
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "packages": {"torch": "2.13.0", "numpy": "2"},
    "gpus": [{"name": "H100"}] * 8,
    "cpus": 64,
    "memory": 2**40,
}


def run_of(folder: Path, config: dict[str, Any], environment: dict[str, Any] | None = None, **done: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    if done:
        (folder / "DONE").write_text(json.dumps(done))
    return folder


def rows(table: Any) -> dict[str, list[str]]:
    assert isinstance(table, Table)
    return {row[0]: list(row[1:]) for row in table.rows}


def test_provenance_of_runs_side_by_side(tmp_path: Path) -> None:
    models = tmp_path / "home" / "somebody" / "models"
    config = {
        "model": {"encoder": "roberta-large"},
        "train": {"epochs": 3},
        "data": {"train": str(models / "a" / "train")},
        "run": {"seed": 66, "name": "rcp", "folder": str(tmp_path)},
    }
    done = {"metric": "f1", "best": 58.51063, "best_step": 2480, "seconds": 5207.0}
    rcp = run_of(tmp_path / "rcp", config, ENVIRONMENT, **done)
    log = rcp / "log" / "history.jsonl"
    log.parent.mkdir()
    log.write_text('{"time": "2026-11-29T23:56:15+00:00", "event": "started"}\n' * 2)
    classify = run_of(
        tmp_path / "classify",
        {"decode": {}, "rc": str(models / "rc" / "best"), "base": "", "system": "rc"},
        {"lmrc": "0.2.0", "git": None, "gpus": [], "cpus": 1, "memory": 2**34, "packages": {}},
    )
    item = provenance_item({"rcp": rcp, "classify": classify})
    found = rows(item.content)
    assert found == {
        "Kind": ["rcp", "classify"],
        "Date": ["2026-11-29", "-"],
        "Encoder": ["roberta-large", "-"],
        "LM": ["-", "rc/best"],
        "Training documents": ["a/train", "-"],
        "Seed": ["66", "-"],
        "Best on dev": ["f1 58.51, step 2,480", "-"],
        "Time (h:min:s)": ["1:26:47", "-"],
        "Hardware": ["8 x H100", "1 core, 16 GiB"],
        "Code": ["lmrc 0.1.0, commit 0123456 with changes", "lmrc 0.2.0"],
        "Software": ["torch 2.13.0", "-"],
    }
    assert not item.folded
    assert provenance_line(rcp) == ["2026-11-29", "lmrc 0.1.0, commit 0123456 with changes"]
    # No folder of the machine is in the report.
    texts = [provenance_item({"rcp": rcp, "classify": classify}), *option_items({"rcp": rcp, "classify": classify})]
    assert not any("somebody" in item.content.text() for item in texts if isinstance(item.content, Table))


def test_date_is_that_of_the_last_event(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {})
    History(run).add("finished")
    (date,) = provenance_line(run)
    assert date == str(History(run).read()[-1]["time"])[:10]
    assert provenance_line(run_of(tmp_path / "other", {})) == []


def test_system_encoder_has_no_lm(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"decode": {}, "rc": "rc/best", "system": "encoder"})
    assert "LM" not in rows(provenance_item({"run": run}).content)


def test_options_that_differ_come_first(tmp_path: Path) -> None:
    first = {
        "train": {"epochs": 3, "zero_stage": 1},
        "model": {"encoder": None},
        "run": {"name": "a"},
        "cluster": {"nodes": 1},
    }
    second = {"train": {"epochs": 5, "zero_stage": 2}, "model": {"encoder": None}, "flags": [1, True]}
    folders = {"a": run_of(tmp_path / "a", first), "b": run_of(tmp_path / "b", second)}
    folders["c"] = run_of(tmp_path / "c", {"decode": {"threshold": 0.5}})
    trained, classify = option_items(folders)
    assert (trained.name, classify.name) == ("options-rcp", "options-classify")
    assert isinstance(trained.content, Table) and isinstance(classify.content, Table)
    # Options that cannot change the result, such as the number of nodes, are left out.
    assert trained.content.rows == (
        ("Different",),
        ("train.epochs", "3", "5"),
        ("flags", "-", "1, yes"),
        ("Alike",),
        ("model.encoder", "none", "none"),
    )
    assert classify.content.rows == (("decode.threshold", "0.5"),)
