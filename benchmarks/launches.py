"""Counts of ATen calls and of host syncs in training steps and decoding passes, at the shapes of the paper's models.

On a GPU a step of a small model waits for the host, which issues one call after another (5 to 10 us each). So the calls
are counted, without views. Tensors have shapes but no data (torch's FakeTensorMode), so that size costs nothing, and
a call that needs a value on the host raises an error. Kernels are those of a GPU: varlen attention, fused dropout.
Every side runs under bf16 autocast.

The published structure reads values on the host. It is therefore counted on narrow layers with data: the number of
calls does not depend on the width.

    python benchmarks/launches.py [--only rcp rc decoding] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from published import PublishedModel, published_batch, published_loss
from rcp_cost import make_document
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, PreTrainedModel, RobertaConfig

from lmrc.config.schema import LoraOptions, RcpTraining
from lmrc.kernels import varlen_attention
from lmrc.rc.data.collate import collate
from lmrc.rc.model import packed_attention
from lmrc.rc.model.lora import add_adapter
from lmrc.rc.prompts.query_builder import Example
from lmrc.rcp.model import window_attention
from lmrc.rcp.model.losses import binary_cross_entropy
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.packed_encoder import PackedEncoder

# Word pieces of the documents of an RCP step, which make five windows, and entities of each.
DOCUMENTS, ENTITIES = (200, 250, 300, 600), 20
# Tokens of the query of an RC step, and of its answer.
QUERY, ANSWER = 1500, 100
# Calls that only make or name a tensor.
FREE = {
    "aten::detach",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::new_empty",
    "aten::empty_strided",
}


class CallCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ATen calls, and what makes the host wait, while active.

    Attributes:
        calls: number of calls by name, without views.
        syncs: number of calls that wait for the device.
        copies: number of copies between devices.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        if not func.is_view and name not in FREE and not name.startswith("prim::") and "promote_types" not in name:
            self.calls[name] += 1
        if name in ("aten::_local_scalar_dense", "aten::nonzero"):
            self.syncs[name] += 1
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and any(
            isinstance(argument, Tensor) and argument.device != result.device for argument in args
        ):
            self.copies += 1
            if result.device.type == "cpu" or not kwargs.get("non_blocking"):
                self.syncs[name] += 1
        return result

    @property
    def total(self) -> int:
        """Return the number of calls."""
        return self.calls.total()


@contextmanager
def like_a_gpu(mode: AbstractContextManager[Any]) -> Iterator[None]:
    """While active, torch takes the kernels of a GPU. With a FakeTensorMode, new tensors have no data."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(input, p, training)[0] if training and p else input

    def agrees(encoder: PackedEncoder) -> bool:
        # The comparison with eager attention needs values.
        encoder._encoder.set_attn_implementation(window_attention.IMPLEMENTATION)
        return True

    saved = varlen_attention._runs_kernels, F.dropout, PackedEncoder._agrees_with_eager
    varlen_attention._runs_kernels = lambda tensor: tensor.dtype == torch.bfloat16
    F.dropout, PackedEncoder._agrees_with_eager = dropout, agrees  # type: ignore[method-assign,assignment]
    try:
        with mode:
            yield
    finally:
        varlen_attention._runs_kernels, F.dropout, PackedEncoder._agrees_with_eager = saved  # type: ignore[method-assign]


