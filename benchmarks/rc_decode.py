"""Compare constrained decoding with Hugging Face's generate on real prompts.

Both use the same LM and adapter and answer the same queries (the gold pairs of the documents) in batches of the same
size. Hugging Face's greedy `generate` gets padded batches, sorted by length, with sdpa. Ours is
`lmrc.rc.decoding.generate` in mode constrained. The adapter must have learned the answer format: otherwise the free
answers never end, and `generate` takes too long.

`agreement`: share of queries with the same triples from both, among those with a well-formed free answer.
`gold_roundtrip_f1`: F1 of the gold answers of all documents after prompt, parser and scorer.

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
from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import DecodeOptions, PromptOptions
from lmrc.corpus.docred import read_documents, relations_by_pair
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.rc.decoding.generate import Generation, generate
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.hf_backend import load_lm
from lmrc.rc.decoding.parsing import Parsed, parse
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.templates import PROMPTS, gold_pairs


def gold_roundtrip(documents: Sequence[Document]) -> float:
    """Return the F1 of gold answers, each parsed as the answer to a query for all gold pairs of its document."""
    predictions = []
    for document in documents:
        gold = relations_by_pair(document)
        if gold:
            parsed = parse(PROMPTS["rc"].answer(document, gold, DOCRED), document, list(gold), DOCRED)
            predictions += [Prediction(document.title, *triple) for triple in parsed.triples]
    return score(documents, predictions, DOCRED).all.f1


class Bench:
    """The queries and both decoders."""

    def __init__(self, options: argparse.Namespace) -> None:
        settings = AdapterMetadata.read(options.adapter)
        self.documents = list(itertools.islice(read_documents(options.documents, DOCRED), options.count))
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(options.adapter))
        self._model = load_lm(adapter_base(options.adapter), options.adapter, settings, device="cpu")
        self._options, self._prompt = options, settings.prompt
        builder = QueryBuilder(self.tokenizer, DOCRED, PromptOptions(**settings.prompt.model_dump()))
        self._shared_prefix = builder.shared_prefix()
        self.queries = [
            query
            for index, document in enumerate(self.documents)
            for query in builder.build(index, document, gold_pairs(document))
        ]

    def _answer(self, mode: str, queries: Sequence[Query]) -> list[Generation]:
        decode = DecodeOptions(mode=mode, batch_size=self._options.batch)
        # A new cache for each run: filling it is part of the cost.
        prefix_cache = PrefixCache(self._shared_prefix)
        return list(generate(self._model, self.tokenizer, queries, decode, self._grammar, prefix_cache))

    def _grammar(self, query: Query) -> Grammar:
        return Grammar(query, self.documents[query.document], DOCRED, self._prompt.kind, self.tokenizer)

    def run(self, mode: str) -> tuple[list[Generation], float]:
        """Return the answers and the seconds that they took."""
        start = time.perf_counter()
        return self._answer(mode, self.queries), time.perf_counter() - start

    def parse(self, generation: Generation) -> Parsed:
        """Parse an answer."""
        query = generation.query
        return parse(generation.text, self.documents[query.document], query.pairs, DOCRED)


def agreement(bench: Bench, free: Sequence[Generation], constrained: Sequence[Generation]) -> tuple[int, int]:
    """Compare the triples of both decoders.

    Returns:
        The number of queries with the same triples, and the number of queries compared: those with a finished,
        well-formed free answer.
    """
    same = comparable = 0
    for free_answer, constrained_answer in zip(free, constrained, strict=True):
        parsed = bench.parse(free_answer)
        if free_answer.finished and not parsed.failures:
            comparable += 1
            same += set(parsed.triples) == set(bench.parse(constrained_answer).triples)
    return same, comparable


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED format")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of a trained adapter (runs/…/best)")
    parser.add_argument("--count", type=int, default=16, help="number of documents, from the first")
    parser.add_argument("--batch", type=int, default=8, help="queries per batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="output file for the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    answers: dict[str, list[Generation]] = {}
    seconds: dict[str, float] = {}
    for mode in ("constrained", "free"):
        answers[mode], seconds[mode] = bench.run(mode)
        print(f"{mode}: {len(bench.queries)} queries of {options.count} documents in {seconds[mode]:.1f} s", flush=True)
    same, comparable = agreement(bench, answers["free"], answers["constrained"])
    results: dict[str, Any] = {
        "speedup": seconds["free"] / seconds["constrained"],
        "agreement": same / comparable if comparable else None,
        "gold_roundtrip_f1": gold_roundtrip(list(read_documents(options.documents, DOCRED))),
        "documents_per_second": options.count / seconds["constrained"],
        "generate_documents_per_second": options.count / seconds["free"],
        "well_formed": comparable,
        "queries": len(bench.queries),
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(
        f"{comparable} of {len(bench.queries)} free answers are finished and well-formed; {same} of these have the "
        f"same triples in mode constrained\n"
        f"F1 of gold answers after prompt, parser and scorer: {results['gold_roundtrip_f1']:.1f}\n"
        f"constrained decoding: {results['speedup']:.2f} times the documents/s of generate"
    )


if __name__ == "__main__":
    main()
