"""The breaches of a file: counts by kind, and the first of each kind."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmrc.common.errors import DocumentError
from lmrc.corpus.reading.format_check import Breach, Kind

# Breaches of a kind that a message describes; it counts all of them.
EXAMPLES = 3


class FormatError(DocumentError):
    """Documents that are not in DocRED's format. The message counts their breaches by kind, with examples.

    Attributes:
        counts: number of breaches by kind.
    """

    def __init__(self, message: str, counts: Counter[Kind]) -> None:
        ValueError.__init__(self, message)
        self.counts = counts

    def with_remedy(self, remedy: str) -> FormatError:
        """Return the same error with a sentence behind it."""
        text = str(self)
        return FormatError(f"{text}\n{remedy}" if "\n" in text else f"{text}; {remedy}", self.counts)


class BreachList:
    """Breaches of a file, counted while it is read."""

    def __init__(self, file: str | Path, starts: Sequence[tuple[int, str]] = ()) -> None:
        """Begin without breaches.

        Args:
            file: the file, or the folder of its shards.
            starts: index of the first document of each shard, and its name; it may grow while the shards are read.
        """
        self._file = file
        self._starts = starts
        self._documents = 0
        self._counts: Counter[Kind] = Counter()
        self._examples: dict[Kind, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def place(self, index: int) -> str:
        """Return "document 3", or of shards "document 3 of train-00001.jsonl", counted from the start of the shard."""
        shard = bisect(self._starts, index, key=lambda start: start[0]) - 1
        if shard < 0:
            return f"document {index}"
        first, name = self._starts[shard]
        return f"document {index - first} of {name}"

    def add(self, index: int, raw: object, breaches: Iterable[Breach]) -> None:
        """Add the breaches of document `index`, which is given for its title."""
        title = raw.get("title") if isinstance(raw, dict) else None
        name = repr(title) if isinstance(title, str) else "without a title"
        self._documents += 1
        for breach in breaches:
            self._counts[breach.kind] += 1
            examples = self._examples.setdefault(breach.kind, [])
            if len(examples) < EXAMPLES:
                examples.append(f"{self.place(index)} ({name}): {breach.problem}")

    def error(self, documents: int) -> FormatError:
        """Return the error that names all breaches.

        Args:
            documents: number of documents that were read.
        """
        total = self._counts.total()
        if total == 1:
            ((only,),) = self._examples.values()
            return FormatError(f"{self._file}: {only}{self._hint()}", self._counts)
        lines = [
            f"{self._file}: {total:,} breaches of DocRED's format in {self._documents:,} of {documents:,} documents:"
        ]
        for kind in Kind:
            if count := self._counts[kind]:
                examples = self._examples[kind]
                lines.append(f"  - {count:,} {kind.singular if count == 1 else kind.plural}{self._hint(kind)}:")
                lines += [f"      {example}" for example in examples]
                if count > len(examples):
                    lines.append(f"      and {count - len(examples):,} more")
        return FormatError("\n".join(lines), self._counts)

    def _hint(self, kind: Kind | None = None) -> str:
        if kind not in (None, Kind.RELATION) or not self._counts[Kind.RELATION]:
            return ""
        return (
            "; give the relation set of these documents as --relations FILE, JSON {id: name} or rel2id.json"
            if kind is None
            else " (give the relation set of these documents as --relations FILE, JSON {id: name} or rel2id.json)"
        )
