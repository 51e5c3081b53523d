"""That ours with a grouped classifier learns what the published structure (benchmarks/published.py) learns.

Both start with the same weights and are trained on the same batches of real documents, without dropout, whose random
numbers would differ. After each step their losses are compared, at the end their weights. So a training of ours with
`--model.classifier grouped` stands for one of the published structure, which takes four times as long.

    python benchmarks/rcp_learning.py --documents redocred_train_992.json [--steps 25]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from rcp import BATCH, VOCABULARY, Model, Optimizer, batch_of, loss_of, make_models
from torch import Tensor
from transformers import AutoTokenizer

from lmrc.corpus.docred import candidate_pairs, read_documents
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.pretrained.packaged import resolve
from lmrc.rcp.data.tokenization import DocumentTokenizer


def targets_of(documents: Sequence[Document]) -> Tensor:
    """[pairs] in {0, 1}, float32: 1 where a pair has a relation."""
    found: list[float] = []
    for document in documents:
        related = {(label.head, label.tail) for label in document.labels or ()}
        found += [float(pair in related) for pair in candidate_pairs(len(document.entities))]
    return torch.tensor(found)


def main() -> None:
    """Print both losses of every step, and how far apart they and the weights were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED's format, with labels")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    documents = list(itertools.islice(read_documents(options.documents, DOCRED), BATCH * options.steps))
    encoder = DocumentTokenizer(AutoTokenizer.from_pretrained(resolve("embedded:minilm")), 1021)
    models: tuple[Model, Model] = make_models("minilm", VOCABULARY)
    start = {name: value.clone() for name, value in models[1].encoder.state_dict().items()}
    optimizers = [Optimizer(model.eval()) for model in models]
    apart = 0.0
    for number in range(options.steps):
        chosen = documents[BATCH * number : BATCH * (number + 1)]
        encoded, targets = [encoder.encode(document) for document in chosen], targets_of(chosen)
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            loss = loss_of(model, model(batch_of(model, encoded)), targets)
            optimizer.step(loss)
            losses.append(float(loss.detach()))
        published, ours = losses
        apart = max(apart, abs(published - ours) / published)
        print(f"step {number + 1}: published {published:.6f}, ours {ours:.6f}", flush=True)
    theirs, own = (model.encoder.state_dict() for model in models)
    moved = sum(float((own[name] - start[name]).double().square().sum()) for name in start) ** 0.5
    between = sum(float((own[name] - theirs[name]).double().square().sum()) for name in start) ** 0.5
    print(
        f"{options.steps} steps: losses at most {apart:.1e} of themselves apart; the encoders' weights moved by "
        f"{moved:.4f}, and lie {between:.1e} apart"
    )


if __name__ == "__main__":
    main()
