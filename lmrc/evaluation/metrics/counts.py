"""How many triples are right, predicted and gold, and the percentages that follow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Sizes of the predicted set, the gold set and what they share. Counts of disjoint parts add up."""

    correct: int = 0
    predicted: int = 0
    gold: int = 0

    @property
    def precision(self) -> float:
        """In percent; 0 where nothing is predicted."""
        return percent(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        """In percent; 0 where nothing is gold."""
        return percent(self.correct, self.gold)

    @property
    def f1(self) -> float:
        """In percent: 2PR / (P + R), which is 2 correct / (predicted + gold); 0 where both are empty."""
        return percent(2 * self.correct, self.predicted + self.gold)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.correct + other.correct, self.predicted + other.predicted, self.gold + other.gold)

    def as_json(self) -> dict[str, float]:
        """Precision, recall, F1 (percent) and the support: the number of gold triples."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.gold}


def percent(part: float, whole: float) -> float:
    """100 part / whole; 0 where there is no whole."""
    return 100.0 * part / whole if whole else 0.0
