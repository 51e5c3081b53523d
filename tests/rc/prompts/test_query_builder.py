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
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, answer_ids, encode, prompt_ids
from lmrc.rc.prompts.templates import PROMPTS, Pair, entity_name, gold_pairs
from lmrc.rc.prompts.truncation import droppable_sentences
from tests.rc.tiny import RELATIONS, document, tokenizer

TOKENIZER = tokenizer()
RC = PROMPTS["rc"]
DOCUMENT = document(
    ["Ada", "Bob (singer)", "U.S.", "Zoë"], [(1, 2, "P495"), (0, 1, "P26"), (1, 2, "P17"), (3, 0, "P361")]
)
GOLD = relations_by_pair(DOCUMENT)


def builder(answer_limit: int | None = None, **options: object) -> QueryBuilder:
    return QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(**options), answer_limit)


def tokens(query: Query) -> int:
    assert query.answer is not None
    return len(query.prompt.encode()) + len(query.answer.encode()) + 1


def test_one_query_per_document_if_it_fits() -> None:
    (query,) = builder().build(7, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    assert (query.document, query.title, query.pairs) == (7, "A title", ((0, 1), (1, 2), (3, 0)))
    assert query.prompt == RC.render(DOCUMENT, query.pairs, RELATIONS)
    assert query.answer == (
        "(Ada| spouse| Bob (singer))\n(Bob (singer)| country| U.S.)\n(Bob (singer)| country of origin| U.S.)\n"
        "(Zoë| part of| Ada)"
    )


def test_pairs_per_query() -> None:
    queries = list(builder(pairs_per_query=2, kind="direct").build(0, DOCUMENT, candidate_pairs(4), GOLD))
    assert [len(query.pairs) for query in queries] == [2] * 6
    assert sum((query.pairs for query in queries), ()) == tuple(candidate_pairs(4))
    assert queries[0].answer == "(Ada| spouse| Bob (singer))\n(Ada| None| U.S.)"


def test_no_query_without_pairs() -> None:
    assert list(builder().build(0, DOCUMENT, [])) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(960, 2200), st.booleans(), st.sampled_from([None, 1, 12]))
def test_a_query_has_as_many_pairs_as_fit(max_length: int, known: bool, guess: int | None) -> None:
    """Every query fits, and would not fit with one pair more. The estimate to start from does not matter."""
    build = builder(max_length=max_length, kind="direct")
    if guess is not None:
        build._estimate_count = lambda costs, fixed: min(guess, len(costs))  # type: ignore[method-assign]
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


def test_a_lower_answer_limit_gives_fewer_pairs() -> None:
    queries = list(builder(answer_limit=120).build(0, DOCUMENT, candidate_pairs(4)))
    assert len(queries) > 1
    assert all(query.answer_room <= 120 for query in queries)


@given(demonstration_tokens=st.integers(1, 400), known=st.booleans())
def test_demonstrations_count_towards_max_length(demonstration_tokens: int, known: bool) -> None:
    pairs, gold = candidate_pairs(4), GOLD if known else None
    few_shot = QueryBuilder(
        TOKENIZER, RELATIONS, PromptOptions(max_length=1500), demonstration_tokens=demonstration_tokens
    )
    alone = builder(max_length=1500 - demonstration_tokens, answer_limit=1500)
    assert list(few_shot.build(0, DOCUMENT, pairs, gold)) == list(alone.build(0, DOCUMENT, pairs, gold))


def test_message_if_demonstrations_are_too_long() -> None:
    few_shot = QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(max_length=1500), demonstration_tokens=1400)
    with pytest.raises(
        UserError, match=r"needs \d+ tokens .*, 1400 of them for demonstrations, but prompt\.max_length"
    ):
        list(few_shot.build(0, DOCUMENT, [(0, 1)]))


def test_text_that_does_not_fit_with_one_pair_is_refused() -> None:
    long = document(["a", "b"], [(0, 1, "P17")], title="Long one", text="word " * 300)
    needed = len(RC.render(long, [(0, 1)], RELATIONS)) + len("(a| country| b)") + 1
    with pytest.raises(UserError, match=f"'Long one' needs {needed} tokens .* is 1024"):
        list(builder(max_length=1024).build(0, long, [(0, 1)], relations_by_pair(long)))
    (query,) = builder(max_length=needed).build(0, long, [(0, 1)], relations_by_pair(long))
    assert tokens(query) == needed


def spread(words: int = 40) -> Document:
    """Return twelve sentences, with mentions in sentences 2 and 9 (Ada), 3 (Bob) and 11 (Zoë)."""
    mentions = {"Ada": (2, 9), "Bob": (3,), "Zoë": (11,)}
    entities = tuple(
        tuple(Mention(name, sentence, 0, 1, "PER") for sentence in sentences) for name, sentences in mentions.items()
    )
    sentences = tuple((f"Sentence{index}", *["word"] * words) for index in range(12))
    return Document("Spread", sentences, entities, (Label(0, 1, "P26"), Label(2, 0, "P361")))


