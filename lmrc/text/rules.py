"""Mentions by rules, without a model: runs of capitalized words, dates and numbers of English text.

The rules know no names. They guess types from neighboring words, titles and endings, and are wrong for many names:
a product is often a person, and a sentence's first word may be missed. `spacy` and `gliner` find more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files

import yaml

from lmrc.corpus.text import TokenizedText, tokenize
from lmrc.text.coreference import normal_name
from lmrc.text.mentions import TextMention

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?)"
)
_YEAR = r"(?:1[0-9]|20)\d\d"
# Longer forms first: the first that matches at a position is taken.
_TIMES = re.compile(
    rf"""(?<![\w.,-])(?:
    {_YEAR}-\d\d?-\d\d?
    | \d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?
    | {_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+{_YEAR})?(?!\w)
    | {_MONTH},?\s+(?:of\s+)?{_YEAR}
    | {_YEAR}s?
    )(?![\w-]|[.,]\d)""",
    re.VERBOSE,
)
_NUMBERS = re.compile(
    r"(?<![\w.,-])[$€£¥]?\d+(?:[.,]\d+)*(?:\s?%|\s(?:percent|hundred|thousand|million|billion|trillion)\b)?(?![\w-]|[.,]\d)"
)


def _read_words() -> dict[str, frozenset[str]]:
    text = files("lmrc.text").joinpath("words.yaml").read_text(encoding="utf-8")
    return {name: frozenset(words.split()) for name, words in yaml.safe_load(text).items()}


WORDS = _read_words()


class RuleFinder:
    """Finds mentions by rules (`lmrc.text.mentions.MentionFinder`)."""

    summary = (
        "mentions by rules (capitalized words, dates, numbers; the same name is the same entity): English only, types "
        "are guesses, pronouns are not resolved; --mentions spacy or gliner finds more"
    )

    def find(self, text: str) -> list[TextMention]:
        """Return the mentions of a text, sorted by position and without overlaps."""
        found = {span: "TIME" for span in (match.span() for match in _TIMES.finditer(text))}
        for match in _NUMBERS.finditer(text):
            if not _overlaps(match.span(), found):
                found[match.span()] = "NUM"
        names = [name for name in _names(tokenize(text)) if not _overlaps(name, found)]
        return [
            TextMention(*span, type)
            for span, type in sorted([*found.items(), *zip(names, _types(text, names), strict=True)])
        ]


def _overlaps(span: tuple[int, int], others: dict[tuple[int, int], str]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _names(text: TokenizedText) -> Iterator[tuple[int, int]]:
    """Yield the spans of runs of capitalized words, in order."""
    whole = text.text
    lower = {whole[start:end] for sentence in text.spans for start, end in sentence if whole[start].islower()}
    for sentence in text.spans:
        tokens = [whole[start:end] for start, end in sentence]
        index = 0
        while index < len(tokens):
            end = _run(whole, sentence, tokens, index)
            if end == index:
                index += 1
                continue
            begin = index
            is_first = not any(token.isalnum() for token in tokens[:index])
            # A sentence's first word is capitalized in any case.
            while begin < end and (
                tokens[begin].lower() in WORDS["titles"] | WORDS["days"]
                or tokens[begin] == "."
                or (
                    is_first
                    and not is_acronym(tokens[begin])
                    and tokens[begin].lower() in WORDS["common"] | (lower if end - begin == 1 else set())
                )
            ):
                begin += 1
            if begin < end and not (
                end - begin == 1 and (len(tokens[begin]) == 1 or tokens[begin].lower() in WORDS["months"])
            ):
                yield sentence[begin][0], sentence[end - 1][1]
            index = end


def _run(text: str, spans: tuple[tuple[int, int], ...], tokens: list[str], begin: int) -> int:
    """Return the end of the name that begins at this token; `begin` if none does."""
    if not tokens[begin][0].isupper():
        return begin
    end = begin + 1
    while end < len(tokens):
        glued = spans[end][0] == spans[end - 1][1]
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        follows_closely = bool(following) and spans[end + 1][0] == spans[end][1]
        if text[spans[end - 1][1] : spans[end][0]].count("\n") > 1:
            return end
        if tokens[end][0].isupper() and not glued:
            end += 1
        elif (
            tokens[end] in ("-", "&", "'", "\u2019")
            and following[:1].isupper()
            and (tokens[end] == "&" or (glued and follows_closely))
        ):
            end += 2
        elif glued and (
            (tokens[end] == "." and _is_inner_period(tokens, spans, begin, end))
            or (tokens[end].isupper() and tokens[end - 1] == ".")
        ):
            end += 1
        elif tokens[end] in WORDS["particles"] and following[:1].isupper():
            end += 2
        else:
            return end
    return end


def _is_inner_period(tokens: list[str], spans: tuple[tuple[int, int], ...], begin: int, period: int) -> bool:
    """Return True if a period belongs to an initial or a title, as in J. Lum, U.S. or Dr. Lum."""
    word = tokens[period - 1]
    follows = period + 1 < len(tokens) and tokens[period + 1][0].isupper()
    is_glued = follows and spans[period + 1][0] == spans[period][1]
    if len(word) == 1:
        # The last period of U.S. belongs to it too, but not that of a single letter.
        return follows or (period - begin > 1 and tokens[period - 2] == ".")
    return follows and (is_glued or word.lower() in WORDS["titles"] | {"st", "jr", "sr"})


def _types(text: str, names: list[tuple[int, int]]) -> list[str]:
    """Return a type for each name: the most frequent guess over all mentions of the name, MISC if there is none."""
    votes: dict[str, Counter[str]] = {}
    for start, end in names:
        guess = _guess(text, start, end)
        votes.setdefault(normal_name(text[start:end]), Counter())[guess] += 1 if guess != "MISC" else 0
    return [votes[normal_name(text[start:end])].most_common(1)[0][0] for start, end in names]


def is_acronym(name: str) -> bool:
    """Return True if a name is two to six capital letters, with or without periods."""
    return bool(re.fullmatch(r"(?:[^\W\d_]\.?){2,6}", name)) and name.isupper()


def _guess(text: str, start: int, end: int) -> str:
    """Return the type of a name by its own words and those beside it."""
    name = text[start:end]
    words = re.findall(r"\w+", name)
    lower = [word.lower() for word in words]
    before = [word for word in re.findall(r"\w+|[.!?]", text[max(0, start - 30) : start]) if word.lower() != "the"][-1:]
    after = re.findall(r"^\s*(\w+)", text[end : end + 30])
    follows = before[0].lower() if before else ""
    if text[:start].endswith(('"', "\u201c")) and text[end:].startswith(('"', "\u201d")):
        return "MISC"
    if lower[-1] in WORDS["organizations"] or lower[0] in WORDS["organizations"]:
        return "ORG"
    if lower[-1] in WORDS["places"] or lower[0] in WORDS["places"]:
        return "LOC"
    if is_acronym(name):
        return "LOC" if "." in name and follows in WORDS["before_places"] else "ORG"
    if text[:start].rstrip(" .").rpartition(" ")[2].lower() in WORDS["titles"]:
        return "PER"
    if follows in WORDS["before_places"] and not (after and after[0] in ("who", "said")):
        return "LOC"
    if follows in WORDS["before_organizations"] and "of" in lower:
        return "ORG"
    is_person = 2 <= len(words) <= 4 and "of" not in lower and "&" not in name
    return "PER" if is_person or (len(words) > 1 and after and after[0] in WORDS["after_persons"]) else "MISC"
