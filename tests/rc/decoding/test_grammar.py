from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import PromptKind
from lmrc.corpus.docred import candidate_pairs, read_documents, relations_by_pair
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.parsing import parse
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query, answer_ids
from lmrc.rc.prompts.templates import PROMPTS, Pair
from tests.rc.tiny import KINDS, RELATIONS, document, merging_tokenizer, tokenizer

BYTES = tokenizer()
names = st.sampled_from(["Ada", "B", "B)", "(C|", "U.S.", "Zoë the 2nd", "B) (x"])


def query(kind: PromptKind, pairs: list[Pair]) -> Query:
    return Query(0, "t", tuple(pairs), "", None, 10_000)


def grammar(words: PreTrainedTokenizerBase, kind: PromptKind, made: Document, pairs: list[Pair]) -> Grammar:
    return Grammar(query(kind, pairs), made, RELATIONS, kind, words)


def is_possible(written: PartialAnswer, ids: list[int]) -> bool:
    for token in ids:
        if written.ended or token not in written.allowed():
            return False
        written.write(token)
    return written.ended


@given(data=st.data(), kind=st.sampled_from(KINDS), given_names=st.lists(names, min_size=2, max_size=4))
def test_every_gold_answer_is_possible(data: st.DataObject, kind: PromptKind, given_names: list[str]) -> None:
    """Also with names that end like a line, hold bars, or belong to two entities."""
    made = document(given_names, [])
    everything = [(h, t) for h in range(len(given_names)) for t in range(len(given_names)) if h != t]
    pairs = sorted(data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True)))
    least = 0 if kind == "direct" else 1
    gold = {
        pair: data.draw(st.lists(st.sampled_from(RELATIONS.ids), min_size=least, max_size=3, unique=True))
        for pair in pairs
    }
    ids = answer_ids(PROMPTS["rc"].answer(made, gold, RELATIONS), BYTES)
    assert is_possible(PartialAnswer(grammar(BYTES, kind, made, pairs)), ids)


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_whatever_is_written_answers_every_pair(seed: int, kind: PromptKind) -> None:
    """A random walk through what is allowed ends in a well-formed answer about just the pairs that were asked."""
    chance = random.Random(seed)
    made, pairs = document(["Ada", "Bob (singer)", "U.S."], []), [(0, 1), (1, 2), (2, 0)]
    written = PartialAnswer(grammar(BYTES, kind, made, pairs))
    while not written.ended:
        written.write(chance.choice(written.allowed()))
    parsed = parse(BYTES.decode(written.ids, skip_special_tokens=True), made, pairs, RELATIONS)
    assert not +parsed.failures
    answered = {(triple.head, triple.tail) for triple in parsed.triples}
    if kind == "rc":
        assert answered == set(pairs)
        assert parsed.none == 0
    else:
        assert answered <= set(pairs)
        assert len(answered) + parsed.none == len(pairs)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("spouse", "sibling"),
        lambda text: text.replace("Bob", "Bab", 1),
        lambda text: text.split("\n")[0],
        lambda text: "\n".join(reversed(text.split("\n"))),
        lambda text: text + "\n" + text.split("\n")[-1],
    ],
    ids=["relation out of the set", "another name", "a pair left out", "out of order", "said twice"],
)
def test_nothing_else_is_possible(change: Callable[[str], str]) -> None:
    made, pairs = document(["Ada", "Bob", "U.S."], []), [(0, 1), (1, 2)]
    right = PROMPTS["rc"].answer(made, {(0, 1): ["P26"], (1, 2): ["P17"]}, RELATIONS)
    assert is_possible(PartialAnswer(grammar(BYTES, "rc", made, pairs)), answer_ids(right, BYTES))
    wrong = answer_ids(change(right), BYTES)
    assert not is_possible(PartialAnswer(grammar(BYTES, "rc", made, pairs)), wrong)


def test_what_is_forced_is_written_at_once() -> None:
    made = document(["Ada", "Bob"], [])
    written = PartialAnswer(grammar(BYTES, "rc", made, [(0, 1)]))
    assert BYTES.decode(written.write_forced(100)) == "(Ada| "
    assert len(written.allowed()) == 3  # country …, pa…, spouse
    written.write(BYTES.convert_tokens_to_ids("s"))
    assert BYTES.decode(written.write_forced(100)) == "pouse| Bob)</s>"
    assert written.ended


def test_room_bounds_what_is_forced() -> None:
    written = PartialAnswer(grammar(BYTES, "rc", document(["Ada", "Bob"], []), [(0, 1)]))
    assert len(written.write_forced(3)) == 3


@pytest.fixture(params=["merging", "llama2", "smollm2"])
def words(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """A tokenizer of ours and the real ones of LLaMA-2 and SmolLM2."""
    if request.param == "merging":
        return merging_tokenizer()
    if request.param == "llama2":
        folder: Path = request.getfixturevalue("shared_data")
        return load_tokenizer(str(folder / "tokenizers" / "llama2"))
    return load_tokenizer("embedded:smollm2")


HARD_NAMES = ["Bob (singer)", "U.S.", "A|B", "| |", "1984", "Zoë", "中国", "x)", "(", "part of", "AT&T -", "'s", "None"]
"""Some merge with the bracket before or the bar behind, or look like a relation."""


def test_ids_are_those_of_the_whole_answer(words: PreTrainedTokenizerBase) -> None:
    """A line's tokens depend on what stands before it: LLaMA's tokenizer begins each text with a space of its own."""
    made = document(HARD_NAMES, [])
    pairs = [(0, 1), *((head, head + 1) for head in range(1, len(HARD_NAMES) - 1))]
    # One is the beginning of the other: country (of origin), part(icipant) of.
    gold = dict(zip(pairs, itertools.cycle([["P17"], ["P17", "P495"], ["P495"], ["P361", "P1344"], ["P1344"]])))
    ids = answer_ids(PROMPTS["rc"].answer(made, gold, RELATIONS), words)
    assert is_possible(PartialAnswer(grammar(words, "rc", made, pairs)), ids)


@pytest.mark.parametrize("kind", ["rc", "direct", "rcp-llm"])
def test_real_gold_answers_are_possible(words: PreTrainedTokenizerBase, kind: PromptKind, shared_data: Path) -> None:
    """With the 96 relations, of documents of Re-DocRED's dev set."""
    for made in itertools.islice(read_documents(shared_data / "redocred_dev.json", DOCRED), 3, 6):
        gold = relations_by_pair(made)
        if kind != "rc":
            gold = {pair: gold.get(pair, ()) for pair in candidate_pairs(len(made.entities))[:40]}
        ids = answer_ids(PROMPTS[kind].answer(made, gold, DOCRED), words)
        written = PartialAnswer(Grammar(query(kind, list(gold)), made, DOCRED, kind, words))
        assert is_possible(written, ids)


def test_every_relation_of_docred_is_told_apart(words: PreTrainedTokenizerBase) -> None:
    """After the forced beginning, the path of each of the 96 names leads to that relation and to no other."""
    made, pairs = document(["Ada", "Bob"], []), [(0, 1)]
    for id_, name in zip(DOCRED.ids, DOCRED.names, strict=True):
        written = PartialAnswer(Grammar(query("rc", pairs), made, DOCRED, "rc", words))
        for token in answer_ids(f"(Ada| {name}| Bob)", words):
            assert token in written.allowed(), name
            written.write(token)
        assert written.ended
        text = str(words.decode(written.ids, skip_special_tokens=True))
        (triple,) = parse(text, made, pairs, DOCRED).triples
        assert triple.relation == id_
