"""Registry of decoding backends. A new backend needs a module, an entry in BACKENDS and a value of `decode.backend`."""

from __future__ import annotations

from collections.abc import Callable

from lmrc.rc.decoding.base import BackendInputs, DecodingBackend
from lmrc.rc.decoding.hf_backend import LocalBackend
from lmrc.rc.decoding.openai.backend import OpenAiBackend
from lmrc.rc.decoding.vllm_backend import VllmBackend

# Constructors by the value of `decode.backend`.
BACKENDS: dict[str, Callable[[BackendInputs], DecodingBackend]] = {
    "hf": LocalBackend.create,
    "vllm": VllmBackend,
    "openai": OpenAiBackend,
}


def create_backend(inputs: BackendInputs) -> DecodingBackend:
    """Create the backend that `decode.backend` names. Models are loaded later, by `DecodingBackend.load`."""
    return BACKENDS[inputs.config.decode.backend](inputs)
