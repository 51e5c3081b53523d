from __future__ import annotations

from itertools import pairwise

import pytest

from lmrc.text.rules import RuleFinder, is_acronym


def found(text: str) -> list[tuple[str, str]]:
    return [(text[mention.start : mention.end], mention.type) for mention in RuleFinder().find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Lum was born in Port Bly.", [("Ada Lum", "PER"), ("Port Bly", "LOC")]),
        # A sentence's first word is no name if it is a common one, or stands elsewhere in lower case.
        ("The bank failed. Banks fail; so do banks.", []),
        ("Winter came. Every winter is long.", []),
        ("Tamm is a town.", [("Tamm", "MISC")]),
        ("New York City grew.", [("New York City", "LOC")]),
        # Titles are not in the name, but tell its type.
        ("Then Dr. Lum left.", [("Lum", "PER")]),
        ("President Orr met J. R. Lum.", [("Orr", "PER"), ("J. R. Lum", "PER")]),
        ("She is at the University of Tamm.", [("University of Tamm", "ORG")]),
        ("It was sold to Smith & Sons Ltd.", [("Smith & Sons Ltd", "ORG")]),
        ("In the U.S. she met Jean-Paul O'Neil.", [("U.S.", "LOC"), ("Jean-Paul O'Neil", "PER")]),
        ("The WHO pays those who ask.", [("WHO", "ORG")]),
        ('He wrote "The Long Way" there.', [("The Long Way", "MISC")]),
        ("It is paid on Monday or in June.", []),
        ("Ann left on 12 March 1921, on March 12, 1921 and on 1921-03-12.",
         [("Ann", "MISC"), ("12 March 1921", "TIME"), ("March 12, 1921", "TIME"), ("1921-03-12", "TIME")]),
        ("in May 1951, in 1951 and in the 1950s",
         [("May 1951", "TIME"), ("1951", "TIME"), ("1950s", "TIME")]),
        ("about 25%, $3,000 and 2.5 million", [("25%", "NUM"), ("$3,000", "NUM"), ("2.5 million", "NUM")]),
        ("room 12b, version 1.2.3-rc", []),
        # A name does not go over a blank line.
        ("by Ada\n\nLum came", [("Ada", "MISC"), ("Lum", "MISC")]),
        ("", []),
    ],
)  # fmt: skip
def test_mentions_and_types(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_a_name_has_the_type_that_most_of_its_mentions_suggest() -> None:
    assert found("We met Bly. She left for Bly. He came from Bly in haste.")[0] == ("Bly", "LOC")


def test_mentions_do_not_overlap_and_are_sorted() -> None:
    text = "On 3 May 1951 May Orr, of Orr & Sons, born 1920, paid 20 million to the May Company."
    mentions = RuleFinder().find(text)
    assert all(one.end <= other.start for one, other in pairwise(mentions))
    assert ("May Orr", "PER") in found(text)


@pytest.mark.parametrize(
    ("name", "expected"), [("WHO", True), ("U.S.", True), ("Who", False), ("A", False), ("12", False)]
)
def test_acronyms(name: str, expected: bool) -> None:
    assert is_acronym(name) is expected
