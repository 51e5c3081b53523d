"""Invented names for the synthetic corpus, tokenized like DocRED.

Most names contain one of about a hundred thousand invented words, so that two documents hardly ever share a name. First
names are common ones, because they decide between "he" and "she".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import yaml

Tokens = tuple[str, ...]
T = TypeVar("T")


# Lists of words by name. Their order decides what is drawn.
_WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in yaml.safe_load(Path(__file__).with_name("names.yaml").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True, slots=True)
class Name:
    """Name of an entity, as tokens.

    Attributes:
        type: entity type of DocRED, such as "PER".
        full: full name, for the first mention.
        short: short name, for later mentions; equals `full` if there is none.
        article: "the" before `full`, or empty. It is not a part of the mention.
        pronouns: subject, possessive and object pronoun; empty if the entity is never a pronoun.
        adjective: of a country.
        preposition: before a date.
    """

    type: str
    full: Tokens
    short: Tokens
    article: Tokens = ()
    man: bool = False
    pronouns: tuple[Tokens, ...] = ()
    adjective: Tokens = ()
    preposition: Tokens = ("in",)


class Namer:
    """Generator of the names in one document. No two share a name or invented word, except a family its surname."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._used: set[str] = set()

    def name(self, kind: str, year: int) -> Name:
        """Return a new name for an entity of `kind` (the letters of a role in the templates), or a date in `year`."""
        return _MAKERS[kind](self, year)

    def person(self, man: bool, surname: Tokens | None = None) -> Name:
        """Return a person. With a given `surname`, which a relative has too, the short name is the first name."""
        first = self._unused(lambda: self._pick("men" if man else "women"))
        pronouns = (("he",), ("his",), ("him",)) if man else (("she",), ("her",), ("her",))
        if surname is not None:
            return Name("PER", (first, *surname), (first,), man=man, pronouns=pronouns)
        surname = self._surname()
        initial = (self._pick("initials") + ".",) if self._chance(0.05) else ()
        return Name("PER", (first, *initial, *surname), surname, man=man, pronouns=pronouns)

    def _pick(self, words: str) -> str:
        return pick(self._random, _WORDS[words])

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _unused(self, make: Callable[[], str]) -> str:
        name = make()
        while name in self._used:
            name = make()
        self._used.add(name)
        return name

    def _word(self, ends: str = "word ends") -> str:
        return self._unused(lambda: self._pick("starts") + self._pick("middles") + self._pick(ends))

    def _surname(self) -> Tokens:
        word = self._word("surname ends")
        roll = self._random.random()
        if roll < 0.04:
            return ("O'" + word,)
        if roll < 0.09:
            return (word + "-" + self._word("surname ends"),)
        return ("van", word) if roll < 0.12 else (word,)

    def _anyone(self, year: int) -> Name:
        return self.person(self._chance(0.5))

    def _town(self, year: int) -> Name:
        word = self._word("town ends")
        roll = self._random.random()
        full: Tokens = (word,)
        if roll < 0.06:
            full = ("New", word)
        elif roll < 0.12:
            full = ("Port", word)
        elif roll < 0.15:
            full = (word + "-on-" + self._word(),)
        return Name("LOC", full, full, pronouns=(("the", "town"), ("its",), ("the", "town")))

    def _region(self, year: int) -> Name:
        full = (self._pick("regions"), self._word())
        return Name("LOC", full, full)

    def _country(self, year: int) -> Name:
        full = (self._word("country ends"),)
        return Name("LOC", full, full, adjective=(full[0] + "n",))

    def _river(self, year: int) -> Name:
        full = (self._word(), "River")
        return Name("LOC", full, full, article=("the",))

    def _university(self, year: int) -> Name:
        word = self._word()
        roll = self._random.random()
        full: Tokens = (word, "College")
        short: Tokens = (word,)
        if roll < 0.4:
            full = short = ("University", "of", word)
        elif roll < 0.6:
            full, short = (word, "School", "of", "Mines"), (word[0] + "SM",)
        things = (("the", "school"), ("its",), ("the", "school"))
        return Name("ORG", full, short, article=("the",) if len(full) > 2 else (), pronouns=things)

    def _firm(self, year: int) -> Name:
        word = self._word()
        full: Tokens = (word, self._pick("firms"))
        if self._chance(0.05):
            full = (word, "(", "Holdings", ")")
        return Name("ORG", full, (word,), pronouns=(("the", "company"), ("its",), ("the", "company")))

    def _with_noun(self, type_: str, nouns: str, pronouns: tuple[Tokens, ...] = ()) -> Name:
        full = (self._word(), self._pick(nouns))
        return Name(type_, full, full, article=("the",), pronouns=pronouns)

    def _work(self, kind: str) -> Name:
        roll = self._random.random()
        thing = self._pick("things")
        word = self._word()
        full: Tokens = (word, thing)
        if roll < 0.35:
            full = ("The", thing, "of", word)
        elif roll < 0.42:
            full = (word, "'s", thing)
        elif roll < 0.46:
            full = (word, "(", pick(self._random, ("Reprise", "Revisited")), ")")
        return Name("MISC", full, full, pronouns=(("the", kind), ("its",), ("the", kind)))

    def _date(self, year: int) -> Name:
        while True:
            roll = self._random.random()
            full: Tokens = (str(year),)
            if roll < 0.65:
                full = (self._pick("months"), str(year))
            if roll < 0.5:
                full = (str(1 + int(self._random.random() * 28)), *full)
            if " ".join(full) not in self._used:
                self._used.add(" ".join(full))
                return Name("TIME", full, full, preposition=("on",) if roll < 0.5 else ("in",))

    def _number(self, year: int) -> Name:
        digits = self._unused(lambda: f"{100 + int(self._random.random() ** 3 * 60000):,}")
        return Name("NUM", (digits,), (digits,))

    def _age(self, year: int) -> Name:
        digits = self._unused(lambda: str(17 + int(self._random.random() * 14)))
        return Name("NUM", (digits,), (digits,))


def pick(random: Random, choices: Sequence[T]) -> T:
    """Draw one of `choices`. Unlike `Random.choice`, the result is the same in every version of Python."""
    return choices[int(random.random() * len(choices))]


_BAND_PRONOUNS: tuple[Tokens, ...] = (("they",), ("their",), ("the", "band"))
_MAKERS: dict[str, Callable[[Namer, int], Name]] = {
    **dict.fromkeys(_WORDS["dates"], Namer._date),
    **dict.fromkeys(_WORDS["people"], Namer._anyone),
    "town": Namer._town,
    "region": Namer._region,
    "country": Namer._country,
    "river": Namer._river,
    "paper": lambda namer, year: namer._with_noun("ORG", "papers"),
    "univ": Namer._university,
    "firm": Namer._firm,
    "band": lambda namer, year: namer._with_noun("ORG", "bands", _BAND_PRONOUNS),
    "film": lambda namer, year: namer._work("film"),
    "novel": lambda namer, year: namer._work("book"),
    "song": lambda namer, year: namer._work("song"),
    "prize": lambda namer, year: namer._with_noun("MISC", "prizes"),
    "num": Namer._number,
    "age": Namer._age,
}
