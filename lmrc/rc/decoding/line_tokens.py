"""Token ids of the possible lines of an answer.

A line is `(head| relation| tail)`. If no token reaches across a bar and the space after it, the ids of ` relation|` do
not depend on the names around it. Then each relation is tokenized once per tokenizer, and each pair in one line.

Some tokenizers merge the end of a line with the newline after it: `)` and a newline are one token in Llama-3's, Qwen's
and GPT-4's. There the last tokens of a line depend on whether another line follows (`LineEnd`), and each pair is
tokenized in two lines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.rc.prompts.query_builder import shared_length
from lmrc.rc.prompts.templates import line

# Token ids of a line.
Line = tuple[int, ...]
Names = tuple[str, str]

# Any finished line. Lines are tokenized after it, and before it if their ends differ there.
ANY_LINE = "(a| b| c)"
# Spellings of a space and a newline in the vocabularies of tokenizers.
_SPACES = (" ", "\u0120", "\u2581")
_NEWLINES = ("\n", "\u010a")
# Names whose lines are compared, to see that the ids of a relation do not depend on names.
_SAMPLE_NAMES = (("a", "b"), ("U.S.", "(Zo\u00eb 2nd"))
# Lines of which any two may follow each other, to see that their ids do not depend on each other.
_SAMPLE_LINES = [
    line(name, "b", name)
    for name in ("c", "U.S.", "(A (b))", "2nd", "Zo\u00eb", "\u4e2d", "'s", "-", "|", "", "C++", "?!")
]


class LineEnd(NamedTuple):
    """The tokens of a line that depend on whether another line follows. Both are empty if newlines are not merged.

    Attributes:
        before_line: the last tokens of the line and of the newline, if another line follows.
        before_end: the last tokens of the line, if the answer ends with it.
    """

    before_line: Line = ()
    before_end: Line = ()


class PairLines(NamedTuple):
    """The possible lines of a pair [relations].

    Attributes:
        ids: token ids of each line, without those of its end.
        ends: end of each line.
    """

    ids: list[Line]
    ends: list[LineEnd]


class _Context(NamedTuple):
    """Text and ids around a line.

    Attributes:
        before: text before the line.
        after: text after the line.
        ids_before: tokens before those of the line.
        ids_after: tokens after those of the line.
    """

    before: str
    after: str
    ids_before: Line
    ids_after: Line


def tokenize_lines(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[Names], relations: Sequence[str], previous: str = ""
) -> list[PairLines]:
    """Return the token ids of each possible line of each pair.

    Args:
        names: names of head and tail of each pair.
        previous: the line before, without its newline; by default the lines start the answer. The ids of the newline
            are included, unless the tokenizer merges newlines with the line before.

    Raises:
        UserError: if the ids of a line depend on the next line.
    """
    contexts = _contexts(tokenizer, previous, merges_newlines(tokenizer))
    relation_ids = _relation_ids(tokenizer, tuple(relations))
    lines: list[PairLines | None] = [None] * len(names)
    if relation_ids is not None:
        split = [_split_lines(tokenizer, names, relations[:1], context) for context in contexts]
        for pair, forms in enumerate(zip(*split, strict=True)):
            # One form in each context.
            ((head, relation, _), *others) = [of_relation[0] for of_relation in forms]
            if relation == relation_ids[0] and all(other[:2] == (head, relation) for other in others):
                tail, end = _split_end([of_relation[0][2] for of_relation in forms])
                lines[pair] = PairLines([head + ids + tail for ids in relation_ids], [end] * len(relation_ids))
    return [
        _tokenize_pair(tokenizer, pair_names, relations, contexts) if composed is None else composed
        for pair_names, composed in zip(names, lines, strict=True)
    ]


@lru_cache(maxsize=8)
def merges_newlines(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a token may hold both the end of a line and the newline after it.

    Raises:
        UserError: if the ids of a line depend on the next line beyond the newline.
    """
    in_vocabulary = any(")" + newline in token for token in tokenizer.get_vocab() for newline in _NEWLINES)
    # A vocabulary may have such tokens and a pre-tokenizer that never lets them arise.
    for merged in (True, False) if in_vocabulary else (False, True):
        if _has_independent_lines(tokenizer, merged):
            return merged
    raise _DependentLines(tokenizer)


