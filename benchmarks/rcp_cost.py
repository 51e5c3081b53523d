"""Benchmark of time and memory per document, by number of entities and by length.

It runs forward and backward passes of a MiniLM-sized model on single documents with random word pieces and one mention
per entity. The last line fits time ~ entities ** exponent to the two largest documents, without the time of the encoder
(that of two entities). An exponent of 2 is linear in pairs.

    python benchmarks/rcp_cost.py [--entities 2 20 … 1000] [--lengths 64 … 1021] [--plot FILE.png] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from lmrc.config.schema import RcpTraining
from lmrc.pretrained.packaged import resolve
from lmrc.rcp.data.tokenization import EncodedDocument
from lmrc.rcp.model.losses import binary_cross_entropy
from lmrc.rcp.model.model import RelationCandidateModel

LENGTH = 400
ENTITIES = 20
ROUNDS = 3


def make_document(length: int, entities: int) -> EncodedDocument:
    """Return a document with random word pieces and markers at random positions, which entities may share."""
    random = np.random.default_rng(length * 10_000 + entities)
    ids = random.integers(1000, 20_000, length, dtype=np.int32)
    return EncodedDocument(
        ids,
        marker_positions=tuple((int(position),) for position in random.integers(1, length - 1, entities)),
        cut_mentions=0,
        entity_types=("MISC",) * entities,
        mention_sentences=np.zeros(entities, dtype=np.int32),
        mention_counts=np.ones(entities, dtype=np.int32),
    )


def _memory(reset: bool = False) -> float:
    """Return the peak memory of this process since the last reset, in MB."""
    if reset:
        # Memory that malloc kept from earlier documents would hide the peak of this one.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def cost(model: RelationCandidateModel, document: EncodedDocument) -> tuple[float, float]:
    """Return the minimum seconds and the additional megabytes of a training step."""
    batch = model.collate([document])
    targets = torch.zeros(document.num_pairs)
    best = math.inf
    model.zero_grad()
    before = _memory(reset=True)
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        loss = binary_cross_entropy(model(batch), targets, RcpTraining())
        loss.backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - begun)
    return best, _memory() - before


def plot(entities: dict[int, tuple[float, float]], lengths: dict[int, tuple[float, float]], path: Path) -> None:
    """Plot time by entities (with a line of slope 2) and by word pieces."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    counts = list(entities)
    left.loglog(counts, [entities[n][0] for n in counts], "o-", label="seconds per document")
    last = entities[counts[-1]][0]
    left.loglog(counts, [last * (n / counts[-1]) ** 2 for n in counts], "--", label="n²")
    left.set(xlabel=f"entities ({LENGTH} word pieces)", ylabel="seconds, forward and backward")
    left.legend()
    right.plot(list(lengths), [lengths[n][0] for n in lengths], "o-")
    right.set(xlabel=f"word pieces ({ENTITIES} entities)", ylim=(0, None))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, nargs="+", default=[2, 20, 50, 100, 200, 500, 1000])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 768, 1021])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="PNG with both curves")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(resolve("embedded:minilm")))
    model = RelationCandidateModel(encoder).train()
    cost(model, make_document(LENGTH, 2))
    by_entities = {}
    for count in options.entities:
        by_entities[count] = cost(model, make_document(LENGTH, count))
        print(f"{count:5d} entities: {by_entities[count][0]:7.3f} s, {by_entities[count][1]:6.0f} MB", flush=True)
    by_length = {}
    for length in options.lengths:
        by_length[length] = cost(model, make_document(length, ENTITIES))
        print(f"{length:5d} word pieces: {by_length[length][0]:7.3f} s, {by_length[length][1]:6.0f} MB", flush=True)
    first, (smaller, larger) = options.entities[0], options.entities[-2:]
    seconds = [by_entities[count][0] - by_entities[first][0] for count in (smaller, larger)]
    exponent = math.log(seconds[1] / seconds[0]) / math.log(larger / smaller)
    if options.plot:
        plot(by_entities, by_length, options.plot)
    if options.json:
        options.json.write_text(
            json.dumps({"exponent": exponent, "entities": by_entities, "lengths": by_length}, indent=2) + "\n"
        )
    print(f"time grows as entities ** {exponent:.2f} from {smaller} to {larger} entities")


if __name__ == "__main__":
    main()
