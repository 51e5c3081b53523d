"""Greedy decoding along a grammar: tokens that are forced go through the model in one pass with the next open one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lmrc.rc.grammar import Grammar, PartialAnswer


@torch.inference_mode()
def decode(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    grammars: Sequence[Grammar],
    rooms: Sequence[int],
    pad: int,
) -> list[list[int]]:
    """The most probable allowed token, one after another, for each prompt; at most `rooms` tokens of answer each.

    Equals greedy generation in which every step may only choose among the allowed tokens. Returns ids with the end of
    sequence, if there was room for it.
    """
    answers = [PartialAnswer(grammar) for grammar in grammars]
    # Of every row: what the model has not seen yet. Rows differ in length, so that some places of a pass are padding.
    pending = [
        [*prompt, *answer.write_forced(room)] for prompt, answer, room in zip(prompts, answers, rooms, strict=True)
    ]
    cache = DynamicCache(config=model.config)
    mask = torch.zeros(len(prompts), 0, dtype=torch.long, device=model.device)
    seen = torch.zeros(len(prompts), 1, dtype=torch.long, device=model.device)
    while any(pending):
        width = max(map(len, pending))
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in pending], device=model.device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in pending], device=model.device)
        mask = torch.cat([mask, real], dim=1)
        positions = (seen + real.cumsum(1) - 1).clamp(min=0)
        seen = seen + real.sum(1, keepdim=True)
        ends = sorted({len(row) - 1 for row in pending if row})
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(ends, device=model.device),
        ).logits  # [rows, ends, vocabulary]
        place = {end: index for index, end in enumerate(ends)}
        pending = [
            _advance(logits[row, place[len(fed) - 1]], answers[row], rooms[row]) if fed else []
            for row, fed in enumerate(pending)
        ]
    return [answer.ids for answer in answers]


def _advance(logits: Tensor, answer: PartialAnswer, room: int) -> list[int]:
    """Choose a token and write what is forced behind it; returns what the model must see next, nothing at the end."""
    if answer.ended or len(answer.ids) >= room:
        return []
    start = len(answer.ids)
    allowed = answer.allowed()
    answer.write(allowed[int(logits[allowed].argmax())])
    answer.write_forced(room - len(answer.ids))
    if answer.ended or len(answer.ids) >= room:
        return []
    return answer.ids[start:]
