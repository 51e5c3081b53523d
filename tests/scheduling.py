"""Distribution of the test files over the processes of pytest-xdist (`--dist loadfile`)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# Seconds of the files that take longest; only their order matters. The other processes would wait for a late one.
SECONDS = {
    "tests/slurm/test_front_door.py": 280,
    "tests/slurm/test_preemption.py": 260,
    "tests/slurm/test_chain.py": 250,
    "tests/slurm/test_ends.py": 220,
    "tests/slurm/test_container.py": 200,
    "tests/slurm/test_eval.py": 190,
    "tests/slurm/test_group.py": 170,
    "tests/slurm/test_pipeline.py": 150,
    "tests/slurm/test_eval_node.py": 100,
    "tests/slurm/test_kill.py": 90,
    "tests/slurm/test_staging.py": 80,
    "tests/slurm/test_workers.py": 80,
    "tests/launcher/test_local.py": 180,
    "tests/launcher/test_pipeline.py": 100,
    "tests/pretrained/test_packaged.py": 90,
    "tests/integration/test_backends.py": 60,
    "tests/training/test_torn_checkpoints.py": 60,
    "tests/integration/test_evaluation_stops.py": 50,
    "tests/benchmarks/test_verify.py": 45,
    "tests/integration/test_failing_ranks.py": 40,
    "tests/integration/test_zero_stages.py": 35,
    "tests/integration/test_hanging.py": 30,
    "tests/demo/test_demo.py": 25,
}


class LongestFirst(LoadFileScheduling):
    """Scheduler that starts the longest files first."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda file: (SECONDS.get(file, 0), len(self.workqueue[file])))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
