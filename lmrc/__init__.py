"""LMRC suite: document-level relation extraction with a candidate classifier and an LLM (arXiv 2408.13889).

The names in `__all__` are the Python API (docs/python.md). They are imported on first use, so that `import lmrc` is
quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmrc.api import CandidateModel, RelationExtractor, score, train
    from lmrc.corpus.corpus import Corpus

__all__ = ["CandidateModel", "Corpus", "RelationExtractor", "score", "train"]

_MODULES = {
    "CandidateModel": "lmrc.api",
    "Corpus": "lmrc.corpus.corpus",
    "RelationExtractor": "lmrc.api",
    "score": "lmrc.api",
    "train": "lmrc.api",
}


def __getattr__(name: str) -> Any:
    """Import a name of the API on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
