"""Training queries as token ids: made once from a corpus, and read memory-mapped from the cache.

`queries-<hash>` in the user's cache (`lmrc.common.cache`) holds the ids of all queries end to end. The hash is of all that
decides the content: the tokenizer's files, the prompt's options, what is thinned out, the corpus, this code's version.
"""

from __future__ import annotations

import hashlib
import json
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
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.rc.prompts.query_builder import Example, QueryBuilder, encode, gold_pairs
from lmrc.rc.prompts.templates import Pair

# Raised whenever the same documents would give other token ids.
VERSION = 1
COUNTS, IDS, ENDS, PROMPTS = "counts.json", "ids.npy", "ends.npy", "prompts.npy"


@dataclass(frozen=True, slots=True)
class QueryCounts:
    """What became of the documents of a corpus."""

    documents: int = 0
    without_pairs: int = 0
    """Documents that have no pair to ask for."""
    shortened: int = 0
    """Queries without some sentences, to fit."""
    sentences: int = 0
    """Sentences left out of them."""
    thinned_out: int = 0
    """Pairs without a relation that are not learnt from."""

    def __add__(self, other: QueryCounts) -> QueryCounts:
        return QueryCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class EncodedQueries:
    """The queries of a corpus, in its order."""

    def __init__(self, folder: Path) -> None:
        """Raises CorpusError where a file is damaged."""
        try:
            content = json.loads((folder / COUNTS).read_bytes())
            self.counts = QueryCounts(**content["counts"])
            self.sha256: str = content["sha256"]
            """Of the token ids of all queries, with where each begins and its prompt ends."""
            # "c": written to, if ever, in memory alone; torch knows no arrays that may only be read.
            self._ids = np.load(folder / IDS, mmap_mode="c")
            self._ends = [0, *np.load(folder / ENDS).tolist()]
            self._prompts = np.load(folder / PROMPTS).tolist()
            if not len(self._ids) == self._ends[-1] or not len(self._prompts) == len(self._ends) - 1:
                raise ValueError(f"{folder} holds other queries than it says")
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Not in the pre-flight: the cache is read on the node.
            raise CorpusError(f"{error}. This is a cache: remove {folder}, and it is made again") from None

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]  # raises IndexError beyond the last
        ids = self._ids[self._ends[index] : self._ends[index + 1]]
        return Example(torch.from_numpy(ids), self._prompts[index])

    @property
    def tokens(self) -> int:
        """Of all queries."""
        return int(self._ends[-1])

    def size(self, index: int) -> int:
        """Number of tokens of a query."""
        return int(self._ends[index + 1] - self._ends[index])

    def weight(self, index: int) -> int:
        """Number of learnt tokens of a query: answer and end of sequence."""
        return self.size(index) - int(self._prompts[index])


def thinned(pairs: Sequence[Pair], related: Sequence[Pair], ratio: float, seed: str) -> list[Pair]:
    """The related pairs and `ratio` times as many of the others, drawn by `seed`, in their order.

    Where none is related as many others as for one, so that a text without relations is learnt too.
    """
    known = set(related)
    others = [pair for pair in pairs if pair not in known]
    count = min(len(others), max(1, round(ratio * max(1, len(known)))))
    drawn = set(Random(seed).sample(others, count))
    return [pair for pair in pairs if pair in known or pair in drawn]


def load_or_build_dataset(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptOptions,
    none_ratio: float | None = None,
    seed: int = 0,
) -> EncodedQueries:
    """The queries that a corpus is learnt by: gold pairs (`rc`) or all pairs, of these as many as `none_ratio` says.

    Several processes (the ranks of a job) may ask at once: one makes them, the others wait. Raises UserError where a
    document does not fit or has no labels, or the cache cannot be written; CorpusError where what is there is damaged.
    """
    thinning = None if none_ratio is None else (none_ratio, seed)
    decides = {
        "version": VERSION,
        "tokenizer": fingerprint(tokenizer),
        "prompt": prompt.model_dump(mode="json"),
        "thinning": thinning,
        "corpus": corpus.fingerprint,
        "relations": corpus.relations.sha256,
    }
    key = digest(decides)[:32]
    return EncodedQueries(cached(f"queries-{key}", lambda folder: _write(folder, corpus, tokenizer, prompt, thinning)))


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptOptions,
    thinning: tuple[float, int] | None,
) -> None:
    if len(corpus) >= 100:  # fewer take seconds
        print(f"{corpus.folder}: tokenizing the queries of {len(corpus)} documents, once", flush=True)
    builder = QueryBuilder(tokenizer, corpus.relations, prompt)
    counts = QueryCounts()
    digest = hashlib.sha256()
    ids: list[np.ndarray] = []
    prompts: list[int] = []
    for index, document in enumerate(corpus):
        known = gold_pairs(document)
        pairs = known if prompt.kind == "rc" else candidate_pairs(len(document.entities))
        kept = pairs
        if thinning is not None:
            ratio, seed = thinning
            kept = thinned(pairs, known, ratio, f"{seed} {index} {document.title}")
        queries = list(builder.build(index, document, kept, relations_by_pair(document)))
        left_out = [len(query.left_out) for query in queries if query.left_out]
        counts += QueryCounts(1, not queries, len(left_out), sum(left_out), len(pairs) - len(kept))
        for query in queries:
            example = encode(query, tokenizer, prompt.template)
            ids.append(example.input_ids.numpy())
            prompts.append(example.prompt_tokens)
            for number in (len(ids[-1]), prompts[-1]):
                digest.update(number.to_bytes(8, "little"))
            digest.update(ids[-1].tobytes())
    np.save(folder / IDS, np.concatenate([np.empty(0, np.int32), *ids]))
    np.save(folder / ENDS, np.cumsum([len(each) for each in ids], dtype=np.int64))
    np.save(folder / PROMPTS, np.array(prompts, dtype=np.int64))
    (folder / COUNTS).write_text(json.dumps({"counts": asdict(counts), "sha256": digest.hexdigest()}) + "\n")
