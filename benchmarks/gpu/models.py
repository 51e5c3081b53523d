"""Models with random weights, and training tasks with random examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import launches
import numpy as np
import torch
import torch.nn.functional as F
from decoding import LLAMA2_13B
from gpu.check import Machine
from peft import PeftModel
from rcp_cost import make_document
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, RobertaConfig, RobertaModel

from lmrc.config.schema import LoraOptions, RcpTraining, Training
from lmrc.rc.data.collate import collate
from lmrc.rc.model.lora import add_adapter
from lmrc.rc.model.packed_attention import IMPLEMENTATION, packed_forward
from lmrc.rc.prompts.query_builder import Example
from lmrc.rcp.model.losses import training_loss
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.training.backends.base import Backend
from lmrc.training.distributed import World
from lmrc.training.sampler import step_seed
from lmrc.training.task import Batch, to_device


class SyntheticTask:
    """The parts of a task (`lmrc.training.task.Task`) that do not depend on the model."""

    unit = "documents"
    model: nn.Module

    def __init__(self, examples: int, rate: float) -> None:
        self._examples, self._rate = examples, rate

    def __len__(self) -> int:
        return self._examples

    def fingerprint(self) -> str:
        """See `Task`."""
        return type(self).__name__

    def weight(self, index: int) -> int:
        """See `Task`."""
        return 1

    def flops(self, index: int) -> float:
        """See `Task`."""
        return 0.0

    def size(self, index: int) -> int:
        """See `Task`."""
        return 1

    def collate(self, indices: Sequence[int]) -> Batch:
        """See `Task`."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task`."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Task`."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr": self._rate}]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Return the mean loss of the first training examples."""
        batch = to_device(self.collate(range(min(2, len(self)))), world.device)
        return {"loss": float(self.loss(model, batch))}

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """See `Task`."""
        save_file(weights, folder / "weights.safetensors")


class RcpTask(SyntheticTask):
    """RCP on documents with random word pieces and labels."""

    def __init__(self, encoder: PreTrainedModel, lengths: Sequence[int], entities: int, rate: float = 1e-4) -> None:
        """Create the task.

        Args:
            lengths: word pieces of each document.
            entities: entities per document.
        """
        super().__init__(len(lengths), rate)
        torch.manual_seed(1)
        self._rcp = RelationCandidateModel(encoder).train()
        self.model = self._rcp
        self._documents = [make_document(length, entities) for length in lengths]
        generator = np.random.default_rng(2)
        self._targets = [
            torch.from_numpy(generator.random(document.num_pairs) < 0.2).float() for document in self._documents
        ]

    def weight(self, index: int) -> int:
        """See `Task`."""
        return self._documents[index].num_pairs

    def collate(self, indices: Sequence[int]) -> Batch:
        """See `Task`."""
        batch = dict(self._rcp.collate([self._documents[index] for index in indices]))
        return {**batch, "targets": torch.cat([self._targets[index] for index in indices])}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task`."""
        return training_loss(model(batch), batch, RcpTraining())


class RcTask(SyntheticTask):
    """LoRA on random queries that share the first quarter of their tokens. The last tenth is the answer."""

    unit = "tokens"

    def __init__(self, model: PeftModel, lengths: Sequence[int], rate: float = 1e-3) -> None:
        """Create the task.

        Args:
            lengths: tokens of each query.
        """
        super().__init__(len(lengths), rate)
        self.model = model
        vocabulary = model.config.vocab_size
        generator = torch.Generator().manual_seed(3)
        prefix = torch.randint(vocabulary, (min(lengths) // 4,), generator=generator)
        self.examples = []
        for length in lengths:
            rest = torch.randint(vocabulary, (length - len(prefix),), generator=generator)
            self.examples.append(Example(torch.cat([prefix, rest]).int(), length - length // 10))

    def weight(self, index: int) -> int:
        """See `Task`."""
        return self.examples[index].answer_tokens

    def collate(self, indices: Sequence[int]) -> Batch:
        """See `Task`."""
        return dict(collate([self.examples[index] for index in indices]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task`."""
        return F.cross_entropy(logits_of(model, batch), batch["targets"], reduction="sum")


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits that predict the targets, float32 [targets, vocabulary]."""
    return packed_forward(
        model, batch["input_ids"], batch["positions"], batch["layout"], batch["logit_positions"]
    ).float()


def encoder(machine: Machine) -> PreTrainedModel:
    """Return an encoder of RoBERTa-large's shape, or a small one. As in a training, it is made on the CPU."""
    torch.manual_seed(0)
    return small_encoder() if machine.tiny else launches.encoder()


def small_encoder(vocabulary: int = 20_000, positions: int = 512, dropout: float = 0.1) -> PreTrainedModel:
    """Return a small encoder. Its heads have 32 numbers: kernels of GPUs need a multiple of 8.

    Args:
        vocabulary: number of word pieces; by default, as many as the random documents use.
        positions: word pieces of a window.
    """
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=positions + 2,
        pad_token_id=1,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return RobertaModel(config)


def small_llama(vocabulary: int = 300, key_heads: int = 4) -> LlamaConfig:
    """Return a small shape, whose random weights are large enough for answers to differ."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        max_position_embeddings=4096,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )


def large_llama(machine: Machine, vocabulary: int = 300) -> LlamaConfig:
    """Return the shape of LLaMA2-13B, or a small one."""
    return small_llama(vocabulary) if machine.tiny else LLAMA2_13B


def make_lm(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Return a frozen LM with random weights, made on the device."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION, dtype=dtype)
    assert isinstance(model, PreTrainedModel)
    model.config.use_cache = False
    return model.requires_grad_(False)


def adapted(base: PreTrainedModel, dropout: float = 0.05, r: int = 8) -> PeftModel:
    """Add an adapter whose matrices are both random, so that all its gradients differ from 0."""
    model = add_adapter(base, LoraOptions(dropout=dropout, r=r), "random", seed=1)
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)
    return model.train()


def train_steps(backend: Backend, batches: Sequence[Batch], steps: int, rate_scale: float = 1.0) -> list[Tensor]:
    """Make training steps on batches in turn, with the dropout of a training. Return the losses, on the device."""
    losses = []
    for step in range(steps):
        torch.manual_seed(step_seed(1, step, 0, 0))
        loss = backend.loss(batches[step % len(batches)])
        backend.backward(loss)
        backend.step(rate_scale)
        losses.append(loss.detach())
    return losses


def plain_options(machine: Machine, **changes: Any) -> Training:
    """Return options of a training by plain torch."""
    given: dict[str, Any] = {"backend": "torch", "precision": machine.precision, "metric": "loss", "trackers": ()}
    return Training.model_validate({**given, **changes})
