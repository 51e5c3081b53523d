"""The `lmrc` command: an error is one line with status 2, and leaves no files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmrc.cli.main import main
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import DOCRED
from tests.conftest import ROOT

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "docs.json"
    assert main(["data", "synth", "--docs", "5", "--seed", "1", "--out", str(path)]) == 0
    return path


def change_first(path: Path, change: Any) -> Path:
    """Apply `change` to the first document of a file."""
    content = json.loads(path.read_text())
    change(content[0])
    path.write_text(json.dumps(content))
    return path


def test_synthetic_documents_depend_on_number_and_seed_only(tmp_path: Path, documents: Path) -> None:
    again = tmp_path / "again.json"
    main(["data", "synth", "--docs", "5", "--seed", "1", "--out", str(again)])
    assert again.read_bytes() == documents.read_bytes()
    assert len(json.loads(again.read_text())) == 5
    out = tmp_path / "corpus"
    relations = tmp_path / "again.relations.json"
    assert main(["data", "build", str(again), "--out", str(out), "--relations", str(relations)]) == 0


def test_build_and_stats(tmp_path: Path, documents: Path, capsys: Capture) -> None:
    corpus = tmp_path / "corpus"
    assert main(["data", "build", str(documents), "--out", str(corpus), "--docs-per-shard", "2"]) == 0
    assert "5 documents" in capsys.readouterr().out
    assert len(list(corpus.glob("shard-*.arrow"))) == 3
    assert main(["data", "stats", str(corpus), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    raw = json.loads(documents.read_text())
    assert figures["documents"] == 5
    assert figures["candidate_pairs"] == sum(len(d["vertexSet"]) * (len(d["vertexSet"]) - 1) for d in raw)
    assert figures["triples"] == sum(len({(x["h"], x["t"], x["r"]) for x in d["labels"]}) for d in raw)
    assert figures["na_pairs"] + figures["relation_pairs"] == figures["candidate_pairs"]


def test_schema_of_a_corpus(tmp_path: Path, shared_data: Path, capsys: Capture) -> None:
    """By default, relations that were seen three times between two types are admissible."""
    corpus, file = tmp_path / "train", tmp_path / "new" / "schema.json"
    assert main(["data", "build", str(shared_data / "redocred_train_992.json"), "--out", str(corpus)]) == 0
    capsys.readouterr()
    assert main(["data", "schema", str(corpus), "--out", str(file)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{file}: the LM is offered 34.2 of 96 relations for a pair on average (all, if none is")
    assert " admissible), and 18.7 for one with a relation; 99,302 of 401,182 pairs have no admissible rel" in shown
    assert shown.endswith("254 of 28,146 gold triples are not admissible\n")
    learnt = RelationSchema.read(file, DOCRED)
    assert learnt == RelationSchema.of_corpus(Corpus.open(corpus), 3)
    assert main(["data", "schema", str(corpus), "--minimum", "1", "--out", str(file)]) == 0
    assert " 0 of 28,146 gold triples are not admissible" in capsys.readouterr().out


def test_statistics_of_redocred_dev_are_table_1(tmp_path: Path, shared_data: Path, capsys: Capture) -> None:
    corpus = tmp_path / "dev"
    assert main(["data", "build", str(shared_data / "redocred_dev.json"), "--out", str(corpus)]) == 0
    capsys.readouterr()
    assert main(["data", "stats", str(corpus), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    table_1 = {"candidate_pairs": 193_232, "na_pairs": 179_870, "relation_pairs": 13_362, "triples": 17_284}
    assert {key: figures[key] for key in table_1} == table_1


def test_dashes_and_underscores_are_alike(tmp_path: Path, documents: Path) -> None:
    for index, spelled in enumerate(("--docs-per-shard", "--docs_per_shard")):
        corpus = tmp_path / str(index)
        assert main(["data", "build", str(documents), "--out", str(corpus), spelled, "2"]) == 0
        assert len(list(corpus.glob("shard-*.arrow"))) == 3


def _mention(key: str, value: Any) -> Any:
    return lambda document: document["vertexSet"][0][0].update({key: value})


def _label(key: str, value: Any) -> Any:
    return lambda document: document["labels"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_mention("sent_id", 99), "sent_id"),
        (_mention("pos", [0, 999]), "pos"),
        (_mention("pos", [3, 3]), "pos"),
        (lambda document: document["labels"][0].update(h=0, t=0), "h"),
        (_label("t", 99), "t"),
        (_label("r", "P1"), "unknown relation"),
        (_label("r", "works_for"), "give the relation set of these documents as --relations FILE, JSON {id: name} or"),
        (lambda document: document.update(vertexSet=[]), "vertexSet"),
        (lambda document: document.pop("sents"), "sents"),
    ],
)
def test_malformed_documents(tmp_path: Path, documents: Path, capsys: Capture, change: Any, sentence: str) -> None:
    path = change_first(documents, change)
    title = json.loads(path.read_text())[0]["title"]
    out = tmp_path / "corpus"
    capsys.readouterr()
    assert main(["data", "build", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert "document 0" in error
    assert title in error
    assert sentence in error
    assert not out.exists()


def test_all_breaches_of_a_file_are_listed(tmp_path: Path, documents: Path, capsys: Capture) -> None:
    path = change_first(documents, lambda document: document.update(vertexSet=[[]]))
    labels = len(json.loads(path.read_text())[0]["labels"])
    capsys.readouterr()
    assert main(["data", "build", str(path), "--out", str(tmp_path / "corpus")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"Error: {path}: {labels + 1} breaches of DocRED's format in 1 of 5 documents:"
    assert "  - 1 entity without mentions:" in lines
    assert f"  - {labels} labels of entities that do not exist:" in lines
    assert lines[-1].startswith(f"lmrc data build {path} --out {tmp_path / 'corpus'} --fix mends all of them")


@pytest.mark.parametrize("content", ['{"name": "x"}', "[1]", "[{", "no JSON", "", '"text"'])
def test_files_that_are_no_list_of_documents(tmp_path: Path, capsys: Capture, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert main(["data", "build", str(path), "--out", str(tmp_path / "corpus")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.json"]


def test_duplicate_titles_are_refused(tmp_path: Path, documents: Path, capsys: Capture) -> None:
    content = json.loads(documents.read_text())
    documents.write_text(json.dumps([*content, content[2]]))
    capsys.readouterr()
    arguments = ["data", "build", str(documents), "--out", str(tmp_path / "corpus")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "document 5" in error
    assert content[2]["title"] in error
    assert main([*arguments, "--fix"]) == 0
    printed = capsys.readouterr()
    changes = tmp_path / "corpus.fixes.jsonl"
    assert f"mended: 1 repeated document left out; each change is in {changes}" in printed.err
    assert "5 documents" in printed.out and len(changes.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "build", "nowhere.json", "--out", "corpus"], "nowhere.json: no such file"),
        (["data", "stats", "nowhere"], "nowhere"),
        (["data", "buidl"], "build"),
        (
            ["data", "build", "a.json", "--out", "b", "--seed", "1"],
            "--seed has no effect: it is read only with --sample",
        ),
        (["data", "stats", "data/docred/train"], "lmrc data download docred"),
        (["score", "--pred", "a.json", "--align_encoder", "x"], "--align-encoder has no effect"),
        (["doctor", "--partition", "gpu"], "--partition has no effect: it is read only with --nodes"),
        (["merge", "nowhere", "--out", "b"], "nowhere is no folder: give --rc the best/ folder"),
        (["demo", "--dry-run"], "lmrc demo takes no --dry-run: it always runs here"),
        (["demo", "--dry_run"], "lmrc demo takes no --dry-run"),
        (["demo", "--rcp.data.train", "x"], "--rcp.data.train has no effect: the demo sets it"),
        (["data", "build", "a.json", "--aut", "b"], "--out"),
        (["data", "schema", "nowhere", "--out", "x"], "nowhere"),
        (["data", "schema", "nowhere", "--out", "x", "--minimum", "0"], "0 is not in the range"),
        (["data", "synth", "--docs", "0", "--out", "x"], "0 is not in the range"),
        (["data", "synth", "--docs", "many", "--out", "x"], "many"),
        (["score", "--gold", "nowhere.json", "--pred", "also-nowhere.json"], "nowhere"),
        (["report", "nowhere"], "nowhere is no run folder"),
        (["demo", "--rcp.train.epoch", "3"], "did you mean --rcp.train.epochs?"),
    ],
)
def test_user_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sentence in error
    assert list(tmp_path.iterdir()) == []


def test_score_of_gold_and_of_nothing(tmp_path: Path, documents: Path, capsys: Capture) -> None:
    raw = json.loads(documents.read_text())
    gold = [{"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"]} for d in raw for x in d["labels"]]
    for predictions, f1 in ((gold, 100.0), ([], 0.0)):
        pred, out = tmp_path / "pred.json", tmp_path / "scores.json"
        pred.write_text(json.dumps(predictions))
        assert main(["score", "--gold", str(documents), "--pred", str(pred), "--json", str(out)]) == 0
        # The last line is the score.
        assert capsys.readouterr().out.splitlines()[-1] == f"F1 {f1:.2f}"
        assert json.loads(out.read_text())["f1"] == f1


def test_help_and_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert main(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "0.1.0" in shown
    assert "download" in shown
    assert main(["demo", "--help"]) == 0
    assert "--rcp.train.epochs" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["", "data", "models", "fusion"])
def test_summaries_of_commands_are_not_cut(group: str, capsys: Capture) -> None:
    assert main([*group.split(), "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("command", "launcher"),
    [
        ("train rcp", "rcp"),
        ("train rc", "rc"),
        ("propose", "propose"),
        ("classify", "classify"),
        ("pipeline", "pipeline"),
    ],
)
def test_commands_do_what_the_launchers_do(command: str, launcher: str, capsys: Capture) -> None:
    assert main([*command.split(), "--help"]) == 0
    first, *options = capsys.readouterr().out.splitlines()
    assert first.startswith(f"lmrc {command} [--config FILE] [--cluster PRESET]")
    shown = subprocess.run(
        [sys.executable, str(ROOT / f"launch/{launcher}.py"), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert shown.stdout.splitlines()[1:] == options
    assert shown.stdout.startswith(f"python launch/{launcher}.py [--config")
    assert main([*command.split(), "--cpus_per_gpus", "3"]) == 2
    assert capsys.readouterr().err == "Error: unknown option --cpus_per_gpus: did you mean --cpus-per-gpu?\n"


def test_a_training_is_launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "rcp", "--config", "redocred", "--where", "here"]) == 2
    assert "data/redocred/train" in capsys.readouterr().err


def test_the_old_name_of_truncate(tmp_path: Path, capsys: Capture) -> None:
    paths = ["--rcp", "no", "--rc", "no", "--out", str(tmp_path / "out.json")]
    assert main(["extract", "no.json", *paths, "--shorten", "sentences"]) == 2
    assert "WARNING --shorten is now called --truncate; the old name is accepted for" in capsys.readouterr().err
