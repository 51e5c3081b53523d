"""Tables of a fit for the console and the log: weights, estimates, band, curve and precisions."""

from __future__ import annotations

from lmrc.evaluation.tables.table import Table
from lmrc.fusion.fit import Fit
from lmrc.fusion.model import Asked, Fusion

# Precisions that are printed; fusion.json has all steps of 0.01.
PRINTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Goal for the share of pairs that the LM is asked about.
SHARE = 0.15
# Cell without a value.
ABSENT = "-"


def format_fit(found: Fit) -> str:
    """Return the weights, estimates, band, curve and precisions of a fit, for the console."""
    fusion, fitted_on, band = found.fusion, found.fusion.fitted_on, found.band
    goal = "" if band.share <= SHARE else f", more than the goal of {100 * SHARE:.0f} %"
    parts = (
        f"{fitted_on.documents:,} documents, {fitted_on.questions:,} questions, {fitted_on.positives:,} of them right; "
        f"{fitted_on.gold:,} gold triples",
        _weights_table(fusion).text(),
        _estimates_table(found).text(),
        f"The LM is asked about pairs with a relation of probability {band.low:.4f} to {band.high:.4f} without it: "
        f"{100 * band.share:.1f} % of the proposed pairs{goal}",
        _curve_table(found).text(),
        _precision_table(fusion).text(),
    )
    return "\n\n".join(parts)


def _weights_table(fusion: Fusion) -> Table:
    names = tuple(type(fusion.with_lm).model_fields)
    rows = []
    for title, weights in (("with LM", fusion.with_lm), ("without LM", fusion.without_lm)):
        values = weights.model_dump()
        rows.append((title, *(f"{values[name]:.3f}" if name in values else ABSENT for name in names)))
    return Table(("weights", *(name.replace("_", " ") for name in names)), tuple(rows))


def _estimates_table(found: Fit) -> Table:
    rows = tuple(
        (one.name, f"{one.nll:.4f}", f"{one.ece:.4f}", f"{one.f1:.2f}", f"{one.threshold:.3f}")
        for one in found.estimates
    )
    return Table(("cross-fitted", "NLL", "ECE", "F1", "threshold"), rows)


def _curve_table(found: Fit) -> Table:
    tokens = found.fusion.tokens_per_question
    header = ["pairs asked", "questions", *([] if tokens is None else ["LM tokens"]), "F1"]
    rows = []
    for point in found.curve:
        cost = [] if tokens is None else [f"{point.questions * tokens:,.0f}"]
        rows.append((f"{100 * point.share:.1f} %", f"{point.questions:,}", *cost, f"{point.f1:.2f}"))
    return Table(tuple(header), tuple(rows))


def _precision_table(fusion: Fusion) -> Table:
    names: dict[Asked, str] = {"band": "LM asked in the band", "all": "LM asked about all pairs", "none": "encoder"}
    rows = []
    for asked, name in names.items():
        held = dict(fusion.thresholds[asked].precision)
        rows.append((name, *(f"{held[target]:.3f}" if target in held else ABSENT for target in PRINTED)))
    return Table(("threshold for precision", *(f"{target:g}" for target in PRINTED)), tuple(rows))
