from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from lmrc.common.errors import UserError
from lmrc.config.schema import ProposeConfig
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.predictions import read_predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.inference.protocol import Inference
from lmrc.rcp.data.tokenization import DocumentTokenizer, EncodedDocument
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.predict import PairScores, ProposalStats, ProposeInference, score_pairs
from lmrc.rcp.thresholds import MIN_LOGIT, calibrate, calibrate_relations, save
from tests.evaluation.examples import candidate_counts
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

# Lengths vary, so that batches sorted by length would show. Documents 3, 9, ... have one entity.
DOCUMENTS = [
    tiny.document(
        words=10 + (17 * n) % 70,
        entities=[1, 2, 1, 3, 1][: 1 if n % 6 == 3 else 2 + n % 4],
        seed=n,
        labels=None if n % 5 == 4 else () if n % 6 == 3 else ((0, 1), (1, 0)),
    )
    for n in range(40)
]
UNIT = 6
UNITS = [range(start, min(start + UNIT, len(DOCUMENTS))) for start in range(0, len(DOCUMENTS), UNIT)]
RELATIONS = RelationSet(("P17", "P131", "P27"), ("country", "located in", "citizen of"))
MakeConfig = Callable[..., ProposeConfig]


@pytest.fixture
def model() -> RelationCandidateModel:
    model = RelationCandidateModel(tiny.encoder("bert"), 80)
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    return model.eval()


@pytest.fixture
def make_config(model: RelationCandidateModel, make_corpus: MakeCorpus, tmp_path: Path) -> MakeConfig:
    corpus = make_corpus("corpus", DOCUMENTS)
    model.save(tmp_path / "rcp", tiny.tokenizer("bert"))

    def make(**options: object) -> ProposeConfig:
        run = {"name": "proposed", "folder": tmp_path / "runs"}
        given = {"run": run, "corpus": corpus.folder, "rcp": tmp_path / "rcp", "batch_size": 2, **options}
        return ProposeConfig.model_validate(given)

    return make


def all_rows(inference: Inference) -> list[dict[str, Any]]:
    return [row for unit in UNITS for row in inference.rows(unit)]


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_candidates_and_counts(model: RelationCandidateModel, make_config: MakeConfig, threshold: float) -> None:
    config = make_config(threshold=threshold)
    inference = ProposeInference(config)
    assert inference.documents == len(DOCUMENTS)
    result = inference.finish(iter(all_rows(inference)))

    candidates = Candidates.open(config.run.folder / "proposed" / "candidates")
    candidates.check(Corpus.open(config.corpus))
    assert candidates.threshold == threshold
    assert [candidates.title(index) for index in range(len(candidates))] == [document.title for document in DOCUMENTS]
    tokenizer = DocumentTokenizer(tiny.tokenizer("bert"), model.max_length)
    for document, proposed in zip(DOCUMENTS, candidates, strict=True):
        with torch.no_grad():
            outputs = model(model.collate([tokenizer.encode(document)]))
            alone = torch.sigmoid(model.classifier.logits(outputs)).tolist()
        pairs = candidate_pairs(len(document.entities))
        expected = {pair: p for pair, p in zip(pairs, alone, strict=True) if p >= threshold}
        assert {(c.head, c.tail): c.probability for c in proposed} == pytest.approx(expected, abs=1e-5)

    labelled = [document for document in DOCUMENTS if document.labels is not None]
    pairs = [
        (document.title, c.head, c.tail)
        for document, proposed in zip(DOCUMENTS, candidates, strict=True)
        for c in proposed
        if document.labels is not None
    ]
    assert result["documents"] == len(DOCUMENTS)
    assert result["pairs"] == sum(len(d.entities) * (len(d.entities) - 1) for d in DOCUMENTS)
    assert result["kept"] == sum(map(len, candidates))
    assert result["gold"] == sum(len(relations_by_pair(document)) for document in labelled)
    assert result["cut_mentions"] == sum(tokenizer.encode(document).cut_mentions for document in DOCUMENTS) > 0
    assert result["f1"] == pytest.approx(candidate_counts(labelled, pairs).f1)
    assert result["recall"] == {0.0: 100.0, 1.0: 0.0}.get(threshold, result["recall"])
    if threshold == 0.5:
        assert 0 < result["kept"] < result["pairs"]
        assert 0 < result["correct"] < result["gold"]


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k(make_config: MakeConfig, top_k: int) -> None:
    everything = all_rows(ProposeInference(make_config(threshold=0)))
    for whole, few in zip(everything, all_rows(ProposeInference(make_config(threshold=0, top_k=top_k))), strict=True):
        ranked = sorted(whole["candidates"], key=lambda candidate: -candidate["probability"])[:top_k]
        assert few["candidates"] == sorted(ranked, key=lambda candidate: (candidate["head"], candidate["tail"]))
        assert few["pairs"] == whole["pairs"]


