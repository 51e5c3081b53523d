"""TensorBoard event files in tensorboard/ of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lmrc.training.trackers.base import TrackedRun


class TensorBoardTracker:
    """Writes scalars. On a resume TensorBoard hides the earlier points of steps that are made again."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> None:
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + 1)
        # TensorBoard has neither, so they are texts. A resume finds them written.
        texts = {"group": run.group(config), "tags": ", ".join(run.tags(config))} if run.first_step <= 0 else {}
        for name, text in texts.items():
            if text:
                self._writer.add_text(name, text)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()
