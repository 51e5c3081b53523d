"""Predicted triples in the DocRED submission format: a JSON list of {title, h_idx, t_idx, r} (+ score, evidence).

JSON Lines are read too, and the zip file of the competition (result.zip with result.json).
"""

from __future__ import annotations

import json
import zipfile
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
from lmrc.common.files import head_of, reading
from lmrc.common.json_stream import batches_of, replacing

Ints = npt.NDArray[np.int32]

# Form of an element, for messages.
EXPECTED = (
    '{"title": text, "h_idx": integer, "t_idx": integer, "r": relation id} and optionally "score": number, '
    '"evidence": [sentence indices]'
)

_LIST = "a list of predictions {title, h_idx, t_idx, r}"

# Malformed predictions that an error message describes; it counts all of them.
MAX_DESCRIBED = 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted triple: title of the document, entity indices, relation id.

    `score` and `evidence` (indices of the sentences that support the triple) are None if they are not known.
    """

    title: str
    head: int
    tail: int
    relation: str
    score: float | None = None
    evidence: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions as columns: tens of bytes each instead of hundreds. Order and duplicates are kept.

    Attributes:
        titles: each title once.
        relations: each relation id once.
        document: indices into `titles` [predictions].
        head: entity indices [predictions].
        tail: entity indices [predictions].
        relation: indices into `relations` [predictions].
        score: NaN if a prediction has none [predictions].
        has_evidence: True if a prediction has evidence, even an empty list [predictions].
        evidence_of: indices of predictions, ascending [evidence].
        evidence: sentence that supports prediction `evidence_of[i]` [evidence].
    """

    titles: tuple[str, ...]
    relations: tuple[str, ...]
    document: Ints
    head: Ints
    tail: Ints
    relation: Ints
    score: npt.NDArray[np.float64]
    has_evidence: npt.NDArray[np.bool_]
    evidence_of: Ints
    evidence: Ints

    @classmethod
    def of(cls, predictions: Iterable[Prediction]) -> Predictions:
        """Return the columns of `predictions`."""
        columns = _Columns()
        source = iter(predictions)
        while batch := list(islice(source, 10_000)):
            columns.add(
                [p.title for p in batch],
                [p.head for p in batch],
                [p.tail for p in batch],
                [p.relation for p in batch],
                [p.score for p in batch],
                [p.evidence for p in batch],
            )
        return columns.concatenated()

    @classmethod
    def read(cls, path: str | Path) -> Predictions:
        """Read a submission file: a JSON list, JSON Lines (both also gzipped), or a zip file with one of them.

        Raises:
            UserError: the file is missing or unreadable, not JSON, not a list, or elements are malformed.
        """
        return cls.of_json(_zipped(Path(path)) if head_of(path).startswith(_ZIP) else _plain(path), path)

    @classmethod
    def of_json(cls, batches: Iterable[list[Any]], source: str | Path) -> Predictions:
        """Return the columns of submission elements. Other keys than those of `EXPECTED` are ignored.

        `lmrc.evaluation.metrics.scores.score` checks later that titles, entities and relations exist.

        Args:
            batches: lists of elements, as JSON decodes them.
            source: name for messages, such as the file.

        Raises:
            UserError: elements are malformed. The message counts them and describes the first.
        """
        columns = _Columns()
        count, malformed, described = 0, 0, list[str]()
        for batch in batches:
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
                # Elements are checked one by one only if the batch has a fault.
                problems = {index: problem for index, raw in enumerate(batch, count) if (problem := _problem(raw))}
                if not problems:
                    raise
                malformed += len(problems)
                messages = (f"prediction {index}: {problem}" for index, problem in problems.items())
                described += islice(messages, MAX_DESCRIBED - len(described))
            count += len(batch)
        if malformed:
            total = f"{malformed:,} of {count:,} predictions are malformed, such as " if malformed > 1 else ""
            raise UserError(f"{source}: {total}{'; '.join(described)}; expected {EXPECTED}")
        return columns.concatenated()

    def __len__(self) -> int:
        return len(self.document)

    def __iter__(self) -> Iterator[Prediction]:
        starts = np.searchsorted(self.evidence_of, np.arange(len(self) + 1)).tolist()
        columns = (self.document, self.head, self.tail, self.relation, self.score, self.has_evidence)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for index, (document, head, tail, relation, score, has) in enumerate(rows):
            evidence = tuple(self.evidence[starts[index] : starts[index + 1]].tolist()) if has else None
            yield Prediction(
                self.titles[document], head, tail, self.relations[relation], None if isnan(score) else score, evidence
            )


_ZIP = b"PK\x03\x04"


def _plain(path: str | Path) -> Iterator[list[Any]]:
    with reading(path) as file:
        yield from batches_of(file, path, _LIST, takes_lines=True)


