from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import to_json
from lmrc.corpus.relations import DOCRED
from lmrc.evaluation.metrics.train_facts import read_facts
from tests.evaluation.examples import RELATIONS, document, family

FAMILY = {
    ("Ann", "Bob", "P1"),
    ("Ann", "Robert", "P1"),
    ("Ann", "Bob", "P2"),
    ("Ann", "Robert", "P2"),
    ("Bob", "Paris", "P3"),
    ("Robert", "Paris", "P3"),
}


def test_all_formats_give_the_same_facts(tmp_path: Path) -> None:
    documents = tmp_path / "train.json"
    documents.write_text(json.dumps([to_json(family())]))
    listed = tmp_path / "facts.json"
    listed.write_text(json.dumps([list(fact) for fact in sorted(FAMILY)] * 2))
    folder = tmp_path / "corpus"
    write_corpus([family()], folder, RELATIONS, "train.json", "0" * 64)
    lines = tmp_path / "train.jsonl"
    lines.write_text(json.dumps(to_json(family())) + "\n")
    for path in (documents, listed, folder, lines):
        facts = read_facts(path, RELATIONS)
        assert facts.triples == FAMILY
        assert facts.source == str(path)
    assert read_facts(documents, RELATIONS).sha256 == hashlib.sha256(documents.read_bytes()).hexdigest()
    assert read_facts(listed, RELATIONS).sha256 == hashlib.sha256(listed.read_bytes()).hexdigest()
    built = read_facts(folder, RELATIONS)
    assert built.sha256 == Corpus.open(folder).fingerprint
    assert built.description == f"{folder} (built from train.json, sha256 {'0' * 64})"
    assert (built.as_json()["file"], built.as_json()["file_sha256"]) == ("train.json", "0" * 64)
    assert read_facts(listed, RELATIONS).description == f"{listed} (sha256 {read_facts(listed, RELATIONS).sha256})"


def test_contains_matches_any_name_and_is_case_sensitive(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[["Ann", "Robert", "P1"]]')
    facts = read_facts(path, RELATIONS)
    ann, bob, paris = family().entities
    assert facts.contains(ann, bob, "P1")
    assert not facts.contains(bob, ann, "P1")
    assert not facts.contains(ann, bob, "P2")
    assert not facts.contains(ann, paris, "P1")
    lower = document("x", [[("ann", 0)], [("Robert", 0)]], []).entities
    assert not facts.contains(lower[0], lower[1], "P1")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "holds no facts"),
        ('[["Ann", "Bob"]]', "element 0 is not a fact"),
        ('[["Ann", "Bob", "P1"], ["Ann", "Bob", 1]]', "element 1 is not a fact"),
        ('[["Ann", "Bob", "P9"]]', "fact 0: unknown relation 'P9'; did you mean"),
        ('[{"title": "x"}]', "document 0"),
        ('{"Ann": "Bob"}', "an object with 'Ann', which is no document"),
        (json.dumps([to_json(document("x", [[("Ann", 0)]], []))]), "holds no facts"),
    ],
)
def test_other_formats_are_rejected(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_facts(path, RELATIONS)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_facts(tmp_path / "absent.json", RELATIONS)


def test_number_of_docred_facts(shared_data: Path) -> None:
    assert len(read_facts(shared_data / "docred_train_facts.json", DOCRED).triples) == 52_293
