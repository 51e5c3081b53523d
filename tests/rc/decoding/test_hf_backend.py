from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from lmrc.common.errors import UserError
from lmrc.config.schema import DecodeOptions, PromptOptions, ResolvedPrecision
from lmrc.corpus.types import Triple
from lmrc.rc.decoding import generate, hf_backend
from lmrc.rc.decoding.base import QueryResult
from lmrc.rc.decoding.hf_backend import LocalBackend, load_lm
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.fused_norm import fuse_norms
from lmrc.rc.model.lora import load_adapter, load_base
from lmrc.rc.model.merge import merge_weights
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.questions import QuestionBuilder, questions_about
from tests.rc.conftest import Learnt
from tests.rc.tiny import DOCUMENTS, LINE_MERGES, RELATIONS, candidates, tokenizer


def backend(learnt: Learnt, model: nn.Module, mode: Any, batch_size: int = 3) -> tuple[LocalBackend, list[Query]]:
    builder = QueryBuilder(learnt.task.tokenizer, RELATIONS, PromptOptions())
    pairs = [[(0, 1), (1, 2), (2, 0)], [(0, 1), (1, 0)], [(0, 1)]]
    queries = [
        query
        for index, (document, asked) in enumerate(zip(DOCUMENTS, pairs, strict=True))
        for query in builder.build(index, document, asked)
    ]
    made = LocalBackend(
        lambda: model,
        learnt.task.tokenizer,
        PromptOptions(),
        DecodeOptions(mode=mode, batch_size=batch_size, max_new_tokens=200),
        RELATIONS,
        lambda query: DOCUMENTS[query.document],
        builder.shared_prefix(),
    )
    return made, queries


def triples(learnt: Learnt, model: nn.Module) -> list[list[Triple]]:
    made, queries = backend(learnt, model, "constrained")
    return [[scored.triple for scored in result.triples] for result in made.answer(queries)]


def beside(base: Path, adapter: Path, precision: ResolvedPrecision) -> PeftModel:
    """Load the LM with the adapter beside the base, as it was trained."""
    return load_adapter(load_base(str(base), IMPLEMENTATION, precision), adapter)


def test_the_adapter_is_merged_when_it_is_loaded(learnt: Learnt, base: Path) -> None:
    model = load_lm(str(base), learnt.adapter, AdapterMetadata.read(learnt.adapter))
    assert isinstance(model, PreTrainedModel)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    assert sum(isinstance(module, nn.RMSNorm) for module in model.modules()) == 5
    ids = torch.arange(60)[None]
    unmerged = beside(base, learnt.adapter, "fp32")
    torch.testing.assert_close(model(input_ids=ids).logits, unmerged(input_ids=ids).logits, rtol=0, atol=1e-3)
    assert triples(learnt, model) == triples(learnt, unmerged)


def test_merging_in_bf16_gives_the_same_triples(learnt: Learnt, base: Path) -> None:
    """Although it rounds the sum of the weights."""
    merged = merge_weights(beside(base, learnt.adapter, "bf16"))
    fuse_norms(merged)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    expected = triples(learnt, beside(base, learnt.adapter, "bf16"))
    assert triples(learnt, merged) == expected == triples(learnt, beside(base, learnt.adapter, "fp32"))


