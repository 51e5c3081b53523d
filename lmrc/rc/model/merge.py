"""Merging of an adapter into its base: a causal LM for any program that loads a transformers folder, such as vLLM."""

from __future__ import annotations

import errno
import shutil
import uuid
from pathlib import Path

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lmrc.common.atomic_io import fsync
from lmrc.common.errors import UserError
from lmrc.config.schema import ResolvedPrecision
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import METADATA
from lmrc.rc.model.lora import DTYPES, load_adapter, load_base, load_tokenizer


def merge(adapter: Path, out: Path, precision: ResolvedPrecision) -> int:
    """Write a folder with the merged weights, the tokenizer, a greedy generation config and the adapter's metadata.

    The weights are added in fp32 and rounded to `precision` once. This needs 4 bytes of memory per weight, 52 GB for
    13 billion. If it fails, `out` is not created.

    Returns:
        The number of weights.

    Raises:
        UserError: if there is no such adapter, its base cannot be loaded or does not fit, or `out` exists or cannot be
            written.
    """
    target = out.absolute()
    if target.exists():
        raise _already_exists(out)
    base = adapter_base(adapter)
    tokenizer = load_tokenizer(str(adapter))
    model = _merged(base, adapter).to(DTYPES[precision])
    model.generation_config = _greedy(tokenizer)
    temporary = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        model.save_pretrained(temporary, max_shard_size="5GB")
        tokenizer.save_pretrained(temporary)
        if (adapter / METADATA).is_file():
            shutil.copyfile(adapter / METADATA, temporary / METADATA)
        for path in temporary.iterdir():
            # safetensors writes files that only their owner can read.
            path.chmod((temporary / "config.json").stat().st_mode)
            fsync(path)
        fsync(temporary)
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _already_exists(out) from None
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return int(model.num_parameters())


def _merged(base: str, adapter: Path) -> PreTrainedModel:
    adapted = load_adapter(load_base(base, "sdpa", "fp32"), adapter)
    try:
        return merge_weights(adapted)
    except ValueError as error:
        raise UserError(f"{adapter} cannot be added to {base}: {error}") from error


def merge_weights(adapted: PeftModel) -> PreTrainedModel:
    """Add an adapter to the weights of its base, in place, and return the base without PEFT.

    Raises:
        ValueError: if a merged weight is not finite.
    """
    plain = adapted.get_base_model()
    head = plain.get_output_embeddings()
    if isinstance(head, LoraLayer) and plain.config.tie_word_embeddings:
        # Untie them, so that the adapter of the LM head does not change the input embeddings.
        plain.config.tie_word_embeddings = False
        layer = head.get_base_layer()
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


def _greedy(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return a greedy generation config, to replace that of the base (temperature, end tokens of a chat)."""
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _already_exists(out: Path) -> UserError:
    return UserError(f"{out}: exists already; remove it or choose another folder")
