"""Tiny models with random weights and trained tokenizers, for tests and smoke runs.

Their files are identical on all machines.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

HIDDEN = 32
LAYERS = 2
HEADS = 4
ENCODER_POSITIONS = 512
LLM_POSITIONS = 4096
VOCABULARY = 1500
SEED = 66
DOCUMENTS = 300


def training_sentences() -> list[str]:
    """Return the sentences of synthetic documents that the tokenizers are trained on."""
    from lmrc.corpus.synthetic.generator import generate

    return [" ".join(sentence) for document in generate(DOCUMENTS, SEED) for sentence in document.sentences]


def digest(sentences: list[str]) -> str:
    """Return a short hash of the sentences, because other sentences give other tokenizers."""
    return hashlib.sha256("\n".join(sentences).encode()).hexdigest()[:12]


def write_encoder(sentences: list[str], out: Path) -> None:
    """Write a BertModel (2 layers, hidden 32, 4 heads, 512 positions) and its WordPiece tokenizer to `out`."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    backend = _word_pieces(sentences)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=ENCODER_POSITIONS,
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=ENCODER_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
    )
    _save(lambda: BertModel(config), out)
    tokenizer.save_pretrained(out)


def write_llm(sentences: list[str], out: Path) -> None:
    """Write a LlamaForCausalLM (2 layers, hidden 32, 4,096 positions) and its byte-level BPE tokenizer to `out`."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(sentences),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=LLM_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,  # grouped-query attention, to test it
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=LLM_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    _save(lambda: LlamaForCausalLM(config), out)
    tokenizer.save_pretrained(out)


def _word_pieces(sentences: list[str]) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer whose vocabulary has all ASCII characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    characters = {character for sentence in sentences for character in normalizer.normalize_str(sentence)}
    characters |= set(string.ascii_lowercase + string.digits + string.punctuation)
    alphabet = sorted(characters - set(string.whitespace))
    # The trainer numbers continuation characters in the order of a hash table and breaks ties by these numbers. As
    # special tokens they get fixed numbers; otherwise the vocabulary would differ between processes.
    continuing = [f"##{character}" for character in alphabet]
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(
        sentences,
        trainers.WordPieceTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special + alphabet + continuing,
            show_progress=False,
        ),
    )
    # A new tokenizer with the same vocabulary, in which the characters are not special tokens.
    vocabulary = trained.get_vocab()
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_pairs(sentences: list[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which encodes and decodes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<pad>", "<s>", "</s>"],
            show_progress=False,
        ),
    )
    return tokenizer


def _save(build: Callable[[], PreTrainedModel], out: Path) -> None:
    """Write the model that `build` makes with a fixed seed. The caller's random state does not change."""
    import torch

    from lmrc.pretrained.weights import save_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        save_model(build(), out)
