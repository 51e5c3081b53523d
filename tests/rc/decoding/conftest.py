from __future__ import annotations

from collections.abc import Iterator

import pytest

from lmrc.rc.decoding import vllm_engine
from lmrc.rc.decoding.vllm_engine import VllmEngine
from lmrc.rc.model.adapter import adapter_base
from tests.rc.conftest import Learnt


@pytest.fixture(scope="session")
def engine(learnt_wide: Learnt) -> Iterator[VllmEngine]:
    """Start real vLLM with an adapter, for all tests that need it: a start takes up to a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vllm_engine._CPU_OPTIONS, "kv_cache_memory_bytes", 2**26)
        started = VllmEngine(adapter_base(learnt_wide.adapter), learnt_wide.adapter, "fp32", 4096)
    yield started
    started.close()
