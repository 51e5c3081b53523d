"""The documents' figures are what the code says."""

from __future__ import annotations

import configparser
import re

from lmrc.config.loader import parse
from lmrc.config.schema import RcConfig
from lmrc.launcher.gpu_memory import CARDS, GIB, estimate_rc
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
        found = estimate_rc(config, 8)
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


def test_every_extra_that_is_named_exists() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = {*parser["options.extras_require"]}
    named = set()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "lmrc").rglob("*.py")]:
        if path.name != "CHANGELOG.md":
            named |= {*re.findall(r"""(?:lmrc-suite|install -e ["']?\.)\[([\w,]+)\]""", path.read_text())}
    assert {"wandb", "vllm"} <= named <= extras