class _DependentLines(UserError):
    """A tokenizer with which the ids of a line depend on the next line, beyond the newline."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # Not in the pre-flight: the tokenizer is loaded on the node.
        super().__init__(
            f"the tokenizer of {tokenizer.name_or_path or 'the LM'} gives a line of an answer other token ids beside "
            "other lines, which the modes constrained and score cannot follow: give --decode.mode free, or choose "
            "another base LM"
        )


def _has_independent_lines(tokenizer: PreTrainedTokenizerBase, merged: bool) -> bool:
    """Return whether the ids of two lines are those of the first one and those of the second one."""
    texts = [f"{first}\n{second}" for first in _SAMPLE_LINES for second in _SAMPLE_LINES]
    try:
        first_lines, later_lines = (
            _tokenize(tokenizer, _SAMPLE_LINES, _contexts(tokenizer, previous, merged)) for previous in ("", ANY_LINE)
        )
    except _DependentLines:
        return False
    composed = [
        [*first, *end.before_line, *second, *second_end.before_end]
        for first, end in zip(*first_lines, strict=True)
        for second, second_end in zip(*later_lines, strict=True)
    ]
    return bool(composed == tokenizer(texts, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=16)
def _contexts(tokenizer: PreTrainedTokenizerBase, previous: str, merged: bool) -> list[_Context]:
    """Return the contexts in which lines are tokenized: at the end and, if newlines are merged, before another line."""

    def ids(text: str) -> Line:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = f"{previous}\n" if previous else ""
    if not merged:
        return [_Context(before, "", ids(previous), ())]
    after = f"\n{ANY_LINE}"
    ids_after = _without_context(tokenizer, ids(ANY_LINE + after), _Context("", "", ids(f"{ANY_LINE}\n"), ()))
    return [_Context(before, "", ids(before), ()), _Context(before, after, ids(before), ids_after)]


def _without_context(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], context: _Context) -> Line:
    """Return the ids of a line from those of the line in its context."""
    start, stop = len(context.ids_before), len(ids) - len(context.ids_after)
    if tuple(ids[:start]) != context.ids_before or tuple(ids[stop:]) != context.ids_after:
        raise _DependentLines(tokenizer)
    return tuple(ids[start:stop])


def _split_end(forms: Sequence[Line]) -> tuple[Line, LineEnd]:
    """Return what a line has in common at the end and before another line, and the rest."""
    if len(forms) == 1:
        return forms[0], LineEnd()
    at_end, before_line = forms
    common = shared_length(forms)
    return at_end[:common], LineEnd(before_line[common:], at_end[common:])


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], contexts: Sequence[_Context]) -> PairLines:
    """Tokenize lines one by one, in each context."""
    forms = []
    for context in contexts:
        encoded = tokenizer([context.before + text + context.after for text in texts], add_special_tokens=False)
        forms.append([_without_context(tokenizer, ids, context) for ids in encoded["input_ids"]])
    split = [_split_end(line_forms) for line_forms in zip(*forms, strict=True)]
    return PairLines([ids for ids, _ in split], [end for _, end in split])


def _tokenize_pair(
    tokenizer: PreTrainedTokenizerBase, names: Names, relations: Sequence[str], contexts: Sequence[_Context]
) -> PairLines:
    """Tokenize the line of each relation by itself."""
    head, tail = names
    return _tokenize(tokenizer, [line(head, relation, tail) for relation in relations], contexts)


def _split_lines(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[Names], relations: Sequence[str], context: _Context
) -> list[list[tuple[Line, Line, Line]]]:
    """Return the ids of `(head|`, ` relation|` and ` tail)` of each line [pairs][relations]."""
    parts = [
        (f"{context.before}({head}|", f" {relation}|", f" {tail})") for head, tail in names for relation in relations
    ]
    encoded = tokenizer(
        ["".join(part) + context.after for part in parts], add_special_tokens=False, return_offsets_mapping=True
    )
    split = []
    for (head, relation, _), ids, offsets in zip(parts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        starts = [start for start, _ in offsets]
        first = bisect_left(starts, len(head)) - len(context.ids_before)
        last = bisect_left(starts, len(head) + len(relation)) - len(context.ids_before)
        own = _without_context(tokenizer, ids, context)
        split.append((own[:first], own[first:last], own[last:]))
    count = len(relations)
    return [split[index : index + count] for index in range(0, len(split), count)]


@lru_cache(maxsize=8)
def _relation_ids(tokenizer: PreTrainedTokenizerBase, relations: tuple[str, ...]) -> list[Line] | None:
    """Return the ids of ` relation|` within a line for each relation, or None if they may depend on the names."""
    if not tokenizer.is_fast or any("|" + space in token for token in tokenizer.get_vocab() for space in _SPACES):
        return None
    samples = _split_lines(tokenizer, _SAMPLE_NAMES, relations, _Context("", "", (), ()))
    by_names = [[ids for _, ids, _ in lines] for lines in samples]
    return by_names[0] if by_names[0] == by_names[1] else None
