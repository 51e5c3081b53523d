"""Predicted triples in the DocRED submission format: a JSON list of {title, h_idx, t_idx, r} (+ score, evidence)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import isfinite, isnan
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrc.common.errors import UserError
from lmrc.common.json_stream import json_batches, replacing

Ints = npt.NDArray[np.int32]

EXPECTED = (
    '{"title": text, "h_idx": integer, "t_idx": integer, "r": relation id} and perhaps "score": number, '
    '"evidence": [sentence numbers]'
)

NAMED = 3
"""Malformed predictions that an error names; it counts all."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted triple: title of the document, entity indices, relation id.

    Where they are known, also the model's score and the sentences that support the triple.
    """

    title: str
    head: int
    tail: int
    relation: str
    score: float | None = None
    evidence: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions as columns: some tens of bytes each, where an object takes hundreds. Order and duplicates are kept.

    `document` and `relation` are places in `titles` and `relations`, which hold each value once. All columns are
    `[predictions]`, but those of the evidence: prediction `evidence_of[i]` (ascending) names the sentence
    `evidence[i]`.
    """

    titles: tuple[str, ...]
    relations: tuple[str, ...]
    document: Ints
    head: Ints
    tail: Ints
    relation: Ints
    score: npt.NDArray[np.float64]
    """NaN where a prediction has none."""
    has_evidence: npt.NDArray[np.bool_]
    """Whether a prediction carries evidence, be it empty."""
    evidence_of: Ints
    evidence: Ints

    @classmethod
    def of(cls, predictions: Iterable[Prediction]) -> Predictions:
        """The columns of `predictions`."""
        columns = _Columns()
        given = iter(predictions)
        while block := list(islice(given, 10_000)):
            columns.add(
                [p.title for p in block],
                [p.head for p in block],
                [p.tail for p in block],
                [p.relation for p in block],
                [p.score for p in block],
                [p.evidence for p in block],
            )
        return columns.whole()

    @classmethod
    def read(cls, path: str | Path) -> Predictions:
        """Read a submission file.

        Keys of an element beyond `title`, `h_idx`, `t_idx`, `r`, `score` and `evidence` are allowed and not read.
        Whether titles, entities and relations exist is for `lmrc.evaluation.metrics.scores.score` to say: it knows the gold.

        Raises:
            UserError: the file is missing or unreadable, not JSON, not a list, or elements are malformed: how many, and
                what is wrong with the first of them.
        """
        columns = _Columns()
        count, malformed, named = 0, 0, list[str]()
        for batch in json_batches(path, "a list of predictions {title, h_idx, t_idx, r}"):
            try:
                columns.add(
                    [raw["title"] for raw in batch],
                    [raw["h_idx"] for raw in batch],
                    [raw["t_idx"] for raw in batch],
                    [raw["r"] for raw in batch],
                    [raw.get("score") for raw in batch],
                    [raw.get("evidence") for raw in batch],
                )
            except (TypeError, KeyError, AttributeError, OverflowError):
                # Only now one by one: which, and what is wrong with it.
                problems = {index: problem for index, raw in enumerate(batch, count) if (problem := _problem(raw))}
                if not problems:
                    raise
                malformed += len(problems)
                told = (f"prediction {index}: {problem}" for index, problem in problems.items())
                named += islice(told, NAMED - len(named))
            count += len(batch)
        if malformed:
            how_many = f"{malformed:,} of {count:,} predictions are malformed, such as " if malformed > 1 else ""
            raise UserError(f"{path}: {how_many}{'; '.join(named)}; expected {EXPECTED}")
        return columns.whole()

    def __len__(self) -> int:
        return len(self.document)

    def __iter__(self) -> Iterator[Prediction]:
        starts = np.searchsorted(self.evidence_of, np.arange(len(self) + 1)).tolist()
        for index, (document, head, tail, relation, score, has) in enumerate(
            zip(
                self.document.tolist(),
                self.head.tolist(),
                self.tail.tolist(),
                self.relation.tolist(),
                self.score.tolist(),
                self.has_evidence.tolist(),
                strict=True,
            )
        ):
            evidence = tuple(self.evidence[starts[index] : starts[index + 1]].tolist()) if has else None
            yield Prediction(
                self.titles[document], head, tail, self.relations[relation], None if isnan(score) else score, evidence
            )


