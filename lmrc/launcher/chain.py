"""The steps of a pipeline: the stages with their configs, each with the steps that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common.errors import ConfigError
from lmrc.config.schema import (
    BuildConfig,
    ClusterOptions,
    FitConfig,
    JoinConfig,
    PipelineConfig,
    RunOptions,
    ScoreConfig,
    SplitConfig,
    SummaryConfig,
    TrainingData,
)
from lmrc.corpus.folds import HELD_OUT, TRAIN
from lmrc.corpus.reading.raw_documents import SUFFIXES
from lmrc.launcher.group.record import Group
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.stages import (
    BUILD,
    CLASSIFY,
    FIT,
    FOLDS,
    FUSION,
    JOIN,
    JOINED,
    LM_PARTS,
    PROPOSE,
    RC,
    RCP,
    SCORE,
    SPLIT,
    Stage,
    StageConfig,
)
from lmrc.runs.run_folder import RunFolder

# Run of classify over the documents that the fusion is fitted on.
ANSWERS = "classify-held-out"


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline with its config, and the names of the steps that it depends on.

    Attributes:
        after: steps that must have finished.
        when_ended: steps that must have ended, well or not.
        member: member of a group that the step belongs to; empty for a single pipeline.
        group: for the summary of a group, its members, which may change until it has run.
    """

    stage: Stage
    config: StageConfig
    after: tuple[str, ...]
    when_ended: tuple[str, ...] = ()
    member: str = ""
    group: Group | None = None

    @property
    def name(self) -> str:
        """Return the name of the run folder, after that of the member."""
        return f"{self.member}/{self.config.run.name}" if self.member else self.config.run.name

    def result(self) -> dict[str, Any] | None:
        """Return the content of DONE; None if the step has to run, as a summary that lacks a member has."""
        result = self.folder.result()
        if result is None or self.group is None:
            return result
        return result if result["group"] == self.group.fingerprint and not result["unfinished"] else None

    def record_group(self) -> None:
        """For a summary, write the list of members, and remove a result that lacks one of them."""
        if isinstance(self.config, SummaryConfig) and self.group is not None:
            self.group.write(self.config.group)
            if self.result() is None:
                (self.folder.path / "DONE").unlink(missing_ok=True)

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Return the paths that this step writes and later steps read."""
        home, config = self.folder.path, self.config
        if isinstance(config, BuildConfig):
            return tuple(config.corpora / name for name in config.documents)
        if isinstance(config, SplitConfig):
            parts = [home / LM_PARTS, *(home / FOLDS / str(fold) for fold in range(config.folds))]
            return tuple(part / name for part in parts for name in (TRAIN, HELD_OUT))
        if isinstance(config, JoinConfig):
            return tuple(home / JOINED / name for name in config.parts)
        outputs = {RCP: home / "best", RC: home / "best", PROPOSE: home / "candidates", CLASSIFY: home}
        outputs |= {FIT: home / FUSION}
        return (outputs[self.stage],) if self.stage in outputs else ()

    @property
    def folder(self) -> RunFolder:
        """Return the step's run folder."""
        return RunFolder.of(self.config.run)


def is_on_slurm(config: PipelineConfig) -> bool:
    """Return True if the steps are submitted to SLURM.

    Raises:
        ConfigError: a step has its own `cluster.where`.
    """
    where = config.cluster.where
    for name in ("rcp", "propose", "rc", "classify"):
        if "where" in getattr(config, name).cluster.model_fields_set:
            raise ConfigError(f"{name}.cluster.where: all steps of a pipeline run in one place; give --where alone")
    return where == "slurm" or (where == "auto" and slurm.is_available())


def steps(config: PipelineConfig) -> list[Step]:
    """Return the steps in an order in which each comes after those that it depends on.

    Raises:
        ConfigError: the options of the stages do not fit together.
    """
    if problems := list(_problems(config)):
        raise ConfigError("; ".join(problems))
    chain = _Chain(config)
    home, test, is_crossfitted = chain.home, chain.corpora["test"], config.crossfit.folds > 0
    if chain.documents:
        build = BuildConfig(
            documents=chain.documents, relations=config.data.relations, fix=config.data.fix, corpora=home / "data"
        )
        chain.add(BUILD, BUILD.name, build)
    chain.add(RCP, RCP.name, config.rcp, "build", data=chain.data)
    if is_crossfitted:
        _add_folds(chain)
    chain.add(PROPOSE, PROPOSE.name, config.propose, "build", "rcp", corpus=test, rcp=home / RCP.name / "best")
    if is_crossfitted:
        _add_lm(chain)
    else:
        data = TrainingData(train=chain.data.train, dev=chain.data.dev)
        chain.add(RC, RC.name, config.rc, "build", data=data)
    inputs = {"candidates": home / PROPOSE.name / "candidates", "rc": home / RC.name / "best"}
    after = ["propose", "rc"]
    if is_crossfitted and config.classify.system != "rc":
        _add_fit(chain)
        inputs["fusion"] = home / FIT.name / FUSION
        after.append("fit")
    chain.add(CLASSIFY, CLASSIFY.name, config.classify, *after, corpus=test, **inputs)
    score = ScoreConfig(
        classify=home / CLASSIFY.name,
        trained=(home / RCP.name, home / RC.name),
        train=chain.data.train,
        ign_variant=config.ign_variant,
        out=home,
    )
    chain.add(SCORE, SCORE.name, score, "classify")
    return chain.steps


