"""Model folders of transformers: save from any rank, and load only if the weights fit the config."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from lmrc.common.errors import UserError
from lmrc.pretrained.staging import staged

logger = logging.getLogger(__name__)

# On Hopper and Blackwell torch prefers the attention of cuDNN, which makes and keeps a plan for each new shape.
# Lengths of texts rarely repeat, so a call would take up to 40 times as long. The variable is for child processes, too.
os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
torch.backends.cuda.enable_cudnn_sdp(False)

# The pooler may be missing: many checkpoints lack it, and neither RCP nor the sentence encoder uses it.
POOLER = re.compile(r"^pooler\.")
# Buffers that older checkpoints store and transformers computes.
_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|rotary_emb\.inv_freq|masked_bias|attn\.bias|attention\.bias)$"
)
# Matches no name.
_NOTHING = re.compile(r"(?!)")
_REMEDY = "give a folder whose weights match its config.json"


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the config and the weights of `model` into `folder`, on any rank.

    `save_pretrained` of transformers writes weights on rank 0 only.
    """
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    save_torch_state_dict(weights, folder)


def load_model(
    factory: Any, source: str, name: str, optional: re.Pattern[str] = _NOTHING, **options: Any
) -> PreTrainedModel:
    """Load a model and check that its files hold every weight.

    Weights of other heads are ignored, with a message that counts them.

    Args:
        factory: AutoModel, or another class with `from_pretrained`.
        source: a folder, or a name on the hub.
        name: name of the model in messages.
        optional: matches the names of weights that may be missing.
        options: further arguments of `from_pretrained`.

    Raises:
        UserError: a weight is missing, has a different shape, or belongs to a layer that config.json lacks.
        OSError, ValueError: there is no such model.
    """
    folder = staged(source)
    with _without_report():
        try:
            model, info = factory.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except SafetensorError as error:
            # Not in the pre-flight: the weights are read at the start; the pre-flight compares names and shapes.
            raise UserError(f"{name}: its weights are damaged ({error}): fetch or copy them again") from error
        except RuntimeError as error:
            # Under ZeRO-3, a shape mismatch raises RuntimeError on the rank that reads the file.
            line = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
            if line is None:
                raise
            # Not in the pre-flight: the weights are read at the start; the pre-flight compares names and shapes.
            raise UserError(f"{name}: {line}; {_REMEDY}") from error
    if folder != source:
        # A copy on the node must not become the name of the model in what is saved later.
        model.name_or_path = model.config.name_or_path = source
    # Tied weights are never in the file; the weight that they are tied to is checked.
    missing = {key for key in info["missing_keys"] if not optional.search(key)} - model.all_tied_weights_keys.keys()
    unknown = {key for key in info["unexpected_keys"] if not _BUFFERS.search(key)}
    # A quantized file holds scales beside the weights.
    superfluous = set() if getattr(model, "hf_quantizer", None) is not None else _not_of_heads(model, unknown)
    problems = [
        _describe(missing, "missing"),
        _describe(superfluous, "in the file but not in the model"),
        _describe({key for key, *_ in info["mismatched_keys"]}, "of another shape"),
    ]
    if any(problems):
        # Not in the pre-flight: the weights are read at the start; the pre-flight compares names and shapes.
        raise UserError(
            f"{name}: the weights do not fit {type(model).__name__} as in config.json: of {len(model.state_dict())} "
            f"tensors {'; '.join(problem for problem in problems if problem)}. These would be random or left out: "
            f"{_REMEDY}"
        )
    if unknown:
        heads = ", ".join(sorted({key.split(".")[0] for key in unknown}))
        logger.info(f"{name}: {len(unknown)} tensors of its file are not used, they belong to other heads ({heads})")
    return model


def check_headers(folder: Path, model: PreTrainedModel, name: str) -> None:
    """Check that a folder's safetensors files hold weights of `model` in their shapes, without reading any weight.

    This detects weights of another architecture or size, or under other names. `load_model` also finds single weights
    that are missing: transformers renames some while it loads. A folder without safetensors files passes.

    Args:
        folder: the model folder.
        model: the model, which may be on the meta device.
        name: name of the model in messages.

    Raises:
        UserError: no weight of the model is in the files, one has another shape, or a file is damaged.
    """
    stored: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                stored |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{name}: {path} is damaged ({error}): fetch or copy it again") from error
    if not stored:
        return
    prefix = model.base_model_prefix
    # Models with a head store names with a prefix, base models without. The prefix of a trained RCP is "encoder".
    expected = {key.removeprefix(f"{prefix}.") for key in model.state_dict()}
    available = stored | {key.removeprefix("encoder.").removeprefix(f"{prefix}."): stored[key] for key in stored}
    if expected.isdisjoint(available):
        raise UserError(
            f"{name}: none of the {len(expected)} weights of {type(model).__name__} is in its files, which hold "
            f"{sorted(stored)[0]} and {len(stored) - 1} others: {_REMEDY}"
        )
    if getattr(model.config, "quantization_config", None) is not None:
        return  # quantized weights are packed into other shapes
    shapes = {key.removeprefix(f"{prefix}."): tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    other = {key for key in shapes.keys() & available.keys() if shapes[key] != available[key]}
    if other:
        first = sorted(other)[0]
        raise UserError(
            f"{name}: of the {len(shapes)} weights of {type(model).__name__} as in config.json {len(other)} have "
            f"another shape in its files, such as {first} with {list(available[first])}, expected "
            f"{list(shapes[first])}: {_REMEDY}"
        )


def _not_of_heads(model: PreTrainedModel, names: Collection[str]) -> set[str]:
    """Return the names of weights that belong to a module of the model; all others belong to heads."""
    prefix = model.base_model_prefix
    base = getattr(model, prefix, model) if prefix else model
    children = {child for module in (model, base) for child, _ in module.named_children()}
    return {name for name in names if name.removeprefix(f"{prefix}.").split(".")[0] in children}


def _describe(names: Collection[str], fault: str) -> str:
    return f"{len(names)} are {fault} ({sorted(names)[0]}{', …' if len(names) > 1 else ''})" if names else ""


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Suppress transformers' LOAD REPORT, which has one line per weight. `load_model` says the same in one line."""

    def is_not_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    transformers_logger = logging.getLogger("transformers.modeling_utils")
    transformers_logger.addFilter(is_not_report)
    try:
        yield
    finally:
        transformers_logger.removeFilter(is_not_report)
