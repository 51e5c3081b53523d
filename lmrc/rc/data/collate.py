"""Collation of examples into packed batches without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmrc.rc.model.packed_attention import PackedGroups, PackedSequences
from lmrc.rc.prompts.query_builder import EncodedQuestions, Example, shared_length


def collate(examples: Sequence[Example]) -> dict[str, Tensor | PackedSequences | PackedGroups]:
    """Concatenate examples for `packed_forward`; a prefix that all prompts share is kept once.

    Returns:
        `input_ids` and `positions`, int64 [tokens]; `logit_positions`, int64 [targets]: indices of the tokens whose
        logits predict the answers; `targets`, int64 [targets]: the tokens to predict; `layout`.
    """
    asked = [example.questions for example in examples if example.questions is not None]
    if asked:
        return _collate_questions(examples, asked)
    prefix_length = _shared_prefix_length(examples)
    # Embeddings and losses need int64.
    suffixes = [example.input_ids[prefix_length:].long() for example in examples]
    layout = PackedSequences(prefix_length, [len(suffix) for suffix in suffixes])
    logit_positions, targets, start = [], [], prefix_length
    for example, suffix in zip(examples, suffixes, strict=True):
        prompt_tokens = example.prompt_tokens - prefix_length
        logit_positions.append(torch.arange(start + prompt_tokens - 1, start + len(suffix) - 1))
        targets.append(suffix[prompt_tokens:])
        start += len(suffix)
    return {
        "input_ids": torch.cat([examples[0].input_ids[:prefix_length].long(), *suffixes]),
        "positions": layout.positions(),
        "logit_positions": torch.cat(logit_positions),
        "targets": torch.cat(targets),
        "layout": layout,
    }


def _collate_questions(
    examples: Sequence[Example], asked: Sequence[EncodedQuestions]
) -> dict[str, Tensor | PackedSequences | PackedGroups]:
    """Concatenate examples of kind likelihood, in which each line sees the prompt alone."""
    layout = PackedGroups(
        [
            PackedSequences(example.prompt_tokens, questions.lengths.tolist())
            for example, questions in zip(examples, asked, strict=True)
        ]
    )
    ids = torch.cat([example.input_ids.long() for example in examples])
    # Positions of the tokens to predict: the last ones of each line.
    names, start = list[Tensor](), 0
    for example, questions in zip(examples, asked, strict=True):
        ends = start + example.prompt_tokens + questions.lengths.long().cumsum(0)
        names += map(torch.arange, (ends - questions.name_tokens).tolist(), ends.tolist())
        start += len(example.input_ids)
    positions = torch.cat(names)
    return {
        "input_ids": ids,
        "positions": layout.positions(),
        "logit_positions": positions - 1,
        "targets": ids[positions],
        "layout": layout,
    }


def _shared_prefix_length(examples: Sequence[Example]) -> int:
    """Return the number of tokens that all prompts share, 0 for a single prompt.

    The last token of a prompt is never shared, because its logits predict the first token of the answer.
    """
    if len(examples) == 1:
        return 0
    limit = min(example.prompt_tokens for example in examples) - 1
    return shared_length([example.input_ids[:limit].tolist() for example in examples])
