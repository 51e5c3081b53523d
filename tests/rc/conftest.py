from __future__ import annotations

from pathlib import Path

import pytest

from tests.rc import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random causal LM with its tokenizer."""
    return tiny.save_base(tmp_path_factory.mktemp("base"))
