"""Tokenized training queries, built once per corpus and memory-mapped from the cache.

The folder `queries-<hash>` in the user's cache (`lmrc.common.cache`) holds the concatenated ids of all queries. The
hash covers everything that determines them: tokenizer files, prompt options, sampling of negatives, corpus, `VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lmrc.common.cache import cached, digest, fingerprint
from lmrc.common.errors import CorpusError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import relations_by_pair
from lmrc.rc.prompts.query_builder import EncodedQuestions, Example, QueryBuilder, encode
from lmrc.rc.prompts.questions import QuestionBuilder, encode_questions
from lmrc.rc.prompts.templates import PROMPTS, Pair, gold_pairs

logger = logging.getLogger(__name__)

# Increase it whenever the same documents would give other token ids.
VERSION = 1
# Options of the prompt that only inference reads.
ONLY_INFERENCE = {"schema", "relations_per_pair", "min_relation_probability"}
COUNTS, IDS, ENDS, PROMPT_TOKENS = "counts.json", "ids.npy", "ends.npy", "prompts.npy"
# Only for prompt.kind likelihood: the arrays of `EncodedQuestions`, and the ends of the questions of each query.
LENGTHS, NAME_TOKENS, QUESTION_ENDS = "lengths.npy", "name-tokens.npy", "question-ends.npy"


@dataclass(frozen=True, slots=True)
class QueryCounts:
    """Statistics of a tokenized corpus.

    Attributes:
        without_pairs: documents without a pair to ask about.
        shortened: queries with dropped sentences.
        sentences: sentences dropped from these queries.
        thinned_out: pairs without a relation that are not trained on.
        questions: lines of kind likelihood.
    """

    documents: int = 0
    without_pairs: int = 0
    shortened: int = 0
    sentences: int = 0
    thinned_out: int = 0
    questions: int = 0

    def __add__(self, other: QueryCounts) -> QueryCounts:
        return QueryCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class EncodedQueries:
    """The tokenized queries of a corpus, in its order.

    Attributes:
        sha256: hash of the token ids and lengths of all queries.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder of the cache.

        Raises:
            CorpusError: if a file is damaged.
        """
        try:
            content = json.loads((folder / COUNTS).read_bytes())
            self.counts = QueryCounts(**content["counts"])
            self.sha256: str = content["sha256"]
            # Copy-on-write, because torch warns about read-only arrays.
            self._ids = np.load(folder / IDS, mmap_mode="c")
            self._ends = [0, *np.load(folder / ENDS).tolist()]
            self._prompt_tokens = np.load(folder / PROMPT_TOKENS).tolist()
            self._question_ends: list[int] | None = None
            if (folder / QUESTION_ENDS).is_file():
                self._question_ends = [0, *np.load(folder / QUESTION_ENDS).tolist()]
                self._lengths, self._name_tokens = np.load(folder / LENGTHS), np.load(folder / NAME_TOKENS)
            if len(self._ids) != self._ends[-1] or len(self._prompt_tokens) != len(self._ends) - 1:
                raise ValueError(f"the lengths of the arrays in {folder} differ")
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Not in the pre-flight: the cache is read on the node.
            raise CorpusError(f"{error}. This is a cache: remove {folder}, and it is built again") from None

    def __len__(self) -> int:
        return len(self._prompt_tokens)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]  # raises IndexError if out of range
        ids = self._ids[self._ends[index] : self._ends[index + 1]]
        if self._question_ends is None:
            return Example(torch.from_numpy(ids), self._prompt_tokens[index])
        questions = slice(self._question_ends[index], self._question_ends[index + 1])
        arrays = self._lengths[questions], self._name_tokens[questions]
        return Example(
            torch.from_numpy(ids), self._prompt_tokens[index], EncodedQuestions(*map(torch.from_numpy, arrays))
        )

    @property
    def tokens(self) -> int:
        """Number of tokens of all queries."""
        return int(self._ends[-1])

    def size(self, index: int) -> int:
        """Return the number of tokens of a query."""
        return int(self._ends[index + 1] - self._ends[index])

    def weight(self, index: int) -> int:
        """Return the number of targets of a query: tokens of the answer and end of sequence, or names of tails."""
        if self._question_ends is not None:
            return int(self._name_tokens[self._question_ends[index] : self._question_ends[index + 1]].sum())
        return self.size(index) - int(self._prompt_tokens[index])


def sample_negatives(pairs: Sequence[Pair], gold: Sequence[Pair], ratio: float, seed: str) -> list[Pair]:
    """Return the gold pairs and `ratio` times as many of the other pairs, drawn by `seed`, in their order.

    A document without a gold pair keeps as many other pairs as one with a single gold pair, so that such documents are
    trained on too.
    """
    positives = set(gold)
    negatives = [pair for pair in pairs if pair not in positives]
    count = min(len(negatives), max(1, round(ratio * max(1, len(positives)))))
    sampled = set(Random(seed).sample(negatives, count))
    return [pair for pair in pairs if pair in positives or pair in sampled]


def load_or_build_dataset(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptOptions,
    negative_ratio: float | None = None,
    seed: int = 0,
) -> EncodedQueries:
    """Tokenize the training queries of a corpus, or open them from the cache.

    Several processes (the ranks of a job) may call this at once: one builds the files, the others wait.

    Args:
        prompt: prompt options; the kind of prompt decides between gold pairs and all pairs.
        negative_ratio: pairs without a relation to keep per pair with one; by default all.
        seed: seed for drawing these pairs.

    Raises:
        UserError: if a document does not fit or has no labels, or the cache cannot be written.
        CorpusError: if the cached files are damaged.
    """
    sampling = None if negative_ratio is None else (negative_ratio, seed)
    inputs = {
        "version": VERSION,
        "tokenizer": fingerprint(tokenizer),
        "prompt": prompt.model_dump(mode="json", exclude=ONLY_INFERENCE),
        "thinning": sampling,
        "corpus": corpus.fingerprint,
        "relations": corpus.relations.sha256,
    }
    key = digest(inputs)[:32]
    write = _write_questions if PROMPTS[prompt.kind].asks_relations else _write
    return EncodedQueries(cached(f"queries-{key}", lambda folder: write(folder, corpus, tokenizer, prompt, sampling)))


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptOptions,
    sampling: tuple[float, int] | None,
) -> None:
    if len(corpus) >= 100:  # fewer take seconds
        logger.info(f"{corpus.folder}: tokenizing the queries of {len(corpus)} documents, once")
    builder = QueryBuilder(tokenizer, corpus.relations, prompt)
    counts = QueryCounts()
    digest = hashlib.sha256()
    ids: list[np.ndarray] = []
    prompt_tokens: list[int] = []
    for index, document in enumerate(corpus):
        gold = gold_pairs(document)
        pairs = PROMPTS[prompt.kind].pairs(document)
        kept = pairs
        if sampling is not None:
            ratio, seed = sampling
            kept = sample_negatives(pairs, gold, ratio, f"{seed} {index} {document.title}")
        queries = list(builder.build(index, document, kept, relations_by_pair(document)))
        left_out = [len(query.left_out) for query in queries if query.left_out]
        counts += QueryCounts(1, not queries, len(left_out), sum(left_out), len(pairs) - len(kept))
        for query in queries:
            example = encode(query, tokenizer, prompt.template)
            ids.append(example.input_ids.numpy())
            prompt_tokens.append(example.prompt_tokens)
            for length in (len(ids[-1]), example.prompt_tokens):
                digest.update(length.to_bytes(8, "little"))
            digest.update(ids[-1].tobytes())
    np.save(folder / IDS, np.concatenate([np.empty(0, np.int32), *ids]))
    np.save(folder / ENDS, np.cumsum([len(query_ids) for query_ids in ids], dtype=np.int64))
    np.save(folder / PROMPT_TOKENS, np.array(prompt_tokens, dtype=np.int64))
    (folder / COUNTS).write_text(json.dumps({"counts": asdict(counts), "sha256": digest.hexdigest()}) + "\n")


def _write_questions(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptOptions,
    sampling: tuple[float, int] | None,
) -> None:
    """Write the queries of kind likelihood, which are about gold triples alone: `sampling` is None."""
    assert sampling is None
    builder = QuestionBuilder(tokenizer, corpus.relations, prompt)
    counts, encoded = QueryCounts(), list[Example]()
    for index, document in enumerate(corpus):
        gold_pairs(document)  # raises if there are no labels
        queries = list(builder.build(index, document, relations_by_pair(document).items()))
        left_out = [len(query.left_out) for query in queries if query.left_out]
        questions = sum(len(query.questions) for query in queries)
        counts += QueryCounts(1, not queries, len(left_out), sum(left_out), 0, questions)
        encoded += [encode_questions(query, tokenizer, prompt.template) for query in queries]
    asked = [example.questions for example in encoded if example.questions is not None]
    columns = {
        IDS: [example.input_ids for example in encoded],
        LENGTHS: [questions.lengths for questions in asked],
        NAME_TOKENS: [questions.name_tokens for questions in asked],
    }
    arrays: dict[str, np.ndarray] = {
        name: np.concatenate([np.empty(0, np.int32), *(part.numpy() for part in parts)])
        for name, parts in columns.items()
    }
    for name, column in {ENDS: IDS, QUESTION_ENDS: LENGTHS}.items():
        arrays[name] = np.cumsum([len(part) for part in columns[column]], dtype=np.int64)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(array.tobytes())
        np.save(folder / name, array)
    np.save(folder / PROMPT_TOKENS, np.array([example.prompt_tokens for example in encoded], dtype=np.int64))
    (folder / COUNTS).write_text(json.dumps({"counts": asdict(counts), "sha256": digest.hexdigest()}) + "\n")
