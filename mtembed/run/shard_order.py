"""Which shard is opened next, and which of its cells are wanted.  Shards are taken in order, however they come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from mtembed.types import Cell, ShardListing

Opened = tuple[ShardListing, tuple[Cell, ...]]
"""A shard that is open, and which of its cells are wanted."""
OPENED_AHEAD = 2  # shards that are being opened, or are open before their turn
PARTS_OPEN = 6  # parts that may be open or waiting to be finished, and two more per lane


def parts_open(lanes: int) -> int:
    """How many parts may be unfinished at a time with so many lanes."""
    return PARTS_OPEN + 2 * lanes


class ShardOrder:
    """The shards of a run by index.

    ``mine`` are embedded by this process; ``done`` are finished, with their numbers of selected cells.  A ``limit`` is
    on the cells of all processes in shard order, so then every shard is opened until the limit is reached.
    """

    def __init__(self, count: int, mine: Collection[int], done: Mapping[int, int], limit: int | None) -> None:
        self._mine = frozenset(mine)
        self._done = dict(done)
        self._limit = limit
        concerned = range(count) if limit is not None else sorted(self._mine)
        self._to_accept = deque(concerned)
        self._to_open = deque(shard for shard in concerned if shard not in self._done)
        self._opened: dict[int, ShardListing] = {}
        self._selected = 0
        self._accept()

    @property
    def unopened(self) -> int:
        """How many shards are still to be opened."""
        return len(self._to_open)

    @property
    def ahead(self) -> int:
        """How many are open but wait for an earlier one."""
        return len(self._opened)

    @property
    def finished(self) -> bool:
        """Whether every shard has been opened and had its turn."""
        return not self._to_accept

    def peek(self) -> int | None:
        """The shard to be opened next."""
        return self._to_open[0] if self._to_open else None

    def take(self) -> int:
        """That shard, which is being opened from now on."""
        return self._to_open.popleft()

    def put_back(self, shard: int) -> None:
        """A shard that was taken and not opened, because its worker died."""
        if shard in self._to_accept:
            self._to_open.appendleft(shard)

    def awaits(self, shard: int) -> bool:
        """Whether a shard has not had its turn."""
        return shard in self._to_accept

    def set_aside(self, shard: int) -> None:
        """Another process has it: it is not opened here.  With a limit its cells are counted, so then it is."""
        if self._limit is None:
            self._to_open.remove(shard)
            self._to_accept.remove(shard)

    def bring_back(self, shard: int) -> None:
        """A shard that was set aside is to be opened: the last, so that none that is open already waits for it."""
        self._to_open.append(shard)
        self._to_accept.append(shard)

    def done_elsewhere(self, shard: int, cells: int) -> list[Opened]:
        """Another process has finished a shard that was still to be opened; returns what ``opened`` does."""
        self._to_open.remove(shard)
        self._done[shard] = cells
        return self._accept()

    def opened(self, listing: ShardListing) -> list[Opened]:
        """A shard was opened, or could not be: those of this process whose turn it is now, with their wanted cells."""
        if listing.shard in self._to_accept:  # else the limit was reached meanwhile
            self._opened[listing.shard] = listing
        return self._accept()

    def _accept(self) -> list[Opened]:
        accepted = []
        while self._to_accept and not self._full():
            shard = self._to_accept[0]
            if shard in self._done:
                self._selected += self._done[shard]
            elif shard in self._opened:
                listing = self._opened.pop(shard)
                cells = listing.cells if self._limit is None else listing.cells[: self._limit - self._selected]
                self._selected += len(cells)
                if shard in self._mine:
                    accepted.append((listing, cells))
            else:
                break
            self._to_accept.popleft()
        return accepted

    def _full(self) -> bool:
        """The limit is reached: no other shard is wanted."""
        if self._limit is None or self._selected < self._limit:
            return False
        self._to_open.clear()
        self._to_accept.clear()
        self._opened.clear()
        return True
