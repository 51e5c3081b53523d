from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit

from lmrc.cluster import launch as launch_module
from lmrc.cluster.job import Job
from lmrc.cluster.launch import launch, main, place_of, read_config
from lmrc.cluster.local import processes_here
from lmrc.cluster.plan import dry_run
from lmrc.cluster.stages import CLASSIFY, PROPOSE, RC, RCP, Stage
from lmrc.cluster.submit import gpus_per_node, parameters, sbatch_script
from lmrc.config import ClassifyConfig, ClusterOptions, DecodeOptions, ProposeConfig, RcConfig, RcpConfig
from lmrc.corpus import synthetic
from lmrc.corpus.arrow import write_corpus
from lmrc.errors import ConfigError, UserError
from tests.conftest import ROOT


def test_a_run_is_named_after_its_config_or_stage() -> None:
    assert read_config(RCP, []).run.name == "rcp"
    assert read_config(RCP, ["--config", str(ROOT / "configs/rcp/redocred.yaml")]).run.name == "rcp-redocred"
    assert read_config(RC, ["--config", str(ROOT / "configs/direct/docred-7b.yaml")]).run.name == "direct-docred-7b"
    assert read_config(RCP, ["--run", "mine"]).run.name == "mine"


def test_short_options_are_those_of_the_cluster() -> None:
    config = read_config(RC, ["--nodes", "2", "--gpus", "16", "--partition", "long", "--cpus-per-gpu", "6"])
    assert config.cluster == ClusterOptions(nodes=2, gpus=16, partition="long", cpus_per_gpu=6)


def test_slurm_is_used_where_sbatch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, "/usr/bin/sbatch"):
        monkeypatch.setattr(shutil, "which", lambda name, found=found: found)
        assert place_of(RCP, ClusterOptions()) == ("here" if found is None else "slurm")
        assert place_of(RCP, ClusterOptions(where="local")) == "local"
        assert place_of(RCP, ClusterOptions(where="slurm")) == "slurm"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert place_of(RCP, ClusterOptions(gpus=2)) == "local"


def test_gpus_are_a_total() -> None:
    assert gpus_per_node(ClusterOptions(nodes=2, gpus=8)) == 4
    assert gpus_per_node(ClusterOptions(nodes=2)) == 8
    with pytest.raises(ConfigError, match=r"--gpus 7 is the total and does not divide by --nodes 2"):
        gpus_per_node(ClusterOptions(nodes=2, gpus=7))


def test_the_job_has_one_task_a_gpu() -> None:
    options = ClusterOptions(nodes=2, gpus=8, partition="long", time=90, mem_per_gpu="64G", exclude="n[3-5]")
    given = parameters(RCP, RcpConfig(cluster=options))
    assert (given["nodes"], given["ntasks_per_node"], given["gpus_per_node"], given["time"]) == (2, 4, 4, 90)
    assert "account" not in given
    script = sbatch_script(RCP, RcpConfig(cluster=options))
    for line in (
        *("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=long", "--signal=USR2@120"),
        *("--requeue", "--exclude='n[3-5]'", "--mem-per-gpu=64G", "--time=90"),
    ):
        assert f"#SBATCH {line}\n" in script


