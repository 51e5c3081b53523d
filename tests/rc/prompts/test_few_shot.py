from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED
from lmrc.rc.prompts.few_shot import Demonstration, demonstration_tokens, demonstrations, few_shot_messages
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import PROMPTS
from tests.rc import tiny


@pytest.fixture(scope="module")
def corpus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("train") / "corpus"
    documents = list(read_documents(shared_data / "redocred_train_992.json", DOCRED))[:60]
    write_corpus(documents, folder, DOCRED, "redocred_train_992.json", "0" * 64)
    return Corpus.open(folder)


def gold_lines(corpus: Corpus, demonstration: Demonstration) -> list[str]:
    """Return the lines of the gold answer, computed from the labels."""
    document = corpus[demonstration.document]
    names = [" ".join(entity[0].name.split()) for entity in document.entities]
    lines = []
    for head, tail in demonstration.pairs:
        gold = {label.relation for label in document.labels or () if (label.head, label.tail) == (head, tail)}
        for name in [corpus.relations.name(id_) for id_ in corpus.relations.ids if id_ in gold] or ["None"]:
            lines.append(f"({names[head]}| {name}| {names[tail]})")
    return lines


@pytest.mark.parametrize("seed", range(4))
def test_three_documents_with_related_and_unrelated_pairs(corpus: Corpus, seed: int) -> None:
    shown = demonstrations(corpus, "direct", seed=seed)
    assert len({demonstration.document for demonstration in shown}) == 3
    for demonstration in shown:
        document = corpus[demonstration.document]
        related = {(label.head, label.tail) for label in document.labels or ()}
        assert len(set(demonstration.pairs)) == len(demonstration.pairs) == 10
        assert sum(pair in related for pair in demonstration.pairs) == min(5, len(related))
        assert list(demonstration.pairs) == sorted(demonstration.pairs)
        assert demonstration.title == document.title
        assert demonstration.prompt == PROMPTS["direct"].render(document, demonstration.pairs, corpus.relations)
        assert demonstration.answer.split("\n") == gold_lines(corpus, demonstration)
        assert "| None| " in demonstration.answer


def test_rc_shows_pairs_with_a_relation_only(corpus: Corpus) -> None:
    for demonstration in demonstrations(corpus, "rc", count=5, pairs=7):
        related = {(label.head, label.tail) for label in corpus[demonstration.document].labels or ()}
        assert set(demonstration.pairs) <= related
        assert len(demonstration.pairs) == min(7, len(related))
        assert demonstration.answer.split("\n") == gold_lines(corpus, demonstration)
        assert "None" not in demonstration.answer


def test_the_seed_determines_the_demonstrations(corpus: Corpus) -> None:
    drawn = [tuple(demonstrations(corpus, "direct", seed=seed)) for seed in range(8)]
    assert drawn == [tuple(demonstrations(corpus, "direct", seed=seed)) for seed in range(8)]
    assert len(set(drawn)) == 8


def test_documents_without_both_kinds_of_pairs_are_skipped(tmp_path: Path) -> None:
    full = tiny.document(["A", "B"], [(0, 1, "P26"), (1, 0, "P26")], "full")
    both = tiny.document(["A", "B", "C"], [(0, 1, "P17"), (0, 1, "P495"), (2, 1, "P26")], "both")
    corpus = tiny.corpus(tmp_path / "corpus", [full, tiny.document(["A", "B"], [], "empty"), both])
    for seed in range(6):
        (demonstration,) = demonstrations(corpus, "direct", count=1, pairs=3, seed=seed)
        assert demonstration.title == "both"
        assert len(demonstration.pairs) == 3
        assert {(0, 1), (2, 1)} <= set(demonstration.pairs)
        assert demonstration.answer.count("None") == 1
    with pytest.raises(
        UserError, match=r"has 1 documents with pairs with and pairs without .* few_shot\.examples is 2"
    ):
        demonstrations(corpus, "direct", count=2)
    assert {shown.title for shown in demonstrations(corpus, "rc", count=2)} == {"full", "both"}
    with pytest.raises(UserError, match=r"has 2 documents with pairs with a relation, but few_shot\.examples is 3"):
        demonstrations(corpus, "rc", count=3)
    with pytest.raises(UserError, match="a demonstration of 1 pairs"):
        demonstrations(corpus, "direct", count=1, pairs=1)


def test_the_query_is_the_last_turn() -> None:
    shown = [Demonstration(0, "t", ((0, 1),), f"prompt {index}", f"answer {index}") for index in range(2)]
    query = Query(7, "title", ((0, 1),), "the prompt", None, 10)
    assert few_shot_messages(shown, query) == [
        {"role": "user", "content": "prompt 0"},
        {"role": "assistant", "content": "answer 0"},
        {"role": "user", "content": "prompt 1"},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "the prompt"},
    ]
    assert few_shot_messages([], query) == [{"role": "user", "content": "the prompt"}]


def test_tokens_of_demonstrations() -> None:
    tokenizer = tiny.tokenizer()  # one token per byte
    shown = [Demonstration(0, "t", ((0, 1),), "é" * 3, "answer"), Demonstration(0, "t", ((0, 1),), "ab", "")]
    ends = 2
    assert demonstration_tokens(shown, tokenizer) == 6 + 6 + 2 + ends
    assert demonstration_tokens([], tokenizer) == 0


def test_rcp_llm_shows_yes_and_no(tmp_path: Path) -> None:
    corpus = tiny.corpus(tmp_path / "corpus", [tiny.document(["A", "B", "C"], [(0, 1, "P17"), (0, 1, "P495")])])
    (demonstration,) = demonstrations(corpus, "rcp-llm", count=1, pairs=2)
    assert "(A| Yes| B)" in demonstration.answer
    assert demonstration.answer.count("| No| ") == 1
