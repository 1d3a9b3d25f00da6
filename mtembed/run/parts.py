"""Parts that are not finished: what each still waits for, and the writer it belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtembed.messages import Key
from mtembed.types import Cell, PartInfo


@dataclass(slots=True)
class Part:
    """A part on its way.

    ``cells`` are wanted of it, ``left`` are those that are not in its journal; ``error`` says why its shard could not
    be opened.  ``lane`` is where its cells go, ``writer`` the number of the writer that has it open until it is
    ``closed``.  ``remade``: a damaged part was made of it earlier.
    """

    info: PartInfo
    cells: tuple[Cell, ...]
    error: str
    lane: int
    writer: int
    opened: bool = False
    remade: bool = False
    closed: bool = False
    left: set[Key] = field(default_factory=set)


class Parts:
    """The parts of a run by their shard: those ``open``, and how many were ``lost``."""

    def __init__(self) -> None:
        self.open: dict[int, Part] = {}
        self.lost = 0

    def add(self, info: PartInfo, cells: Sequence[Cell], error: str, lane: int, writers: int) -> Part:
        """A new part, for the one of the ``writers`` that has the fewest."""
        load = Counter(part.writer for part in self.open.values() if not part.closed)
        writer = min(range(writers), key=lambda number: load[number])
        part = self.open[info.shard] = Part(info, tuple(cells), error, lane, writer)
        return part

    def of_writer(self, writer: int) -> list[Part]:
        """Those whose journals a writer has open."""
        return [part for part in self.open.values() if part.writer == writer and part.opened and not part.closed]
