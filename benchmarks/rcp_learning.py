"""Check that RCP with a grouped classifier learns the same as the published structure (benchmarks/published.py).

Both start with the same weights and train on the same batches of real documents, without dropout, whose random numbers
would differ. Losses are compared after each step, and weights at the end. A training with `--model.classifier grouped`
can therefore replace one of the published structure, which takes four times as long.

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
    """Return float32 targets, [pairs]: 1 if the pair has a relation."""
    targets: list[float] = []
    for document in documents:
        related = {(label.head, label.tail) for label in document.labels or ()}
        targets += [float(pair in related) for pair in candidate_pairs(len(document.entities))]
    return torch.tensor(targets)


def main() -> None:
    """Print the losses of every step, and the differences of losses and weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="documents in DocRED's format, with labels")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    documents = list(itertools.islice(read_documents(options.documents, DOCRED), BATCH * options.steps))
    tokenizer = DocumentTokenizer(AutoTokenizer.from_pretrained(resolve("embedded:minilm")), 1021)
    models: tuple[Model, Model] = make_models("minilm", VOCABULARY)
    start = {name: value.clone() for name, value in models[1].encoder.state_dict().items()}
    optimizers = [Optimizer(model.eval()) for model in models]
    max_difference = 0.0
    for step in range(options.steps):
        chosen = documents[BATCH * step : BATCH * (step + 1)]
        encoded, targets = tokenizer.encode_batch(chosen), targets_of(chosen)
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            loss = loss_of(model, model(batch_of(model, encoded)), targets)
            optimizer.step(loss)
            losses.append(float(loss.detach()))
        published, ours = losses
        max_difference = max(max_difference, abs(published - ours) / published)
        print(f"step {step + 1}: published {published:.6f}, ours {ours:.6f}", flush=True)
    theirs, own = (model.encoder.state_dict() for model in models)
    moved = sum(float((own[name] - start[name]).double().square().sum()) for name in start) ** 0.5
    between = sum(float((own[name] - theirs[name]).double().square().sum()) for name in start) ** 0.5
    print(
        f"{options.steps} steps: relative difference of losses at most {max_difference:.1e}; the encoders' weights "
        f"moved by {moved:.4f} and differ by {between:.1e}"
    )


if __name__ == "__main__":
    main()
