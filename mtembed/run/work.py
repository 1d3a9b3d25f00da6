"""What a run is to do, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mtembed.notes import Note
from mtembed.run.progress import Progress
from mtembed.storage.address import Place
from mtembed.types import ShardFacts


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: shards by index (only ``mine`` are embedded), those done already with their numbers of
    selected cells, the limit on cells.  ``retry``: failed cells of earlier starts are tried again."""

    shards: Sequence[Place]
    mine: frozenset[int]
    done: Mapping[int, int]
    limit: int | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who is told: of the facts of every finished part, of what workers say, and of the progress at every turn."""

    part: Callable[[ShardFacts], None] = lambda facts: None
    note: Callable[[Note], None] = lambda note: None
    progress: Callable[[Progress], None] = lambda progress: None
