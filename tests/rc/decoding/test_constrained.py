from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmrc.common.errors import UserError
from lmrc.config.schema import DecodeOptions, PromptKind, PromptOptions
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.constrained import Answer, Request, decode, most_probable
from lmrc.rc.decoding.generate import Generation, generate
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.parsing import parse
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.model.fused_norm import fuse_norms
from lmrc.rc.model.kv_cache import KVCache, KVPool, PrefixCache, extend_caches
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, prompt_ids
from lmrc.rc.prompts.templates import Pair
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, RELATIONS, slow_probability, whole_answers


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


def generated(learnt: Learnt, index: int, pairs: list[Pair]) -> tuple[Query, Generation]:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    (query,) = builder.build(index, DOCUMENTS[index], pairs)
    (generation,) = generate(
        learnt.task.model,
        learnt.task.tokenizer,
        [query],
        DecodeOptions(),
        lambda query: grammar_of(learnt, query, "rc"),
        PrefixCache([]),
    )
    return query, generation


def test_memorized_answer_with_merged_newlines_is_decoded(learnt_newline: Learnt) -> None:
    query, generation = generated(learnt_newline, 0, [(0, 1), (1, 2)])
    assert generation.text == (
        "(Ada| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)"
    )
    assert generation.finished
    parsed = parse(generation.text, DOCUMENTS[0], query.pairs, RELATIONS)
    assert [tuple(triple) for triple in parsed.triples] == [(0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")]
    assert not +parsed.failures


@pytest.mark.parametrize("merges_newlines", [False, True])
def test_line_scores_are_those_of_whole_answers(learnt: Learnt, learnt_newline: Learnt, merges_newlines: bool) -> None:
    """Including answers of which the model is not sure, and without how the last line ends."""
    learnt = learnt_newline if merges_newlines else learnt
    tokenizer = learnt.task.tokenizer
    for index, pairs in [(0, [(0, 1), (1, 2)]), (0, [(2, 0)]), (1, [(1, 0)]), (2, [(1, 0)])]:
        query, generation = generated(learnt, index, pairs)
        lines = generation.text.split("\n")
        possible = whole_answers(tokenizer, "rc", DOCUMENTS[index], pairs)
        split = {ids: str(tokenizer.decode(ids[:-1])).split("\n") for ids in possible}
        # By definition: the probability that an answer which starts with the lines before has this line.
        starts = [
            slow_probability(
                learnt.task.model,
                prompt_ids(query.prompt, tokenizer),
                {ids: answer[:count] == lines[:count] for ids, answer in split.items()},
            )
            for count in range(len(lines) + 1)
        ]
        expected = [after / before for before, after in pairwise(starts)]
        assert generation.line_scores == pytest.approx(expected, abs=1e-4)


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


@pytest.mark.parametrize("merges_newlines", [False, True])
def test_answer_is_cut_after_the_last_line_that_fits(
    learnt: Learnt, learnt_newline: Learnt, merges_newlines: bool
) -> None:
    learnt = learnt_newline if merges_newlines else learnt
    query = queries(learnt, "rc")[0]
    (request,) = requests(learnt, [query], "rc")
    tokenizer = learnt.task.tokenizer
    whole_ids = one_by_one(learnt, query, "rc")
    text = tokenizer.decode(whole_ids, skip_special_tokens=True)
    prefixes = ["\n".join(text.split("\n")[:lines]) for lines in range(text.count("\n") + 1)]
    assert len(prefixes) > 2
    for limit in range(1, len(whole_ids)):
        ((_, answer),) = decode(learnt.task.model, [request._replace(max_tokens=limit)], RowLimit(1), PrefixCache([]))
        text_so_far = tokenizer.decode(answer.ids, skip_special_tokens=True)
        # A line fits as it is written before the next line, which may take fewer tokens than at the end.
        fitting = [
            prefix
            for prefix in [*prefixes, text]
            if len(tokenizer.encode(prefix)) <= limit
            or (prefix and prefix != text and len(tokenizer.encode(prefix + "\n")) <= limit)
        ]
        assert text_so_far == fitting[-1]
        assert answer.ids == tokenizer.encode(text_so_far)
        parsed = parse(text_so_far, DOCUMENTS[query.document], query.pairs, RELATIONS)
        assert parsed.failures["malformed"] == 0


def lm_on_meta(layers: int) -> transformers.PreTrainedModel:
    """Return a Llama without data: any look at a value raises an error."""
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4, vocab_size=100
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=IMPLEMENTATION, dtype=torch.bfloat16
        )
    assert isinstance(model, transformers.PreTrainedModel)
    fuse_norms(model)
    return model.eval()


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the ATen calls that are not views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        storages = {part.untyped_storage()._cdata for part in tree_leaves(args) if isinstance(part, torch.Tensor)}
        made = [part for part in tree_leaves(output) if isinstance(part, torch.Tensor)]
        is_view = bool(made) and all(part.untyped_storage()._cdata in storages for part in made)
        self.count += function._schema.is_mutable or not is_view
        return output


def calls_per_pass(layers: int, rows: int, new: int) -> int:
    """Run a decoding pass on the meta device, up to the choice."""
    model, pool = lm_on_meta(layers), KVPool()
    caches = [KVCache(pool) for _ in range(rows)]
    extend_caches(model, caches, [[1] * (40 + 3 * row) for row in range(rows)])
    with torch.inference_mode(), Calls() as calls:
        logits = extend_caches(model, caches, [[1] * (1 + new * (row % 2)) for row in range(rows)])
        best = most_probable(logits, [[5, 6, 7], *[[5, 6]] * (rows - 1)])
    assert best.shape == (rows, 2) and best.is_meta
    count: int = calls.count
    return count


def test_a_pass_does_not_look_at_values_and_has_as_many_calls_for_any_rows() -> None:
    """At most 34 ATen calls per layer and 40 for the rest are 1,400 with LLaMA2-13B's 40 layers."""
    counts = {
        (layers, rows, new): calls_per_pass(layers, rows, new)
        for layers in (2, 3)
        for rows in (1, 8, 32)
        for new in (0, 9)
    }
    for layers in (2, 3):
        per_rows = [count for (of, *_), count in counts.items() if of == layers]
        assert len(set(per_rows)) == 1
    per_layer = counts[3, 8, 0] - counts[2, 8, 0]
    assert per_layer <= 34
    assert counts[2, 8, 0] - 2 * per_layer <= 40


def test_a_pass_reads_from_the_device_once(learnt: Learnt, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, passes = [], []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            reads.append(original)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)
    handle = learnt.task.model.register_forward_hook(lambda *_: passes.append(1))
    asked = queries(learnt, "rc")
    list(decode(learnt.task.model, requests(learnt, asked, "rc"), RowLimit(3), PrefixCache([])))
    handle.remove()
    assert len(reads) == len(passes) > 5


def out_of_memory_above(rows: int, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> list[int]:
    """Let passes with more rows run out of memory, after some passes. Returns the list of rows of each pass."""
    passes: list[int] = []

    def extend(model: nn.Module, caches: list[KVCache], ids: list[list[int]]) -> torch.Tensor:
        passes.append(len(caches))
        if len(caches) > rows and len(passes) > after:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return extend_caches(model, caches, ids)

    monkeypatch.setattr(constrained, "extend_caches", extend)
    return passes


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_half_of_the_rows_go_on_when_memory_runs_out(
    learnt: Learnt, shared: bool, after: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the tokens that are already chosen, and the same answers."""
    asked = [*queries(learnt, "rc"), *queries(learnt, "rc")]
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    prefix = builder.shared_prefix() if shared else []

    def answers(limit: RowLimit) -> dict[int, Answer]:
        return dict(decode(learnt.task.model, requests(learnt, asked, "rc"), limit, PrefixCache(prefix)))

    expected = answers(RowLimit(4))
    passes = out_of_memory_above(2, monkeypatch, after)
    released: list[PrefixCache] = []
    original = PrefixCache.clear

    def clear(self: PrefixCache) -> None:
        released.append(self)
        original(self)

    monkeypatch.setattr(PrefixCache, "clear", clear)
    limit = RowLimit(4)
    with caplog.at_level(logging.WARNING):
        found = answers(limit)
        assert limit.rows == 2
        # Once when it is made, once for the memory.
        assert len(released) == 2
        assert answers(limit).keys() == expected.keys()
    assert {index: answer.ids for index, answer in found.items()} == {i: answer.ids for i, answer in expected.items()}
    for index, answer in found.items():
        for (place, log), (expected_place, expected_log) in zip(answer.choices, expected[index].choices, strict=True):
            assert place == expected_place
            assert log == pytest.approx(expected_log, abs=1e-4)
    assert [record.message for record in caplog.records] == [
        "4 queries at once do not fit into the memory of the GPU: going on with 2 (decode.batch_size)"
    ]
    assert [rows for rows in passes if rows > 2] == [4] * (after + 1)


def test_a_single_row_without_memory_is_an_error(learnt: Learnt, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    asked = requests(learnt, queries(learnt, "rc"), "rc")
    with pytest.raises(UserError, match="a single query does not fit into the memory of the GPU"):
        list(decode(learnt.task.model, asked, RowLimit(3), PrefixCache([])))
