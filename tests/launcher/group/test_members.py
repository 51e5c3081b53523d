from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import SummaryConfig
from lmrc.launcher.chain import Step
from lmrc.launcher.group.record import Group
from lmrc.launcher.pipeline import read_group, read_pipeline
from tests.conftest import ROOT

PAPER = ROOT / "configs/pipeline/redocred-13b.yaml"


def group_in(folder: Path, *options: str) -> tuple[list[Step], Group]:
    given = ["--config", str(PAPER), "--run.folder", str(folder), "--run", "all", "--where", "slurm", *options]
    return read_group(given, read_pipeline(given))


def test_a_pipeline_per_seed(tmp_path: Path) -> None:
    chain, group = group_in(tmp_path, "--seeds", "66,67")
    assert [(member.name, member.system, member.seed) for member in group.members] == [
        ("seed66", "all", 66),
        ("seed67", "all", 67),
    ]
    steps = {step.name: step for step in chain}
    assert list(steps) == [
        *(f"seed{seed}/{name}" for seed in (66, 67) for name in ("rcp", "propose", "rc", "classify", "score")),
        "summary",
    ]
    second = steps["seed67/classify"]
    assert second.after == ("seed67/propose", "seed67/rc")
    assert second.folder.path == tmp_path / "all" / "seed67" / "classify"
    assert second.config.candidates == tmp_path / "all" / "seed67" / "propose" / "candidates"  # type: ignore[union-attr]
    assert {step.config.run.seed for step in chain if step.member == "seed67"} == {67}
    assert (steps["summary"].after, steps["summary"].when_ended) == ((), ("seed66/score", "seed67/score"))


def test_a_sweep_is_a_grid_with_all_seeds(tmp_path: Path) -> None:
    chain, group = group_in(
        tmp_path, *("--seeds", "1,2", "--sweep", "rcp.train.learning_rate=1e-5,3e-5", "--sweep", "rc.lora.r=8,16")
    )
    assert len(group.members) == 8
    assert [member.name for member in group.members[:3]] == [
        "rcp.learning_rate-1e-5_rc.r-8_seed1",
        "rcp.learning_rate-1e-5_rc.r-8_seed2",
        "rcp.learning_rate-1e-5_rc.r-16_seed1",
    ]
    last = {step.config.run.name: step.config for step in chain if step.member == group.members[-1].name}
    assert last["rcp"].train.learning_rate == 3e-5  # type: ignore[union-attr]
    assert last["rc"].lora.r == 16  # type: ignore[union-attr]
    assert group.members[-1].options == {"rcp.train.learning_rate": "3e-5", "rc.lora.r": "16"}


def test_a_sweep_without_seeds_has_the_seed_of_the_run(tmp_path: Path) -> None:
    _, group = group_in(tmp_path, "--run.seed", "7", "--sweep", "rc.lora.r=8,16")
    assert [(member.name, member.seed) for member in group.members] == [("rc.r-8", 7), ("rc.r-16", 7)]


def test_names_of_folders(tmp_path: Path) -> None:
    _, group = group_in(tmp_path, "--sweep", "rcp.train.epochs=1,2 rc.train.epochs=3 rc.model.base=a/b")
    assert [member.name for member in group.members] == [
        "rcp.epochs-1_rc.epochs-3_rc.base-a-b",
        "rcp.epochs-2_rc.epochs-3_rc.base-a-b",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--sweep", "train.learning_rate=1e-5"],
            r"train\.learning_rate: which stage\? Give rcp\.train\.learning_rate or rc\.train\.learning_rate",
        ),
        (["--sweep", "rc.train.learning_rat=1"], r"unknown option; did you mean rc\.train\.learning_rate\?"),
        (["--sweep", "run.seed=1,2"], "give --seeds"),
        (["--sweep", "data.train=a,b"], "and not in their data or where they run"),
        (["--sweep", "rc.cluster.gpus=1,2"], "and not in their data or where they run"),
        (["--sweep", "rc.lora.targets=q_proj,k_proj"], "its values hold commas themselves"),
        (["--sweep", "rc.lora.r=8,8"], r"gives the folder rc\.r-8 twice"),
        (["--sweep", "rc.lora.r=8", "--sweep", "rc.lora.r=16"], r"--sweep gives rc\.lora\.r twice"),
        (["--sweep", "rc.lora.r=8", "--rc.lora.r", "4"], r"--rc\.lora\.r is given besides --sweep"),
        (["--sweep", "rc.lora.r=8,many"], r"rc\.r-many: rc\.lora\.r is 'many'"),
        (["--sweep", "propose.corpus=a"], r"propose\.corpus-a: --propose\.corpus has no effect: the pipeline sets it"),
        (["--sweep", "classify.system=rc,encoder"], r"classify\.system-encoder: .*needs the relation head"),
        (["--seeds", "1,2", "--against", "seed3"], r"--against seed3 is neither a member .*did you mean seed[12]\?"),
    ],
)
def test_wrong_groups_are_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        group_in(tmp_path, *options)


