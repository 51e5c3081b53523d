from __future__ import annotations

import torch

from lmrc.config.schema import PromptOptions
from lmrc.corpus.docred import relations_by_pair
from lmrc.rc.data.collate import collate
from lmrc.rc.model.packed_attention import PackedSequences
from lmrc.rc.prompts.query_builder import Example, QueryBuilder, encode, gold_pairs
from tests.rc.tiny import RELATIONS, document, tokenizer

TOKENIZER = tokenizer()
DOCUMENT = document(
    ["Ada", "Bob (singer)", "U.S.", "Zoë"], [(1, 2, "P495"), (0, 1, "P26"), (1, 2, "P17"), (3, 0, "P361")]
)
GOLD = relations_by_pair(DOCUMENT)


def test_examples_lie_end_to_end_behind_the_beginning_they_share() -> None:
    queries = QueryBuilder(TOKENIZER, RELATIONS, PromptOptions(pairs_per_query=1)).build(
        0, DOCUMENT, gold_pairs(DOCUMENT), GOLD
    )
    examples = [encode(query, TOKENIZER) for query in queries]
    assert len(examples) == 3
    batch = collate(examples)
    layout = batch["layout"]
    assert isinstance(layout, PackedSequences)
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
