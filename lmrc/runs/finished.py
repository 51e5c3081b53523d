"""The last lines of a launch: what a finished run found in a few figures, where it is, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmrc.common.errors import counted
from lmrc.config.schema import Options, ProposeConfig
from lmrc.runs.run_folder import RunFolder


def finished_text(folder: Path, result: dict[str, Any]) -> str:
    """Return the figures of a finished run in one line. All of them are in its file DONE."""
    figures = list(filter(None, [_figures(result)]))
    if "seconds" in result:
        figures.append(f"{result['seconds']:,.0f} s")
    return f"{folder} is finished: {', '.join(figures)}" if figures else f"{folder} is finished"


def next_steps(stage: str, config: Options, folder: RunFolder) -> str:
    """Return where the result of a run is and the command that usually follows; empty for a step of the pipeline."""
    path = folder.path
    lines = {
        "rcp": (f"Model: {folder.best}", f"lmrc propose --corpus CORPUS --rcp {folder.best}"),
        "rc": (f"Model: {folder.best}", f"lmrc extract TEXT.txt --rcp runs/rcp/best --rc {folder.best}"),
        "classify": (f"Results: {path}", f"lmrc score {path}, or lmrc report {path}"),
    }
    if isinstance(config, ProposeConfig):
        candidates = path / "candidates"
        command = f"lmrc classify --corpus {config.corpus} --candidates {candidates} --rc runs/rc/best"
        lines["propose"] = (f"Candidates: {candidates}", command)
    if stage not in lines:
        return ""
    where, command = lines[stage]
    return f"{where}; all figures: {path / 'DONE'}\nNext: {command}"


def _figures(result: dict[str, Any]) -> str:
    if result.get("best") is not None and "best_step" in result:
        score = f"best {result['metric']} on dev {result['best']:.4g}"
        return f"{score} at step {result['best_step']:,} of {result['steps']:,}"
    if "kept" in result:
        text = f"{result['kept']:,} of {counted(result['pairs'], 'pair')} kept in "
        text += counted(result["documents"], "document")
        if "f1" in result:
            text += f", precision {result['precision']:.1f}, recall {result['recall']:.1f}, F1 {result['f1']:.1f}"
        return text
    if "predictions" in result:
        return f"{counted(result['predictions'], 'triple')} of {counted(result['documents'], 'document')}"
    return ""
