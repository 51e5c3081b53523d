from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config import aliases
from lmrc.config.aliases import current_name, with_current_names, with_old_names
from lmrc.config.loader import options_of, parse
from lmrc.config.schema import (
    ClassifyConfig,
    DecodeOptions,
    ExtractConfig,
    Options,
    PipelineConfig,
    PromptOptions,
    ProposeConfig,
    RcConfig,
    RcpConfig,
)
from lmrc.rc.model.adapter_metadata import METADATA, AdapterMetadata

SHORT = {"collective-timeout-minutes": "cluster.collective_timeout_minutes"}
CASES: list[tuple[type[Options], str, str, str]] = [
    (RcConfig, "train.none_ratio", "train.negative_ratio", "3"),
    (RcpConfig, "cluster.hang_minutes", "cluster.collective_timeout_minutes", "5"),
    (RcConfig, "prompt.shorten", "prompt.truncate", "sentences"),
    (ProposeConfig, "work.unit_documents", "work.docs_per_unit", "2"),
    (PipelineConfig, "small.hang_minutes", "cpu_job.collective_timeout_minutes", "5"),
    (PipelineConfig, "small.partition", "cpu_job.partition", "cpu"),
    (PipelineConfig, "rc.train.none_ratio", "rc.train.negative_ratio", "3"),
]


@pytest.fixture(autouse=True)
def nothing_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "_announced", set[str]())


def value_of(config: Options, name: str) -> str:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize(("tree", "old", "new", "value"), CASES)
def test_old_names_on_the_command_line(
    tree: type[Options], old: str, new: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    dashed = old.replace("_", "-")
    for spelled in (f"--{old}={value}", f"--{dashed}={value}"):
        config, _ = parse(tree, [spelled], {})
        assert value_of(config, new) == value
    assert caplog.messages[0] == (
        f"--{old} is now called --{new.replace('_', '-')}; the old name is accepted for one more release"
    )


@pytest.mark.parametrize(("tree", "old", "new", "value"), CASES)
def test_old_names_in_a_file(
    tree: type[Options], old: str, new: str, value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(old.split(".")))[:-1] + f" {value}\n"
    )
    for _ in range(2):
        config, _ = parse(tree, ["--config", str(file)], {})
        assert value_of(config, new) == value
    assert caplog.messages == [f"{file}: {old} is now called {new}; the old name is accepted for one more release"]


def test_an_old_short_name(caplog: pytest.LogCaptureFixture) -> None:
    config, _ = parse(RcpConfig, ["--hang-minutes", "5"], SHORT)
    assert config.cluster.collective_timeout_minutes == 5
    assert "--cluster.collective-timeout-minutes" in caplog.text
    caplog.clear()
    parse(RcpConfig, ["--collective-timeout-minutes", "5"], SHORT)
    assert caplog.messages == []


def test_old_and_new_name_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("work: {unit_documents: 2, docs_per_unit: 3}\n")
    with pytest.raises(ConfigError, match=r"gives work\.docs_per_unit twice, in two spellings or by its old name"):
        parse(ProposeConfig, ["--config", str(file)], {})


def test_every_new_name_is_an_option() -> None:
    trees: list[type[Options]] = [PipelineConfig, ExtractConfig, ClassifyConfig]
    known = {name for tree in trees for name, _ in options_of(tree)}
    for old in (*aliases.RENAMED, *aliases.RENAMED_AT_TOP):
        assert any(f"{name}.".startswith(f"{current_name(old)}.") or name.endswith(current_name(old)) for name in known)


def test_only_options_are_renamed() -> None:
    tree = {"documents": {"small": "a.json"}, "small": {"time": 3}, "classify": {"decode": {"min_name_score": 7}}}
    assert with_current_names(tree) == {
        "documents": {"small": "a.json"},
        "cpu_job": {"time": 3},
        "classify": {"decode": {"min_fuzzy_score": 7}},
    }


def test_fingerprints_keep_the_old_names() -> None:
    names = with_old_names("decode", DecodeOptions().model_dump())
    assert "min_name_score" in names and "min_fuzzy_score" not in names and "mode" in names


def test_the_metadata_of_an_older_adapter(tmp_path: Path) -> None:
    metadata = AdapterMetadata(PromptOptions(truncate="sentences"), "fp32", "0" * 64)
    metadata.write(tmp_path)
    file = tmp_path / METADATA
    file.write_text(file.read_text().replace("truncate", "shorten"))
    assert AdapterMetadata.read(tmp_path) == metadata


def test_a_removed_option_is_accepted_in_files_and_refused_on_the_command_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("model: {base: embedded:tiny-llm, attn_implementation: sdpa}\n")
    config, _ = parse(RcConfig, ["--config", str(path)], {})
    assert config.model.base == "embedded:tiny-llm"
    assert caplog.messages[0].startswith(
        f"{path}: model.attn_implementation has no effect any more: attention on a GPU"
    )
    assert with_current_names({"rc": {"model": {"attn_implementation": "sdpa", "base": "x"}}}) == {
        "rc": {"model": {"base": "x"}}
    }
    with pytest.raises(ConfigError, match=r"--model.attn-implementation has no effect any more: .* leave it out"):
        parse(RcConfig, ["--model.attn-implementation", "sdpa"], {})
