"""Windows of sentences over a document that is longer than the models can hold, and their triples as one.

Neighboring windows overlap, so that most pairs of near mentions are in one of them. Every sentence is in a window. A
pair of entities that share no window is never asked about; such pairs are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document, Mention, Triple

# Share of a window's sentences that its successor repeats; at least one sentence.
OVERLAP = 0.25


@dataclass(frozen=True)
class Window:
    """A part of a document, as a document of its own.

    Attributes:
        entities: index in the whole document of each entity.
    """

    document: Document
    entities: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """The windows of a document.

    Attributes:
        windows: windows with at least two entities: others have no pairs.
        parts: number of all windows.
        divided: number of sentences that are longer than a window, which were divided.
        apart: number of ordered pairs of entities that share no window.
    """

    windows: tuple[Window, ...]
    parts: int
    divided: int
    apart: int


@dataclass(frozen=True)
class _Piece:
    """A sentence, or a part of one, with its mentions by entity."""

    tokens: tuple[str, ...]
    mentions: tuple[tuple[int, Mention], ...]


def split(document: Document, fits: Callable[[Document], bool], explain: Callable[[Document], None]) -> Split:
    """Return the windows of a document: one, if it fits.

    Args:
        fits: returns True if the models can hold a document.
        explain: raises UserError if a document does not fit.

    Raises:
        UserError: a mention, or a single token, does not fit.
    """
    everything = Window(document, tuple(range(len(document.entities))))
    if len(document.entities) < 2:
        return Split((), 1, 0, 0)
    if fits(document):
        return Split((everything,), 1, 0, 0)
    pieces, divided = _divided(document, fits, explain)
    windows: list[Window] = []
    parts = begin = last = 0
    while last < len(pieces):
        end = _longest(document, pieces, begin, fits)
        if end <= last:
            # The repeated sentences leave no room for the next one.
            begin += 1
            continue
        window = _window(document, pieces[begin:end])
        parts += 1
        if len(window.entities) > 1:
            windows.append(window)
        begin, last = max(begin + 1, end - max(1, round(OVERLAP * (end - begin)))), end
    together = {pair for window in windows for pair in permutations(window.entities, 2)}
    count = len(document.entities)
    return Split(tuple(windows), parts, divided, count * (count - 1) - len(together))


def merged(title: str, windows: Sequence[Window], triples: Iterable[Sequence[Prediction]]) -> list[Prediction]:
    """Return the triples of all windows of a document; of equal ones that with the best score."""
    best: dict[Triple, Prediction] = {}
    for window, found in zip(windows, triples, strict=True):
        for prediction in found:
            head, tail = window.entities[prediction.head], window.entities[prediction.tail]
            triple = Triple(head, tail, prediction.relation)
            if triple not in best or (prediction.score or 0.0) > (best[triple].score or 0.0):
                best[triple] = replace(prediction, title=title, head=head, tail=tail)
    return [best[triple] for triple in sorted(best)]


def _divided(
    document: Document, fits: Callable[[Document], bool], explain: Callable[[Document], None]
) -> tuple[list[_Piece], int]:
    """Return the sentences of a document, those that do not fit in halves, and the number of these."""
    mentions: list[list[tuple[int, Mention]]] = [[] for _ in document.sentences]
    for index, entity in enumerate(document.entities):
        for mention in entity:
            mentions[mention.sentence].append((index, mention))
    pieces: list[_Piece] = []
    divided = 0
    for tokens, found in zip(document.sentences, mentions, strict=True):
        if not tokens:
            continue
        parts = _halves(document, _Piece(tokens, tuple(found)), fits, explain)
        divided += len(parts) > 1
        pieces += parts
    return pieces, divided


def _halves(
    document: Document, piece: _Piece, fits: Callable[[Document], bool], explain: Callable[[Document], None]
) -> list[_Piece]:
    whole = _window(document, [piece]).document
    if fits(whole):
        return [piece]
    inside = {at for _, mention in piece.mentions for at in range(mention.start + 1, mention.end)}
    middle = len(piece.tokens) / 2
    places = [at for at in range(1, len(piece.tokens)) if at not in inside]
    if not places:
        explain(whole)
        return [piece]
    at = min(places, key=lambda place: abs(place - middle))
    before = tuple(pair for pair in piece.mentions if pair[1].end <= at)
    after = tuple(
        (index, replace(mention, start=mention.start - at, end=mention.end - at))
        for index, mention in piece.mentions
        if mention.start >= at
    )
    return [
        *_halves(document, _Piece(piece.tokens[:at], before), fits, explain),
        *_halves(document, _Piece(piece.tokens[at:], after), fits, explain),
    ]


def _longest(document: Document, pieces: Sequence[_Piece], begin: int, fits: Callable[[Document], bool]) -> int:
    """Return the end of the longest window from `begin`: doubled until it does not fit, then halved."""

    def holds(end: int) -> bool:
        return fits(_window(document, pieces[begin:end]).document)

    good, size = begin + 1, 2
    while begin + size <= len(pieces) and holds(begin + size):
        good, size = begin + size, size * 2
    bad = min(begin + size, len(pieces) + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _window(document: Document, pieces: Sequence[_Piece]) -> Window:
    entities: dict[int, list[Mention]] = {}
    for number, piece in enumerate(pieces):
        for index, mention in piece.mentions:
            entities.setdefault(index, []).append(replace(mention, sentence=number))
    indices = tuple(sorted(entities))
    sentences = tuple(piece.tokens for piece in pieces)
    found = tuple(
        tuple(sorted(entities[index], key=lambda mention: (mention.sentence, mention.start))) for index in indices
    )
    return Window(Document(document.title, sentences, found, None), indices)