def farthest_first(document: Document, pair: Pair) -> list[int]:
    """Return the order of dropping, computed one sentence after another."""
    mentioning = [mention.sentence for entity in pair for mention in document.entities[entity]]

    def distance(sentence: int) -> int:
        return min(abs(sentence - other) for other in mentioning)

    rest = [sentence for sentence in range(len(document.sentences)) if sentence not in mentioning]
    order: list[int] = []
    while rest:
        farthest = max(map(distance, rest))
        order.append(max(sentence for sentence in rest if distance(sentence) == farthest))
        rest.remove(order[-1])
    return order


@pytest.mark.parametrize("known", [True, False])
def test_sentences_far_from_the_pair_are_dropped(known: bool) -> None:
    """As few as possible per pair, and none that mentions an entity of the pair."""
    long = spread()
    pairs = [(0, 1), (2, 0)]
    gold = relations_by_pair(long) if known else None
    limit = 2000
    queries = list(builder(max_length=limit, truncate="sentences").build(0, long, pairs, gold))
    assert [query.pairs for query in queries] == [((0, 1),), ((2, 0),)]
    for query, pair in zip(queries, pairs, strict=True):
        order = farthest_first(long, pair)
        count = len(query.left_out)
        assert 0 < count < len(order) and list(query.left_out) == sorted(order[:count])

        def needed(count: int, pair: Pair = pair, order: list[int] = order) -> int:
            short = replace(long, sentences=tuple(s for n, s in enumerate(long.sentences) if n not in order[:count]))
            before = len(RC.render(short, [pair], RELATIONS).encode())
            names = entity_name(long, pair[0]), entity_name(long, pair[1])
            longest = len(f"({names[0]}| country of origin| {names[1]})\n".encode())
            relation = {"(0, 1)": "spouse", "(2, 0)": "part of"}[str(pair)]
            gold_answer = len(f"({names[0]}| {relation}| {names[1]})".encode()) + 1
            return before + (gold_answer if known else 1 + math.ceil(1.5 * longest))

        assert needed(count) <= limit < needed(count - 1)
        shown = [index for index in range(12) if f"Sentence{index} " in query.prompt]
        assert shown == [index for index in range(12) if index not in query.left_out]


def test_order_of_dropped_sentences() -> None:
    """Ada and Bob are mentioned in sentences 2, 3 and 9. The distance is 3 for 6, and 2 for 0, 5, 7 and 11."""
    assert droppable_sentences(spread(), (0, 1)) == [6, 11, 7, 5, 0, 10, 8, 4, 1]


def test_text_that_fits_is_not_shortened() -> None:
    long = spread(words=3)
    pairs = candidate_pairs(3)
    shortened = list(builder(max_length=2000, truncate="sentences").build(0, long, pairs))
    without = list(builder(max_length=2000).build(0, long, pairs))
    assert shortened == without
    assert all(query.left_out == () for query in shortened)


def test_sentences_that_mention_the_pair_are_never_dropped() -> None:
    """If such a sentence alone is too long, the message says how many sentences were dropped."""
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


# The part of LLaMA-2-Chat's own chat template that formats a user turn.
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% endif %}{% endfor %}"
)


def test_llama2_equals_its_chat_template() -> None:
    """With one beginning-of-sequence token, not two."""
    llama = tokenizer()
    llama.add_special_tokens({"bos_token": "<s>"})
    llama._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", llama.convert_tokens_to_ids("<s>"))]
    )
    (query,) = builder().build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)
    with pytest.raises(UserError, match=r"prompt\.template is chat, but the tokenizer has no chat template"):
        prompt_ids(query.prompt, llama, "chat")
    llama.chat_template = LLAMA_2
    ids = prompt_ids(query.prompt, llama, "llama2")
    assert ids == prompt_ids(query.prompt, llama, "chat")
    assert llama.decode(ids) == f"<s>[INST] {query.prompt.rstrip()} [/INST]"
    assert llama.decode(prompt_ids(query.prompt, llama)) == f"<s>{query.prompt}"
    # Lengths include the template, and the shared prefix starts with it.
    example = encode(query, llama, "llama2")
    assert example.prompt_tokens == len(ids)
    needed = len(example.input_ids)
    for limit, pairs in ((needed, 3), (needed - 1, 2)):
        build = QueryBuilder(llama, RELATIONS, PromptOptions(max_length=limit, template="llama2"))
        assert len(next(build.build(0, DOCUMENT, gold_pairs(DOCUMENT), GOLD)).pairs) == pairs
        prefix = build.shared_prefix()
        assert ids[: len(prefix)] == prefix
        assert str(llama.decode(prefix)).startswith("<s>[INST] Below is an instruction")


def test_example_is_prompt_answer_and_end_of_sequence() -> None:
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
