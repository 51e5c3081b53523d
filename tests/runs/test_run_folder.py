from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.common.environment import user_name
from lmrc.common.errors import RunError
from lmrc.config.schema import (
    BuildConfig,
    ClassifyConfig,
    ClusterOptions,
    DemoConfig,
    FewShotOptions,
    Options,
    ProposeConfig,
    RcModelOptions,
    RcpConfig,
    RunOptions,
    ScoreConfig,
    WorkOptions,
)
from lmrc.runs.events import History
from lmrc.runs.run_folder import RunFolder, read_config, resolved


def config(folder: Path, **changes: Any) -> RcpConfig:
    return RcpConfig(run=RunOptions(name="one", folder=folder)).model_copy(update=changes)


def test_a_new_run_records_its_config_and_environment(tmp_path: Path) -> None:
    run = RunFolder.of(config(tmp_path).run)
    assert run.path == tmp_path / "one"
    assert run.prepare(config(tmp_path)) is False
    written = RcpConfig.model_validate(yaml.safe_load((run.path / "config.yaml").read_text()))
    assert written.model_copy(update={"data": RcpConfig().data}) == config(tmp_path)
    assert written.data.train == Path.cwd() / "data/docred/train"
    assert "python" in json.loads((run.path / "environment.json").read_text())
    run.checkpoints.mkdir()
    assert run.prepare(config(tmp_path)) is True


def test_a_run_without_results_may_start_with_another_config(tmp_path: Path) -> None:
    first = config(tmp_path)
    RunFolder.of(first.run).prepare(first)
    other = first.model_copy(update={"train": first.train.model_copy(update={"epochs": 3})})
    assert RunFolder.of(first.run).prepare(other) is False
    assert "epochs: 3" in (tmp_path / "one" / "config.yaml").read_text()


OTHER = 987654


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    """Return a run that this user has begun."""
    run = RunFolder.of(config(tmp_path).run)
    run.prepare(config(tmp_path))
    run.checkpoints.mkdir()
    return run


