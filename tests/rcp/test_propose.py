from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmrc.config import ProposeConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.candidates import Candidate, Candidates
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.errors import UserError
from lmrc.evaluation.metrics import candidate_scores
from lmrc.rcp.markers import Encoder
from lmrc.rcp.model import RelationCandidateModel
from lmrc.rcp.propose import Proposed, proposals, run
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

# Lengths rise and fall, so that batches by length must be undone; documents 3, 9, ... have one entity.
DOCUMENTS = [
    tiny.document(
        words=10 + (17 * n) % 70,
        entities=[1, 2, 1, 3, 1][: 1 if n % 6 == 3 else 2 + n % 4],
        seed=n,
        labels=None if n % 5 == 4 else () if n % 6 == 3 else ((0, 1), (1, 0)),
    )
    for n in range(40)
]


@pytest.fixture
def model() -> RelationCandidateModel:
    model = RelationCandidateModel(tiny.encoder("bert"), 80)
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    return model.eval()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_proposals(model: RelationCandidateModel, threshold: float) -> None:
    tokenizer, proposed = tiny.tokenizer("bert"), Proposed()
    found = list(proposals(model, tokenizer, DOCUMENTS, threshold, batch_size=2, proposed=proposed))
    assert [title for title, _ in found] == [document.title for document in DOCUMENTS]

    encoder = Encoder(tokenizer, model.max_length)
    for document, (_, candidates) in zip(DOCUMENTS, found, strict=True):
        with torch.no_grad():
            alone = torch.sigmoid(model(model.collate([encoder.encode(document)]))).tolist()
        pairs = candidate_pairs(len(document.entities))
        expected = {pair: p for pair, p in zip(pairs, alone, strict=True) if p >= threshold}
        assert {(c.head, c.tail): c.probability for c in candidates} == pytest.approx(expected, abs=1e-5)
        assert candidates == sorted(candidates, key=lambda c: (c.head, c.tail))

    labelled = [document for document in DOCUMENTS if document.labels is not None]
    titles = {document.title for document in labelled}
    counts = candidate_scores(labelled, [(t, [(c.head, c.tail) for c in cs]) for t, cs in found if t in titles])
    assert proposed.documents == len(DOCUMENTS)
    assert proposed.pairs == sum(len(d.entities) * (len(d.entities) - 1) for d in DOCUMENTS)
    assert proposed.kept == sum(len(candidates) for _, candidates in found)
    assert proposed.gold == sum(len(relations_by_pair(document)) for document in labelled)
    result = proposed.as_json()
    assert result["f1"] == pytest.approx(counts.f1)
    assert result["recall"] == {0.0: 100.0, 1.0: 0.0}.get(threshold, result["recall"])
    if threshold == 0.5:
        assert 0 < proposed.kept < proposed.pairs
        assert 0 < proposed.correct < proposed.gold


def test_a_pair_at_the_threshold_is_a_candidate(model: RelationCandidateModel) -> None:
    tokenizer, documents = tiny.tokenizer("bert"), DOCUMENTS[:1]
    (_, everything), *_ = proposals(model, tokenizer, documents, 0.0, batch_size=1, proposed=Proposed())
    wanted = max(everything, key=lambda candidate: candidate.probability)
    (_, found), *_ = proposals(model, tokenizer, documents, wanted.probability, batch_size=1, proposed=Proposed())
    assert found == [wanted]


def test_documents_are_drawn_as_they_are_needed(model: RelationCandidateModel) -> None:
    drawn = 0

    def endless() -> object:
        nonlocal drawn
        while True:
            drawn += 1
            yield DOCUMENTS[drawn % 5]

    stream = proposals(model, tiny.tokenizer("bert"), endless(), 0.5, batch_size=2, proposed=Proposed())  # type: ignore[arg-type]
    next(stream)
    assert drawn <= 32


def test_run(model: RelationCandidateModel, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus("corpus", DOCUMENTS)
    model.save(tmp_path / "rcp", tiny.tokenizer("bert"))
    config = ProposeConfig.model_validate(
        {
            "run": {"name": "proposed", "folder": tmp_path / "runs"},
            "corpus": corpus.folder,
            "rcp": tmp_path / "rcp",
            "threshold": 0.4,
            "batch_size": 3,
        }
    )
    proposed = run(config)
    written = Candidates.open(tmp_path / "runs" / "proposed" / "candidates")
    written.check(Corpus.open(corpus.folder))
    assert written.threshold == 0.4
    expected = list(proposals(model, tiny.tokenizer("bert"), DOCUMENTS, 0.4, batch_size=3, proposed=Proposed()))
    assert [(written.title(index), list(written[index])) for index in range(len(written))] == expected
    assert proposed.kept == sum(len(candidates) for _, candidates in expected)
    assert isinstance(written[0][0], Candidate)


def test_run_without_a_model(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus("corpus", DOCUMENTS[:1])
    config = ProposeConfig.model_validate(
        {"run": {"name": "p", "folder": tmp_path}, "corpus": corpus.folder, "rcp": tmp_path / "nothing"}
    )
    with pytest.raises(UserError, match=r"no relation candidate model"):
        run(config)
    assert not (tmp_path / "p").exists()


def test_what_is_said_without_labels() -> None:
    assert str(Proposed(documents=2, pairs=10, kept=3)) == (
        "3 of 10 pairs kept (30.0 %) in 2 documents; 0 mentions beyond the longest length"
    )
    assert "f1" not in Proposed(documents=2, pairs=10, kept=3).as_json()