class _Columns:
    """Columns while they grow."""

    def __init__(self) -> None:
        self.count = 0
        self.titles: dict[str, int] = {}
        self.relations: dict[str, int] = {}
        self.parts: list[tuple[Ints, Ints, Ints, Ints, npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = []
        self.evidence: list[tuple[Ints, Ints]] = []

    def add(
        self,
        titles: list[str],
        heads: list[int],
        tails: list[int],
        relations: list[str],
        scores: list[float | None],
        evidence: list[Sequence[int] | None],
    ) -> None:
        """Append a block. Raises TypeError where a value is of another type, OverflowError where one is too large."""
        for column, types in ((titles, {str}), (heads, {int}), (tails, {int}), (relations, {str}),
                              (scores, {float, int, NoneType}), (evidence, {list, tuple, NoneType})):  # fmt: skip
            # `type` and not isinstance: JSON's true is Python's 1.
            if not types.issuperset(map(type, column)):
                raise TypeError
        known = [sentences is not None for sentences in evidence]
        if any(known):
            named = [(row, s) for row, sentences in enumerate(evidence, self.count) for s in sentences or ()]
            if not {int}.issuperset(type(sentence) for _, sentence in named):
                raise TypeError
            self.evidence.append((_ints([row for row, _ in named]), _ints([sentence for _, sentence in named])))
        self.parts.append(
            (
                _ints(_codes(titles, self.titles)),
                _ints(heads),
                _ints(tails),
                _ints(_codes(relations, self.relations)),
                np.array(scores, dtype=np.float64),
                np.array(known, dtype=np.bool_),
            )
        )
        self.count += len(titles)

    def whole(self) -> Predictions:
        empty = (_ints([]), _ints([]), _ints([]), _ints([]), np.zeros(0), np.zeros(0, dtype=np.bool_))
        columns = [np.concatenate(column) for column in zip(empty, *self.parts, strict=True)]
        evidence = [np.concatenate(column) for column in zip((_ints([]), _ints([])), *self.evidence, strict=True)]
        return Predictions(tuple(self.titles), tuple(self.relations), *columns, *evidence)


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int32)


def _codes(values: list[str], table: dict[str, int]) -> list[int]:
    """The place of each value in `table`, which grows by those that are new."""
    return [table.setdefault(value, len(table)) for value in values]


def read_predictions(path: str | Path) -> list[Prediction]:
    """The predictions of a submission file, in its order and with its duplicates. Raises as `Predictions.read`."""
    return list(Predictions.read(path))


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
    with writing_predictions(path) as write:
        for group in by_title.values():
            write(group)


@contextmanager
def writing_predictions(path: str | Path) -> Iterator[Callable[[Iterable[Prediction]], None]]:
    """A submission file as `write_predictions` writes it, to which a call adds the predictions of one document.

    It is there when the block ends well. Raises as `write_predictions`.
    """
    with replacing(path) as file:
        separator = "[\n"

        def write(group: Iterable[Prediction]) -> None:
            nonlocal separator
            for prediction in sorted(group, key=lambda p: (p.head, p.tail, p.relation)):
                if prediction.score is not None and not isfinite(prediction.score):
                    raise UserError(f"{path}: {prediction} has a score that JSON cannot hold; nothing was written")
                file.write(separator + json.dumps(_to_json(prediction), ensure_ascii=False))
                separator = ",\n"

        yield write
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _problem(raw: object) -> str | None:
    """What is wrong with an element of a submission file, or None."""
    if not isinstance(raw, dict):
        return f"is {_shown(raw)}, not an object"
    for key, kind, name in (("title", str, "text"), ("h_idx", int, "an integer"), ("t_idx", int, "an integer"),
                            ("r", str, "text")):  # fmt: skip
        if key not in raw:
            return f'lacks "{key}"'
        if type(raw[key]) is not kind:
            return f'"{key}" is {_shown(raw[key])}, not {name}'
    for key in ("h_idx", "t_idx"):
        if not -(2**31) <= raw[key] < 2**31:
            return f'"{key}" is {_shown(raw[key])}, which no document has entities for'
    score, evidence = raw.get("score"), raw.get("evidence")
    if score is not None and type(score) not in (int, float):
        return f'"score" is {_shown(score)}, not a number'
    if type(score) is int and abs(score) > 2**1000:
        return f'"score" is {_shown(score)}, too large for a number'
    if evidence is not None and type(evidence) is not list:
        return f'"evidence" is {_shown(evidence)}, not a list of sentence numbers'
    for sentence in evidence or ():
        if type(sentence) is not int or not -(2**31) <= sentence < 2**31:
            return f'"evidence" names {_shown(sentence)}, not the number of a sentence'
    return None


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def _to_json(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {
        "title": prediction.title,
        "h_idx": prediction.head,
        "t_idx": prediction.tail,
        "r": prediction.relation,
    }
    if prediction.evidence is not None:
        row["evidence"] = list(prediction.evidence)
    if prediction.score is not None:
        row["score"] = prediction.score
    return row
