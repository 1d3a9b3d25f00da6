"""Things that one process at a time works on: claimed when they are taken, free again when the claimant is silent.

A claim is a file ``NAME.claim.GENERATION`` that holds the claimant's name; it comes to be by exclusive creation, which
is atomic on local disks, on NFS and, as a conditional put, on object stores.  The newest generation counts: who takes
over from a silent process creates the next one, so that of many exactly one succeeds, and a process that was only
stopped finds, when it goes on, that it was superseded.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from mtembed.dataset.atomic import new_file, read_regular
from mtembed.dataset.members import Members, State

CLAIM = re.compile(r"(.+)\.(claim|join)\.(\d{1,9})", re.DOTALL)


class Claims:
    """The claims of one kind (``claim`` or ``join``) in a work folder, for one of its members."""

    def __init__(self, work: Path, kind: str, members: Members) -> None:
        self._work, self._kind, self._members = work, kind, members
        self.mine: set[str] = set()

    def take(self, name: str) -> bool:
        """Whether it is ours from now on (or was).  Raises OSError."""
        if name in self.mine:
            return True
        newest = max(generations(self._work, self._kind).get(name, ()), default=0)
        if newest and not self._free(name, newest):
            return False
        try:
            fd = new_file(self._path(name, newest + 1))
        except FileExistsError:  # another one was quicker
            return False
        except FileNotFoundError:  # all others have gone, and the folder with them
            self._members.beat()
            return False
        with os.fdopen(fd, "wb") as file:
            file.write(self._members.name.encode())
        if max(generations(self._work, self._kind).get(name, ()), default=0) != newest + 1:
            self._path(name, newest + 1).unlink(missing_ok=True)
            return False
        self.mine.add(name)
        return True

    def release(self, name: str) -> None:
        """Give it back; what is not ours any more is left alone.  Raises OSError."""
        self.mine.discard(name)
        if not holds(self._work, self._kind, name, self._members.name):
            return
        for generation in sorted(generations(self._work, self._kind).get(name, ())):
            self._path(name, generation).unlink(missing_ok=True)

    def superseded(self) -> list[str]:
        """What others have taken over meanwhile; it is not ours any more.  Raises OSError."""
        lost = [name for name in sorted(self.mine) if not holds(self._work, self._kind, name, self._members.name)]
        self.mine.difference_update(lost)
        return lost

    def _free(self, name: str, generation: int) -> bool:
        """Whether the claimant is silent or dead, or never said who it is."""
        owner = _owner(self._path(name, generation))
        if owner == self._members.name:
            return True
        if not owner:
            key = f"{name}.{self._kind}.{generation}"
            return self._members.unchanged(key, b"") is State.SILENT
        return self._members.state(owner) is not State.LIVING

    def _path(self, name: str, generation: int) -> Path:
        return self._work / f"{name}.{self._kind}.{generation}"


def holds(work: Path, kind: str, name: str, member: str) -> bool:
    """Whether a member is the claimant.  Raises OSError."""
    newest = max(generations(work, kind).get(name, ()), default=0)
    return bool(newest) and _owner(work / f"{name}.{kind}.{newest}") == member


def generations(work: Path, kind: str) -> dict[str, list[int]]:
    """Generations of all claims of a kind, by name.  Raises OSError."""
    found: dict[str, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(work):  # noqa: PTH208
            match = CLAIM.fullmatch(entry)
            if match and match[2] == kind:
                found.setdefault(match[1], []).append(int(match[3]))
    return found


def owners(work: Path, kind: str) -> dict[str, str]:
    """Claimants by name of what is claimed; empty where one has not said who it is.  Raises OSError."""
    every = generations(work, kind)
    return {name: _owner(work / f"{name}.{kind}.{max(numbers)}") for name, numbers in every.items()}


def forget(work: Path, member: str) -> None:
    """Remove the claims of a process that will not come back.  Raises OSError."""
    for kind in ("claim", "join"):
        for name, numbers in generations(work, kind).items():
            for generation in numbers:
                path = work / f"{name}.{kind}.{generation}"
                if _owner(path) == member:
                    path.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return read_regular(path)[:64].decode(errors="replace")
    return ""
