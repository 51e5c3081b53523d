from __future__ import annotations

from lmrc.corpus.reading.breach_list import EXAMPLES, BreachList
from lmrc.corpus.reading.format_check import Breach, Kind


def test_one_breach_is_one_line() -> None:
    breaches = BreachList("docs.json")
    assert not breaches
    breaches.add(7, {"title": "Ada"}, [Breach(Kind.SELF, "label 0: h and t are both 1")])
    error = breaches.error(9)
    assert str(error) == "docs.json: document 7 ('Ada'): label 0: h and t are both 1"
    assert str(error.with_remedy("type this")) == f"{error}; type this"


def test_many_are_counted_and_the_first_described() -> None:
    breaches = BreachList("docs.json")
    for index in range(1_200):
        breaches.add(index, [], [Breach(Kind.EMPTY_SPAN, f"empty {index}")] * 2)
    breaches.add(1_200, {"title": 3}, [Breach(Kind.RELATION, "unknown")])
    error = breaches.error(5_000).with_remedy("type this")
    lines = str(error).splitlines()
    assert lines[0] == "docs.json: 2,401 breaches of DocRED's format in 1,201 of 5,000 documents:"
    assert lines[1] == "  - 2,400 empty spans:"
    assert lines[2 : 2 + EXAMPLES] == [f"      document {i} (without a title): empty {i}" for i in (0, 0, 1)]
    assert lines[2 + EXAMPLES] == "      and 2,397 more"
    assert lines[3 + EXAMPLES].startswith("  - 1 label with an unknown relation (give the relation set")
    assert lines[-1] == "type this"
    assert error.counts == {Kind.EMPTY_SPAN: 2_400, Kind.RELATION: 1}
