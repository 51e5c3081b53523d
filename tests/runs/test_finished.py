from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.config.schema import ClassifyConfig, Options, ProposeConfig, RcConfig, RcpConfig
from lmrc.runs.finished import finished_text, next_steps
from lmrc.runs.run_folder import RunFolder


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            {
                "metric": "loss",
                "best": 0.09936828805197134,
                "best_step": 80,
                "steps": 1080,
                "seconds": 151.6,
                "use": {},
            },
            "runs/x is finished: best loss on dev 0.09937 at step 80 of 1,080, 152 s",
        ),
        ({"metric": "f1", "best": None, "best_step": 0, "steps": 3, "seconds": 2.0}, "runs/x is finished: 2 s"),
        (
            {"documents": 1, "pairs": 1200, "kept": 12, "precision": 99.24242424242425, "recall": 98.0, "f1": 98.6},
            "runs/x is finished: 12 of 1,200 pairs kept in 1 document, precision 99.2, recall 98.0, F1 98.6",
        ),
        ({"documents": 2, "pairs": 3, "kept": 1}, "runs/x is finished: 1 of 3 pairs kept in 2 documents"),
        (
            {"documents": 12, "queries": 12, "pairs": 90, "predictions": 1, "seconds": 4000.0},
            "runs/x is finished: 1 triple of 12 documents, 4,000 s",
        ),
        ({}, "runs/x is finished"),
    ],
)
def test_figures_of_a_finished_run(result: dict[str, object], expected: str) -> None:
    assert finished_text(Path("runs/x"), result) == expected


@pytest.mark.parametrize(
    ("stage", "config", "expected"),
    [
        ("rcp", RcpConfig(), ["Model: runs/x/best", "lmrc propose --corpus CORPUS --rcp runs/x/best"]),
        ("rc", RcConfig(), ["Model: runs/x/best", "--rc runs/x/best"]),
        (
            "propose",
            ProposeConfig(corpus=Path("data/a")),
            ["Candidates: runs/x/candidates", "lmrc classify --corpus data/a --candidates runs/x/candidates"],
        ),
        ("classify", ClassifyConfig(), ["Next: lmrc score runs/x"]),
    ],
)
def test_next_steps(stage: str, config: Options, expected: list[str]) -> None:
    shown = next_steps(stage, config, RunFolder(Path("runs/x")))
    assert "all figures: runs/x/DONE" in shown
    assert all(part in shown for part in expected)


def test_steps_of_the_pipeline_have_none() -> None:
    assert next_steps("score", RcpConfig(), RunFolder(Path("runs/x"))) == ""
