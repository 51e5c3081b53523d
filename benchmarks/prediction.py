"""Compare the predicted time of the demo's stages with the time that they then take, on this machine.

The stages are measured for a few steps (`--measure` of the launchers), predicted, and run one after the other, while
the demo trains two of them side by side. Run it on an idle machine: the prediction assumes that the machine is as busy
later as while it was measured.

    python benchmarks/prediction.py [--out FOLDER] [--config configs/demo.yaml] [--limit 10] [--any.option VALUE …]

Status 0 if each stage took within `--limit` percent of its prediction, or within two seconds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lmrc.common import threads

STAGES = ("rcp", "propose", "rc", "classify")
# Runs of the demo by stage.
RUNS = {"rcp": "rcp", "propose": "propose", "rc": "rc", "classify": "lmrc"}
# The imports of a stage that takes seconds differ by as much.
SLACK_SECONDS = 2.0


def compare(predicted: dict[str, float], taken: dict[str, float], limit: float) -> tuple[str, bool]:
    """Return a table, and True if each stage took within `limit` percent or SLACK_SECONDS of its prediction.

    Args:
        predicted: seconds by stage.
        taken: seconds by stage.
    """
    lines, all_within = [f"{'stage':<10}{'predicted':>12}{'taken':>10}{'difference':>13}"], True
    for stage in STAGES:
        difference = 100 * (predicted[stage] - taken[stage]) / taken[stage]
        all_within &= abs(difference) <= limit or abs(predicted[stage] - taken[stage]) <= SLACK_SECONDS
        lines.append(f"{stage:<10}{predicted[stage]:>10.1f} s{taken[stage]:>8.1f} s{difference:>+11.1f} %")
    total, real = sum(predicted.values()), sum(taken.values())
    lines.append(f"{'all':<10}{total:>10.1f} s{real:>8.1f} s{100 * (total - real) / real:>+11.1f} %")
    return "\n".join(lines), all_within


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, predict, run and compare."""
    threads.configure()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--limit", type=float, default=10.0, help="largest difference in percent")
    options, more = parser.parse_known_args(arguments)

    from lmrc.config.loader import parse
    from lmrc.config.schema import DemoConfig
    from lmrc.demo.demo import HERE, Demo
    from lmrc.launcher.launch import launch
    from lmrc.launcher.plan import plan_launch
    from lmrc.launcher.prediction.measure import measure
    from lmrc.launcher.prediction.predict import prediction_table
    from lmrc.launcher.prediction.stages import PlannedStage, predict_stages
    from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP
    from lmrc.usage.record import read_use

    out = options.out or Path(tempfile.mkdtemp(prefix="lmrc-prediction-"))
    config = parse(DemoConfig, ["--config", str(options.config), f"--run.folder={out}", *more], {})[0]
    demo = Demo(config)
    demo.prepare()
    configs = demo.stage_configs()
    plans = [
        PlannedStage(stage.name, plan_launch(stage, configs[stage].model_copy(update={"cluster": HERE})))
        for stage in (RCP, PROPOSE, RC, CLASSIFY)
    ]
    speeds = measure({planned.plan.stage: planned.plan.config for planned in plans}, {})
    predictions = predict_stages(plans, speeds)
    print(prediction_table(predictions, None), flush=True)
    for stage in (RCP, PROPOSE, RC, CLASSIFY):
        launch(stage, configs[stage])
    home = out / config.run.name
    taken = {stage: sum(use.seconds for use in read_use(home / run)) for stage, run in RUNS.items()}
    table, within = compare({one.name: one.seconds for one in predictions}, taken, options.limit)
    print(f"\n{table}\nwithin {options.limit:g} %: {'yes' if within else 'no'}")
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
