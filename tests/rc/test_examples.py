from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.config import PromptOptions
from lmrc.corpus.docred import Document, candidate_pairs, relations_by_pair
from lmrc.errors import UserError
from lmrc.rc.examples import Example, Query, QueryBuilder, answer_ids, collate, encode, gold_pairs, prompt_ids
from lmrc.rc.packing import Packed
from lmrc.rc.prompts import prompt
from tests.rc.tiny import RELATIONS, document, tokenizer

TOKENIZER = tokenizer()
DOCUMENT = document(
    ["Ada", "Bob (singer)", "U.S.", "Zoë"], [(1, 2, "P495"), (0, 1, "P26"), (1, 2, "P17"), (3, 0, "P361")]
)
GOLD = relations_by_pair(DOCUMENT)


def builder(answer_limit: int | None = None, **options: object) -> QueryBuilder:
    return QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(**options), answer_limit)


def tokens(query: Query) -> int:
    assert query.answer is not None
    return len(query.prompt.encode()) + len(query.answer.encode()) + 1


def test_one_query_a_document_when_it_fits() -> None:
    (query,) = builder().build(7, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    assert (query.document, query.title, query.pairs) == (7, "A title", ((0, 1), (1, 2), (3, 0)))
    assert query.prompt == prompt(DOCUMENT, query.pairs, RELATIONS, "rc")
    assert query.answer == (
        "(Ada| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)\n"
        "(Zoë| part of| Ada)"
    )


def test_pairs_per_query() -> None:
    queries = list(builder(pairs_per_query=2, kind="direct").build(0, DOCUMENT, candidate_pairs(4), GOLD))
    assert [len(query.pairs) for query in queries] == [2] * 6
    assert sum((query.pairs for query in queries), ()) == tuple(candidate_pairs(4))
    assert queries[0].answer == "(Ada| spouse| Bob (singer))\n(Ada| None| U.S.)"


def test_no_pairs_no_query() -> None:
    assert list(builder().build(0, DOCUMENT, [])) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(960, 2200), st.booleans(), st.sampled_from([None, 1, 12]))
def test_as_many_pairs_as_fit(max_length: int, known: bool, guess: int | None) -> None:
    """Greedy and maximal: every query fits, and would not with the first pair of the next one. Wherever it begins."""
    build = builder(max_length=max_length, kind="direct")
    if guess is not None:
        build._first_guess = lambda costs, frame: min(guess, len(costs))  # type: ignore[method-assign]
    gold = GOLD if known else None
    queries = list(build.build(0, DOCUMENT, candidate_pairs(4), gold))
    assert sum((query.pairs for query in queries), ()) == tuple(candidate_pairs(4))
    for query, following in zip(queries, [*queries[1:], None], strict=True):
        if known:
            assert tokens(query) <= max_length
            if following is not None:
                (longer,) = builder(kind="direct").build(0, DOCUMENT, [*query.pairs, following.pairs[0]], GOLD)
                assert tokens(longer) > max_length
        else:
            assert len(query.prompt.encode()) + query.answer_room <= max_length


def test_answers_that_may_not_be_long_take_fewer_pairs() -> None:
    queries = list(builder(answer_limit=120).build(0, DOCUMENT, candidate_pairs(4)))
    assert len(queries) > 1
    assert all(query.answer_room <= 120 for query in queries)


def test_text_that_does_not_fit_alone_is_refused() -> None:
    long = document(["a", "b"], [(0, 1, "P17")], title="Long one", text="word " * 300)
    needed = len(prompt(long, [(0, 1)], RELATIONS, "rc")) + len("(a| country| b)") + 1
    with pytest.raises(UserError, match=f"'Long one' needs {needed} tokens .* is 1024"):
        list(builder(max_length=1024).build(0, long, [(0, 1)], relations_by_pair(long)))
    (query,) = builder(max_length=needed).build(0, long, [(0, 1)], relations_by_pair(long))
    assert tokens(query) == needed


def test_gold_pairs_need_labels() -> None:
    unlabelled = Document("No labels", DOCUMENT.sentences, DOCUMENT.entities, None)
    with pytest.raises(UserError, match="'No labels' has no labels"):
        gold_pairs(unlabelled)


def test_example_is_prompt_answer_and_end() -> None:
    (query,) = builder().build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    example = encode(query, TOKENIZER)
    before = prompt_ids(query.prompt, TOKENIZER)
    assert query.answer is not None
    after = answer_ids(query.answer, TOKENIZER)
    assert after[-1] == TOKENIZER.eos_token_id
    assert example.input_ids.tolist() == before + after
    assert example.prompt_tokens == len(before)
    assert example.answer_tokens == len(query.answer.encode()) + 1
    assert TOKENIZER.decode(example.input_ids) == query.prompt + query.answer + "</s>"


def test_examples_lie_end_to_end_behind_the_beginning_they_share() -> None:
    queries = builder(pairs_per_query=1).build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    examples = [encode(query, TOKENIZER) for query in queries]
    assert len(examples) == 3
    batch = collate(examples)
    layout = batch["layout"]
    assert isinstance(layout, Packed)
    texts = [example.input_ids.tolist() for example in examples]
    # Instruction, relations and text are the same; the first pairs begin with the same bracket or not at all alike.
    shared = next(place for place, tokens in enumerate(zip(*texts, strict=False)) if len(set(tokens)) > 1)
    assert layout.beginning == shared > 300
    ids, positions = batch["input_ids"].tolist(), batch["positions"].tolist()
    assert ids == texts[0][:shared] + [token for text in texts for token in text[shared:]]
    assert positions == [*range(shared), *(place for text in texts for place in range(shared, len(text)))]
    assert batch["targets"].tolist() == [
        token for text, example in zip(texts, examples, strict=True) for token in text[example.prompt_tokens :]
    ]
    # What predicts a token is the token before it in its own text.
    for place, target in zip(batch["wanted"].tolist(), batch["targets"].tolist(), strict=True):
        assert ids[place + 1] == target and positions[place + 1] == positions[place] + 1


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    """It predicts, in each text something else."""
    same = [Example(torch.tensor([7, 8, 9, answer, 0], dtype=torch.int32), 3) for answer in (1, 2)]
    batch = collate(same)
    assert batch["layout"].beginning == 2  # type: ignore[union-attr]
    assert batch["input_ids"].tolist() == [7, 8, 9, 1, 0, 9, 2, 0]
    assert batch["wanted"].tolist() == [2, 3, 5, 6]
    assert batch["targets"].tolist() == [1, 0, 2, 0]
