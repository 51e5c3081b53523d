"""`lmrc demo`: the whole pipeline on synthetic documents, with the code that also runs on a cluster.

Each stage is a separate run in runs/demo/, so that the same command resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import write_atomically
from lmrc.config.schema import ClusterOptions, DemoConfig, RunOptions, TrainingData
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.evaluation.metrics.train_facts import Facts, read_facts
from lmrc.evaluation.report.build import PAGE, report_runs
from lmrc.evaluation.scored_run import ScoredRun, read_scored_run
from lmrc.evaluation.tables.table import Table, score_table
from lmrc.launcher.launch import launch
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP, Stage, StageConfig, quieten
from lmrc.runs.run_folder import RunFolder

HERE = ClusterOptions(where="here")


class Demo:
    """The pipeline, stage by stage, in one run folder."""

    def __init__(self, config: DemoConfig) -> None:
        self._config = config
        self._run = RunFolder.of(config.run)
        self._data = self._run.path / "data"

    def run(self) -> dict[str, Any]:
        """Run the stages that are not finished; print and return the summary.

        Returns:
            rcp_f1, rcp_precision, rcp_recall, final_f1, untrained_f1 (percent) and seconds.
        """
        self.prepare()
        summary = self._run.result()
        if summary is None:
            start = time.monotonic()
            for stage, config in self.stage_configs().items():
                launch(stage, config)
            self._untrained()
            summary = self._summarize(time.monotonic() - start)
            self._run.finish(summary)
        self._show(summary)
        return summary

    def prepare(self) -> None:
        """Make the run folder and the synthetic corpora, if they do not exist."""
        self._run.prepare(self._config)
        self._build()

    def stage_configs(self) -> dict[Stage, StageConfig]:
        """Return the configs of both trainings and both inferences, in order, with the demo's corpora and models."""
        config, home, test = self._config, self._run.path, self._corpus("test")
        rcp, rc = home / "rcp" / "best", home / "rc" / "best"
        candidates = home / "propose" / "candidates"
        inputs: dict[Stage, tuple[StageConfig, str, dict[str, Any]]] = {
            RCP: (config.rcp, "rcp", {"data": self._training_data("train", "dev")}),
            RC: (config.rc, "rc", {"data": self._training_data("rc-train", "rc-dev")}),
            PROPOSE: (config.propose, "propose", {"corpus": test, "rcp": rcp}),
            CLASSIFY: (config.classify, "lmrc", {"corpus": test, "candidates": candidates, "rc": rc}),
        }
        return {
            stage: options.model_copy(update={"run": self._run_options(name), "cluster": HERE, **changes})
            for stage, (options, name, changes) in inputs.items()
        }

    def _training_data(self, train: str, dev: str) -> TrainingData:
        return TrainingData(train=self._corpus(train), dev=self._corpus(dev))

    def _run_options(self, name: str) -> RunOptions:
        own = self._config.run
        return RunOptions(name=name, folder=self._run.path, seed=own.seed, verbose=own.verbose)

    def _corpus(self, part: str) -> Path:
        return self._data / part

    def _build(self) -> None:
        sizes = self._config.synthetic
        # Different seeds give different names with the same phrasings.
        parts = {
            "train": (sizes.train_documents, sizes.seed),
            "rc-train": (self._config.rc_documents, sizes.seed),
            "dev": (sizes.dev_documents, sizes.seed + 1),
            "rc-dev": (self._config.rc_dev_documents, sizes.seed + 1),
            "test": (sizes.test_documents, sizes.seed + 2),
        }
        for part, (documents, seed) in parts.items():
            out = self._corpus(part)
            if out.exists():
                continue
            source = f"synthetic documents={documents} seed={seed}"
            self._data.mkdir(parents=True, exist_ok=True)
            write_corpus(
                synthetic.generate(documents, seed),
                out,
                synthetic.RELATIONS,
                source=source,
                source_sha256=hashlib.sha256(source.encode()).hexdigest(),
            )
            print(f"{out}: {documents} synthetic documents", flush=True)

    def _stage(self, stage: Stage, config: StageConfig, name: str, **changes: Any) -> Path:
        """Run a stage as the run `name` in the demo's folder. Returns its run folder."""
        launch(stage, config.model_copy(update={"run": self._run_options(name), "cluster": HERE, **changes}))
        return self._run.path / name

    def _untrained(self) -> None:
        """Run the pipeline with untrained models, on as many candidates as the trained classifier proposes."""
        test, path = self._corpus("test"), self._run.path
        small_corpus = self._corpus("rc-dev")
        export_untrained(self._config, TrainingData(train=small_corpus, dev=small_corpus), path)
        # Untrained models were not evaluated, so that no threshold was chosen on dev.
        head = {"relation_threshold": "0.5"} if self._config.rcp.train.relation_weight else {}
        all_pairs = self._stage(
            PROPOSE,
            self._config.propose,
            "untrained-all",
            corpus=test,
            rcp=path / "untrained-rcp",
            threshold="0",
            **head,
        )
        proposed = sum(len(row) for row in Candidates.open(path / "propose" / "candidates"))
        probabilities = sorted(
            candidate.probability for row in Candidates.open(all_pairs / "candidates") for candidate in row
        )
        threshold = probabilities[-min(max(proposed, 1), len(probabilities))]
        rcp, rc = path / "untrained-rcp", path / "untrained-rc"
        proposed_by_untrained = self._stage(
            PROPOSE,
            self._config.propose,
            "untrained-propose",
            corpus=test,
            rcp=rcp,
            threshold=repr(threshold),
            **head,
        )
        candidates = proposed_by_untrained / "candidates"
        self._stage(CLASSIFY, self._config.classify, "untrained", corpus=test, candidates=candidates, rc=rc)

    def _facts(self) -> Facts:
        train = self._corpus("train")
        return read_facts(train, Corpus.open(train).relations)

    def _scored_runs(self) -> list[ScoredRun]:
        facts = self._facts()
        runs = (read_scored_run(self._run.path / name, facts) for name in ("lmrc", "untrained"))
        return [run for run in runs if run is not None]

    def _summarize(self, seconds: float) -> dict[str, Any]:
        trained, untrained = self._scored_runs()
        rcp = trained.proposed
        assert rcp is not None, "the candidates are those of the stage propose"
        folders = [self._run.path / name for name in ("lmrc", "untrained", "rcp", "rc")]
        report_runs(folders, self._run.path, self._facts(), title="LMRC demo")
        return {
            "rcp_f1": rcp.f1,
            "rcp_precision": rcp.precision,
            "rcp_recall": rcp.recall,
            "final_f1": trained.scores.all.f1,
            "untrained_f1": untrained.scores.all.f1,
            "seconds": round(seconds, 1),
        }

    def _show(self, summary: dict[str, Any]) -> None:
        write_atomically(self._run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        print()
        print(_rcp_table(summary).text())
        print()
        print(score_table([(run.name, run.scores) for run in self._scored_runs()]).text())
        print(f"\nReport: {self._run.path / PAGE}")
        print(
            f"RCP F1 {summary['rcp_f1']:.1f}, final F1 {summary['final_f1']:.1f} "
            f"(untrained {summary['untrained_f1']:.1f}) in {summary['seconds']:.0f} s"
        )


def _rcp_table(summary: dict[str, Any]) -> Table:
    cells = (f"{summary[key]:.2f}" for key in ("rcp_precision", "rcp_recall", "rcp_f1"))
    return Table(("held-out documents", "P", "R", "F1"), (("RCP (pairs)", *cells),))


def export_untrained(config: DemoConfig, data: TrainingData, folder: Path) -> None:
    """Write both models as they are before the first step, in the form that inference loads."""
    from lmrc.rc.task import RcTask
    from lmrc.rcp.task import RcpTask
    from lmrc.training.backends.base import trained_parameters
    from lmrc.training.task import Task
    from lmrc.training.trainer import seed_everything

    quieten()
    corpus = Corpus.open(data.train)
    builders: dict[str, Callable[[], Task]] = {
        "untrained-rcp": lambda: RcpTask(config.rcp, corpus, corpus),
        "untrained-rc": lambda: RcTask(config.rc, corpus, corpus),
    }
    for name, build in builders.items():
        out = folder / name
        if out.exists():
            continue
        seed_everything(config.run.seed)
        task = build()
        temporary = folder / f".{name}.tmp"
        temporary.mkdir(exist_ok=True)
        weights = {key: value.detach().float().cpu() for key, value in trained_parameters(task).items()}
        task.export(temporary, weights)
        temporary.rename(out)
