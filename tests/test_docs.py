"""The documents' figures are what the code says."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from benchmarks import cadence
from lmrc.config.loader import parse
from lmrc.config.schema import ClassifyConfig, RcConfig, RcpConfig
from lmrc.launcher.gpu_memory import CARDS, GIB, estimate_classify, estimate_memory
from tests.conftest import ROOT


def table(page: Path, start: str) -> list[list[str]]:
    """Return the rows of the table whose header starts like this."""
    text = page.read_text()
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()
    return [line.split(" | ") for line in lines[2:]]


def test_the_memory_table_is_the_estimate() -> None:
    rows = table(ROOT / "docs" / "memory.md", "| ZeRO |")
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


def test_the_memory_of_rcp_is_the_estimate() -> None:
    given = ["--config", str(ROOT / "configs/rcp/redocred.yaml"), "--train.precision", "bf16"]
    found = estimate_memory(parse(RcpConfig, given, {})[0], 1)
    text = " ".join((ROOT / "docs" / "memory.md").read_text().split())
    state = found.gradients + found.optimizer
    assert f"{found.trained_parameters:,} parameters trained" in text
    assert f"{found.weights / GIB:.2f} GiB of weights, {state / GIB:.2f} of gradients and moments" in text
    assert f"{found.activations / GIB:.2f} of activations" in text and f"{found.outputs / GIB:.2f} of pairs" in text
    assert f"{found.overhead / GIB:.2f} of overhead, **{found.total / GIB:.2f} GiB** in all" in text


def test_the_decoding_table_is_the_estimate() -> None:
    rows = table(ROOT / "docs" / "memory.md", "| `--decode.batch_size` |")
    assert len(rows) == 3
    for row in rows:
        llama = {"rc": None, "base": "meta-llama/Llama-2-13b-chat-hf"}
        decode = {"batch_size": int(row[0].removeprefix("| "))}
        found = estimate_classify(ClassifyConfig.model_validate({**llama, "decode": decode}))
        parts = [found.weights, found.kv_cache, found.activations, found.overhead, found.total]
        assert [f"{part / GIB:.2f}" for part in parts] == [cell.strip("*") for cell in row[1:6]]
        fits = [f"{card} GB" for card, room in CARDS.items() if found.total <= room]
        assert row[6].removesuffix(" |") == (", ".join(fits) or "neither")


def test_the_cadence_table_is_computed() -> None:
    rows = table(ROOT / "docs" / "training.md", "| | DocRED | Re-DocRED |")
    config, _ = parse(RcpConfig, ["--config", str(ROOT / "configs/rcp/redocred.yaml")], {})
    before, steps, epochs, always = cadence.cadences_of(config.train.micro_batch_size)
    for row, kind in zip(rows, (epochs, always, steps, before), strict=True):
        found = [
            100 * cadence.shares(config, corpus, kind, cadence.FIGURES).overhead for corpus in ("docred", "redocred")
        ]
        assert [f"{share:.1f} %" for share in found] == [row[1], row[2].removesuffix(" |")]


def test_less_than_a_tenth_of_a_training_goes_to_evaluations_and_checkpoints() -> None:
    for path in (ROOT / "configs" / "rcp").glob("*.yaml"):
        config, _ = parse(RcpConfig, ["--config", str(path)], {})
        assert config.train.eval_every == 0
    each_epoch = cadence.cadences_of(config.train.micro_batch_size)[2]
    for corpus in cadence.CORPORA:
        assert cadence.shares(config, corpus, each_epoch, cadence.FIGURES).overhead < 0.1


def test_every_extra_that_is_named_exists() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = {*parser["options.extras_require"]}
    named = set()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "lmrc").rglob("*.py")]:
        if path.name != "CHANGELOG.md":
            named |= {*re.findall(r"""(?:lmrc-suite|install -e ["']?\.)\[([\w,]+)\]""", path.read_text())}
    assert {"wandb", "vllm"} <= named <= extras
