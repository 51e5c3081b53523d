"""Answers along the grammar beside Hugging Face's generate, on real prompts.

Both sides hold the same LM with the same adapter and answer the same queries (gold pairs of the documents), as many at
a time. Hugging Face's side is greedy `generate` over padded batches, sorted by length, with sdpa; ours is
`lmrc.rc.decoding.generate`. The adapter must have learnt the format: one that has not never ends its answers, and costs
`generate` all their room.

`agreement`: of the queries whose free answer is well-formed and in order, the share with the same triples from both.
`gold_roundtrip_f1`: gold answers of all documents through prompt, parser and scorer.

    python benchmarks/rc_decode.py --documents redocred_dev.json --adapter runs/rc/best [--count 16] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import DecodeOptions, PromptOptions
from lmrc.corpus.docred import read_documents, relations_by_pair
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.rc.decoding.generate import Generation, generate
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.parsing import Parsed, parse
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_adapter, load_base, load_tokenizer
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.templates import PROMPTS, gold_pairs


def gold_roundtrip(documents: Sequence[Document]) -> float:
    """F1 of the gold answers, each read as an answer to a query for all gold pairs of its document."""
    predictions = []
    for document in documents:
        gold = relations_by_pair(document)
        if gold:
            parsed = parse(PROMPTS["rc"].answer(document, gold, DOCRED), document, list(gold), DOCRED)
            predictions += [Prediction(document.title, *triple) for triple in parsed.triples]
    return score(documents, predictions, DOCRED).all.f1


class Bench:
    """The queries, and both ways to answer them."""

    def __init__(self, options: argparse.Namespace) -> None:
        settings = AdapterMetadata.read(options.adapter)
        self.documents = list(itertools.islice(read_documents(options.documents, DOCRED), options.count))
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(options.adapter))
        base = load_base(adapter_base(options.adapter), IMPLEMENTATION, "fp32")
        self._model: PeftModel = load_adapter(base, options.adapter)
        self._options, self._prompt = options, settings.prompt
        builder = QueryBuilder(self.tokenizer, DOCRED, PromptOptions(**settings.prompt.model_dump()))
        self._beginning = builder.shared_prefix()
        self.queries = [
            query
            for index, document in enumerate(self.documents)
            for query in builder.build(index, document, gold_pairs(document))
        ]

    def _answer(self, mode: str, queries: Sequence[Query]) -> list[Generation]:
        decode = DecodeOptions(mode=mode, batch_size=self._options.batch)
        # Read anew each time: its cost is part of the answer.
        beginning = PrefixCache(self._beginning)
        return list(generate(self._model, self.tokenizer, queries, decode, self._grammar, beginning))

    def _grammar(self, query: Query) -> Grammar:
        return Grammar(query, self.documents[query.document], DOCRED, self._prompt.kind, self.tokenizer)

    def timed(self, mode: str) -> tuple[list[Generation], float]:
        """The answers and the seconds that they took."""
        begun = time.perf_counter()
        return self._answer(mode, self.queries), time.perf_counter() - begun

    def read(self, generation: Generation) -> Parsed:
        """What an answer says."""
        query = generation.query
        return parse(generation.text, self.documents[query.document], query.pairs, DOCRED)


def agreement(bench: Bench, free: Sequence[Generation], constrained: Sequence[Generation]) -> tuple[int, int]:
    """(same triples, free answers that are whole, well-formed and in order)"""
    same = comparable = 0
    for theirs, mine in zip(free, constrained, strict=True):
        parsed = bench.read(theirs)
        if theirs.finished and not parsed.failures:
            comparable += 1
            same += set(parsed.triples) == set(bench.read(mine).triples)
    return same, comparable


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED's format")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of a trained adapter (runs/…/best)")
    parser.add_argument("--count", type=int, default=16, help="documents answered, from the first")
    parser.add_argument("--batch", type=int, default=8, help="queries at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    answers: dict[str, list[Generation]] = {}
    seconds: dict[str, float] = {}
    for mode in ("constrained", "free"):
        answers[mode], seconds[mode] = bench.timed(mode)
        print(f"{mode}: {len(bench.queries)} queries of {options.count} documents in {seconds[mode]:.1f} s", flush=True)
    same, comparable = agreement(bench, answers["free"], answers["constrained"])
    figures: dict[str, Any] = {
        "speedup": seconds["free"] / seconds["constrained"],
        "agreement": same / comparable if comparable else None,
        "gold_roundtrip_f1": gold_roundtrip(list(read_documents(options.documents, DOCRED))),
        "documents_per_second": options.count / seconds["constrained"],
        "generate_documents_per_second": options.count / seconds["free"],
        "well_formed": comparable,
        "queries": len(bench.queries),
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{comparable} of {len(bench.queries)} free answers are whole, well-formed and in order; {same} of these have "
        f"the same triples along the grammar\n"
        f"gold answers through prompt, parser and scorer: F1 {figures['gold_roundtrip_f1']:.1f}\n"
        f"along the grammar {figures['speedup']:.2f} x the documents/s of generate"
    )


if __name__ == "__main__":
    main()
