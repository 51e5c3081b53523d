"""The threshold of candidates as a user gives it: a probability, or what it is to be chosen on dev for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def wanted_recall(threshold: str) -> float | None:
    """The share in `recall=SHARE`; None for a threshold that is not chosen by recall."""
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


Threshold = Annotated[str, BeforeValidator(_check_threshold)]
