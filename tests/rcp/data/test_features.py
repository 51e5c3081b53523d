from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.corpus.types import Document, Mention
from lmrc.rcp.data.features import NUM_DISTANCE_CLASSES, Features, count_entity_types, distance_classes
from lmrc.rcp.data.tokenization import DocumentTokenizer, EncodedDocument
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus


def encode(document: Document, longest: int = 10**6) -> EncodedDocument:
    return DocumentTokenizer(tiny.tokenizer("bert"), longest).encode(document)


def reference_classes(document: Document) -> list[int]:
    """Return the distance classes, computed mention by mention."""
    classes = []
    for index, first in enumerate(document.entities):
        for second in document.entities[index + 1 :]:
            distance = min(abs(a.sentence - b.sentence) for a in first for b in second)
            classes.append(5 * min(distance, 7) + min(len(first), len(second), 5) - 1)
    return classes


@given(
    seed=st.integers(0, 1000),
    entities=st.lists(st.integers(1, 8), min_size=1, max_size=8),
    words=st.integers(1, 150),
)
def test_distances_pair_by_pair(seed: int, entities: list[int], words: int) -> None:
    document = tiny.document(words, entities, seed)
    expected = reference_classes(document)
    assert all(0 <= number < NUM_DISTANCE_CLASSES for number in expected)
    assert distance_classes(encode(document)).tolist() == expected
    # Truncated mentions count too.
    assert distance_classes(encode(document, 5)).tolist() == expected


def test_distances_by_hand() -> None:
    def at(*sentences: int) -> tuple[Mention, ...]:
        return tuple(Mention("n", sentence, 0, 1, "PER") for sentence in sentences)

    entities = (at(0, 9), at(2), at(9, 9), at(*range(9, 20)), at(*range(10, 16)))
    document = encode(Document("t", (("a",),) * 20, entities, None))
    # (0, 1): two sentences apart, one mention. (0, 2): the same sentence, two mentions. (1, 3), (1, 2): seven or more
    # sentences apart. (3, 4): five or more mentions.
    classes = dict(
        zip([(a, b) for a in range(5) for b in range(a + 1, 5)], distance_classes(document).tolist(), strict=True)
    )
    assert classes[0, 1] == 10
    assert classes[0, 2] == 1
    assert classes[1, 3] == classes[1, 2] == classes[1, 4] == 35
    assert classes[0, 4] == 6
    assert classes[3, 4] == 4


def test_no_pair_and_no_entity() -> None:
    assert distance_classes(encode(tiny.document(10, [3]))).tolist() == []
    assert distance_classes(encode(Document("t", (("a",),), (), ()))).tolist() == []


def test_types_are_those_of_first_mentions(make_corpus: MakeCorpus) -> None:
    """`tiny.document` gives mention m of entity e the type TYPES[(e + m) % 3]."""
    documents = [tiny.document(20, [counts], title=str(counts)) for counts in (3, 1)]
    assert count_entity_types(make_corpus("two", documents)) == {"PER": 2}
    documents = [tiny.document(20, [1, 2, 1], title="a"), tiny.document(9, [2, 1], title="b")]
    assert count_entity_types(make_corpus("more", documents, docs_per_shard=1)) == {"PER": 2, "ORG": 2, "MISC": 1}


def test_arrays_and_unknown_types() -> None:
    documents = [encode(tiny.document(20, [2, 1, 1, 1], seed=1)), encode(tiny.document(30, [1, 2], seed=2))]
    features = Features(("ORG", "PER"), distance=True)
    arrays = features.batch_arrays(documents)
    # PER, ORG, MISC, PER and PER, ORG.
    assert arrays["types"].tolist() == [2, 1, 0, 2, 2, 1]
    expected = [
        number
        for seed, counts in ((1, [2, 1, 1, 1]), (2, [1, 2]))
        for number in reference_classes(tiny.document(10 * (seed + 1), counts, seed=seed))
    ]
    assert arrays["distances"].tolist() == expected
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}
    assert [features.count_unknown_types(document) for document in documents] == [1, 0]


@pytest.mark.parametrize(
    ("features", "names"), [(Features(), set()), (Features(("PER",)), {"types"}), (Features((), True), {"distances"})]
)
def test_only_used_features_are_in_the_batch(features: Features, names: set[str]) -> None:
    document = encode(tiny.document(20, [2, 1, 1, 1]))
    assert features.batch_arrays([document]).keys() == names
    assert features.count_unknown_types(document) == (2 if "types" in names else 0)
