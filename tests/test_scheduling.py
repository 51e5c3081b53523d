from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.conftest import ROOT
from tests.scheduling import SECONDS, LongestFirst

TESTS = [
    *("tests/a/test_one.py::test", "tests/demo/test_demo.py::test", "tests/launcher/test_local.py::test"),
    *(f"tests/a/test_many.py::test[{number}]" for number in range(3)),
    *("tests/slurm/test_kill.py::test", "tests/slurm/test_doctor.py::test", "tests/slurm/test_front_door.py::test"),
]


class Node:
    """A process of pytest-xdist that notes the files that it is given."""

    shutting_down = False

    def __init__(self) -> None:
        self.files: list[str] = []
        self.gateway = SimpleNamespace(id="gw")

    def send_runtest_some(self, indices: list[int]) -> None:
        self.files += dict.fromkeys(TESTS[index].split("::")[0].removeprefix("tests/") for index in indices)

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduled(processes: int) -> list[list[str]]:
    """Return the first two files of each process."""
    config = SimpleNamespace(
        getvalue=lambda name: ["popen"] * processes, option=SimpleNamespace(loadscopereorder=True, tx=[])
    )
    config.getoption = config.getvalue
    scheduler = LongestFirst(config)  # type: ignore[arg-type]
    nodes: list[Any] = [Node() for _ in range(processes)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, TESTS)
    scheduler.schedule()
    return [node.files for node in nodes]


def test_files_with_a_time_exist() -> None:
    assert [file for file in SECONDS if not (ROOT / file).is_file()] == []


def test_longest_files_first() -> None:
    assert scheduled(1) == [["slurm/test_front_door.py", "launcher/test_local.py"]]
    assert scheduled(2) == [
        ["slurm/test_front_door.py", "slurm/test_kill.py"],
        ["launcher/test_local.py", "demo/test_demo.py"],
    ]
    assert scheduled(3) == [
        ["slurm/test_front_door.py", "demo/test_demo.py"],
        ["launcher/test_local.py", "a/test_many.py"],
        ["slurm/test_kill.py", "a/test_one.py"],
    ]
