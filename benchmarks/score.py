"""Benchmark of `lmrc score`: time and memory for a dev set and for 100,000 documents.

    python benchmarks/score.py --documents redocred_dev.json [--scale 100000] [--labels 20] [--facts FILE] [--json FILE]

The large set repeats the documents under new titles with `--labels` gold triples each on average, as a corpus that is
built before the measurement. The predictions are the gold triples, 20 % with another relation and 10 % with head and
tail swapped. `lmrc score` runs in its own process. Its time includes imports, reading, scores, splits, intervals of
1,000 resamples, error analysis and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, Predictions, write_predictions
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.error_analysis import analyze
from lmrc.evaluation.metrics.gold_table import read_gold
from lmrc.evaluation.metrics.scores import scores_of
from lmrc.evaluation.metrics.triple_table import Triples


def repeated(documents: list[Document], count: int, labels: float) -> Iterator[Document]:
    """Yield `count` documents with about `labels` labels each."""
    share = labels * len(documents) / sum(len(d.labels or ()) for d in documents)
    rng = random.Random(0)
    for index in range(count):
        document = documents[index % len(documents)]
        kept = tuple(label for label in document.labels or () if rng.random() < share)
        yield replace(document, title=f"{document.title} {index}", labels=kept)


def noisy_predictions(documents: Iterable[Document]) -> Iterator[Prediction]:
    """Yield one prediction per label, 20 % with another relation and 10 % with head and tail swapped."""
    rng = random.Random(1)
    for document in documents:
        for label in document.labels or ():
            head, tail = (label.tail, label.head) if rng.random() < 0.1 else (label.head, label.tail)
            relation = rng.choice(DOCRED.ids) if rng.random() < 0.2 else label.relation
            yield Prediction(document.title, head, tail, relation)


def run_command(gold: Path, predictions: Path, facts: Path | None) -> tuple[float, float, dict[str, float]]:
    """Run `lmrc score` and return its seconds, peak memory in MB, and scores."""
    out = predictions.with_name("scores.json")
    arguments = ["score", "--gold", gold, "--pred", predictions, "--json", out]
    arguments += [] if facts is None else ["--train-facts", facts]
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lmrc.cli.main", *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lmrc score failed with status {status}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, json.loads(out.read_text())


def time_in_process(gold: Path, predictions: Path) -> tuple[float, float]:
    """Return the seconds for reading and scoring the predictions, and for reading the gold documents."""
    begin = time.perf_counter()
    gold_table = read_gold(gold)
    middle = time.perf_counter()
    triples = Triples.of(gold_table, [Predictions.read(predictions)])
    scores_of(triples)[0].as_json()
    analyze(triples).as_json()
    return time.perf_counter() - middle, middle - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="labeled documents with DocRED's relations")
    parser.add_argument("--facts", type=Path, help="training facts, for Ign F1")
    parser.add_argument("--scale", type=int, default=100_000, help="documents of the large set")
    parser.add_argument("--labels", type=float, default=20, help="labels per document of the large set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    documents = list(read_documents(options.documents, DOCRED))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictions, corpus = folder / "predictions.json", folder / "corpus"
        write_predictions(noisy_predictions(documents), predictions)
        dev = min(time_in_process(options.documents, predictions) for _ in range(3))
        dev_command = run_command(options.documents, predictions, options.facts)
        print(
            f"{len(documents):,} documents: scored in {dev[0]:.2f} s, gold read in {dev[1]:.2f} s; lmrc score "
            f"with imports: {dev_command[0]:.2f} s, {dev_command[1]:,.0f} MB"
        )
        write_corpus(repeated(documents, options.scale, options.labels), corpus, DOCRED, "repeated", "0" * 64)
        write_predictions(noisy_predictions(repeated(documents, options.scale, options.labels)), predictions)
        seconds, memory, scores = run_command(corpus, predictions, options.facts)
        figures = {
            "dev_seconds": dev[0],
            "dev_read_seconds": dev[1],
            "dev_command_seconds": dev_command[0],
            "documents": options.scale,
            "gold": scores["gold"],
            "predictions": scores["predictions"],
            "seconds": seconds,
            "megabytes": memory,
        }
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(
        f"{options.scale:,} documents, {figures['gold']:,} gold and {figures['predictions']:,} predicted triples: "
        f"{seconds:.1f} s, {memory:,.0f} MB"
    )


if __name__ == "__main__":
    main()
