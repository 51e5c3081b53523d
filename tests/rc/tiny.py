"""Small inputs for tests: documents, a relation set, tokenizers and a random Llama."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lmrc.config.schema import PromptKind
from lmrc.corpus.candidates import Candidate, Candidates, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.rc.prompts.query_builder import answer_ids
from lmrc.rc.prompts.templates import PROMPTS, Pair

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


def typed(doc: Document, types: Sequence[str]) -> Document:
    """Return the document with these types of its entities."""
    entities = (
        tuple(replace(mention, type=name) for mention in entity)
        for entity, name in zip(doc.entities, types, strict=True)
    )
    return replace(doc, entities=tuple(entities))


def offered_relations(schema: RelationSchema, doc: Document, pair: Pair) -> list[str]:
    """Return the ids of the relations that a pair is offered: the admissible ones, or all if there are none."""
    head, tail = (doc.entities[entity][0].type for entity in pair)
    return [id_ for id_ in RELATIONS.ids if schema.admits(head, id_, tail)] or [*RELATIONS.ids]


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


def candidates(folder: Path, documents: Corpus) -> Candidates:
    """Write candidates of the corpus of DOCUMENTS, whose relations are partly wrong, and open them."""
    rows = {
        "one": [
            (0, 1, {"P17": 0.5, "P26": 1.0}),
            (1, 2, {"P17": -1.0, "P495": 2.0, "P361": -2.0}),
            (2, 0, {"P26": 0.0}),
        ],
        "two": [(1, 0, {"P361": -2.0})],
        "three": [(0, 1, {"P17": 0.0, "P1344": -9.0})],
    }
    written = [
        (
            document.title,
            [
                Candidate(head, tail, 0.5, tuple(RelationLogit(*item) for item in logits.items()))
                for head, tail, logits in rows[document.title]
            ],
        )
        for document in documents
    ]
    write_candidates(written, folder, documents.fingerprint, 0.3)
    return Candidates.open(folder)


def tokenizer(merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and merge, whose end of sequence is also the padding token."""
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    for merge in merges:
        vocabulary["".join(merge)] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
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


def newline_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that merges brackets with the newline after them, as Llama-3's and Qwen's do.

    It splits texts as they do. `)` and a newline are one token, and so are `))` and a newline.
    """
    backend = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    texts = [PROMPTS[kind].render(DOCUMENTS[0], [(0, 1), (1, 2)], RELATIONS) for kind in KINDS]
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False, min_frequency=1
    )
    backend.train_from_iterator([*texts, "(a| b| c)\n(a| b| (c))\n" * 2], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


# Merges of byte-level tokenizers with a newline. The newline is written as U+010A.
NEWLINE_MERGES = [(")", "\u010a")]
# `c)` is one token, except before a newline.
EARLY_MERGES = [(")", "\u010a"), ("c", ")"), ("s", "."), ("s.", ")")]
# Two brackets merge with the newline after them, and one does not.
UNEVEN_MERGES = [(")", ")"), ("))", "\u010a")]
# A token reaches from the end of a line to the bracket of the next one.
LINE_MERGES = [(")", "\u010a"), (")\u010a", "(")]


def whole_answers(
    lm_tokenizer: PreTrainedTokenizerBase,
    kind: PromptKind,
    doc: Document,
    pairs: list[Pair],
    schema: RelationSchema | None = None,
) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Tokenize all possible answers as training does. Values are the relation ids of the first pair."""
    least = 1 if kind == "rc" else 0
    subsets = []
    for pair in pairs:
        offered = RELATIONS.ids if schema is None else offered_relations(schema, doc, pair)
        sizes = range(least, len(offered) + 1)
        subsets.append([subset for size in sizes for subset in itertools.combinations(offered, size)])
    return {
        tuple(
            answer_ids(PROMPTS[kind].answer(doc, dict(zip(pairs, chosen, strict=True)), RELATIONS), lm_tokenizer)
        ): chosen[0]
        for chosen in itertools.product(*subsets)
    }


def slow_probability(model: nn.Module, prompt: list[int], answers: dict[tuple[int, ...], bool]) -> float:
    """Return the probability of the answers that are True, normalized over the tokens that continue any answer.

    Each token has a forward pass of its own over the whole text.
    """
    probability, nodes = 0.0, [(tuple[int, ...](), 1.0)]
    while nodes:
        ids, reached = nodes.pop()
        below = {answer: chosen for answer, chosen in answers.items() if answer[: len(ids)] == ids}
        if all(below.values()):
            probability += reached
        elif any(below.values()):
            next_tokens = sorted({answer[len(ids)] for answer in below})
            shares = [1.0]
            if len(next_tokens) > 1:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
                shares = torch.softmax(logits[next_tokens], 0).tolist()
            nodes += [((*ids, token), reached * share) for token, share in zip(next_tokens, shares, strict=True)]
    return probability


def save_base(
    folder: Path, seed: int = 0, lm_tokenizer: PreTrainedTokenizerFast | None = None, head_size: int = 8
) -> Path:
    """Save a random Llama (4 heads, 2 layers) and its tokenizer in a folder for transformers."""
    torch.manual_seed(seed)
    words = lm_tokenizer or merging_tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=4 * head_size,
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
