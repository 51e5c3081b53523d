"""Token ids of the possible lines of an answer.

A line is `(head| relation| tail)`. If no token reaches across a bar and the space after it, the ids of ` relation|` do
not depend on the names around it. Then each relation is tokenized once per tokenizer, and each pair in one line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from lmrc.rc.prompts.query_builder import shared_length
from lmrc.rc.prompts.templates import line

# Token ids of a line.
Line = tuple[int, ...]
Names = tuple[str, str]

# How tokenizers write a space in their vocabulary.
_SPACES = (" ", "\u0120", "\u2581")
# Names whose lines are compared, to see that the ids of a relation do not depend on names.
_SAMPLE_NAMES = (("a", "b"), ("U.S.", "(Zoë 2nd"))


def tokenize_lines(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[Names], relations: Sequence[str], previous: str = ""
) -> list[list[Line]]:
    """Return the token ids of each possible line.

    Args:
        names: names of head and tail of each pair.
        previous: the line before, without its newline; by default the lines start the answer.

    Returns:
        Token ids [pairs][relations], without those of the line before.
    """
    relation_ids = _relation_ids(tokenizer, tuple(relations))
    lines: list[list[Line] | None] = [None] * len(names)
    if relation_ids is not None:
        for pair, ((head, relation, tail),) in enumerate(_split_lines(tokenizer, names, relations[:1], previous)):
            if relation == relation_ids[0]:
                lines[pair] = [head + ids + tail for ids in relation_ids]
    return [
        _tokenize(tokenizer, [line(head, relation, tail) for relation in relations], previous)
        if composed is None
        else composed
        for (head, tail), composed in zip(names, lines, strict=True)
    ]


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], previous: str) -> list[Line]:
    """Return the ids of each text after the previous line, without those of the previous line."""
    before = f"{previous}\n" if previous else ""
    *ids_of_texts, ids_before = tokenizer([*(before + text for text in texts), previous], add_special_tokens=False)[
        "input_ids"
    ]
    # shared_length, because a tokenizer may merge the last bracket with the newline.
    return [tuple(ids[shared_length([ids, ids_before]) :]) for ids in ids_of_texts]


def _split_lines(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[Names], relations: Sequence[str], previous: str
) -> list[list[tuple[Line, Line, Line]]]:
    """Return the ids of `(head|`, ` relation|` and ` tail)` of each line [pairs][relations]."""
    before = f"{previous}\n" if previous else ""
    parts = [(f"{before}({head}|", f" {relation}|", f" {tail})") for head, tail in names for relation in relations]
    encoded = tokenizer([previous, *map("".join, parts)], add_special_tokens=False, return_offsets_mapping=True)
    ids_before = encoded["input_ids"][0]
    split = []
    for (head, relation, _), ids, offsets in zip(
        parts, encoded["input_ids"][1:], encoded["offset_mapping"][1:], strict=True
    ):
        starts = [start for start, _ in offsets]
        first = bisect_left(starts, len(head))
        last = bisect_left(starts, len(head) + len(relation))
        split.append((tuple(ids[shared_length([ids, ids_before]) : first]), tuple(ids[first:last]), tuple(ids[last:])))
    count = len(relations)
    return [split[index : index + count] for index in range(0, len(split), count)]


@lru_cache(maxsize=8)
def _relation_ids(tokenizer: PreTrainedTokenizerBase, relations: tuple[str, ...]) -> list[Line] | None:
    """Return the ids of ` relation|` within a line for each relation, or None if they may depend on the names."""
    if not tokenizer.is_fast or any("|" + space in token for token in tokenizer.get_vocab() for space in _SPACES):
        return None
    samples = _split_lines(tokenizer, _SAMPLE_NAMES, relations, "")
    by_names = [[ids for _, ids, _ in lines] for lines in samples]
    return by_names[0] if by_names[0] == by_names[1] else None
