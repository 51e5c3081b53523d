"""The task of fine-tuning the LM with LoRA: loss on the answers only."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmrc.config import RcConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.engine.distributed import World
from lmrc.engine.precision import settle
from lmrc.engine.task import Batch
from lmrc.errors import UserError
from lmrc.rc.examples import IGNORED, Example, QueryBuilder, collate, encode, gold_pairs
from lmrc.rc.lora import add_adapter, load_base, load_tokenizer, save_adapter
from lmrc.rc.settings import Settings


class RcTask:
    """Fine-tuning on the queries of a corpus (a `lmrc.engine.task.Task`).

    Table 12 (`rc`): gold pairs; table 11 (`direct`): all pairs.
    """

    unit = "tokens"

    def __init__(self, config: RcConfig, train: Corpus, dev: Corpus) -> None:
        """Load the base, add an adapter, turn both corpora into token ids.

        Raises UserError where the model or its layers are not there, where a document does not fit, or where a corpus
        has no pairs.
        """
        self._config = config
        self._relations = train.relations
        if dev.relations.sha256 != train.relations.sha256:
            raise UserError(
                f"{config.data.train} and {config.data.dev} have different relation sets: build both with the same"
            )
        self.tokenizer = load_tokenizer(config.model.base)
        self._train = self._examples(train, config.data.train)
        self._dev = self._examples(dev, config.data.dev)
        base = load_base(config.model.base, config.model.attn_implementation, settle(config.train.precision))
        base.config.use_cache = False
        if config.train.gradient_checkpointing:
            # The reentrant kind wants inputs that need a gradient, which frozen embeddings do not give.
            base.activation_checkpointing_enable({"use_reentrant": False})
        self._selects_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self._adapted = add_adapter(base, config.lora, config.model.base, config.run.seed)
        self.model: nn.Module = self._adapted
        self._fingerprint = self._hash()

    def _examples(self, corpus: Corpus, folder: Path) -> list[Example]:
        builder = QueryBuilder(self.tokenizer, corpus.relations, self._config.prompt)
        examples: list[Example] = []
        without = 0
        for index, document in enumerate(corpus):
            known = gold_pairs(document)
            pairs = known if self._config.prompt.kind == "rc" else candidate_pairs(len(document.entities))
            queries = builder.build(index, document, pairs, relations_by_pair(document))
            made = [encode(query, self.tokenizer) for query in queries]
            without += not made
            examples += made
        if not examples:
            raise UserError(f"{folder}: no document has a pair to learn from: give a corpus with labels")
        if os.environ.get("RANK", "0") == "0":
            tokens = sum(len(example.input_ids) for example in examples)
            print(
                f"{folder}: {len(examples)} queries, {tokens} tokens, of {len(corpus)} documents; "
                f"{without} documents have no pair to ask for",
                flush=True,
            )
        return examples

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for example in self._train:
            digest.update(len(example.input_ids).to_bytes(8, "little"))
            digest.update(example.prompt_tokens.to_bytes(8, "little"))
            digest.update(example.input_ids.numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Number of training queries."""
        return len(self._train)

    def fingerprint(self) -> str:
        """SHA-256 of the token ids of all training queries."""
        return self._fingerprint

    def weight(self, index: int) -> int:
        """Number of tokens that are learnt: answer and end of sequence."""
        return self._train[index].answer_tokens

    def size(self, index: int) -> int:
        """Number of tokens."""
        return len(self._train[index].input_ids)

    def collate(self, indices: Sequence[int]) -> Batch:
        """Training queries, padded on the right (`lmrc.rc.examples.collate`)."""
        return dict(self._collate([self._train[index] for index in indices]))

    def _collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        assert isinstance(self.tokenizer.pad_token_id, int)
        return collate(examples, self.tokenizer.pad_token_id)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the cross entropies of the learnt tokens, float32."""
        logits, targets = self._predictions(model, batch)
        return functional.cross_entropy(logits, targets, reduction="sum")

    def _predictions(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `[learnt tokens, vocabulary]` in float32 and the token ids they should predict `[learnt tokens]`."""
        learnt = torch.zeros_like(batch["labels"], dtype=torch.bool)
        # Position i predicts token i + 1.
        learnt[:, :-1] = batch["labels"][:, 1:] != IGNORED
        select: dict[str, Any] = {"logits_to_keep": learnt} if self._selects_logits else {}
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **select)
        logits = output.logits
        if logits.dim() == 3:
            logits = logits[learnt]
        return logits.float(), batch["labels"][:, 1:][learnt[:, :-1]]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The adapter, at `train.learning_rate`."""
        adapter = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [{"params": adapter, "lr": self._config.train.learning_rate}]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """On the dev queries, a learnt token: `loss` (natural logarithm) and `token_accuracy` (percent)."""
        indices, real = world.share(len(self._dev))
        step = self._config.train.micro_batch_size
        loss = correct = tokens = 0.0
        for start in range(0, len(indices), step):
            counted = indices[start : min(start + step, real)]
            batch = self._collate([self._dev[index] for index in counted or indices[start : start + step]])
            batch = {name: tensor.to(world.device) for name, tensor in batch.items()}
            logits, targets = self._predictions(model, batch)
            if counted:
                loss += functional.cross_entropy(logits, targets, reduction="sum").item()
                correct += float((logits.argmax(-1) == targets).sum().item())
                tokens += len(targets)
        loss, correct, tokens = world.sum([loss, correct, tokens])
        return {"loss": loss / tokens, "token_accuracy": 100.0 * correct / tokens}

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the adapter in PEFT's format, the tokenizer, and lmrc.json (`lmrc.rc.settings`)."""
        save_adapter(self._adapted, weights, folder)
        self.tokenizer.save_pretrained(str(folder))
        Settings(
            prompt=self._config.prompt,
            precision=settle(self._config.train.precision),
            attn_implementation=self._config.model.attn_implementation,
            relations_sha256=self._relations.sha256,
        ).write(folder)
