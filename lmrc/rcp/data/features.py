"""Optional features of entities and pairs besides the text: entity types and sentence distances.

Not part of the paper; off by default. An entity's type is that of its first mention. The distance class of a pair
combines min(sentences between the closest mentions, 7) and min(mentions of the entity that has fewer, 5). Truncated
mentions count.
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

MAX_SENTENCES = 7
MAX_MENTIONS = 5
NUM_DISTANCE_CLASSES = (MAX_SENTENCES + 1) * MAX_MENTIONS
# Documents read at once by `count_entity_types`.
_BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Features:
    """Features that a model uses.

    Attributes:
        types: sorted entity types with an embedding; empty if the model does not use types.
        distance: if True, the model uses sentence distances.
        markers: opening marker of each entity type (`lmrc.rcp.data.type_markers`), as a word piece; empty if `*` opens
            all mentions.
    """

    types: tuple[str, ...] = ()
    distance: bool = False
    markers: Mapping[str, int] = field(default_factory=dict)

    def batch_arrays(self, documents: Sequence[EncodedDocument]) -> dict[str, NDArray[np.int64]]:
        """Return the arrays of the used features.

        Returns:
            "types" [entities]: 0 for unknown types, otherwise 1 + the index in `types`; "distances" [unordered pairs]:
            see `distance_classes`.
        """
        arrays = {}
        if self.types:
            indices = {name: index for index, name in enumerate(self.types, 1)}
            types = [indices.get(name, 0) for document in documents for name in document.entity_types]
            arrays["types"] = np.array(types, dtype=np.int64)
        if self.distance:
            arrays["distances"] = np.concatenate([distance_classes(document) for document in documents])
        return arrays

    def count_unknown_types(self, document: EncodedDocument) -> int:
        """Return the number of entities whose type the model does not know; 0 if it does not use types."""
        known = self.types or self.markers
        return sum(name not in known for name in document.entity_types) if known else 0


NO_FEATURES = Features()


def distance_classes(document: EncodedDocument) -> NDArray[np.int64]:
    """Return the classes of a document's sorted pairs a < b, [unordered pairs], in [0, NUM_DISTANCE_CLASSES)."""
    first, second = unordered_pairs(document.num_entities)
    if len(first) == 0:
        return np.zeros(0, dtype=np.int64)
    counts = document.mention_counts.astype(np.int64)
    starts = np.cumsum(counts) - counts
    distances = np.abs(document.mention_sentences[:, None] - document.mention_sentences)  # [mentions, mentions]
    closest = np.minimum.reduceat(np.minimum.reduceat(distances, starts, 0), starts, 1)[first, second]
    fewer = np.minimum(counts[first], counts[second])
    classes: NDArray[np.int64] = np.minimum(closest, MAX_SENTENCES) * MAX_MENTIONS + np.minimum(fewer, MAX_MENTIONS)
    return classes - 1


def count_entity_types(corpus: Corpus) -> Counter[str]:
    """Return the number of entities of each type.

    Raises:
        CorpusError: if the corpus is damaged.
    """
    counts: Counter[str] = Counter()
    for documents in corpus.slices(_BATCH_SIZE):
        entities = corpus.columns(documents).column("entities").flatten()
        mention_counts = entities.value_lengths().to_numpy()
        first_mentions = pa.array(np.cumsum(mention_counts) - mention_counts)
        types = entities.flatten().field("type").take(first_mentions)
        counts.update({row["values"]: row["counts"] for row in pc.value_counts(types).to_pylist()})
    return counts
