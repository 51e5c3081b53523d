"""What several tests lean on."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# torch and transformers make many objects that stay. With Python's own threshold the garbage collector, which visits
# them, took a sixth of the time of 394 tests.
gc.set_threshold(50_000, 20, 20)

# Tests never reach outside this machine: requests to the hub get no answer.
os.environ.setdefault("HF_ENDPOINT", "http://127.0.0.1:9")

# A test that is slow on a busy machine must not fail.
settings.register_profile("lmrc", deadline=None)
settings.load_profile("lmrc")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting the objects of all imported modules again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Order the files for `--dist loadfile` of pytest-xdist, which not every environment of the tests has."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.scheduling import LongestFirst

    return LongestFirst(config, log)


@pytest.fixture(autouse=True)
def log_info() -> Iterator[None]:
    """Let caplog see the lines of rank 0, without what a command of an earlier test or fixture has set up."""
    logger = logging.getLogger("lmrc")
    logger.handlers.clear()
    logger.setLevel(logging.INFO)
    yield
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def epoch_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a checkpoint at the end of every epoch, however short it is."""
    monkeypatch.setattr("lmrc.training.trainer.EPOCH_END_SHARE", 0.0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real documents and vocabularies, where this machine has them beside the project."""
    folder = Path(os.environ.get("LMRC_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data absent: no {folder} (set LMRC_SHARED to the folder that holds data/)")
    return folder
