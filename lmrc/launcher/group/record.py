"""The members of a group of pipelines, as group.json lists them in the folder of the group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import RunError

GROUP = "group.json"


@dataclass(frozen=True)
class GroupMember:
    """A pipeline of the group.

    Attributes:
        name: name of its folder in that of the group.
        system: name of the values of the sweep; members that differ only in their seed have the same.
        options: the values of the sweep by option.
    """

    name: str
    system: str
    seed: int
    options: Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """The members of a group.

    Attributes:
        members: in the order in which they run.
        against: name of a member or system, or path of a run, that the members are compared with; None: no comparison.
    """

    members: tuple[GroupMember, ...]
    against: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the content of group.json."""
        return {"members": [asdict(member) for member in self.members], "against": self.against}

    @property
    def fingerprint(self) -> str:
        """Return a hash of the content, by which a summary knows that it is of these members."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the file, unless it has this content.

        Raises:
            RunError: the file cannot be written.
        """
        text = json.dumps(self.as_json(), indent=1) + "\n"
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)

    @classmethod
    def read(cls, path: Path) -> Group:
        """Read group.json.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            content = json.loads(path.read_text())
            return cls(tuple(GroupMember(**member) for member in content["members"]), content["against"])
        except OSError as error:
            # Not in the pre-flight: the launcher writes the file.
            raise RunError(f"cannot read {path}, the list of a group's members: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            # Not in the pre-flight: the launcher writes the file.
            raise RunError(f"{path} is not a list of a group's members: repeat the command of the pipeline") from None
