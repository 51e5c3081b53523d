"""Benchmark of RCP training steps with different OpenMP settings: torch's defaults, passive waiting, one thread.

Each setting has its own process, because OpenMP reads its environment once. The three processes train MiniLM on the
same batches and alternate step by step: first on an idle machine, then while another process keeps a core busy. Ratios
are relative to torch's defaults in the same run.

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
# OpenMP environment variables of each setting.
SETTINGS: dict[str, dict[str, str]] = {
    "defaults": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BATCH = 4
# Measured steps on the idle machine per step on the busy one; they are shorter.
IDLE_STEP_FACTOR = 3


def serve(documents: Path | None, batches: int) -> None:
    """Run in the process of a setting: read batch indices from stdin, train on each batch and print the seconds."""
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
    tokenizer = DocumentTokenizer(AutoTokenizer.from_pretrained(resolve("embedded:minilm")), 1021)
    count = batches * BATCH
    source = synthetic.generate(count, 66) if documents is None else read_documents(documents, DOCRED)
    model = RelationCandidateModel(make_encoder("minilm", VOCABULARY), classifier="grouped")
    side = Side(model, tokenizer.encode_batch(list(islice(source, count))), "fp32")
    side.train(0)
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        side.train(int(line) % batches)
        print(time.perf_counter() - begun, flush=True)


class TrainingProcess:
    """Training process with one of SETTINGS."""

    def __init__(self, environment: dict[str, str], documents: Path | None, batches: int) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in (*threads.WAITING, threads.THREADS)}
        command = [sys.executable, __file__, "--serve", "--batches", str(batches)]
        command += [] if documents is None else ["--documents", str(documents)]
        self.process = subprocess.Popen(
            command, env=clean | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        # Wait for the first step, which is not measured, before the next process starts.
        self.threads = int(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of the benchmark ended with status {self.process.wait()}; see above")
        return line

    def step(self, batch: int) -> float:
        """Train on a batch and return the seconds."""
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
    """While active, keep a core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(processes: dict[str, TrainingProcess], steps: int) -> dict[str, float]:
    """Return documents per second of each process on the same batches, in alternating order."""
    seconds = dict.fromkeys(processes, 0.0)
    for index in range(steps):
        for name in list(processes) if index % 2 else list(processes)[::-1]:
            seconds[name] += processes[name].step(index)
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
    load_before = os.getloadavg()[0]
    processes = {
        name: TrainingProcess(environment, documents, options.batches) for name, environment in SETTINGS.items()
    }
    try:
        speed = {"idle": measure(processes, IDLE_STEP_FACTOR * options.steps)}
        with busy():
            speed["busy"] = measure(processes, options.steps)
    finally:
        for process in processes.values():
            process.end()
    ratios = {load: {name: rate / rates["defaults"] for name, rate in rates.items()} for load, rates in speed.items()}
    figures: dict[str, Any] = {
        "documents": "synthetic" if documents is None else documents.name,
        "cores": threads.cores(),
        "load_before": load_before,
        "threads": {name: process.threads for name, process in processes.items()},
        "documents_per_second": speed,
        "ratios": ratios,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{figures['documents']}, {figures['cores']} cores, load before {load_before:.1f}; documents/s")
    for name, process in processes.items():
        rates = ", ".join(f"{load} {speed[load][name]:.2f} ({ratios[load][name]:.2f} x)" for load in speed)
        print(f"{name}, threads: {process.threads}: {rates}")
    print(
        "over torch's defaults: "
        + ", ".join(
            f"{name} {ratios['idle'][name]:.2f} x idle and {ratios['busy'][name]:.2f} x beside a busy process"
            for name in list(SETTINGS)[1:]
        )
    )


if __name__ == "__main__":
    main()