def _zipped(path: Path) -> Iterator[list[Any]]:
    """Yield the elements of the only JSON file in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            # Macs add hidden copies of their own.
            names = [
                name
                for name in archive.namelist()
                if name.endswith((".json", ".jsonl")) and not Path(name).name.startswith(".")
            ]
            if len(names) != 1:
                found = f"{len(names)} JSON files, {', '.join(names[:4])}" if names else "no JSON file"
                raise UserError(f"{path}: is a zip archive with {found}; expected one, such as result.json")
            with archive.open(names[0]) as file:
                yield from batches_of(file, f"{path} ({names[0]})", _LIST, takes_lines=True)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        # RuntimeError: it is encrypted. NotImplementedError: it is compressed in a way that zipfile does not know.
        raise UserError(
            f"{path}: is a zip archive that cannot be read ({error}); unpack it and give the file"
        ) from None


class _Columns:
    """Builder of `Predictions`, batch by batch."""

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
        """Append a batch.

        Raises:
            TypeError: a value has the wrong type.
            OverflowError: an integer is too large for int32.
        """
        for column, types in ((titles, {str}), (heads, {int}), (tails, {int}), (relations, {str}),
                              (scores, {float, int, NoneType}), (evidence, {list, tuple, NoneType})):  # fmt: skip
            # Not isinstance: True is an int in Python, but not in JSON.
            if not types.issuperset(map(type, column)):
                raise TypeError
        has_evidence = [sentences is not None for sentences in evidence]
        if any(has_evidence):
            rows = [(row, s) for row, sentences in enumerate(evidence, self.count) for s in sentences or ()]
            if not {int}.issuperset(type(sentence) for _, sentence in rows):
                raise TypeError
            self.evidence.append((_ints([row for row, _ in rows]), _ints([sentence for _, sentence in rows])))
        self.parts.append(
            (
                _ints(_codes(titles, self.titles)),
                _ints(heads),
                _ints(tails),
                _ints(_codes(relations, self.relations)),
                np.array(scores, dtype=np.float64),
                np.array(has_evidence, dtype=np.bool_),
            )
        )
        self.count += len(titles)

    def concatenated(self) -> Predictions:
        """Return the columns of all batches."""
        empty = (_ints([]), _ints([]), _ints([]), _ints([]), np.zeros(0), np.zeros(0, dtype=np.bool_))
        columns = [np.concatenate(column) for column in zip(empty, *self.parts, strict=True)]
        evidence = [np.concatenate(column) for column in zip((_ints([]), _ints([])), *self.evidence, strict=True)]
        return Predictions(tuple(self.titles), tuple(self.relations), *columns, *evidence)


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int32)


def _codes(values: list[str], table: dict[str, int]) -> list[int]:
    """Return the index of each value in `table`, and add new values to it."""
    return [table.setdefault(value, len(table)) for value in values]


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a submission file as objects, in its order and with duplicates; see `Predictions.read`."""
    return list(Predictions.read(path))


def write_predictions(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write a submission file atomically. Missing parent folders are made.

    Documents keep the order in which their titles first appear. Triples of a document are sorted by (h, t, r), one per
    line, so that diff can compare two files.

    Raises:
        UserError: the file cannot be written, or a score is not a finite number.
    """
    by_title: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_title.setdefault(prediction.title, []).append(prediction)
    with predictions_writer(path) as write:
        for group in by_title.values():
            write(group)


@contextmanager
def predictions_writer(path: str | Path) -> Iterator[Callable[[Iterable[Prediction]], None]]:
    """Open a submission file and yield a function that appends the predictions of one document.

    The file appears under its name only if the block ends without an exception.

    Raises:
        UserError: see `write_predictions`.
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
    """Return the fault of an element of a submission file, or None."""
    if not isinstance(raw, dict):
        return f"is {_shown(raw)}, not an object"
    if remedy := _other_content(raw):
        return remedy
    for key, kind, name in (("title", str, "text"), ("h_idx", int, "an integer"), ("t_idx", int, "an integer"),
                            ("r", str, "text")):  # fmt: skip
        if key not in raw:
            return f'lacks "{key}"' + (f"; it has {', '.join(list(raw)[:6])}" if raw else "")
        if type(raw[key]) is not kind:
            return f'"{key}" is {_shown(raw[key])}, not {name}'
    for key in ("h_idx", "t_idx"):
        if not -(2**31) <= raw[key] < 2**31:
            return f'"{key}" is {_shown(raw[key])}, which is no entity index'
    score, evidence = raw.get("score"), raw.get("evidence")
    if score is not None and type(score) not in (int, float):
        return f'"score" is {_shown(score)}, not a number'
    if type(score) is int and abs(score) > 2**1000:
        return f'"score" is {_shown(score)}, too large for a float'
    if evidence is not None and type(evidence) is not list:
        return f'"evidence" is {_shown(evidence)}, not a list of sentence indices'
    for sentence in evidence or ():
        if type(sentence) is not int or not -(2**31) <= sentence < 2**31:
            return f'"evidence" names {_shown(sentence)}, not a sentence index'
    return None


def _other_content(raw: dict[str, Any]) -> str | None:
    """Return a phrase for an object that is something else of the field, and what to do; None if it is not."""
    if {"sents", "vertexSet"} <= raw.keys():
        return "is a document, and no prediction: give documents as --gold"
    if {"text", "triples"} <= raw.keys():
        return "is a result of lmrc extract with names: extract with --out NAME.json, which can be scored"
    if inside := [
        key for key, value in raw.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]:
        return (
            f"is an object with lists of objects ({', '.join(inside[:3])}): write them as one list, each with its title"
        )
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
