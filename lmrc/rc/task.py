"""LoRA fine-tuning of the LM, with the loss on the answer tokens only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import ConfigError, UserError, counted
from lmrc.config.schema import RcConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relation_schema import RelationSchema, SchemaStatistics
from lmrc.rc.data.collate import collate
from lmrc.rc.data.dataset import EncodedQueries, load_or_build_dataset
from lmrc.rc.flops import RcFlops
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import add_adapter, load_base, load_tokenizer, own_gpus, save_adapter
from lmrc.rc.model.packed_attention import IMPLEMENTATION, check_positions, packed_forward
from lmrc.rc.model_card import model_card
from lmrc.rc.prompts.query_builder import Example
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.training.activation_checkpointing import enable_activation_checkpointing
from lmrc.training.distributed import World
from lmrc.training.precision import resolve_precision
from lmrc.training.task import Batch, to_device

logger = logging.getLogger(__name__)


class RcTask:
    """Training task (`lmrc.training.task.Task`) that fine-tunes the LM on the queries of a corpus.

    Attributes:
        unit: what `size` counts.
    """

    unit = "tokens"

    def __init__(self, config: RcConfig, train: Corpus, dev: Corpus) -> None:
        """Load the base, add an adapter and tokenize both corpora.

        Raises:
            UserError: if the model is missing or has no such layers, a document does not fit, or a corpus has no pairs.
        """
        self._config = config
        self._relations = train.relations
        self._manifests = train.manifest, dev.manifest
        # Scores of the last evaluation, for the model card.
        self._scores: dict[str, float] = {}
        if dev.relations.sha256 != train.relations.sha256:
            raise UserError(
                f"{config.data.train} and {config.data.dev} have different relation sets: build both with the same"
            )
        self._schema = None
        if config.prompt.schema is not None:
            prompt = PROMPTS[config.prompt.kind]
            if not prompt.names_relations or prompt.asks_relations:
                raise ConfigError(
                    f"prompt.schema says which relations an answer may name, but answers of prompt.kind "
                    f"{config.prompt.kind} name none: leave it out"
                )
            self._schema = RelationSchema.read(config.prompt.schema, train.relations)
            logger.info(
                f"{config.prompt.schema}: in {config.data.train} {SchemaStatistics.of(self._schema, train)}; training "
                "keeps the inadmissible triples, and only inference is restricted"
            )
        self.tokenizer = load_tokenizer(config.model.base)
        if config.train.negative_ratio is not None and not PROMPTS[config.prompt.kind].asks_all_pairs:
            raise ConfigError(
                "train.negative_ratio drops pairs without a relation, but a query of prompt.kind "
                f"{config.prompt.kind} has none: leave it out"
            )
        self._train = self._examples(train, config.train.negative_ratio)
        self._dev = self._examples(dev)
        precision = resolve_precision(config.train.precision)
        base = load_base(config.model.base, IMPLEMENTATION, precision, config.model.quantization, own_gpus())
        base.config.use_cache = False
        if config.train.gradient_checkpointing:
            enable_activation_checkpointing(base)
        check_positions(base, max(data.size(index) for data in (self._train, self._dev) for index in range(len(data))))
        self._adapted = add_adapter(base, config.lora, config.model.base, config.run.seed)
        self.model: nn.Module = self._adapted
        self._flops = RcFlops.of(self._adapted, base.config)

    def _examples(self, corpus: Corpus, negative_ratio: float | None = None) -> EncodedQueries:
        config = self._config
        examples = load_or_build_dataset(corpus, self.tokenizer, config.prompt, negative_ratio, config.run.seed)
        if not len(examples):
            raise UserError(f"{corpus.folder}: no document has a pair to train on: give a corpus with labels")
        counts = examples.counts
        parts = [f"{counted(len(examples), 'query', 'queries')}, {examples.tokens:,} tokens"]
        if counts.questions:
            parts[0] += f", {counts.questions:,} triples"
        parts[0] += f", from {counted(counts.documents, 'document')}"
        if counts.without_pairs:
            parts.append(f"{counted(counts.without_pairs, 'document')} without pairs")
        if counts.shortened:
            queries = counted(counts.shortened, "query", "queries")
            parts.append(f"{counted(counts.sentences, 'sentence')} dropped from {queries}, to fit")
        if counts.thinned_out:
            parts.append(f"{counted(counts.thinned_out, 'pair')} without a relation left out")
        logger.info(f"{corpus.folder}: {'; '.join(parts)}")
        return examples

    def __len__(self) -> int:
        """Return the number of training queries."""
        return len(self._train)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the token ids of all training queries."""
        return self._train.sha256

    def weight(self, index: int) -> int:
        """Return the number of target tokens of a training query."""
        return self._train.weight(index)

    def size(self, index: int) -> int:
        """Return the number of tokens of a training query."""
        return self._train.size(index)

    def flops(self, index: int) -> float:
        """Return the model FLOPs of a training query, forward and backward."""
        return self._flops.training(self._train.size(index), self._train.weight(index))

    def collate(self, indices: Sequence[int]) -> Batch:
        """Return a packed batch of training queries (`lmrc.rc.data.collate`)."""
        return self._collate([self._train[index] for index in indices])

    def _collate(self, examples: Sequence[Example]) -> Batch:
        return dict(collate(examples))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the cross entropies of the target tokens, float32."""
        return functional.cross_entropy(self._logits(model, batch), batch["targets"], reduction="sum")

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits that predict the targets, float32 [targets, vocabulary]."""
        return packed_forward(
            model, batch["input_ids"], batch["positions"], batch["layout"], batch["logit_positions"]
        ).float()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one parameter group: the adapter, at `train.learning_rate`."""
        adapter = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [{"params": adapter, "lr": self._config.train.learning_rate}]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Evaluate on the dev queries.

        Returns:
            Means per target token: `loss` (cross entropy in nats) and `token_accuracy` (percent).
        """
        indices, real = world.shard(len(self._dev))
        step = self._config.train.micro_batch_size
        loss = correct = tokens = 0.0
        for start in range(0, len(indices), step):
            counted = indices[start : min(start + step, real)]
            batch = self._collate([self._dev[index] for index in counted or indices[start : start + step]])
            batch = to_device(batch, world.device)
            logits, targets = self._logits(model, batch), batch["targets"]
            if counted:
                loss += functional.cross_entropy(logits, targets, reduction="sum").item()
                correct += float((logits.argmax(-1) == targets).sum().item())
                tokens += len(targets)
        loss, correct, tokens = world.sum([loss, correct, tokens])
        self._scores = {"loss": loss / tokens, "token_accuracy": 100.0 * correct / tokens}
        return self._scores

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the adapter in PEFT's format, its metadata (lmrc.json), the tokenizer and a model card."""
        save_adapter(self._adapted, weights, folder)
        self.tokenizer.save_pretrained(str(folder))
        AdapterMetadata(
            prompt=self._config.prompt,
            precision=resolve_precision(self._config.train.precision),
            relations_sha256=self._relations.sha256,
            relations=self._relations,
            quantization=self._config.model.quantization,
            schema=self._schema,
        ).write(folder)
        write_atomically(folder / "README.md", model_card(self._config, *self._manifests, self._scores))
