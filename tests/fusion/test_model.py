from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidate, RelationLogit
from lmrc.corpus.relations import RelationSet
from lmrc.fusion.context import NO_OTHER
from lmrc.fusion.evidence import Evidence, Question
from lmrc.fusion.model import EncoderWeights, FittedOn, Fusion, LmWeights, Thresholds

RELATIONS = RelationSet(("P17", "P19"), ("country", "place of birth"))


def fusion(**changes: Any) -> Fusion:
    values: dict[str, Any] = {
        "with_lm": LmWeights(bias=-1.0, pair=0.5, relation=0.25, lm=2.0),
        "without_lm": EncoderWeights(bias=-0.5, pair=1.0, relation=0.5),
        "band": (0.2, 0.6),
        "thresholds": {
            "band": Thresholds(f1=0.4, precision=((0.8, 0.55), (0.9, 0.7))),
            "all": Thresholds(f1=0.4, precision=((0.9, 0.75),)),
            "none": Thresholds(f1=0.3, precision=()),
        },
        "fitted_on": FittedOn(
            corpus_fingerprint="a" * 64,
            relations_sha256=RELATIONS.sha256,
            documents=10,
            questions=100,
            positives=20,
            gold=30,
        ),
    }
    return Fusion(**(values | changes))


def evidence() -> Evidence:
    # P(pair) = 0.5 has log-odds 0.
    logits = ((RelationLogit("P17", 0.0), RelationLogit("P19", -8.0)), (RelationLogit("P17", 9.0),), ())
    return Evidence.of([(0, [Candidate(0, tail, 0.5, logits[tail - 1]) for tail in (1, 2, 3)])], RELATIONS)


def test_weighted_sums() -> None:
    scores = {Question(0, 0, 1, "P17"): 0.5, Question(0, 0, 1, "P19"): 0.5}
    asked = evidence().with_lm(scores, np.array([True, False, False]), None)
    assert fusion().log_odds(asked).tolist() == pytest.approx([-1.0, -1.0 - 8 * 0.25, -0.5 + 9 * 0.5])
    assert fusion().probabilities(asked)[0] == pytest.approx(1 / (1 + np.e))


def test_weights_of_the_context() -> None:
    """A pair with two relations, and one tail of two with a relation of its own."""
    logits = ((RelationLogit("P17", 1.0), RelationLogit("P19", -3.0)), (RelationLogit("P17", 2.0),))
    found = Evidence.of([(0, [Candidate(0, 3, 0.5, logits[0]), Candidate(0, 4, 0.5, logits[1])])], RELATIONS)
    nothing = {"bias": 0.0, "pair": 0.0, "relation": 0.0}
    columns = {
        name: EncoderWeights(**nothing | {name: 1.0}).log_odds(found).tolist()
        for name in ("other_relations", "other_tails")
    }
    assert columns == {"other_relations": [-3.0, 1.0, NO_OTHER], "other_tails": [2.0, NO_OTHER, 1.0]}


def test_pairs_in_the_band() -> None:
    """One relation in the band is enough; a pair without a question is never asked about."""
    assert fusion().in_band(evidence()).tolist() == [True, False, False]
    assert fusion(band=(0.0, 1.0)).in_band(evidence()).tolist() == [True, True, False]
    assert fusion(band=(0.4, 0.6)).in_band(evidence()).tolist() == [False, False, False]


def test_threshold() -> None:
    assert fusion().threshold("band") == 0.4
    assert [fusion().threshold("band", precision) for precision in (0.5, 0.8, 0.81, 0.9)] == [0.55, 0.55, 0.7, 0.7]
    assert fusion().threshold("all", 0.9) == 0.75
    with pytest.raises(UserError, match=r"no threshold of the fusion holds a precision of 0.95: .* at most 0.9"):
        fusion().threshold("band", 0.95)
    with pytest.raises(UserError, match=r"fit the fusion on more documents$"):
        fusion().threshold("none", 0.5)


def test_saved_and_read(tmp_path: Path) -> None:
    for one in (fusion(), fusion(tokens_per_question=11.5)):
        one.save(tmp_path / "fusion.json")
        assert Fusion.read(tmp_path / "fusion.json") == one
    assert (tmp_path / "fusion.json").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind: "),
        ({"version": 2}, "version: "),
        ({"more": 1}, "more: "),
        ({"band": [0.6, 0.2]}, "the band starts at 0.6 and ends below, at 0.2"),
        ({"band": [0.2, 1.5]}, "band.1: "),
        ({"without_lm": {"bias": "0", "pair": 1.0, "relation": 1.0}}, "without_lm.bias: "),
        ({"without_lm": {"bias": 0.0, "pair": 1.0}}, "without_lm.relation: "),
        ({"thresholds": {"band": {"f1": 0.5, "precision": []}}}, "thresholds of band, all and none"),
    ],
)
def test_strict_to_read(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "fusion.json"
    path.write_text(json.dumps(fusion().model_dump(mode="json") | change))
    with pytest.raises(UserError, match=r"is no fusion \(.*\); write one with lmrc fusion fit") as raised:
        Fusion.read(path)
    assert message in str(raised.value)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Fusion.read(tmp_path / "none.json")
    (tmp_path / "text").write_text("text")
    with pytest.raises(UserError, match="is no fusion"):
        Fusion.read(tmp_path / "text")


def test_another_relation_set() -> None:
    fusion().check_relations(RELATIONS)
    with pytest.raises(UserError, match="fitted with another relation set"):
        fusion().check_relations(RelationSet(("P17",), ("country",)))