class _Chain:
    """The steps so far.

    Attributes:
        documents: documents to build corpora from, by name of the corpus.
        corpora: corpora of train, dev and test.
        data: corpora of the encoder that is evaluated.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.home = config, RunFolder.of(config.run).path
        paths = {"train": config.data.train, "dev": config.data.dev, "test": config.data.test}
        self.documents = {part: path for part, path in paths.items() if path.name.endswith(SUFFIXES)}
        self.corpora = {
            part: self.home / "data" / part if part in self.documents else path for part, path in paths.items()
        }
        self.data = TrainingData(train=self.corpora["train"], dev=self.corpora["dev"])
        self.steps: list[Step] = []
        self._is_on_slurm = is_on_slurm(config)

    def add(self, stage: Stage, name: str, options: StageConfig, *after: str, **inputs: Any) -> None:
        """Add a step that depends on others, with its inputs set in its options."""
        config = self.config
        own = config.cpu_job if stage.run else options.cluster
        where = {"where": "slurm"} if self._is_on_slurm else {"where": "here"} if stage.run else {}
        overrides = {
            "run": RunOptions(name=name, folder=self.home, seed=config.run.seed, verbose=config.run.verbose),
            "cluster": config.cluster.model_copy(update=_set_options(own) | where),
            **inputs,
        }
        dependencies = tuple(step for step in after if self.documents or step != BUILD.name)
        self.steps.append(Step(stage, options.model_copy(update=overrides), dependencies))


def _add_folds(chain: _Chain) -> None:
    """Add the steps that propose candidates for held-out documents by encoders that were not trained on them."""
    config, home, split = chain.config, chain.home, chain.home / SPLIT.name
    options = config.crossfit
    parts = SplitConfig(corpus=chain.data.train, folds=options.folds, held_out=options.held_out)
    chain.add(SPLIT, SPLIT.name, parts, "build")
    folds = range(options.folds)
    for fold in folds:
        data = TrainingData(train=split / FOLDS / str(fold) / TRAIN, dev=chain.data.dev)
        chain.add(RCP, f"rcp-fold{fold}", config.rcp, "build", "split", data=data)
    for fold in folds:
        inputs = {"corpus": split / FOLDS / str(fold) / HELD_OUT, "rcp": home / f"rcp-fold{fold}" / "best"}
        chain.add(PROPOSE, f"propose-fold{fold}", config.propose, "split", f"rcp-fold{fold}", **inputs)
    join = JoinConfig(
        proposed=tuple(home / f"propose-fold{fold}" / "candidates" for fold in folds),
        parts={HELD_OUT: split / LM_PARTS / HELD_OUT},
    )
    chain.add(JOIN, JOIN.name, join, "split", *(f"propose-fold{fold}" for fold in folds))


def _add_lm(chain: _Chain) -> None:
    """Add the training of the LM on its part of the training documents."""
    parts = chain.home / SPLIT.name / LM_PARTS
    data = TrainingData(train=parts / TRAIN, dev=parts / HELD_OUT)
    chain.add(RC, RC.name, chain.config.rc, "split", data=data)


def _add_fit(chain: _Chain) -> None:
    """Add the steps that fit the fusion on the training documents kept from the LM."""
    home, options = chain.home, chain.config.classify
    corpus = home / SPLIT.name / LM_PARTS / HELD_OUT
    candidates = home / JOIN.name / JOINED / HELD_OUT
    alone = {
        **{"system": "rc", "ask": "band", "precision": None, "documents": None},
        "decode": options.decode.model_copy(update={"mode": "score"}),
    }
    inputs = {"corpus": corpus, "candidates": candidates, "rc": home / RC.name / "best"}
    chain.add(CLASSIFY, ANSWERS, options, "split", "join", "rc", **alone, **inputs)
    fit = FitConfig(corpus=corpus, candidates=candidates, answers=home / ANSWERS)
    chain.add(FIT, FIT.name, fit, "split", "join", ANSWERS)


def _problems(config: PipelineConfig) -> Iterator[str]:
    """Yield a sentence for each option that does not fit the others."""
    data = config.data
    if data.fix and not any(path.name.endswith(SUFFIXES) for path in (data.train, data.dev, data.test)):
        yield "--data.fix has no effect: train, dev and test are corpora, and nothing is built; leave it out"
    folds, classify, kind = config.crossfit.folds, config.classify, config.rc.prompt.kind
    readers = {
        f"crossfit.folds {folds}": ("--crossfit.folds 0", folds > 0),
        f"classify.system {classify.system}": ("--classify.system rc", classify.system != "rc"),
        f"rc.prompt.kind {kind}": ("--rc.prompt.kind rc", kind == "likelihood"),
    }
    what, instead = next(((name, other) for name, (other, reads) in readers.items() if reads), ("", ""))
    if what and not config.rcp.train.relation_weight:
        yield (
            f"{what} needs the relation head of RCP: give --rcp.train.relation-weight 1 (any weight above 0), or "
            f"{instead}"
        )
    if kind == "rcp-llm":
        yield (
            "an LM with rc.prompt.kind rcp-llm says Yes or No to a pair, but the pipeline's LM names relations: give "
            "--rc.prompt.kind rc, or use launch/rc.py and launch/classify.py"
        )
    if not folds:
        if classify.system == "fused" and classify.fusion is None:
            yield (
                "classify.system fused needs a fusion: give --crossfit.folds 2, which fits one, or --classify.fusion, "
                "the file of lmrc fusion fit"
            )
        return
    decode = classify.decode
    if classify.asks_lm and (decode.mode != "score" or decode.backend == "openai"):
        yield (
            f"crossfit.folds {folds} needs the LM's probability of each relation: give --classify.decode.mode score "
            "and --classify.decode.backend hf or vllm"
        )


def _set_options(options: ClusterOptions) -> dict[str, Any]:
    """Return the options that were given, without defaults."""
    return {name: getattr(options, name) for name in options.model_fields_set}