def empty(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with tensors of the same shapes."""
    return {
        name: torch.empty(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def count_step(model: nn.Module, loss_of: Callable[[], Tensor]) -> dict[str, int]:
    """Count a training step: its second one, since Adam makes its state in the first."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    counts = {}
    for _ in range(2):
        with CallCounter() as forward, torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        with CallCounter() as backward:
            loss.backward()  # type: ignore[no-untyped-call]
        with CallCounter() as update:
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
        counts = {"forward": forward.total, "backward": backward.total, "update": update.total}
        counts["syncs"] = sum(sum(counter.syncs.values()) for counter in (forward, backward, update))
    return counts


def encoder(layers: int = 24, width: int = 1024) -> PreTrainedModel:
    """Return RoBERTa-large, or a narrower encoder with as many layers."""
    config = RobertaConfig(
        vocab_size=50_265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=16,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
        attention_probs_dropout_prob=0.0,
    )
    return AutoModel.from_config(config)


def count_rcp() -> dict[str, dict[str, int]]:
    """Count a step of RCP with four documents, and that of the published structure."""
    documents = [make_document(length, ENTITIES) for length in DOCUMENTS]
    pairs = len(documents) * ENTITIES * (ENTITIES - 1)
    mode = FakeTensorMode()
    with like_a_gpu(mode):
        model = RelationCandidateModel(encoder()).train()
    batch = model.collate(documents)
    with like_a_gpu(mode):
        batch, targets = empty(batch), torch.empty(pairs)
        counts = {"rcp": count_step(model, lambda: binary_cross_entropy(model(batch), targets, RcpTraining()))}
    published = PublishedModel(encoder(width=64)).train()
    given, labels = published_batch(documents, 1), torch.zeros(pairs, 2)
    with like_a_gpu(nullcontext()):
        counts["published"] = count_step(published, lambda: published_loss(published(given), labels))
    return counts


def without_data(model: nn.Module) -> nn.Module:
    """Replace the parameters and buffers of a model on the meta device by tensors of the active mode."""
    for module in model.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None:
                made = torch.empty(value.shape, dtype=value.dtype)
                if isinstance(value, nn.Parameter):
                    module._parameters[name] = nn.Parameter(made, requires_grad=value.requires_grad)
                else:
                    module._buffers[name] = made
    return model


def llama(attention: str) -> nn.Module:
    """Return LLaMA2-13B on the meta device, in bf16 with the adapter of the paper and gradient checkpointing."""
    config = LlamaConfig(
        hidden_size=5120,
        intermediate_size=13_824,
        num_hidden_layers=40,
        num_attention_heads=40,
        max_position_embeddings=4096,
        use_cache=False,
    )
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
        base.activation_checkpointing_enable({"use_reentrant": False})
        model: nn.Module = add_adapter(base, LoraOptions(), "LLaMA2-13B", seed=1)
        return model.train()


def count_rc() -> dict[str, dict[str, int]]:
    """Count a step of RC with one query, and one of transformers with the same text."""
    batch = collate([Example(torch.zeros(QUERY, dtype=torch.int32), QUERY - ANSWER)])
    packed, separate = llama(packed_attention.IMPLEMENTATION), llama("sdpa")
    with like_a_gpu(FakeTensorMode()):
        model, plain = without_data(packed), without_data(separate)
        ours = empty(dict(batch))

        def loss() -> Tensor:
            logits = packed_attention.packed_forward(
                model, ours["input_ids"], ours["positions"], ours["layout"], ours["logit_positions"]
            )
            return F.cross_entropy(logits.float(), ours["targets"], reduction="sum")

        counts = {"rc": count_step(model, loss)}

        def plain_loss() -> Tensor:
            output = plain(input_ids=ours["input_ids"][None], logits_to_keep=ANSWER + 1)
            return F.cross_entropy(output.logits[0, :-1].float(), ours["targets"], reduction="sum")

        counts["transformers"] = count_step(plain, plain_loss)
    return counts


SECTIONS: dict[str, Callable[[], dict[str, dict[str, int]]]] = {"rcp": count_rcp, "rc": count_rc}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS, "decoding"], default=[*SECTIONS, "decoding"])
    parser.add_argument("--json", type=Path, help="file for the counts of the steps")
    options = parser.parse_args(arguments)
    figures: dict[str, dict[str, int]] = {}
    for section in (name for name in SECTIONS if name in options.only):
        for name, counts in SECTIONS[section]().items():
            figures[name] = counts
            total = counts["forward"] + counts["backward"]
            print(
                f"{name}: {total} calls (forward {counts['forward']}, backward {counts['backward']}); clipping and "
                f"AdamW {counts['update']}; {counts['syncs']} host syncs",
                flush=True,
            )
    if "decoding" in options.only:
        # Here, because that module uses the counter of this one.
        from decoding import report

        from lmrc.rc.model.lora import load_tokenizer

        for line in report(load_tokenizer("embedded:smollm2")):
            print(line, flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
