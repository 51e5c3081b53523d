from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import pytest
import torch

from lmrc.common.errors import UserError
from lmrc.config.schema import DecodeOptions, PromptOptions
from lmrc.rc.decoding.generate import Generation, generate
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_adapter, load_base
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS

# Enough tokens for the memorized answers.
LIMIT = 24


def queries(learnt: Learnt) -> list[Query]:
    """Return short queries of different lengths, with one pair each."""
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions(kind="direct", pairs_per_query=1))
    pairs = [[(0, 1), (1, 0), (1, 2)], [(0, 1)], [(0, 1)]]
    return [
        query
        for index, (document, asked) in enumerate(zip(DOCUMENTS, pairs, strict=True))
        for query in builder.build(index, document, asked)
    ]


def free(learnt: Learnt, asked: Iterable[Query], options: DecodeOptions) -> Iterator[Generation]:
    """Generate in mode free, and fail if a grammar is requested."""

    def no_grammar(query: Query) -> NoReturn:
        raise AssertionError(query)

    return generate(learnt.task.model, learnt.task.tokenizer, asked, options, no_grammar, PrefixCache([]))


def one_by_one(learnt: Learnt, query: Query) -> tuple[str, bool]:
    """Generate with transformers, without batches and padding."""
    ids = prompt_ids(query.prompt, learnt.task.tokenizer)
    model = load_adapter(load_base(adapter_base(learnt.adapter), "sdpa", "fp32"), learnt.adapter)
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=min(query.answer_room, LIMIT),
            do_sample=False,
            eos_token_id=learnt.task.tokenizer.eos_token_id,
            pad_token_id=learnt.task.tokenizer.pad_token_id,
        )[0, len(ids) :].tolist()
    ended = learnt.task.tokenizer.eos_token_id in output
    return learnt.task.tokenizer.decode(output, skip_special_tokens=True), ended


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_equal_single_generation_in_order(learnt: Learnt, batch_size: int) -> None:
    asked = queries(learnt)
    answers = list(free(learnt, asked, DecodeOptions(mode="free", batch_size=batch_size, max_new_tokens=LIMIT)))
    assert [answer.query for answer in answers] == asked
    assert [(answer.text, answer.finished) for answer in answers] == [one_by_one(learnt, query) for query in asked]
    assert len({answer.text for answer in answers}) > 2


def test_order_is_kept_across_windows(learnt: Learnt, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries(learnt)
    options = DecodeOptions(mode="free", batch_size=2, max_new_tokens=8)
    expected = list(free(learnt, asked, options))
    monkeypatch.setattr("lmrc.rc.decoding.generate._WINDOW_BATCHES", 1)
    assert list(free(learnt, iter(asked), options)) == expected


def test_answer_at_the_token_limit_is_not_finished(learnt: Learnt) -> None:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions(pairs_per_query=1))
    asked = list(builder.build(0, DOCUMENTS[0], [(0, 1), (1, 2)]))
    answers = list(free(learnt, asked, DecodeOptions(mode="free", max_new_tokens=3)))
    assert not any(answer.finished for answer in answers)
    for answer in answers:
        expected, _ = one_by_one(learnt, answer.query)
        assert expected.startswith(answer.text)
        assert len(answer.text) < len(expected)


def test_memorized_answer_is_generated(learnt: Learnt) -> None:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    asked = list(builder.build(0, DOCUMENTS[0], [(0, 1), (1, 2)]))
    (answer,) = free(learnt, asked, DecodeOptions(mode="free"))
    assert answer.text == (
        "(Ada| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)"
    )
    assert answer.finished


@pytest.mark.parametrize("beyond", [0, 1])
def test_answer_beyond_the_max_positions_is_refused(
    learnt: Learnt, beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    asked = list(builder.build(0, DOCUMENTS[0], [(0, 1), (1, 2)]))
    options, tokenizer = DecodeOptions(mode="free"), learnt.task.tokenizer
    (whole,) = free(learnt, asked, options)
    written = tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    tokens = len(prompt_ids(asked[0].prompt, tokenizer)) + len(written)
    base = learnt.task.model.get_base_model()  # type: ignore[operator]
    monkeypatch.setattr(base.config, "max_position_embeddings", tokens - beyond)
    if not beyond:
        assert list(free(learnt, asked, options)) == [whole]
    else:
        with pytest.raises(UserError, match=f"a text has {tokens} tokens, but .* is limited to {tokens - 1} positions"):
            list(free(learnt, asked, options))
