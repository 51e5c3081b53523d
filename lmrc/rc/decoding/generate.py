"""Greedy decoding of many queries in batches: along the grammar (mode constrained) or without it (mode free)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.config.schema import DecodeOptions, PromptTemplate
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.row_limit import RowLimit
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.packed_attention import check_positions
from lmrc.rc.prompts.query_builder import Query, prompt_ids

# Batches that are sorted by length together. Answers are returned in order, so this bounds how many must be held back.
_WINDOW_BATCHES = 16


class Generation(NamedTuple):
    """The answer to a query.

    Attributes:
        finished: False if the answer was cut at its token limit; with a grammar, after the last complete line.
        line_scores: probability of each line given the lines before it, among the lines that the grammar allows; empty
            if unknown.
    """

    query: Query
    text: str
    finished: bool
    line_scores: tuple[float, ...] = ()


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Iterable[Query],
    options: DecodeOptions,
    grammar_of: Callable[[Query], Grammar],
    prefix_cache: PrefixCache,
    template: PromptTemplate | None = None,
    limit: RowLimit | None = None,
) -> Iterator[Generation]:
    """Generate greedy answers to queries.

    Except for rounding, an answer does not depend on the other queries of its batch. An answer ends at the end of
    sequence or after min(`options.max_new_tokens`, `query.answer_room`) tokens.

    Args:
        queries: read as they are needed.
        grammar_of: returns the grammar of a query; not called in mode free.
        prefix_cache: KV cache of the prefix that prompts share; not used in mode free.
        template: chat template of the prompts.
        limit: number of queries decoded together, which may fall; by default `options.batch_size`.

    Yields:
        One answer per query, in the order of the queries.

    Raises:
        UserError: if a single query does not fit into memory.
    """
    model.eval()
    limit = limit or RowLimit(options.batch_size)
    remaining = iter(queries)
    while window := list(islice(remaining, _WINDOW_BATCHES * options.batch_size)):
        prompts = [prompt_ids(query.prompt, tokenizer, template) for query in window]
        limits = [min(query.answer_room, options.max_new_tokens) for query in window]
        # Longest first: at the end of the window no further query fills the free rows of the batch.
        order = sorted(range(len(window)), key=lambda index: (limits[index], len(prompts[index])), reverse=True)
        if options.mode == "free":
            answers = _answer_free(model, tokenizer, prompts, limits, order, limit)
        else:
            requests = (
                constrained.Request(prompts[index], grammar_of(window[index]), limits[index]) for index in order
            )
            decoded = constrained.decode(model, requests, limit, prefix_cache)
            answers = {order[position]: answer for position, answer in decoded}
        for index, query in enumerate(window):
            yield to_generation(query, answers[index], tokenizer)


def to_generation(query: Query, answer: constrained.Answer, tokenizer: PreTrainedTokenizerBase) -> Generation:
    """Return an answer as text, with the probability of each line."""
    kept = answer.ids
    finished = tokenizer.eos_token_id in kept
    if finished:
        kept = kept[: kept.index(tokenizer.eos_token_id)]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    line_logs = [0.0] * (text.count("\n") + 1 if text else 0)
    for line, log_probability in answer.choices:
        # Without those of an unfinished line and of the end of sequence.
        if line < len(line_logs):
            line_logs[line] += log_probability
    line_scores = tuple(math.exp(log) for log in line_logs) if answer.choices else ()
    return Generation(query, text, finished, line_scores)


def _answer_free(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    order: Sequence[int],
    limit: RowLimit,
) -> dict[int, constrained.Answer]:
    """Generate answers in batches.

    Args:
        prompts: token ids of each query.
        limits: maximum number of new tokens of each query.
        order: indices of the queries in the order in which they are answered.

    Returns:
        The answer by the index of its query.
    """

    def generate_batch(batch: list[int]) -> list[list[int]]:
        max_new_tokens = max(limits[index] for index in batch)
        return _generate_free(model, tokenizer, [prompts[index] for index in batch], max_new_tokens)

    return {
        index: constrained.Answer(ids[: limits[index]], [])
        for batch, ids_of_batch in limit.run(order, generate_batch)
        for index, ids in zip(batch, ids_of_batch, strict=True)
    }


@torch.inference_mode()
def _generate_free(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the generated token ids for each prompt.

    Raises:
        UserError: prompt and answer have more tokens than the LM has positions.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    implementation = base.config._attn_implementation
    # Padded rows need an attention mask, which packed attention ignores.
    base.set_attn_implementation("sdpa")
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    try:
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=pad,
            ),
        )
    finally:
        base.set_attn_implementation(implementation)
    answers = [row[longest:] for row in output.tolist()]
    for prompt, answer in zip(prompts, answers, strict=True):
        end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
        check_positions(base, len(prompt) + end)
    return answers
