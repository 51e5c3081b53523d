from __future__ import annotations

from pathlib import Path

import pytest
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
    check_candidates,
    encode_questions,
    questions_about,
    relations_to_ask,
)
from tests.rc.tiny import DOCUMENTS, RELATIONS, corpus, document, merging_tokenizer, newline_tokenizer, tokenizer

LIKELIHOOD = PromptOptions(kind="likelihood", max_length=2000)
TOKENIZERS = {"bytes": tokenizer, "merges": merging_tokenizer, "newlines": newline_tokenizer}


def candidate(head: int, tail: int, **logits: float) -> Candidate:
    ordered = sorted(logits, key=RELATIONS.index)
    return Candidate(head, tail, 0.5, tuple(RelationLogit(relation, logits[relation]) for relation in ordered))


ASKED = [candidate(0, 1, P26=2.0, P17=-1.0), candidate(1, 2, P495=0.5, P17=0.0), candidate(2, 0, P361=-9.0)]


def build(words: PreTrainedTokenizerBase, doc: Document, asked: list[Candidate], options: PromptOptions) -> list[Query]:
    return list(QuestionBuilder(words, RELATIONS, options).build(4, doc, questions_about(asked, options)))


def test_text_of_the_questions() -> None:
    (query,) = build(tokenizer(), DOCUMENTS[0], ASKED, LIKELIHOOD)
    assert query.questions == (
        (Triple(0, 1, "P17"), "Ada - country:", " Bob (singer)\n"),
        (Triple(0, 1, "P26"), "Ada - spouse:", " Bob (singer)\n"),
        (Triple(1, 2, "P17"), "Bob (singer) - country:", " U.S.\n"),
        (Triple(1, 2, "P495"), "Bob (singer) - country of origin:", " U.S.\n"),
    )
    assert (query.document, query.title, query.pairs, query.left_out) == (4, "one", ((0, 1), (1, 2)), ())
    assert query.prompt == "Text: Ada met Bob . The end .\n\n"


def test_most_probable_relations_are_asked() -> None:
    pair = candidate(0, 1, P17=1.0, P495=3.0, P361=2.0, P1344=-1.0, P26=-4.0)
    options = LIKELIHOOD.model_copy(update={"relations_per_pair": 3, "min_relation_probability": 0.02})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361")
    options = LIKELIHOOD.model_copy(update={"min_relation_probability": 0.5})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361")
    options = LIKELIHOOD.model_copy(update={"min_relation_probability": 0.0})
    assert relations_to_ask(pair, options) == ("P17", "P495", "P361", "P1344", "P26")
    # 0.2689 is the probability of -1.
    options = LIKELIHOOD.model_copy(update={"min_relation_probability": 0.2689})
    assert "P1344" in relations_to_ask(pair, options)
    options = LIKELIHOOD.model_copy(update={"min_relation_probability": 0.269})
    assert "P1344" not in relations_to_ask(pair, options)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_name_of_the_tail_is_predicted(name: str) -> None:
    """Names with colons, brackets and bars do not matter."""
    words = TOKENIZERS[name]()
    names = document(["Who: (a)", "B|b -", "Zoë:"], [], "odd")
    asked = [candidate(0, 1, P17=1.0, P26=1.0), candidate(1, 2, P361=1.0)]
    (query,) = build(words, names, asked, LIKELIHOOD)
    example = encode_questions(query, words)
    assert example.questions is not None
    assert example.input_ids[: example.prompt_tokens].tolist() == prompt_ids(query.prompt, words)
    lengths, name_tokens = (values.tolist() for values in example.questions)
    assert sum(lengths) == len(example.input_ids) - example.prompt_tokens
    start = example.prompt_tokens
    for question, length, tokens in zip(query.questions, lengths, name_tokens, strict=True):
        line = example.input_ids[start : start + length]
        start += length
        known, predicted = (
            words.decode(part, clean_up_tokenization_spaces=False)
            for part in (line[: length - tokens], line[length - tokens :])
        )
        assert (known, predicted) == (question.cue, question.name)


@given(st.integers(1, 5), st.integers(100, 1200))
def test_queries_fit_and_hold_every_question_once(pairs: int, max_length: int) -> None:
    words, names = tokenizer(), ["A", "Bob", "Cecil", "D"]
    doc = document(names, [], "long", text=" ".join(["word"] * 10))
    asked = [
        candidate(head, tail, P17=1.0, P495=float(head), P26=-float(tail))
        for head in range(4)
        for tail in range(4)
        if head != tail
    ]
    options = PromptOptions(kind="likelihood", pairs_per_query=pairs, max_length=max_length)
    try:
        queries = build(words, doc, asked, options)
    except UserError as error:
        assert f"prompt.max_length is {max_length}" in str(error)
        return
    examples = [encode_questions(query, words) for query in queries]
    assert all(len(example.input_ids) <= max_length for example in examples)
    assert all(len(query.pairs) <= pairs for query in queries)
    triples = [question.triple for query in queries for question in query.questions]
    assert triples == [Triple(c.head, c.tail, relation) for c in asked for relation in relations_to_ask(c, options)]


def test_sentences_are_dropped_only_if_asked() -> None:
    words = tokenizer()
    doc = Document("two", (("A", "B"), tuple(["far"] * 300)), DOCUMENTS[0].entities[:2], ())
    asked = [candidate(0, 1, P17=1.0)]
    (query,) = build(words, doc, asked, LIKELIHOOD.model_copy(update={"max_length": 4000}))
    assert query.left_out == ()
    options = LIKELIHOOD.model_copy(update={"max_length": 600})
    with pytest.raises(UserError, match=r"'two' needs \d+ tokens .* give --prompt.truncate sentences"):
        build(words, doc, asked, options)
    (query,) = build(words, doc, asked, options.model_copy(update={"truncate": "sentences"}))
    assert query.left_out == (1,)
    assert "far" not in query.prompt


def test_shared_prefix_ends_before_the_text() -> None:
    words: PreTrainedTokenizerBase = tokenizer()
    prefix = words.decode(QuestionBuilder(words, RELATIONS, LIKELIHOOD).shared_prefix())
    assert prefix.rstrip() == "Text:"
    (query,) = build(words, DOCUMENTS[2], [candidate(0, 1, P17=1.0)], LIKELIHOOD)
    assert query.prompt.startswith(prefix)


def test_candidates_need_relations(tmp_path: Path) -> None:
    documents = corpus(tmp_path / "corpus", DOCUMENTS)
    rows = [(doc.title, [Candidate(0, 1, 0.9)]) for doc in DOCUMENTS]
    write_candidates(rows, tmp_path / "plain", documents.fingerprint, 0.5)
    with pytest.raises(UserError, match=r"the candidates have no relations: .*--train.relation-weight 1"):
        check_candidates(tmp_path / "plain", documents)
    write_candidates([(doc.title, []) for doc in DOCUMENTS], tmp_path / "none", documents.fingerprint, 0.5)
    check_candidates(tmp_path / "none", documents)
    other = corpus(tmp_path / "other", DOCUMENTS[:1])
    with pytest.raises(CorpusError, match="made from another corpus"):
        check_candidates(tmp_path / "none", other)
