from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from lmrc.cli.main import main as lmrc
from lmrc.common.errors import UserError
from lmrc.config.schema import SummaryConfig
from lmrc.launcher.group.summary import summarize, why_unfinished
from lmrc.launcher.stages import SUMMARY
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, note_failure
from tests.launcher.group.site import write_corpora, write_group, write_member, write_run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the folder of a group of two systems with two seeds each, of which one has failed."""
    home = tmp_path / "all"
    corpus = write_corpora(home)
    for name, share, seed in (("r-8_seed1", 0.5, 1), ("r-8_seed2", 0.6, 2), ("r-16_seed1", 0.9, 1)):
        write_member(home, name, corpus, share, seed)
    failed = home / "r-16_seed2" / "rc"
    (failed / "log").mkdir(parents=True)
    (failed / "config.yaml").touch()
    History(failed).add("failed", job="7", restart=0, cause="rank 1 on n1: out of memory")
    write_run(tmp_path / "other", corpus, 0.3, 9)
    return home


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the report, whose figures take seconds."""
    monkeypatch.setattr("lmrc.launcher.group.summary.report_runs", lambda *arguments, **named: [])


MEMBERS = {"r-8_seed1": ("r-8", 1), "r-8_seed2": ("r-8", 2), "r-16_seed1": ("r-16", 1), "r-16_seed2": ("r-16", 2)}


def summary(home: Path, against: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of DONE and of scores.json."""
    config = SummaryConfig(group=write_group(home, MEMBERS, against), train=home / "data" / "train", out=home)
    SUMMARY.check(config)
    return summarize(config), json.loads((home / "scores.json").read_text())


@pytest.mark.usefixtures("no_report")
def test_mean_and_deviation_are_those_of_lmrc_score(home: Path, tmp_path: Path) -> None:
    done, found = summary(home)
    runs = [str(home / name / "classify") for name in ("r-8_seed1", "r-8_seed2")]
    out = tmp_path / "two.json"
    assert lmrc(["score", *runs, "--train-facts", str(home / "data" / "train"), "--json", str(out)]) == 0
    expected = json.loads(out.read_text())
    first, second = found["systems"]
    assert (first["name"], first["members"]) == ("r-8", ["r-8_seed1", "r-8_seed2"])
    assert first["mean"] == pytest.approx(expected["mean"])
    assert first["standard_deviation"] == pytest.approx(expected["standard_deviation"])
    assert first["intervals"]["f1"][0] <= first["mean"]["f1"] <= first["intervals"]["f1"][1]
    f1 = [member["f1"] for member in found["members"][:2]]
    assert first["mean"]["f1"] == pytest.approx(statistics.mean(f1))
    # A single seed has no deviation.
    assert (second["members"], second["standard_deviation"]) == (["r-16_seed1"], None)
    assert [member["name"] for member in found["members"]] == done["members"] == list(MEMBERS)[:3]
    assert found["comparisons"] == {} and found["against"] is None


def test_a_failed_member_is_named_with_its_cause(home: Path) -> None:
    done, found = summary(home)
    why = "rc failed: rank 1 on n1: out of memory"
    assert done["unfinished"] == found["unfinished"] == {"r-16_seed2": why}
    assert f"r-16_seed2 has no scores: {why}." in (home / "report.html").read_text()
    assert (home / "tables" / "group.csv").exists()


@pytest.mark.usefixtures("no_report")
def test_members_and_systems_are_compared_with_a_run(home: Path, tmp_path: Path) -> None:
    _, found = summary(home, str(tmp_path / "other"))
    assert list(found["comparisons"]) == ["r-8", "r-8_seed1", "r-8_seed2", "r-16_seed1"]
    out = tmp_path / "compared.json"
    words = ["compare", str(tmp_path / "other"), str(home / "r-16_seed1" / "classify"), "--json", str(out)]
    assert lmrc([*words, "--train-facts", str(home / "data" / "train")]) == 0
    assert found["comparisons"]["r-16_seed1"] == json.loads(out.read_text())["differences"]
    whole = found["comparisons"]["r-8"]["f1"]
    assert whole["second"] == pytest.approx(found["systems"][0]["mean"]["f1"])
    assert whole["difference"] > 0 and whole["first"] == found["comparisons"]["r-16_seed1"]["f1"]["first"]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("against", "compared"),
    [
        ("r-8_seed1", ["r-8_seed2", "r-16_seed1"]),
        ("r-8", ["r-16_seed1"]),
        ("r-16", ["r-8", "r-8_seed1", "r-8_seed2"]),  # its finished seed
    ],
)
def test_members_are_compared_with_a_member(home: Path, against: str, compared: list[str]) -> None:
    _, found = summary(home, against)
    assert (list(found["comparisons"]), found["against"]) == (compared, against)


@pytest.mark.usefixtures("no_report")
def test_no_comparison_with_an_unfinished_member(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, found = summary(home, "r-16_seed2")
    assert found["comparisons"] == {}
    assert "--against r-16_seed2: r-16_seed2 has not finished" in caplog.text


def test_no_member_has_finished(home: Path) -> None:
    for name in MEMBERS:
        (home / name / "score" / "DONE").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"no member of the group has finished: .*r-16_seed2: rc failed: rank 1"):
        summary(home)


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    assert why_unfinished(tmp_path) == "it was not started"
    for step in ("rcp", "classify", "score"):
        (tmp_path / step).mkdir()
        (tmp_path / step / "config.yaml").touch()
    assert why_unfinished(tmp_path) == "classify, rcp, score not finished"
    # Processes on this machine leave a report only.
    note_failure(tmp_path / "rcp", Attempt("local-1"), RuntimeError("no weights"), 0)
    note_failure(tmp_path / "classify", Attempt("local-2"), UserError("no candidates"), 0)
    assert why_unfinished(tmp_path).startswith("rcp failed: ")
    assert why_unfinished(tmp_path).endswith("no weights; score not finished")
    (tmp_path / "rcp" / "DONE").touch()
    assert why_unfinished(tmp_path) == "classify failed: no candidates; score not finished"


def test_the_list_of_members_must_exist(home: Path) -> None:
    config = SummaryConfig(group=home / "none.json", train=home / "data" / "train", out=home)
    with pytest.raises(UserError, match="repeat the command of the pipeline"):
        SUMMARY.check(config)
