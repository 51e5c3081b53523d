"""The relation schema in training, evaluation and inference of RCP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ProposeConfig, RcpConfig
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.predictions import read_predictions
from lmrc.corpus.relation_schema import RelationSchema, entity_types
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.predict import RELATION_SCHEMA, ProposeInference, Proposer
from lmrc.rcp.task import RcpTask
from lmrc.rcp.thresholds import MIN_LOGIT
from lmrc.training.distributed import ALONE
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

RELATIONS = RelationSet(("P17", "P131", "P27"), ("country", "located in", "citizen of"))


def labelled(document: Document, *labels: tuple[int, int, str]) -> Document:
    return Document(document.title, document.sentences, document.entities, tuple(Label(*label) for label in labels))


# Entities have the types PER, ORG, MISC and PER.
TRAIN = [
    labelled(tiny.document(30, [1, 2, 1], seed=1), (0, 1, "P27"), (1, 2, "P131"), (0, 2, "P17")),
    labelled(tiny.document(30, [2, 1, 1, 1], seed=2), (0, 1, "P27"), (1, 2, "P131"), (3, 1, "P17")),
]
DEV = [
    labelled(tiny.document(25, [1, 1, 2], seed=3), (0, 1, "P27"), (1, 0, "P131"), (0, 1, "P17")),
    labelled(tiny.document(20, [3], seed=4)),
    labelled(tiny.document(20, [1, 2, 1, 1], seed=5), (3, 1, "P27"), (1, 2, "P131")),
]
# Seen twice: P27 from PER to ORG, and P131 from ORG to MISC.
LEARNT = {"P17": {"types": []}, "P131": {"types": [["ORG", "MISC"]]}, "P27": {"types": [["PER", "ORG"]]}}


@pytest.fixture
def make_task(config: RcpConfig, make_corpus: MakeCorpus) -> Callable[..., RcpTask]:
    made = []

    def make(minimum: int, weight: float = 1.0) -> RcpTask:
        made.append(1)
        training = {"relation_weight": weight, "schema_minimum": minimum}
        changed = config.model_copy(update={"train": config.train.model_copy(update=training)})
        torch.manual_seed(66)
        names = (f"train-{len(made)}", f"dev-{len(made)}")
        corpora = [make_corpus(*given, RELATIONS) for given in zip(names, (TRAIN, DEV), strict=True)]
        task = RcpTask(changed, *corpora)
        head = task._model.relation_head
        if head is not None:
            # The logits of all relations vary, and many are above `MIN_LOGIT`.
            torch.nn.init.normal_(head.relation.weight, std=1.0)
        return task

    return make


@torch.no_grad()
def slow_relation_f1(task: RcpTask, admitted: dict[str, list[tuple[str, str]]] | None) -> float:
    """Return the best F1 over thresholds of the triples of DEV, one by one."""
    model = task._model.eval()
    scored, total = [], 0
    for index, document in enumerate(DEV):
        types = [entity[0].type for entity in document.entities]
        gold = {(label.head, label.tail, label.relation) for label in document.labels or ()}
        total += len(gold)
        _, logits = model.split_outputs(model(task._collate([task._dev[index]])))
        assert logits is not None
        for (head, tail), row in zip(candidate_pairs(len(types)), logits.tolist(), strict=True):
            for relation, logit in zip(RELATIONS, row, strict=True):
                if logit >= MIN_LOGIT and (admitted is None or (types[head], types[tail]) in admitted[relation]):
                    scored.append((logit, (head, tail, relation) in gold))
    best = 0.0
    for threshold, _ in scored:
        found = [right for logit, right in scored if logit >= threshold]
        best = max(best, 200 * sum(found) / (len(found) + total))
    return best


def test_schema_is_learnt_from_the_training_corpus(
    make_task: Callable[..., RcpTask], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(2)
    # Five of the 18 pairs of TRAIN have one admissible relation.
    train, dev = (message for message in caplog.messages if "by the relation schema" in message)
    assert "13 of 18 pairs have no admissible relation" in train and train.startswith("train: ")
    assert "2 of 6 gold triples are not admissible" in train and "2 of 5 gold triples are not admissible" in dev
    weights = {name: parameter.detach() for name, parameter in task.model.named_parameters()}
    task.export(tmp_path / "best", weights)
    assert json.loads((tmp_path / "best" / RELATION_SCHEMA).read_text()) == LEARNT
    for number, other in enumerate((make_task(0), make_task(2, weight=0.0))):
        other.export(tmp_path / str(number), {name: p.detach() for name, p in other.model.named_parameters()})
        assert not (tmp_path / str(number) / RELATION_SCHEMA).exists()


def test_evaluation_leaves_out_inadmissible_triples(make_task: Callable[..., RcpTask]) -> None:
    admitted = {relation: [tuple(pair) for pair in LEARNT[relation]["types"]] for relation in RELATIONS}
    plain, task = make_task(0), make_task(2)
    with torch.no_grad():
        before, after = plain.evaluate(plain.model.eval(), ALONE), task.evaluate(task.model.eval(), ALONE)
    assert before["relation_f1"] == pytest.approx(slow_relation_f1(plain, None))
    assert after["relation_f1"] == pytest.approx(slow_relation_f1(task, admitted))
    assert after["relation_f1"] != before["relation_f1"]
    del before["relation_f1"], after["relation_f1"]
    assert before == after


@pytest.fixture
def model(tmp_path: Path) -> RelationCandidateModel:
    model = RelationCandidateModel(tiny.encoder("bert"), 80, relations=RELATIONS.ids)
    assert model.relation_head is not None
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    torch.nn.init.normal_(model.relation_head.relation.weight, std=1.0)
    torch.nn.init.constant_(model.relation_head.relation.bias, 0.0)
    model.save(tmp_path / "rcp", tiny.tokenizer("bert"))
    return model


@pytest.fixture
def propose(model: RelationCandidateModel, make_corpus: MakeCorpus, tmp_path: Path) -> Callable[..., Path]:
    corpus = make_corpus("corpus", [*TRAIN, *DEV], RELATIONS)

    def propose(name: str, **options: Any) -> Path:
        """Run propose, write its result beside the candidates, and return the run folder."""
        given = {"corpus": corpus.folder, "rcp": tmp_path / "rcp", "threshold": 0.4, "relation_threshold": 0.3}
        run = {"name": name, "folder": tmp_path / "runs"}
        inference = ProposeInference(ProposeConfig.model_validate({"run": run, **given, **options}))
        result = inference.finish(iter(inference.rows(range(len(corpus)))))
        folder = tmp_path / "runs" / name
        (folder / "result.json").write_text(json.dumps({**result, "identity": inference.identity}))
        return folder

    return propose


def found(folder: Path) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the log-odds of candidates as (title, head, tail, relation, logit), the triples, and the result."""
    candidates = Candidates.open(folder / "candidates")
    logits = [
        (candidates.title(index), candidate.head, candidate.tail, *relation)
        for index in range(len(candidates))
        for candidate in candidates[index]
        for relation in candidate.relations
    ]
    triples = [(p.title, p.head, p.tail, p.relation, p.score) for p in read_predictions(folder / "predictions.json")]
    return logits, triples, json.loads((folder / "result.json").read_text())


