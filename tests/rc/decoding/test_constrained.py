from __future__ import annotations

import pytest
import torch

from lmrc.config.schema import DecodeOptions, PromptKind, PromptOptions
from lmrc.rc.decoding.constrained import Request, decode
from lmrc.rc.decoding.generate import generate
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.parsing import parse
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS


def queries(learnt: Learnt, kind: PromptKind) -> list[Query]:
    """Return queries of different lengths, with one to three pairs."""
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
    """Decode without cache and batches: a forward pass over the whole text for each token."""
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


@pytest.mark.parametrize(("batch_size", "shared"), [(3, False), (2, True), (1, True)])
@pytest.mark.parametrize("kind", ["rc", "direct"])
def test_equals_token_by_token_decoding(
    learnt: Learnt, learnt_direct: Learnt, kind: PromptKind, batch_size: int, shared: bool
) -> None:
    model = learnt if kind == "rc" else learnt_direct
    asked = queries(model, kind)
    expected = [one_by_one(model, query, kind) for query in asked]
    build = QueryBuilder(model.task.tokenizer, RELATIONS, PromptOptions(kind=kind))
    prefix_cache = PrefixCache(build.shared_prefix() if shared else [])
    answers_by_index = dict(decode(model.task.model, requests(model, asked, kind), RowLimit(batch_size), prefix_cache))
    assert [answers_by_index[index].ids for index in range(len(asked))] == expected
    assert len({tuple(ids) for ids in expected}) == len(expected)


def test_answers_have_every_pair_and_no_failures(learnt: Learnt) -> None:
    """Including documents that the model has never seen."""
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


def test_answer_is_cut_after_the_last_line_that_fits(learnt: Learnt) -> None:
    query = queries(learnt, "rc")[0]
    (request,) = requests(learnt, [query], "rc")
    tokenizer = learnt.task.tokenizer
    whole_ids = one_by_one(learnt, query, "rc")
    text = tokenizer.decode(whole_ids, skip_special_tokens=True)
    prefixes = ["\n".join(text.split("\n")[:lines]) for lines in range(text.count("\n") + 1)]
    assert len(prefixes) > 2
    for limit in (1, 2, 7, 30, len(whole_ids) - 2, len(whole_ids) - 1):
        ((_, answer),) = decode(learnt.task.model, [request._replace(max_tokens=limit)], RowLimit(1), PrefixCache([]))
        text_so_far = tokenizer.decode(answer.ids, skip_special_tokens=True)
        fitting = [prefix for prefix in [*prefixes, text] if len(tokenizer.encode(prefix)) <= limit]
        assert text_so_far == fitting[-1]
        parsed = parse(text_so_far, DOCUMENTS[query.document], query.pairs, RELATIONS)
        assert parsed.failures["malformed"] == 0
