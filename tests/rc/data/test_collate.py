from __future__ import annotations

import torch

from lmrc.config.schema import PromptOptions
from lmrc.corpus.docred import relations_by_pair
from lmrc.rc.data.collate import collate
from lmrc.rc.model.packed_attention import PackedSequences
from lmrc.rc.prompts.query_builder import EncodedQuestions, Example, QueryBuilder, encode
from lmrc.rc.prompts.templates import gold_pairs
from tests.rc.tiny import RELATIONS, document, tokenizer

TOKENIZER = tokenizer()
DOCUMENT = document(
    ["Ada", "Bob (singer)", "U.S.", "Zoë"], [(1, 2, "P495"), (0, 1, "P26"), (1, 2, "P17"), (3, 0, "P361")]
)
GOLD = relations_by_pair(DOCUMENT)


def test_examples_are_packed_after_their_shared_prefix() -> None:
    queries = QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(pairs_per_query=1)).build(
        0, DOCUMENT, gold_pairs(DOCUMENT), GOLD
    )
    examples = [encode(query, TOKENIZER) for query in queries]
    assert len(examples) == 3
    batch = collate(examples)
    layout = batch["layout"]
    assert isinstance(layout, PackedSequences)
    sequences = [example.input_ids.tolist() for example in examples]
    # Instruction, relations and text are the same.
    shared = next(index for index, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1)
    assert layout.prefix_length == shared > 300
    ids, positions = batch["input_ids"].tolist(), batch["positions"].tolist()
    assert ids == sequences[0][:shared] + [token for sequence in sequences for token in sequence[shared:]]
    assert positions == [*range(shared), *(index for sequence in sequences for index in range(shared, len(sequence)))]
    assert batch["targets"].tolist() == [
        token
        for sequence, example in zip(sequences, examples, strict=True)
        for token in sequence[example.prompt_tokens :]
    ]
    # The logits that predict a token are those at the token before it.
    for index, target in zip(batch["logit_positions"].tolist(), batch["targets"].tolist(), strict=True):
        assert ids[index + 1] == target and positions[index + 1] == positions[index] + 1


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    """Its logits predict the first token of the answer, which differs."""
    same = [Example(torch.tensor([7, 8, 9, answer, 0], dtype=torch.int32), 3) for answer in (1, 2)]
    batch = collate(same)
    assert batch["layout"].prefix_length == 2  # type: ignore[union-attr]
    assert batch["input_ids"].tolist() == [7, 8, 9, 1, 0, 9, 2, 0]
    assert batch["logit_positions"].tolist() == [2, 3, 5, 6]
    assert batch["targets"].tolist() == [1, 0, 2, 0]


def test_questions_are_packed() -> None:
    """Each line begins at the position after its prompt: here lines of three tokens and two, and a single line."""
    examples = [
        Example(torch.tensor([7, 8, 1, 2, 3, 4, 5]), 2, EncodedQuestions(torch.tensor([3, 2]), torch.tensor([2, 1]))),
        Example(torch.tensor([7, 5, 6]), 1, EncodedQuestions(torch.tensor([2]), torch.tensor([1]))),
    ]
    batch = collate(examples)
    assert batch["input_ids"].tolist() == [7, 8, 1, 2, 3, 4, 5, 7, 5, 6]
    assert batch["positions"].tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1, 2]
    assert [batch["input_ids"][position].item() for position in batch["logit_positions"]] == [1, 2, 4, 5]
    assert batch["targets"].tolist() == [2, 3, 5, 6]