def test_corpora_are_built_once_for_all_members(tmp_path: Path) -> None:
    chain, _ = group_in(tmp_path, "--seeds", "1,2", "--data.train", "train.json", "--at-once", "1")
    build, *rest = chain
    assert (build.name, build.folder.path) == ("build", tmp_path / "all" / "build")
    assert [step.name for step in rest if "build" in step.name] == []
    trainings = [step for step in rest if step.stage.trains]
    assert {step.config.data.train for step in trainings} == {tmp_path / "all" / "data" / "train"}  # type: ignore[union-attr]
    assert {step.after for step in trainings} == {("build",)}


def test_at_most_so_many_members_at_once(tmp_path: Path) -> None:
    chain, _ = group_in(tmp_path, "--seeds", "1,2,3,4", "--at-once", "2")
    waits = {step.name: step.when_ended for step in chain if step.config.run.name in ("rcp", "propose", "rc")}
    # Steps after the first ones of a member wait through these.
    assert waits["seed3/rcp"] == waits["seed3/rc"] == ("seed1/score",)
    assert waits["seed4/rcp"] == ("seed2/score",)
    assert {waits[f"seed{seed}/{name}"] for seed in (1, 2) for name in ("rcp", "rc")} == {()}
    assert {waits[f"seed{seed}/propose"] for seed in (1, 2, 3, 4)} == {()}


def test_the_reference_is_a_member_or_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert group_in(tmp_path, "--seeds", "1,2", "--against", "seed2")[1].against == "seed2"
    assert group_in(tmp_path, "--sweep", "rc.lora.r=8,16", "--seeds", "1", "--against", "rc.r-8")[1].against == "rc.r-8"
    (tmp_path / "other" / "classify").mkdir(parents=True)
    (tmp_path / "other" / "classify" / "predictions.json").touch()
    monkeypatch.chdir(tmp_path)
    assert group_in(tmp_path, "--seeds", "1", "--against", "other")[1].against == str(tmp_path / "other")


def test_the_summary_runs_again_for_other_members(tmp_path: Path) -> None:
    def summary(*options: str) -> Step:
        return group_in(tmp_path, *options)[0][-1]

    first = summary("--seeds", "1,2")
    assert isinstance(first.config, SummaryConfig)
    first.record_group()
    first.folder.prepare(first.config)
    assert first.group is not None
    first.folder.finish({"group": first.group.fingerprint, "unfinished": {}})
    assert first.result() is not None
    more = summary("--seeds", "1,2,3")
    assert more.result() is None and first.folder.result() is not None
    more.record_group()
    assert more.folder.result() is None
    assert len(Group.read(tmp_path / "all" / "group.json").members) == 3
    more.folder.prepare(more.config)  # with the options of the first one
    more.folder.finish({"group": more.group.fingerprint, "unfinished": {"seed3": "rcp failed"}})  # type: ignore[union-attr]
    assert more.result() is None


def test_documents_are_mended_once_for_all_members(tmp_path: Path) -> None:
    chain, _ = group_in(tmp_path, "--seeds", "66,67", "--data.train", "train.json", "--data.fix")
    assert [step.config.fix for step in chain if step.name == "build"] == [True]  # type: ignore[union-attr]
