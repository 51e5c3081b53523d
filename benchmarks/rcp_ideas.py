"""What RCP gains by one idea at a time: a short training of MiniLM with it, and the scores of dev.

What paid is an option of lmrc/config/schema.py; what did not, by itself or with others, is only here. All of a seed start from
the same weights and see the same batches; one process, no checkpoints.

    python benchmarks/rcp_ideas.py IDEA --train CORPUS --dev CORPUS [--seed 66] [--epochs 3] [--steps N]

The corpora are those of `lmrc data build`. Ideas:
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import lmrc.rcp.model.model as rcp_model
from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Document
from lmrc.rcp.data.collate import Batch, unordered_pairs
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.pooling import pool_contexts
from lmrc.rcp.task import RcpTask
from lmrc.training.distributed import ALONE
from lmrc.training.sampler import DeterministicSampler, step_seed
from lmrc.training.trainer import rate_scale, seed_everything

# Options of lmrc/config/schema.py, all beside none.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    "types": {"model": {"entity_types": True}},
    "distance": {"model": {"sentence_distance": True}},
    "markers": {"model": {"type_markers": True}},
    "relations": {"train": {"relation_weight": 1.0}},
    "positive": {"train": {"positive_weight": 2.0}},
    "positive-4": {"train": {"positive_weight": 4.0}},
    "relations-positive": {"train": {"relation_weight": 1.0, "positive_weight": 2.0}},
    "all": {
        "model": {"entity_types": True, "sentence_distance": True},
        "train": {"relation_weight": 1.0, "positive_weight": 2.0},
    },
    "all-markers": {
        "model": {"entity_types": True, "sentence_distance": True, "type_markers": True},
        "train": {"relation_weight": 1.0, "positive_weight": 2.0},
    },
}


class Idea:
    """A training with options of OPTIONS and nothing else."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        changed = OPTIONS.get(arguments.idea, {})
        train = {"learning_rate": 1e-4, "classifier_learning_rate": 3e-4, "epochs": arguments.epochs}
        config = RcpConfig.model_validate(
            {
                "run": {"seed": arguments.seed},
                "model": {"encoder": "embedded:minilm", **changed.get("model", {})},
                "train": {**train, **changed.get("train", {})},
            }
        )
        seed_everything(arguments.seed)
        self.corpus = Corpus.open(arguments.train)
        self.task = RcpTask(config, self.corpus, Corpus.open(arguments.dev))
        assert isinstance(self.task.model, RelationCandidateModel)
        self.model = self.task.model

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """The mean loss of a batch, of the pairs of `documents` of the training corpus."""
        return self.task.loss(self.model, batch) / max(1, sum(map(self.task.weight, documents)))

    def stepped(self, step: int) -> None:
        """After a step of the optimizer."""

    def finish(self) -> None:
        """Before dev is measured."""


class Fewer(Idea):
    """Down-sampling: each step leaves out a random half of the pairs without a relation."""

    random = np.random.default_rng(66)

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """Of the pairs that are left."""
        targets = batch["targets"]
        left = (targets > 0) | torch.from_numpy(self.random.random(len(targets)) < 0.5)
        outputs = self.model(batch)[left]
        loss: Tensor = self.model.classifier.loss(outputs, targets[left])
        return loss / len(outputs)


class Average(Idea):
    """EMA: dev is measured with the moving average of the weights, decay 0.998, less in the beginning."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.averages = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Move the averages."""
        for name, weight in self.model.named_parameters():
            self.averages[name].lerp_(weight, 1 - min(0.998, (1 + step) / (10 + step)))

    @torch.no_grad()
    def finish(self) -> None:
        """Take the averages."""
        for name, weight in self.model.named_parameters():
            weight.copy_(self.averages[name])


class Twice(Idea):
    """R-Drop: each batch is seen twice, and both symmetric divergences of P(relation) are part of the loss."""

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """The mean of both, and the divergence."""
        outputs: tuple[Tensor, Tensor] = self.model(batch), self.model(batch)
        losses = [self.model.classifier.loss(each, batch["targets"]) for each in outputs]
        first, second = (each.squeeze(1) for each in outputs)
        divergence = ((torch.sigmoid(first) - torch.sigmoid(second)) * (first - second)).sum() / 2
        return (torch.stack(losses).mean() + divergence) / max(1, len(first))


