"""Invented names for the synthetic corpus, tokenized like DocRED.

Most names contain one of about a hundred thousand invented words, so that two documents hardly ever share a name. First
names are common ones, because they decide between "he" and "she".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

Tokens = tuple[str, ...]
T = TypeVar("T")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STARTS = _words("""
Ba Be Bi Bo Bra Bre Bro Bru Ca Ce Co Cra Cro Da De Do Dra Dre Dro Fa Fe Fla Flo Fra Fre Ga Ge Gla Go Gra Gre Ha He Ho
Hu Ja Je Jo Ka Ke Ko Kra Kri La Le Lo Lu Ma Me Mi Mo Na Ne No Nu Pa Pe Pla Po Pra Pri Qua Ra Re Ro Ru Sa Se Ska Sla So
Ste Sto Ta Te Tho To Tra Tre Tu Va Ve Vo Wa We Wo Ya Ye Za Ze Zo
""")
_MIDDLES = _words("""
bra dri dra fle ga gri ka ko la li lo lva ma me mbe mo na nde ndo ni nta ra rdi re ri rka rla rma rna ro rte rvi sa se
ski sta ste sti ta te ti tho va ve vi zo
""")
_SURNAME_ENDS = _words(
    "bek berg dahl dell der dov feld gan gard hart kin lan len lin lov man mer min nik ric rin ris sen ski son tin "
    "tov vak ver vin wick zek"
)
_TOWN_ENDS = _words(
    "bach borg bridge burg bury by cester cliff dale dorf field ford gate ham haven holm hurst mere minster mouth "
    "port stad stead ton vale ville wall wick worth"
)
_COUNTRY_ENDS = _words("lia nia ria dia sia via ndia stria lonia rania")
_WORD_ENDS = _words(
    "bor cor dan dex dor lan lex lor max mon nix nor rax ren rex ron san sor tal tan tex tor van vex xan"
)

_MEN = _words("""
Adam Albert Andrew Anton Arthur Ben Carl Charles Daniel David Edward Eric Felix Frank Fred George Harold Henry Hugo
Isaac Jack James John Joseph Karl Leo Louis Mark Martin Max Michael Oscar Otto Patrick Paul Peter Philip Ralph Robert
Samuel Simon Stephen Theodore Thomas Victor Walter William
""")
_WOMEN = _words("""
Ada Agnes Alice Amy Anna Barbara Beatrice Carla Catherine Clara Diana Dora Edith Elena Elizabeth Ella Emily Emma Eva
Fiona Flora Frances Grace Hannah Helen Ida Irene Jane Julia Kate Laura Lucy Margaret Maria Martha Mary Nancy Nina Nora
Olga Olivia Rachel Rosa Ruth Sarah Sophie Susan Vera
""")
_THINGS = _words("""
Garden Lantern Harbour Winter Mirror River Bridge Orchard Tower Letter Island Clock Valley Journey Stranger Window
Shadow Summer Forest Road
""")
_WORK_SUFFIXES = (("(", "Reprise", ")"), ("(", "Revisited", ")"))
_FIRMS = _words("Works Motors Shipping Mills Foundry Press Industries Trading Glass Tools")
_BANDS = _words("Brothers Quartet Ramblers Orchestra Players Trio")
_MONTHS = _words("January February March April May June July August September October November December")


@dataclass(frozen=True, slots=True)
class Name:
    """Name of an entity, as tokens.

    Attributes:
        type: entity type of DocRED, such as "PER".
        full: full name, for the first mention.
        short: short name, for later mentions; equals `full` if there is none.
        article: "the" before `full`, or empty. It is not a part of the mention.
        man: True for a man.
        pronouns: subject, possessive and object pronoun; empty if the entity is never a pronoun.
        adjective: adjective of a country.
        preposition: preposition before a date.
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
        first = self._unused(lambda: pick(self._random, _MEN if man else _WOMEN))
        pronouns = (("he",), ("his",), ("him",)) if man else (("she",), ("her",), ("her",))
        if surname is not None:
            return Name("PER", (first, *surname), (first,), man=man, pronouns=pronouns)
        surname = self._surname()
        initial = (pick(self._random, "ABCDEFGHJKLMNPRSTVW") + ".",) if self._chance(0.05) else ()
        return Name("PER", (first, *initial, *surname), surname, man=man, pronouns=pronouns)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _unused(self, make: Callable[[], str]) -> str:
        name = make()
        while name in self._used:
            name = make()
        self._used.add(name)
        return name

    def _word(self, ends: Sequence[str] = _WORD_ENDS) -> str:
        random = self._random
        return self._unused(lambda: pick(random, _STARTS) + pick(random, _MIDDLES) + pick(random, ends))

    def _surname(self) -> Tokens:
        word = self._word(_SURNAME_ENDS)
        roll = self._random.random()
        if roll < 0.04:
            return ("O'" + word,)
        if roll < 0.09:
            return (word + "-" + self._word(_SURNAME_ENDS),)
        return ("van", word) if roll < 0.12 else (word,)

    def _anyone(self, year: int) -> Name:
        return self.person(self._chance(0.5))

    def _town(self, year: int) -> Name:
        word = self._word(_TOWN_ENDS)
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
        full = (pick(self._random, ("Upper", "Lower", "North", "South", "East", "West")), self._word())
        return Name("LOC", full, full)

    def _country(self, year: int) -> Name:
        full = (self._word(_COUNTRY_ENDS),)
        return Name("LOC", full, full, adjective=(full[0] + "n",))

    def _river(self, year: int) -> Name:
        full = (self._word(), "River")
        return Name("LOC", full, full, article=("the",))

    def _paper(self, year: int) -> Name:
        full = (self._word(), pick(self._random, ("Gazette", "Courier", "Herald", "Observer", "Tribune")))
        return Name("ORG", full, full, article=("the",))

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
        full: Tokens = (word, pick(self._random, _FIRMS))
        if self._chance(0.05):
            full = (word, "(", "Holdings", ")")
        return Name("ORG", full, (word,), pronouns=(("the", "company"), ("its",), ("the", "company")))

    def _band(self, year: int) -> Name:
        full = (self._word(), pick(self._random, _BANDS))
        return Name("ORG", full, full, article=("the",), pronouns=(("they",), ("their",), ("the", "band")))

    def _work(self, kind: str) -> Name:
        roll = self._random.random()
        thing = pick(self._random, _THINGS)
        word = self._word()
        full: Tokens = (word, thing)
        if roll < 0.35:
            full = ("The", thing, "of", word)
        elif roll < 0.42:
            full = (word, "'s", thing)
        elif roll < 0.46:
            full = (word, *pick(self._random, _WORK_SUFFIXES))
        return Name("MISC", full, full, pronouns=(("the", kind), ("its",), ("the", kind)))

    def _prize(self, year: int) -> Name:
        full = (self._word(), pick(self._random, ("Prize", "Medal", "Award")))
        return Name("MISC", full, full, article=("the",))

    def _date(self, year: int) -> Name:
        while True:
            roll = self._random.random()
            full: Tokens = (str(year),)
            if roll < 0.65:
                full = (pick(self._random, _MONTHS), str(year))
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


_DATES = _words("birth death born died wed grad date pub start later")
_PEOPLE = _words("person guest worker pupil native dead founder director writer author singer performer")
_MAKERS: dict[str, Callable[[Namer, int], Name]] = {
    **dict.fromkeys(_DATES, Namer._date),
    **dict.fromkeys(_PEOPLE, Namer._anyone),
    "town": Namer._town,
    "region": Namer._region,
    "country": Namer._country,
    "river": Namer._river,
    "paper": Namer._paper,
    "univ": Namer._university,
    "firm": Namer._firm,
    "band": Namer._band,
    "film": lambda namer, year: namer._work("film"),
    "novel": lambda namer, year: namer._work("book"),
    "song": lambda namer, year: namer._work("song"),
    "prize": Namer._prize,
    "num": Namer._number,
    "age": Namer._age,
}
