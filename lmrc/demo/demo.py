"""`lmrc demo`: the whole pipeline on synthetic documents, with the code that also runs on a cluster.

Each stage is a separate run in runs/demo/, so that the same command resumes where it stopped. On CPUs the two
trainings, which need nothing of each other, run side by side.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.atomic_io import write_atomically
from lmrc.config.schema import ClusterOptions, DemoConfig, RunOptions, TrainingData
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.demo.background import BackgroundStage
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
        self._run.prepare(self._config)
        summary = self._run.result()
        if summary is None:
            start = time.monotonic()
            steps: tuple[tuple[str, Callable[[], None]], ...] = (
                ("synthetic documents", self._build),
                ("training of both models", self._train),
                ("triples of held-out documents", self._infer),
                ("the same with untrained models, to compare", self._untrained),
            )
            for number, (title, step) in enumerate(steps, 1):
                passed = f", {time.monotonic() - start:.0f} s so far" if number > 1 else ""
                print(f"\n[{number}/{len(steps)}] {title}{passed}", flush=True)
                step()
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
            "untrained-test": (min(self._config.untrained_documents, sizes.test_documents), sizes.seed + 2),
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

    def _train(self) -> None:
        configs = self.stage_configs()
        rcp, rc = configs[RCP], configs[RC]
        if not _has_two_cores_and_no_gpu():
            launch(RCP, rcp)
            self._show_rcp()
            launch(RC, rc)
            return
        import torch

        log = self._run.path / "rc.log"
        print(f"RCP trains here and RC beside it, each on half of the cores. The log of RC: {log}", flush=True)
        threads_before = torch.get_num_threads()
        with BackgroundStage(RC, rc, log, processes=2) as training:
            torch.set_num_threads(max(1, threads_before // 2))
            launch(RCP, rcp)
            self._show_rcp()
            print(f"\nThe training of RC, from {log}:", flush=True)
            training.wait()
        torch.set_num_threads(threads_before)

    def _show_rcp(self) -> None:
        """Propose candidates in the held-out documents, and print how many of their pairs have a relation."""
        config = self.stage_configs()[PROPOSE]
        launch(PROPOSE, config)
        result = RunFolder.of(config.run).result()
        assert result is not None, "launch returns when the stage is finished"
        print(f"\n{_rcp_table(result['precision'], result['recall'], result['f1']).text()}", flush=True)

    def _infer(self) -> None:
        launch(CLASSIFY, self.stage_configs()[CLASSIFY])
        print(f"\n{self._score_table('lmrc').text()}", flush=True)

    def _untrained(self) -> None:
        """Run the pipeline with untrained models, on as many candidates as the trained classifier proposes."""
        test, path = self._corpus("untrained-test"), self._run.path
        small_corpus = self._corpus("rc-dev")
        export_untrained(self._config, TrainingData(train=small_corpus, dev=small_corpus), path)
        # Untrained models were not evaluated, so that no threshold was chosen on dev.
        head = {"relation_threshold": "0.5"} if self._config.rcp.train.relation_weight else {}
        given = {"corpus": test, "rcp": path / "untrained-rcp", **head}
        all_pairs = self._stage(PROPOSE, self._config.propose, "untrained-all", threshold="0", **given)
        # The untrained documents are the first of the test documents.
        trained = zip(Candidates.open(path / "propose" / "candidates"), Corpus.open(test), strict=False)
        proposed = sum(len(row) for row, _ in trained)
        probabilities = sorted(
            candidate.probability for row in Candidates.open(all_pairs / "candidates") for candidate in row
        )
        threshold = probabilities[-min(max(proposed, 1), len(probabilities))]
        self._stage(PROPOSE, self._config.propose, "untrained-propose", threshold=repr(threshold), **given)
        candidates, rc = path / "untrained-propose" / "candidates", path / "untrained-rc"
        self._stage(CLASSIFY, self._config.classify, "untrained", corpus=test, candidates=candidates, rc=rc)

    def _facts(self) -> Facts:
        train = self._corpus("train")
        return read_facts(train, Corpus.open(train).relations)

    def _scored(self, name: str) -> ScoredRun:
        run = read_scored_run(self._run.path / name, self._facts())
        assert run is not None, "the run has predictions"
        return run

    def _score_table(self, *names: str) -> Table:
        return score_table([(run.name, run.scores) for run in map(self._scored, names)])

    def _summarize(self, seconds: float) -> dict[str, Any]:
        trained, untrained = self._scored("lmrc"), self._scored("untrained")
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
        path, config = self._run.path, self._config
        write_atomically(path / "summary.json", json.dumps(summary, indent=2) + "\n")
        print()
        print(_rcp_table(*(summary[f"rcp_{name}"] for name in ("precision", "recall", "f1"))).text())
        print()
        print(self._score_table("lmrc", "untrained").text())
        train, test = config.synthetic.train_documents, config.synthetic.test_documents
        untrained = min(config.untrained_documents, test)
        print(f"\nuntrained: the same models without training, on {untrained} of the {test} documents.")
        print(f"""
Made in {path}:
  data/                  {train} made-up documents to train on, {test} held out
  rcp/best, rc/best      the two trained models
  lmrc/predictions.json  triples of the held-out documents
  {PAGE}            the report, for a browser

Try next:
  lmrc data synth --docs 3 --seed 7 --out docs.json
  lmrc extract docs.json --rcp {path}/rcp/best --rc {path}/rc/best --out triples.json
  lmrc score {path}/lmrc --details
""")
        print(f"Report: {path / PAGE}")
        print(
            f"RCP F1 {summary['rcp_f1']:.1f}, final F1 {summary['final_f1']:.1f} "
            f"(untrained {summary['untrained_f1']:.1f}) in {summary['seconds']:.0f} s"
        )


def _has_two_cores_and_no_gpu() -> bool:
    import torch

    return threads.cores() > 1 and not torch.cuda.is_available()


def _rcp_table(precision: float, recall: float, f1: float) -> Table:
    cells = (f"{value:.2f}" for value in (precision, recall, f1))
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
