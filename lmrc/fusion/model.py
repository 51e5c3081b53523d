"""The fusion: one calibrated probability per question from the log-odds of RCP, the relation head and the LM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.corpus.relations import RelationSet
from lmrc.fusion.context import other_relations, other_tails
from lmrc.fusion.evidence import Bools, Evidence, Floats, probability

# Pairs that the LM is asked about: those in the band, all, or none (the encoder alone).
Asked = Literal["band", "all", "none"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class EncoderWeights(_Strict):
    """Weights of the log-odds of a question that the LM is not asked about.

    Attributes:
        other_relations: weight of `lmrc.fusion.context.other_relations`.
        other_tails: weight of `lmrc.fusion.context.other_tails`.
    """

    bias: float
    pair: float
    relation: float
    other_relations: float = 0.0
    other_tails: float = 0.0

    @classmethod
    def columns(cls, evidence: Evidence) -> list[Floats]:
        """Return what each weight after the bias is multiplied by, [questions] each."""
        return [evidence.pair_logit, evidence.relation_logit, other_relations(evidence), other_tails(evidence)]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the weights of a bias and the columns, in their order."""
        return cls(**dict(zip(cls.model_fields, values, strict=True)))

    def log_odds(self, evidence: Evidence) -> Floats:
        """Return the log-odds of each question, [questions]; for `LmWeights` NaN if the LM was not asked."""
        bias, *weights = self.model_dump().values()
        total = np.full(len(evidence), float(bias))
        for weight, column in zip(weights, self.columns(evidence), strict=True):
            total += weight * column
        return total


class LmWeights(EncoderWeights):
    """Weights of the log-odds of a question that the LM is asked about."""

    lm: float

    @classmethod
    def columns(cls, evidence: Evidence) -> list[Floats]:
        """See `EncoderWeights`."""
        return [*super().columns(evidence), evidence.lm_logit]


class Thresholds(_Strict):
    """Least probability of a triple.

    Attributes:
        f1: the threshold with the best F1.
        precision: pairs (precision, threshold that holds it), ascending by precision; a precision that no threshold
            holds is left out.
    """

    f1: Probability
    precision: tuple[tuple[Probability, Probability], ...]


class FittedOn(_Strict):
    """Documents that the fusion was fitted on.

    Attributes:
        corpus_fingerprint: fingerprint of the corpus.
        relations_sha256: hash of its relation set.
        positives: number of questions whose triple is gold.
        gold: number of gold triples, including those that are no question.
    """

    corpus_fingerprint: str
    relations_sha256: str
    documents: int = Field(ge=1)
    questions: int = Field(ge=1)
    positives: int = Field(ge=1)
    gold: int = Field(ge=1)


class Fusion(_Strict):
    """Weights, thresholds and the band in which the LM is asked.

    Attributes:
        band: the LM is asked about a pair if the probability without LM of one of its relations is in this interval.
        thresholds: by the pairs that the LM is asked about.
        tokens_per_question: LM tokens of a question, for the curve of F1 over tokens; None if they are not known.
    """

    kind: Literal["fusion"] = "fusion"
    version: Literal[1] = 1
    with_lm: LmWeights
    without_lm: EncoderWeights
    band: tuple[Probability, Probability]
    thresholds: dict[Asked, Thresholds]
    tokens_per_question: float | None = Field(None, gt=0.0)
    fitted_on: FittedOn

    @model_validator(mode="after")
    def _check(self) -> Fusion:
        if self.thresholds.keys() != {"band", "all", "none"}:
            raise ValueError(f"thresholds of band, all and none are expected, not of {', '.join(self.thresholds)}")
        if self.band[0] > self.band[1]:
            raise ValueError(f"the band starts at {self.band[0]} and ends below, at {self.band[1]}")
        return self

    def log_odds(self, evidence: Evidence) -> Floats:
        """Return the log-odds of each question, with the LM if it was asked, [questions]."""
        without = self.without_lm.log_odds(evidence)
        return np.where(np.isnan(evidence.lm_logit), without, self.with_lm.log_odds(evidence))

    def probabilities(self, evidence: Evidence) -> Floats:
        """Return the probability of each question, with the LM if it was asked, [questions]."""
        return probability(self.log_odds(evidence))

    def in_band(self, evidence: Evidence) -> Bools:
        """Return True for each pair that the LM is asked about, [pairs]."""
        return pairs_in_band(probability(self.without_lm.log_odds(evidence)), evidence, self.band)

    def threshold(self, asked: Asked, precision: float | None = None) -> float:
        """Return the threshold with the best F1, or the one that holds a precision.

        A precision between two steps of the table takes the higher one.

        Raises:
            UserError: no threshold holds this precision.
        """
        thresholds = self.thresholds[asked]
        if precision is None:
            return thresholds.f1
        for held, threshold in thresholds.precision:
            if held >= precision - 1e-9:
                return threshold
        best = thresholds.precision[-1][0] if thresholds.precision else None
        remedy = "fit the fusion on more documents" + ("" if best is None else f", or give at most {best:g}")
        raise UserError(f"no threshold of the fusion holds a precision of {precision:g}: {remedy}")

    def check_relations(self, relations: RelationSet) -> None:
        """Check that the fusion was fitted with this relation set.

        Raises:
            UserError: it was not.
        """
        if relations.sha256 != self.fitted_on.relations_sha256:
            raise UserError(
                "the fusion was fitted with another relation set than that of the corpus (ids, names or order differ): "
                "fit it again, on a corpus with the same relations"
            )

    def save(self, path: Path) -> None:
        """Write the fusion as JSON.

        Raises:
            RunError: the file cannot be written.
        """
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Fusion:
        """Read a fusion.

        Raises:
            UserError: the file is missing, or is no fusion.
        """
        with reading(path) as file:
            content = file.read()
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path}: is no fusion ({where + ': ' if where else ''}{first['msg']}); write one with lmrc fusion fit"
            ) from None


def pairs_in_band(without_lm: Floats, evidence: Evidence, band: tuple[float, float]) -> Bools:
    """Return True for each pair with a relation whose probability without LM is in the band, [pairs]."""
    inside = (without_lm >= band[0]) & (without_lm <= band[1])
    asked = np.zeros(evidence.pairs, dtype=np.bool_)
    asked[evidence.pair[inside]] = True
    return asked
