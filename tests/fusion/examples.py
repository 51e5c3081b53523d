"""Synthetic questions whose answers follow a known fusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmrc.fusion.evidence import Evidence, probability
from lmrc.fusion.fit import Labeled

WITH_LM = (-1.0, 0.4, 0.7, 0.6)
RELATIONS = tuple(f"P{number}" for number in range(8))


def labeled(
    documents: int, seed: int = 0, pairs: int = 12, relations: int = 4, missed: int = 1, document_effect: float = 0.0
) -> Labeled:
    """Return questions whose log-odds are `WITH_LM` times (1, pair, relation head, LM).

    Args:
        pairs: pairs per document.
        relations: questions per pair.
        missed: gold triples per document that are no question.
        document_effect: standard deviation of an effect that all questions of a document share, in log-odds.
    """
    draw = np.random.default_rng(seed)
    count = documents * pairs * relations
    pair = np.arange(count, dtype=np.int32) // relations
    document = (pair // pairs).astype(np.int32)
    inside = pair % pairs
    truth = draw.normal(-3.0, 2.5, count)
    evidence = Evidence(
        relations=RELATIONS,
        document=document,
        head=(inside // 4).astype(np.int32),
        tail=(4 + inside % 4).astype(np.int32),
        relation=(np.arange(count) % relations).astype(np.int32),
        pair=pair,
        pair_logit=draw.normal(0.0, 2.0, documents * pairs)[pair],
        relation_logit=truth + draw.normal(0.0, 1.0, count),
        lm_logit=truth + draw.normal(0.0, 2.0, count),
        pairs=documents * pairs,
    )
    bias, w_pair, w_relation, w_lm = WITH_LM
    logits = bias + w_pair * evidence.pair_logit + w_relation * evidence.relation_logit + w_lm * evidence.lm_logit
    logits += draw.normal(0.0, document_effect, documents)[document]
    correct = draw.random(count) < probability(logits)
    return Labeled(evidence, correct, documents, int(correct.sum()) + missed * documents)


def of_documents(whole: Labeled, chosen: np.ndarray, missed: int = 1) -> Labeled:
    """Return the questions of some documents, which are numbered anew in the order of `chosen`."""
    number = np.full(whole.documents, -1)
    number[chosen] = np.arange(len(chosen))
    inside = number[whole.evidence.document] >= 0
    part = whole.evidence.part(inside)
    document = number[part.document].astype(np.int32)
    pair = np.unique(part.pair, return_inverse=True)[1].reshape(-1).astype(np.int32)
    correct = whole.correct[inside]
    evidence = replace(part, document=document, pair=pair, pairs=int(pair.max()) + 1)
    return Labeled(evidence, correct, len(chosen), int(correct.sum()) + missed * len(chosen))
