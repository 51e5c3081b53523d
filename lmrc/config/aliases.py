"""Old names of renamed options, and removed options. They are accepted for one release."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

# Section and old name of an option, to its new name. The section may be nested, as in rc.train.none_ratio.
RENAMED = {
    "train.none_ratio": "negative_ratio",
    "cluster.hang_minutes": "collective_timeout_minutes",
    "cpu_job.hang_minutes": "collective_timeout_minutes",
    "prompt.shorten": "truncate",
    "work.unit_documents": "docs_per_unit",
    "decode.min_name_score": "min_fuzzy_score",
}
# Old to new name of sections and options at the top of a tree.
RENAMED_AT_TOP = {"small": "cpu_job", "shorten": "truncate"}

# Section and name of an option that has no effect any more, to the reason.
REMOVED = {
    "model.attn_implementation": "attention on a GPU uses flash-attn if it is installed, else torch's own kernel"
}

_announced: set[str] = set()


def current_name(name: str) -> str:
    """Return today's name of an option, given its dotted name with underscores."""
    first, dot, rest = name.partition(".")
    name = f"{RENAMED_AT_TOP.get(first, first)}{dot}{rest}"
    path, dot, leaf = name.rpartition(".")
    section = path.rpartition(".")[2]
    return f"{path}{dot}{RENAMED.get(f'{section}.{leaf}', leaf)}"


def removal_reason(name: str) -> str | None:
    """Return why an option was removed, given its dotted name with underscores; None if it was not."""
    return REMOVED.get(".".join(name.split(".")[-2:]))


def announce_removed(name: str, reason: str, source: str = "") -> None:
    """Log that an option has no effect any more, once per process and option."""
    if name not in _announced:
        _announced.add(name)
        logger.warning(f"{source}{name} has no effect any more: {reason}; leave it out")


def announce_renamed(old: str, new: str, source: str = "") -> None:
    """Log that an option was renamed, once per process and option."""
    if old not in _announced:
        _announced.add(old)
        logger.warning(f"{source}{old} is now called {new}; the old name is accepted for one more release")


def with_current_names(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options, such as a run's config.yaml, with today's names and without removed ones.

    Args:
        tree: options by name, in sections.
        prefix: dotted name of the section that `tree` holds, with a dot at its end.
    """
    renamed = {}
    for key, value in tree.items():
        name = current_name(f"{prefix}{key}")
        if removal_reason(name):
            continue
        renamed[name.rpartition(".")[2]] = with_current_names(value, f"{name}.") if isinstance(value, dict) else value
    return renamed


def with_old_names(section: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a section with their old names, for fingerprints that older runs have recorded."""
    old_names = {f"{old.rpartition('.')[0]}.{new}": old.rpartition(".")[2] for old, new in RENAMED.items()}
    return {old_names.get(f"{section}.{name}", name): value for name, value in options.items()}
