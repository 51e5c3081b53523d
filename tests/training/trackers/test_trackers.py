from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest
import requests
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lmrc.cli.main import main
from lmrc.cli.track import track
from lmrc.common.errors import ConfigError, RunError
from lmrc.config.loader import parse
from lmrc.config.schema import RcpConfig, TrackerName
from lmrc.runs.events import History
from lmrc.runs.lease import Lease
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import Preempted
from lmrc.training.metrics_logger import MetricsLogger
from lmrc.training.trackers.base import CLASSES, TrackedRun, check_trackers, make_tracker
from lmrc.training.trackers.replay import replay
from tests.training.test_trainer import Stopping, go
from tests.training.toy import ToyTask
from tests.training.trackers.fakes import FakeServices, install_fakes

SERVICES = ("wandb", "mlflow", "trackio")
EVALUATED = [2, 3, 4, 6, 8, 9]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    return install_fakes(monkeypatch)


def steps(services: FakeServices, name: str, metric: str) -> list[int]:
    """Return the steps at which the only run of a service has a metric."""
    (rows,) = services.rows[name].values()
    return [step for step, metrics in rows if metric in metrics]


def scalars(run: Path, metric: str) -> list[int]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(metric)]


def test_names_in_the_options_the_command_and_the_registry_agree() -> None:
    choice = next(parameter for parameter in track.params if parameter.name == "tracker").type
    assert isinstance(choice, click.Choice)
    assert set(get_args(TrackerName)) == set(CLASSES) == set(choice.choices)


def test_option_is_checked() -> None:
    assert parse(RcpConfig, ["--train.trackers", "wandb, mlflow"], {})[0].train.trackers == ("wandb", "mlflow")
    assert parse(RcpConfig, ["--train.trackers="], {})[0].train.trackers == ()
    with pytest.raises(ConfigError, match=r"train\.trackers\.0 is 'wandbb': input should be 'tensorboard', 'wandb'"):
        parse(RcpConfig, ["--train.trackers", "wandbb"], {})


def test_a_missing_package_is_named_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.training.trackers.base.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package wandb, which is not installed: pip install wandb"):
        go(tmp_path, ToyTask(), trackers=("wandb",))
    with pytest.raises(ConfigError, match="the package trackio, which is not installed"):
        replay(tmp_path, "trackio")
    check_trackers([])


def test_a_run_may_be_resumed_with_other_trackers(tmp_path: Path) -> None:
    config = RcpConfig.model_validate({"run": {"name": "run", "folder": tmp_path}})
    folder = RunFolder.of(config.run)
    folder.prepare(config)
    folder.checkpoints.mkdir()
    other = config.model_copy(update={"train": config.train.model_copy(update={"trackers": ("wandb",)})})
    assert folder.prepare(other)


@pytest.mark.parametrize("name", SERVICES)
def test_a_resumed_training_continues_the_same_run(tmp_path: Path, services: FakeServices, name: str) -> None:
    trackers = ("tensorboard", name)
    with pytest.raises(Preempted):
        go(tmp_path, Stopping(5, signal.SIGTERM), trackers=trackers)
    (run_id,) = services.rows[name]
    assert json.loads((tmp_path / "log" / "trackers.json").read_text()) == {name: run_id}
    go(tmp_path, ToyTask(), trackers=trackers)
    assert steps(services, name, "loss") == list(range(1, 10)) == scalars(tmp_path, "loss")
    assert steps(services, name, "dev_loss") == EVALUATED
    assert steps(services, name, "documents_per_second") == list(range(1, 10))
    # Nothing that status or the next launch would take for a result or for a run.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best", "checkpoints", "log", "metrics.jsonl", "tensorboard")
    ]


def test_files_lie_inside_the_run_folder(tmp_path: Path, services: FakeServices) -> None:
    (tmp_path / "config.yaml").write_text("run: {name: x}\ntrain: {epochs: 3}\n")
    go(tmp_path, ToyTask(), trackers=SERVICES)
    assert services.inits["wandb"][0]["dir"] == str(tmp_path / "log")
    assert services.inits["trackio"][0]["dir"] == str(tmp_path / "log" / "trackio")
    assert services.mlflow_uri == f"sqlite:///{tmp_path}/log/mlflow/mlflow.db"
    options = {"run.name": "x", "train.epochs": 3}
    assert [services.inits[name][0]["config"] for name in ("wandb", "trackio")] == [options, options]
    assert list(services.params.values()) == [options]


def test_no_trackers_but_metrics(tmp_path: Path) -> None:
    go(tmp_path, ToyTask(), trackers=())
    assert (tmp_path / "metrics.jsonl").is_file() and not (tmp_path / "tensorboard").exists()


