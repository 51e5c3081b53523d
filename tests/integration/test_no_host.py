"""Training steps on the meta device, where tensors have no data: whatever reads a value on the host fails there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmrc.config.schema import LoraOptions, RcpTraining
from lmrc.kernels import varlen_attention
from lmrc.rc.data.collate import collate
from lmrc.rc.model.lora import add_adapter
from lmrc.rc.model.packed_attention import IMPLEMENTATION, packed_forward
from lmrc.rc.prompts.query_builder import Example
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.losses import training_loss
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.training.task import to_device
from tests.rcp import tiny

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts the copies to the device, and checks that the host waits for none of them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::_to_copy" and args[0].device != result.device:
            assert result.device == META and (kwargs or {})["non_blocking"]
            self.count += 1
        return result


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use torch's kernel in float32, too, because autocast knows no meta device."""
    monkeypatch.setattr(varlen_attention, "_runs_kernels", lambda tensor: tensor.device == META)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())


def copies_of_a_step(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Make a training step, and return the number of copies to the device."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    with Copies() as copies:
        loss_of().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    assert all(parameter.grad is not None for parameter in parameters)
    optimizer.step()
    return copies.count


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("classifier", ["bilinear", "grouped"])
def test_rcp(kind: tiny.Kind, classifier: Any) -> None:
    """Documents of one window, of two windows, with ten entities, and with an entity without mentions."""
    model = RelationCandidateModel(tiny.encoder(kind, dropout=0.1), classifier=classifier).train()
    documents = [
        tiny.document(12, [1, 2, 1], 1),
        tiny.document(40, [2, 1, 3], 2),
        tiny.document(6, [1] * 10, 3),
        tiny.document(12, [1, 0, 2], 4),
    ]
    encoded = DocumentTokenizer(tiny.tokenizer(kind), model.max_length).encode_batch(documents)
    batch = model.collate(encoded)
    assert [len(shape.window_lengths) for shape in batch["shapes"]] == [1, 2, 1, 1]
    batch["targets"] = torch.zeros(len(batch["pair_indices"]))
    model.to(META)
    batch = to_device(batch, META)
    # The lengths of the windows.
    assert copies_of_a_step(model, lambda: training_loss(model(batch), batch, RcpTraining())) == 1


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("queries", [1, 3])
def test_rc(queries: int, recomputed: bool) -> None:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION)
    if recomputed:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = add_adapter(base, LoraOptions(dropout=0.1), "tiny", seed=1).to(META).train()
    examples = [Example(torch.tensor([5, 6, 7, 8 + query, 9, 3], dtype=torch.int32), 4) for query in range(queries)]
    made = collate(examples)
    assert made["layout"].prefix_length == (3 if queries > 1 else 0)  # type: ignore[union-attr]
    batch = to_device(dict(made), META)

    def loss() -> Tensor:
        logits = packed_forward(
            model, batch["input_ids"], batch["positions"], batch["layout"], batch["logit_positions"]
        )
        return nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="sum")

    # The lengths of the texts, once for all layers and their recomputation.
    assert copies_of_a_step(model, loss) == 1
