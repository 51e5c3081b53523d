from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lmrc.common.errors import UserError
from lmrc.corpus.relations import DOCRED
from lmrc.rc.decoding import line_tokens
from lmrc.rc.decoding.line_tokens import merges_newlines, tokenize_lines
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.templates import line
from tests.rc.tiny import (
    EARLY_MERGES,
    LINE_MERGES,
    NEWLINE_MERGES,
    UNEVEN_MERGES,
    merging_tokenizer,
    newline_tokenizer,
    tokenizer,
)

NAMES = [
    "Ada",
    "U.S.",
    "A|B",
    "| |",
    "|",
    "1984",
    "Zoë",
    "中国",
    "😀",
    "x)",
    "(",
    "part of",
    "AT&T -",
    "'s",
    "None",
    "",
]
PAIRS = list(itertools.permutations(NAMES, 2))
RELATIONS = [*DOCRED.names[:12], "None"]
PREVIOUS = "(a| b| c)"


def across_bars() -> PreTrainedTokenizerBase:
    """Return a tokenizer with tokens that reach from a bar over the space to the next letter."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges = [("|", "Ġ"), ("|Ġ", "c"), ("y", "|"), ("A", "d")]
    for merge in merges:
        vocabulary["".join(merge)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


@pytest.fixture(params=["bytes", "merging", "across", "llama2", "smollm2"])
def lm_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    made = {"bytes": tokenizer, "merging": merging_tokenizer, "across": across_bars}
    if request.param in made:
        return made[request.param]()
    if request.param == "llama2":
        folder: Path = request.getfixturevalue("shared_data")
        return load_tokenizer(str(folder / "tokenizers" / "llama2"))
    return load_tokenizer("embedded:smollm2")


def whole(lm_tokenizer: PreTrainedTokenizerBase, text: str, previous: str) -> tuple[int, ...]:
    """Tokenize one line in its whole text."""
    before = lm_tokenizer.encode(previous, add_special_tokens=False)
    ids = lm_tokenizer.encode(f"{previous}\n{text}" if previous else text, add_special_tokens=False)
    assert ids[: len(before)] == before
    return tuple(ids[len(before) :])


@pytest.mark.parametrize("previous", ["", PREVIOUS])
def test_ids_are_those_of_whole_lines(lm_tokenizer: PreTrainedTokenizerBase, previous: str) -> None:
    """With names that have bars and brackets, and tokens that reach across a bar."""
    for (head, tail), lines in zip(PAIRS, tokenize_lines(lm_tokenizer, PAIRS, RELATIONS, previous), strict=True):
        expected = [whole(lm_tokenizer, f"({head}| {relation}| {tail})", previous) for relation in RELATIONS]
        assert lines.ids == expected, (head, tail)
        assert not any(itertools.chain.from_iterable(lines.ends))


@pytest.mark.parametrize("make", [tokenizer, lambda: load_tokenizer("embedded:smollm2")])
def test_a_pair_is_tokenized_in_one_line(
    make: Callable[[], PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relations are tokenized once, whatever the number of pairs."""
    lm_tokenizer = make()
    texts: list[str] = []
    original = type(lm_tokenizer).__call__

    def count(self: PreTrainedTokenizerBase, batch: list[str], **options: object) -> object:
        texts.extend(batch)
        return original(self, batch, **options)

    monkeypatch.setattr(type(lm_tokenizer), "__call__", count)
    tokenize_lines(lm_tokenizer, PAIRS[:1], RELATIONS, PREVIOUS)
    texts.clear()
    tokenize_lines(lm_tokenizer, PAIRS[:20], RELATIONS, PREVIOUS)
    assert len(texts) == 20
    assert line_tokens._relation_ids(lm_tokenizer, tuple(RELATIONS)) is not None


@pytest.mark.parametrize("merges", [NEWLINE_MERGES, EARLY_MERGES, UNEVEN_MERGES, None])
@pytest.mark.parametrize("composes", [False, True])
def test_lines_whose_newlines_merge_add_up_to_whole_answers(
    merges: list[tuple[str, str]] | None, composes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With relations that are tokenized once, or in each line."""
    lm_tokenizer = newline_tokenizer() if merges is None else tokenizer(merges)
    assert merges_newlines(lm_tokenizer)
    if not composes:
        monkeypatch.setattr(line_tokens, "_relation_ids", lambda *_: None)
    first_lines = tokenize_lines(lm_tokenizer, PAIRS, RELATIONS[:2])
    later_lines = tokenize_lines(lm_tokenizer, PAIRS, RELATIONS[:2], PREVIOUS)
    for index, (head, tail) in enumerate(PAIRS):
        other = (7 * index + 3) % len(PAIRS)
        next_head, next_tail = PAIRS[other]
        first, later = line(head, RELATIONS[0], tail), line(next_head, RELATIONS[1], next_tail)
        ids = (
            first_lines[index].ids[0]
            + first_lines[index].ends[0].before_line
            + later_lines[other].ids[1]
            + later_lines[other].ends[1].before_end
        )
        assert list(ids) == lm_tokenizer.encode(f"{first}\n{later}", add_special_tokens=False)
        end = first_lines[index].ids[0] + first_lines[index].ends[0].before_end
        assert list(end) == lm_tokenizer.encode(first, add_special_tokens=False)


@pytest.mark.parametrize("merges", [LINE_MERGES, [("\u010a", "(")], []])
def test_newlines_that_do_not_merge_with_the_line_before(merges: list[tuple[str, str]]) -> None:
    """They may merge with the next line, but not with both."""
    lm_tokenizer = tokenizer(merges)
    if merges == LINE_MERGES:
        with pytest.raises(UserError, match="gives a line of an answer other token ids beside other lines"):
            merges_newlines(lm_tokenizer)
    else:
        assert not merges_newlines(lm_tokenizer)
