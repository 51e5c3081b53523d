"""Relation Candidate Proposal as the engine trains it: examples, loss, dev scores (section 3.1, table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import CorpusError, UserError
from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.rcp import thresholds as calibration
from lmrc.rcp.data.collate import Batch
from lmrc.rcp.data.dataset import EncodedCorpus, Example, load_or_build_dataset
from lmrc.rcp.data.features import entity_types
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.metrics import binary_scores
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.relation_head import AuxiliaryRelationHead, relation_targets
from lmrc.rcp.model_card import model_card
from lmrc.training.distributed import World, say
from lmrc.training.precision import resolve_precision
from lmrc.training.task import to_device


class RcpTask:
    """The engine's task for RCP: binary cross entropy over all ordered entity pairs of a document."""

    unit = "documents"
    model: nn.Module

    def __init__(self, config: RcpConfig, train: Corpus, dev: Corpus) -> None:
        """Loads the encoder and turns both corpora into word pieces.

        Raises UserError where the encoder is not found or does not fit, CorpusError where a document has no labels.
        """
        options = config.model
        types = sorted(entity_types(train)) if options.entity_types or options.type_markers else []
        model, self.tokenizer = RelationCandidateModel.from_encoder(
            options.encoder,
            options.max_length,
            options.classifier,
            types if options.entity_types else (),
            options.sentence_distance,
            types if options.type_markers else (),
        )
        model.precision = resolve_precision(config.train.precision)
        # Last, so that the other weights of a seed are the same without it.
        if config.train.relation_weight:
            model.relation_head = AuxiliaryRelationHead(model.classifier.width, len(train.relations))
        if config.train.gradient_checkpointing:
            if not model.encoder.supports_gradient_checkpointing:
                raise UserError(
                    f"the encoder {config.model.encoder} does not support gradient checkpointing; "
                    "set train.gradient_checkpointing to false"
                )
            model.encoder.activation_checkpointing_enable()
        self.model = self._own = model
        self._config = config
        self._corpus = train
        self._manifests = train.manifest, dev.manifest
        # Of the last evaluation: what `export` writes beside the weights.
        self._scores: dict[str, float] = {}
        self._calibration: dict[str, Any] | None = None
        encoder = DocumentTokenizer(self.tokenizer, model.max_length)
        self._train = self._prepare("train", train, encoder)
        self._dev = self._prepare("dev", dev, encoder)
        if model.features.markers:
            words = self.tokenizer.convert_ids_to_tokens(list(model.features.markers.values()))
            said = (f"{kind} {word}" for kind, word in zip(model.features.markers, words, strict=True))
            say(f"mentions are opened by the word of their type: {', '.join(said)}")

    def _prepare(self, what: str, corpus: Corpus, encoder: DocumentTokenizer) -> EncodedCorpus:
        if corpus.manifest.labelled_documents < len(corpus):
            title = next(document.title for document in corpus if document.labels is None)
            raise CorpusError(
                f"{corpus.folder}: document {title!r} has no labels to learn from or be measured on; "
                "build the corpus from documents with labels"
            )
        examples = load_or_build_dataset(corpus, encoder)
        say(
            f"{what}: {len(examples)} documents, {examples.pairs.sum()} pairs, {examples.positive.sum()} with a "
            f"relation; beyond {encoder.max_length} word pieces: {examples.cut.sum()} mentions, "
            f"{examples.lost.sum()} entities without any mention left{self._about_types(corpus)}"
        )
        return examples

    def _about_types(self, corpus: Corpus) -> str:
        features = self._own.features
        known = features.types or features.markers
        if not known:
            return ""
        unknown = sum(count for name, count in entity_types(corpus).items() if name not in known)
        return f"; of other types than {', '.join(known)}: {unknown} entities"

    def __len__(self) -> int:
        return len(self._train)

    def fingerprint(self) -> str:
        """The training corpus."""
        return self._corpus.fingerprint

    def weight(self, index: int) -> int:
        """Ordered pairs of the document; 0 for a single entity."""
        return int(self._train.pairs[index])

    def size(self, index: int) -> int:
        """One document."""
        return 1

    def collate(self, indices: Sequence[int]) -> Batch:
        """The batch of the model, and "targets" [pairs] in {0, 1}, float32; "relations" where these are a task."""
        examples = [self._train[index] for index in indices]
        batch = self._batch(examples)
        if self._own.relation_head is None:
            return batch
        targets = [
            relation_targets(example.document.entities, self._corpus.labels(index) or (), self._corpus.relations)
            for index, example in zip(indices, examples, strict=True)
        ]
        return {**batch, "relations": torch.from_numpy(np.concatenate(targets))}

    def _batch(self, examples: Sequence[Example]) -> Batch:
        targets = np.concatenate([example.targets() for example in examples])
        batch = self._own.collate([example.document for example in examples])
        return {**batch, "targets": torch.from_numpy(targets.astype(np.float32))}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Binary cross entropy of P(relation), and weighted that of the relation task, summed over pairs."""
        outputs: Tensor = model(batch)
        options, targets = self._config.train, batch["targets"]
        if "relations" not in batch:
            return self._own.classifier.loss(outputs, targets, options.positive_weight)
        own = self._own.classifier.loss(outputs[:, :-1], targets, options.positive_weight)
        return own + options.relation_weight * outputs[:, -1].sum()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The pretrained encoder and the new layers, each at its own rate (table 6)."""
        options = self._config.train
        new = list(self._own.classifier.parameters())
        if self._own.relation_head is not None:
            new += self._own.relation_head.parameters()
        return [
            {"params": [p for p in self._own.encoder.parameters() if p.requires_grad], "lr": options.learning_rate},
            {"params": new, "lr": options.classifier_learning_rate},
        ]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Dev scores of `binary_scores`, and "loss", the mean over pairs."""
        size = self._config.train.micro_batch_size
        indices, real = world.shard(len(self._dev))
        loss, logits, gold = 0.0, [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
        for start in range(0, len(indices), size):
            examples = [self._dev[index] for index in indices[start : start + size]]
            batch = to_device(self._batch(examples), world.device)
            scores = self._own.classifier.logits(model(batch))
            # The rest of this rank's documents repeats one of them.
            pairs = sum(example.document.pairs for example in examples[: max(real - start, 0)])
            scores, targets = scores[:pairs].double(), batch["targets"][:pairs].double()
            loss += float(F.binary_cross_entropy_with_logits(scores, targets, reduction="sum"))
            logits.append(scores.cpu().numpy())
            gold.append(targets.cpu().numpy() > 0)
        parts = world.gather((loss, np.concatenate(logits), np.concatenate(gold)))
        probabilities = 1 / (1 + np.exp(-np.concatenate([part[1] for part in parts])))
        found = np.concatenate([part[2] for part in parts])
        total = sum(part[0] for part in parts)
        self._calibration = calibration.calibrate(probabilities, found)
        self._scores = {**binary_scores(probabilities, found), "loss": total / max(len(probabilities), 1)}
        return self._scores

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what `RelationCandidateModel.load` reads, the thresholds of the last evaluation, and a model card."""
        self._own.save(folder, self.tokenizer, weights)
        if self._calibration is not None:
            calibration.save(folder, self._calibration)
        write_atomically(
            folder / "README.md", model_card(self._config, *self._manifests, self._scores, self._own.max_length)
        )
