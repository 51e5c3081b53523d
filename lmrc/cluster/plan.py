"""What a launch would do, without doing it: config, steps, memory, and the job."""

from __future__ import annotations

import yaml

from lmrc.cluster.stages import Stage, StageConfig, gpus_per_process
from lmrc.cluster.submit import processes as submitted_processes
from lmrc.cluster.submit import sbatch_script, workers
from lmrc.config import RcConfig, RcpConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.docred import Document, relations_by_pair
from lmrc.errors import CorpusError


def dry_run(stage: Stage, config: StageConfig, slurm: bool) -> str:
    """The text of --dry-run."""
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)]
    processes = 1
    if slurm:
        job = sbatch_script(stage, config)
        processes = submitted_processes(config.cluster) if stage.trains else workers(config)
        kind = "tasks" if stage.trains else "workers"
        if gpus_per_process(config) > 1:
            kind += f" of {gpus_per_process(config)} GPUs"
        where = f"Would be submitted to SLURM ({processes} {kind}), as:\n{job}"
    else:
        from lmrc.cluster.local import processes_here

        processes, sentence = processes_here(stage, config.cluster, gpus_per_process(config))
        where = f"Would run on this machine: {sentence}."
    if isinstance(config, (RcpConfig, RcConfig)):
        parts += [_steps(config, processes), _memory(config, processes)]
    return "\n".join([*parts, where])


def _steps(config: RcpConfig | RcConfig, processes: int) -> str:
    from lmrc.engine.loop import total_steps
    from lmrc.engine.order import MicroBatches

    options = config.train
    plan = MicroBatches.plan(0, processes, options.batch_size, options.micro_batch_size)
    batch = f"{options.batch_size} examples a step = {processes} processes x {plan.count} passes x {plan.size}"
    try:
        corpus = Corpus.open(config.data.train)
    except CorpusError as error:
        return f"Steps: unknown until the training corpus is there ({error}).\n{batch}"
    examples, qualifier = len(corpus), ""
    if isinstance(config, RcConfig):
        # One query a document is the least; long documents and many pairs make more of them.
        examples, qualifier = sum(1 for document in corpus if _asks(document, config.prompt.kind)), "at least "
    steps = total_steps(examples, options)
    return (
        f"Steps: {qualifier}{steps:,} ({examples:,} examples in {config.data.train}, {options.epochs} epochs).\n{batch}"
    )


def _asks(document: Document, kind: str) -> bool:
    return len(document.entities) > 1 if kind == "direct" else bool(relations_by_pair(document))


def _memory(config: RcpConfig | RcConfig, processes: int) -> str:
    from lmrc.cluster.memory import estimate_rc, estimate_rcp

    estimate = estimate_rcp(config, processes) if isinstance(config, RcpConfig) else estimate_rc(config, processes)
    return f"Memory a GPU, estimated:\n{estimate.table()}"
