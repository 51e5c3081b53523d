from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptKind
from lmrc.corpus.docred import candidate_pairs, read_documents, relations_by_pair
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.parsing import parse
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query, answer_ids
from lmrc.rc.prompts.templates import PROMPTS, Pair, entity_name
from tests.rc.tiny import (
    DOCUMENTS,
    EARLY_MERGES,
    KINDS,
    LINE_MERGES,
    RELATIONS,
    UNEVEN_MERGES,
    document,
    merging_tokenizer,
    newline_tokenizer,
    offered_relations,
    tokenizer,
    typed,
    whole_answers,
)

BYTES, MERGING, NEWLINE = tokenizer(), merging_tokenizer(), newline_tokenizer()
EARLY, UNEVEN = tokenizer(EARLY_MERGES), tokenizer(UNEVEN_MERGES)
PROMPT_KINDS: tuple[PromptKind, ...] = ("rc", "direct", "rcp-llm")
names = st.sampled_from(["Ada", "B", "B)", "(C|", "U.S.", "Zoë the 2nd", "B) (x"])


def query(kind: PromptKind, pairs: list[Pair]) -> Query:
    return Query(0, "t", tuple(pairs), "", None, 10_000)


def grammar(
    lm_tokenizer: PreTrainedTokenizerBase,
    kind: PromptKind,
    doc: Document,
    pairs: list[Pair],
    schema: RelationSchema | None = None,
) -> Grammar:
    return Grammar(query(kind, pairs), doc, RELATIONS, kind, lm_tokenizer, schema)


TYPES = ("PER", "LOC", "NEW")


@st.composite
def schemas(draw: st.DrawFn) -> RelationSchema:
    """Draw a schema that knows the types PER and LOC."""
    known = st.sampled_from(TYPES[:2])
    pairs = st.lists(st.tuples(known, known).map(list), max_size=2)
    # With an entry for each relation, some pairs have no admissible one.
    ids = RELATIONS.ids if draw(st.booleans()) else [id_ for id_ in RELATIONS.ids if draw(st.booleans())]
    rules = {id_: {"types": draw(pairs)} for id_ in ids}
    rules["P26"] = {"types": [["PER", "LOC"], *draw(pairs)]}
    return RelationSchema.of_json(rules, RELATIONS, "schema.json")


class SlowAnswer:
    """The definition of `PartialAnswer`: every possible line is tokenized in its text and followed token by token."""

    def __init__(
        self,
        lm_tokenizer: PreTrainedTokenizerBase,
        kind: PromptKind,
        doc: Document,
        pairs: list[Pair],
        schema: RelationSchema | None = None,
    ) -> None:
        self._tokenizer, self._doc, self._pairs = lm_tokenizer, doc, pairs
        answers = PROMPTS[kind].answer_set(RELATIONS)
        self._names = answers.relations.names
        self._none = answers.none
        # Possible names of each pair.
        self._offered = [[*self._names] for _ in pairs]
        if schema is not None:
            self._offered = [[RELATIONS.name(id_) for id_ in offered_relations(schema, doc, pair)] for pair in pairs]
        if answers.none_is_possible:
            self._offered = [[*offered, answers.none] for offered in self._offered]
        # Pair, relation and the rest of the tokens; relation "" is the end of sequence.
        self._states = [(0, name, self._tokens("", 0, name)) for name in self._offered[0]]
        self.ended = False

    def _tokens(self, before: str, pair: int, name: str) -> list[int]:
        head, tail = (entity_name(self._doc, entity) for entity in self._pairs[pair])
        ids: list[int] = self._tokenizer.encode(f"{before}({head}| {name}| {tail})", add_special_tokens=False)
        return ids[len(self._tokenizer.encode(before.rstrip(), add_special_tokens=False)) :]

    def _after(self, pair: int, name: str) -> list[tuple[int, str, list[int]]]:
        before = "(x| y| z)\n"
        later = [] if name == self._none else self._names[self._names.index(name) + 1 :]
        states = [(pair, other, self._tokens(before, pair, other)) for other in later if other in self._offered[pair]]
        if pair + 1 == len(self._pairs):
            return [*states, (pair, "", [self._tokenizer.eos_token_id])]
        return states + [(pair + 1, other, self._tokens(before, pair + 1, other)) for other in self._offered[pair + 1]]

    def allowed(self) -> list[int]:
        return sorted({rest[0] for *_, rest in self._states})

    def write(self, token: int) -> None:
        states = []
        for pair, name, (first, *rest) in self._states:
            if first == token and rest:
                states.append((pair, name, rest))
            elif first == token and name:
                states += self._after(pair, name)
            elif first == token:
                self.ended = True
        self._states = states


