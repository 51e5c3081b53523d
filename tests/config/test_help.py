from __future__ import annotations

import re

import pytest

from lmrc.config.help import COMMON, EXAMPLES, options_help
from lmrc.config.loader import options_of, parse
from lmrc.config.schema import DemoConfig, Options, PipelineConfig, RcpConfig
from lmrc.config.unused import is_among, without_effect
from tests.conftest import ROOT


@pytest.mark.parametrize("tree", EXAMPLES)
def test_help_all_describes_every_option(tree: type[Options]) -> None:
    shown = options_help(tree, is_complete=True)
    for name, field in options_of(tree):
        assert re.search(rf"^  --{re.escape(name)} +{re.escape(field.description or '')} \[", shown, re.MULTILINE)
    assert "--help-all" not in shown


@pytest.mark.parametrize("tree", EXAMPLES)
def test_help_is_short_and_names_no_option_without_effect(tree: type[Options]) -> None:
    shown = options_help(tree).splitlines()
    names = [line.split()[0].removeprefix("--") for line in shown if line.startswith("  --")]
    assert 5 < len(shown) < 60
    count = len(list(options_of(tree)))
    assert shown[-1] == f"These are {len(names)} of {count} options; --help-all lists all."
    if tree in (DemoConfig, PipelineConfig):
        unread = {name: why for name, why in without_effect(tree()).items() if "sets it" in why}
        assert not [name for name in names if is_among(name, unread)]


def test_common_options_exist() -> None:
    assert {name for tree in EXAMPLES for name, _ in options_of(tree)} >= COMMON


def test_sections_stand_apart() -> None:
    lines = options_help(RcpConfig).splitlines()
    sections = [line.split(".")[0].strip() if line else "" for line in lines[: lines.index("Examples:")]]
    runs = [name for name, before in zip(sections, ["", *sections], strict=False) if name and name != before]
    assert runs == ["--run", "--data", "--model", "--train", "--cluster"]


def test_defaults_of_a_config_are_shown() -> None:
    config, _ = parse(DemoConfig, ["--config", str(ROOT / "configs/demo.yaml")], {})
    shown = options_help(DemoConfig, defaults=config)
    assert re.search(r"--rcp\.model\.encoder .*\[embedded:minilm\]", shown)
    assert "roberta-large" not in shown