def test_threshold_for_a_recall_on_dev(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(threshold="recall=0.8")
    with pytest.raises(UserError, match=r"no calibration\.json"):
        ProposeInference(config)
    save(config.rcp, calibrate(np.array([0.9, 0.7, 0.1]), np.array([True, True, False])))
    inference = ProposeInference(config)
    inference.finish(iter(all_rows(inference)))
    candidates = Candidates.open(config.run.folder / "proposed" / "candidates")
    assert candidates.threshold == pytest.approx(0.4)
    assert all(candidate.probability >= 0.4 for document in candidates for candidate in document)
    assert "threshold 0.4" in caplog.text
    assert inference.identity != ProposeInference(make_config(threshold="f1", top_k=2)).identity


def test_pair_at_the_threshold_is_a_candidate(make_config: MakeConfig) -> None:
    (everything,) = ProposeInference(make_config(threshold=0.0)).rows(range(1))
    best = max(everything["candidates"], key=lambda candidate: candidate["probability"])
    (row,) = ProposeInference(make_config(threshold=best["probability"])).rows(range(1))
    assert row["candidates"] == [best]


def test_several_workers_write_the_same_files(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Process units in any order on several instances, and finish twice."""
    inference = ProposeInference(make_config(threshold=0.4))
    result = inference.finish(iter(all_rows(inference)))
    folder = inference._config.run.folder / "proposed" / "candidates"
    expected, (line,) = written(folder), caplog.messages
    assert line.startswith(f"{folder}: {result['kept']} of {result['pairs']} pairs kept")

    workers = [ProposeInference(make_config(threshold=0.4)) for _ in range(3)]
    parts = {}
    for unit in random.Random(1).sample(range(len(UNITS)), len(UNITS)):
        worker = workers[unit % 3]
        parts[unit] = pa.Table.from_pylist(worker.rows(UNITS[unit]), schema=worker.schema)
    merged = pa.concat_tables(parts[unit] for unit in range(len(UNITS)))
    # Files of a killed attempt are replaced.
    (folder / "shard-00001.arrow").write_bytes(b"torn")
    for _ in range(2):
        caplog.clear()
        assert ProposeInference(make_config(threshold=0.4)).finish(iter(merged.to_pylist())) == result
        assert caplog.messages == [line]
        assert written(folder) == expected


def test_finish_does_not_load_the_model(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = all_rows(ProposeInference(make_config()))
    monkeypatch.setattr(RelationCandidateModel, "load", None)
    inference = ProposeInference(make_config())
    assert inference.finish(iter(rows))["documents"] == len(DOCUMENTS)
    with pytest.raises(TypeError):
        inference.rows(range(1))


def test_batch_size(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def spy(model: RelationCandidateModel, documents: list[EncodedDocument]) -> list[PairScores]:
        batches.append(len(documents))
        return score_pairs(model, documents)

    monkeypatch.setattr("lmrc.rcp.predict.score_pairs", spy)
    ProposeInference(make_config()).rows(range(7))
    assert batches == [2, 2, 2, 1]


def test_missing_rows_are_rejected(make_config: MakeConfig) -> None:
    inference = ProposeInference(make_config())
    with pytest.raises(ValueError, match="shorter"):
        inference.finish(iter(inference.rows(UNITS[0])))
    assert not (inference._config.run.folder / "proposed" / "candidates").exists()


def test_identity_covers_model_corpus_and_options(
    make_config: MakeConfig, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    identity = ProposeInference(make_config()).identity
    assert ProposeInference(make_config(run={"name": "other", "folder": tmp_path})).identity == identity
    # A temporary file of another process.
    (tmp_path / "rcp" / ".partial").write_text("")
    assert ProposeInference(make_config()).identity == identity
    others = {
        ProposeInference(make_config(threshold=0.3)).identity,
        ProposeInference(make_config(batch_size=3)).identity,
        ProposeInference(make_config(corpus=make_corpus("fewer", DOCUMENTS[:-1]).folder)).identity,
    }
    weights = bytearray((tmp_path / "rcp" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "rcp" / "model.safetensors").write_bytes(weights)
    others.add(ProposeInference(make_config()).identity)
    assert len(others | {identity}) == 5


@pytest.mark.parametrize(("trained", "native"), [("bf16", True), ("bf16", False), ("fp32", True)])
def test_inference_uses_the_precision_of_training(
    model: RelationCandidateModel,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trained: Literal["bf16", "fp32"],
    native: bool,
) -> None:
    monkeypatch.setattr("lmrc.training.precision.bf16_is_native", lambda: native)
    model.precision = trained
    model.save(tmp_path / "rcp", tiny.tokenizer("bert"))
    (row,) = ProposeInference(make_config(threshold=0.0)).rows(range(1))
    probability = [candidate["probability"] for candidate in row["candidates"]]

    documents = [DocumentTokenizer(tiny.tokenizer("bert"), model.max_length).encode(DOCUMENTS[0])]
    fp32, _ = score_pairs(model, documents)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bf16, _ = score_pairs(model, documents)[0]
    assert fp32.tolist() != bf16.tolist() == pytest.approx(fp32.tolist(), abs=0.05)
    assert probability == (bf16 if trained == "bf16" and native else fp32).tolist()
    warning = "bf16 is only emulated on this machine, and slow: RCP answers in fp32"
    assert (warning in caplog.text) == (trained == "bf16" and not native)


@pytest.fixture
def with_head(make_config: MakeConfig, tmp_path: Path) -> RelationCandidateModel:
    """Replace the saved model by one with a relation head, whose log-odds are on both sides of `MIN_LOGIT`."""
    torch.manual_seed(2)
    model = RelationCandidateModel(tiny.encoder("bert"), 80, relations=RELATIONS.ids)
    assert model.relation_head is not None
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    torch.nn.init.normal_(model.relation_head.relation.weight, std=1.0)
    torch.nn.init.constant_(model.relation_head.relation.bias, -3.0)
    model.save(tmp_path / "rcp", tiny.tokenizer("bert"))
    return model.eval()


def relation_logits(model: RelationCandidateModel, document: Document) -> dict[tuple[int, int], list[float]]:
    """Return the log-odds of the relations of each pair."""
    encoded = DocumentTokenizer(tiny.tokenizer("bert"), model.max_length).encode(document)
    with torch.no_grad():
        _, logits = model.split_outputs(model(model.collate([encoded])))
    assert logits is not None
    return dict(zip(candidate_pairs(len(document.entities)), logits.tolist(), strict=True))


def test_relations_of_candidates(with_head: RelationCandidateModel, make_config: MakeConfig) -> None:
    config = make_config(threshold=0.5, relation_threshold=0.5)
    inference = ProposeInference(config)
    inference.finish(iter(all_rows(inference)))
    count = 0
    for document, proposed in zip(
        DOCUMENTS, Candidates.open(config.run.folder / "proposed" / "candidates"), strict=True
    ):
        logits = relation_logits(with_head, document)
        for candidate in proposed:
            row = zip(RELATIONS.ids, logits[candidate.head, candidate.tail], strict=True)
            expected = [(relation, logit) for relation, logit in row if logit >= MIN_LOGIT]
            assert [relation for relation, _ in candidate.relations] == [relation for relation, _ in expected]
            assert [logit for _, logit in candidate.relations] == pytest.approx([x for _, x in expected], abs=1e-4)
            count += len(expected)
    assert count > 10


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0])
def test_triples_of_any_pair(
    with_head: RelationCandidateModel, make_config: MakeConfig, caplog: pytest.LogCaptureFixture, threshold: float
) -> None:
    """No pair is a candidate, and `top_k` does not limit the triples."""
    config = make_config(threshold=1.0, top_k=1, relation_threshold=threshold)
    inference = ProposeInference(config)
    result = inference.finish(iter(all_rows(inference)))
    assert result["kept"] == 0
    found = read_predictions(config.run.folder / "proposed" / "predictions.json")
    expected = {
        (document.title, *pair, relation): 1 / (1 + math.exp(-logit))
        for document in DOCUMENTS
        for pair, row in relation_logits(with_head, document).items()
        for relation, logit in zip(RELATIONS.ids, row, strict=True)
        if 1 / (1 + math.exp(-logit)) >= threshold
    }
    assert {(p.title, p.head, p.tail, p.relation): p.score for p in found} == pytest.approx(expected, abs=1e-5)
    assert len(found) == len(expected) == result["triples"]
    if threshold == 0.2:
        assert 0 < len(found) < result["pairs"] * len(RELATIONS)
    assert f"; {len(found)} triples by the relation head" in caplog.text


def test_relation_threshold_of_dev(with_head: RelationCandidateModel, make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(UserError, match="no threshold of the relation head"):
        ProposeInference(config)
    relations = calibrate_relations(np.array([0.0, -2.0], dtype=np.float32), np.array([True, False]), 0)
    save(config.rcp, {**calibrate(np.array([0.9]), np.array([True])), "relations": relations})
    inference = ProposeInference(config)
    rows = all_rows(inference)
    threshold = (1 / 2 + 1 / (1 + math.exp(2))) / 2
    scores = [triple["score"] for row in rows for triple in row["triples"]]
    assert scores and min(scores) >= threshold
    exact = all_rows(ProposeInference(make_config(relation_threshold=threshold)))
    assert rows == exact
    assert inference.identity != ProposeInference(make_config(relation_threshold=0.9)).identity


def test_workers_write_the_same_predictions(with_head: RelationCandidateModel, make_config: MakeConfig) -> None:
    """Process units in any order on several instances, through Arrow, and finish twice."""
    inference = ProposeInference(make_config(threshold=0.4, relation_threshold=0.3))
    result = inference.finish(iter(all_rows(inference)))
    folder = inference._config.run.folder / "proposed"
    predictions, candidates = (folder / "predictions.json").read_bytes(), written(folder / "candidates")
    assert result["triples"] > 10

    workers = [ProposeInference(make_config(threshold=0.4, relation_threshold=0.3)) for _ in range(3)]
    parts = {}
    for unit in random.Random(1).sample(range(len(UNITS)), len(UNITS)):
        worker = workers[unit % 3]
        parts[unit] = pa.Table.from_pylist(worker.rows(UNITS[unit]), schema=worker.schema)
    merged = pa.concat_tables(parts[unit] for unit in range(len(UNITS)))
    (folder / "predictions.json").write_bytes(b"torn")
    for _ in range(2):
        assert workers[0].finish(iter(merged.to_pylist())) == result
        assert (folder / "predictions.json").read_bytes() == predictions
        assert written(folder / "candidates") == candidates


def test_model_without_relation_head(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(threshold=0.0)
    inference = ProposeInference(config)
    rows = all_rows(inference)
    assert not any(row["triples"] for row in rows)
    result = inference.finish(iter(rows))
    folder = config.run.folder / "proposed"
    assert not any(candidate.relations for row in Candidates.open(folder / "candidates") for candidate in row)
    assert not (folder / "predictions.json").exists()
    assert "triples" not in result and "relation head" not in caplog.text
    for threshold in (0.5, "f1"):
        with pytest.raises(UserError, match=r"--relation-threshold has no effect: .*rcp has no relation head"):
            ProposeInference(make_config(relation_threshold=threshold))


def test_missing_model_is_rejected(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is no folder: give --rcp the best/ folder"):
        ProposeInference(make_config(rcp=tmp_path / "nothing"))
    assert not (tmp_path / "runs").exists()


def test_entities_of_unknown_types_are_counted(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config()
    inference = ProposeInference(config)
    assert inference.finish(iter(all_rows(inference)))["unknown_types"] == 0
    assert "unknown types" not in caplog.text

    typed = RelationCandidateModel(tiny.encoder("bert"), 80, entity_types=("ORG", "PER"))
    typed.save(tmp_path / "rcp", tiny.tokenizer("bert"))
    inference = ProposeInference(config)
    unknown = sum(entity[0].type == "MISC" for document in DOCUMENTS for entity in document.entities)
    assert inference.finish(iter(all_rows(inference)))["unknown_types"] == unknown > 0
    assert f"; {unknown} entities of unknown types; threshold" in caplog.text


def test_statistics_without_labels() -> None:
    assert str(ProposalStats(documents=2, pairs=10, kept=3)) == "3 of 10 pairs kept (30.0 %) in 2 documents"
    assert str(ProposalStats(documents=1, pairs=10, kept=3, cut_mentions=1)).endswith(
        "in 1 document; 1 mention beyond the maximum length"
    )
    assert "f1" not in ProposalStats(documents=2, pairs=10, kept=3).as_json()