def is_possible(written: PartialAnswer, ids: list[int]) -> bool:
    for token in ids:
        if written.ended or token not in written.allowed():
            return False
        written.write(token)
    return written.ended


@given(data=st.data(), kind=st.sampled_from(KINDS), given_names=st.lists(names, min_size=2, max_size=4))
def test_every_gold_answer_is_allowed(data: st.DataObject, kind: PromptKind, given_names: list[str]) -> None:
    """Including names that end like a line, contain bars, or belong to two entities."""
    doc = document(given_names, [])
    everything = [(h, t) for h in range(len(given_names)) for t in range(len(given_names)) if h != t]
    pairs = sorted(data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True)))
    least = 0 if kind == "direct" else 1
    gold = {
        pair: data.draw(st.lists(st.sampled_from(RELATIONS.ids), min_size=least, max_size=3, unique=True))
        for pair in pairs
    }
    ids = answer_ids(PROMPTS["rc"].answer(doc, gold, RELATIONS), BYTES)
    assert is_possible(PartialAnswer(grammar(BYTES, kind, doc, pairs)), ids)


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
def test_random_walk_is_a_well_formed_answer(seed: int, kind: PromptKind) -> None:
    """Random allowed tokens give a well-formed answer for exactly the pairs of the query."""
    generator = random.Random(seed)
    doc, pairs = document(["Ada", "Bob (singer)", "U.S."], []), [(0, 1), (1, 2), (2, 0)]
    written = PartialAnswer(grammar(BYTES, kind, doc, pairs))
    while not written.ended:
        written.write(generator.choice(written.allowed()))
    parsed = parse(BYTES.decode(written.ids, skip_special_tokens=True), doc, pairs, RELATIONS)
    assert not +parsed.failures
    answered = {(triple.head, triple.tail) for triple in parsed.triples}
    if kind == "rc":
        assert answered == set(pairs)
        assert parsed.none == 0
    else:
        assert answered <= set(pairs)
        assert len(answered) + parsed.none == len(pairs)


# One name is another with a further bracket, so that a line of one pair begins like that of another pair.
ALIKE = ["Ada", "Ada", "B", "B)", "(C|", "U.S.", "Zoë the 2nd", "B) (x", "A| B", "| |", "😀", "中国", "'s"]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(PROMPT_KINDS),
    given_names=st.lists(st.sampled_from(ALIKE), min_size=2, max_size=4),
    lm_tokenizer=st.sampled_from([BYTES, MERGING, load_tokenizer("embedded:smollm2")]),
)
def test_allowed_tokens_are_those_of_the_definition(
    data: st.DataObject, kind: PromptKind, given_names: list[str], lm_tokenizer: PreTrainedTokenizerBase
) -> None:
    """After any allowed tokens, also for names that are the same or contain bars and brackets."""
    doc = document(given_names, [])
    everything = [(h, t) for h in range(len(given_names)) for t in range(len(given_names)) if h != t]
    pairs = sorted(data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=4, unique=True)))
    generator = data.draw(st.randoms(use_true_random=False))
    written, expected = (
        PartialAnswer(grammar(lm_tokenizer, kind, doc, pairs)),
        SlowAnswer(lm_tokenizer, kind, doc, pairs),
    )
    while not expected.ended:
        assert not written.ended
        assert written.allowed() == expected.allowed()
        token = generator.choice(expected.allowed())
        written.write(token)
        expected.write(token)
    assert written.ended


