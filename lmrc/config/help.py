"""The text of --help: the common options in sections, or with --help-all all of them."""

from __future__ import annotations

from operator import attrgetter

from lmrc.config.loader import format_value, options_of
from lmrc.config.schema import (
    ClassifyConfig,
    DemoConfig,
    Options,
    PipelineConfig,
    ProposeConfig,
    RcConfig,
    RcpConfig,
)

HELP = frozenset({"--help", "--help-all"})

# Options that most runs give. Those of a stage stand behind its name in the demo and the pipeline.
COMMON = frozenset(
    {
        *("run.name", "run.folder", "run.seed", "data.train", "data.dev", "data.test", "data.relations"),
        *("corpus", "rcp", "candidates", "rc", "threshold", "top_k", "system", "fusion"),
        *("model.encoder", "model.base", "train.epochs", "train.batch_size", "train.learning_rate", "train.precision"),
        *("train.relation_weight", "lora.r", "prompt.kind", "decode.mode", "decode.backend", "decode.threshold"),
        *("cluster.where", "cluster.nodes", "cluster.gpus", "cluster.partition", "cluster.account", "cluster.time"),
        *("crossfit.folds", "group.seeds", "group.sweep"),
        *("synthetic.train_documents", "synthetic.test_documents", "synthetic.seed", "rc_documents"),
    }
)

# Options of a stage that the demo and the pipeline set. Inference also takes the prompt of the training.
_SET_FOR_STAGES = ("run.", "cluster.", "data.", "corpus", "rcp", "candidates", "rc")

EXAMPLES: dict[type[Options], tuple[str, ...]] = {
    RcpConfig: (
        "lmrc train rcp --config redocred --gpus 8 --dry-run",
        "lmrc train rcp --data.train data/mine/train --data.dev data/mine/dev --run mine",
    ),
    RcConfig: (
        "lmrc train rc --config redocred-13b --nodes 2",
        "lmrc train rc --model.base models/my-llm --data.train data/mine/train --data.dev data/mine/dev",
    ),
    ProposeConfig: ("lmrc propose --corpus data/mine/test --rcp runs/rcp/best --threshold f1",),
    ClassifyConfig: ("lmrc classify --corpus data/mine/test --candidates runs/propose/candidates --rc runs/rc/best",),
    PipelineConfig: ("lmrc pipeline --rcp redocred --rc redocred-13b --seeds 66,67,68 --dry-run",),
    DemoConfig: ("lmrc demo --run small --synthetic.train-documents 100",),
}


def options_help(tree: type[Options], is_complete: bool = False, defaults: Options | None = None) -> str:
    """Return options with description and default, a section for each group, and examples.

    Args:
        is_complete: all options; by default the common ones.
        defaults: options whose values are shown as the defaults; by default those of the tree.
    """
    everything = list(options_of(tree))
    shown = [(name, field) for name, field in everything if is_complete or _is_common(name)]
    width = max(len(name) for name, _ in shown)
    lines: list[str] = []
    section = ""
    for name, field in shown:
        own = name.rpartition(".")[0]
        if lines and own != section:
            lines.append("")
        section = own
        default = format_value(field.default if defaults is None else attrgetter(name)(defaults))
        lines.append(f"  --{name:<{width}}  {field.description} [{default}]")
    lines += ["", "Examples:", *(f"  {example}" for example in EXAMPLES[tree])]
    if not is_complete:
        lines += ["", f"These are {len(shown)} of {len(everything)} options; --help-all lists all."]
    return "\n".join(lines)


def _is_common(name: str) -> bool:
    """Return True for a common option, also of a stage unless the command sets it for the stages."""
    stage, _, option = name.partition(".")
    if stage in ("rcp", "propose", "rc", "classify") and option:
        return option in COMMON and not option.startswith(_SET_FOR_STAGES) and name != "classify.prompt.kind"
    return name in COMMON
