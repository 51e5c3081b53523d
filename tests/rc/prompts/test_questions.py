from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import CorpusError, UserError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.candidates import Candidate, RelationLogit, write_candidates
from lmrc.corpus.types import Document, Triple
from lmrc.rc.prompts.query_builder import Query, prompt_ids
from lmrc.rc.prompts.questions import (
    QuestionBuilder,
    answer_tokens,
    encode_questions,
    open_candidates,
    relations_to_ask,
)
from tests.rc.tiny import DOCUMENTS, RELATIONS, corpus, document, merging_tokenizer, newline_tokenizer, tokenizer

VERIFY = PromptOptions(kind="verify", max_length=2000)
TOKENIZERS = {"bytes": tokenizer, "merges": merging_tokenizer, "newlines": newline_tokenizer}


def candidate(head: int, tail: int, **logits: float) -> Candidate:
    ordered = sorted(logits, key=RELATIONS.index)
    return Candidate(head, tail, 0.5, tuple(RelationLogit(relation, logits[relation]) for relation in ordered))


ASKED = [candidate(0, 1, P26=2.0, P17=-1.0), candidate(1, 2, P495=0.5, P17=0.0), candidate(2, 0, P361=-9.0)]


def texts(queries: list[Query]) -> list[str]:
    return [line.text for query in queries for line in query.questions]


def test_text_of_the_questions() -> None:
    (query,) = QuestionBuilder(tokenizer(), RELATIONS, VERIFY).build(4, DOCUMENTS[0], ASKED)
    assert texts([query]) == [
        "Ada| Bob (singer)| country? spouse?",
        "Bob (singer)| U.S.| country? country of origin?",
    ]
    assert [line.triples for line in query.questions] == [
        (Triple(0, 1, "P17"), Triple(0, 1, "P26")),
        (Triple(1, 2, "P17"), Triple(1, 2, "P495")),
    ]
    assert all(line.text[end] == "?" for line in query.questions for end in line.ends)
    assert (query.document, query.title, query.pairs, query.left_out) == (4, "one", ((0, 1), (1, 2)), ())
    head, text = query.prompt.split("### Text:\n")
    assert head.startswith("### Instruction:\nFor each relation of an entity pair, say whether it holds")
    assert text == "Ada met Bob . The end .\n\n### Entity pair:\n"


def test_entity_types_are_added_to_names() -> None:
    options = VERIFY.model_copy(update={"entity_types": True})
    (query,) = QuestionBuilder(tokenizer(), RELATIONS, options).build(0, DOCUMENTS[0], ASKED[:1])
    assert texts([query]) == ["Ada (PER)| Bob (singer) (PER)| country? spouse?"]


def test_most_probable_relations_are_asked() -> None:
    pair = candidate(0, 1, P17=1.0, P495=3.0, P361=2.0, P1344=-1.0, P26=-4.0)
    options = VERIFY.model_copy(update={"relations_per_pair": 3, "min_relation_probability": 0.02})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361")
    options = VERIFY.model_copy(update={"min_relation_probability": 0.5})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361")
    options = VERIFY.model_copy(update={"min_relation_probability": 0.0})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361", "P1344", "P26")
    # 0.2689 is the probability of -1.
    options = VERIFY.model_copy(update={"min_relation_probability": 0.2689})
    assert "P1344" in relations_to_ask(pair, options)
    options = VERIFY.model_copy(update={"min_relation_probability": 0.269})
    assert "P1344" not in relations_to_ask(pair, options)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_positions_are_those_of_the_question_marks(name: str) -> None:
    """Names with question marks, brackets and bars do not matter."""
    words = TOKENIZERS[name]()
    names = document(["Who? (a)", "B|b?", "Zoë?"], [], "odd")
    builder = QuestionBuilder(words, RELATIONS, VERIFY)
    asked = [candidate(0, 1, P17=1.0, P26=1.0), candidate(1, 2, P361=1.0)]
    (query,) = builder.build(0, names, asked)
    example = encode_questions(query, words, gold={Triple(1, 2, "P361")})
    assert example.questions is not None
    lengths, positions, labels = (values.tolist() for values in example.questions)
    assert labels == [0, 0, 1]
    assert example.input_ids[: example.prompt_tokens].tolist() == prompt_ids(query.prompt, words)
    assert sum(lengths) == len(example.input_ids) - example.prompt_tokens
    read = ["Who? (a)| B|b?| country?", "Who? (a)| B|b?| country? spouse?", "B|b?| Zoë?| part of?"]
    starts = [example.prompt_tokens] * 2 + [example.prompt_tokens + lengths[0]]
    for start, position, expected in zip(starts, positions, read, strict=True):
        text = words.decode(example.input_ids[start : position + 1], clean_up_tokenization_spaces=False)
        assert text == expected


