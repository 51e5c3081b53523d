"""A document, a relation set, a byte-level tokenizer and a random Llama: small enough to reason about."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lmrc.corpus.docred import Document, Label, Mention
from lmrc.corpus.relations import RelationSet

RELATIONS = RelationSet(
    ids=("P17", "P495", "P361", "P1344", "P26"),
    names=("country", "country of origin", "part of", "participant of", "spouse"),
)


def document(
    names: list[str], labels: list[tuple[int, int, str]], title: str = "A title", text: str = "Ada met Bob ."
) -> Document:
    """A document with one mention an entity. Mentions stand at the first token; nothing in RC reads their place."""
    entities = tuple((Mention(name, 0, 0, 1, "PER"),) for name in names)
    sentences = (tuple(text.split(" ")), ("The", "end", "."))
    return Document(title, sentences, entities, tuple(Label(*label) for label in labels))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end of sequence that is the padding too."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def save_base(folder: Path, seed: int = 0) -> Path:
    """A random Llama (hidden 32, 2 layers) and the tokenizer, as a folder that transformers loads."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