def test_inadmissible_relations_get_no_log_odds(
    propose: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the schema of the model, which a schema of the user replaces."""
    types = {document.title: entity_types(document) for document in (*TRAIN, *DEV)}
    results = []

    def admits(rules: dict[str, Any], triple: Any) -> bool:
        title, head, tail, relation, _ = triple
        return [types[title][head], types[title][tail]] in rules[relation]["types"]

    logits, triples, result = found(propose("plain"))
    assert "inadmissible" not in result and "relation schema" not in caplog.text
    results.append(result["identity"])
    pairs = [["MISC", "PER"], ["PER", "PER"]]
    own = {"P17": {"types": pairs}, "P131": {"types": [["ORG", "ORG"]]}, "P27": LEARNT["P27"]}
    RelationSchema.of_json(LEARNT, RELATIONS, "s").write(tmp_path / "rcp" / RELATION_SCHEMA)
    (tmp_path / "own.json").write_text(json.dumps(own))
    for rules, options in ((LEARNT, {}), (own, {"schema": tmp_path / "own.json"})):
        new_logits, new_triples, result = found(propose(f"with-{len(results)}", **options))
        assert new_logits == [triple for triple in logits if admits(rules, triple)] != []
        assert new_triples == [triple for triple in triples if admits(rules, triple)] != []
        assert result["inadmissible"] == len(triples) - len(new_triples) > 0
        assert f"; {result['inadmissible']} left out, which the relation schema does not admit" in caplog.text
        results.append(result["identity"])
    # The pairs themselves stay.
    plain, other = (Candidates.open(tmp_path / "runs" / name / "candidates") for name in ("plain", "with-1"))
    for index in range(len(plain)):
        assert [(c.head, c.tail, c.probability) for c in plain[index]] == [
            (c.head, c.tail, c.probability) for c in other[index]
        ]
    assert len(set(results)) == 3


def test_threshold_0_leaves_out_inadmissible_triples(propose: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(json.dumps(LEARNT))
    _, triples, _ = found(propose("all", relation_threshold=0))
    _, some, result = found(propose("some", relation_threshold=0, schema=tmp_path / "own.json"))
    # TRAIN and DEV have 18 ordered pairs each, and every pair has three relations.
    assert len(triples) == 3 * 36
    assert result["inadmissible"] == len(triples) - len(some)
    assert all(np.isfinite(score) and score > 0 for *_, score in some)


def test_extraction_uses_the_schema_of_the_model(propose: Callable[..., Path], tmp_path: Path) -> None:
    RelationSchema.of_json(LEARNT, RELATIONS, "s").write(tmp_path / "rcp" / RELATION_SCHEMA)
    _, triples, _ = found(propose("run"))
    proposer = Proposer(tmp_path / "rcp", 0.4, None, 8, relation_threshold=0.3)
    extracted = [len(proposal.triples) for proposal in proposer.propose([*TRAIN, *DEV])]
    assert sum(extracted) == len(triples)


def test_unusable_schemas_are_refused(propose: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text('{"P1": {}}')
    with pytest.raises(UserError, match=r"own\.json: unknown relation 'P1'; did you mean P17\?"):
        propose("run", schema=file)
    RelationCandidateModel(tiny.encoder("bert"), 80).save(tmp_path / "plain", tiny.tokenizer("bert"))
    with pytest.raises(ConfigError, match=r"plain has no relation head: leave it out, or train with train\.relation_w"):
        ProposeInference(
            ProposeConfig.model_validate({"corpus": tmp_path / "corpus", "rcp": tmp_path / "plain", "schema": file})
        )
    (tmp_path / "rcp" / RELATION_SCHEMA).write_text("[]")
    with pytest.raises(UserError, match=rf"{RELATION_SCHEMA}: expected an object"):
        propose("run")
