"""The kinds of runs, recognized by a key of the run's config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RunKind:
    """A kind of run.

    Attributes:
        name: the stage, as `lmrc status` prints it.
        description: the same in words, for messages.
        key: a config with this key is of this kind.
    """

    name: str
    description: str
    key: str


# The first kind whose key is in the config applies.
RUN_KINDS = (
    RunKind("demo", "a demo", "synthetic"),
    RunKind("build", "a build step", "corpora"),
    RunKind("split", "a split step", "held_out"),
    RunKind("join", "a join step", "proposed"),
    RunKind("summary", "a summary of a group of pipelines", "group"),
    RunKind("score", "a score step", "trained"),
    RunKind("rc", "a training of RC", "lora"),
    RunKind("classify", "a run of classify", "decode"),
    RunKind("fit", "a fit step", "answers"),
    RunKind("propose", "a run of propose", "threshold"),
    RunKind("rcp", "a training of RCP", "train"),
)


def run_kind(config: Mapping[str, Any]) -> RunKind | None:
    """Return the kind of run that a config is for; None if it is of no known kind."""
    return next((kind for kind in RUN_KINDS if kind.key in config), None)
