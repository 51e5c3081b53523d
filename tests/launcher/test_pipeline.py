from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmrc.cli.main import main as lmrc
from lmrc.common.check import Check, ok, warning
from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.config.schema import ClassifyConfig, PipelineConfig, RunOptions
from lmrc.corpus.corpus import Corpus
from lmrc.fusion.model import Fusion
from lmrc.launcher import pipeline
from lmrc.launcher.chain import Step, steps
from lmrc.launcher.pipeline import main, read_pipeline, run_on_slurm
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.commands import SlurmJob
from lmrc.launcher.slurm.submit import active_jobs, sbatch_script
from lmrc.launcher.stages import CLASSIFY, Stage, StageConfig
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome
from tests.conftest import ROOT
from tests.launcher.site import fake_site

PAPER = ROOT / "configs/pipeline/redocred-13b.yaml"
PLUS = ROOT / "configs/pipeline/redocred-13b-plus.yaml"


class Queue:
    """A fake SLURM queue that accepts every job and runs none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._numbers = itertools.count(11)
        self.active: dict[str, list[SlurmJob]] = {}
        self.submitted: dict[str, list[str]] = {}
        self.after_runs: dict[str, list[str]] = {}
        monkeypatch.setattr(pipeline, "submit", self._submit)
        self.waits_for: dict[str, str] = {}
        monkeypatch.setattr(pipeline, "active_jobs", lambda folder: self.active.get(self._name(folder), []))
        monkeypatch.setattr(slurm, "set_dependency", self.waits_for.__setitem__)

    def _submit(
        self, stage: Stage, config: StageConfig, after: Sequence[str] = (), after_runs: Sequence[Path] = ()
    ) -> list[str]:
        job, name = str(next(self._numbers)), self._name(config.run.folder / config.run.name)
        self.submitted[name] = list(after)
        self.after_runs[name] = [path.name for path in after_runs]
        self.add(name, job if stage.infer is None else f"{job}_0")
        return [job]

    @staticmethod
    def _name(folder: Path) -> str:
        """Return the name of a step, with the member of a group that it belongs to."""
        return "/".join(folder.parts[-2:]) if folder.parent.name.startswith("seed") else folder.name

    def add(self, step: str, job: str, state: str = "PENDING", reason: str = "Dependency") -> None:
        self.active.setdefault(step, []).append(SlurmJob(job, state, reason, 0, ""))

    def end(self, step: str) -> None:
        del self.active[step], self.submitted[step]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Return a site that accepts every job, without a pre-flight of the models."""
    fake_site(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(pipeline, "examine", lambda stage, config, made: (plan_launch(stage, config), []))
    return Queue(monkeypatch)


def begun_runs(shown: str) -> list[str]:
    """Return the run folders of the stages that were started or resumed on this machine."""
    return re.findall(r"^(?:Starting|Resuming) \S+ in (.*), on this machine", shown, re.MULTILINE)


def chain_in(folder: Path, *options: str) -> list[Step]:
    given = ["--config", str(PAPER), "--run.folder", str(folder), "--run", "all", "--where", "slurm", *options]
    return steps(read_pipeline([*given, "--data.train", "train.json"]))


def done(folder: Path, step: Step) -> None:
    step.folder.prepare(step.config)
    step.folder.finish({})


def test_pipeline_is_named_after_its_config() -> None:
    assert read_pipeline(["--config", str(PAPER)]).run.name == "pipeline-redocred-13b"


def test_corpora_are_built_from_documents_and_used_by_every_step(tmp_path: Path) -> None:
    build, rcp, propose, rc, classify, score = chain_in(tmp_path)
    home = tmp_path / "all"
    assert build.config.documents == {"train": Path("train.json")}  # type: ignore[union-attr]
    for training in (rcp.config, rc.config):
        assert training.data.train == home / "data" / "train"  # type: ignore[union-attr]
        assert training.data.dev == Path("data/redocred/dev")  # type: ignore[union-attr]
    for inference in (propose.config, classify.config):
        assert inference.corpus == Path("data/redocred/test")  # type: ignore[union-attr]
    assert propose.config.rcp == home / "rcp" / "best"  # type: ignore[union-attr]
    assert classify.config.candidates == home / "propose" / "candidates"  # type: ignore[union-attr]
    assert (score.config.classify, score.config.ign_variant) == (home / "classify", "redocred")  # type: ignore[union-attr]
    assert {step.folder.path for step in (build, rcp)} == {home / "build", home / "rcp"}


def test_no_build_step_for_corpora(tmp_path: Path) -> None:
    chain = steps(PipelineConfig(run=RunOptions(name="all", folder=tmp_path)))
    assert [(step.name, step.after) for step in chain] == [
        ("rcp", ()),
        ("propose", ("rcp",)),
        ("rc", ()),
        ("classify", ("propose", "rc")),
        ("score", ("classify",)),
    ]


def test_systems_that_need_a_relation_head(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"system encoder needs the relation head.* --rcp.train.relation-weight 1"):
        chain_in(tmp_path, "--classify.system", "encoder", "--rcp.train.relation_weight", "0")
    chain_in(tmp_path, "--classify.system", "encoder", "--rcp.train.relation_weight", "0.1")


def test_lm_that_names_no_relations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rcp-llm says Yes or No to a pair.*: give --rc.prompt.kind rc"):
        chain_in(tmp_path, "--rc.prompt.kind", "rcp-llm")
    chain_in(tmp_path, "--rc.prompt.kind", "direct")


def test_cluster_options_of_a_step_override_the_pipeline(tmp_path: Path) -> None:
    given = ("--gpus", "4", "--partition", "gpu", "--mem-per-gpu", "64G", "--rc.cluster.gpus", "16")
    chain = {step.name: step for step in chain_in(tmp_path, *given, "--rc.cluster.nodes=2", "--cpu_job.partition=cpu")}
    assert (chain["rcp"].config.cluster.gpus, chain["rc"].config.cluster.gpus) == (4, 16)
    assert chain["rc"].config.cluster.partition == "gpu"
    script = sbatch_script(chain["build"].stage, chain["build"].config)
    assert "--partition=cpu" in script
    assert "--gpus" not in script and "--mem-per-gpu" not in script
    assert "--array=0-3%4" in sbatch_script(chain["propose"].stage, chain["propose"].config)
    with pytest.raises(ConfigError, match=r"rc\.cluster\.where: all steps of a pipeline run in one place"):
        chain_in(tmp_path, "--rc.cluster.where", "here")


def test_verbose_reaches_every_job(tmp_path: Path) -> None:
    assert all(step.config.run.verbose for step in chain_in(tmp_path, "--verbose"))
    assert not any(step.config.run.verbose for step in chain_in(tmp_path))


def test_job_dependencies(tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    run_on_slurm(chain_in(tmp_path))
    assert queue.submitted == {
        "build": [],
        "rcp": ["afterok:11"],
        "propose": ["afterok:11", "afterok:12"],
        "rc": ["afterok:11"],
        "classify": ["afterany:13", "afterok:14"],
        "score": ["afterany:15"],
    }
    assert "classify  submitted as job 15 after 13, 14\n" in capsys.readouterr().out


# Dependencies of the jobs of PLUS, whose first job is 11.
CROSSFITTED = {
    "rcp": [],
    "split": [],
    "rcp-fold0": ["afterok:12"],
    "rcp-fold1": ["afterok:12"],
    "propose-fold0": ["afterok:12", "afterok:13"],
    "propose-fold1": ["afterok:12", "afterok:14"],
    "join": ["afterok:12", "afterany:15", "afterany:16"],
    "propose": ["afterok:11"],
    "rc": ["afterok:12"],
    "classify-held-out": ["afterok:12", "afterok:17", "afterok:19"],
    "fit": ["afterok:12", "afterok:17", "afterany:20"],
    "classify": ["afterany:18", "afterok:19", "afterok:21"],
    "score": ["afterany:22"],
}


def test_jobs_of_a_crossfitted_pipeline(tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(PLUS), "--run.folder", str(tmp_path), "--run", "all", "--where", "slurm"]
    chain = steps(read_pipeline(given))
    run_on_slurm(chain)
    assert queue.submitted == CROSSFITTED
    assert "classify-held-out  submitted as job 20 after 12, 17, 19\n" in capsys.readouterr().out
    # Repeated: only steps that have neither a result nor a job are submitted.
    queue.submitted.clear()
    for name in ("split", "rcp-fold0", "rcp-fold1", "propose-fold0"):
        done(tmp_path, next(step for step in chain if step.name == name))
    queue.active.pop("propose-fold1")
    run_on_slurm(chain)
    assert queue.submitted == {"propose-fold1": []}
    assert queue.waits_for["17"] == "afterany:24"
    lines = capsys.readouterr().out.splitlines()
    assert "propose-fold0      done" in lines and "propose-fold1      submitted as job 24" in lines


def test_jobs_without_a_gpu(tmp_path: Path) -> None:
    given = ["--config", str(PLUS), "--run.folder", str(tmp_path), "--where", "slurm", "--gpus", "8"]
    chain = steps(read_pipeline([*given, "--cpu_job.partition", "cpu"]))
    scripts = {step.name: sbatch_script(step.stage, plan_launch(step.stage, step.config).config) for step in chain}
    without = {name for name, script in scripts.items() if "--partition=cpu" in script and "--gpus" not in script}
    assert without == {"split", "join", "fit", "score"}


def test_preflight_of_a_crossfitted_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = fake_site(tmp_path / "site", monkeypatch)
    data = make_data(tmp_path)
    for part in ("train", "dev", "test"):
        options = ["--out", f"{tmp_path}/corpora/{part}", "--relations", data["relations"]]
        assert lmrc(["data", "build", data[part], *options]) == 0
    given = [*SMALL, "--run.folder", str(tmp_path / "runs"), *("--crossfit.held_out", "2")]
    given += [f"--data.{part}={tmp_path}/corpora/{part}" for part in ("train", "dev", "test")]
    assert main(given) == 2
    reason = (
        "split: one in 2 of the 8 documents of .*/train leaves 4 to fit a fusion on, .*: give at least 40 documents"
    )
    assert re.search(reason, capsys.readouterr().err)
    assert not list(jobs.iterdir())
    # Only what is there is checked: nothing else is missing, as earlier steps make it.
    monkeypatch.setattr("lmrc.launcher.stages.MIN_DOCUMENTS", 4)
    assert main(given) == 0
    assert len(list(jobs.iterdir())) == 13


def test_only_missing_steps_are_submitted(tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    chain = chain_in(tmp_path)
    done(tmp_path, chain[0])
    done(tmp_path, chain[1])
    chain[2].folder.prepare(chain[2].config)
    # Two arrays, as with more workers than MaxArraySize.
    queue.add("propose", "70_0", "RUNNING")
    queue.add("propose", "70_1")
    queue.add("propose", "71_0")
    run_on_slurm(chain)
    assert queue.submitted == {
        "rc": [],
        "classify": ["afterany:70", "afterany:71", "afterok:11"],
        "score": ["afterany:12"],
    }
    assert capsys.readouterr().out.splitlines() == [
        *("build     done", "rcp       done", "propose   running as job 70, 71", "rc        submitted as job 11"),
        *("classify  submitted as job 12 after 70, 71, 11", "score     submitted as job 13 after 12"),
    ]
    queue.submitted.clear()
    run_on_slurm(chain)
    assert queue.submitted == {}


def test_failed_step_is_resubmitted_and_dependencies_updated(tmp_path: Path, queue: Queue) -> None:
    chain = chain_in(tmp_path)
    run_on_slurm(chain)
    done(tmp_path, chain[0])
    done(tmp_path, chain[1])
    queue.end("propose")  # it failed; classify still depends on rc and would start when rc ends
    run_on_slurm(chain)
    assert queue.submitted["propose"] == []
    new = queue.active["propose"][0].id.partition("_")[0]
    assert new not in ("11", "12", "13", "14", "15", "16")
    assert queue.waits_for == {"15": f"afterany:{new},afterok:14", "16": "afterany:15"}


def test_running_step_keeps_its_dependencies(tmp_path: Path, queue: Queue) -> None:
    chain = chain_in(tmp_path)
    run_on_slurm(chain)
    queue.add("classify", "15_1", "RUNNING")
    run_on_slurm(chain)
    assert "15" not in queue.waits_for and "14" in queue.waits_for


def test_dry_run_changes_no_dependency(tmp_path: Path, queue: Queue) -> None:
    run_on_slurm(chain_in(tmp_path))
    run_on_slurm(chain_in(tmp_path), dry=True)
    assert queue.waits_for == {}


def test_job_with_failed_dependency_is_not_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (("15_0", "PENDING", "DependencyNeverSatisfied"), ("15_1", "PENDING", "Dependency"))
    rows = [f"{job:<64}{state:<32}{reason:<64}{0:<16}{'':<256}\n" for job, state, reason in lines]
    monkeypatch.setattr(slurm, "run_command", lambda *command: "".join(rows))
    History(tmp_path).add("submitted", job="15")
    assert [job.id for job in active_jobs(tmp_path)] == ["15_1"]


def test_active_jobs_are_in_the_order_of_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # squeue lists pending jobs first.
    lines = (("17", "PENDING", "Dependency"), ("16_1", "PENDING", "None"), ("16_0", "PENDING", "None"))
    rows = [f"{job:<64}{state:<32}{reason:<64}{0:<16}{'':<256}\n" for job, state, reason in lines]
    running = f"{'15':<64}{'RUNNING':<32}{'None':<64}{0:<16}{'n1':<256}\n"
    monkeypatch.setattr(slurm, "run_command", lambda *command: "".join([*rows, running]))
    for job in ("15", "16", "17"):
        History(tmp_path).add("submitted", job=job)
    assert [job.id for job in active_jobs(tmp_path)] == ["15", "16_1", "16_0", "17"]


def test_queued_or_done_step_refuses_other_options(tmp_path: Path, queue: Queue) -> None:
    run_on_slurm(chain_in(tmp_path))
    other = chain_in(tmp_path, "--rc.train.epochs", "3")
    with pytest.raises(RunError, match=r"rc was made by another config: train\.epochs \(was 8, now 3\)"):
        run_on_slurm(other)
    queue.end("rc")
    run_on_slurm(other)  # it had not started
    done(tmp_path, other[3])
    queue.end("rc")
    with pytest.raises(RunError, match=r"train\.epochs \(was 3, now 8\)"):
        run_on_slurm(chain_in(tmp_path))


def test_queued_step_of_another_user_is_refused(tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    run_on_slurm(chain_in(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    with pytest.raises(RunError, match=r"build was begun by .*, and you are user 987654"):
        run_on_slurm(chain_in(tmp_path))


def test_dry_run_lists_submissions(tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(PAPER), "--run.folder", str(tmp_path), "--where", "slurm", "--gpus", "16", "--nodes", "2"]
    assert main([*given, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "rcp       would be submitted to SLURM (16 tasks on 2 nodes)",
        "propose   would be submitted to SLURM (16 workers) after rcp",
        "rc        would be submitted to SLURM (16 tasks on 2 nodes)",
        "classify  would be submitted to SLURM (16 workers) after propose, rc",
        "score     would be submitted to SLURM (1 task) after classify",
    ]
    # The fake site names no type of its GPUs.
    assert lines[5:9] == ["", "Predicted:", "", "rcp: no prediction: the GPUs' type is not known: give --gpu-type"]
    assert queue.submitted == {}
    assert {entry.name for entry in tmp_path.iterdir()} == {"site"}


def test_steps_after_a_chain_wait_for_all_its_jobs(tmp_path: Path, queue: Queue) -> None:
    chain = chain_in(tmp_path)
    done(tmp_path, chain[0])
    for step, jobs in ((chain[1], ("50", "51")), (chain[2], ("60", "61"))):
        step.folder.prepare(step.config)
        for number, job in enumerate(jobs, 1):
            queue.add(step.config.run.name, job)
            fields = {"chain": "x", "number": number, "total": 2}
            History(step.folder.path).add("submitted", job=job, **fields)  # type: ignore[arg-type]
    run_on_slurm(chain)
    # The first job of a chain may end before the run is finished.
    assert queue.waits_for == {"60": "afterany:50,afterany:51", "61": "afterany:50,afterany:51,singleton"}
    assert queue.submitted["classify"] == ["afterany:60", "afterany:61", "afterok:11"]
    assert queue.after_runs["classify"] == ["propose", "rc"]


def test_preflight_error_of_a_step_submits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = fake_site(tmp_path / "site", monkeypatch)
    data = make_data(tmp_path)
    given = ["--config", str(ROOT / "configs/pipeline/smoke.yaml"), "--run.folder", str(tmp_path / "runs")]
    given += [f"--data.{part}={data[part]}" for part in ("train", "dev", "test", "relations")]
    wrong = ["--rcp.model.encoder", "./no", "--rc.lora.targets", "wq", "--classify.decode.backend", "vllm"]
    assert main([*given, *wrong]) == 2
    error = capsys.readouterr().err
    for reason in (
        "rcp: model.encoder: ./no: no such folder",
        "rc: lora.targets: wq",
        "classify: decode.backend is vllm",
    ):
        assert reason in error
    assert not list(jobs.iterdir()) and not (tmp_path / "runs").exists()
    # Outputs of earlier steps are not reported as missing.
    assert main(given) == 0
    assert len(list(jobs.iterdir())) == 6
    message = "8 examples per optimizer step, more than train.batch_size 4, so that each GPU has one"
    assert capsys.readouterr().out.count(message) == 2
    assert message in (tmp_path / "runs/pipeline-smoke/rcp/config.yaml").read_text()


def test_job_checks_its_inputs_when_it_starts(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    assert lmrc(["data", "build", data["test"], "--out", str(tmp_path / "c"), "--relations", data["relations"]]) == 0
    given: dict[str, Any] = {"corpus": tmp_path / "c", "candidates": tmp_path / "no", "run": {"folder": tmp_path}}
    (tmp_path / "log").mkdir()  # as the launcher and submitit leave the run folder
    (tmp_path / "config.yaml").write_text("corpus: c\n")
    config = ClassifyConfig.model_validate(given)
    with pytest.raises(UserError, match=f"{tmp_path}/no"):
        run_attempt(CLASSIFY, config, Attempt("77"))
    assert f"{tmp_path}/no" in attempt_outcome(tmp_path, Attempt("77")).cause


# Cross-fitting of tiny models. All pairs and relations are asked about, because such models know none.
SMALL = (
    *("--config", str(ROOT / "configs/pipeline/smoke.yaml"), "--crossfit.folds", "2", "--propose.threshold", "0"),
    *("--rcp.train.relation_weight", "1", "--rcp.train.epochs", "2", "--rcp.train.learning_rate", "1e-3"),
    *("--rcp.train.classifier_learning_rate", "1e-2", "--rc.prompt.kind", "likelihood", "--rc.train.keep", "last"),
    *("--rc.prompt.min_relation_probability", "0", "--rc.prompt.relations_per_pair", "20", "--rc.train.max_steps", "3"),
    *("--classify.system", "fused", "--classify.decode.mode", "score", "--classify.ask", "all"),
)


def make_data(folder: Path, train: int = 8) -> dict[str, str]:
    for seed, (part, count) in enumerate({"train": train, "dev": 3, "test": 4}.items()):
        assert lmrc(["data", "synth", "--docs", str(count), "--seed", str(seed), "--out", f"{folder}/{part}.json"]) == 0
    return {part: f"{folder}/{part}.json" for part in ("train", "dev", "test")} | {
        "relations": f"{folder}/train.relations.json"
    }


GROUP = ("--config", str(PAPER), "--run", "all", "--where", "slurm", "--gpus", "2", "--nodes", "1")


def group_states(queue: Queue, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Run the command with --json. Return its steps by name."""
    queue.submitted.clear()
    assert main([*GROUP, "--run.folder", str(folder), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    return {f"{step['member']}/{step['step']}" if step["member"] else step["step"]: step for step in found["steps"]}


def test_members_of_a_group_are_submitted_at_once(
    tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    found = group_states(queue, tmp_path, capsys, "--seeds", "1,2,3", "--at-once", "2")
    assert queue.submitted == {
        **{"seed1/rcp": [], "seed1/propose": ["afterok:11"], "seed1/rc": []},
        **{"seed1/classify": ["afterany:12", "afterok:13"], "seed1/score": ["afterany:14"]},
        **{"seed2/rcp": [], "seed2/propose": ["afterok:16"], "seed2/rc": []},
        **{"seed2/classify": ["afterany:17", "afterok:18"], "seed2/score": ["afterany:19"]},
        # After the first member, however that ends.
        **{"seed3/rcp": ["afterany:15"], "seed3/propose": ["afterok:21"], "seed3/rc": ["afterany:15"]},
        **{"seed3/classify": ["afterany:22", "afterok:23"], "seed3/score": ["afterany:24"]},
        "summary": ["afterany:15", "afterany:20", "afterany:25"],
    }
    assert found["seed2/rc"] == {
        **{"member": "seed2", "step": "rc", "run": f"{tmp_path}/all/seed2/rc", "state": "submitted"},
        **{"jobs": ["18"], "after": [], "where": "SLURM (2 tasks on 1 node)"},
    }
    assert found["summary"]["after"] == ["afterany:15", "afterany:20", "afterany:25"]


def test_a_failed_member_is_submitted_again_and_finished_ones_are_not(
    tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--seeds", "1,2")
    group_states(queue, tmp_path, capsys, *options)
    given = [*GROUP, "--run.folder", str(tmp_path), *options]
    chain, _ = pipeline.read_group(given, read_pipeline(given))
    for step in chain:
        if step.member == "seed1" or step.name == "seed2/rcp":
            done(tmp_path, step)
    queue.active.clear()
    # The summary of the first member alone is done too.
    summary = chain[-1]
    assert summary.group is not None
    summary.folder.finish({"group": summary.group.fingerprint, "unfinished": {"seed2": "rc failed"}})
    found = group_states(queue, tmp_path, capsys, *options)
    assert list(queue.submitted) == ["seed2/propose", "seed2/rc", "seed2/classify", "seed2/score", "summary"]
    assert {name for name, step in found.items() if step["state"] == "done"} == {
        *(f"seed1/{name}" for name in ("rcp", "propose", "rc", "classify", "score")),
        "seed2/rcp",
    }
    assert queue.submitted["summary"] == [f"afterany:{found['seed2/score']['jobs'][0]}"]
    # A member more: the queued summary waits for it too.
    found = group_states(queue, tmp_path, capsys, "--seeds", "1,2,3")
    assert "summary" not in queue.submitted
    (job,) = found["summary"]["jobs"]
    assert queue.waits_for[job] == ",".join(found["summary"]["after"])
    assert f"afterany:{found['seed3/score']['jobs'][0]}" in found["summary"]["after"]


def test_dry_run_of_a_group_writes_nothing(tmp_path: Path, queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*GROUP, "--run.folder", str(tmp_path), "--dry-run", "--sweep", "rc.lora.r=8,16"]
    assert main(given) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "would be" in line]
    assert len(lines) == 11
    assert lines[5] == "rc.r-16/rcp       would be submitted to SLURM (2 tasks on 1 node)"
    assert lines[-1] == "summary           would be submitted to SLURM (1 task) after rc.r-8/score, rc.r-16/score"
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["where"], found["run"]) == (True, "slurm", f"{tmp_path}/all")
    assert found["group"]["members"][1]["options"] == {"rc.lora.r": "16"}
    assert found["steps"][-1]["after"] == ["afterany:rc.r-8/score", "afterany:rc.r-16/score"]
    assert queue.submitted == {} and {entry.name for entry in tmp_path.iterdir()} == {"site"}


def test_common_checks_of_members_are_shown_once(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine(stage: Stage, config: StageConfig, made: frozenset[Path]) -> tuple[LaunchPlan, list[Check]]:
        own = [warning("seed 2", "")] if config.run.seed == 2 else []
        return plan_launch(stage, config), [ok(f"free for {config.run.folder}/rcp"), *own]

    monkeypatch.setattr(pipeline, "examine", examine)
    given = [*GROUP, "--run.folder", str(tmp_path), "--dry-run", "--seeds", "1,2,3"]
    assert main(given) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":") or "free" in line]
    assert shown[:2] == ["seed1/rcp:", f"ok       free for {tmp_path}/all/seed1/rcp"]
    assert [line for line in shown if line.startswith("seed")] == [
        *(f"seed{seed}/{step}:" for seed in (1, 2) for step in ("rcp", "propose", "rc", "classify", "score"))
    ]
    assert sum("free" in line for line in shown) == 6  # with that of the summary


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the steps that are launched on this machine. Each only writes its result; seed2/rc fails."""
    names: list[str] = []

    def launch(stage: Stage, config: StageConfig) -> None:
        name = Queue._name(config.run.folder / config.run.name)
        step = next(step for step in pipeline_chain if step.name == name)
        if step.result() is not None:
            return
        names.append(name)
        if name in broken:
            raise broken[name]
        step.folder.prepare(config)
        result = {"group": step.group.fingerprint, "unfinished": {}} if step.group is not None else {}
        step.folder.finish(result)

    pipeline_chain: list[Step] = []
    broken: dict[str, Exception] = {"seed2/rc": RuntimeError("no memory")}
    monkeypatch.setattr(pipeline, "launch", launch)
    monkeypatch.setattr(pipeline, "check_pipeline", lambda chain, dry=False: pipeline_chain.extend(chain))
    return names


HERE = ("--config", str(PAPER), "--run", "all", "--where", "here", "--seeds", "1,2,3")


def test_members_run_one_after_another_and_a_failed_one_does_not_hold_the_others(
    tmp_path: Path, launched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*HERE, "--run.folder", str(tmp_path), "--json"]) == 1
    steps = ("rcp", "propose", "rc", "classify", "score")
    whole = [f"seed{seed}/{step}" for seed in (1, 3) for step in steps]
    assert launched == [*whole[:5], "seed2/rcp", "seed2/propose", "seed2/rc", *whole[5:], "summary"]
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["failed"] == {"seed2": "rc: no memory"}
    states = {f"{step['member']}/{step['step']}": step["state"] for step in found["steps"]}
    assert (states["seed2/propose"], states["seed2/rc"], states["seed2/classify"]) == ("done", "failed", "waiting")
    assert shown.err.endswith(
        "2 of 3 members are finished, not seed2: rc: no memory. Repeat the command to run the others again\n"
    )
    assert "RuntimeError: no memory" in shown.err  # with its traceback


def test_a_step_outside_of_members_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[str]
) -> None:
    def launch(stage: Stage, config: StageConfig) -> None:
        raise UserError(f"{stage.name} failed")

    monkeypatch.setattr(pipeline, "launch", launch)
    monkeypatch.setattr(pipeline, "check_pipeline", lambda chain, dry=False: {})
    assert main([*HERE, "--run.folder", str(tmp_path), "--data.train", "train.json"]) == 2


@pytest.mark.slow
def test_group_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    given = ["--config", str(ROOT / "configs/pipeline/smoke.yaml"), "--where", "here", "--run", "all"]
    given += [f"--data.{name}={path}" for name, path in make_data(tmp_path).items()]
    given += ["--run.folder", str(tmp_path), "--seeds", "66,67", "--against", "seed66"]

    def launch(stage: Stage, config: StageConfig) -> None:
        if (config.run.seed, config.run.name) == (67, "rc"):
            raise UserError("no memory")
        real(stage, config)

    real = pipeline.launch
    monkeypatch.setattr(pipeline, "launch", launch)
    assert main(given) == 1
    home = tmp_path / "all"
    found = json.loads((home / "scores.json").read_text())
    assert [member["name"] for member in found["members"]] == ["seed66"]
    assert list(found["unfinished"]) == ["seed67"]

    monkeypatch.setattr(pipeline, "launch", real)
    capsys.readouterr()
    assert main(given) == 0
    shown = capsys.readouterr().out
    began = [run.partition("all/")[2] for run in begun_runs(shown)]
    assert began == ["seed67/rc", "seed67/classify", "seed67/score", "summary"]
    assert shown.endswith(f"Report: {home}/report.html\n")
    found = json.loads((home / "scores.json").read_text())
    (system,) = found["systems"]
    assert system["members"] == ["seed66", "seed67"] and found["unfinished"] == {}
    single = [json.loads((home / f"seed{seed}" / "scores.json").read_text())["f1"] for seed in (66, 67)]
    assert system["mean"]["f1"] == pytest.approx(sum(single) / 2)
    assert list(found["comparisons"]) == ["seed67"]
    assert {path.parent.name for path in home.glob("*/DONE")} == {"build", "summary"}


@pytest.mark.slow
def test_pipeline_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    given = ["--config", str(ROOT / "configs/pipeline/smoke.yaml"), "--where", "here", "--run", "all"]
    given += [f"--data.{name}={path}" for name, path in make_data(tmp_path).items()]
    given += ["--run.folder", str(tmp_path)]
    assert main(given) == 0
    home = tmp_path / "all"
    shown = capsys.readouterr().out
    assert shown.endswith(f"Report: {home}/report.html\n")
    assert "4 documents of" in shown
    for step in ("build", "rcp", "propose", "rc", "classify", "score"):
        assert (home / step / "DONE").exists(), step
    # The same scores as those of `lmrc score`.
    arguments = ["--gold", f"{home}/data/test", "--pred", f"{home}/classify/predictions.json"]
    arguments += ["--train-facts", f"{home}/data/train", "--json", f"{tmp_path}/scores.json"]
    arguments += ["--candidates", f"{home}/propose/candidates"]
    assert lmrc(["score", *arguments]) == 0
    assert json.loads((home / "scores.json").read_text()) == json.loads((tmp_path / "scores.json").read_text())
    page = (home / "report.html").read_text()
    assert all(word in page for word in ("Learning curves of rcp:", "Learning curves of rc:", "Documents"))
    assert (home / "tables" / "scores.tex").exists()

    # Repeated: only a step whose output was deleted runs again.
    capsys.readouterr()
    (home / "score" / "DONE").unlink()
    (home / "scores.json").unlink()
    assert main(given) == 0
    assert [Path(run).name for run in begun_runs(capsys.readouterr().out)] == ["score"]
    assert (home / "scores.json").exists()


@pytest.mark.slow
def test_crossfitted_pipeline_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    given = [*SMALL, "--where", "here", "--run", "all", "--run.folder", str(tmp_path), "--crossfit.held_out", "2"]
    given += [f"--data.{name}={path}" for name, path in make_data(tmp_path, train=60).items()]
    assert main(given) == 0
    home = tmp_path / "all"
    assert capsys.readouterr().out.endswith(f"Report: {home}/report.html\n")
    finished = {path.parent.name for path in home.glob("*/DONE")}
    assert finished == {"build", *CROSSFITTED}
    # The LM was trained and the fusion fitted on documents that together are the training documents.
    whole = [document.title for document in Corpus.open(home / "data" / "train")]
    parts = [Corpus.open(home / "split" / "data" / "lm" / part) for part in ("train", "held-out")]
    assert sorted(document.title for part in parts for document in part) == sorted(whole)
    assert len(parts[1]) == 30
    fusion = Fusion.read(home / "fit" / "fusion.json")
    assert fusion.fitted_on.corpus_fingerprint == parts[1].fingerprint and fusion.fitted_on.documents == 30
    answered = json.loads((home / "classify" / "DONE").read_text())
    assert answered["pairs"] > 0 and answered["asked_share"] > 0
    assert (home / "scores.json").exists()

    # Repeated: only a step without a result runs again.
    before = (home / "fit" / "fusion.json").read_bytes()
    for name in ("split", "join", "fit"):
        (home / name / "DONE").unlink()
    shutil.rmtree(home / "join" / "candidates" / "held-out")
    assert main(given) == 0
    assert [Path(run).name for run in begun_runs(capsys.readouterr().out)] == ["split", "join", "fit"]
    assert (home / "fit" / "fusion.json").read_bytes() == before
    assert main([*given, "--crossfit.folds", "3"]) == 2
    assert "split was made by another config: folds (was 2, now 3)" in capsys.readouterr().err
