"""The Python API, on tiny models trained for one step."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import lmrc
from lmrc import CandidateModel, Corpus, RelationExtractor, api, score, train
from lmrc.common.errors import ConfigError, DocumentError, UserError
from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.corpus import corpus
from lmrc.corpus.docred import candidate_pairs, to_json
from lmrc.corpus.predictions import Prediction, read_predictions, write_predictions
from lmrc.corpus.types import Document, Mention
from lmrc.rcp.thresholds import FILE
from tests.conftest import ROOT
from tests.slurm.harness import write_data, write_models

CONFIG = """
data: {train: data/train, dev: data/dev}
model: {encoder: embedded:tiny-encoder}
train: {batch_size: 2, max_steps: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write data/, runs/rcp, runs/rc and configs/, which the examples of the documentation need."""
    folder = tmp_path_factory.mktemp("project")
    write_data(folder / "data", 8)
    write_models(folder / "runs", folder / "data")
    for name in ("tiny", "docred"):
        path = folder / "configs" / "rcp" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONFIG)
    return folder


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def extractor(project: Path) -> RelationExtractor:
    return RelationExtractor.load(project / "runs/rcp/best", project / "runs/rc/best", threshold=0.0, top_k=2)


def examples() -> list[doctest.DocTest]:
    modules = (api, corpus)
    return [test for module in modules for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_docstring_examples(example: doctest.DocTest) -> None:
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert not report, "".join(report)


def test_every_public_function_has_an_example() -> None:
    names = {test.name.removeprefix("lmrc.api.").removeprefix("lmrc.corpus.corpus.") for test in examples()}
    assert {"CandidateModel.load", "CandidateModel.propose", "Corpus.open", "RelationExtractor.load",
            "RelationExtractor.extract", "RelationExtractor.relations", "RelationExtractor.stats", "score",
            "train"} <= names  # fmt: skip


def test_documentation_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    first, documents, *rest = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 5
    names: dict[str, Any] = {}
    for code in (documents, first, *rest):
        exec(code, names)
    printed = capsys.readouterr().out
    assert "F1" in printed
    assert "runs/first-run/best" in printed


def test_import_is_quick_and_without_torch() -> None:
    code = "import sys, time; start = time.monotonic(); import lmrc; print(time.monotonic() - start); "
    code += "heavy = {'torch', 'transformers', 'pyarrow', 'pydantic'}; print(sorted(heavy & sys.modules.keys())); "
    code += "from lmrc import Corpus, RelationExtractor, score; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    seconds, heavy, torch = ended.stdout.splitlines()
    assert float(seconds) < 0.3
    assert heavy == "[]"
    assert torch == "False"


def test_names_of_the_package() -> None:
    assert {"CandidateModel", "Corpus", "RelationExtractor", "score", "train"} <= set(dir(lmrc))
    assert lmrc.Corpus is Corpus
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lmrc.Nothing  # noqa: B018


def test_extraction_equals_the_file_command(extractor: RelationExtractor, tmp_path: Path) -> None:
    from lmrc.cli.main import main

    documents = list(Corpus.open("data/dev"))
    found = list(extractor.extract(documents))
    assert [result.title for result in found] == [document.title for document in documents]
    file, out = tmp_path / "new.json", tmp_path / "out.json"
    file.write_text(json.dumps([to_json(document) for document in documents]))
    options = ["--rcp", "runs/rcp/best", "--rc", "runs/rc/best", "--out", str(out), "--threshold", "0", "--top-k", "2"]
    assert main(["extract", str(file), *options]) == 0
    written = {(p.title, p.head, p.tail, p.relation): p.score for p in read_predictions(out)}
    assert written
    assert {(r.title, t.head, t.tail, t.relation): t.score for r in found for t in r.triples} == written


def test_spans_and_names_of_triples(extractor: RelationExtractor) -> None:
    for document, result in zip(Corpus.open("data/dev"), extractor.extract(Corpus.open("data/dev")), strict=True):
        assert result.text == " ".join(" ".join(sentence) for sentence in document.sentences)
        for triple in result.triples:
            assert triple.relation_name == extractor.relations.name(triple.relation)
            for entity, name, spans in (
                (triple.head, triple.head_name, triple.head_spans),
                (triple.tail, triple.tail_name, triple.tail_spans),
            ):
                mentions = document.entities[entity]
                assert name == mentions[0].name
                assert [result.text[start:end] for start, end in spans] == [
                    " ".join(document.sentences[m.sentence][m.start : m.end]) for m in mentions
                ]


def test_text_with_an_empty_sentence_has_single_spaces() -> None:
    mention = Mention("c d", 2, 0, 2, "MISC")
    document = Document("x", (("a", "b"), (), ("c", "d")), ((mention,),), None)
    assert api.joined_text(document) == ("a b c d", [((4, 7),)])


def test_device_of_both_models(extractor: RelationExtractor) -> None:
    on_cpu = RelationExtractor.load("runs/rcp/best", "runs/rc/best", 0.0, "cpu", top_k=2)
    expected = [result.triples for result in extractor.extract(Corpus.open("data/dev"))]
    assert [result.triples for result in on_cpu.extract(Corpus.open("data/dev"))] == expected
    assert on_cpu.stats.documents == 4
    with pytest.raises(RuntimeError, match="device"):
        RelationExtractor.load("runs/rcp/best", "runs/rc/best", device="gpu")


def test_endless_stream_is_extracted_in_batches() -> None:
    document = next(iter(Corpus.open("data/dev")))
    read: list[int] = []

    def stream() -> Iterator[Document]:
        for index in count():
            read.append(index)
            yield document

    extractor = RelationExtractor.load("runs/rcp/best", "runs/rc/best", threshold=1.0, batch_size=1)
    assert next(extractor.extract(stream())).triples == ()
    assert len(read) == 2


def test_dicts_and_documents_are_equal_and_labels_ignored(extractor: RelationExtractor) -> None:
    document = Corpus.open("data/dev")[0]
    raw = {**to_json(document), "labels": "anything"}
    assert list(extractor.extract(raw)) == list(extractor.extract(document)) == list(extractor.extract([document]))
    assert asdict(next(extractor.extract(raw)))["title"] == document.title


def test_texts_and_given_spans(extractor: RelationExtractor) -> None:
    text = "Ada Lum  was born in\nPort Bly. Lum left in 1951."
    spans = [(0, 7, "PERSON", 1), (31, 34, "PERSON", 1), (21, 29, "GPE", 2)]
    given = [{"start": start, "end": end, "type": type, "id": id} for start, end, type, id in spans]
    first, second = extractor.extract([text, {"title": "b", "text": text, "mentions": given}])
    assert [(entity.name, entity.type) for entity in first.entities] == [
        ("Ada Lum", "PER"),
        ("Port Bly", "LOC"),
        ("1951", "TIME"),
    ]
    assert (first.title, second.title) == ("text 0", "b")
    for result in (first, second):
        assert result.text == text
        assert [text[slice(*span)] for span in result.entities[0].spans] == ["Ada Lum", "Lum"]
        assert [result.sentence(index) for index in range(2)] == ["Ada Lum was born in Port Bly.", "Lum left in 1951."]
        assert 0 < len({(t.head, t.tail) for t in result.triples}) <= 2
    # Lum and 1951 are in one sentence, Port Bly and 1951 in none.
    evidence = {frozenset((t.head, t.tail)): t.evidence for t in first.triples}
    assert all(evidence.get(frozenset(pair), found) == found for pair, found in (((0, 2), (1,)), ((1, 2), ())))
    (alone,) = extractor.extract(text)
    assert (alone.entities, alone.sentences) == (first.entities, first.sentences)
    assert (second.entities[0].type, second.entities[1].type) == ("PER", "LOC")
    assert next(extractor.extract({"text": "nothing"})).triples == ()
    with pytest.raises(UserError, match=r"documents: document 0 \('text 0'\): 2 breaches"):
        list(extractor.extract({"text": "a", "mentions": [1, 2]}))
    with pytest.raises(ConfigError, match="mentions-model has no effect"):
        RelationExtractor.load("runs/rcp/best", "runs/rc/best", mentions_model="large")


def test_candidates_are_those_of_the_proposer(project: Path) -> None:
    documents = list(Corpus.open("data/dev"))
    every = list(CandidateModel.load("runs/rcp/best", threshold=0.0).propose(documents))
    assert [[(c.head, c.tail) for c in row] for row in every] == [
        candidate_pairs(len(document.entities)) for document in documents
    ]
    best = list(CandidateModel.load("runs/rcp/best", 0.0, "cpu", top_k=1, batch_size=1).propose(documents))
    assert [row[0].probability for row in best] == pytest.approx(
        [max(c.probability for c in row) for row in every], rel=1e-5
    )
    assert (project / "runs/rcp/best" / FILE).is_file()
    assert len(list(CandidateModel.load("runs/rcp/best", "f1").propose(documents[0]))) == 1


def test_scores_from_memory_and_files_are_equal(tmp_path: Path) -> None:
    dev = Corpus.open("data/dev")
    gold = [Prediction(d.title, label.head, label.tail, label.relation) for d in dev for label in d.labels or ()]
    half = gold[::2]
    write_predictions(half, tmp_path / "half.json")
    raw = json.loads((tmp_path / "half.json").read_text())
    documents = [to_json(document) for document in dev]
    (tmp_path / "dev.json").write_text(json.dumps(documents))
    expected = score(dev, half).as_json()
    assert expected["recall"] == pytest.approx(100 * len(half) / len(gold))
    assert score("data/dev", tmp_path / "half.json").as_json() == expected
    for found in (score(documents, raw), score(tmp_path / "dev.json", half), score(iter(dev), iter(half))):
        assert (found.all, found.intra, found.inter) == (score(dev, half).all, score(dev, half).intra, found.inter)
    assert score(dev, half, train_facts="data/train").ign_f1 is not None
    assert score(dev, []).all.f1 == 0.0
    relations = tmp_path / "relations.json"
    relations.write_text(json.dumps(dict(zip(dev.relations.ids, dev.relations.names, strict=True))))
    assert score(documents, half, relations=relations).all == score(documents, half, relations=dev.relations).all


def test_documents_without_predictions_count_against_recall_in_memory() -> None:
    dev = Corpus.open("data/dev")
    first = [Prediction(dev[0].title, label.head, label.tail, label.relation) for label in dev[0].labels or ()]
    assert score(dev, first).documents == len(dev)
    assert score(dev, first, missing="skip").all.recall == 100.0


def test_training_from_a_file_and_from_options(project: Path) -> None:
    config = RcpConfig.model_validate(
        {
            "data": {"train": "data/train", "dev": "data/dev"},
            "model": {"encoder": "embedded:tiny-encoder"},
            "train": {"batch_size": 2, "max_steps": 1, "precision": "fp32"},
        }
    )
    first = train("configs/rcp/tiny.yaml", run="from-file", train__max_steps=2)
    second = train(config, run="from-options", train__max_steps=2)
    assert first.folder == Path("runs/from-file")
    assert first.best.is_dir()
    measured = ("seconds", "use")
    assert {name: value for name, value in first.result.items() if name not in measured} == {
        name: value for name, value in second.result.items() if name not in measured
    }
    assert train(config, run="from-options", train__max_steps=2).result == second.result
    assert len(list(CandidateModel.load(second.best, 0.0).propose(Corpus.open("data/dev")))) == 4


@pytest.mark.parametrize(
    ("name", "stage"),
    [("rcp/docred", "rcp"), ("rcp/redocred-plus", "rcp"), ("rc/docred-7b", "rc"), ("direct/docred-7b", "rc")],
)
def test_the_stage_follows_from_the_options(name: str, stage: str) -> None:
    assert api._stage_of(ROOT / "configs" / f"{name}.yaml", {}) == stage


def test_mistakes_say_what_to_do(tmp_path: Path, extractor: RelationExtractor) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text("train: {epochs: 1}\n")
    with pytest.raises(ConfigError, match="may be a config of RCP or of RC"):
        train(plain)
    with pytest.raises(ConfigError, match="unknown option"):
        train(RcConfig(), lora__rank=3)
    with pytest.raises(UserError, match="did you mean runs/rcp/best"):
        CandidateModel.load("runs/rcp")
    with pytest.raises(UserError, match=r"what launch/rc\.py trained"):
        RelationExtractor.load("runs/rc/best", "runs/rc/best")
    with pytest.raises(ConfigError, match="neither a probability"):
        RelationExtractor.load("runs/rcp/best", "runs/rc/best", threshold="often")
    with pytest.raises(ConfigError, match="relation-threshold has no effect"):
        RelationExtractor.load("runs/rcp/best", "runs/rc/best", relation_threshold=0.2)
    with pytest.raises(DocumentError, match=r"documents: document 1 .*title is missing"):
        list(extractor.extract([to_json(Corpus.open("data/dev")[0]), {"sents": []}]))
    with pytest.raises(UserError, match='predictions: prediction 0: lacks "title"'):
        score(Corpus.open("data/dev"), [{"h_idx": 0}])
