"""Model folders of transformers: written whole by any rank, and read only if the weights fit the config."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from lmrc.common.errors import UserError
from lmrc.training.distributed import say

# RCP and the sentence encoder do not read the pooled first token, and many checkpoints do not have its layer.
POOLER = re.compile(r"^pooler\.")
# Buffers, not weights: older checkpoints hold them, transformers computes them.
_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|rotary_emb\.inv_freq|masked_bias|attn\.bias|attention\.bias)$"
)
_NOTHING = re.compile(r"(?!)")
_REMEDY = "give a folder whose weights are those of its config.json"


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the config and the weights of `model` into `folder`, whatever rank this process has.

    transformers' own `save_pretrained` writes nothing if the process is not the first of its process group.
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
    """Load a model and check that its file holds every weight.

    Weights of heads that the model does not have are not used, and counted in one line.

    Args:
        factory: AutoModel, or another class with `from_pretrained`.
        source: a folder, or a name on the hub.
        name: what messages call the model.
        optional: matches the names of weights that may be missing.
        options: those of `from_pretrained`.

    Raises:
        UserError: if a weight is missing, has another shape than the model's, or is of a part that the model should
            have but has not, such as a thirteenth layer.
        OSError, ValueError: if there is no such model.
    """
    with _without_report():
        try:
            model, info = factory.from_pretrained(
                source, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except SafetensorError as error:
            # Not in the pre-flight: the weights are read at the start; the pre-flight compares their names.
            raise UserError(f"{name}: its weights are damaged ({error}): fetch or copy them again") from error
        except RuntimeError as error:
            # Under ZeRO-3 the rank that reads the file compares shapes, and raises this.
            line = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
            if line is None:
                raise
            # Not in the pre-flight: the weights are read at the start; the pre-flight compares their names.
            raise UserError(f"{name}: {line}; {_REMEDY}") from error
    # A tied weight is never in the file. The weight that it is tied to is checked itself.
    missing = {key for key in info["missing_keys"] if not optional.search(key)} - model.all_tied_weights_keys.keys()
    unknown = {key for key in info["unexpected_keys"] if not _BUFFERS.search(key)}
    # A quantized file holds scales beside the weights.
    inside = set() if getattr(model, "hf_quantizer", None) is not None else _inside(model, unknown)
    problems = [
        _listed(missing, "missing"),
        _listed(inside, "in the file but not in the model"),
        _listed({key for key, *_ in info["mismatched_keys"]}, "of another shape"),
    ]
    if any(problems):
        # Not in the pre-flight: the weights are read at the start; the pre-flight compares their names.
        raise UserError(
            f"{name}: the weights do not fit {type(model).__name__}, as config.json has it: of "
            f"{len(model.state_dict())} tensors {'; '.join(problem for problem in problems if problem)}. These would "
            f"be random or left out: {_REMEDY}"
        )
    if unknown:
        heads = ", ".join(sorted({key.split(".")[0] for key in unknown}))
        say(f"{name}: {len(unknown)} tensors of its file are not used, they belong to other heads ({heads})")
    return model


def check_names(folder: Path, model: PreTrainedModel, name: str) -> None:
    """Check, without reading any weight, that a folder's safetensors files hold weights of `model`.

    It tells another architecture's weights, or those under other names. Single weights are compared when the model is
    loaded. Folders without safetensors files are not looked at.

    Args:
        model: the model, which may be on the meta device.
        name: what the message calls it.

    Raises:
        UserError: if none of the model's weights is there under its name, or a file is damaged.
    """
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                found |= set(file.keys())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{name}: {path} is damaged ({error}): fetch or copy it again") from error
    if not found:
        return
    prefix = model.base_model_prefix
    # Checkpoints of whole models have the prefix, those of encoders alone have not; a trained RCP's is "encoder".
    inner = {key.removeprefix(f"{prefix}.") for key in model.state_dict()}
    there = {key.removeprefix("encoder.").removeprefix(f"{prefix}.") for key in found} | found
    if inner.isdisjoint(there):
        raise UserError(
            f"{name}: none of the {len(inner)} weights of {type(model).__name__} is in its files, which hold "
            f"{sorted(found)[0]} and {len(found) - 1} others: {_REMEDY}"
        )


def _inside(model: PreTrainedModel, names: Collection[str]) -> set[str]:
    """Return the `names` that lie in a module which the model has; all others belong to heads."""
    prefix = model.base_model_prefix
    inner = getattr(model, prefix, model) if prefix else model
    parts = {part for module in (model, inner) for part, _ in module.named_children()}
    return {name for name in names if name.removeprefix(f"{prefix}.").split(".")[0] in parts}


def _listed(names: Collection[str], what: str) -> str:
    return f"{len(names)} are {what} ({sorted(names)[0]}{', …' if len(names) > 1 else ''})" if names else ""


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers' LOAD REPORT, a line a weight, off the screen: one sentence says the same."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
