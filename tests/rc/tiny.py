"""A document, a relation set, a byte-level tokenizer and a random Llama: small enough to reason about."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lmrc.config.schema import PromptKind
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.rc.prompts.templates import prompt

KINDS: tuple[PromptKind, ...] = ("rc", "direct")

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


DOCUMENTS = [
    document(["Ada", "Bob (singer)", "U.S."], [(0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")], "one"),
    document(["X", "Y"], [], "two"),
    document(["Zoë", "France"], [(0, 1, "P17")], "three", text="Zoë lives there ."),
]
"""The second has no relation."""


def corpus(folder: Path, documents: list[Document], relations: RelationSet = RELATIONS) -> Corpus:
    """The documents, written as a corpus and opened."""
    write_corpus(documents, folder, relations, "test", "0" * 64)
    return Corpus.open(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end of sequence that is the padding too."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the words of the prompts, so that they are short; any other text in bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    example = document(["Ada", "Bob"], [])
    texts = [prompt(example, [(0, 1)], RELATIONS, kind) for kind in KINDS]
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def save_base(folder: Path, seed: int = 0) -> Path:
    """A random Llama (hidden 32, 2 layers) and a merging tokenizer, as a folder that transformers loads."""
    torch.manual_seed(seed)
    words = merging_tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        # Wide enough for an adapter to make it say anything.
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
