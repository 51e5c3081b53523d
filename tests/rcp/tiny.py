"""Tiny random encoders, tokenizers and documents for the tests of RCP."""

from __future__ import annotations

import random
from typing import Literal

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from lmrc.corpus.types import Document, Label, Mention

Kind = Literal["bert", "roberta"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPES = ("PER", "ORG", "MISC")
# Positions of the tiny encoders, special tokens included. Longer documents take two windows.
POSITIONS = 48


def tokenizer(kind: Kind) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose word pieces are letters: "abc" is three of them."""
    if kind == "bert":
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "*", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
        return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "*", *LETTERS]
    return RobertaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])


def encoder(kind: Kind, seed: int = 0, dropout: float = 0.0) -> PreTrainedModel:
    """Return an encoder with two layers and four heads.

    The random weights are large, so that attention is far from uniform.
    """
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.4,
    }
    if kind == "bert":
        return BertModel(BertConfig(vocab_size=58, max_position_embeddings=POSITIONS, **sizes))
    return RobertaModel(
        RobertaConfig(vocab_size=32, max_position_embeddings=POSITIONS + 2, pad_token_id=1, type_vocab_size=1, **sizes)
    )


def document(
    words: int,
    entities: list[int],
    seed: int = 0,
    labels: tuple[tuple[int, int], ...] | None = (),
    title: str | None = None,
) -> Document:
    """Return a random document with words of one or two letters in sentences of ten.

    Args:
        words: number of words.
        entities: number of mentions of each entity.
        seed: seed of the random numbers.
        labels: (head, tail) of each label.
        title: title; by default, it contains the seed.
    """
    choose = random.Random(seed)
    text = ["".join(choose.choices(LETTERS, k=choose.randint(1, 2))) for _ in range(words)]
    sentences = tuple(tuple(text[start : start + 10]) for start in range(0, words, 10))

    def mention(name: str, kind: str) -> Mention:
        sentence = choose.randrange(len(sentences))
        start = choose.randrange(len(sentences[sentence]))
        end = choose.randint(start + 1, min(start + 3, len(sentences[sentence])))
        return Mention(name, sentence, start, end, kind)

    return Document(
        title=title or f"document {seed}",
        sentences=sentences,
        # The mentions of an entity have different types.
        entities=tuple(
            tuple(mention(f"e{e}", TYPES[(e + m) % len(TYPES)]) for m in range(count))
            for e, count in enumerate(entities)
        ),
        labels=None if labels is None else tuple(Label(head, tail, "P17") for head, tail in labels),
    )
