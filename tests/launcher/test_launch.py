from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ClassifyConfig, ClusterOptions, DecodeOptions, ProposeConfig, RcConfig, RcpConfig
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher import dry_run
from lmrc.launcher import launch as launch_module
from lmrc.launcher.launch import launch, main, read_config
from lmrc.launcher.local import local_processes
from lmrc.launcher.plan import choose_executor, plan_launch
from lmrc.launcher.slurm.job import Job
from lmrc.launcher.slurm.submit import parameters, sbatch_script
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP, Stage
from lmrc.runs.run_folder import RunFolder
from lmrc.usage.record import Use
from tests.conftest import ROOT
from tests.launcher.site import Partition, fake_site
from tests.slurm.harness import write_data


def test_run_name_from_config_or_stage() -> None:
    assert read_config(RCP, []).run.name == "rcp"
    assert read_config(RCP, ["--config", str(ROOT / "configs/rcp/redocred.yaml")]).run.name == "rcp-redocred"
    assert read_config(RC, ["--config", str(ROOT / "configs/direct/docred-7b.yaml")]).run.name == "direct-docred-7b"
    assert read_config(RCP, ["--run", "mine"]).run.name == "mine"


def test_short_options_are_cluster_options() -> None:
    config = read_config(RC, ["--nodes", "2", "--gpus", "16", "--partition", "long", "--cpus-per-gpu", "6"])
    assert config.cluster == ClusterOptions(nodes=2, gpus=16, partition="long", cpus_per_gpu=6)


def test_slurm_is_used_if_sbatch_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, "/usr/bin/sbatch"):
        monkeypatch.setattr(shutil, "which", lambda name, found=found: found)
        assert choose_executor(RCP, ClusterOptions()) == ("here" if found is None else "slurm")
        assert choose_executor(RCP, ClusterOptions(where="local")) == "local"
        assert choose_executor(RCP, ClusterOptions(where="slurm")) == "slurm"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("lmrc.common.threads.cpus", lambda: 4)
    assert choose_executor(RCP, ClusterOptions(gpus=2)) == "local"


def test_one_task_per_gpu() -> None:
    options = ClusterOptions(nodes=2, gpus=8, partition="long", time=90, mem_per_gpu="64G", exclude="n[3-5]")
    given = parameters(RCP, RcpConfig(cluster=options))
    assert (given["nodes"], given["ntasks_per_node"], given["time"]) == (2, 4, 90)
    assert given["additional_parameters"]["gpus_per_node"] == "4"
    script = sbatch_script(RCP, RcpConfig(cluster=options))
    for line in (
        *("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=long", "--signal=USR2@120"),
        *("--requeue", "--exclude='n[3-5]'", "--mem-per-gpu=64G", "--time=90"),
    ):
        assert f"#SBATCH {line}\n" in script
    assert "--account" not in script and "--wckey" not in script


@pytest.mark.parametrize(
    ("request_by", "line"),
    [
        ("gpus-per-node", "--gpus-per-node=a100:4"),
        ("gres", "--gres=gpu:a100:4"),
        ("gpus", "--gpus=a100:8"),
        ("none", None),
    ],
)
def test_gpu_request_forms(request_by: str, line: str | None) -> None:
    given = {"nodes": 2, "gpus": 8, "gpu_type": "a100", "gpu_request": request_by}
    options = ClusterOptions.model_validate(given)
    script = sbatch_script(RCP, RcpConfig(cluster=options))
    asked = [
        option.removeprefix("#SBATCH ") for option in script.splitlines() if "gpu" in option and "#SBATCH" in option
    ]
    assert asked == ([line] if line else [])


def test_srun_gets_cpus_per_task() -> None:
    script = sbatch_script(RCP, RcpConfig(cluster=ClusterOptions(gpus=8, cpus_per_gpu=6)))
    assert "#SBATCH --cpus-per-task=6\n" in script
    (srun,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--cpus-per-task=6" in srun
    removed = sbatch_script(RCP, RcpConfig(cluster=ClusterOptions(gpus=8, sbatch={"cpus_per_task": None})))
    assert "--cpus-per-task" not in removed


def sbatch_lines(given: str, **cluster: Any) -> list[str]:
    """Return the sbatch options in the script of a launch with --sbatch."""
    words = [f"--{name}={value}" for name, value in cluster.items()]
    config = read_config(RCP, ["--gpus", "4", *words, "--sbatch", given])
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"nodes": 1})})
    return [line.removeprefix("#SBATCH ") for line in sbatch_script(RCP, config).splitlines() if "#SBATCH" in line]


