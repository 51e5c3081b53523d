"""The stages that can be launched: their options, the check of their inputs, and the function each process runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.common.input_checks import check_model
from lmrc.config.schema import (
    BuildConfig,
    ClassifyConfig,
    FitConfig,
    JoinConfig,
    ProposeConfig,
    RcConfig,
    RcpConfig,
    ScoreConfig,
    SplitConfig,
    SummaryConfig,
)
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.fusion.inputs import MIN_DOCUMENTS, SCORES
from lmrc.fusion.model import Fusion
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from lmrc.inference.protocol import Inference
    from lmrc.training.distributed import World
    from lmrc.training.task import Task

logger = logging.getLogger(__name__)

StageConfig = (
    RcpConfig
    | RcConfig
    | ProposeConfig
    | ClassifyConfig
    | BuildConfig
    | SplitConfig
    | JoinConfig
    | FitConfig
    | ScoreConfig
    | SummaryConfig
)

# Folders and files in the run folders of split, join and fit.
FOLDS = Path("data") / "folds"
LM_PARTS = Path("data") / "lm"
JOINED = Path("candidates")
FUSION = Path("fusion.json")


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline. Exactly one of `train`, `infer` and `run` is set.

    Attributes:
        check: raise UserError if an input is missing. Called before a launch and again when a job starts.
        train: train in every rank. Its result is written to DONE.
        infer: return the inference, whose documents any number of workers share.
        run: run in one process without a GPU. Its result is written to DONE.
    """

    name: str
    config_class: type[StageConfig]
    check: Callable[[Any], None]
    train: Callable[[Any, World], dict[str, Any]] | None = None
    infer: Callable[[Any], Inference] | None = None
    run: Callable[[Any], dict[str, Any]] | None = None

    @property
    def trains(self) -> bool:
        """Return True if the processes are ranks of one process group, rather than independent workers."""
        return self.train is not None


def gpus_per_process(config: StageConfig) -> int:
    """Return the GPUs per process: `decode.gpus_per_worker` for classify, else one."""
    return config.decode.gpus_per_worker if isinstance(config, ClassifyConfig) else 1


def _check_training(config: RcpConfig | RcConfig) -> None:
    for folder in (config.data.train, config.data.dev):
        Corpus.open(folder)


def _check_propose(config: ProposeConfig) -> None:
    Corpus.open(config.corpus)
    check_model(config.rcp, "rcp")


def _check_classify(config: ClassifyConfig) -> None:
    corpus = Corpus.open(config.corpus)
    if config.candidates is not None:
        Candidates.open(config.candidates).check(corpus)
    if config.fusion is not None:
        Fusion.read(config.fusion)
    if config.asks_lm and config.rc is not None:
        check_model(config.rc, "rc")
        AdapterMetadata.read_for(config.rc, config.prompt).check_corpus(config.rc, corpus)


def _check_build(config: BuildConfig) -> None:
    from lmrc.corpus.reading.raw_documents import RawDocuments
    from lmrc.corpus.relations import read_relations

    for path in config.documents.values():
        # The first document: the file is there and holds what it should.
        next(RawDocuments(path), None)
    if config.relations is not None:
        read_relations(config.relations)


def _check_split(config: SplitConfig) -> None:
    check_parts(config, Corpus.open(config.corpus))


def check_parts(config: SplitConfig, corpus: Corpus) -> None:
    """Check that the corpus has documents for each fold, and enough held-out ones to fit a fusion on.

    Raises:
        UserError: it has too few.
    """
    held_out = len(corpus) // config.held_out
    if held_out < MIN_DOCUMENTS:
        most = len(corpus) // MIN_DOCUMENTS
        remedy = f"--crossfit.held-out {most} or less" if most >= 2 else f"at least {2 * MIN_DOCUMENTS} documents"
        raise UserError(
            f"one in {config.held_out} of the {len(corpus):,} documents of {config.corpus} leaves {held_out} to fit a "
            f"fusion on, which needs {MIN_DOCUMENTS}: give {remedy}"
        )
    if config.folds > len(corpus):
        raise UserError(
            f"crossfit.folds is {config.folds}, but {config.corpus} has {len(corpus):,} documents: give fewer"
        )


def _check_join(config: JoinConfig) -> None:
    for folder in config.proposed:
        Candidates.open(folder)
    for corpus in config.parts.values():
        Corpus.open(corpus)


def _check_fit(config: FitConfig) -> None:
    Candidates.open(config.candidates).check(Corpus.open(config.corpus))
    if RunFolder(config.answers).result() is None or not (config.answers / SCORES).is_file():
        raise UserError(f"{config.answers} has not scored all candidates: repeat the command of the pipeline")


def _check_score(config: ScoreConfig) -> None:
    Corpus.open(config.train)
    if not (config.classify / "predictions.json").is_file():
        raise UserError(f"{config.classify} has no predictions.json: finish launch/classify.py there first")


def _check_summary(config: SummaryConfig) -> None:
    if not config.group.is_file():
        raise UserError(f"{config.group} does not list the members of the group: repeat the command of the pipeline")
    Corpus.open(config.train)


def quieten() -> None:
    """Turn off progress bars and deprecation warnings of the libraries; the trainer logs its own progress."""
    import warnings

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # peft uses a name that transformers has deprecated; the user cannot change that.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


# Import torch and transformers only when a stage runs, so that --help is fast.
def _train(
    config: RcpConfig | RcConfig, world: World, make_task: Callable[[Any, Corpus, Corpus, World], Task]
) -> dict[str, Any]:
    from lmrc.runs.run_folder import RunFolder
    from lmrc.training.trainer import seed_everything, train

    quieten()
    train_corpus, dev_corpus = Corpus.open(config.data.train), Corpus.open(config.data.dev)
    seed_everything(config.run.seed)
    task = make_task(config, train_corpus, dev_corpus, world)
    return train(task, config.train, config.run.seed, RunFolder.of(config.run), world)


