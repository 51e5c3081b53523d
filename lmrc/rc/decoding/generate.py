"""Greedy decoding of answers, many at a time: along the grammar of possible answers, or freely."""

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
from lmrc.rc.decoding.constrained import Request
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.packed_attention import check_positions
from lmrc.rc.prompts.query_builder import Query, prompt_ids

_WINDOW = 16
"""Batches that are sorted by length together. Answers are given out in order: this bounds what waits for its turn."""


class Generation(NamedTuple):
    """An answer. `finished`: the LM ended it by itself; otherwise it was cut at the query's room, along the grammar at
    the last whole line before."""

    query: Query
    text: str
    finished: bool
    line_scores: tuple[float, ...] = ()
    """The probability of each line behind those before it, among the possible ones; empty where it is not known."""


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Iterable[Query],
    options: DecodeOptions,
    grammar_of: Callable[[Query], Grammar],
    prefix_cache: PrefixCache,
    template: PromptTemplate | None = None,
) -> Iterator[Generation]:
    """The greedy answers to `queries`, in their order.

    An answer does not depend on the others of its batch but for rounding. Each ends at the end of sequence or after
    min(`options.max_new_tokens`, its `answer_room`) tokens. `grammar_of` is asked unless `options.mode` is free.
    """
    model.eval()
    source = iter(queries)
    while window := list(islice(source, _WINDOW * options.batch_size)):
        prompts = [prompt_ids(query.prompt, tokenizer, template) for query in window]
        rooms = [min(query.answer_room, options.max_new_tokens) for query in window]
        # Long ones first: at the end of the window there is no other to take a place that becomes free.
        order = sorted(range(len(window)), key=lambda index: (rooms[index], len(prompts[index])), reverse=True)
        outputs: dict[int, constrained.Answer] = {}
        if options.mode == "free":
            for start in range(0, len(order), options.batch_size):
                batch = order[start : start + options.batch_size]
                texts = _greedy(model, tokenizer, [prompts[index] for index in batch], max(rooms[i] for i in batch))
                outputs |= {index: constrained.Answer(ids, []) for index, ids in zip(batch, texts, strict=True)}
        else:
            requests = (Request(prompts[index], grammar_of(window[index]), rooms[index]) for index in order)
            for number, answer in constrained.decode(model, requests, options.batch_size, prefix_cache):
                outputs[order[number]] = answer
        for index, query in enumerate(window):
            yield _generation(query, outputs[index], rooms[index], tokenizer)


def _generation(query: Query, answer: constrained.Answer, room: int, tokenizer: PreTrainedTokenizerBase) -> Generation:
    def text_of(ids: Sequence[int]) -> str:
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    kept = answer.ids[:room]
    finished = tokenizer.eos_token_id in kept
    if finished:
        kept = kept[: kept.index(tokenizer.eos_token_id)]
    text = text_of(kept)
    logs = [0.0] * (text.count("\n") + 1)
    for place, log in answer.choices:
        if place < len(kept):
            logs[text_of(kept[: place + 1]).count("\n")] += log
    scores = tuple(math.exp(log) for log in logs) if answer.choices else ()
    return Generation(query, text, finished, scores)


@torch.inference_mode()
def _greedy(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], room: int
) -> list[list[int]]:
    """New token ids for each prompt, at most `room`. Raises UserError where the LM knows too few positions for them."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    before = base.config._attn_implementation
    # Rows that are padded need masks, which packed texts know nothing of.
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
                max_new_tokens=room,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=pad,
            ),
        )
    finally:
        base.set_attn_implementation(before)
    answers = [row[longest:] for row in output.tolist()]
    for prompt, answer in zip(prompts, answers, strict=True):
        end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
        check_positions(base, len(prompt) + end)
    return answers
