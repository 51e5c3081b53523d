"""Layout of figures with many runs and long names."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable

import matplotlib.image
import numpy as np
import pytest

from lmrc.corpus.relations import DOCRED
from lmrc.evaluation.metrics.confusion import Confusion
from lmrc.evaluation.metrics.registry import Counts
from lmrc.evaluation.plots.figures import WIDEST, alignment, learning_curves, precision_recall, split_bars
from lmrc.evaluation.plots.heatmaps import confusion_heatmap, relation_heatmap
from lmrc.evaluation.plots.read_curves import Aligned, Calibration
from lmrc.evaluation.plots.style import Plot
from lmrc.evaluation.tables.table import Table

NAMES = [f"lmrc-llama2-13b-chat-seed{seed}" for seed in range(6)]
LONG = sorted(DOCRED.ids, key=lambda id: -len(DOCRED.name(id)))[:14]
PARTS = {part: Counts(1, 1, 1) for part in ("1-150", "151-200", "201-250", "251-300", "301-500", "501-1000", "1001+")}
CURVE = tuple((float(recall), 1 - recall / 100, 100 - recall / 2) for recall in range(1, 101))


def confused() -> Plot:
    counts: Confusion = Counter({(a, b): 1_000 if a == b else 10 for a in LONG for b in LONG})
    return confusion_heatmap(counts, DOCRED)


def by_relation() -> Plot:
    rows = tuple((id, DOCRED.name(id), *["100.00"] * len(NAMES)) for id in DOCRED.ids)
    return relation_heatmap(Table(("Relation", "Name", *NAMES), rows, 2))


PLOTS: dict[str, Callable[[], Plot]] = {
    "confusion": confused,
    "heat map": by_relation,
    "bars": lambda: split_bars("words of the document", [(name, PARTS) for name in NAMES]),
    "few bars": lambda: split_bars("relation frequency", [(name, {"frequent": Counts(1, 1, 1)}) for name in NAMES]),
    "two bars": lambda: split_bars("words of the document", [(name, PARTS) for name in NAMES[:2]]),
    "precision and recall": lambda: precision_recall(
        [(name, Calibration((0.3, 70.0), CURVE), (0.2,)) for name in NAMES]
    ),
    "alignment": lambda: alignment([(name, [Aligned(0, 1, 1, 45), Aligned(1, 1, 1, 46)]) for name in NAMES]),
    "learning": lambda: learning_curves([(name, {"loss": {100_000: 1e-5, 200_000: 2e-5}}) for name in NAMES]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_nothing_is_cut_at_the_border(name: str) -> None:
    plot = PLOTS[name]()
    image = matplotlib.image.imread(io.BytesIO(plot.png()))[:, :, :3]
    for side in (image[:2], image[-2:], image[:, :2], image[:, -2:]):
        assert float(np.min(side)) > 0.9
    # A wider figure does not fit on a page.
    assert plot.figure.get_size_inches()[0] <= WIDEST