def _train_rcp(config: RcpConfig, world: World) -> dict[str, Any]:
    from lmrc.rcp.task import RcpTask

    return _train(config, world, lambda config, train, dev, _: RcpTask(config, train, dev))


def _train_rc(config: RcConfig, world: World) -> dict[str, Any]:
    from lmrc.rc.task import RcTask
    from lmrc.training.backends.factory import loading

    def make_task(config: RcConfig, train: Corpus, dev: Corpus, world: World) -> Task:
        with loading(config.train, world):
            return RcTask(config, train, dev)

    return _train(config, world, make_task)


def _propose(config: ProposeConfig) -> Inference:
    from lmrc.rcp.predict import ProposeInference

    quieten()
    return ProposeInference(config)


def _classify(config: ClassifyConfig) -> Inference:
    from lmrc.rc.predict import ClassifyInference

    quieten()
    return ClassifyInference(config)


def _build(config: BuildConfig) -> dict[str, Any]:
    from lmrc.corpus.build import build_corpus

    built = {}
    for name, documents in config.documents.items():
        out = config.corpora / name
        if not out.exists():
            manifest = build_corpus(
                documents, out, config.relations, fix=config.fix, fix_command="the pipeline with --data.fix"
            )
            logger.info(f"{out}: {manifest.documents:,} documents of {documents}")
        built[name] = len(Corpus.open(out))
    return built


def _split(config: SplitConfig) -> dict[str, Any]:
    from lmrc.corpus.folds import HELD_OUT, hold_out, split_corpus

    corpus, run = Corpus.open(config.corpus), RunFolder.of(config.run).path
    # An earlier attempt may have written one of them.
    if not (run / FOLDS).exists():
        split_corpus(corpus, config.folds, run / FOLDS)
    if not (run / LM_PARTS).exists():
        hold_out(corpus, config.held_out, run / LM_PARTS)
    held_out = len(Corpus.open(run / LM_PARTS / HELD_OUT))
    logger.info(f"{run}: {config.folds} folds of {len(corpus):,} documents; {held_out:,} of them kept from the LM")
    return {"documents": len(corpus), "held_out": held_out}


def _join(config: JoinConfig) -> dict[str, Any]:
    from lmrc.corpus.folds import join_candidates

    joined = {}
    for part, corpus in config.parts.items():
        out = RunFolder.of(config.run).path / JOINED / part
        if not out.exists():
            join_candidates(config.proposed, Corpus.open(corpus), out)
        manifest = Candidates.open(out).manifest
        logger.info(f"{out}: {manifest.candidates:,} candidates of {manifest.documents:,} documents")
        joined[part] = manifest.candidates
    return joined


def _fit(config: FitConfig) -> dict[str, Any]:
    from lmrc.fusion.fit import fit
    from lmrc.rc.answers import read_answers
    from lmrc.rc.fusion_tables import format_fit

    corpus, candidates = Corpus.open(config.corpus), Candidates.open(config.candidates)
    labeled = read_answers(config.answers, candidates, corpus)
    found = fit(labeled, corpus.fingerprint, corpus.relations.sha256)
    out = RunFolder.of(config.run).path / FUSION
    found.fusion.save(out)
    logger.info(f"{out}:\n{format_fit(found)}")
    return {"documents": labeled.documents, "questions": len(labeled.evidence), "asked_share": found.band.share}


def _score(config: ScoreConfig) -> dict[str, Any]:
    from lmrc.evaluation.metrics.train_facts import read_facts
    from lmrc.evaluation.report.build import page_of, report_runs
    from lmrc.evaluation.tables.console import format_scores, scores_json

    facts = read_facts(config.train, Corpus.open(config.train).relations)
    # All steps cost, also those without anything else to report.
    finished = sorted(config.out.glob("*/DONE"), key=lambda path: path.stat().st_mtime)
    steps = {path.parent.name: path.parent for path in finished}
    run = report_runs((config.classify, *config.trained), config.out, facts, config.ign_variant, use=steps)[0]
    names, scores = [config.out.name], [run.scores]
    write_atomically(
        config.out / "scores.json", json.dumps(scores_json(names, scores, [run.analysis]), indent=1) + "\n"
    )
    table = format_scores(names, scores, run.analysis, run.relations, details=False)
    logger.info(f"scores of {config.classify}:\n{table}")
    return {"f1": run.scores.all.f1, "ign_f1": run.scores.ign_f1, "report": str(page_of(config.out))}


def _summary(config: SummaryConfig) -> dict[str, Any]:
    from lmrc.launcher.group.summary import summarize

    return summarize(config)


BUILD = Stage("build", BuildConfig, _check_build, run=_build)
SPLIT = Stage("split", SplitConfig, _check_split, run=_split)
JOIN = Stage("join", JoinConfig, _check_join, run=_join)
FIT = Stage("fit", FitConfig, _check_fit, run=_fit)
SCORE = Stage("score", ScoreConfig, _check_score, run=_score)
SUMMARY = Stage("summary", SummaryConfig, _check_summary, run=_summary)
RCP = Stage("rcp", RcpConfig, _check_training, train=_train_rcp)
RC = Stage("rc", RcConfig, _check_training, train=_train_rc)
PROPOSE = Stage("propose", ProposeConfig, _check_propose, infer=_propose)
CLASSIFY = Stage("classify", ClassifyConfig, _check_classify, infer=_classify)
STAGES = {stage.name: stage for stage in (BUILD, SPLIT, RCP, JOIN, RC, PROPOSE, CLASSIFY, FIT, SCORE, SUMMARY)}