class Evidence(Idea):
    """DREEAM: the context's weights of a pair learn the words of its evidence sentences, weight 0.1."""

    weight = 0.1

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.encoder = DocumentTokenizer(self.task.tokenizer, self.model.max_length)
        self.wanted = [self._wanted(document) for document in self.corpus]
        # One of [pairs, length] a document of the batch.
        self.found: list[Tensor] = []
        mock.patch.object(rcp_model, "pool_contexts", self._pool).start()

    def _pool(self, hidden: Tensor, attention: Tensor, heads: slice, first: Tensor, second: Tensor) -> Tensor:
        """`pool_contexts`, which remembers the weights: what it makes of unit vectors."""
        weights = pool_contexts(torch.eye(len(hidden)), attention, heads, first, second)
        if self.model.training:
            self.found.append(weights)
        return weights @ hidden

    def _wanted(self, document: Document) -> dict[int, Tensor]:
        """For unordered pairs with evidence: weights [length] that add up to 1, the same in all evidence sentences."""
        mentions = [mention for entity in document.entities for mention in entity]
        marked = [(mention.sentence, place) for mention in mentions for place in (mention.start, mention.end - 1)]
        opened, closed = {*marked[::2]}, {*marked[1::2]}
        sentences = [-1]
        for number, words in enumerate(document.sentences):
            for place, pieces in enumerate(self.encoder.pieces(list(words))):
                markers = ((number, place) in opened) + ((number, place) in closed)
                sentences += [number] * (len(pieces) + markers)
        of_pieces = torch.tensor([*sentences[: self.encoder.limit], -1])
        pairs = {pair: number for number, pair in enumerate(zip(*unordered_pairs(len(document.entities)), strict=True))}
        evidence: dict[int, set[int]] = {}
        for label in document.labels or ():
            pair = min(label.head, label.tail), max(label.head, label.tail)
            evidence.setdefault(pairs[pair], set()).update(label.evidence)
        held = {pair: torch.isin(of_pieces, torch.tensor(sorted(held))).float() for pair, held in evidence.items()}
        return {pair: weights / weights.sum() for pair, weights in held.items() if weights.any()}

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """With the mean divergence of the weights from those wanted."""
        own = super().loss(batch, documents)
        divergences = [
            F.kl_div(torch.log(weights[pair] + 1e-9), wanted, reduction="sum")
            for document, weights in zip(documents, self.found, strict=True)
            for pair, wanted in self.wanted[document].items()
        ]
        self.found.clear()
        return own + self.weight * torch.stack(divergences).mean() if divergences else own


class LittleEvidence(Evidence):
    """The same, weight 0.01."""

    weight = 0.01


IDEAS: dict[str, type[Idea]] = {
    **dict.fromkeys(OPTIONS, Idea),
    "fewer": Fewer,
    "ema": Average,
    "r-drop": Twice,
    "evidence": Evidence,
    "little-evidence": LittleEvidence,
}


def main() -> None:
    """Train, measure, print."""
    said = {name: json.dumps(changed) for name, changed in OPTIONS.items()}
    said |= {name: (idea.__doc__ or "").splitlines()[0] for name, idea in IDEAS.items() if name not in OPTIONS}
    ideas = "\n".join(f"  {name:19}{text}" for name, text in said.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "") + ideas, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("idea", choices=IDEAS, metavar="IDEA")
    parser.add_argument("--train", type=Path, required=True, help="corpus to learn from")
    parser.add_argument("--dev", type=Path, required=True, help="corpus that is measured")
    parser.add_argument("--seed", type=int, default=66)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="stop after so many, for a try")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    idea = IDEAS[arguments.idea](arguments)
    task, model = idea.task, idea.model.train()
    order = DeterministicSampler(len(task), 4, arguments.seed, task.fingerprint())
    total = arguments.epochs * order.steps_per_epoch
    optimizer = torch.optim.AdamW(task.parameter_groups(), eps=1e-6, weight_decay=0.0, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(min(total, arguments.steps or total)):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_scale(step, total, math.ceil(0.06 * total))
        documents = order.batch(step)
        torch.manual_seed(step_seed(arguments.seed, step, 0, 0))
        loss = idea.loss(task.collate(documents), documents)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        idea.stepped(step)
        if step % 50 == 0:
            print(f"step {step} of {total}: loss {loss.item():.4f}", flush=True)
    idea.finish()
    with torch.no_grad():
        scores = task.evaluate(model.eval(), ALONE)
    print(json.dumps(scores))
    print(
        f"{arguments.idea}, {arguments.epochs} epochs, seed {arguments.seed}: P {scores['precision']:.2f} "
        f"R {scores['recall']:.2f} F1 {scores['f1']:.2f} best F1 {scores['best_f1']:.2f} AP "
        f"{scores['average_precision']:.2f}"
    )


if __name__ == "__main__":
    main()