@pytest.mark.parametrize("gold", [{(0, 1): ["P26"], (1, 2): ["P17"]}, {(0, 1): ["P26"], (1, 2): ["P17", "P495"]}])
def test_gold_answers_with_merged_newlines_are_allowed(gold: dict[Pair, list[str]]) -> None:
    ids = answer_ids(PROMPTS["rc"].answer(DOCUMENTS[0], gold, RELATIONS), NEWLINE)
    assert "))\u010a" in NEWLINE.convert_ids_to_tokens(ids)
    assert is_possible(PartialAnswer(grammar(NEWLINE, "rc", DOCUMENTS[0], list(gold))), ids)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(PROMPT_KINDS[:2]),
    given_names=st.lists(st.sampled_from([*ALIKE, "abc", "Bros."]), min_size=2, max_size=3),
    lm_tokenizer=st.sampled_from([BYTES, MERGING, NEWLINE, EARLY, UNEVEN]),
)
def test_allowed_tokens_are_those_of_whole_answers(
    data: st.DataObject, kind: PromptKind, given_names: list[str], lm_tokenizer: PreTrainedTokenizerBase
) -> None:
    """All answers are tokenized as in training, whatever the tokens at the ends of their lines."""
    doc = document(given_names, [])
    everything = [(h, t) for h in range(len(given_names)) for t in range(len(given_names)) if h != t]
    pairs = sorted(data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=2, unique=True)))
    possible = sorted(whole_answers(lm_tokenizer, kind, doc, pairs))
    generator = data.draw(st.randoms(use_true_random=False))
    written = PartialAnswer(grammar(lm_tokenizer, kind, doc, pairs))
    while not written.ended:
        length = len(written.ids)
        assert written.allowed() == sorted({ids[length] for ids in possible})
        complete = lm_tokenizer.decode(written.complete_lines())
        assert not complete.endswith("\n") and lm_tokenizer.decode(written.ids).startswith(complete)
        token = generator.choice(written.allowed())
        written.write(token)
        possible = [ids for ids in possible if ids[length] == token]
    assert [tuple(written.ids)] == possible


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    given_names=st.lists(st.sampled_from([*ALIKE, "abc", "Bros."]), min_size=2, max_size=3),
    lm_tokenizer=st.sampled_from([BYTES, MERGING, NEWLINE, EARLY, UNEVEN]),
    schema=schemas(),
)
def test_answers_with_a_schema_are_those_of_admissible_relations(
    data: st.DataObject,
    kind: PromptKind,
    given_names: list[str],
    lm_tokenizer: PreTrainedTokenizerBase,
    schema: RelationSchema,
) -> None:
    """A pair without an admissible relation, or with a type that the schema does not know, is offered all."""
    types = data.draw(st.lists(st.sampled_from(TYPES), min_size=len(given_names), max_size=len(given_names)))
    doc = typed(document(given_names, []), types)
    everything = [(h, t) for h in range(len(given_names)) for t in range(len(given_names)) if h != t]
    pairs = sorted(data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=2, unique=True)))
    possible = sorted(whole_answers(lm_tokenizer, kind, doc, pairs, schema))
    generator = data.draw(st.randoms(use_true_random=False))
    written = PartialAnswer(grammar(lm_tokenizer, kind, doc, pairs, schema))
    while not written.ended:
        length = len(written.ids)
        if data.draw(st.booleans(), label="write forced tokens"):
            forced = written.write_forced(1_000)
            assert all(list(ids[length : length + len(forced)]) == forced for ids in possible)
            if written.ended:
                break
            length = len(written.ids)
        assert written.allowed() == sorted({ids[length] for ids in possible})
        token = generator.choice(written.allowed())
        written.write(token)
        possible = [ids for ids in possible if ids[length] == token]
    assert [tuple(written.ids)] == possible


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    schema=schemas(),
    lm_tokenizer=st.sampled_from([MERGING, load_tokenizer("embedded:smollm2")]),
)
def test_allowed_tokens_with_a_schema_are_those_of_the_definition(
    data: st.DataObject, kind: PromptKind, schema: RelationSchema, lm_tokenizer: PreTrainedTokenizerBase
) -> None:
    """For several pairs, and with the tokenizer of a real LM."""
    given_names = data.draw(st.lists(st.sampled_from(ALIKE), min_size=3, max_size=4))
    types = data.draw(st.lists(st.sampled_from(TYPES), min_size=len(given_names), max_size=len(given_names)))
    doc = typed(document(given_names, []), types)
    pairs = data.draw(st.lists(st.sampled_from(candidate_pairs(len(given_names))), min_size=2, max_size=5, unique=True))
    pairs = sorted(pairs)
    generator = data.draw(st.randoms(use_true_random=False))
    written = PartialAnswer(grammar(lm_tokenizer, kind, doc, pairs, schema))
    expected = SlowAnswer(lm_tokenizer, kind, doc, pairs, schema)
    while not expected.ended:
        assert not written.ended
        assert written.allowed() == expected.allowed()
        token = generator.choice(expected.allowed())
        written.write(token)
        expected.write(token)
    assert written.ended


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), types=st.lists(st.sampled_from(TYPES), min_size=3, max_size=3), schema=schemas())
def test_next_lines_with_a_schema(kind: PromptKind, types: list[str], schema: RelationSchema) -> None:
    """Lines of mode score are those of the offered relations, and of None if it is possible."""
    doc, pairs = typed(document(["Ada", "B", "U.S."], []), types), [(0, 1), (1, 2)]
    made = grammar(BYTES, kind, doc, pairs, schema)
    none = [len(RELATIONS)] if kind == "direct" else []
    offered = [[RELATIONS.index(id_) for id_ in offered_relations(schema, doc, pair)] for pair in pairs]
    for pair, relations in enumerate(offered):
        lines = made.next_lines(pair, [])
        assert [relation for relation, _ in lines] == [*relations, *none]
        assert [line for _, line in lines] == [made.first_lines(pair)[index] for index in [*relations, *none]]
        for chosen in relations:
            following = [relation for relation, _ in made.next_lines(pair, [chosen])]
            after = [*offered[1], *none] if pair == 0 else [-1]
            assert following == [*(r for r in relations if r > chosen), *(None for _ in after)]


