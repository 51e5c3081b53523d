from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import RcpConfig
from lmrc.launcher.batch import resolve_batch_size, with_recorded_batch_size
from lmrc.runs.run_folder import RunFolder


def config_in(folder: Path, **train: object) -> RcpConfig:
    return RcpConfig.model_validate({"run": {"name": "one", "folder": folder}, "train": train})


def size(config: RcpConfig, processes: int) -> int:
    return resolve_batch_size(config, processes).train.examples_per_step


def begin(config: RcpConfig) -> RunFolder:
    run = RunFolder.of(config.run)
    run.prepare(config)
    (run.path / "checkpoints").mkdir()
    return run


@pytest.mark.parametrize(("processes", "expected"), [(1, 4), (4, 4), (8, 8), (16, 16)])
def test_batch_size_is_at_least_one_per_gpu(tmp_path: Path, processes: int, expected: int) -> None:
    assert size(config_in(tmp_path), processes) == expected


def test_batch_sentence(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert (
        resolve_batch_size(config, 4).train.batch_sentence == "4 examples per optimizer step, as train.batch_size says"
    )
    message = resolve_batch_size(config, 8).train.batch_sentence
    assert message.startswith("8 examples per optimizer step, more than train.batch_size 4, so that each GPU has one")
    assert message.endswith("no longer the paper's batch")
    own = resolve_batch_size(config_in(tmp_path, batch_size=6), 8)
    assert own.train.batch_sentence.endswith(
        "more than train.batch_size 6, so that each GPU has one: no longer that batch"
    )


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_a_resume_keeps_the_number(tmp_path: Path, processes: int) -> None:
    begin(resolve_batch_size(config_in(tmp_path), 8))
    again = resolve_batch_size(config_in(tmp_path), processes)
    assert again.train.examples_per_step == 8
    RunFolder.of(again.run).check(again)


def test_more_gpus_than_examples_are_refused(tmp_path: Path) -> None:
    begin(resolve_batch_size(config_in(tmp_path), 4))
    with pytest.raises(ConfigError, match=r"begun with 4 .* 8 GPUs .* --gpus 4 or fewer, or .* another --run name"):
        resolve_batch_size(config_in(tmp_path), 8)
    with pytest.raises(ConfigError, match=r"size is 4, .* --gpus 4 or fewer, or --train.global-batch-size"):
        resolve_batch_size(config_in(tmp_path / "new", global_batch_size=4), 8)


def test_batch_size_of_a_run_that_never_began(tmp_path: Path) -> None:
    first = resolve_batch_size(config_in(tmp_path), 8)
    RunFolder.of(first.run).prepare(first)
    assert size(config_in(tmp_path), 2) == 4


def test_another_batch_size_is_another_config(tmp_path: Path) -> None:
    run = begin(resolve_batch_size(config_in(tmp_path), 8))
    with pytest.raises(RunError, match=r"train\.global_batch_size \(was 8, now 16\)"):
        run.check(resolve_batch_size(config_in(tmp_path, global_batch_size=16), 8))


def test_run_without_recorded_global_batch_size(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run = begin(config)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("  global_batch_size: null\n", ""))
    assert "global_batch_size" not in (run.path / "config.yaml").read_text()
    run.check(resolve_batch_size(config, 1))
    with pytest.raises(ConfigError, match="begun with 4"):
        resolve_batch_size(config, 8)


def test_finished_run_is_compared_with_its_recorded_batch(tmp_path: Path) -> None:
    run = begin(resolve_batch_size(config_in(tmp_path), 8))
    run.check(with_recorded_batch_size(config_in(tmp_path)))
    with pytest.raises(RunError, match=r"train\.epochs"):
        run.check(with_recorded_batch_size(config_in(tmp_path, epochs=3)))


def test_config_yaml_begins_with_the_batch_sentence(tmp_path: Path) -> None:
    config = resolve_batch_size(config_in(tmp_path), 8)
    run = RunFolder.of(config.run)
    run.prepare(config, config.train.batch_sentence)
    first = (run.path / "config.yaml").read_text().splitlines()[0]
    assert first == f"# {config.train.batch_sentence}"
