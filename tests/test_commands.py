"""Every launch command of the documentation passes the pre-flight on sites with eight and with four GPUs per node.

The data and models in the commands are replaced by small ones; the paper's models have their real configs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from lmrc.common.cache import cache_folder
from lmrc.config.loader import split_flags
from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.corpus.candidates import write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.launcher import pipeline
from lmrc.launcher.launch import read_config
from lmrc.launcher.model_shapes import KNOWN_CONFIGS
from lmrc.launcher.preflight import examine
from lmrc.launcher.preflight.evaluation import evaluated_corpus
from lmrc.launcher.stages import STAGES, StageConfig
from lmrc.pretrained.packaged import resolve
from tests.conftest import ROOT
from tests.launcher.preflight.test_hub import make_cached
from tests.launcher.site import Partition, fake_site
from tests.rc.test_fused import fusion
from tests.slurm.harness import write_data, write_models
from tests.test_readme import PAGES
from tests.test_readme import commands as commands_of_pages

FLAGS = ("--dry-run", "--follow")


def launches() -> list[str]:
    """Return the launch commands in the pages, docstrings and configs."""
    found = [command for _, command in commands_of_pages()]
    for path in [*PAGES, *ROOT.glob("launch/*.py"), *ROOT.glob("lmrc/**/*.py"), *ROOT.glob("configs/**/*.yaml")]:
        found += re.findall(r"`((?:python launch/|sbatch slurm/)[^`]+)`", path.read_text())
    wanted = [word for word in dict.fromkeys(found) if word.startswith(("python launch/", "sbatch slurm/"))]
    # Forms of a command, --help, and the commands of model cards, which name no real paths.
    return [word for word in wanted if not re.search(r"FOLDER|config\.yaml|…|\[|--help", word)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make small corpora data/{train,dev}, runs rcp and rc, and cached models with the paper's names."""
    folder = tmp_path_factory.mktemp("small")
    write_data(folder / "data", documents=6)
    # Cross-fitting needs some held-out documents.
    write_data(folder / "many", documents=200)
    write_models(folder, folder / "data")
    for name, options in KNOWN_CONFIGS.items():
        if name.startswith("embedded:"):
            continue
        tiny = Path(resolve(f"embedded:{'tiny-llm' if 'lama' in name or 'mistral' in name else 'tiny-encoder'}"))
        snapshot = make_cached(folder / "cache", name, "pytorch_model.bin")
        for file in tiny.glob("tokenizer*"):
            shutil.copy(file, snapshot / file.name)
        (snapshot / "config.json").write_text(json.dumps(options))
    return folder


@pytest.fixture
def home(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder in which the commands are typed."""
    home = tmp_path / "home"
    home.mkdir()
    for part in ("configs", "launch", "slurm"):
        (home / part).symlink_to(ROOT / part)
    monkeypatch.chdir(home)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(small / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(small / "cache"))
    # The cache folder of configs/cluster/example.yaml is in the home folder.
    own = tmp_path / "user" / ".cache" / "lmrc" / "huggingface"
    own.mkdir(parents=True)
    (own / "hub").symlink_to(small / "cache")
    monkeypatch.setenv("LMRC_CACHE", str(cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("OPENAI_API_KEY", "none-of-anybody")
    yield home


def link(path: Path, target: Path) -> None:
    """Link a prepared file or folder to the path in a command."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def make_ready(config: StageConfig, small: Path) -> None:
    """Make the inputs of a stage at the paths in its config."""
    if isinstance(config, (RcpConfig, RcConfig)):
        link(config.data.train, small / "data" / "train")
        link(config.data.dev, small / "data" / "dev")
    if str(config.cluster.container or "").endswith(".sif"):
        Path(str(config.cluster.container)).touch()
    if isinstance(config, (ProposeConfig, ClassifyConfig)):
        link(config.corpus, small / "data" / "dev")
    if isinstance(config, ProposeConfig):
        link(config.rcp, small / "rcp" / "best")
    if isinstance(config, ClassifyConfig):
        if config.rc is not None:
            link(config.rc, small / "rc" / "best")
        if config.few_shot.examples:
            link(config.few_shot.corpus, small / "data" / "train")
        if config.candidates is not None and not config.candidates.exists():
            corpus = Corpus.open(config.corpus)
            rows = [(document.title, []) for document in corpus]
            write_candidates(rows, config.candidates, corpus.fingerprint, 0.5)
        if config.fusion is not None and not config.fusion.exists():
            relations = Corpus.open(config.corpus).relations.sha256
            fitted_on = fusion().fitted_on.model_copy(update={"relations_sha256": relations})
            fusion(fitted_on=fitted_on).save(config.fusion)


@pytest.mark.parametrize("gpus", [8, 4])
@pytest.mark.parametrize("command", launches())
def test_launch_passes_the_preflight(
    command: str, gpus: int, small: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = fake_site(tmp_path / "site", monkeypatch, Partition(gres=f"gpu:{gpus}(S:0-1)", nodes=8))
    program, script, *words = shlex.split(command)
    _, options = split_flags(words, FLAGS)
    stage = Path(script).stem
    if program == "sbatch":
        run = Path(options[0]) if options else Path("runs")
        for trained in ("rcp", "rc"):
            link(run / trained, small / trained)
        dataset = [Path(word) for word in options[1:]]
        for path in dataset:
            link(path, small / "data" / "dev")
        assert evaluated_corpus(run, dataset[0] if dataset else None).name in ("dev", "train")
        return
    if stage == "pipeline":
        config = pipeline.read_pipeline([*options, "--where", "slurm"])
        for part in ("train", "dev", "test"):
            path = getattr(config.data, part)
            if path.suffix == ".json":
                path.write_text("[]")
            else:
                folder = small / ("many" if config.crossfit.folds else "data")
                link(path, folder / ("train" if part == "train" else "dev"))
        pipeline.run_on_slurm(pipeline.steps(config), dry=True)
        return
    read = read_config(STAGES[stage], [*options, "--where", "slurm"])
    make_ready(read, small)
    plan, checks = examine(STAGES[stage], read)
    wrong = [str(check) for check in checks if check.level == "missing"]
    assert not wrong, wrong
    assert plan is not None
    if isinstance(plan.config, (RcpConfig, RcConfig)):
        assert plan.processes <= plan.config.train.examples_per_step
    assert not list(jobs.iterdir()) and not (home / "runs" / read.run.name / "config.yaml").exists()


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_config_passes_the_preflight(
    path: Path, small: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"rcp": "rcp", "rc": "rc", "direct": "rc", "rcp-llm": "rc", "rc-gold": "classify", "few-shot": "classify"}
    if path.parent.name not in stages:
        pytest.skip("part of another config, or a pipeline, which has its own commands")
    fake_site(tmp_path / "site", monkeypatch)
    stage = STAGES[stages[path.parent.name]]
    config = read_config(stage, ["--config", str(path), "--where", "slurm"])
    make_ready(config, small)
    _, checks = examine(stage, config)
    assert not [str(check) for check in checks if check.level == "missing"]


def test_launches_are_found() -> None:
    found = launches()
    assert len(found) >= 12
    assert "sbatch slurm/eval.sh" in found
    assert {Path(command.split()[1]).stem for command in found} >= {"rcp", "rc", "propose", "classify", "pipeline"}