@given(st.integers(1, 5), st.integers(150, 1200), st.booleans())
def test_queries_fit_and_hold_every_question_once(pairs: int, max_length: int, types: bool) -> None:
    words, names = tokenizer(), ["A", "Bob", "Cecil", "D"]
    doc = document(names, [], "long", text=" ".join(["word"] * 10))
    asked = [
        candidate(head, tail, P17=1.0, P495=float(head), P26=-float(tail))
        for head in range(4)
        for tail in range(4)
        if head != tail
    ]
    options = PromptOptions(kind="verify", pairs_per_query=pairs, max_length=max_length, entity_types=types)
    builder = QuestionBuilder(words, RELATIONS, options)
    try:
        queries = list(builder.build(0, doc, asked))
    except UserError as error:
        assert f"prompt.max_length is {max_length}" in str(error)
        return
    examples = [encode_questions(query, words) for query in queries]
    assert all(len(example.input_ids) <= max_length for example in examples)
    assert all(len(query.pairs) <= pairs for query in queries)
    triples = [triple for query in queries for line in query.questions for triple in line.triples]
    assert triples == [Triple(c.head, c.tail, relation) for c in asked for relation in relations_to_ask(c, options)]


def test_sentences_are_dropped_only_if_asked() -> None:
    words = tokenizer()
    doc = Document("two", (("A", "B"), tuple(["far"] * 300)), DOCUMENTS[0].entities[:2], ())
    asked = [candidate(0, 1, P17=1.0)]
    whole = QuestionBuilder(words, RELATIONS, VERIFY.model_copy(update={"max_length": 4000}))
    (query,) = whole.build(0, doc, asked)
    assert query.left_out == ()
    options = VERIFY.model_copy(update={"max_length": 600})
    with pytest.raises(UserError, match=r"'two' needs \d+ tokens .* give --prompt.truncate sentences"):
        list(QuestionBuilder(words, RELATIONS, options).build(0, doc, asked))
    shortened = options.model_copy(update={"truncate": "sentences"})
    (query,) = QuestionBuilder(words, RELATIONS, shortened).build(0, doc, asked)
    assert query.left_out == (1,)
    assert "far" not in query.prompt


def test_answers_are_two_tokens() -> None:
    no, yes = answer_tokens(tokenizer())
    assert tokenizer().convert_ids_to_tokens([no, yes]) == ["N", "Y"]
    words = tokenizer([("N", "o"), ("Y", "e"), ("Ye", "s"), ("\u0120", "No"), ("\u0120", "Yes")])
    assert words.convert_ids_to_tokens(list(answer_tokens(words))) == ["\u0120No", "\u0120Yes"]


class _Deaf:
    """A tokenizer whose Yes begins with its No."""

    name_or_path = "deaf"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1, 2] if text == " Yes" else [1]}


def test_a_tokenizer_that_does_not_tell_yes_from_no() -> None:
    with pytest.raises(UserError, match="the tokenizer of deaf does not tell Yes from No"):
        answer_tokens(_Deaf())  # type: ignore[arg-type]


def test_shared_prefix_ends_before_the_text() -> None:
    words: PreTrainedTokenizerBase = tokenizer()
    builder = QuestionBuilder(words, RELATIONS, VERIFY)
    prefix = words.decode(builder.shared_prefix())
    assert prefix.endswith("### Text:\n")
    (query,) = builder.build(0, DOCUMENTS[2], [candidate(0, 1, P17=1.0)])
    assert query.prompt.startswith(prefix)


def test_labels_without_gold_are_zero() -> None:
    (query,) = QuestionBuilder(tokenizer(), RELATIONS, VERIFY).build(0, DOCUMENTS[0], ASKED)
    questions = encode_questions(query, tokenizer()).questions
    assert questions is not None and torch.equal(questions.labels, torch.zeros(4, dtype=torch.int32))


def test_candidates_need_relations(tmp_path: Path) -> None:
    documents = corpus(tmp_path / "corpus", DOCUMENTS)
    rows = [(doc.title, [Candidate(0, 1, 0.9)]) for doc in DOCUMENTS]
    write_candidates(rows, tmp_path / "plain", documents.fingerprint, 0.5)
    with pytest.raises(UserError, match=r"the candidates have no relations: .*--train.relation-weight 1"):
        open_candidates(tmp_path / "plain", documents)
    write_candidates([(doc.title, []) for doc in DOCUMENTS], tmp_path / "none", documents.fingerprint, 0.5)
    assert len(open_candidates(tmp_path / "none", documents)) == 3
    other = corpus(tmp_path / "other", DOCUMENTS[:1])
    with pytest.raises(CorpusError, match="made from another corpus"):
        open_candidates(tmp_path / "none", other)
