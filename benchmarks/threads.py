"""A training step of RCP with torch's default threads, with threads that wait passively, and with one thread.

Each way is a process of its own, because OpenMP reads its environment once. All three hold MiniLM and the same batches
and take turns, step by step, first with nothing else of this benchmark running, then beside one process that keeps a
core busy, which this benchmark starts. Ratios are over torch's defaults in the same run.

    python benchmarks/threads.py [--documents redocred_dev.json] [--steps 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from lmrc.common import threads

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("LMRC_SHARED", ROOT.parent / "shared")) / "data" / "redocred_dev.json"
# Environment of OpenMP.
WAYS: dict[str, dict[str, str]] = {
    "defaults": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BATCH = 4
# Idle steps are short: more of them cost little.
IDLE_STEPS_EACH = 3


def serve(documents: Path | None, batches: int) -> None:
    """Run in the process of one way: train on the batch whose number comes on stdin, and print the seconds it took."""
    import torch
    from rcp import VOCABULARY, Side, make_encoder
    from transformers import AutoTokenizer

    from lmrc.corpus.docred import read_documents
    from lmrc.corpus.relations import DOCRED
    from lmrc.corpus.synthetic import generator as synthetic
    from lmrc.launcher.stages import quieten
    from lmrc.pretrained.packaged import resolve
    from lmrc.rcp.data.tokenization import DocumentTokenizer
    from lmrc.rcp.model.model import RelationCandidateModel

    quieten()
    encoder = DocumentTokenizer(AutoTokenizer.from_pretrained(resolve("embedded:minilm")), 1021)
    count = batches * BATCH
    source = synthetic.generate(count, 66) if documents is None else read_documents(documents, DOCRED)
    model = RelationCandidateModel(make_encoder("minilm", VOCABULARY), classifier="grouped")
    side = Side(model, [encoder.encode(document) for document in islice(source, count)], "fp32")
    side.train(0)
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        side.train(int(line) % batches)
        print(time.perf_counter() - begun, flush=True)


class Way:
    """The process of one way; see WAYS."""

    def __init__(self, environment: dict[str, str], documents: Path | None, batches: int) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in (*threads.WAITING, threads.THREADS)}
        words = [sys.executable, __file__, "--serve", "--batches", str(batches)]
        words += [] if documents is None else ["--documents", str(documents)]
        self.process = subprocess.Popen(
            words, env=clean | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # One after the other: the first step of each is not measured, and none disturbs another's.
        self.threads = int(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended with status {self.process.wait()}; see above")
        return line

    def step(self, batch: int) -> float:
        """Train on one batch. Returns the seconds."""
        assert self.process.stdin is not None
        print(batch, file=self.process.stdin, flush=True)
        return float(self._read())

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def busy() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(ways: dict[str, Way], steps: int) -> dict[str, float]:
    """Return documents a second of each way over the same batches, the first to go alternating."""
    seconds = dict.fromkeys(ways, 0.0)
    for index in range(steps):
        for name in list(ways) if index % 2 else list(ways)[::-1]:
            seconds[name] += ways[name].step(index)
    return {name: steps * BATCH / spent for name, spent in seconds.items()}


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, help="documents in DocRED's format [Re-DocRED's dev, else synthetic]")
    parser.add_argument("--steps", type=int, default=3, help="steps of 4 documents beside the busy process [3]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--batches", type=int, default=8, help="different batches [8]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.documents, options.batches)
        return
    documents = options.documents or (REAL if REAL.is_file() else None)
    load = os.getloadavg()[0]
    ways = {name: Way(environment, documents, options.batches) for name, environment in WAYS.items()}
    try:
        speed = {"idle": measure(ways, IDLE_STEPS_EACH * options.steps)}
        with busy():
            speed["busy"] = measure(ways, options.steps)
    finally:
        for way in ways.values():
            way.end()
    ratios = {
        place: {name: found / rates["defaults"] for name, found in rates.items()} for place, rates in speed.items()
    }
    figures: dict[str, Any] = {
        "documents": "synthetic" if documents is None else documents.name,
        "cores": threads.cores(),
        "load_before": load,
        "threads": {name: way.threads for name, way in ways.items()},
        "documents_per_second": speed,
        "ratios": ratios,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{figures['documents']}, {figures['cores']} cores, load before {load:.1f}; documents/s")
    for name, way in ways.items():
        places = ", ".join(f"{place} {speed[place][name]:.2f} ({ratios[place][name]:.2f} x)" for place in speed)
        print(f"{name}, threads: {way.threads}: {places}")
    print(
        "over torch's defaults: "
        + ", ".join(
            f"{name} {ratios['idle'][name]:.2f} x idle and {ratios['busy'][name]:.2f} x beside a busy process"
            for name in list(WAYS)[1:]
        )
    )


if __name__ == "__main__":
    main()
