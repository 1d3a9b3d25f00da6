"""Which shards hold a selected cell; what is said of a selection that matches nothing, or less than was named."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mtembed.dataset.timings import read_timings
from mtembed.errors import UsageError
from mtembed.run.listings import listings
from mtembed.run.plan import Plan
from mtembed.storage.address import Address
from mtembed.text import plural, printable

MANY = 32  # shards behind addresses that are opened without a word


@dataclass(frozen=True, slots=True)
class Chosen:
    """``empty`` are shards that hold no selected cell, by index: they get no part.  ``warnings``: names in no shard."""

    empty: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()


def chosen(plan: Plan, tell: Callable[[str], None] = lambda sentence: None) -> Chosen:
    """Open the shards that have no part, where cells are selected; only reads.  Raises UsageError where none is.

    ``tell`` is told where that takes its time.
    """
    if plan.selection.everything:
        return Chosen()
    stems = [printable(path.stem) for path in plan.shards]
    present = set() if plan.config.fresh else plan.dataset.done_stems()
    finished = {index for index, stem in enumerate(stems) if stem in present}
    names = set(_names_of(plan, [stems[index] for index in plan.mine if index in finished]))
    opening = sum(isinstance(plan.shards[i], Address) and plan.selection.passes(plan.shards[i].name) for i in plan.mine)
    if opening > MANY:
        tell(f"opening up to {plural(opening, 'shard')} to see which hold a selected cell")
    empty, cells, some, limit = set(), 0, bool(finished), plan.config.limit
    for index, listing in listings(plan, finished):
        if listing is None:
            continue
        names |= listing.named
        cells += len(listing.cells)
        some |= bool(listing.cells or listing.error)
        if not listing.cells and not listing.error:
            empty.add(index)
        if limit is not None and cells >= limit:
            return Chosen(frozenset(empty))  # the shards after it were not looked at
    if not some:
        require_selected(plan)
    return Chosen(frozenset(empty), names_missing(plan, names))


def _names_of(plan: Plan, stems: Collection[str]) -> list[str]:
    """Names of the cells in finished parts, where names were asked for."""
    if plan.selection.cells is None:
        return []
    return [timing.grid_cell for stem in stems for timing in read_timings(plan.dataset.timings(stem))[0].values()]


def require_selected(plan: Plan) -> None:
    """To be called when no cell was selected.  Raises UsageError, but where other processes may have found some."""
    config = plan.config
    if plan.selection.everything or config.shard_count > 1:
        return
    if config.where is not None:
        raise UsageError(f"no cell of the shards fulfils --where {config.where}: nothing matches")
    if config.bbox is None:
        raise UsageError(f"no cell of the shards is named in --cells {config.cells}: nothing matches")
    box = ",".join(f"{value:g}" for value in config.bbox)
    named = f" and is named in --cells {config.cells}" if config.cells else ""
    raise UsageError(f"no cell lies in {box} (W,S,E,N){named}: is it lat/lon swapped?")


def names_missing(plan: Plan, met: Collection[str]) -> tuple[str, ...]:
    """A sentence on the names of ``--cells`` that are in no shard, where there are any."""
    wanted = plan.selection.cells
    missing = len(wanted - set(met)) if wanted else 0
    if not wanted or not missing:
        return ()
    where = "no shard" if plan.config.shard_count == 1 else "no shard of this process"
    verb = "is" if missing == 1 else "are"
    return (f"{missing} of {len(wanted)} names of --cells {verb} in {where}",)
