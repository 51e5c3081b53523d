"""The prompts of the ideas for RC."""

from __future__ import annotations

import pytest

from benchmarks.rc_ideas import Idea, Negatives, TopK, Types
from lmrc.corpus.candidates import Candidate, RelationLogit
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.rc.prompts.templates import PROMPTS

RELATIONS = RelationSet(("P17", "P159", "P131"), ("country", "headquarters location", "located in"))
WORDS = ("Skai", "of", "Piraeus", "in", "Greece", ".", "###", "3", "Entity", "pairs:")
DOCUMENT = Document(
    "Skai",
    (WORDS,),
    (
        (Mention("Skai", 0, 0, 1, "ORG"),),
        (Mention("Piraeus", 0, 2, 3, "LOC"),),
        (Mention("Greece", 0, 4, 5, "LOC"),),
    ),
    (Label(0, 2, "P17", ()),),
)
PROPOSED = {
    "Skai": {
        (0, 1): Candidate(0, 1, 0.9, (RelationLogit("P17", -1.0), RelationLogit("P159", 2.0))),
        (1, 0): Candidate(1, 0, 0.4),
    }
}


def lines(prompt: str) -> list[str]:
    """Return the lines about pairs."""
    return prompt.rsplit("Entity pairs:\n", 1)[1].split("\n\n### Response:")[0].split("\n")


def test_no_idea_is_the_prompt_of_the_paper() -> None:
    pairs = [(0, 1), (0, 2)]
    assert Idea.of(PROPOSED).render(DOCUMENT, pairs, RELATIONS) == PROMPTS["rc"].render(DOCUMENT, pairs, RELATIONS)


def test_types_stand_behind_the_names_and_nothing_else_changes() -> None:
    prompt = Types.of({}).render(DOCUMENT, [(1, 0), (0, 2)], RELATIONS)
    assert lines(prompt) == ["(Skai, ORG| -| Greece, LOC)", "(Piraeus, LOC| -| Skai, ORG)"]
    paper = PROMPTS["rc"].render(DOCUMENT, [(1, 0), (0, 2)], RELATIONS)
    assert prompt.replace(", ORG", "").replace(", LOC", "") == paper


def test_top_k_names_the_most_probable_relations_in_place_of_the_set() -> None:
    prompt = TopK.of(PROPOSED).render(DOCUMENT, [(0, 1), (0, 2)], RELATIONS)
    assert lines(prompt) == ["(Skai| -| Piraeus): headquarters location, country", "(Skai| -| Greece): "]
    assert "Relation set:" not in prompt
    assert " ".join(WORDS) in prompt


@pytest.mark.parametrize(("idea", "pairs"), [(Idea, [(0, 2)]), (Negatives, [(0, 1), (0, 2)])])
def test_negatives_are_pairs_that_rcp_proposes_at_one_half(idea: type[Idea], pairs: list[tuple[int, int]]) -> None:
    prompt = idea.of(PROPOSED)
    assert prompt.pairs(DOCUMENT) == pairs
    assert prompt.answer_set(RELATIONS).none_is_possible == (idea is Negatives)
