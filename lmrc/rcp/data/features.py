"""What the model is told of entities and pairs besides the text: types, and distances in sentences.

Not of the paper; options, off by default. A type is that of the entity's first mention. The class of a pair
is min(sentences between its closest mentions, 7) and min(mentions of the entity that has fewer, 5), all mentions
counted, whether cut off or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lmrc.corpus.corpus import Corpus
from lmrc.rcp.data.collate import unordered_pairs
from lmrc.rcp.data.tokenization import EncodedDocument

MOST_SENTENCES = 7
MOST_MENTIONS = 5
DISTANCES = (MOST_SENTENCES + 1) * MOST_MENTIONS
"""Classes of pairs."""
# Documents whose entities are looked at together.
_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class Features:
    """Which features a model knows."""

    types: tuple[str, ...] = ()
    """The types of entities it has an embedding for, sorted; () where it does not look at types."""
    distance: bool = False
    markers: Mapping[str, int] = field(default_factory=dict)
    """The word pieces that open mentions of each type (`lmrc.rcp.data.type_markers`); {} where all are opened by `*`."""

    def arrays(self, documents: Sequence[EncodedDocument]) -> dict[str, NDArray[np.int64]]:
        """What a batch needs of these, each only if the model knows the feature.

        "types" [entities]: 0 where unknown, else 1 + its number; "distances" [unordered pairs]: see `distances`.
        """
        found = {}
        if self.types:
            numbers = {name: number for number, name in enumerate(self.types, 1)}
            known = [numbers.get(name, 0) for document in documents for name in document.types]
            found["types"] = np.array(known, dtype=np.int64)
        if self.distance:
            found["distances"] = np.concatenate([distances(document) for document in documents])
        return found

    def unknown(self, document: EncodedDocument) -> int:
        """Entities whose type the model does not know; 0 where it does not look at types."""
        known = self.types or self.markers
        return sum(name not in known for name in document.types) if known else 0


NO_FEATURES = Features()


def distances(document: EncodedDocument) -> NDArray[np.int64]:
    """The classes of the pairs a < b of a document, sorted: [unordered pairs], in [0, DISTANCES)."""
    first, second = unordered_pairs(document.entities)
    if len(first) == 0:
        return np.zeros(0, dtype=np.int64)
    mentions = document.mentions.astype(np.int64)
    begin = np.cumsum(mentions) - mentions
    apart = np.abs(document.sentences[:, None] - document.sentences)  # [mentions, mentions]
    closest = np.minimum.reduceat(np.minimum.reduceat(apart, begin, 0), begin, 1)[first, second]
    fewer = np.minimum(mentions[first], mentions[second])
    classes: NDArray[np.int64] = np.minimum(closest, MOST_SENTENCES) * MOST_MENTIONS + np.minimum(fewer, MOST_MENTIONS)
    return classes - 1


def entity_types(corpus: Corpus) -> Counter[str]:
    """How many of the corpus' entities are of each type. Raises CorpusError where the corpus is damaged."""
    found: Counter[str] = Counter()
    for documents in corpus.slices(_DOCUMENTS):
        entities = corpus.columns(documents).column("entities").flatten()
        mentions = entities.flatten()
        counts = entities.value_lengths().to_numpy()
        first = mentions.field("type").take(pa.array(np.cumsum(counts) - counts))
        found.update({each["values"]: each["counts"] for each in pc.value_counts(first).to_pylist()})
    return found
