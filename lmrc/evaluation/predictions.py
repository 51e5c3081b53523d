"""Predicted triples in the format of the DocRED submission: a JSON list of {title, h_idx, t_idx, r} (+ score)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from sys import intern

from lmrc.errors import UserError
from lmrc.evaluation.files import json_list, replacing


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted triple: title of the document, entity indices, relation id, and the model's score where known."""

    title: str
    head: int
    tail: int
    relation: str
    score: float | None = None


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a submission file, in its order and with its duplicates.

    Keys of an element beyond `title`, `h_idx`, `t_idx`, `r` and `score` (such as `evidence`) are allowed and not read.
    Whether titles, entities and relations exist is for `lmrc.evaluation.metrics.score` to say: it knows the gold.

    Raises:
        UserError: the file is missing or unreadable, not JSON, not a list, or an element is malformed.
    """
    predictions = []
    for index, raw in enumerate(json_list(path, "a list of predictions {title, h_idx, t_idx, r}")):
        problem = _problem(raw)
        if problem:
            raise UserError(
                f"{path}: prediction {index}: {problem}; expected "
                '{"title": text, "h_idx": integer, "t_idx": integer, "r": relation id} and perhaps "score": number'
            )
        # Millions of predictions share thousands of titles and a hundred relations.
        title, relation = intern(raw["title"]), intern(raw["r"])
        score = None if raw.get("score") is None else float(raw["score"])
        predictions.append(Prediction(title, raw["h_idx"], raw["t_idx"], relation, score))
    return predictions


def write_predictions(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write a submission file, whole or not at all.

    Documents stay in the order in which their titles first appear; within one, triples are sorted by (h, t, r). One
    prediction a line, so that two files can be compared with diff. Missing parent folders are made.

    Raises:
        UserError: the file cannot be written, or a score is not a finite number.
    """
    by_title: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_title.setdefault(prediction.title, []).append(prediction)
    with replacing(path) as file:
        separator = "[\n"
        for group in by_title.values():
            for prediction in sorted(group, key=lambda p: (p.head, p.tail, p.relation)):
                if prediction.score is not None and not isfinite(prediction.score):
                    raise UserError(f"{path}: {prediction} has a score that JSON cannot hold; nothing was written")
                file.write(separator + json.dumps(_to_json(prediction), ensure_ascii=False))
                separator = ",\n"
        file.write("\n]\n" if by_title else "[]\n")


def _problem(raw: object) -> str | None:
    """What is wrong with an element of a submission file, or None."""
    if not isinstance(raw, dict):
        return f"is {json.dumps(raw, ensure_ascii=False)[:60]}, not an object"
    for key, kind, name in (("title", str, "text"), ("h_idx", int, "an integer"), ("t_idx", int, "an integer"),
                            ("r", str, "text")):  # fmt: skip
        if key not in raw:
            return f'lacks "{key}"'
        # JSON's true is Python's 1.
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):
            return f'"{key}" is {json.dumps(raw[key], ensure_ascii=False)[:60]}, not {name}'
    score = raw.get("score")
    if score is not None and (not isinstance(score, int | float) or isinstance(score, bool)):
        return f'"score" is {json.dumps(score, ensure_ascii=False)[:60]}, not a number'
    return None


def _to_json(prediction: Prediction) -> dict[str, str | int | float]:
    row: dict[str, str | int | float] = {
        "title": prediction.title,
        "h_idx": prediction.head,
        "t_idx": prediction.tail,
        "r": prediction.relation,
    }
    if prediction.score is not None:
        row["score"] = prediction.score
    return row
