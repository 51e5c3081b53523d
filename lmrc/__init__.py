"""LMRC suite: document-level relation extraction with a candidate classifier and an LLM (arXiv 2408.13889)."""

__version__ = "0.1.0"
