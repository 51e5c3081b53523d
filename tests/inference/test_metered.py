"""The use of the hardware by the workers of an inference."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.exit_codes import Interrupted
from lmrc.inference.metered import MeteredInference
from lmrc.inference.run_worker import work
from lmrc.usage.meter import UseMeter
from lmrc.usage.record import Use, read_use
from tests.inference.squares import OPTIONS, SquaresInference


def metered(folder: Path, inference: SquaresInference) -> MeteredInference:
    return MeteredInference(inference, UseMeter(Use(is_worker=True)), folder)


def test_documents_of_a_worker_and_its_start(tmp_path: Path) -> None:
    inference = metered(tmp_path, SquaresInference(18, tmp_path))
    assert work(tmp_path, inference, OPTIONS) == {"documents": 18}
    inference.close()
    (use,) = read_use(tmp_path)
    assert (use.units, use.is_worker, use.processes) == (18, True, 1)
    assert 0 < use.parts["start"] < use.seconds


def test_an_interrupted_worker_keeps_what_it_did(tmp_path: Path) -> None:
    def stop_at_unit_2(documents: range) -> None:
        if (tmp_path / "computed").read_text().count("\n") == 3:
            raise Interrupted("stop")

    inference = metered(tmp_path, SquaresInference(18, tmp_path, stop_at_unit_2))
    with pytest.raises(Interrupted):
        work(tmp_path, inference, OPTIONS)
    inference.close()
    (use,) = read_use(tmp_path)
    assert 4 <= use.units <= 8


def test_a_worker_without_a_unit_has_only_started(tmp_path: Path) -> None:
    inference = metered(tmp_path, SquaresInference(0, tmp_path))
    inference.close()
    (use,) = read_use(tmp_path)
    assert use.units == 0 and use.work_seconds == pytest.approx(0, abs=0.01)
