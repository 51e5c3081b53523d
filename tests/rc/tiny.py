"""Small inputs for tests: documents, a relation set, tokenizers and a random Llama."""

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
from lmrc.rc.prompts.templates import PROMPTS

KINDS: tuple[PromptKind, ...] = ("rc", "direct")

RELATIONS = RelationSet(
    ids=("P17", "P495", "P361", "P1344", "P26"),
    names=("country", "country of origin", "part of", "participant of", "spouse"),
)


def document(
    names: list[str], labels: list[tuple[int, int, str]], title: str = "A title", text: str = "Ada met Bob ."
) -> Document:
    """Return a document with one mention per entity. All mentions are at the first token, which RC does not use."""
    entities = tuple((Mention(name, 0, 0, 1, "PER"),) for name in names)
    sentences = (tuple(text.split(" ")), ("The", "end", "."))
    return Document(title, sentences, entities, tuple(Label(*label) for label in labels))


# The second document has no relation.
DOCUMENTS = [
    document(["Ada", "Bob (singer)", "U.S."], [(0, 1, "P26"), (1, 2, "P17"), (1, 2, "P495")], "one"),
    document(["X", "Y"], [], "two"),
    document(["Zoë", "France"], [(0, 1, "P17")], "three", text="Zoë lives there ."),
]


def corpus(folder: Path, documents: list[Document], relations: RelationSet = RELATIONS) -> Corpus:
    """Write the documents as a corpus and open it."""
    write_corpus(documents, folder, relations, "test", "0" * 64)
    return Corpus.open(folder)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, whose end of sequence is also the padding token."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that is trained on the prompts, so that they have few tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    example = document(["Ada", "Bob"], [])
    texts = [PROMPTS[kind].render(example, [(0, 1)], RELATIONS) for kind in KINDS]
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def save_base(folder: Path, seed: int = 0) -> Path:
    """Save a random Llama (hidden size 32, 2 layers) and its tokenizer in a folder for transformers."""
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
        # Large enough for an adapter to memorize answers.
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