def test_a_run_of_another_user_is_refused(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = user_name()
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    with pytest.raises(RunError, match=rf"one was begun by {owner}, and you are user {OTHER}: ask {owner} to resume"):
        begun.prepare(config(begun.path.parent))
    shutil.rmtree(begun.checkpoints)  # also before its first result
    with pytest.raises(RunError, match="was begun by"):
        begun.prepare(config(begun.path.parent))


def test_a_user_is_known_by_name_or_number(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(name: str) -> None:
        (begun.path / "environment.json").write_text(json.dumps({"user": name}))

    record("alice")  # in a container, whose users have other names
    assert begun.prepare(config(begun.path.parent))
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)  # an NFS server that names another owner
    record(f"user {OTHER}")
    assert begun.prepare(config(begun.path.parent))


def test_a_run_without_a_recorded_user(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = user_name()
    (begun.path / "environment.json").write_text("{}")
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert begun.prepare(config(begun.path.parent))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match=f"was begun by {owner}"):
        begun.prepare(config(begun.path.parent))


def test_a_folder_that_cannot_be_read(begun: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, **named: Any) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        with pytest.raises(RunError, match=r"cannot be read \(Permission denied\): it is another user's"):
            begun.check_owner()


@pytest.mark.parametrize(("readable", "modes"), [(True, (0o750, 0o640)), (False, (0o700, 0o600))])
def test_the_group_may_read_a_run(tmp_path: Path, readable: bool, modes: tuple[int, int]) -> None:
    before = os.umask(0o077)
    try:
        options = config(tmp_path / "runs", cluster=ClusterOptions(group_readable=readable))
        run = RunFolder.of(options.run)
        run.prepare(options)
        run.finish({})
        History(run.path).add("finished")
    finally:
        os.umask(before)
    for folder in (run.path.parent, run.path, run.path / "log"):
        assert folder.stat().st_mode & 0o777 == modes[0]
    for name in ("config.yaml", "environment.json", "DONE", "log/history.jsonl"):
        assert (run.path / name).stat().st_mode & 0o777 == modes[1]


def test_another_config_is_refused(tmp_path: Path) -> None:
    first = config(tmp_path)
    run = RunFolder.of(first.run)
    run.prepare(first)
    run.checkpoints.mkdir()
    other = first.model_copy(update={"train": first.train.model_copy(update={"epochs": 3, "learning_rate": 1e-3})})
    with pytest.raises(
        RunError, match=r"train\.epochs \(was 30, now 3\); train\.learning_rate \(was 3e-05, now 0.001\)"
    ):
        RunFolder.of(first.run).prepare(other)


def test_cluster_options_may_change(tmp_path: Path) -> None:
    first = config(tmp_path)
    run = RunFolder.of(first.run)
    run.prepare(first)
    run.checkpoints.mkdir()
    moved = first.model_copy(
        update={
            "run": first.run.model_copy(update={"verbose": True}),
            "cluster": ClusterOptions(nodes=2, gpus=16),
            "train": first.train.model_copy(update={"zero_stage": 3, "micro_batch_size": 1, "checkpoint_minutes": 1.0}),
        }
    )
    assert RunFolder.of(first.run).prepare(moved) is True


def test_done_holds_the_result(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.result() is None
    assert run.finish({"best": 1.5})
    assert run.result() == {"best": 1.5}
    # Two workers may find the merged result at the same time. The first one has finished the run.
    assert not run.finish({"best": 2.5})
    assert run.result() == {"best": 1.5}


def make_started_run(config: Options) -> RunFolder:
    """Return a run of this config that can be resumed."""
    run = RunFolder.of(config.run)  # type: ignore[attr-defined]
    run.prepare(config)
    run.checkpoints.mkdir()
    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with data and a run that have relative paths."""
    home = tmp_path / "home"
    (home / "data/test").mkdir(parents=True)
    monkeypatch.chdir(home)
    make_started_run(PROPOSE)
    return home


PROPOSE = ProposeConfig(run=RunOptions(name="one"), corpus=Path("data/test"), rcp=Path("runs/rcp/best"))


def test_config_yaml_has_absolute_paths(home: Path) -> None:
    found = yaml.safe_load(Path("runs/one/config.yaml").read_text())
    assert (found["corpus"], found["rcp"]) == (str(home / "data/test"), str(home / "runs/rcp/best"))
    assert found["run"]["folder"] == str(home / "runs")
    assert PROPOSE.corpus == Path("data/test")  # unchanged in memory, for messages
    score = resolved(ScoreConfig(trained=(Path("a"), Path("b"))))
    assert score["trained"] == [str(home / "a"), str(home / "b")]
    assert resolved(BuildConfig(documents={"train": Path("a.json")}))["documents"] == {"train": str(home / "a.json")}
    assert resolved(ClassifyConfig(candidates=None))["candidates"] is None


def test_a_model_name_is_a_path_only_if_the_folder_exists(home: Path) -> None:
    (home / "llm").mkdir()
    names = {"llm": str(home / "llm"), "meta-llama/Llama-2-7b": "meta-llama/Llama-2-7b", "embedded:tiny-llm": None}
    for name, written in names.items():
        assert resolved(ClassifyConfig(rc=None, base=name))["base"] == (written or name)
    demo = DemoConfig()
    demo = demo.model_copy(update={"rc": demo.rc.model_copy(update={"model": RcModelOptions(base="llm")})})
    assert resolved(demo)["rc"]["model"]["base"] == str(home / "llm")


def test_a_path_without_effect_is_not_changed() -> None:
    # A run's config.yaml must be accepted as --config: options that repeat a default do not count as given.
    assert resolved(ClassifyConfig())["few_shot"]["corpus"] == "data/docred/train"
    shown = resolved(ClassifyConfig(few_shot=FewShotOptions(examples=1)))
    assert shown["few_shot"]["corpus"] == str(Path.cwd() / "data/docred/train")


def test_a_run_is_resumed_from_another_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    elsewhere = ProposeConfig(
        run=RunOptions(name="one", folder=Path("home/runs")),
        corpus=Path("home/data/test"),
        rcp=Path("home/runs/rcp/best"),
    )
    assert RunFolder.of(elsewhere.run).prepare(elsewhere) is True
    other = elsewhere.model_copy(update={"corpus": Path("home/data/dev")})
    with pytest.raises(RunError, match=r"another config: corpus \(was '.*home/data/test', now '.*home/data/dev'\)"):
        RunFolder.of(other.run).prepare(other)


def test_the_demo_is_resumed_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The paths that the demo sets itself are not compared.
    config = DemoConfig(run=RunOptions(name="demo", folder=tmp_path / "runs"))
    make_started_run(config)
    monkeypatch.chdir(tmp_path)
    assert RunFolder.of(config.run).prepare(config) is True


@pytest.mark.parametrize("copied", [False, True])
def test_a_run_that_moved_with_its_data(home: Path, monkeypatch: pytest.MonkeyPatch, copied: bool) -> None:
    new = home.with_name("new")
    shutil.copytree(home, new)
    if not copied:
        shutil.rmtree(home)
    monkeypatch.chdir(new)
    assert RunFolder.of(PROPOSE.run).prepare(PROPOSE) is True
    found = read_config(new / "runs/one")
    # The config of a copy refers to the old data, which still exists.
    assert found["corpus"] == str((home if copied else new) / "data/test")
    other = PROPOSE.model_copy(update={"corpus": Path("data/other")})
    with pytest.raises(RunError, match="corpus"):
        RunFolder.of(other.run).prepare(other)


def test_paths_of_a_renamed_run_folder(home: Path) -> None:
    inside = ProposeConfig(run=RunOptions(name="two"), corpus=Path("runs/two/data"), rcp=Path("data/test"))
    make_started_run(inside)
    (home / "runs/two/data").mkdir()
    (home / "runs/two").rename(home / "runs/renamed")
    found = read_config(Path("runs/renamed"))
    assert (found["corpus"], found["rcp"]) == (str(home / "runs/renamed/data"), str(home / "data/test"))
    again = inside.model_copy(update={"run": RunOptions(name="renamed"), "corpus": Path("runs/renamed/data")})
    assert RunFolder.of(again.run).prepare(again) is True


def test_relative_paths_of_older_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are searched in the working directory, then above the run."""
    path = home / "runs/one/config.yaml"
    path.write_text("corpus: data/test\nrcp: runs/nowhere\nbase: data\nrun: {name: one, folder: runs}\n")
    for folder in (home, home.parent):
        monkeypatch.chdir(folder)
        found = read_config(home / "runs/one")
        assert found["corpus"] == str(home / "data/test")
        assert found["base"] == "data"  # a model name
        assert found["rcp"] == str(folder / "runs/nowhere")
    here = home.parent / "data/test"
    here.mkdir(parents=True)
    assert read_config(home / "runs/one")["corpus"] == str(here)


def test_an_older_run_is_resumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its config.yaml has relative paths.
    path = home / "runs/one/config.yaml"
    path.write_text(yaml.safe_dump(PROPOSE.model_dump(mode="json")))
    assert RunFolder.of(PROPOSE.run).prepare(PROPOSE) is True
    other = PROPOSE.model_copy(update={"corpus": Path("data/other")})
    with pytest.raises(RunError, match="corpus"):
        RunFolder.of(other.run).prepare(other)


def test_options_without_effect_are_not_compared(home: Path) -> None:
    """Older versions accepted them."""
    config = ClassifyConfig(run=RunOptions(name="classify"))
    run = make_started_run(config)
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("threshold: 0.5", "threshold: 0.3"))
    assert run.prepare(config) is True
    path.write_text(path.read_text().replace("mode: constrained", "mode: score"))
    with pytest.raises(RunError, match=r"decode\.mode"):
        run.prepare(config)


def test_a_run_whose_config_has_old_option_names_is_resumed(home: Path) -> None:
    run = RunFolder(home / "runs/one")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("docs_per_unit", "unit_documents").replace("collective_timeout", "hang"))
    assert "unit_documents: 16" in path.read_text() and "hang_minutes" in path.read_text()
    assert run.prepare(PROPOSE) is True
    assert run.recorded("work.docs_per_unit") == 16
    assert read_config(run.path)["work"]["docs_per_unit"] == 16
    other = PROPOSE.model_copy(update={"work": WorkOptions(docs_per_unit=3)})
    with pytest.raises(RunError, match=r"work\.docs_per_unit \(was 16, now 3\)"):
        run.prepare(other)


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        read_config(tmp_path)
    for content in ("{", "- a", ""):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(RunError, match=r"config\.yaml (is not YAML|holds no options)"):
            read_config(tmp_path)


def test_an_option_that_did_not_exist_had_its_default(tmp_path: Path) -> None:
    config = RcpConfig.model_validate({"run": {"name": "old", "folder": tmp_path}})
    run = RunFolder.of(config.run)
    run.prepare(config)
    (run.path / "checkpoints").mkdir()
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("  loss: bce\n", "").replace("  positive_weight: 1.0\n", ""))
    run.check(config)
    train = config.train.model_copy(update={"positive_weight": 2.0})
    with pytest.raises(RunError, match=r"positive_weight \(was None, now 2\.0\)"):
        run.check(config.model_copy(update={"train": train}))
