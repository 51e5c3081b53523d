"""Tests of mode score against forward passes over whole texts, one possible line at a time."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from lmrc.config.schema import DecodeOptions, PromptKind, PromptOptions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.rc.decoding import scoring
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.hf_backend import LocalBackend
from lmrc.rc.decoding.scoring import scores_of_relations
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from lmrc.rc.prompts.templates import Pair
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS, offered_relations, slow_probability, typed, whole_answers

LINES = [(0, (10,)), (1, (11,))]
ASKED = [[(0, 1), (1, 2), (2, 0)], [(0, 1)], [(0, 1), (1, 0)]]


def queries(learnt: Learnt, kind: PromptKind) -> list[Query]:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    return [
        query
        for index, (document, asked) in enumerate(zip(DOCUMENTS, ASKED, strict=True))
        for query in builder.build(index, document, asked)
    ]


def grammar_of(learnt: Learnt, query: Query, kind: PromptKind) -> Grammar:
    return Grammar(query, DOCUMENTS[query.document], RELATIONS, kind, learnt.task.tokenizer)


def log_probability(learnt: Learnt, before: list[int], line: tuple[int, ...], lines: list[tuple[int, ...]]) -> float:
    """Return the log probability of a line after `before`, normalized over the tokens that continue a possible line."""
    total = 0.0
    for index, token in enumerate(line):
        next_tokens = sorted({other[index] for other in lines if other[:index] == line[:index] and len(other) > index})
        if len(next_tokens) == 1:
            continue
        ids = torch.tensor([[*before, *line[:index]]])
        with torch.no_grad():
            logits = learnt.task.model(input_ids=ids).logits[0, -1].double()
        total += torch.log_softmax(logits[next_tokens], 0)[next_tokens.index(token)].item()
    return total


def slow_scores(learnt: Learnt, query: Query, kind: PromptKind) -> list[list[float]]:
    """Compute the scores by their definition, without batches and caches."""
    grammar = grammar_of(learnt, query, kind)
    before = prompt_ids(query.prompt, learnt.task.tokenizer)
    scores_by_pair = []
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
            probabilities = {
                relation: math.exp(log_probability(learnt, before + written, line, lines))
                for relation, line in options
                if 0 <= relation < len(RELATIONS)
            }
            for relation, probability in probabilities.items():
                scores[relation] += chain * probability
            if sum(probabilities.values()) < 0.5:
                break
            last = max(probabilities, key=lambda relation: probabilities[relation])
            chain *= probabilities[last]
            written += dict(options)[last]
        scores_by_pair.append(scores)
    return scores_by_pair


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["rc", "direct"])
def test_scores_equal_those_of_single_lines(
    learnt: Learnt, learnt_direct: Learnt, kind: PromptKind, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learnt if kind == "rc" else learnt_direct
    asked = queries(model, kind)
    builder = QueryBuilder(model.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    if shared:
        monkeypatch.setattr(scoring, "_MAX_LOGIT_ROWS", 8)  # More than one pass.
    scores_by_query = scoring.relation_scores(
        model.task.model.eval(),
        [prompt_ids(query.prompt, model.task.tokenizer) for query in asked],
        [grammar_of(model, query, kind) for query in asked],
        PrefixCache(builder.shared_prefix() if shared else []),
    )
    for query, scores_by_pair in zip(asked, scores_by_query, strict=True):
        for mine, expected in zip(scores_by_pair, slow_scores(model, query, kind), strict=True):
            assert mine == pytest.approx(expected, abs=1e-4)
            assert all(0 <= score <= 1 + 1e-6 for score in mine)


@pytest.mark.parametrize("merges_newlines", [False, True])
@pytest.mark.parametrize("asked", [[(0, 1), (1, 2)], [(1, 2)]])
def test_scores_equal_those_of_whole_answers(
    learnt: Learnt, learnt_newline: Learnt, asked: list[Pair], merges_newlines: bool
) -> None:
    """All answers are tokenized as in training, whether their newlines merge with the lines or not."""
    learnt = learnt_newline if merges_newlines else learnt
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    (query,) = builder.build(0, DOCUMENTS[0], asked)
    prompt, model = prompt_ids(query.prompt, learnt.task.tokenizer), learnt.task.model.eval()
    (scores,) = scoring.relation_scores(model, [prompt], [grammar_of(learnt, query, "rc")], PrefixCache([]))
    for pair in range(len(asked)):
        # Each pair is scored as if it were the first one.
        answers = whole_answers(learnt.task.tokenizer, "rc", DOCUMENTS[0], asked[pair:])
        expected, start, before = [0.0] * len(RELATIONS), tuple[str, ...](), 1.0
        while True:
            follow = [
                slow_probability(
                    model,
                    prompt,
                    {ids: chosen[: len(start) + 1] == (*start, id_) for ids, chosen in answers.items()},
                )
                for id_ in RELATIONS.ids
            ]
            expected = [score + more for score, more in zip(expected, follow, strict=True)]
            if sum(follow) < 0.5 * before:
                break
            before = max(follow)
            start = (*start, RELATIONS.ids[follow.index(before)])
        assert scores[pair] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("merges_newlines", [False, True])
def test_scores_with_a_schema_are_shared_among_the_admissible_relations(
    learnt: Learnt, learnt_newline: Learnt, merges_newlines: bool
) -> None:
    """Score four pairs: one has two admissible relations, one has a single one, and two are offered all."""
    learnt = learnt_newline if merges_newlines else learnt
    rules = {id_: {"types": []} for id_ in RELATIONS.ids}
    rules |= {"P17": {"types": [["PER", "LOC"], ["LOC", "LOC"]]}, "P361": {"types": [["PER", "LOC"]]}}
    schema = RelationSchema.of_json(rules, RELATIONS, "schema.json")
    doc = typed(DOCUMENTS[0], ["PER", "LOC", "LOC"])
    asked = [(0, 1), (1, 0), (1, 2), (2, 0)]
    offered = [offered_relations(schema, doc, pair) for pair in asked]
    assert offered == [["P17", "P361"], [*RELATIONS.ids], ["P17"], [*RELATIONS.ids]]
    (query,) = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions()).build(0, doc, asked)
    prompt, model = prompt_ids(query.prompt, learnt.task.tokenizer), learnt.task.model.eval()
    grammar = Grammar(query, doc, RELATIONS, "rc", learnt.task.tokenizer, schema)
    (scores,) = scoring.relation_scores(model, [prompt], [grammar], PrefixCache([]))
    for pair, relations in enumerate(offered):
        by_relation = dict(zip(RELATIONS.ids, scores[pair], strict=True))
        assert {id_ for id_, score in by_relation.items() if score} == {*relations}
        assert sum(by_relation.values()) >= 1 - 1e-6
    assert scores[2][0] == 1.0
    for pair in (0, 2):
        answers = whole_answers(learnt.task.tokenizer, "rc", doc, [asked[pair]], schema)
        first = {
            id_: slow_probability(model, prompt, {ids: chosen[0] == id_ for ids, chosen in answers.items()})
            for id_ in offered[pair]
        }
        # The most probable first relation has no other way to be in the answer.
        best = max(first, key=lambda id_: first[id_])
        assert scores[pair][RELATIONS.index(best)] == pytest.approx(first[best], abs=1e-4)


def test_memorized_triples_have_high_scores(learnt: Learnt) -> None:
    """Including the second relation of a pair, which is never written first."""
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    (query,) = builder.build(0, DOCUMENTS[0], [(0, 1), (1, 2)])
    backend = LocalBackend(
        lambda: learnt.task.model,
        learnt.task.tokenizer,
        PromptOptions(),
        DecodeOptions(mode="score"),
        RELATIONS,
        lambda query: DOCUMENTS[query.document],
        builder.shared_prefix(),
    )
    (result,) = backend.answer([query])
    high = {tuple(scored.triple) for scored in result.triples if (scored.score or 0) >= 0.5}
    assert {(0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")} <= high
    assert result.finished and result.text == ""


def test_number_of_passes_does_not_depend_on_pairs(learnt: Learnt) -> None:
    """One pass for the prompt, one for the first relations, and one for each further relation of any pair."""
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


def test_rounded_probabilities_do_not_add_up_to_more_than_one() -> None:
    """The second relation is almost never named first, and surely named second."""
    grammar = SimpleNamespace(pair_count=1, relation_count=2, next_lines=lambda _, named: LINES[len(named) :])
    logs = iter([[0.0, math.log(1.5e-8)], [0.0], []])
    assert scores_of_relations([cast(Grammar, grammar)], lambda _: [[next(logs)]]) == [[[1.0, 1.0]]]
