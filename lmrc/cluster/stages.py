"""What can be launched: each stage's options and the function that every process of it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmrc.config import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig

if TYPE_CHECKING:
    from lmrc.engine.distributed import World

StageConfig = RcpConfig | RcConfig | ProposeConfig | ClassifyConfig


@dataclass(frozen=True)
class Stage:
    """`run(config, world)` is called once in every process and returns what DONE will hold."""

    name: str
    tree: type[StageConfig]
    run: Callable[[Any, World], dict[str, Any]]
    trains: bool


# torch and transformers are imported when a stage runs, so that --help and --dry-run answer at once.
def _train_rcp(config: RcpConfig, world: World) -> dict[str, Any]:
    from lmrc.corpus.arrow import Corpus
    from lmrc.engine.loop import seed_everything, train
    from lmrc.rcp.train import RcpTask
    from lmrc.run import RunFolder

    train_corpus, dev_corpus = Corpus.open(config.data.train), Corpus.open(config.data.dev)
    seed_everything(config.run.seed)
    task = RcpTask(config, train_corpus, dev_corpus)
    return train(task, config.train, config.run.seed, RunFolder.of(config.run), world)


def _train_rc(config: RcConfig, world: World) -> dict[str, Any]:
    from lmrc.corpus.arrow import Corpus
    from lmrc.engine.loop import seed_everything, train
    from lmrc.rc.train import RcTask
    from lmrc.run import RunFolder

    train_corpus, dev_corpus = Corpus.open(config.data.train), Corpus.open(config.data.dev)
    seed_everything(config.run.seed)
    task = RcTask(config, train_corpus, dev_corpus)
    return train(task, config.train, config.run.seed, RunFolder.of(config.run), world)


def _propose(config: ProposeConfig, world: World) -> dict[str, Any]:
    from lmrc.rcp.propose import run

    return run(config).as_json()


def _classify(config: ClassifyConfig, world: World) -> dict[str, Any]:
    from lmrc.rc.classify import run

    return run(config)


RCP = Stage("rcp", RcpConfig, _train_rcp, trains=True)
RC = Stage("rc", RcConfig, _train_rc, trains=True)
PROPOSE = Stage("propose", ProposeConfig, _propose, trains=False)
CLASSIFY = Stage("classify", ClassifyConfig, _classify, trains=False)
STAGES = {stage.name: stage for stage in (RCP, RC, PROPOSE, CLASSIFY)}
