"""The README is true: its commands are understood, its files exist, and its tables are the options."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
import pytest

from lmrc.cli.main import lmrc
from lmrc.config import schema as config_module
from lmrc.config.loader import table
from lmrc.launcher import pipeline
from lmrc.launcher.launch import FLAGS, read_config
from lmrc.launcher.stages import STAGES
from tests.conftest import ROOT

PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/*.md")])


def commands() -> list[tuple[str, str]]:
    """Every command after `$ ` in the consoles of all pages, with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            block = block.replace("\\\n", " ")
            found += [(page.name, line[2:].split("   #")[0].strip()) for line in block.splitlines() if line[:2] == "$ "]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_understood(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
    elif program == "lmrc":
        group: click.Command = lmrc
        while isinstance(group, click.Group):
            found = group.get_command(click.Context(group), arguments.pop(0))
            assert found is not None, command
            group = found
        group.make_context("lmrc", arguments)  # parses the options, runs nothing
    elif program == ".":
        assert arguments == [".venv/bin/activate"]
    elif program == "vllm":
        assert arguments[0] == "serve" and "--lora-modules" in arguments
    elif program == "sbatch":
        assert os.access(ROOT / arguments[0], os.X_OK)
    elif program == "python" and arguments[0] == "launch/pipeline.py":
        given = [word for word in arguments[1:] if word not in pipeline.FLAGS]
        config = pipeline.read_pipeline(given)
        if config.group.is_given:
            pipeline.read_group(given, config)
    elif program == "python" and arguments[0].startswith("launch/"):
        assert (ROOT / arguments[0]).is_file()
        read_config(STAGES[Path(arguments[0]).stem], [word for word in arguments[1:] if word not in FLAGS])
    elif program == "python" or program == ".venv-vllm/bin/python":
        assert (ROOT / arguments[0]).is_file()
    elif program in ("apptainer", "docker"):
        assert (ROOT / next(word for word in arguments if word.startswith("containers/"))).is_file()
    elif "/" in program:
        assert os.access(ROOT / program, os.X_OK)
    else:
        pytest.fail(f"{page}: nothing checks the command {command!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / name for name in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    named = re.findall(r"`((?:configs|lmrc|launch|tests|benchmarks|slurm)/[\w./-]*)`", text)
    missing = [path for path in [*linked, *(ROOT / name for name in named)] if not path.exists()]
    assert not missing


def test_option_tables_are_the_options() -> None:
    page = (ROOT / "docs/options.md").read_text()
    blocks = re.findall(r"<!-- options: (\w+) -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert {name for name, _ in blocks} == {"RcpConfig", "RcConfig", "ProposeConfig", "ClassifyConfig"}
    for name, block in blocks:
        expected = table(getattr(config_module, name))
        assert block == expected, f"renew docs/options.md: lmrc.config.loader.table({name}) is the table now"


def test_consoles_are_found() -> None:
    assert len(commands()) >= 12
