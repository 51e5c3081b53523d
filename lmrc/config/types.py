"""Types of options that need more than one bound: thresholds, server addresses, request fields, sbatch options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StrictBool


def wanted_recall(threshold: str) -> float | None:
    """Return the recall in `recall=0.9`; None if the threshold is not chosen by recall."""
    return float(threshold.removeprefix("recall=")) if threshold.startswith("recall=") else None


def _check_threshold(value: object) -> str:
    text = str(value)
    try:
        valid = text == "f1" or 0 <= float(text.removeprefix("recall=")) <= 1
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{text!r} is neither a probability such as 0.5, nor f1, nor a recall such as recall=0.9")
    return text


def _check_relation_threshold(value: object) -> str:
    text = str(value)
    try:
        valid = text == "f1" or 0 <= float(text) <= 1
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{text!r} is neither a probability such as 0.5, nor f1")
    return text


def _check_folds(folds: int) -> int:
    if folds < 0 or folds == 1:
        raise ValueError("expected 0, or at least 2 folds")
    return folds


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds) or any(seed < 0 for seed in seeds):
        raise ValueError("expected different seeds of 0 or more, such as 66,67,68")
    return seeds


def _split_values(sweep: object) -> object:
    """Split the values of each option at commas. YAML may give them as a list."""
    if not isinstance(sweep, Mapping):
        return sweep
    split: dict[str, tuple[str, ...]] = {}
    for option, given in sweep.items():
        values = given if isinstance(given, list | tuple) else str(given).split(",")
        name = str(option).removeprefix("--").replace("-", "_")
        if name in split:
            raise ValueError(f"{name} is given twice, in two spellings: keep one of them")
        split[name] = tuple(text for value in values if (text := str(value).strip()))
        # The command line gives True for a name without "=", and None for one without a value.
        if not split[name] or given is True or given is None:
            raise ValueError(f"{option} has no values: expected some, such as rcp.train.learning_rate=1e-5,3e-5")
    return split


def _model_path(given: object) -> object:
    """Return ./a/b as an absolute path: `Path` drops the dot, and a/b may be a name on the hub."""
    return Path(given).absolute() if isinstance(given, str) and given.startswith("./") else given


# Folder of a trained model, or its name on the hub.
TrainedModel = Annotated[Path, BeforeValidator(_model_path)]
# Seeds of the members of a group of pipelines.
Seeds = Annotated[tuple[int, ...], AfterValidator(_check_seeds)]
# Values of the options that a group of pipelines is run with, by dotted name of the option.
Sweep = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_split_values)]
# Folds of cross-fitting: none, or at least two.
Folds = Annotated[int, AfterValidator(_check_folds)]
# Threshold of triples by the relation head: a probability, or f1.
RelationThreshold = Annotated[str, BeforeValidator(_check_relation_threshold)]
# Threshold of candidates: a probability, or the dev-set metric that chooses it.
Threshold = Annotated[str, BeforeValidator(_check_threshold)]


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    # Options are written to the run folder, and a password in the address would be too.
    if not valid or "@" in parts.netloc or parts.query or parts.fragment or any(map(str.isspace, url)):
        raise ValueError("expected an address such as http://localhost:8000/v1, without a password and without '?'")
    return url.rstrip("/")


def _parse_json_values(fields: object) -> object:
    """Parse the values that are JSON, such as 0.9 or null. The command line gives all of them as text."""
    if not isinstance(fields, Mapping):
        return fields
    return {name: _json_or_text(value) for name, value in fields.items()}


def _json_or_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


ServerUrl = Annotated[str, AfterValidator(_check_url)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
RequestFields = Annotated[dict[str, JsonValue], BeforeValidator(_parse_json_values)]


def _normalize_sbatch(options: object) -> object:
    """Return the options with underscores in their names, and with numbers as text."""
    if not isinstance(options, Mapping):
        return options
    normalized: dict[str, object] = {}
    for name, value in options.items():
        key = str(name).removeprefix("--").replace("-", "_")
        if key in normalized:
            raise ValueError(f"{key.replace('_', '-')} is given twice")
        if isinstance(value, str) and not value:
            raise ValueError(f"{name} has an empty value: give true for a flag, none to leave the option out")
        normalized[key] = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    return normalized


# True gives a flag without a value. None removes the option that the launcher would set.
SbatchValue = str | StrictBool | None
SbatchOptions = Annotated[dict[str, SbatchValue], BeforeValidator(_normalize_sbatch)]
