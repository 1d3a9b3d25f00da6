"""Things that one process at a time works on: claimed when they are taken, free again when the claimant is silent.

A claim is a file ``NAME.claim.GENERATION`` that holds the claimant's name; it comes to be by exclusive creation, which
is atomic on local disks, on NFS and, as a conditional put, on object stores.  The newest generation counts: who takes
over from a silent process creates the next one, so that of many exactly one succeeds, and a process that was only
stopped finds, when it goes on, that it was superseded.
"""

from __future__ import annotations

import re

from mtembed.dataset.board import Board
from mtembed.dataset.members import Members, State

CLAIM = re.compile(r"(.+)\.(claim|join)\.(\d{1,9})", re.DOTALL)


class Claims:
    """The claims of one kind (``claim`` or ``join``) on a board, for one of its members.

    What is raised is OSError, and OutputError of a board in a store.
    """

    def __init__(self, board: Board, kind: str, members: Members) -> None:
        self._board, self._kind, self._members = board, kind, members
        self.mine: set[str] = set()

    def take(self, name: str) -> bool:
        """Whether it is ours from now on (or was)."""
        if name in self.mine:
            return True
        newest = max(generations(self._board, self._kind).get(name, ()), default=0)
        if newest and not self._free(name, newest):
            return False
        try:
            if not self._board.create(self._file(name, newest + 1), self._members.name.encode()):
                return False  # another one was quicker
        except FileNotFoundError:  # all others have gone, and the folder with them
            self._members.beat()
            return False
        if max(generations(self._board, self._kind).get(name, ()), default=0) != newest + 1:
            self._board.remove(self._file(name, newest + 1))
            return False
        self.mine.add(name)
        return True

    def release(self, name: str) -> None:
        """Give it back; what is not ours any more is left alone."""
        self.mine.discard(name)
        self._board.look()
        if not holds(self._board, self._kind, name, self._members.name):
            return
        for generation in sorted(generations(self._board, self._kind).get(name, ())):
            self._board.remove(self._file(name, generation))

    def superseded(self) -> list[str]:
        """What others have taken over meanwhile; it is not ours any more."""
        self._board.look()
        lost = [name for name in sorted(self.mine) if not holds(self._board, self._kind, name, self._members.name)]
        self.mine.difference_update(lost)
        return lost

    def _free(self, name: str, generation: int) -> bool:
        """Whether the claimant is silent or dead, or never said who it is."""
        owner = _owner(self._board, self._file(name, generation))
        if owner == self._members.name:
            return True
        if not owner:
            return self._members.unchanged(self._file(name, generation), b"") is State.SILENT
        return self._members.state(owner) is not State.LIVING

    def _file(self, name: str, generation: int) -> str:
        return f"{name}.{self._kind}.{generation}"


def holds(board: Board, kind: str, name: str, member: str) -> bool:
    """Whether a member is the claimant."""
    newest = max(generations(board, kind).get(name, ()), default=0)
    return bool(newest) and _owner(board, f"{name}.{kind}.{newest}") == member


def generations(board: Board, kind: str) -> dict[str, list[int]]:
    """Generations of all claims of a kind, by name."""
    found: dict[str, list[int]] = {}
    for entry in board.names():
        match = CLAIM.fullmatch(entry)
        if match and match[2] == kind:
            found.setdefault(match[1], []).append(int(match[3]))
    return found


def owners(board: Board, kind: str) -> dict[str, str]:
    """Claimants by name of what is claimed; empty where one has not said who it is."""
    every = generations(board, kind)
    return {name: _owner(board, f"{name}.{kind}.{max(numbers)}") for name, numbers in every.items()}


def forget(board: Board, member: str) -> None:
    """Remove the claims of a process that will not come back."""
    for kind in ("claim", "join"):
        for name, numbers in generations(board, kind).items():
            for file in (f"{name}.{kind}.{generation}" for generation in numbers):
                if _owner(board, file) == member:
                    board.remove(file)


def _owner(board: Board, file: str) -> str:
    return board.read(file)[:64].decode(errors="replace")
