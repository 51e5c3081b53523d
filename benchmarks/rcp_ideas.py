"""Ablation of ideas for RCP: short trainings of MiniLM, and their dev scores.

Ideas that improved the scores are options of lmrc/config/schema.py; the others exist only here. All trainings of a seed
start from the same weights and use the same batches, in a single process without checkpoints.

    python benchmarks/rcp_ideas.py IDEA --train CORPUS --dev CORPUS [--seed 66] [--epochs 3] [--steps N]

The corpora are those of `lmrc data build`. Ideas:
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import lmrc.rcp.model.model as rcp_model
from lmrc.config.schema import RcpConfig, RcpTraining
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Document
from lmrc.rcp.data.collate import Batch, unordered_pairs
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.losses import binary_cross_entropy
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.pooling import pool_contexts
from lmrc.rcp.model.relation_head import RelationHead
from lmrc.rcp.task import RcpTask
from lmrc.training.distributed import ALONE
from lmrc.training.sampler import DeterministicSampler, step_seed
from lmrc.training.trainer import rate_scale, seed_everything

# Ideas that are options of lmrc/config/schema.py.
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

# The recipe of the study's encoder, whose relation head has the binary cross entropy.
STUDY: dict[str, dict[str, Any]] = {
    "model": {"entity_types": True, "sentence_distance": True, "type_markers": True},
    "train": {"relation_weight": 1.0},
}
OPTIONS["study"] = STUDY


class Idea:
    """Training with options of OPTIONS; subclasses change more."""

    options: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, arguments: argparse.Namespace) -> None:
        changed = OPTIONS.get(arguments.idea, self.options)
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
        """Return the mean loss of a batch over pairs; `documents` are indices of the training corpus."""
        return self.task.loss(self.model, batch) / max(1, sum(map(self.task.weight, documents)))

    def after_step(self, step: int) -> None:
        """Run after each step of the optimizer."""

    def finish(self) -> None:
        """Run before the evaluation on dev."""


class NegativeSampling(Idea):
    """Negative sampling: each step omits a random half of the pairs without a relation."""

    random = np.random.default_rng(66)

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """Return the mean loss over the sampled pairs."""
        targets = batch["targets"]
        kept = (targets > 0) | torch.from_numpy(self.random.random(len(targets)) < 0.5)
        outputs = self.model(batch)[kept]
        return binary_cross_entropy(outputs, targets[kept], RcpTraining()) / len(outputs)


class MovingAverage(Idea):
    """EMA: the evaluation uses an exponential moving average of the weights, decay 0.998 after a warm-up."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.averages = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update the averages."""
        for name, weight in self.model.named_parameters():
            self.averages[name].lerp_(weight, 1 - min(0.998, (1 + step) / (10 + step)))

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the weights with the averages."""
        for name, weight in self.model.named_parameters():
            weight.copy_(self.averages[name])


class RDrop(Idea):
    """R-Drop: two forward passes per batch, and the symmetric KL divergence of P(relation) in the loss."""

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """Return the mean of both losses plus the divergence."""
        outputs: tuple[Tensor, Tensor] = self.model(batch), self.model(batch)
        losses = [binary_cross_entropy(logits, batch["targets"], RcpTraining()) for logits in outputs]
        first, second = (logits.squeeze(1) for logits in outputs)
        divergence = ((torch.sigmoid(first) - torch.sigmoid(second)) * (first - second)).sum() / 2
        return (torch.stack(losses).mean() + divergence) / max(1, len(first))


class Evidence(Idea):
    """DREEAM: the context weights of a pair are trained on the words of its evidence sentences, weight 0.1."""

    weight = 0.1

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.tokenizer = DocumentTokenizer(self.task.tokenizer, self.model.max_length)
        self.targets = [self._targets(document) for document in self.corpus]
        # Per document of the batch, [pairs, length].
        self.context_weights: list[Tensor] = []
        mock.patch.object(rcp_model, "pool_contexts", self._pool).start()

    def _pool(self, hidden: Tensor, attention: Tensor, heads: slice, first: Tensor, second: Tensor) -> Tensor:
        """Call `pool_contexts`, and record its weights by pooling unit vectors."""
        weights = pool_contexts(torch.eye(len(hidden)), attention, heads, first, second)
        if self.model.training:
            self.context_weights.append(weights)
        return weights @ hidden

    def _targets(self, document: Document) -> dict[int, Tensor]:
        """Return target weights, [length], of unordered pairs with evidence: uniform over the evidence sentences."""
        mentions = [mention for entity in document.entities for mention in entity]
        opened = {(mention.sentence, mention.start) for mention in mentions}
        closed = {(mention.sentence, mention.end - 1) for mention in mentions}
        sentences = [-1]
        for sentence, words in enumerate(document.sentences):
            for word, pieces in enumerate(self.tokenizer.tokenize_words(list(words))):
                markers = ((sentence, word) in opened) + ((sentence, word) in closed)
                sentences += [sentence] * (len(pieces) + markers)
        sentence_of_piece = torch.tensor([*sentences[: self.tokenizer.max_length - 1], -1])
        pairs = {pair: index for index, pair in enumerate(zip(*unordered_pairs(len(document.entities)), strict=True))}
        evidence: dict[int, set[int]] = {}
        for label in document.labels or ():
            pair = min(label.head, label.tail), max(label.head, label.tail)
            evidence.setdefault(pairs[pair], set()).update(label.evidence)
        masks = {
            pair: torch.isin(sentence_of_piece, torch.tensor(sorted(numbers))).float()
            for pair, numbers in evidence.items()
        }
        return {pair: mask / mask.sum() for pair, mask in masks.items() if mask.any()}

    def loss(self, batch: Batch, documents: Sequence[int]) -> Tensor:
        """Return the loss plus the mean KL divergence of the context weights from their targets."""
        loss = super().loss(batch, documents)
        divergences = [
            F.kl_div(torch.log(weights[pair] + 1e-9), target, reduction="sum")
            for document, weights in zip(documents, self.context_weights, strict=True)
            for pair, target in self.targets[document].items()
        ]
        self.context_weights.clear()
        return loss + self.weight * torch.stack(divergences).mean() if divergences else loss


class AdaptiveThreshold(Idea):
    """ATLOP's loss of the relation head of "study": a learnt threshold class ranks below the relations of a pair."""

    options: ClassVar[dict[str, dict[str, Any]]] = STUDY

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        assert self.model.relation_head is not None
        # One more output, the threshold.
        self.model.relation_head = RelationHead(self.model.classifier.width, len(self.model.relations) + 1)
        mock.patch.object(rcp_model, "relation_loss", adaptive_threshold_loss).start()
        mock.patch.object(self.model, "split_outputs", self.split_outputs).start()

    def split_outputs(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of P(relation), and those of the relations above the threshold, which is log-odds 0."""
        count = len(self.model.relations) + 1
        logits = outputs[:, -count:]
        return self.model.classifier.logits(outputs[:, :-count]), logits[:, :-1] - logits[:, -1:]


def adaptive_threshold_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ATLOP's loss of each pair (Zhou et al. 2021, equations 9 to 11).

    Args:
        logits: relations and the threshold, [..., relations + 1].
        targets: True if the relation holds, bool [..., relations].
    """
    threshold = torch.ones_like(targets[..., :1])
    above = logits.masked_fill(~torch.cat([targets, threshold], -1), -1e30).log_softmax(-1)[..., :-1]
    below = logits.masked_fill(torch.cat([targets, ~threshold], -1), -1e30).log_softmax(-1)[..., -1]
    return -torch.where(targets, above, torch.zeros_like(above)).sum(-1) - below


class WeakEvidence(Evidence):
    """DREEAM with weight 0.01."""

    weight = 0.01


IDEAS: dict[str, type[Idea]] = {
    **dict.fromkeys(OPTIONS, Idea),
    "fewer": NegativeSampling,
    "ema": MovingAverage,
    "r-drop": RDrop,
    "adaptive-threshold": AdaptiveThreshold,
    "evidence": Evidence,
    "little-evidence": WeakEvidence,
}


def main() -> None:
    """Train, evaluate and print the scores."""
    descriptions = {name: json.dumps(changed) for name, changed in OPTIONS.items()}
    descriptions |= {name: (idea.__doc__ or "").splitlines()[0] for name, idea in IDEAS.items() if name not in OPTIONS}
    ideas = "\n".join(f"  {name:19}{text}" for name, text in descriptions.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "") + ideas, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("idea", choices=IDEAS, metavar="IDEA")
    parser.add_argument("--train", type=Path, required=True, help="training corpus")
    parser.add_argument("--dev", type=Path, required=True, help="dev corpus")
    parser.add_argument("--seed", type=int, default=66)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, help="stop after this number of steps")
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
        idea.after_step(step)
        if step % 50 == 0:
            print(f"step {step} of {total}: loss {loss.item():.4f}", flush=True)
    idea.finish()
    with torch.no_grad():
        scores = task.evaluate(model.eval(), ALONE)
    print(json.dumps(scores))
    print(
        f"{arguments.idea}, {arguments.epochs} epochs, seed {arguments.seed}: P {scores['precision']:.2f} "
        f"R {scores['recall']:.2f} F1 {scores['f1']:.2f} best F1 {scores['best_f1']:.2f} AP "
        f"{scores['average_precision']:.2f} relation F1 {scores.get('relation_f1', 0.0):.2f}"
    )


if __name__ == "__main__":
    main()