@pytest.mark.parametrize("spelling", ["cpus-per-task=7 gpus-per-node=a100:4 job-name=mine", ""])
def test_sbatch_options_override_ours_in_any_spelling(spelling: str) -> None:
    lines = sbatch_lines(spelling or "cpus_per_task=7 gpus_per_node=a100:4 job_name=mine")
    for line in ("--cpus-per-task=7", "--gpus-per-node=a100:4", "--job-name=mine"):
        assert [option for option in lines if option.startswith(line.partition("=")[0])] == [line]


def test_our_option_can_be_removed() -> None:
    assert not [line for line in sbatch_lines("wckey=") if "wckey" in line]
    assert "--wckey=mine" in sbatch_lines("wckey=mine")
    lines = sbatch_lines("gpus_per_node= gres=gpu:4 job-name= no-requeue")
    assert "--gres=gpu:4" in lines and "--no-requeue" in lines
    assert not [line for line in lines if "gpus" in line or "job-name" in line or line == "--requeue"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("nodes=2", "nodes is set by the launcher: give --nodes"),
        ("ntasks-per-node=2", "one task per GPU"),
        ("array=0-3", "--max-running"),
        ("gpus-per-node=a100:8", "gpus-per-node=a100:8, but the job has 4 GPUs per node"),
        ("gpus-per-node= gres=gpu:a100:2", "gres=gpu:a100:2, but the job has 4 GPUs per node"),
        ("gres=gpu:4", "--gpu-request gres"),
        ("qos= partition=x partition=y", "given twice"),
    ],
)
def test_reserved_sbatch_options_are_refused(given: str, problem: str) -> None:
    if "given twice" in problem:
        with pytest.raises(ConfigError, match="partition is given twice"):
            sbatch_lines("partition=x", partition="y")
        return
    with pytest.raises(ConfigError, match=problem):
        sbatch_lines(given)


def test_recorded_options_may_be_given_again(tmp_path: Path) -> None:
    config = read_config(RCP, ["--gpus", "4", "--nodes", "1", "--sbatch", "time=60", "--run.folder", str(tmp_path)])
    RunFolder.of(config.run).prepare(config)
    file = str(RunFolder.of(config.run).path / "config.yaml")
    again = read_config(RCP, ["--config", file])
    assert "#SBATCH --time=60\n" in sbatch_script(RCP, again)
    with pytest.raises(ConfigError, match="time is given twice"):
        sbatch_script(RCP, read_config(RCP, ["--config", file, "--time", "90"]))


def test_mem_per_gpu_needs_a_gpu_request() -> None:
    with pytest.raises(ConfigError, match=r"mem_per_gpu .* --sbatch 'mem=…'"):
        sbatch_lines("gpus-per-node=", **{"mem-per-gpu": "64G"})


