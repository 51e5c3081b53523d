"""The documents' figures are what the code says."""

from __future__ import annotations

from lmrc.config.loader import parse
from lmrc.config.schema import RcConfig
from lmrc.launcher.gpu_memory import CARDS, GIB, estimate_memory
from tests.conftest import ROOT


def test_the_memory_table_is_the_estimate() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "memory.md").read_text().splitlines() if " GB |" in line]
    assert len(rows) == 8
    for row in rows:
        stage, _, quantization = row[0].removeprefix("| ").partition(", ")
        given = ["--config", str(ROOT / "configs/rc/redocred-13b.yaml"), "--train.precision", "bf16"]
        given += ["--train.zero_stage", stage, "--train.gradient_checkpointing", str(row[1] == "yes")]
        given += ["--train.batch_size", "8", "--model.quantization", quantization or "none"]
        config, _ = parse(RcConfig, given, {})
        found = estimate_memory(config, 8)
        parts = [
            found.weights,
            found.gradients + found.optimizer,
            found.activations,
            found.outputs,
            found.overhead,
            found.total,
        ]
        assert [f"{part / GIB:.2f}" for part in parts] == [cell.strip("*") for cell in row[2:8]]
        assert row[8].removesuffix(" |") == ", ".join(
            f"{card} GB" for card, room in CARDS.items() if found.total <= room
        )
