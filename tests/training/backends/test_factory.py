from __future__ import annotations

import sys

import pytest

from lmrc.config.schema import Training
from lmrc.training.backends.factory import make_backend
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.distributed import ALONE
from tests.training.toy import ToyTask

OPTIONS = Training(precision="fp32")


def test_without_deepspeed_plain_torch_runs_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lmrc.training.backends.deepspeed_zero", None)  # its import fails
    backend = make_backend(ToyTask(), OPTIONS, ALONE, 1)
    assert isinstance(backend, TorchDdpBackend)
    (said,) = caplog.messages
    assert said.startswith("DeepSpeed does not run here (")
    assert said.endswith("plain torch, without ZeRO.")


def test_deepspeed_that_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmrc.training.backends.deepspeed_zero", None)
    with pytest.raises(ImportError):
        make_backend(ToyTask(), OPTIONS.model_copy(update={"backend": "deepspeed"}), ALONE, 1)
