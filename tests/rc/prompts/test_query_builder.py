from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.types import Document, Label, Mention
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, answer_ids, encode, gold_pairs, prompt_ids
from lmrc.rc.prompts.templates import Pair, entity_name, prompt
from lmrc.rc.prompts.truncation import dispensable
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


@given(demonstrated=st.integers(1, 400), known=st.booleans())
def test_demonstrations_take_their_room(demonstrated: int, known: bool) -> None:
    pairs, gold = candidate_pairs(4), GOLD if known else None
    beside = QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(max_length=1500), demonstrated=demonstrated)
    alone = builder(max_length=1500 - demonstrated, answer_limit=1500)
    assert list(beside.build(0, DOCUMENT, pairs, gold)) == list(alone.build(0, DOCUMENT, pairs, gold))


def test_demonstrations_that_leave_no_room_are_named() -> None:
    beside = QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(max_length=1500), demonstrated=1400)
    with pytest.raises(
        UserError, match=r"needs \d+ tokens .*, 1400 of them for demonstrations, but prompt\.max_length"
    ):
        list(beside.build(0, DOCUMENT, [(0, 1)]))


def test_text_that_does_not_fit_alone_is_refused() -> None:
    long = document(["a", "b"], [(0, 1, "P17")], title="Long one", text="word " * 300)
    needed = len(prompt(long, [(0, 1)], RELATIONS, "rc")) + len("(a| country| b)") + 1
    with pytest.raises(UserError, match=f"'Long one' needs {needed} tokens .* is 1024"):
        list(builder(max_length=1024).build(0, long, [(0, 1)], relations_by_pair(long)))
    (query,) = builder(max_length=needed).build(0, long, [(0, 1)], relations_by_pair(long))
    assert tokens(query) == needed


def spread(words: int = 40) -> Document:
    """Twelve sentences; Ada in the third and the tenth, Bob in the fourth, Zoë in the last."""
    places = {"Ada": (2, 9), "Bob": (3,), "Zoë": (11,)}
    entities = tuple(tuple(Mention(name, at, 0, 1, "PER") for at in each) for name, each in places.items())
    sentences = tuple((f"Sentence{number}", *["word"] * words) for number in range(12))
    return Document("Spread", sentences, entities, (Label(0, 1, "P26"), Label(2, 0, "P361")))


def farthest_first(document: Document, pair: Pair) -> list[int]:
    """As the rule says it, one sentence after another."""
    named = [mention.sentence for entity in pair for mention in document.entities[entity]]
    rest = [number for number in range(len(document.sentences)) if number not in named]
    order: list[int] = []
    while rest:
        farthest = max(min(abs(number - other) for other in named) for number in rest)
        order.append(max(number for number in rest if min(abs(number - other) for other in named) == farthest))
        rest.remove(order[-1])
    return order


@pytest.mark.parametrize("known", [True, False])
def test_text_that_does_not_fit_loses_sentences_far_from_the_pair(known: bool) -> None:
    """As few as will do, pair by pair, and none that names an entity of the pair."""
    long = spread()
    pairs = [(0, 1), (2, 0)]
    gold = relations_by_pair(long) if known else None
    most = 2000
    queries = list(builder(max_length=most, truncate="sentences").build(0, long, pairs, gold))
    assert [query.pairs for query in queries] == [((0, 1),), ((2, 0),)]
    for query, pair in zip(queries, pairs, strict=True):
        order = farthest_first(long, pair)
        count = len(query.left_out)
        assert 0 < count < len(order) and list(query.left_out) == sorted(order[:count])

        def needed(count: int, pair: Pair = pair, order: list[int] = order) -> int:
            short = replace(long, sentences=tuple(s for n, s in enumerate(long.sentences) if n not in order[:count]))
            before = len(prompt(short, [pair], RELATIONS, "rc").encode())
            names = entity_name(long, pair[0]), entity_name(long, pair[1])
            longest = len(f"({names[0]}| country of origin| {names[1]})\n".encode())
            relation = {"(0, 1)": "spouse", "(2, 0)": "part of"}[str(pair)]
            gold_answer = len(f"({names[0]}| {relation}| {names[1]})".encode()) + 1
            return before + (gold_answer if known else 1 + math.ceil(1.5 * longest))

        assert needed(count) <= most < needed(count - 1)
        shown = [number for number in range(12) if f"Sentence{number} " in query.prompt]
        assert shown == [number for number in range(12) if number not in query.left_out]


def test_order_in_which_sentences_go() -> None:
    """Ada and Bob are in sentences 2, 3 and 9: 6 is three away; 0, 5, 7 and 11 two; the later goes first."""
    assert dispensable(spread(), (0, 1)) == [6, 11, 7, 5, 0, 10, 8, 4, 1]


def test_what_fits_is_not_shortened() -> None:
    long = spread(words=3)
    pairs = candidate_pairs(3)
    with_rule = list(builder(max_length=2000, truncate="sentences").build(0, long, pairs))
    without = list(builder(max_length=2000).build(0, long, pairs))
    assert with_rule == without
    assert all(query.left_out == () for query in with_rule)


def test_text_that_names_the_pair_is_never_left_out() -> None:
    """A first mention's sentence that alone is too long is refused, with what was tried."""
    entities = ((Mention("Ada", 0, 0, 1, "PER"),), (Mention("Bob", 1, 0, 1, "PER"),))
    long = Document("Full", (("word",) * 300, ("Bob",), ("end",)), entities, None)
    with pytest.raises(
        UserError, match=r"'Full' needs \d+ tokens .* even without the 1 .*: split the document, or raise"
    ):
        list(builder(max_length=1024, truncate="sentences").build(0, long, [(0, 1)]))
    with pytest.raises(
        UserError, match=r"give --prompt\.truncate sentences \(lmrc extract: --truncate sentences\), split"
    ):
        list(builder(max_length=1024).build(0, long, [(0, 1)]))


def test_gold_pairs_need_labels() -> None:
    unlabelled = Document("No labels", DOCUMENT.sentences, DOCUMENT.entities, None)
    with pytest.raises(UserError, match="'No labels' has no labels"):
        gold_pairs(unlabelled)


LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% endif %}{% endfor %}"
)
"""What LLaMA-2-Chat's own tokenizer makes of a user's turn."""


def test_templates() -> None:
    """`llama2` is what that model's own chat template gives, with one beginning of text, not two."""
    words = tokenizer()
    words.add_special_tokens({"bos_token": "<s>"})
    words._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.convert_tokens_to_ids("<s>"))]
    )
    (query,) = builder().build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    with pytest.raises(UserError, match=r"prompt\.template is chat, but the tokenizer has no chat template"):
        prompt_ids(query.prompt, words, "chat")
    words.chat_template = LLAMA_2
    found = prompt_ids(query.prompt, words, "llama2")
    assert found == prompt_ids(query.prompt, words, "chat")
    assert words.decode(found) == f"<s>[INST] {query.prompt.rstrip()} [/INST]"
    assert words.decode(prompt_ids(query.prompt, words)) == f"<s>{query.prompt}"
    # The template is counted, and what all prompts begin with begins with it.
    example = encode(query, words, "llama2")
    assert example.prompt_tokens == len(found)
    needed = len(example.input_ids)
    for most, pairs in ((needed, 3), (needed - 1, 2)):
        build = QueryBuilder(words, RELATIONS, PromptOptions(max_length=most, template="llama2"))
        assert len(next(build.build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)).pairs) == pairs
        assert found[: len(build.beginning())] == build.beginning()
        assert str(words.decode(build.beginning())).startswith("<s>[INST] Below is an instruction")


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