def test_the_adapter_of_a_quantized_base_stays_beside_it(
    learnt: Learnt, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum would have to be quantized again."""
    plain = load_base(str(base), IMPLEMENTATION, "fp32")
    monkeypatch.setattr(hf_backend, "load_base", lambda *_: plain)
    metadata = replace(AdapterMetadata.read(learnt.adapter), quantization="4bit")
    assert isinstance(load_lm(str(base), learnt.adapter, metadata), PeftModel)


@pytest.mark.parametrize(
    ("mode", "module", "name", "rows_of"),
    [
        ("score", hf_backend, "relation_scores", lambda model, prompts, *_: len(prompts)),
        ("free", generate, "_generate_free", lambda model, tokenizer, prompts, *_: len(prompts)),
    ],
)
def test_fewer_queries_at_once_when_memory_runs_out(
    learnt: Learnt,
    mode: Any,
    module: Any,
    name: str,
    rows_of: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers() -> list[QueryResult]:
        made, queries = backend(learnt, learnt.task.model, mode)
        return list(made.answer(queries))

    expected = answers()
    original = getattr(module, name)
    batches: list[int] = []

    def stub(*args: Any) -> Any:
        batches.append(rows_of(*args))
        if batches[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(*args)

    monkeypatch.setattr(module, name, stub)
    found = answers()
    assert batches == [3, 1, 1, 1]
    assert [(result.query, result.text) for result in found] == [(result.query, result.text) for result in expected]
    for result, other in zip(found, expected, strict=True):
        assert {scored.triple for scored in result.triples} == {scored.triple for scored in other.triples}


@pytest.mark.parametrize("mode", ["constrained", "score", "free"])
def test_a_tokenizer_that_merges_lines_is_refused_before_the_model_is_loaded(mode: Any) -> None:
    """Except in mode free, which has no grammar."""
    lm_tokenizer, loaded = tokenizer(LINE_MERGES), []
    lm_tokenizer.name_or_path = "some/lm"

    def load() -> Any:
        loaded.append(mode)
        return nn.Identity()

    made = LocalBackend(
        load, lm_tokenizer, PromptOptions(), DecodeOptions(mode=mode), RELATIONS, lambda query: DOCUMENTS[0], []
    )
    if mode == "free":
        made.load()
        assert loaded
    else:
        with pytest.raises(UserError, match=r"tokenizer of some/lm .* --decode\.mode free"):
            made.load()
        assert not loaded


def test_likelihood_is_that_of_each_line_alone(learnt_likelihood: Learnt, base: Path, tmp_path: Path) -> None:
    """A score is the product of the probabilities in a pass over text and line, whatever the batch size."""
    words = learnt_likelihood.task.tokenizer
    options = PromptOptions(kind="likelihood")
    builder = QuestionBuilder(words, RELATIONS, options)
    asked = candidates(tmp_path / "candidates", learnt_likelihood.corpus)
    queries = [
        query
        for index, doc in enumerate(DOCUMENTS)
        for query in builder.build(index, doc, questions_about(asked[index], options))
    ]
    model = load_lm(str(base), learnt_likelihood.adapter, AdapterMetadata.read(learnt_likelihood.adapter))
    found = []
    for batch_size in (1, 3):
        decode = DecodeOptions(mode="score", batch_size=batch_size)
        made = LocalBackend(
            lambda: model, words, options, decode, RELATIONS, lambda query: DOCUMENTS[query.document], []
        )
        found.append(list(made.answer(queries)))
    assert found[0] == found[1]
    for result in found[0]:
        questions = result.query.questions
        assert [scored.triple for scored in result.triples] == [question.triple for question in questions]
        for scored, question in zip(result.triples, questions, strict=True):
            known, name = (words(part, add_special_tokens=False)["input_ids"] for part in (question.cue, question.name))
            ids = torch.tensor([[*words(result.query.prompt)["input_ids"], *known, *name]])
            with torch.no_grad():
                log_probabilities = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), 1)
            chosen = log_probabilities[-len(name) :].gather(1, torch.tensor(name)[:, None])
            assert math.log(scored.score or 0.0) == pytest.approx(chosen.sum().item(), abs=1e-3)
        assert result.finished and result.text == "" and not result.failures
    likely = [{scored.triple[:2] for scored in r.triples if (scored.score or 0.0) >= 0.5} for r in found[0]]
    assert [r.none for r in found[0]] == [
        len(r.query.pairs) - len(pairs) for r, pairs in zip(found[0], likely, strict=True)
    ]
