"""Scores of all relations against the LM run on whole texts, one possible line after another."""

from __future__ import annotations

import math

import pytest
import torch

from lmrc.config.schema import DecodeOptions, PromptKind, PromptOptions
from lmrc.rc.decoding import scoring
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.hf_backend import LocalBackend
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS

ASKED = [[(0, 1), (1, 2), (2, 0)], [(0, 1)], [(0, 1), (1, 0)]]


def queries(learnt: Learnt, kind: PromptKind) -> list[Query]:
    build = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    return [
        query
        for index, (document, asked) in enumerate(zip(DOCUMENTS, ASKED, strict=True))
        for query in build.build(index, document, asked)
    ]


def grammar_of(learnt: Learnt, query: Query, kind: PromptKind) -> Grammar:
    return Grammar(query, DOCUMENTS[query.document], RELATIONS, kind, learnt.task.tokenizer)


def log_probability(learnt: Learnt, before: list[int], line: tuple[int, ...], lines: list[tuple[int, ...]]) -> float:
    """Of a line behind `before`, each token among those with which some line goes on."""
    total = 0.0
    for place, token in enumerate(line):
        ways = sorted({other[place] for other in lines if other[:place] == line[:place] and len(other) > place})
        if len(ways) == 1:
            continue
        ids = torch.tensor([[*before, *line[:place]]])
        with torch.no_grad():
            logits = learnt.task.model(input_ids=ids).logits[0, -1].double()
        total += torch.log_softmax(logits[ways], 0)[ways.index(token)].item()
    return total


def slow_scores(learnt: Learnt, query: Query, kind: PromptKind) -> list[list[float]]:
    """The definition, straight from the grammar's readings."""
    grammar = grammar_of(learnt, query, kind)
    before = prompt_ids(query.prompt, learnt.task.tokenizer)
    found = []
    for pair in range(len(query.pairs)):
        scores = [0.0] * len(RELATIONS)
        written: list[int] = []
        chain, last = 1.0, None
        while True:
            options = (
                [(relation, line) for relation, line in enumerate(grammar.first_lines(pair))]
                if last is None
                else [(r.relation if r.pair == pair else -1, r.tokens) for r in grammar.after(pair, last)]
            )
            lines = [line for _, line in options]
            here = {
                relation: math.exp(log_probability(learnt, before + written, line, lines))
                for relation, line in options
                if 0 <= relation < len(RELATIONS)
            }
            for relation, probability in here.items():
                scores[relation] += chain * probability
            if sum(here.values()) < 0.5:
                break
            last = max(here, key=lambda relation: here[relation])
            chain *= here[last]
            written += dict(options)[last]
        found.append(scores)
    return found


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["rc", "direct"])
def test_equals_lines_weighed_one_by_one(
    learnt: Learnt, learnt_direct: Learnt, kind: PromptKind, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learnt if kind == "rc" else learnt_direct
    asked = queries(model, kind)
    build = QueryBuilder(model.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    if shared:
        monkeypatch.setattr(scoring, "_MAX_LOGIT_ROWS", 8)  # More than one pass.
    found = scoring.relation_scores(
        model.task.model.eval(),
        [prompt_ids(query.prompt, model.task.tokenizer) for query in asked],
        [grammar_of(model, query, kind) for query in asked],
        PrefixCache(build.beginning() if shared else []),
    )
    for query, of_query in zip(asked, found, strict=True):
        for mine, wanted in zip(of_query, slow_scores(model, query, kind), strict=True):
            assert mine == pytest.approx(wanted, abs=1e-4)
            assert all(0 <= score <= 1 + 1e-6 for score in mine)


def test_what_was_learnt_by_heart_has_the_high_scores(learnt: Learnt) -> None:
    """Also the second relation of a pair, which is never written first."""
    build = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    (query,) = build.build(0, DOCUMENTS[0], [(0, 1), (1, 2)])
    answering = LocalBackend(
        lambda: learnt.task.model,
        learnt.task.tokenizer,
        PromptOptions(),
        DecodeOptions(mode="score"),
        RELATIONS,
        lambda query: DOCUMENTS[query.document],
        build.beginning(),
    )
    (answered,) = answering.answer([query])
    high = {tuple(scored.triple) for scored in answered.triples if (scored.score or 0) >= 0.5}
    assert {(0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")} <= high
    assert answered.finished and answered.text == ""


def test_passes_do_not_grow_with_pairs(learnt: Learnt) -> None:
    """The prompt, a tree for the first relations, and one for each further relation of whichever pair."""
    (query, *_) = queries(learnt, "rc")
    passes = []
    handle = learnt.task.model.register_forward_hook(lambda *_: passes.append(1))
    (scores,) = scoring.relation_scores(
        learnt.task.model,
        [prompt_ids(query.prompt, learnt.task.tokenizer)],
        [grammar_of(learnt, query, "rc")],
        PrefixCache([]),
    )
    handle.remove()
    assert len(scores) == 3
    longest = max(sum(score >= 0.5 for score in of_pair) for of_pair in scores)
    assert len(passes) <= 2 + longest
