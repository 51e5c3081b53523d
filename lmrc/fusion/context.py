"""Context of a question: how probable other questions of its document are.

Relations compete: a pair rarely has two, and a person one place of birth. So a question is compared with others of its
document: the same pair with another relation, and the same head and relation with another tail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmrc.fusion.evidence import Evidence, Floats

Groups = NDArray[np.int64]

# Log-odds of a question that does not exist: propose drops relations below -4.6, a probability of 0.01.
NO_OTHER = -5.0


def other_relations(evidence: Evidence) -> Floats:
    """Return the log-odds by the relation head of the most probable other relation of the pair, [questions].

    NO_OTHER if there is none.
    """
    return _best_other(evidence.relation_logit, _groups(evidence.pair))


def other_tails(evidence: Evidence) -> Floats:
    """Return the log-odds by the relation head of the most probable other tail of head and relation, [questions].

    NO_OTHER if there is none.
    """
    return _best_other(evidence.relation_logit, _heads(evidence))


def _heads(evidence: Evidence) -> Groups:
    """Return the number of the document, head and relation of each question, [questions]."""
    return _groups(evidence.document, evidence.head, evidence.relation)


def _groups(*keys: NDArray[np.int32]) -> Groups:
    """Return the number of each distinct row of keys, [questions]."""
    if not len(keys[0]):
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _best_other(values: Floats, groups: Groups) -> Floats:
    """Return the largest value of the other members of each group; NO_OTHER if there is none."""
    order = np.lexsort((-values, groups))
    ordered = groups[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    best, second = (np.full(int(groups.max(initial=-1)) + 1, NO_OTHER) for _ in range(2))
    best[ordered[is_first]] = values[order[is_first]]
    # A second member follows the first one of its group.
    is_second = np.append(False, is_first[:-1] & ~is_first[1:])[: len(ordered)]
    second[ordered[is_second]] = values[order[is_second]]
    others = best[groups]
    others[order[is_first]] = second[ordered[is_first]]
    return np.asarray(others, dtype=np.float64)