def test_an_inference_is_an_array_of_workers_with_one_gpu() -> None:
    options = ClusterOptions(gpus=40, max_running=8)
    script = sbatch_script(PROPOSE, ProposeConfig(cluster=options))
    for line in ("--array=0-39%8", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in script


def test_a_worker_of_an_lm_that_does_not_fit_one_gpu_has_several() -> None:
    options = ClusterOptions(gpus=16, max_running=3, cpus_per_gpu=6, mem_per_gpu="64G")
    config = ClassifyConfig(cluster=options, decode=DecodeOptions(gpus_per_worker=4))
    script = sbatch_script(CLASSIFY, config)
    lines = ("--array=0-3%3", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=24")
    for line in (*lines, "--mem-per-gpu=64G"):
        assert f"#SBATCH {line}\n" in script
    assert "Would be submitted to SLURM (4 workers of 4 GPUs)" in dry_run(CLASSIFY, config, slurm=True)
    with pytest.raises(ConfigError, match=r"--gpus 16 does not divide by decode\.gpus_per_worker 3"):
        sbatch_script(CLASSIFY, config.model_copy(update={"decode": DecodeOptions(gpus_per_worker=3)}))


def test_workers_here_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert processes_here(CLASSIFY, ClusterOptions(), 2) == (3, "3 processes, 2 GPUs each")
    assert processes_here(CLASSIFY, ClusterOptions(), 4) == (1, "1 process, 4 GPUs each")
    assert processes_here(CLASSIFY, ClusterOptions(gpus=4), 2) == (2, "2 processes, 2 GPUs each")
    assert processes_here(CLASSIFY, ClusterOptions(where="here"), 2) == (1, "1 process, 2 GPUs each")
    assert place_of(CLASSIFY, ClusterOptions(), 4) == "here"
    assert place_of(CLASSIFY, ClusterOptions(), 2) == "local"
    with pytest.raises(ConfigError, match=r"decode\.gpus_per_worker is 8, but this machine gives 6"):
        processes_here(CLASSIFY, ClusterOptions(), 8)
    with pytest.raises(ConfigError, match=r"gpus_per_worker is 4, but this machine gives 2"):
        processes_here(CLASSIFY, ClusterOptions(gpus=2), 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"gpus_per_worker is 2, but this machine gives 0"):
        processes_here(CLASSIFY, ClusterOptions(), 2)


@pytest.mark.parametrize(
    ("visible", "own"), [("0,1,2,3,4,5", "2,3"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c,GPU-d"), ("", "")]
)
def test_a_worker_sees_its_own_gpus_alone(monkeypatch: pytest.MonkeyPatch, visible: str, own: str) -> None:
    """The second of several on one machine, and its libraries, whatever processes they start."""
    seen: list[tuple[str, str]] = []
    place = SimpleNamespace(
        cluster="local", job_id="1_1", raw_job_id="1", num_tasks=3, num_nodes=1, global_rank=1, local_rank=1
    )
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: place)
    monkeypatch.setattr(
        "lmrc.cluster.job.run_attempt",
        lambda *_: seen.append((os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"])),
    )
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    Job("classify", ClassifyConfig(decode=DecodeOptions(gpus_per_worker=2)))()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    Job("rc", RcConfig())()
    # A rank of a training finds its GPU by its number, as NCCL and DeepSpeed want it.
    assert seen == [(own, "0"), (visible, "1")]


def test_a_site_names_its_places_once() -> None:
    options = ClusterOptions(
        setup="module purge\nmodule load cuda",
        interface="ib0",
        cache_folder="$HOME/.cache",
        temporary_folder="$SLURM_TMPDIR",
        extensions_folder="/opt/extensions",
        sbatch={"reservation": "maint", "exclusive": ""},
    )
    lines = sbatch_script(RCP, RcpConfig(cluster=options)).splitlines()
    setup = lines[lines.index("# setup") : lines.index("# command")]
    assert setup[1:3] == ["module purge", "module load cuda"]
    for line in (
        *('export NCCL_SOCKET_IFNAME="ib0"', 'export GLOO_SOCKET_IFNAME="ib0"', 'export TMPDIR="$SLURM_TMPDIR"'),
        *('export HF_HOME="$HOME/.cache/huggingface"', 'export TORCH_EXTENSIONS_DIR="/opt/extensions"'),
    ):
        assert line in setup
    assert {"#SBATCH --reservation=maint", "#SBATCH --exclusive"} <= set(lines)


def test_the_number_of_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    eight = ClusterOptions(gpus=8)
    assert processes_here(RCP, ClusterOptions()) == (1, "1 process on the CPU")
    assert processes_here(RCP, eight) == (2, "2 gloo processes on the CPU (8 asked for; this machine has 2 CPU cores)")
    assert processes_here(PROPOSE, ClusterOptions(gpus=2)) == (2, "2 processes on the CPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes_here(RCP, ClusterOptions()) == (4, "4 processes, one a GPU")
    assert processes_here(RCP, ClusterOptions(where="here")) == (1, "1 process, one a GPU")


def _stage(outcomes: list[Any]) -> Stage:
    def run(config: RcpConfig, world: Any) -> dict[str, Any]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    return Stage("rcp", RcpConfig, check=lambda config: None, train=run)


def config_in(folder: Path) -> RcpConfig:
    return RcpConfig.model_validate({"run": {"name": "one", "folder": folder}, "cluster": {"where": "here"}})


def test_a_finished_run_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = _stage([{"best": 1.0}])
    launch(stage, config_in(tmp_path))
    assert "is new" in capsys.readouterr().out
    launch(stage, config_in(tmp_path))
    assert capsys.readouterr().out.startswith(f'{tmp_path / "one"} is finished: {{"best": 1.0')
    assert json.loads((tmp_path / "one" / "DONE").read_text())["best"] == 1.0


def test_an_interrupted_run_is_resumed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = _stage([UserError("no"), {"best": 1.0}])
    with pytest.raises(UserError):
        launch(stage, config_in(tmp_path))
    (tmp_path / "one" / "checkpoints").mkdir()
    launch(stage, config_in(tmp_path))
    assert "was begun before: resuming" in capsys.readouterr().out


def test_mistakes_end_with_status_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RCP, ["--run.folder", str(tmp_path), "--where", "here", "--data.train", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert main(RCP, ["--epochs", "3"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_mistake_in_the_data_leaves_no_run_folder(tmp_path: Path) -> None:
    main(RCP, ["--run.folder", str(tmp_path), "--where", "here", "--data.train", str(tmp_path / "no")])
    assert list(tmp_path.iterdir()) == []


def test_flags_and_options_have_both_spellings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--run.folder", str(tmp_path), "--where", "slurm", "--gpus", "8"]
    for spelled in (
        ["--top-k", "20", "--cpus-per-gpu", "3", "--dry-run"],
        ["--top_k=20", "--cpus_per_gpu", "3", "--dry_run"],
    ):
        assert main(PROPOSE, [*given, *spelled]) == 0
        shown = capsys.readouterr().out
        assert "top_k: 20" in shown
        assert "#SBATCH --cpus-per-task=3" in shown
    assert main(PROPOSE, [*given, "--dryrun"]) == 2
    assert "did you mean --dry-run?" in capsys.readouterr().err


def test_a_wrong_folder_is_told_by_the_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RCP, ["--run.folder", str(tmp_path), "--where", "here"]) == 2
    assert "lmrc data download docred" in capsys.readouterr().err
    corpus = tmp_path / "corpus"
    write_corpus(synthetic.generate(2, 1), corpus, synthetic.RELATIONS, "made up", "0" * 64)
    for stage, name, file in ((PROPOSE, "rcp", "config.json"), (CLASSIFY, "rc", "adapter_config.json")):
        best = tmp_path / name / "best"
        best.mkdir(parents=True)
        (best / file).write_text("{}")
        given = ["--run.folder", str(tmp_path / "runs"), "--corpus", str(corpus), f"--{name}", str(best.parent)]
        assert main(stage, given) == 2
        assert f"did you mean {best}?" in capsys.readouterr().err


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RCP, ["--help"]) == 0
    assert "--train.classifier_learning_rate" in capsys.readouterr().out


def test_dry_run_submits_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "launch", lambda *given: pytest.fail("launched"))
    arguments = ["--run.folder", str(tmp_path), "--model.encoder", "roberta-large", "--where", "slurm", "--gpus", "8"]
    assert main(RCP, [*arguments, "--train.batch_size", "16", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "encoder: roberta-large" in shown
    assert "Steps: unknown until the training corpus is there" in shown
    assert "16 examples a step = 8 processes x 1 passes x 2" in shown
    assert "#SBATCH --ntasks-per-node=8" in shown
    assert "GiB" in shown
    assert list(tmp_path.iterdir()) == []