@pytest.mark.parametrize("lm_tokenizer", [BYTES, NEWLINE, EARLY, UNEVEN], ids=["bytes", "newline", "early", "uneven"])
@pytest.mark.parametrize("pairs", [[(0, 1)], [(1, 2)], [(0, 3), (1, 2)], [(1, 3), (3, 1)]])
def test_tokens_belong_to_the_line_that_they_decide(lm_tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> None:
    """That is the first line in which the answers that are still possible differ."""
    doc = document(["Ada", "Bob (singer)", "abc", "Bros."], [])
    answers = whole_answers(lm_tokenizer, "rc", doc, pairs)
    lines_of = {ids: str(lm_tokenizer.decode(ids[:-1])).split("\n") for ids in answers}
    for seed in range(5):
        written, possible = PartialAnswer(grammar(lm_tokenizer, "rc", doc, pairs)), sorted(answers)
        while not written.ended:
            allowed, length = written.allowed(), len(written.ids)
            token = random.Random(seed + length).choice(allowed)
            written.write(token)
            if len(allowed) > 1:
                columns = itertools.zip_longest(*(lines_of[ids] for ids in possible))
                assert written.line == next(index for index, lines in enumerate(columns) if len(set(lines)) > 1)
            possible = [ids for ids in possible if ids[length] == token]


def test_tokenizer_that_merges_lines_is_refused() -> None:
    lm_tokenizer = tokenizer(LINE_MERGES)
    lm_tokenizer.name_or_path = "some/lm"
    with pytest.raises(UserError, match=r"tokenizer of some/lm .* --decode\.mode free"):
        PartialAnswer(grammar(lm_tokenizer, "rc", document(["Ada", "Bob"], []), [(0, 1)]))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("spouse", "sibling"),
        lambda text: text.replace("Bob", "Bab", 1),
        lambda text: text.split("\n")[0],
        lambda text: "\n".join(reversed(text.split("\n"))),
        lambda text: text + "\n" + text.split("\n")[-1],
    ],
    ids=["relation outside the set", "another name", "missing pair", "out of order", "duplicate line"],
)
def test_other_answers_are_not_allowed(change: Callable[[str], str]) -> None:
    doc, pairs = document(["Ada", "Bob", "U.S."], []), [(0, 1), (1, 2)]
    right = PROMPTS["rc"].answer(doc, {(0, 1): ["P26"], (1, 2): ["P17"]}, RELATIONS)
    assert is_possible(PartialAnswer(grammar(BYTES, "rc", doc, pairs)), answer_ids(right, BYTES))
    wrong = answer_ids(change(right), BYTES)
    assert not is_possible(PartialAnswer(grammar(BYTES, "rc", doc, pairs)), wrong)


