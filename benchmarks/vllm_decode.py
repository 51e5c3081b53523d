"""Answers of vLLM and of transformers to the same documents: seconds, tokens, cache hits, and differing triples.

    .venv-vllm/bin/python benchmarks/vllm_decode.py --corpus data/dev-20 --rc runs/rc/best

The seconds of the processor hardly depend on other work on the machine, as those of the clock do.

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

from torch import nn

from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.corpus.corpus import Corpus
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.generate import Generation, to_generation
from lmrc.rc.decoding.grammar import PartialAnswer
from lmrc.rc.decoding.structured_output import ebnf_grammar
from lmrc.rc.decoding.vllm_backend import VllmBackend
from lmrc.rc.predict import ClassifyInference
from lmrc.rc.prompts.query_builder import Query

# Names and the backend and mode of each system. STRUCTURED writes every token along the grammar in vLLM.
STRUCTURED = "vllm-xgrammar"
SYSTEMS = {
    "hf": ("hf", "constrained"),
    "vllm": ("vllm", "constrained"),
    STRUCTURED: ("vllm", "constrained"),
    "hf-free": ("hf", "free"),
    "vllm-free": ("vllm", "free"),
    "hf-score": ("hf", "score"),
    "vllm-score": ("vllm", "score"),
}
# Scores that differ by more are counted.
TOLERANCE = 1e-4


class StructuredBackend(VllmBackend):
    """Mode constrained by the structured outputs of vLLM, with xgrammar."""

    def _constrained(self, queries: Sequence[Query]) -> Iterator[Generation]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        grammars = [self._grammar(query) for query in queries]
        sampling = [
            SamplingParams(
                temperature=0.0,
                max_tokens=self._limit(query),
                logprobs=0,
                structured_outputs=StructuredOutputsParams(grammar=ebnf_grammar(grammar)),
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


def count_passes(backend: Any, counted: dict[str, int]) -> None:
    """Count the forward passes of a loaded model, and with transformers their tokens."""
    counted["passes"] = 0
    engine = getattr(backend, "engine", None)
    if engine is None:
        counted["computed_tokens"] = 0
        layers = next(part for part in backend._model.modules() if isinstance(part, nn.ModuleList))

        def count_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            counted["passes"] += 1
            counted["computed_tokens"] += hidden.numel() // hidden.shape[-1]

        layers[0].register_forward_pre_hook(count_layer, with_kwargs=True)
        return
    step = engine._llm.llm_engine.step

    def count_step() -> Any:
        counted["passes"] += 1
        return step()

    engine._llm.llm_engine.step = count_step


def measure(
    system: str, corpus: Path, rc: Path, documents: int, options: dict[str, Any], candidates: Path | None = None
) -> dict[str, Any]:
    """Return the figures of a system, and its triples."""
    backend, mode = SYSTEMS[system]
    with tempfile.TemporaryDirectory() as folder:
        config = ClassifyConfig(
            run=RunOptions(name="run", folder=Path(folder)),
            corpus=corpus,
            rc=rc,
            candidates=candidates,
            decode=DecodeOptions(**{"backend": backend, "mode": mode, **options}),
        )
        inference = ClassifyInference(config)
        if system == STRUCTURED:
            # The same inputs with another way of constraining.
            inference.__dict__["_backend"] = StructuredBackend(inference._backend._inputs)  # type: ignore[attr-defined]
        begun = time.perf_counter()
        inference.load()
        engine = getattr(inference._backend, "engine", None)
        counted: dict[str, int] = {}
        count_passes(inference._backend, counted)
        loaded, processor = time.perf_counter(), time.process_time()
        rows = inference.rows(range(documents))
        seconds, processor = time.perf_counter() - loaded, time.process_time() - processor
    triples = {
        f"{row['title']} {each['head']} {each['relation']} {each['tail']}": each["score"]
        for row in rows
        for each in row["triples"]
    }
    gold = Corpus.open(corpus)
    correct = {
        f"{document.title} {label.head} {label.relation} {label.tail}"
        for document in map(gold.__getitem__, range(documents))
        for label in document.labels or ()
    }
    generations = [generation for row in rows for generation in row["generations"]]
    count = max(len(triples), 1)
    written = sum(
        len(inference._tokenizer(generation["answer"], add_special_tokens=False).input_ids)
        for generation in generations
    )
    figures: dict[str, Any] = {
        "system": system,
        "documents": documents,
        "queries": len(generations),
        "pairs": sum(len(generation["pairs"]) for generation in generations),
        "triples": len(triples),
        "correct_triples": len(triples.keys() & correct),
        "cut_answers": sum(not generation["finished"] for generation in generations),
        "load_seconds": round(loaded - begun, 1),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "documents_per_second": round(documents / seconds, 4),
        "documents_per_processor_second": round(documents / processor, 4),
        "written_tokens": written,
        "written_tokens_per_triple": round(written / count, 2),
        **counted,
    }
    if engine is not None:
        counts = engine.counts
        figures |= {
            "requests": counts.requests,
            "cache_hit_rate": round(counts.cached_tokens / counts.prompt_tokens, 4),
            # The last token of each request is not computed.
            "computed_tokens": counts.prompt_tokens - counts.cached_tokens + counts.new_tokens - counts.requests,
            "steps_per_triple": round(counts.new_tokens / count, 2),
        }
        engine.close()
    return {**figures, "scores": triples, "answers": [generation["answer"] for generation in generations]}


def compare(result: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return how the answers, triples and scores of two systems differ."""
    first, own = result["scores"], other["scores"]
    shared = [abs(first[key] - own[key]) for key in first.keys() & own.keys() if None not in (first[key], own[key])]
    return {
        "equal_answers": sum(map(str.__eq__, result["answers"], other["answers"])),
        "triples_that_differ": len(first.keys() ^ own.keys()),
        "equal_triples": len(first.keys() & own.keys()),
        "scores_that_differ": sum(difference > TOLERANCE for difference in shared),
        "largest_difference_of_scores": round(max(shared, default=0.0), 6),
    }


def main() -> None:
    """Measure the systems one after the other, and compare each with the first one in its mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a corpus")
    parser.add_argument("--candidates", type=Path, help="pairs that are asked about; by default the gold ones")
    parser.add_argument("--rc", type=Path, required=True, help="an adapter")
    parser.add_argument("--documents", type=int, default=20, help="number of documents, from the first")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["hf", "vllm"])
    parser.add_argument("--max-new-tokens", type=int, default=2048, help="most tokens of an answer")
    parser.add_argument("--out", type=Path, help="also write the figures and the scores of all triples to this file")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for system in arguments.systems:
        options = {"max_new_tokens": arguments.max_new_tokens}
        results.append(
            measure(system, arguments.corpus, arguments.rc, arguments.documents, options, arguments.candidates)
        )
        first = next(each for each in results if SYSTEMS[each["system"]][1] == SYSTEMS[system][1])
        figures = {name: value for name, value in results[-1].items() if name not in ("scores", "answers")}
        figures |= compare(first, results[-1])
        print(json.dumps(figures), flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
