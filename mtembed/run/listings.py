"""Shards opened before a run, by threads: to count cells, and to know which shards hold a selected one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor

from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex, find_metadata
from mtembed.run.plan import Plan
from mtembed.storage.address import Place, place_of
from mtembed.types import ShardListing

OPENERS = 8  # threads; opening a shard waits for the disk or the network
CHUNK = 64  # shards opened ahead of what --limit turns out to need

Tick = Callable[[int, int], None]


def listings(
    plan: Plan, finished: Container[int], tick: Tick = lambda done, total: None
) -> Iterator[tuple[int, ShardListing | None]]:
    """In order, every shard that counts: opened, or None where it is ``finished``.

    ``tick`` is told (shards opened, shards to open).
    """
    every = plan.config.limit is not None  # --limit counts the cells of all processes
    wanted = list(range(len(plan.shards))) if every else plan.mine
    bands = plan.spec.bands_for(plan.source)
    indexes = _metadata(plan)

    def opened(index: int) -> tuple[int, ShardListing | None]:
        if index in finished:
            return index, None
        path = plan.shards[index]
        return index, list_shard(index, path, bands, indexes[_metadata_of(plan, path)], plan.selection)

    with ThreadPoolExecutor(OPENERS) as pool:
        for first in range(0, len(wanted), CHUNK):
            for at, found in enumerate(pool.map(opened, wanted[first : first + CHUNK]), first + 1):
                tick(at, len(wanted))
                yield found


def _metadata_of(plan: Plan, path: Place) -> Place | None:
    if plan.selection.everything:
        return None  # which cells are wanted does not depend on it
    return place_of(plan.config.metadata) if plan.config.metadata else find_metadata(path)


def _metadata(plan: Plan) -> dict[Place | None, MetadataIndex]:
    """One index for each metadata file, built before threads share it."""
    indexes: dict[Place | None, MetadataIndex] = {}
    for path in plan.shards:
        name = _metadata_of(plan, path)
        if name not in indexes:
            indexes[name] = MetadataIndex(name)
            indexes[name].of_shard(path.name)
    return indexes
