from __future__ import annotations

import pytest
import torch

from lmrc.config.schema import DecodeOptions, PromptKind, PromptOptions
from lmrc.rc.decoding.constrained import Request, decode
from lmrc.rc.decoding.generate import generate
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.parsing import parse
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS


def queries(learnt: Learnt, kind: PromptKind) -> list[Query]:
    """Of unequal length, with one to three pairs."""
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    pairs = [[(0, 1), (1, 2)], [(0, 1)], [(0, 1), (1, 0)]]
    pairs[0] += [(2, 0)]
    return [
        query
        for index, (document, asked) in enumerate(zip(DOCUMENTS, pairs, strict=True))
        for query in builder.build(index, document, asked)
    ]


def grammar_of(learnt: Learnt, query: Query, kind: PromptKind) -> Grammar:
    return Grammar(query, DOCUMENTS[query.document], RELATIONS, kind, learnt.task.tokenizer)


def one_by_one(learnt: Learnt, query: Query, kind: PromptKind) -> list[int]:
    """No cache, no batch, no runs of tokens: the whole text through the model for each token."""
    ids = prompt_ids(query.prompt, learnt.task.tokenizer)
    answer = PartialAnswer(grammar_of(learnt, query, kind))
    while not answer.ended and len(answer.ids) < query.answer_room:
        with torch.no_grad():
            logits = learnt.task.model(input_ids=torch.tensor([ids + answer.ids])).logits[0, -1]
        forbidden = torch.full_like(logits, float("-inf"))
        allowed = answer.allowed()
        forbidden[allowed] = 0.0
        answer.write(int((logits + forbidden).argmax()))
    return answer.ids


def requests(learnt: Learnt, asked: list[Query], kind: PromptKind) -> list[Request]:
    return [
        Request(prompt_ids(query.prompt, learnt.task.tokenizer), grammar_of(learnt, query, kind), query.answer_room)
        for query in asked
    ]


@pytest.mark.parametrize(("rows", "shared"), [(3, False), (2, True), (1, True)])
@pytest.mark.parametrize("kind", ["rc", "direct"])
def test_equals_one_token_after_another(
    learnt: Learnt, learnt_direct: Learnt, kind: PromptKind, rows: int, shared: bool
) -> None:
    model = learnt if kind == "rc" else learnt_direct
    asked = queries(model, kind)
    wanted = [one_by_one(model, query, kind) for query in asked]
    build = QueryBuilder(model.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    beginning = PrefixCache(build.beginning() if shared else [])
    found = dict(decode(model.task.model, requests(model, asked, kind), rows, beginning))
    assert [found[number].ids for number in range(len(asked))] == wanted
    assert len({tuple(ids) for ids in wanted}) == len(wanted)


def test_every_pair_is_answered_and_nothing_else_is_said(learnt: Learnt) -> None:
    """Also where the model has never seen the document: no failure of any kind is possible."""
    asked = queries(learnt, "rc")
    answers = generate(
        learnt.task.model,
        learnt.task.tokenizer,
        asked,
        DecodeOptions(batch_size=2),
        lambda query: grammar_of(learnt, query, "rc"),
        PrefixCache([]),
    )
    for query, generation in zip(asked, answers, strict=True):
        assert generation.finished
        parsed = parse(generation.text, DOCUMENTS[query.document], query.pairs, RELATIONS)
        assert not +parsed.failures
        assert {(triple.head, triple.tail) for triple in parsed.triples} == set(query.pairs)


def test_an_answer_stops_at_the_line_for_which_there_is_no_more_room(learnt: Learnt) -> None:
    query = queries(learnt, "rc")[0]
    (request,) = requests(learnt, [query], "rc")
    tokenizer = learnt.task.tokenizer
    whole = one_by_one(learnt, query, "rc")
    text = tokenizer.decode(whole, skip_special_tokens=True)
    beginnings = ["\n".join(text.split("\n")[:lines]) for lines in range(text.count("\n") + 1)]
    assert len(beginnings) > 2
    for room in (1, 2, 7, 30, len(whole) - 2, len(whole) - 1):
        ((_, answer),) = decode(learnt.task.model, [request._replace(max_tokens=room)], 1, PrefixCache([]))
        said = tokenizer.decode(answer.ids, skip_special_tokens=True)
        fitting = [beginning for beginning in [*beginnings, text] if len(tokenizer.encode(beginning)) <= room]
        assert said == fitting[-1]
        parsed = parse(said, DOCUMENTS[query.document], query.pairs, RELATIONS)
        assert parsed.failures["malformed"] == 0
