from __future__ import annotations

from dataclasses import replace

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.rc.prompts.templates import PROMPTS, YES, check_relations
from tests.rc.tiny import RELATIONS, document

RC = PROMPTS["rc"]
DOCUMENT = document(
    ["Ada\nLovelace", "Bob (singer)", "U.S.\t"], [(1, 2, "P495"), (0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")]
)

TABLE_12 = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
This is a relation classification task. we will provide entity pairs that require relation classification. Your task is to select relations for each entity pair from the given relation set based on the information in the text. There may be multiple relations between an entity pair.
The format of the input entity pair is '(head entity| -| tail entity)'.
Your output format is '(head entity| relation| tail entity)'.

### Relation set:
['country', 'country of origin', 'part of', 'participant of', 'spouse']

### Text:
Ada met Bob . The end .

### 2 Entity pairs:
(Ada Lovelace| -| Bob (singer))
(Bob (singer)| -| U.S.)

### Response:
"""  # noqa: E501

TABLE_11 = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
Your task is to determine whether there are relations between the entity pairs based on the information in the text. If there exists relations, select relations for the entity pairs from the relation set; if there is no relation, return None.
The format of the input entity pair is '(head entity| -| tail entity)'.
Your output format is '(head entity| relation/None| tail entity)'.

### Relation set:
['country', 'country of origin', 'part of', 'participant of', 'spouse']

### Text:
Ada met Bob . The end .

### 1 Entity pairs:
(U.S.| -| Ada Lovelace)

### Response:
"""  # noqa: E501


def test_rc_is_table_12() -> None:
    assert RC.render(DOCUMENT, [(0, 1), (1, 2)], RELATIONS) == TABLE_12


def test_direct_is_table_11() -> None:
    assert PROMPTS["direct"].render(DOCUMENT, [(2, 0)], RELATIONS) == TABLE_11


def test_pairs_are_sorted() -> None:
    assert RC.render(DOCUMENT, [(1, 2), (0, 1)], RELATIONS) == TABLE_12


def test_braces_in_the_text_are_kept() -> None:
    text = RC.render(document(["{pairs}", "b"], [], text="{text} {} {0}"), [(0, 1)], RELATIONS)
    assert "\n{text} {} {0} The end .\n" in text
    assert "\n({pairs}| -| b)\n" in text


def test_relation_set_of_docred_equals_the_published_prompt() -> None:
    text = RC.render(DOCUMENT, [(0, 1)], DOCRED)
    assert "### Relation set:\n['head of government', 'country', 'place of birth', 'place of death', 'father'," in text
    assert "'dissolved, abolished or demolished'" in text


def test_answer_is_sorted_by_pair_and_relation_set() -> None:
    gold = {(1, 2): ("P495", "P17", "P495"), (0, 1): ("P26",)}
    assert RC.answer(DOCUMENT, gold, RELATIONS) == (
        "(Ada Lovelace| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)"
    )


def test_pair_without_relation_is_answered_none() -> None:
    assert PROMPTS["direct"].answer(DOCUMENT, {(2, 0): (), (0, 1): ("P26",)}, RELATIONS) == (
        "(Ada Lovelace| spouse| Bob (singer))\n(U.S.| None| Ada Lovelace)"
    )


def test_rcp_llm_asks_for_yes_or_no() -> None:
    prompt = PROMPTS["rcp-llm"]
    assert prompt.answer(DOCUMENT, {(1, 2): ("P495", "P17"), (2, 0): ()}, RELATIONS) == (
        "(Bob (singer)| Yes| U.S.)\n(U.S.| No| Ada Lovelace)"
    )
    assert "'(head entity| Yes/No| tail entity)'" in prompt.render(DOCUMENT, [(0, 1)], RELATIONS)


def test_pairs_and_answers_of_each_kind() -> None:
    everything = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    expected = {
        "rc": ([(0, 1), (1, 2)], (RELATIONS, "None", False)),
        "direct": (everything, (RELATIONS, "None", True)),
        "rcp-llm": (everything, (YES, "No", True)),
        # Its pairs and questions are those of candidates.
        "likelihood": ([(0, 1), (1, 2)], (RELATIONS, "None", False)),
    }
    for kind, prompt in PROMPTS.items():
        assert (prompt.pairs(DOCUMENT), prompt.answer_set(RELATIONS)) == expected[kind]


def test_gold_pairs_need_labels() -> None:
    unlabeled = replace(DOCUMENT, title="No labels", labels=None)
    with pytest.raises(UserError, match="'No labels' has no labels"):
        RC.pairs(unlabeled)
    assert len(PROMPTS["direct"].pairs(unlabeled)) == 6


@pytest.mark.parametrize("name", ["None", "a| b", "two\nlines", " padded"])
def test_relation_names_that_cannot_be_read_back_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"relation P1 is named"):
        check_relations(RelationSet(ids=("P1",), names=(name,)))
    check_relations(DOCRED)