def test_a_server_of_mlflow(tmp_path: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    make_tracker("mlflow").start(TrackedRun(tmp_path), {}, None)
    assert services.mlflow_uri == "" and not (tmp_path / "log").exists()


def test_wandb_is_offline_without_a_network_or_a_key(
    tmp_path: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()

    def start() -> Any:
        make_tracker("wandb").start(TrackedRun(tmp_path), {}, None)
        return services.inits["wandb"][-1]["mode"]

    def refuse(url: str, timeout: float) -> None:
        raise requests.ConnectionError(url)

    asked: list[str] = []
    monkeypatch.setattr(requests, "head", lambda url, timeout: asked.append(url))
    assert start() == "offline" and not asked
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert start() == "online" and asked == ["https://api.wandb.ai"]
    monkeypatch.setattr(requests, "head", refuse)
    assert start() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert start() == "online"


@pytest.mark.parametrize("when", ["import", "start", "log", "finish"])
def test_a_service_that_fails_does_not_end_the_training(
    tmp_path: Path,
    services: FakeServices,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TimeoutError("no answer")

    wandb: ModuleType = sys.modules["wandb"]
    if when == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
        monkeypatch.setattr("lmrc.training.trainer.check_trackers", lambda names: None)
    elif when == "start":
        monkeypatch.setattr(wandb, "init", fail)
    else:
        monkeypatch.setattr(f"tests.training.trackers.fakes.FakeRun.{when}", fail)
    with caplog.at_level(logging.WARNING):
        assert go(tmp_path, ToyTask(), trackers=("wandb", "tensorboard"))["steps"] == 9
    (warning,) = [record.message for record in caplog.records if record.name.startswith("lmrc")]
    assert warning.startswith("wandb failed (") and warning.endswith(f"lmrc track {tmp_path} --to wandb")
    assert scalars(tmp_path, "loss") == list(range(1, 10))


@pytest.mark.parametrize("name", SERVICES)
def test_replay_copies_all_rows_to_a_new_run(tmp_path: Path, services: FakeServices, name: str) -> None:
    go(tmp_path, ToyTask(), trackers=())
    assert main(["track", str(tmp_path), "--to", name]) == 0
    assert steps(services, name, "loss") == list(range(1, 10))
    assert steps(services, name, "dev_loss") == EVALUATED
    (rows,) = services.rows[name].values()
    assert set(rows[0][1]) == {"loss", "rate", "gradient_norm", "documents"}
    replay(tmp_path, name)
    assert len(services.rows[name]) == 2
    # A training that resumes continues the newer one.
    newest = json.loads((tmp_path / "log" / "trackers.json").read_text())[name]
    assert newest == list(services.rows[name])[1]


def test_replay_to_tensorboard_replaces_what_is_there(tmp_path: Path) -> None:
    go(tmp_path, ToyTask())
    assert replay(tmp_path, "tensorboard") == 15
    assert scalars(tmp_path, "loss") == list(range(1, 10))
    assert scalars(tmp_path, "dev_loss") == EVALUATED


def test_replay_refuses_what_is_no_finished_training(tmp_path: Path, services: FakeServices) -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl holds no metrics: give the folder of a training"):
        replay(tmp_path, "wandb")
    go(tmp_path, ToyTask(), trackers=())
    with Lease(tmp_path), pytest.raises(RunError, match="is training now"):
        replay(tmp_path, "wandb")
    assert not services.rows["wandb"]


def test_a_full_disk_is_no_failure_of_a_service(tmp_path: Path, services: FakeServices) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write metrics\.jsonl and tensorboard/ in"):
        MetricsLogger(tmp_path, 0, False, 3, "tokens", ("wandb",))


def test_nodes_without_a_network_record_offline_and_are_sent_later(
    tmp_path: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is the same at every start, also without trackers.json, and when the metrics are sent."""
    (tmp_path / "config.yaml").write_text("cluster: {offline: true}\ntrain: {trackers: [wandb]}\n")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(requests, "head", lambda url, timeout: pytest.fail("asked the network"))
    with pytest.raises(Preempted):
        go(tmp_path, Stopping(5, signal.SIGTERM), trackers=("wandb",))
    (tmp_path / "log" / "trackers.json").unlink()
    go(tmp_path, ToyTask(), trackers=("wandb",))
    assert {init["mode"] for init in services.inits["wandb"]} == {"offline"}
    assert {init["id"] for init in services.inits["wandb"]} == {TrackedRun(tmp_path).stable_id()}
    rows = (tmp_path / "metrics.jsonl").read_text().count("\n")
    # On the login node: first without a network, then with one.
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(RunError, match="type wandb login"):
        replay(tmp_path, "wandb")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(requests, "head", lambda url, timeout: None)
    assert replay(tmp_path, "wandb") == rows
    assert services.inits["wandb"][-1]["mode"] == "online"
    assert len(services.rows["wandb"]) == 1


def test_only_new_rows_are_sent_again(tmp_path: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setattr(requests, "head", lambda url, timeout: None)
    (tmp_path / "log" / "wandb" / "offline-run-1-x").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("train: {trackers: [wandb]}\n")
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    assert replay(tmp_path, "wandb") == 1
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    # The fake made an online folder; the real one does so too, and the run is then known to the server.
    for folder in (tmp_path / "log" / "wandb").glob("run-*"):
        folder.rmdir()
    assert replay(tmp_path, "wandb") == 1
    assert steps(services, "wandb", "loss") == [1, 2]


def test_mlflow_without_a_network_stays_in_the_folder(
    tmp_path: Path, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    make_tracker("mlflow").start(TrackedRun(tmp_path), {"cluster.offline": True}, None)
    assert services.mlflow_uri.startswith("sqlite:///")


def test_groups_and_tags(tmp_path: Path, services: FakeServices) -> None:
    home = tmp_path / "runs" / "seeds"
    run = home / "seed66" / "rcp"
    (run / "log").mkdir(parents=True)
    assert TrackedRun(run).group({}) is None
    (home / "seed66" / "score").mkdir()
    (home / "seed66" / "score" / "config.yaml").touch()
    assert TrackedRun(run).group({}) == "seed66"
    (home / "group.json").touch()
    options = {"train.tracker_tags": ["paper", "v2"]}
    make_tracker("wandb").start(TrackedRun(run), options, None)
    make_tracker("mlflow").start(TrackedRun(run), options, None)
    make_tracker("trackio").start(TrackedRun(run), options, None)
    assert [services.inits[name][0]["group"] for name in ("wandb", "trackio")] == ["seeds", "seeds"]
    tags = ["paper", "v2", "seed66"]
    assert services.inits["wandb"][0]["tags"] == tags
    assert services.inits["trackio"][0]["config"] == options | {"tags": tags}
    assert services.tags == [{"paper": "", "v2": "", "seed66": "", "group": "seeds"}]
    assert TrackedRun(run).group({"train.tracker_group": "own"}) == "own"


def test_groups_and_tags_in_tensorboard(tmp_path: Path) -> None:
    run = tmp_path / "seeds" / "seed66" / "rcp"
    run.mkdir(parents=True)
    (tmp_path / "seeds" / "group.json").touch()
    for first_step in (0, 5):  # a start and a resume
        tracker = make_tracker("tensorboard")
        tracker.start(TrackedRun(run, first_step), {"train.tracker_tags": ["paper"]}, None)
        tracker.log(first_step + 1, {"loss": 1.0})
        tracker.finish()
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    texts = {name: [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{name}/text_summary")]
             for name in ("group", "tags")}  # fmt: skip
    assert texts == {"group": ["seeds"], "tags": ["paper, seed66"]}
    assert scalars(run, "loss") == [1, 6]


def test_seeds_are_runs_of_one_group_that_keep_their_ids(tmp_path: Path, services: FakeServices) -> None:
    """Two seeds are preempted and requeued. Each is one run of each service, in the group of both."""
    home = tmp_path / "seeds"
    members = [home / f"seed{seed}" / "rcp" for seed in (66, 67)]
    for run in members:
        run.mkdir(parents=True)
        (home / "group.json").touch()
        History(run).add("submitted", job="7")
        with pytest.raises(Preempted):
            go(run, Stopping(5, signal.SIGTERM), trackers=SERVICES)
        History(run).add("requeued", job="7")
        go(run, ToyTask(), trackers=SERVICES)
    for name in SERVICES:
        rows = services.rows[name]
        assert len(rows) == 2
        for of_run in rows.values():
            assert [step for step, metrics in of_run if "loss" in metrics] == list(range(1, 10))
    for name in ("wandb", "trackio"):
        assert [init["group"] for init in services.inits[name]] == ["seeds"] * 4
    starts = [tags for tags in services.tags if tags]  # MLflow gets tags at the first start of a run
    assert starts == [{"seed66": "", "group": "seeds"}, {"seed67": "", "group": "seeds"}]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_id_does_not_depend_on_the_file_of_ids(tmp_path: Path, services: FakeServices, name: str) -> None:
    with pytest.raises(Preempted):
        go(tmp_path, Stopping(5, signal.SIGTERM), trackers=(name,))
    (tmp_path / "log" / "trackers.json").unlink()
    go(tmp_path, ToyTask(), trackers=(name,))
    assert steps(services, name, "loss") == list(range(1, 10))


def test_a_run_begun_anew_in_the_same_folder_has_another_id(tmp_path: Path) -> None:
    History(tmp_path).add("submitted", job="7")
    first = TrackedRun(tmp_path).stable_id()
    History(tmp_path).add("requeued", job="7")
    assert first == TrackedRun(tmp_path).stable_id()
    (tmp_path / "log" / "history.jsonl").unlink()
    History(tmp_path).add("submitted", job="8")
    assert TrackedRun(tmp_path).stable_id() != first
