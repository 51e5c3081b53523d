"""Greedy decoding of answers in batches: along the grammar of possible answers, or freely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.config import DecodeOptions
from lmrc.rc import constrained
from lmrc.rc.examples import Query, prompt_ids
from lmrc.rc.grammar import Grammar

_WINDOW = 16
"""Batches that are sorted by length together. Answers are given out in order: this bounds what waits for its turn."""


class Generation(NamedTuple):
    """An answer. `finished`: the LM ended it by itself; otherwise it was cut at the query's room."""

    query: Query
    text: str
    finished: bool


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Iterable[Query],
    options: DecodeOptions,
    grammar_of: Callable[[Query], Grammar],
) -> Iterator[Generation]:
    """The greedy answers to `queries`, in their order.

    An answer does not depend on the others of its batch but for rounding. Each ends at the end of sequence or after
    min(`options.max_new_tokens`, its `answer_room`) tokens. `grammar_of` is asked unless `options.mode` is free.
    """
    model.eval()
    source = iter(queries)
    while window := list(islice(source, _WINDOW * options.batch_size)):
        prompts = [prompt_ids(query.prompt, tokenizer) for query in window]
        rooms = [min(query.answer_room, options.max_new_tokens) for query in window]
        # Similar answers together first: they are what takes time.
        order = sorted(range(len(window)), key=lambda index: (rooms[index], len(prompts[index])), reverse=True)
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), options.batch_size):
            batch = order[start : start + options.batch_size]
            asked = [prompts[index] for index in batch]
            if options.mode == "constrained":
                grammars = [grammar_of(window[index]) for index in batch]
                limits = [rooms[index] for index in batch]
                outputs = constrained.decode(model, asked, grammars, limits, tokenizer.pad_token_id)
            else:
                outputs = _greedy(model, tokenizer, asked, max(rooms[index] for index in batch))
            for index, output in zip(batch, outputs, strict=True):
                kept = output[: rooms[index]]
                finished = tokenizer.eos_token_id in kept
                if finished:
                    kept = kept[: kept.index(tokenizer.eos_token_id)]
                text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                answers[index] = Generation(window[index], text, finished)
        for index in range(len(window)):
            yield answers[index]


@torch.inference_mode()
def _greedy(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], room: int
) -> list[list[int]]:
    """New token ids for each prompt, at most `room`."""
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
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
    return [row[longest:] for row in output.tolist()]
