"""Answers of vLLM and of transformers to the same documents: seconds, tokens, cache hits, and differing triples.

    .venv-vllm/bin/python benchmarks/vllm_decode.py --corpus data/dev-20 --rc runs/rc/best

Not named vllm.py, which Python would import in place of vLLM.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.generate import Generation, to_generation
from lmrc.rc.decoding.grammar import PartialAnswer
from lmrc.rc.decoding.structured_output import ROOT, ebnf_grammar, grammar_rules
from lmrc.rc.decoding.vllm_backend import VllmBackend
from lmrc.rc.predict import ClassifyInference
from lmrc.rc.prompts.query_builder import Query

# Names and the backend and mode of each system. The structured ones write every token along the grammar in vLLM.
SYSTEMS = {
    "hf": ("hf", "constrained"),
    "vllm": ("vllm", "constrained"),
    "vllm-xgrammar": ("vllm", "constrained"),
    "vllm-llguidance": ("vllm", "constrained"),
    "hf-free": ("hf", "free"),
    "vllm-free": ("vllm", "free"),
}


class StructuredBackend(VllmBackend):
    """Mode constrained by the structured outputs of vLLM.

    Attributes:
        is_lark: write the grammar for llguidance instead of xgrammar.
    """

    is_lark = False

    def _constrained(self, queries: Sequence[Query]) -> Iterator[Generation]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        grammars = [self._grammar(query) for query in queries]
        sampling = [
            SamplingParams(
                temperature=0.0,
                max_tokens=self._limit(query),
                logprobs=0,
                structured_outputs=StructuredOutputsParams(
                    grammar=lark_grammar(grammar) if self.is_lark else ebnf_grammar(grammar)
                ),
            )
            for query, grammar in zip(queries, grammars, strict=True)
        ]
        outputs = self.engine._generate([self._prompt_ids(query) for query in queries], sampling)
        for query, grammar, output in zip(queries, grammars, outputs, strict=True):
            written, choices = PartialAnswer(grammar), list[tuple[int, float]]()
            for token, logs in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
                is_choice = len(written.allowed()) > 1
                written.write(token)
                if is_choice:
                    choices.append((written.line, logs[token].logprob))
            yield to_generation(query, constrained.Answer(written.complete_lines(), choices), self._tokenizer)


def lark_grammar(grammar: Any) -> str:
    """Return a grammar in the Lark syntax of llguidance."""

    def symbol(part: int | str) -> str:
        return part if isinstance(part, str) else f"<[{part}]>"

    return "".join(
        f"{'start' if name == ROOT else name}: {' | '.join(' '.join(map(symbol, parts)) for parts in alternatives)}\n"
        for name, alternatives in grammar_rules(grammar).items()
    )


def measure(system: str, corpus: Path, rc: Path, documents: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a system, and its triples."""
    backend, mode = SYSTEMS[system]
    with tempfile.TemporaryDirectory() as folder:
        config = ClassifyConfig(
            run=RunOptions(name="run", folder=Path(folder)),
            corpus=corpus,
            rc=rc,
            decode=DecodeOptions(**{"backend": backend, "mode": mode, **options}),
        )
        inference = ClassifyInference(config)
        if system.startswith("vllm-") and mode == "constrained":
            StructuredBackend.is_lark = system == "vllm-llguidance"
            # The same inputs with another way of constraining.
            inference.__dict__["_backend"] = StructuredBackend(inference._backend._inputs)  # type: ignore[attr-defined]
        begun = time.perf_counter()
        inference.load()
        loaded = time.perf_counter()
        rows = inference.rows(range(documents))
        seconds = time.perf_counter() - loaded
    triples = {
        f"{row['title']} {each['head']} {each['relation']} {each['tail']}": each["score"]
        for row in rows
        for each in row["triples"]
    }
    figures: dict[str, Any] = {
        "system": system,
        "documents": documents,
        "queries": sum(len(row["generations"]) for row in rows),
        "pairs": sum(len(generation["pairs"]) for row in rows for generation in row["generations"]),
        "triples": len(triples),
        "load_seconds": round(loaded - begun, 1),
        "seconds": round(seconds, 1),
        "documents_per_second": round(documents / seconds, 4),
    }
    engine = getattr(inference._backend, "engine", None)
    if engine is not None:
        counts = engine.counts
        figures |= {
            "requests": counts.requests,
            "cache_hit_rate": round(counts.cached_tokens / counts.prompt_tokens, 4),
            "computed_prompt_tokens": counts.prompt_tokens - counts.cached_tokens,
            "steps_per_triple": round(counts.new_tokens / max(len(triples), 1), 2),
        }
        engine.close()
    return {**figures, "scores": triples}


def main() -> None:
    """Measure the systems one after the other, and compare the triples of each with those of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a corpus with labels: gold pairs are asked about")
    parser.add_argument("--rc", type=Path, required=True, help="an adapter")
    parser.add_argument("--documents", type=int, default=20, help="number of documents, from the first")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["hf", "vllm"])
    parser.add_argument("--max-new-tokens", type=int, default=2048, help="most tokens of an answer")
    parser.add_argument("--out", type=Path, help="also write the figures and the scores of all triples to this file")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for system in arguments.systems:
        options = {"max_new_tokens": arguments.max_new_tokens}
        results.append(measure(system, arguments.corpus, arguments.rc, arguments.documents, options))
        first, own = results[0]["scores"], results[-1]["scores"]
        shared = [
            abs(first[key] - own[key]) for key in first.keys() & own.keys() if first[key] is not None and own[key]
        ]
        figures = {name: value for name, value in results[-1].items() if name != "scores"}
        figures["triples_that_differ"] = len(first.keys() ^ own.keys())
        figures["largest_difference_of_scores"] = round(max(shared, default=0.0), 6)
        print(json.dumps(figures), flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
