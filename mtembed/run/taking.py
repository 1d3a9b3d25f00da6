"""Which process makes which part: shards are claimed when they are taken, so that any number may share a folder."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mtembed.dataset.folder import Dataset
from mtembed.dataset.timings import read_facts
from mtembed.run.progress import Progress


class Taken(enum.Enum):
    """Whose a shard is: this process's, another's, or nobody's any more, because its part is there."""

    OURS = enum.auto()
    THEIRS = enum.auto()
    DONE = enum.auto()


class Taking(Protocol):
    """Shards by their index."""

    def take(self, shard: int) -> Taken:
        """Make a shard this process's, if it can be.  Raises OSError."""

    def cells(self, shard: int) -> int:
        """How many cells of a shard that is done were wanted.  Raises OutputError."""

    def release(self, shard: int) -> None:
        """A shard of which this process makes no part any more, because it is there or cannot be made."""

    def renew(self, progress: Progress) -> list[int]:
        """Say, once in a while, that this process lives; returns shards that others have taken from it."""


class Alone:
    """Nobody else is there: everything is this process's."""

    def take(self, shard: int) -> Taken:
        return Taken.OURS

    def cells(self, shard: int) -> int:
        raise RuntimeError("no other process finishes shards")

    def release(self, shard: int) -> None:
        pass

    def renew(self, progress: Progress) -> list[int]:
        return []


@dataclass(slots=True)
class Shared:
    """A folder that this process has joined.

    ``stems`` are those of all shards by index; ``redo`` stems have a part that is to be made again, ``damaged`` ones
    among them a part that is worth nothing.
    """

    dataset: Dataset
    stems: Sequence[str]
    redo: Collection[str] = ()
    damaged: Collection[str] = ()
    _before: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = {stem: self.dataset.version_of(stem) for stem in self.redo}

    def take(self, shard: int) -> Taken:
        stem, claims = self.stems[shard], self.dataset.claims
        if stem in claims.mine:
            return Taken.OURS
        if self._done(stem):
            return Taken.DONE
        if not claims.take(stem):
            return Taken.THEIRS
        self.dataset.look_at(stem)
        if self._done(stem):  # finished between the two looks
            claims.release(stem)
            return Taken.DONE
        if stem in self.damaged:
            self.dataset.discard(stem)
        self.dataset.adopt(stem)
        return Taken.OURS

    def cells(self, shard: int) -> int:
        self.dataset.bring_timings([self.stems[shard]])
        facts = read_facts(self.dataset.timings(self.stems[shard]))
        return facts.cells + facts.failed

    def release(self, shard: int) -> None:
        self.dataset.claims.release(self.stems[shard])

    def renew(self, progress: Progress) -> list[int]:
        members = self.dataset.members
        if not members.due():
            return []
        members.beat(
            cells=progress.done,
            failed=progress.failed,
            cells_per_s=round(progress.cells_per_s, 4),
            known=progress.open_cells,
            opened=progress.open_parts,
        )
        lost = set(self.dataset.claims.superseded())
        return [shard for shard, stem in enumerate(self.stems) if stem in lost] if lost else []

    def _done(self, stem: str) -> bool:
        """Whether its part is there, and, where it is to be made again, not as this process found it."""
        return self.dataset.is_done(stem) and self._before.get(stem, _ANOTHER) != self.dataset.version_of(stem)


_ANOTHER = object()