def test_forced_tokens_are_written_at_once() -> None:
    doc = document(["Ada", "Bob"], [])
    written = PartialAnswer(grammar(BYTES, "rc", doc, [(0, 1)]))
    assert BYTES.decode(written.write_forced(100)) == "(Ada| "
    assert len(written.allowed()) == 3  # country …, pa…, spouse
    written.write(BYTES.convert_tokens_to_ids("s"))
    assert BYTES.decode(written.write_forced(100)) == "pouse| Bob)</s>"
    assert written.ended


def test_token_limit_bounds_forced_tokens() -> None:
    written = PartialAnswer(grammar(BYTES, "rc", document(["Ada", "Bob"], []), [(0, 1)]))
    assert len(written.write_forced(3)) == 3


@pytest.fixture(params=["merging", "newline", "llama2", "smollm2"])
def lm_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """Return a tokenizer: one of the tests, LLaMA-2's or SmolLM2's."""
    if request.param == "merging":
        return merging_tokenizer()
    if request.param == "newline":
        return newline_tokenizer()
    if request.param == "llama2":
        folder: Path = request.getfixturevalue("shared_data")
        return load_tokenizer(str(folder / "tokenizers" / "llama2"))
    return load_tokenizer("embedded:smollm2")


# Some merge with the bracket before or the bar after them, or look like a relation.
HARD_NAMES = ["Bob (singer)", "U.S.", "A|B", "| |", "1984", "Zoë", "中国", "x)", "(", "part of", "AT&T -", "'s", "None"]


def test_line_ids_are_those_within_a_whole_answer(lm_tokenizer: PreTrainedTokenizerBase) -> None:
    """LLaMA's tokenizer adds a space to the start of a text, so a line alone has other tokens than within an answer."""
    doc = document(HARD_NAMES, [])
    pairs = [(0, 1), *((head, head + 1) for head in range(1, len(HARD_NAMES) - 1))]
    # Some relation names are prefixes of others: country (of origin).
    gold = dict(zip(pairs, itertools.cycle([["P17"], ["P17", "P495"], ["P495"], ["P361", "P1344"], ["P1344"]])))
    ids = answer_ids(PROMPTS["rc"].answer(doc, gold, RELATIONS), lm_tokenizer)
    assert is_possible(PartialAnswer(grammar(lm_tokenizer, "rc", doc, pairs)), ids)


@pytest.mark.parametrize("kind", ["rc", "direct", "rcp-llm"])
def test_redocred_gold_answers_are_allowed(
    lm_tokenizer: PreTrainedTokenizerBase, kind: PromptKind, shared_data: Path
) -> None:
    """Check documents of Re-DocRED's dev set with its 96 relations."""
    for doc in itertools.islice(read_documents(shared_data / "redocred_dev.json", DOCRED), 3, 6):
        gold = relations_by_pair(doc)
        if kind != "rc":
            gold = {pair: gold.get(pair, ()) for pair in candidate_pairs(len(doc.entities))[:40]}
        ids = answer_ids(PROMPTS[kind].answer(doc, gold, DOCRED), lm_tokenizer)
        written = PartialAnswer(Grammar(query(kind, list(gold)), doc, DOCRED, kind, lm_tokenizer))
        assert is_possible(written, ids)


def test_docred_relations_have_distinct_paths(lm_tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokens of each of the 96 names lead to that relation only."""
    doc, pairs = document(["Ada", "Bob"], []), [(0, 1)]
    for id_, name in zip(DOCRED.ids, DOCRED.names, strict=True):
        written = PartialAnswer(Grammar(query("rc", pairs), doc, DOCRED, "rc", lm_tokenizer))
        for token in answer_ids(f"(Ada| {name}| Bob)", lm_tokenizer):
            assert token in written.allowed(), name
            written.write(token)
        assert written.ended
        text = str(lm_tokenizer.decode(written.ids, skip_special_tokens=True))
        (triple,) = parse(text, doc, pairs, DOCRED).triples
        assert triple.relation == id_
