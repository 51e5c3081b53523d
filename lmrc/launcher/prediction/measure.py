"""`--measure`: the speed of this machine, from short runs of the stages with their own options and models.

A training is run twice in a temporary folder, for a few steps and for more. The speed is that of the steps between, so
that what happens once (compiling, first allocations) counts as start. Inferences read a few documents, with the models
of these runs. Classify asks about the pairs that have a relation.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig, RunOptions, TrainingData
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.launcher.prediction.amounts import Amount, Documents, StandIn, amount_of, spread
from lmrc.launcher.prediction.speeds import Speed
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP, Stage, StageConfig
from lmrc.runs.run_folder import RunFolder
from lmrc.usage.record import Use, read_use

logger = logging.getLogger(__name__)

# Optimizer steps of the two runs of a training, and documents of the two runs of an inference.
STEPS = (2, 10)
# Small models take more steps than STEPS has, until the second run takes about this long; but no more than MOST_STEPS.
STEADY_SECONDS = 20.0
MOST_STEPS = 100
DOCUMENTS = {PROPOSE: (8, 32), CLASSIFY: (2, 6)}
DEV_DOCUMENTS = 8


def slope_of(short: tuple[float, float], long: tuple[float, float]) -> float:
    """Return the seconds per model FLOP between two runs, each given by (seconds, FLOPs).

    If the longer run took no longer, which only tiny models on a busy machine do, return the mean of the longer one.
    """
    seconds, flops = long[0] - short[0], long[1] - short[1]
    return seconds / flops if seconds > 0 and flops > 0 else long[0] / long[1]


def longer_run(steps: tuple[int, int], seconds: float) -> int:
    """Return the optimizer steps of the second run, if the first of `steps` steps took this many seconds."""
    first, second = steps
    return max(second, min(MOST_STEPS, round(first * STEADY_SECONDS / max(seconds, 1e-3))))


def training_speed(short: Use, long: Use, evaluated: float) -> Speed:
    """Return the speed of a training from two runs of different length, each with one checkpoint.

    Args:
        evaluated: model FLOPs of the evaluations of the longer run.
    """
    slope = slope_of((short.work_seconds, short.flops), (long.work_seconds, long.flops))
    once = max(0.0, short.work_seconds - slope * short.flops)
    # The last checkpoint and the weights are written once each.
    saving = long.parts.get("checkpoint", 0.0) / 2
    return Speed(
        training=1 / slope,
        forward=evaluated / max(long.parts.get("evaluation", 0.0), 1e-9),
        # The first run also imports what this stage needs, as the real one will.
        start=short.parts.get("start", 0.0) + once,
        save=saving,
        keep=saving,
        source=f"measured here: {1e-9 / slope:.3g} GFLOP/s of training steps",
    )


def inference_speed(short: tuple[Use, Amount, float], long: tuple[Use, Amount, float]) -> Speed:
    """Return the speed of an inference from two runs over different numbers of documents.

    Args:
        short, long: the use, the amount of work, and the seconds of the whole run.
    """
    slope = slope_of((short[0].work_seconds, short[1].flops), (long[0].work_seconds, long[1].flops))
    # All that does not grow with the documents: imports, loading, merging, writing.
    start = max(0.0, short[2] - slope * short[1].flops)
    return Speed(
        training=1 / slope,
        forward=1 / slope,
        start=start,
        source=f"measured here: {1e-9 / slope:.3g} GFLOP/s of reading",
    )


class Measurement:
    """Short runs in a temporary folder.

    Args:
        configs: the options of the stages by their stage; each stage is measured once.
        corpora: corpora that stand for those that an earlier step writes.
    """

    def __init__(self, configs: Mapping[Stage, StageConfig], corpora: Mapping[Path, StandIn], folder: Path) -> None:
        self._configs, self._corpora, self._folder = configs, corpora, folder

    def speeds(self) -> dict[Stage, Speed]:
        """Run the stages and return their speeds."""
        found = {}
        for stage in (RCP, PROPOSE, RC, CLASSIFY):
            config = self._configs.get(stage)
            if config is not None:
                logger.info("measuring %s", stage.name)
                found[stage] = self._train(stage, config) if stage.trains else self._infer(stage, config)
        return found

    def _corpus(self, path: Path, name: str, documents: int) -> Path:
        """Write a part of a corpus, evenly spread over it."""
        out = self._folder / "data" / f"{name}-{documents}"
        if not out.exists():
            known = self._corpora.get(path)
            corpus = Corpus.open(path if known is None else known.corpus)
            source = f"{documents} of {path}"
            write_corpus(spread(Documents(corpus), documents), out, corpus.relations, source, "0" * 64)
        return out

    def _run(self, stage: Stage, config: StageConfig, name: str, **changes: Any) -> tuple[Use, float]:
        from lmrc.launcher.local import run_here

        run = RunOptions(name=name, folder=self._folder, seed=config.run.seed)
        cluster = config.cluster.model_copy(update={"where": "here"})
        config = config.model_copy(update={"run": run, "cluster": cluster, **changes})
        folder = RunFolder.of(run)
        folder.prepare(config)
        begun = time.monotonic()
        run_here(stage, config)
        (use,) = read_use(folder.path)
        return use, time.monotonic() - begun

    def _train(self, stage: Stage, config: StageConfig) -> Speed:
        assert isinstance(config, RcpConfig | RcConfig)
        size = config.train.examples_per_step
        dev = self._corpus(config.data.dev, f"{stage.name}-dev", DEV_DOCUMENTS)
        uses: list[Use] = []
        for number, steps in enumerate(STEPS):
            if uses:
                steps = longer_run(STEPS, uses[0].work_seconds)
            # More documents than examples: some have no pair, and so no query.
            train = self._corpus(config.data.train, f"{stage.name}-train", 2 * size * steps)
            data = TrainingData(train=train, dev=dev)
            short = {"max_steps": steps, "eval_every": 0, "eval_at_start": False, "epochs": 10**6, "keep": "last"}
            options = config.train.model_copy(update={**short, "trackers": ()})
            uses.append(self._run(stage, config, f"{stage.name}-{number}", train=options, data=data)[0])
        amount = amount_of(config.model_copy(update={"data": data, "train": options}), 1)
        return training_speed(uses[0], uses[1], amount.evaluations * amount.evaluation_flops)

    def _infer(self, stage: Stage, config: StageConfig) -> Speed:
        assert isinstance(config, ProposeConfig | ClassifyConfig)
        runs = []
        for documents in DOCUMENTS[stage]:
            corpus = self._corpus(config.corpus, stage.name, documents)
            changes: dict[str, Any] = {"corpus": corpus}
            if isinstance(config, ProposeConfig):
                trained = self._configs.get(RCP)
                changes["rcp"] = self._model(RCP, config.rcp)
            else:
                trained = self._configs.get(RC)
                changes |= {"candidates": None, "system": "rc", "fusion": None, "precision": None}
                changes["rc"] = None if config.rc is None else self._model(RC, config.rc)
            use, seconds = self._run(stage, config, f"{stage.name}-{documents}", **changes)
            training = trained if isinstance(trained, RcpConfig | RcConfig) else None
            amount = amount_of(config.model_copy(update={"corpus": corpus}), 1, trained=training)
            runs.append((use, amount, seconds))
        return inference_speed(runs[0], runs[1])

    def _model(self, stage: Stage, folder: Path) -> Path:
        """Return the model that was just trained; else the one that the config names."""
        measured = self._folder / f"{stage.name}-{len(STEPS) - 1}" / "best"
        return measured if measured.exists() else folder


def measure(configs: Mapping[Stage, StageConfig], corpora: Mapping[Path, StandIn]) -> dict[Stage, Speed]:
    """Run the stages for a few steps or documents on this machine, in this process. Return their speeds.

    Raises:
        UserError: an input of a stage is missing.
    """
    with tempfile.TemporaryDirectory(prefix="lmrc-measure-") as folder:
        return Measurement(configs, corpora, Path(folder)).speeds()
