"""Training task of Relation Candidate Proposal: examples, loss and dev evaluation (section 3.1, table 6)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import ConfigError, CorpusError, UserError, counted
from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema, SchemaStatistics
from lmrc.rcp import thresholds
from lmrc.rcp.data.collate import Batch, ordered_pair_indices
from lmrc.rcp.data.dataset import EncodedCorpus, Example, load_or_build_dataset
from lmrc.rcp.data.features import count_entity_types
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.flops import RcpFlops
from lmrc.rcp.metrics import binary_scores, metric_problem
from lmrc.rcp.model.losses import dev_loss, training_loss
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.relation_head import relation_targets
from lmrc.rcp.model_card import model_card
from lmrc.rcp.predict import RELATION_SCHEMA
from lmrc.training.activation_checkpointing import enable_activation_checkpointing
from lmrc.training.distributed import World
from lmrc.training.precision import resolve_precision
from lmrc.training.task import to_device

logger = logging.getLogger(__name__)

# Evaluation batches on a GPU are larger by this factor: after four documents it waits for the host, and without
# gradients there is room for more. On a CPU larger batches are no faster.
GPU_EVALUATION_FACTOR = 4


class TripleLogits(NamedTuple):
    """Log-odds of triples that are at least `thresholds.MIN_LOGIT`, with their gold labels.

    Attributes:
        logits: log-odds, [triples].
        gold: True if the triple holds, [triples].
        missing: gold triples with lower log-odds.
    """

    logits: NDArray[np.float32]
    gold: NDArray[np.bool_]
    missing: int

    @classmethod
    def none(cls) -> TripleLogits:
        """Return those of no pair."""
        return cls(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.bool_), 0)

    @classmethod
    def of(cls, logits: NDArray[np.float32], gold: NDArray[np.bool_]) -> TripleLogits:
        """Return those of pairs, [pairs, relations]."""
        kept = logits >= thresholds.MIN_LOGIT
        return cls(logits[kept], gold[kept], int(gold.sum() - gold[kept].sum()))

    @classmethod
    def concatenate(cls, parts: Sequence[TripleLogits]) -> TripleLogits:
        """Return all of them."""
        logits, gold, missing = zip(*parts, strict=True)
        return cls(np.concatenate(logits), np.concatenate(gold), sum(missing))


class RcpTask:
    """Task (`lmrc.training.task.Task`) that trains RCP on all ordered entity pairs of a document."""

    unit = "documents"
    model: nn.Module

    def __init__(self, config: RcpConfig, train: Corpus, dev: Corpus) -> None:
        """Load the encoder and tokenize both corpora.

        Raises:
            ConfigError: if `train.metric` needs a relation head, and there is none.
            UserError: if the encoder is not found or not supported.
            CorpusError: if a document has no labels, or a relation head is trained and dev has other relations.
        """
        if problem := metric_problem(config.train):
            raise ConfigError(problem)
        if config.train.relation_weight and dev.relations.sha256 != train.relations.sha256:
            raise CorpusError(
                f"{config.data.train} and {config.data.dev} have different relation sets, but train.relation_weight "
                "trains a relation head: build both with the same --relations"
            )
        options = config.model
        types = sorted(count_entity_types(train)) if options.entity_types or options.type_markers else []
        model, self.tokenizer = RelationCandidateModel.from_encoder(
            options.encoder,
            options.max_length,
            options.classifier,
            types if options.entity_types else (),
            options.sentence_distance,
            types if options.type_markers else (),
            train.relations.ids if config.train.relation_weight else (),
        )
        model.precision = resolve_precision(config.train.precision)
        if config.train.gradient_checkpointing:
            if not model.encoder.supports_gradient_checkpointing:
                raise UserError(
                    f"the encoder {config.model.encoder} does not support gradient checkpointing; "
                    "set train.gradient_checkpointing to false"
                )
            enable_activation_checkpointing(model.encoder)
        self.model = self._model = model
        self._flops = RcpFlops.of(model.encoder, model.classifier, model.relation_head, model.windows.size)
        self._config = config
        self._corpus = train
        self._dev_corpus = dev
        self._schema: RelationSchema | None = None
        if model.relation_head is not None and config.train.schema_minimum:
            self._schema = RelationSchema.of_corpus(train, config.train.schema_minimum)
            for split, corpus in (("train", train), ("dev", dev)):
                logger.info(f"{split}: by the relation schema, {SchemaStatistics.of(self._schema, corpus)}")
        self._manifests = train.manifest, dev.manifest
        # Results of the last evaluation, for `export`.
        self._scores: dict[str, float] = {}
        self._calibration: dict[str, Any] | None = None
        tokenizer = DocumentTokenizer(self.tokenizer, model.max_length)
        self._train = self._prepare("train", train, tokenizer)
        self._dev = self._prepare("dev", dev, tokenizer)
        if model.features.markers:
            pieces = self.tokenizer.convert_ids_to_tokens(list(model.features.markers.values()))
            markers = (f"{name} {piece}" for name, piece in zip(model.features.markers, pieces, strict=True))
            logger.info(f"opening markers of entity types: {', '.join(markers)}")

    def _prepare(self, split: str, corpus: Corpus, tokenizer: DocumentTokenizer) -> EncodedCorpus:
        if corpus.manifest.labelled_documents < len(corpus):
            title = next(document.title for document in corpus if document.labels is None)
            raise CorpusError(
                f"{corpus.folder}: document {title!r} has no labels, which training and evaluation need; "
                "build the corpus from documents with labels"
            )
        dataset = load_or_build_dataset(corpus, tokenizer)
        cut, lost = int(dataset.cut_mentions.sum()), int(dataset.lost_entities.sum())
        beyond = f"; beyond {tokenizer.max_length} word pieces: {counted(cut, 'mention')}" if cut else ""
        if lost:
            beyond += f", {counted(lost, 'entity', 'entities')} with all their mentions"
        logger.info(
            f"{split}: {counted(len(dataset), 'document')}, {dataset.pair_counts.sum():,} pairs, "
            f"{dataset.positive_counts.sum():,} with a relation{beyond}{self._describe_unknown_types(corpus)}"
        )
        return dataset

    def _describe_unknown_types(self, corpus: Corpus) -> str:
        features = self._model.features
        known = features.types or features.markers
        if not known:
            return ""
        unknown = sum(count for name, count in count_entity_types(corpus).items() if name not in known)
        return f"; types other than {', '.join(known)}: {unknown} entities"

    def __len__(self) -> int:
        return len(self._train)

    def fingerprint(self) -> str:
        """Return the fingerprint of the training corpus."""
        return self._corpus.fingerprint

    def weight(self, index: int) -> int:
        """Return the number of ordered pairs of a document; 0 if it has a single entity."""
        return int(self._train.pair_counts[index])

    def size(self, index: int) -> int:
        """Return 1, the number of documents."""
        return 1

    def flops(self, index: int) -> float:
        """Return the model FLOPs of a document, forward and backward."""
        return self._flops.training(int(self._train.lengths[index]), int(self._train.pair_counts[index]))

    def collate(self, indices: Sequence[int]) -> Batch:
        """Return a batch of the model with "targets", float32 [pairs] in {0, 1}.

        If there is a relation head, the batch also has "relations" (see `relation_targets`).
        """
        examples = [self._train[index] for index in indices]
        batch = self._collate(examples)
        if self._model.relation_head is None:
            return batch
        targets = [
            relation_targets(example.document.num_entities, self._corpus.labels(index) or (), self._corpus.relations)
            for index, example in zip(indices, examples, strict=True)
        ]
        return {**batch, "relations": torch.from_numpy(np.concatenate(targets))}

    def _collate(self, examples: Sequence[Example]) -> Batch:
        targets = np.concatenate([example.targets() for example in examples])
        batch = self._model.collate([example.document for example in examples])
        return {**batch, "targets": torch.from_numpy(targets.astype(np.float32))}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the training loss, summed over pairs (`lmrc.rcp.model.losses`)."""
        return training_loss(model(batch), batch, self._config.train)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters of the encoder and of the new layers, with their learning rates (table 6)."""
        options = self._config.train
        new = list(self._model.classifier.parameters())
        if self._model.relation_head is not None:
            new += self._model.relation_head.parameters()
        return [
            {"params": [p for p in self._model.encoder.parameters() if p.requires_grad], "lr": options.learning_rate},
            {"params": new, "lr": options.classifier_learning_rate},
        ]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Return the dev scores of `binary_scores`, and "loss", the mean over pairs.

        With a relation head, also "relation_f1": the best F1 over thresholds of its triples, in percent.
        """
        batch_size = self._config.train.micro_batch_size
        if world.device.type == "cuda":
            batch_size *= GPU_EVALUATION_FACTOR
        indices, num_real = world.shard(len(self._dev))
        loss, logits, gold = 0.0, [np.zeros(0)], [np.zeros(0, dtype=np.bool_)]
        triples = [TripleLogits.none()]
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            examples = [self._dev[index] for index in chunk]
            batch = self._collate(examples)
            # Padding documents at the end of a shard do not count.
            real = examples[: max(num_real - start, 0)]
            num_pairs = sum(example.document.num_pairs for example in real)
            targets = batch["targets"][:num_pairs]
            outputs, relations = self._model.split_outputs(model(to_device(batch, world.device)))
            # The only copies from the device, which wait for it.
            batch_logits = outputs.double().cpu()[:num_pairs]
            loss += dev_loss(batch_logits, targets)
            logits.append(batch_logits.numpy())
            gold.append(targets.numpy() > 0)
            if relations is not None and real:
                triples.append(
                    TripleLogits.of(
                        self._admissible(relations.float().cpu()[:num_pairs].numpy(), real),
                        self._relation_targets(real, chunk),
                    )
                )
        losses, all_logits, all_gold, all_triples = zip(
            *world.gather((loss, np.concatenate(logits), np.concatenate(gold), TripleLogits.concatenate(triples))),
            strict=True,
        )
        probabilities = 1 / (1 + np.exp(-np.concatenate(all_logits)))
        has_relation = np.concatenate(all_gold)
        calibration = thresholds.calibrate(probabilities, has_relation)
        scores = {**binary_scores(probabilities, has_relation), "loss": sum(losses) / max(len(probabilities), 1)}
        if self._model.relation_head is not None:
            calibration["relations"] = thresholds.calibrate_relations(*TripleLogits.concatenate(all_triples))
            scores["relation_f1"] = calibration["relations"]["f1"][1]
        self._calibration, self._scores = calibration, scores
        return scores

    def _admissible(self, logits: NDArray[np.float32], examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return the log-odds of the relations, [pairs, relations]; -inf if the schema does not admit them."""
        if self._schema is None:
            return logits
        masks = [self._schema.mask(example.document.entity_types) for example in examples]
        return np.where(np.concatenate(masks), logits, np.float32("-inf"))

    def _relation_targets(self, examples: Sequence[Example], indices: Sequence[int]) -> NDArray[np.bool_]:
        """Return the gold relations of dev documents, [pairs sorted by (h, t), relations]."""
        return np.concatenate(
            [
                relation_targets(
                    example.document.num_entities, self._dev_corpus.labels(index) or (), self._corpus.relations
                )[ordered_pair_indices(example.document.num_entities)]
                for example, index in zip(examples, indices, strict=False)
            ]
        )

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the model, the thresholds of the last evaluation, the relation schema and a model card."""
        self._model.save(folder, self.tokenizer, weights)
        if self._calibration is not None:
            thresholds.save(folder, self._calibration)
        if self._schema is not None:
            self._schema.write(folder / RELATION_SCHEMA)
        write_atomically(
            folder / "README.md", model_card(self._config, *self._manifests, self._scores, self._model.max_length)
        )
