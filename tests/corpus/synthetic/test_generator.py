"""The synthetic corpus: deterministic, streamed, with statistics like DocRED's, labeled by the rules of its module."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.docred import parse_document, relations_by_pair, to_json
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.synthetic.generator import RELATIONS, generate
from lmrc.corpus.synthetic.story_plans import DOCUMENT_PLANS, parse
from lmrc.corpus.types import Document, Label


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(generate(500, seed=11))


def all_labels(documents: list[Document]) -> Iterator[tuple[Document, Label]]:
    for document in documents:
        assert document.labels is not None
        yield from ((document, label) for label in document.labels)


def share_sentence(document: Document, label: Label) -> bool:
    head, tail = ({m.sentence for m in document.entities[entity]} for entity in (label.head, label.tail))
    return bool(head & tail)


# ---------------------------------------------------------------------------------------------- determinism, streaming


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_smaller_corpus_is_a_prefix_of_a_larger_one(few: int, more: int, seed: int) -> None:
    assert list(generate(few + more, seed))[:few] == list(generate(few, seed))


def test_documents_are_identical_in_every_process() -> None:
    # String hashes differ between processes unless PYTHONHASHSEED is fixed.
    program = "from lmrc.corpus.synthetic.generator import generate; print(repr(list(generate(30, 7))))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert outputs == {repr(list(generate(30, 7))) + "\n"}


def test_documents_are_those_of_earlier_versions() -> None:
    sha256 = hashlib.sha256(repr(list(generate(300, 66))).encode()).hexdigest()
    assert sha256 == "c58b9e57c52f3a69fff89da7b8eb52ad7f15a9d06f770c2dd8df7d24fc39ca23"


def test_documents_are_streamed() -> None:
    endless = generate(10**12, seed=0)
    assert iter(endless) is endless
    assert len(list(islice(endless, 3))) == 3


def test_seeds_differ() -> None:
    first, second = ({d.title for d in generate(200, seed)} for seed in (0, 1))
    assert not first & second


def test_negative_number_of_documents_is_refused() -> None:
    with pytest.raises(UserError, match="-1 synthetic documents"):
        generate(-1, seed=0)


# ------------------------------------------------------------------------------------------------------------- format


def test_relations_are_a_subset_of_docred_in_its_order() -> None:
    assert [DOCRED.name(relation) for relation in RELATIONS.ids] == list(RELATIONS.names)
    indices = [DOCRED.index(relation) for relation in RELATIONS.ids]
    assert indices == sorted(indices)


def test_documents_round_trip(documents: list[Document]) -> None:
    for index, document in enumerate(documents):
        raw = json.loads(json.dumps(to_json(document)))
        assert parse_document(raw, "synthetic", index, RELATIONS) == document


def test_titles_are_unique(documents: list[Document]) -> None:
    assert len({document.title for document in documents}) == len(documents)


def test_mention_names_equal_their_tokens(documents: list[Document]) -> None:
    for document in documents:
        for mention in (mention for entity in document.entities for mention in entity):
            assert mention.name == " ".join(document.sentences[mention.sentence][mention.start : mention.end])


def test_mentions_do_not_overlap(documents: list[Document]) -> None:
    for document in documents:
        covered = Counter(
            (mention.sentence, position)
            for entity in document.entities
            for mention in entity
            for position in range(mention.start, mention.end)
        )
        assert max(covered.values()) == 1


def test_every_occurrence_of_a_full_name_is_a_mention(documents: list[Document]) -> None:
    for document in documents:
        for entity in document.entities:
            name = entity[0].name.split()
            spans = {(m.sentence, m.start) for e in document.entities for m in e if entity[0].name in m.name}
            for index, sentence in enumerate(document.sentences):
                for start in range(len(sentence)):
                    if list(sentence[start : start + len(name)]) == name:
                        assert any(s == index and p <= start for s, p in spans), (document.title, name)


def test_sentences_are_tokenized_like_docred(documents: list[Document]) -> None:
    for document in documents:
        for sentence in document.sentences:
            assert sentence[-1] == "."
            assert sentence[0][0].isupper()
            assert not [token for token in sentence if set(token) & set("{}<>|?")]
            assert not [token for token in sentence if len(token) > 1 and (token[-1] in ",;)" or token[0] == "(")]
            assert sentence.count("(") == sentence.count(")")


def test_entities_have_docred_types_and_different_names(documents: list[Document]) -> None:
    for document in documents:
        for entity in document.entities:
            assert len({mention.type for mention in entity}) == 1
            assert entity[0].type in {"PER", "LOC", "ORG", "TIME", "NUM", "MISC"}
        names = [{mention.name for mention in entity} for entity in document.entities]
        assert sum(map(len, names)) == len(set().union(*names)), document.title
    assert {e[0].type for d in documents for e in d.entities} == {"PER", "LOC", "ORG", "TIME", "NUM", "MISC"}


def test_some_names_have_punctuation() -> None:
    names = {m.name for d in generate(1000, seed=3) for e in d.entities for m in e if m.type != "TIME"}
    for mark in ("-", "'", "(", "."):
        assert 3 <= sum(mark in name for name in names) < 0.1 * len(names), mark


# ------------------------------------------------------------------------------------------------------------ figures


def test_sizes_of_documents(documents: list[Document]) -> None:
    def mean(values: list[int]) -> float:
        return sum(values) / len(values)

    assert 90 <= mean([sum(map(len, document.sentences)) for document in documents]) <= 130
    assert 9 <= mean([len(document.entities) for document in documents]) <= 13
    assert 5 <= mean([len(document.sentences) for document in documents]) <= 8


def test_share_of_pairs_with_a_relation_is_close_to_redocred(documents: list[Document]) -> None:
    # Re-DocRED dev: 13,362 of 193,232 pairs, 6.9 %.
    related = sum(len(relations_by_pair(document)) for document in documents)
    pairs = sum(len(document.entities) * (len(document.entities) - 1) for document in documents)
    assert 0.055 <= related / pairs <= 0.09


def test_entities_recur_within_a_document(documents: list[Document]) -> None:
    entities = [entity for document in documents for entity in document.entities]
    assert sum(len(entity) > 1 for entity in entities) / len(entities) > 0.1
    assert any(len({mention.name for mention in entity}) > 1 for entity in entities)


def test_some_relations_cross_sentences(documents: list[Document]) -> None:
    crossing = [not share_sentence(document, label) for document, label in all_labels(documents)]
    assert 0.2 <= sum(crossing) / len(crossing) <= 0.45


def test_some_pairs_have_two_relations(documents: list[Document]) -> None:
    several = Counter(
        frozenset(relations)
        for document in documents
        for relations in relations_by_pair(document).values()
        if len(relations) > 1
    )
    assert sum(several.values()) > 0.02 * sum(len(relations_by_pair(document)) for document in documents)
    assert {frozenset({"P19", "P20"}), frozenset({"P57", "P58"}), frozenset({"P69", "P108"})} <= several.keys()


def test_sentences_mention_entities_together_without_a_relation(documents: list[Document]) -> None:
    unrelated = 0
    for document in documents:
        pairs = relations_by_pair(document)
        for index in range(len(document.sentences)):
            mentioned = [i for i, entity in enumerate(document.entities) if any(m.sentence == index for m in entity)]
            unrelated += len(mentioned) > 1 and not any((h, t) in pairs for h in mentioned for t in mentioned)
    assert unrelated > len(documents) / 4


def test_corpora_of_different_seeds_share_few_names() -> None:
    def names(seed: int) -> set[str]:
        return {
            mention.name
            for document in generate(500, seed)
            for entity in document.entities
            for mention in entity
            if mention.type not in {"TIME", "NUM"}
        }

    train, test = names(1), names(2)
    assert len(train & test) / len(test) < 0.05


# --------------------------------------------------------------------------------------------------------- the labels


def test_every_relation_has_at_least_four_phrasings(documents: list[Document]) -> None:
    # A phrasing is the words of an evidence sentence, with mentions replaced by their types.
    phrasings: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    literal = {"a", "an", "the", "of", "in", "on", "by", "at", "was", "were", "is", "and", "to", "for", "from", "who"}
    stating = literal | {"born", "died", "founded", "married", "directed", "released", "worked", "studied"}
    for document, label in all_labels(documents):
        for sentence in label.evidence:
            type_at = {
                position: "HEAD" if e == label.head else "TAIL" if e == label.tail else mention.type
                for e, entity in enumerate(document.entities)
                for mention in entity
                if mention.sentence == sentence
                for position in range(mention.start, mention.end)
            }
            if "TAIL" not in type_at.values() and "HEAD" not in type_at.values():
                continue
            words = [type_at.get(i, token.lower()) for i, token in enumerate(document.sentences[sentence])]
            phrasings[label.relation].add(tuple(w for w in words if w in stating or w in {"HEAD", "TAIL"}))
    assert {relation: len(phrasings[relation]) for relation in RELATIONS if len(phrasings[relation]) < 4} == {}


def test_every_relation_has_at_least_four_templates() -> None:
    stated = defaultdict(set)
    for plan in DOCUMENT_PLANS:
        for _, templates in plan.sections:
            for template in templates:
                for _, relation, _ in template.facts:
                    stated[relation].add(template.parts)
    assert {relation: len(stated[relation]) for relation in RELATIONS if len(stated[relation]) < 4} == {}
    assert stated.keys() == set(RELATIONS)


def test_every_relation_occurs(documents: list[Document]) -> None:
    counts = Counter(label.relation for _, label in all_labels(documents))
    assert counts.keys() == set(RELATIONS)
    assert min(counts.values()) >= 20


def test_labels_are_unique_and_have_evidence(documents: list[Document]) -> None:
    seen = set()
    for document, label in all_labels(documents):
        key = (document.title, label.head, label.tail, label.relation)
        assert key not in seen
        seen.add(key)
        assert label.evidence
        assert list(label.evidence) == sorted(set(label.evidence))
        assert max(label.evidence) < len(document.sentences)


def test_evidence_names_both_entities(documents: list[Document]) -> None:
    for document, label in all_labels(documents):
        for entity in (label.head, label.tail):
            assert {mention.sentence for mention in document.entities[entity]} & set(label.evidence), document.title


TYPES = {
    **dict.fromkeys(["P22", "P25", "P26", "P40"], ({"PER"}, {"PER"})),
    **dict.fromkeys(["P19", "P20", "P27"], ({"PER"}, {"LOC"})),
    **dict.fromkeys(["P569", "P570"], ({"PER"}, {"TIME"})),
    **dict.fromkeys(["P69", "P108"], ({"PER"}, {"ORG"})),
    **dict.fromkeys(["P50", "P57", "P58"], ({"MISC"}, {"PER"})),
    "P175": ({"MISC"}, {"PER", "ORG"}),
    "P577": ({"MISC"}, {"TIME"}),
    "P571": ({"ORG"}, {"TIME"}),
    "P112": ({"ORG"}, {"PER"}),
    "P159": ({"ORG"}, {"LOC"}),
    "P131": ({"LOC"}, {"LOC"}),
    "P17": ({"LOC", "ORG"}, {"LOC"}),
}


def test_gold_labels_follow_the_rules_of_the_module(documents: list[Document]) -> None:
    inferred = Counter[str]()
    for document in documents:
        facts = defaultdict(set)
        for label in document.labels or ():
            facts[label.relation].add((label.head, label.tail))
            heads, tails = TYPES[label.relation]
            assert document.entities[label.head][0].type in heads, (document.title, label)
            assert document.entities[label.tail][0].type in tails, (document.title, label)
        assert facts["P26"] == {(b, a) for a, b in facts["P26"]}
        assert facts["P40"] == {(b, a) for a, b in facts["P22"] | facts["P25"]}
        assert not facts["P22"] & facts["P25"]
        for relation in RELATIONS:
            if relation not in {"P40", "P69", "P108", "P175"}:
                subjects = [head for head, _ in facts[relation]]
                assert len(subjects) == len(set(subjects)), (document.title, relation)
        country = dict(facts["P17"])
        for part, whole in facts["P131"]:
            assert country.get(part) == country.get(whole), document.title
            inferred["P131"] += part in country
        for organization, seat in facts["P159"]:
            assert country.get(organization) == country.get(seat), document.title
            inferred["P159"] += organization in country
    assert min(inferred["P131"], inferred["P159"]) > 10


def test_fathers_and_mothers_share_no_first_names(documents: list[Document]) -> None:
    father = {
        document.entities[x.tail][0].name.split()[0] for document, x in all_labels(documents) if x.relation == "P22"
    }
    mother = {
        document.entities[x.tail][0].name.split()[0] for document, x in all_labels(documents) if x.relation == "P25"
    }
    assert father
    assert mother
    assert not father & mother


# Words of sentences that state no relation.
@pytest.mark.parametrize("word", ["dinner", "canoe", "quarrelled", "travelled", "refused a gift"])
def test_sentences_without_facts_are_no_evidence(documents: list[Document], word: str) -> None:
    seen = 0
    for document in documents:
        for index, sentence in enumerate(document.sentences):
            if word in " ".join(sentence):
                seen += 1
                # It may name the antecedent of a pronoun, but cannot be the only evidence.
                assert not [label for label in document.labels or () if label.evidence == (index,)]
    assert seen


# Words between head and tail in common sentences, and the relation that they state ("^": from tail to head).
PHRASES = [
    ("'s founder was", "P112"),
    ("is a film directed by", "P57"),
    ("is a novel by", "P50"),
    (", whose seat is in", "P159"),
    ("was a citizen of", "P27"),
    ("studied law at the", "P69"),
    ("is the birthplace of", "P19^"),
    ("was the father of", "P40"),
    ("is a company based in", "P159"),
    (", a quiet town in", "P17"),
    ("has been part of", "P17"),
]


@pytest.fixture(scope="module")
def many() -> list[Document]:
    return list(generate(1500, seed=5))


@pytest.mark.parametrize(("words", "relation"), PHRASES)
def test_common_phrases_are_labeled(many: list[Document], words: str, relation: str) -> None:
    occurrences = 0
    for document in many:
        pairs = relations_by_pair(document)
        starts = {(m.sentence, m.start): e for e, entity in enumerate(document.entities) for m in entity}
        ends = {(m.sentence, m.end): e for e, entity in enumerate(document.entities) for m in entity}
        length = len(words.split())
        for (sentence, end), left in ends.items():
            right = starts.get((sentence, end + length))
            if right is not None and " ".join(document.sentences[sentence][end : end + length]) == words:
                occurrences += 1
                pair = (right, left) if relation.endswith("^") else (left, right)
                assert relation.rstrip("^") in pairs.get(pair, ()), (document.title, document.sentences[sentence])
    assert occurrences


def test_template_may_only_state_facts_about_its_roles() -> None:
    with pytest.raises(ValueError, match="does not name"):
        parse("{S} died . | S P20 town", {})
    with pytest.raises(ValueError, match="not a sentence"):
        parse("{S} died", {})
    with pytest.raises(ValueError, match="not a slot"):
        parse("{S!} died .", {})
