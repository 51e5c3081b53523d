from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import RunError
from lmrc.launcher.group.record import Group, GroupMember

GROUP = Group((GroupMember("rc.r-8_seed66", "rc.r-8", 66, {"rc.lora.r": "8"}),), "runs/other")


def test_a_group_is_read_as_it_was_written(tmp_path: Path) -> None:
    GROUP.write(tmp_path / "all" / "group.json")
    assert Group.read(tmp_path / "all" / "group.json") == GROUP


def test_fingerprint_changes_with_members_and_reference() -> None:
    others = (Group(GROUP.members), Group((*GROUP.members, GroupMember("b", "b", 66, {})), GROUP.against))
    assert len({GROUP.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert GROUP.fingerprint == Group(GROUP.members, "runs/other").fingerprint


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"members": [{"name": "a"}], "against": null}'])
def test_missing_and_damaged_lists_are_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "group.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=r"list of a group's members"):
        Group.read(path)
