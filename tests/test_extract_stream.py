"""`lmrc extract` of texts and streams, with tiny models."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from lmrc.cli.main import main
from lmrc.config.schema import ExtractConfig
from lmrc.corpus.docred import to_json
from lmrc.export.lines import read_results
from lmrc.extract_stream import StreamExtraction
from lmrc.text.inputs import RawDocument
from tests.rc.conftest import Learnt, base, learnt  # noqa: F401 (fixtures)
from tests.test_extract import DOCUMENTS, rcp  # noqa: F401 (fixture)

Capture = pytest.CaptureFixture[str]
TEXT = "Ada met Bob Lum in 1951. Lum lives there. Zoe lives in Bob Lum's house."


@pytest.fixture
def models(rcp: Path, learnt: Learnt) -> list[str]:  # noqa: F811
    return ["--rcp", str(rcp), "--rc", str(learnt.adapter), "--threshold", "0", "--top-k", "2", "--mode", "score"]


@pytest.fixture
def config(rcp: Path, learnt: Learnt, tmp_path: Path) -> ExtractConfig:  # noqa: F811
    return ExtractConfig(
        documents=lines(tmp_path / "docs.jsonl", 5), rcp=rcp, rc=learnt.adapter, out=tmp_path / "out.jsonl",
        threshold="0", top_k=2, batch_size=1,
    )  # fmt: skip


def words(config: ExtractConfig) -> list[str]:
    """Return the command with the documents, models and output of a config."""
    models = ["--rcp", str(config.rcp), "--rc", str(config.rc)]
    return ["extract", str(config.documents), *models, "--out", str(config.out)]


def lines(path: Path, count: int) -> Path:
    """Write texts, given mentions and DocRED documents in turn."""
    given = [{"start": 0, "end": 3, "type": "PER"}, {"start": 8, "end": 15, "type": "PER"}]
    kinds: list[dict[str, Any]] = [
        {"text": TEXT},
        {"text": TEXT, "mentions": given},
        {**to_json(DOCUMENTS[0]), "labels": 3},
    ]
    contents = ({**kinds[index % 3], "title": f"document {index}"} for index in range(count))
    path.write_text("".join(json.dumps(content) + "\n" for content in contents))
    return path


def test_a_text_is_printed(models: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes.txt").write_text(TEXT)
    assert main(["extract", str(tmp_path / "notes.txt"), *models, "--relation-threshold", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[:4] == ["head", "relation", "tail", "score"]
    scores = [
        float(line.split()[-1]) for line in printed.splitlines()[2:] if line.split()[-1:][0:1] and line[-4:-3] == "."
    ]
    assert scores == sorted(scores, reverse=True) and len(scores) > 2
    assert "triples of 1 document\n" in printed
    assert "1 text: mentions by rules" in printed
    assert printed.count("head  ") == 1  # the first triples are not shown twice


def test_a_stream_goes_on_where_it_stopped(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert config.out is not None
    StreamExtraction(config).run()
    whole = [json.loads(line) for line in config.out.read_text().splitlines()]
    assert [found["title"] for found in whole] == [f"document {index}" for index in range(5)]
    texts = [found["text"] for found in whole]
    assert texts[:2] == [TEXT, TEXT] and texts[2] == " ".join(DOCUMENTS[0].sentences[0])
    assert {key for found in whole for triple in found["triples"] for key in triple} >= {
        "head_spans",
        "evidence",
        "score",
    }
    content = config.out.read_bytes()
    config.out.write_bytes(content[: content.index(b"document 3") + 20])
    summary = StreamExtraction(config).run()
    assert "goes on after 3 documents; 1 incomplete last line was removed" in caplog.text
    again = [json.loads(line) for line in config.out.read_text().splitlines()]
    assert [(found["title"], found["entities"]) for found in again] == [(f["title"], f["entities"]) for f in whole]
    assert "triples of 2 documents" in summary and "3 documents were done before" in summary
    assert "triples of 0 documents" in StreamExtraction(config).run()
    assert len(list(read_results(config.out))) == 5


def test_other_documents_or_options_do_not_go_on(config: ExtractConfig, tmp_path: Path, capsys: Capture) -> None:
    assert config.out is not None
    StreamExtraction(config).run()
    before = config.out.read_bytes()
    arguments = words(config)
    assert main([*arguments, "--threshold", "0", "--top-k", "3"]) == 2
    assert "was written with other models or options" in capsys.readouterr().err
    lines(config.documents, 4)
    assert main([*arguments, "--threshold", "0", "--top-k", "2", "--batch-size", "3"]) == 2
    assert f"result 4 is of 'document 4', but {config.documents} ends before it" in capsys.readouterr().err
    config.documents.write_text(json.dumps({"text": TEXT, "title": "new"}))
    assert main([*arguments, "--threshold", "0", "--top-k", "2"]) == 2
    assert "result 0 is of 'document 0'" in capsys.readouterr().err
    assert config.out.read_bytes() == before


def test_few_documents_are_read_ahead(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    extraction = StreamExtraction(config)
    read: list[int] = []

    def endless() -> Iterator[RawDocument]:
        for index in range(10**9):
            read.append(index)
            yield RawDocument("f", index, {"text": TEXT if index % 2 else "nothing"})

    results = extraction._results(endless())
    for _ in range(5):
        next(results)
    assert len(read) == 6  # batches of two documents


def test_standard_input_and_output(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stream = io.BytesIO(lines(tmp_path / "docs.jsonl", 3).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    assert main(["extract", "-", *models, "--out", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["title"] for line in out.splitlines()] == ["document 0", "document 1", "document 2"]
    assert b"triples of 3 documents" in err


def test_all_breaches_of_a_file_are_named_before_the_models_are_loaded(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("lmrc.extract.Proposer", None)
    with config.documents.open("a") as file:
        file.write(
            json.dumps({"text": 3}) + "\n" + json.dumps({"title": "x", "text": "Ada", "mentions": [{}, {}]}) + "\n"
        )
    arguments = words(config)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "2 of 7 documents break the form" in error
    assert "document 5: text is 3" in error and "document 6 ('x'): 2 breaches" in error
    assert main([*arguments, "--mentions", "spans"]) == 2
    assert "document 0 ('document 0') has no mentions, which --mentions spans expects" in capsys.readouterr().err


def test_a_folder_as_graphs(models: list[str], tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(TEXT)
    graphs = []
    for more in ([], ["--merge-entities", "name"]):
        out = tmp_path / "g.graphml"
        options = [*models, "--relation-threshold", "0.01", "--out", str(out), *more]
        assert main(["extract", str(folder), *options]) == 0
        graphs.append(nx.read_graphml(out))
    own, merged = graphs
    assert len(own) == 2 * len(merged) and own.number_of_edges() == merged.number_of_edges()
    assert f"{len(merged)} entities with a triple, {len(merged)} entities merged into others" in capsys.readouterr().out
    assert main(["extract", str(folder), *models, "--out", str(tmp_path / "neo"), "--format", "neo4j"]) == 0
    assert sorted(path.name for path in (tmp_path / "neo").iterdir()) == ["nodes.csv", "relationships.csv"]
    assert main(["extract", str(folder), *models, "--out", str(tmp_path / "t.csv")]) == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        assert {row["document"] for row in csv.DictReader(file)} <= {"a", "b"}


def test_a_page_has_all_documents_of_a_resumed_stream(config: ExtractConfig, tmp_path: Path) -> None:
    assert config.out is not None
    page = tmp_path / "page.html"
    StreamExtraction(config).run()
    kept = config.out.read_bytes().splitlines(keepends=True)[:2]
    config.out.write_bytes(b"".join(kept))
    assert str(page) in StreamExtraction(config.model_copy(update={"html": page})).run()
    assert [f'"title":"document {index}"' in page.read_text() for index in range(6)] == [True] * 5 + [False]
    page.unlink()
    StreamExtraction(config.model_copy(update={"html": page, "out": None})).run()
    assert '"title":"document 4"' in page.read_text()


@pytest.mark.parametrize(
    ("documents", "more", "message"),
    [
        ("n.txt", ["--out", "t.json"], "the submission format has no names"),
        ("n.txt", ["--out", "t.xml"], "the end of its name tells no format"),
        (
            "n.txt",
            ["--merge-entities", "name", "--out", "t.jsonl"],
            "--merge-entities has no effect: it is read only with",
        ),
        ("n.txt", ["--format", "csv"], "--format has no effect: nothing is written without --out"),
        ("n.txt", ["--mentions-model", "x"], "--mentions-model has no effect"),
        ("d.jsonl", [], "--out is missing: give a file, such as triples.jsonl"),
        ("nowhere.txt", [], "no such file"),
        ("nowhere", ["--out", "t.csv"], "no such file"),
        ("empty", ["--out", "t.csv"], "has no file *.txt"),
    ],
)
def test_mistakes(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, documents: str,
    more: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.txt").write_text(TEXT)
    (tmp_path / "empty").mkdir()
    lines(tmp_path / "d.jsonl", 1)
    assert main(["extract", documents, *models, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_interrupted_stream_keeps_its_lines(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert config.out is not None
    noted = StreamExtraction._note
    monkeypatch.setattr(
        StreamExtraction, "_note", lambda self, found: (noted(self, found), found.title[-1] == "2" and interrupt())
    )
    arguments = words(config)
    assert main(arguments) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(read_results(config.out))) == 3


def interrupt() -> None:
    raise KeyboardInterrupt
