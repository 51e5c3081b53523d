"""Results with names that formats must escape."""

from __future__ import annotations

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import RelationSet
from lmrc.export.result import ExtractedDocument, extracted
from lmrc.text.document import document_of
from lmrc.text.entity_types import TypeMap
from lmrc.text.mentions import TextMention

RELATIONS = RelationSet(("P19", "works for"), ("place of birth", 'works "for", <x> & y'))
TEXT = 'A "x" <&>, was born in C\\D;\nthe Bo. Then A left.'
# Entity, text and type of each mention. A is in both sentences.
MENTIONS = (("A", 'A "x" <&>', "PER"), ("C", "C\\D", "LOC"), ("B", "Bo", ""), ("A", "A left", "PER"))


def result(title: str = "one", *triples: tuple[int, int, str, float]) -> ExtractedDocument:
    """Return a result with three entities; by default with two triples."""
    mentions = [TextMention(TEXT.index(name), TEXT.index(name) + len(name), type, key) for key, name, type in MENTIONS]
    found = document_of(title, TEXT, mentions, TypeMap(()))
    chosen = triples or ((0, 1, "P19", 0.75), (0, 2, "works for", 0.5))
    return extracted(found, [Prediction(title, *triple) for triple in chosen], RELATIONS)