def test_inference_is_an_array_of_workers() -> None:
    options = ClusterOptions(gpus=40, max_running=8)
    script = sbatch_script(PROPOSE, ProposeConfig(cluster=options))
    for line in ("--array=0-39%8", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in script


def test_workers_with_several_gpus() -> None:
    options = ClusterOptions(gpus=16, max_running=3, cpus_per_gpu=6, mem_per_gpu="64G")
    config = ClassifyConfig(cluster=options, decode=DecodeOptions(gpus_per_worker=4))
    script = sbatch_script(CLASSIFY, config)
    lines = ("--array=0-3%3", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=24")
    for line in (*lines, "--mem-per-gpu=64G"):
        assert f"#SBATCH {line}\n" in script
    placed = config.model_copy(update={"cluster": config.cluster.model_copy(update={"where": "slurm"})})
    assert plan_launch(CLASSIFY, placed).description == "SLURM (4 workers of 4 GPUs)"
    with pytest.raises(ConfigError, match=r"--gpus 16 does not divide by decode\.gpus_per_worker 3"):
        sbatch_script(CLASSIFY, config.model_copy(update={"decode": DecodeOptions(gpus_per_worker=3)}))


def test_local_workers_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert local_processes(CLASSIFY, ClusterOptions(), 2) == (3, "3 processes, 2 GPUs each")
    assert local_processes(CLASSIFY, ClusterOptions(), 4) == (1, "1 process, 4 GPUs each")
    assert local_processes(CLASSIFY, ClusterOptions(gpus=4), 2) == (2, "2 processes, 2 GPUs each")
    count, sentence = local_processes(CLASSIFY, ClusterOptions(gpus=4, where="here"), 2)
    assert count == 1 and "--gpus 4 is not used" in sentence and "--where local" in sentence
    assert "not used" not in local_processes(CLASSIFY, ClusterOptions(gpus=2, where="here"), 2)[1]
    assert local_processes(CLASSIFY, ClusterOptions(where="here"), 2) == (1, "1 process, 2 GPUs each")
    assert choose_executor(CLASSIFY, ClusterOptions(), 4) == "here"
    assert choose_executor(CLASSIFY, ClusterOptions(), 2) == "local"
    with pytest.raises(ConfigError, match=r"decode\.gpus_per_worker is 8, but the run has 6 GPUs"):
        local_processes(CLASSIFY, ClusterOptions(), 8)
    with pytest.raises(ConfigError, match=r"gpus_per_worker is 4, but the run has 2 GPUs"):
        local_processes(CLASSIFY, ClusterOptions(gpus=2), 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"gpus_per_worker is 2, but the run has 0 GPUs"):
        local_processes(CLASSIFY, ClusterOptions(), 2)


@pytest.mark.parametrize(
    ("visible", "own"), [("0,1,2,3,4,5", "2,3"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c,GPU-d"), ("", "")]
)
def test_worker_sees_only_its_own_gpus(monkeypatch: pytest.MonkeyPatch, visible: str, own: str) -> None:
    seen: list[tuple[str, str]] = []
    environment = SimpleNamespace(
        cluster="local", job_id="1_1", raw_job_id="1", num_tasks=3, num_nodes=1, global_rank=1, local_rank=1
    )
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: environment)
    monkeypatch.setattr(
        "lmrc.launcher.slurm.job.run_attempt",
        lambda *_: seen.append((os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"])),
    )
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    Job("classify", ClassifyConfig(decode=DecodeOptions(gpus_per_worker=2)))()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    Job("rc", RcConfig())()
    # A training rank sees all GPUs and uses its local rank, as NCCL and DeepSpeed need it.
    assert seen == [(own, "0"), (visible, "1")]


def test_interfaces_and_folders_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "/home/me/hf")
    options = ClusterOptions(
        gpus=8,
        setup="module purge\nmodule load cuda",
        interface="ib0",
        cache_folder="$HOME/.cache",
        temporary_folder="$SLURM_TMPDIR",
        extensions_folder="/opt/extensions",
        sbatch={"reservation": "maint", "exclusive": True},
    )
    lines = sbatch_script(RCP, RcpConfig(cluster=options)).splitlines()
    setup = lines[lines.index("# setup") : lines.index("# command")]
    assert setup[1:3] == ["module purge", "module load cuda"]
    for line in (
        *('export NCCL_SOCKET_IFNAME="ib0"', 'export GLOO_SOCKET_IFNAME="ib0"', 'export TMPDIR="$SLURM_TMPDIR"'),
        *('export HF_HUB_CACHE="$HOME/.cache/huggingface/hub"', 'export TORCH_EXTENSIONS_DIR="/opt/extensions"'),
        # The token and the models of the shell that launches stay where they are.
        *('export HF_TOKEN_PATH="/home/me/hf/token"', 'export LMRC_SHELL_HUB_CACHE="/home/me/hf/hub"'),
    ):
        assert line in setup
    assert not any("HF_HOME" in line for line in setup)
    assert {"#SBATCH --reservation=maint", "#SBATCH --exclusive"} <= set(lines)


def test_local_process_count_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("lmrc.common.threads.cpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    eight = ClusterOptions(gpus=8)
    assert local_processes(RCP, ClusterOptions()) == (1, "1 process on the CPU")
    assert local_processes(RCP, eight) == (2, "2 gloo processes on the CPU (8 requested; this machine has 2 CPU cores)")
    assert local_processes(PROPOSE, ClusterOptions(gpus=2)) == (2, "2 processes on the CPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_processes(RCP, ClusterOptions()) == (4, "4 processes, one per GPU")
    assert local_processes(RCP, ClusterOptions(where="here")) == (1, "1 process, one per GPU")


def _stage(outcomes: list[Any]) -> Stage:
    def run(config: RcpConfig, world: Any) -> dict[str, Any]:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    return Stage("rcp", RcpConfig, check=lambda config: None, train=run)


def test_done_has_the_cost_of_all_attempts(tmp_path: Path) -> None:
    Use(seconds=5400, gpus=1, units=90).write(tmp_path / "one", "killed")

    def run(config: RcpConfig, world: Any) -> dict[str, Any]:
        Use(seconds=1800, gpus=1, units=30).write(tmp_path / "one", "last")
        return {"best": 1.0}

    config = config_in(tmp_path)
    priced = config.model_copy(update={"cluster": ClusterOptions(where="here", gpu_hour_price=3.0)})
    launch(Stage("rcp", RcpConfig, check=lambda config: None, train=run), priced)
    use = json.loads((tmp_path / "one" / "DONE").read_text())["use"]
    assert (use["gpu_hours"], use["price"]) == (2.0, 6.0)
    assert use["documents_per_second"] == pytest.approx(120 / 7200, rel=1e-3)


def config_in(folder: Path) -> RcpConfig:
    return RcpConfig.model_validate({"run": {"name": "one", "folder": folder}, "cluster": {"where": "here"}})


def test_finished_run_prints_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = _stage([{"best": 1.0}])
    launch(stage, config_in(tmp_path))
    assert "Starting rcp in " in capsys.readouterr().out
    launch(stage, config_in(tmp_path))
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tmp_path / 'one'} is finished: ") and "{" not in shown
    assert json.loads((tmp_path / "one" / "DONE").read_text())["best"] == 1.0


def test_interrupted_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = _stage([UserError("no"), {"best": 1.0}])
    with pytest.raises(UserError):
        launch(stage, config_in(tmp_path))
    (tmp_path / "one" / "checkpoints").mkdir()
    launch(stage, config_in(tmp_path))
    assert "Resuming rcp in " in capsys.readouterr().out


def test_user_errors_end_with_status_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    given = ["--run.folder", str(tmp_path), "--where", "here", "--model.encoder", "embedded:tiny-encoder"]
    given += ["--model.max_length", "512", "--data.dev", str(data / "dev")]
    assert main(RCP, [*given, "--data.train", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert main(RCP, ["--epochs", "3"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_data_error_leaves_no_run_folder(tmp_path: Path) -> None:
    main(RCP, ["--run.folder", str(tmp_path), "--where", "here", "--data.train", str(tmp_path / "no")])
    assert list(tmp_path.iterdir()) == []


def test_flags_and_options_have_both_spellings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_site(tmp_path / "site", monkeypatch)
    given = ["--run.folder", str(tmp_path), "--where", "slurm", "--gpus", "8"]
    for spelled in (
        ["--top-k", "20", "--cpus-per-gpu", "3", "--dry-run"],
        ["--top_k=20", "--cpus_per_gpu", "3", "--dry_run"],
    ):
        assert main(PROPOSE, [*given, *spelled]) == 2  # the model does not exist
        shown = capsys.readouterr().out
        assert "top_k: 20" in shown
        assert "#SBATCH --cpus-per-task=3" in shown
    assert main(PROPOSE, [*given, "--dryrun"]) == 2
    assert "did you mean --dry-run?" in capsys.readouterr().err


def test_wrong_input_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_help_lists_common_options_and_help_all_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RCP, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--train.epochs" in shown and "--train.classifier_learning_rate" not in shown
    assert main(RCP, ["--help-all"]) == 0
    assert "--train.classifier_learning_rate" in capsys.readouterr().out


def test_dry_run_submits_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "launch", lambda *given: pytest.fail("launched"))
    jobs = fake_site(tmp_path / "site", monkeypatch)
    data = write_data(tmp_path / "data")
    runs = tmp_path / "runs"
    arguments = ["--run.folder", str(runs), "--model.encoder", "embedded:tiny-encoder", "--model.max_length", "512"]
    arguments += ["--data.train", str(data / "train"), "--data.dev", str(data / "dev")]
    assert main(RCP, [*arguments, "--train.batch_size", "16", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for text in (
        *("encoder: embedded:tiny-encoder", "16 examples per optimizer step, as train.batch_size says"),
        *("Would be submitted to SLURM (8 tasks on 1 node).", "16 examples on 8 processes, 2 per process"),
        *("#SBATCH --ntasks-per-node=8", "GiB", "JobRequeue", "global_batch_size: 16"),
    ):
        assert (text in shown) == (text != "JobRequeue"), text
    assert main(RCP, [*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "8 examples per optimizer step, more than train.batch_size 4" in shown
    assert "8 examples on 8 processes, 1 per process, in 1 forward pass of at most 1." in shown
    assert "rcp: no prediction: the GPUs' type is not known: give --gpu-type" in shown
    assert not runs.exists() and not list(jobs.iterdir())


def test_dry_run_predicts_time_and_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_site(tmp_path / "site", monkeypatch, Partition(gres="gpu:h100:8(S:0-1)"))
    data = write_data(tmp_path / "data")
    arguments = ["--run.folder", str(tmp_path / "runs"), "--model.encoder", "embedded:tiny-encoder"]
    arguments += ["--model.max_length", "512", "--data.train", str(data / "train"), "--data.dev", str(data / "dev")]
    assert main(RCP, [*arguments, "--gpu-hour-price", "360", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    head, row = (line.split("  ") for line in shown.splitlines() if line.startswith(("stage ", "rcp ")))
    assert [word.strip() for word in head if word][-3:] == ["GPUs", "GPU-hours", "price"]
    # A minute to start 8 GPUs is most of it: 8 / 60 hours.
    gpus, hours, price = [word.strip() for word in row if word][-3:]
    assert gpus == "8" and 8 / 60 < float(hours) < 0.2
    assert float(price) == pytest.approx(360 * float(hours), rel=0.01)
    assert "by: H100 at 40.4 % MFU" in shown
    assert main(RCP, [*arguments, "--measure"]) == 2
    assert "which has not the GPUs that rcp will have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("backend", "shown"),
    [
        ("hf", "KV cache        25.00 GiB"),
        ("vllm", "memory per GPU: vLLM takes 90 % of it"),
        ("openai", "memory per GPU: none, the server has the LM"),
    ],
)
def test_dry_run_of_classify_shows_the_memory(backend: str, shown: str) -> None:
    llama = {"rc": None, "base": "meta-llama/Llama-2-13b-chat-hf", "decode": {"backend": backend}}
    assert shown in dry_run._memory(ClassifyConfig.model_validate(llama), 8)
    without_lm = ClassifyConfig.model_validate({**llama, "system": "encoder"})
    assert dry_run._memory(without_lm, 8) == "memory per GPU: none, no LM is asked"


def test_all_errors_are_listed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fake_site(tmp_path / "site", monkeypatch, Partition(limit="1:00:00"))
    arguments = ["--run.folder", str(tmp_path / "runs"), "--model.encoder", "./no", "--nodes", "5"]
    for dry in ([], ["--dry-run"]):
        assert main(RCP, [*arguments, "--data.train", str(tmp_path / "none"), "--sbatch", "array=0-1", *dry]) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: 6 reasons not to start:\n") and error.count("  - ") == 6
        for reason in (
            *("5 nodes with GPUs", "array is set by the launcher", "1440 minutes"),
            *(str(tmp_path / "none"), "data/docred/dev", "./no: no such folder"),
        ):
            assert reason in error
    assert not (tmp_path / "runs").exists() and not list(jobs.iterdir())
