from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED
from lmrc.rc.prompts.few_shot import Demonstration, demonstrated_tokens, demonstrations, few_shot_messages
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import prompt
from tests.rc import tiny


@pytest.fixture(scope="module")
def corpus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("train") / "corpus"
    documents = list(read_documents(shared_data / "redocred_train_992.json", DOCRED))[:60]
    write_corpus(documents, folder, DOCRED, "redocred_train_992.json", "0" * 64)
    return Corpus.open(folder)


def gold_lines(corpus: Corpus, one: Demonstration) -> list[str]:
    """The answer, written from the labels afresh."""
    document = corpus[one.document]
    names = [" ".join(entity[0].name.split()) for entity in document.entities]
    lines = []
    for head, tail in one.pairs:
        found = {label.relation for label in document.labels or () if (label.head, label.tail) == (head, tail)}
        for name in [corpus.relations.name(id_) for id_ in corpus.relations.ids if id_ in found] or ["None"]:
            lines.append(f"({names[head]}| {name}| {names[tail]})")
    return lines


@pytest.mark.parametrize("seed", range(4))
def test_three_documents_with_related_and_unrelated_pairs(corpus: Corpus, seed: int) -> None:
    shown = demonstrations(corpus, "direct", seed=seed)
    assert len({one.document for one in shown}) == 3
    for one in shown:
        document = corpus[one.document]
        related = {(label.head, label.tail) for label in document.labels or ()}
        assert len(set(one.pairs)) == len(one.pairs) == 10
        assert sum(pair in related for pair in one.pairs) == min(5, len(related))
        assert list(one.pairs) == sorted(one.pairs)
        assert one.title == document.title
        assert one.prompt == prompt(document, one.pairs, corpus.relations, "direct")
        assert one.answer.split("\n") == gold_lines(corpus, one)
        assert "| None| " in one.answer


def test_of_rc_only_related_pairs_are_shown(corpus: Corpus) -> None:
    for one in demonstrations(corpus, "rc", count=5, pairs=7):
        related = {(label.head, label.tail) for label in corpus[one.document].labels or ()}
        assert set(one.pairs) <= related
        assert len(one.pairs) == min(7, len(related))
        assert one.answer.split("\n") == gold_lines(corpus, one)
        assert "None" not in one.answer


def test_the_seed_decides(corpus: Corpus) -> None:
    drawn = [tuple(demonstrations(corpus, "direct", seed=seed)) for seed in range(8)]
    assert drawn == [tuple(demonstrations(corpus, "direct", seed=seed)) for seed in range(8)]
    assert len(set(drawn)) == 8


def test_documents_that_cannot_show_both_are_passed_over(tmp_path: Path) -> None:
    full = tiny.document(["A", "B"], [(0, 1, "P26"), (1, 0, "P26")], "full")
    both = tiny.document(["A", "B", "C"], [(0, 1, "P17"), (0, 1, "P495"), (2, 1, "P26")], "both")
    corpus = tiny.corpus(tmp_path / "corpus", [full, tiny.document(["A", "B"], [], "empty"), both])
    for seed in range(6):
        (one,) = demonstrations(corpus, "direct", count=1, pairs=3, seed=seed)
        assert one.title == "both"
        assert len(one.pairs) == 3
        assert {(0, 1), (2, 1)} <= set(one.pairs)
        assert one.answer.count("None") == 1
    with pytest.raises(UserError, match="has 1 documents with pairs with and pairs without a relation, but 2"):
        demonstrations(corpus, "direct", count=2)
    assert {one.title for one in demonstrations(corpus, "rc", count=2)} == {"full", "both"}
    with pytest.raises(UserError, match="has 2 documents with pairs with a relation, but 3"):
        demonstrations(corpus, "rc", count=3)
    with pytest.raises(UserError, match="a demonstration of 1 pairs"):
        demonstrations(corpus, "direct", count=1, pairs=1)


def test_a_query_comes_after_the_demonstrations() -> None:
    shown = [Demonstration(0, "t", ((0, 1),), f"prompt {number}", f"answer {number}") for number in range(2)]
    asked = Query(7, "title", ((0, 1),), "the prompt", None, 10)
    assert few_shot_messages(shown, asked) == [
        {"role": "user", "content": "prompt 0"},
        {"role": "assistant", "content": "answer 0"},
        {"role": "user", "content": "prompt 1"},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "the prompt"},
    ]
    assert few_shot_messages([], asked) == [{"role": "user", "content": "the prompt"}]


def test_tokens_of_demonstrations() -> None:
    tokenizer = tiny.tokenizer()  # a token a byte
    shown = [Demonstration(0, "t", ((0, 1),), "é" * 3, "answer"), Demonstration(0, "t", ((0, 1),), "ab", "")]
    ends = 2
    assert demonstrated_tokens(shown, tokenizer) == 6 + 6 + 2 + ends
    assert demonstrated_tokens([], tokenizer) == 0
