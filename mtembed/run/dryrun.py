"""``--dry-run``: what a run would do, what it would need, and about how long it would take.  Writes nothing.

Every shard that would be embedded is opened; the time comes from a short trial of the network on a made-up cell, in
a worker like those of the run.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtembed.dataset.journal import read_journal
from mtembed.dataset.ours import require_ours
from mtembed.dataset.settings import Settings, check_same, resolve
from mtembed.dataset.timings import read_facts
from mtembed.errors import MtembedError
from mtembed.geo.fragments import FragmentGrid
from mtembed.models import weights
from mtembed.run.gpus import usable_gpus
from mtembed.run.listings import Tick, listings
from mtembed.run.plan import Plan
from mtembed.run.selected import names_missing, require_selected
from mtembed.run.shard_order import parts_open
from mtembed.run.sizes import Sizes, sizes
from mtembed.run.trial import seconds_per_cell
from mtembed.storage.address import Address
from mtembed.text import duration, plural, printable, size
from mtembed.types import Weights

ROW_BYTES = 300  # of a row beside its vector, before compression: identifiers, footprint in two forms, box
PART_BYTES = 16_384  # of a part beside its rows: footers, and the fixed part of the timings
TIMING_BYTES = 300  # of a cell in the timings
LISTED = 10

Trial = Callable[[Plan, Settings, Sizes], float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer.  ``cells`` are selected and of this process, ``done`` of them are embedded or failed already.

    ``unusable`` maps a shard's name to why nothing can be taken from it (it cannot be opened, or lacks bands).
    ``output_bytes`` is an upper bound for what is still to be written, ``working_bytes`` for journals beside it,
    ``seconds`` None where the trial was not possible (``trial_problem`` says why).  An output that is not
    ``output_here`` but behind an address needs room on this machine for what is unfinished only.
    """

    output: str
    model: str
    source: str
    device: str
    precision: str
    processes: int
    shards: int
    fragments_per_cell: int
    cells: int
    done: int
    unusable: Mapping[str, str]
    output_bytes: int
    working_bytes: int
    free_bytes: int
    seconds: float | None
    cells_per_s: float | None
    trial_problem: str
    warnings: tuple[str, ...]
    dense: bool = False
    output_here: bool = True

    @property
    def left(self) -> int:
        return self.cells - self.done

    @property
    def fits(self) -> bool:
        """Whether this machine's disk has room."""
        return self.output_bytes * self.output_here + self.working_bytes <= self.free_bytes

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        left = {"cells_left": self.left, "fits": self.fits}
        return {"event": "dry-run", **dataclasses.asdict(self), **left}

    def text(self) -> str:
        """As lines for a reader."""
        return "\n".join(_lines(self))


def estimate(plan: Plan, tick: Tick = lambda done, total: None, trial: Trial = seconds_per_cell) -> Estimate:
    """What a run would do, see ``_estimate``; nothing is left of looking at an output behind an address."""
    try:
        return _estimate(plan, tick, trial)
    finally:
        plan.dataset.put_away()


def _estimate(plan: Plan, tick: Tick, trial: Trial) -> Estimate:
    """Open the shards, count, and time a trial; ``tick`` is told (shards opened, shards to open).

    ``trial`` says how many seconds one worker needs for a cell, or raises MtembedError.
    Raises UsageError for options that do not fit and where nothing is selected, SettingsError and OutputError where
    the run itself would be refused.
    """
    require_ours(plan.dataset, plan.stems)
    found = _weights(plan)
    settings = _settings(plan, found)
    needed = sizes(plan, settings, found)
    counted = _count(plan, tick)
    left = counted.cells - counted.done
    fragments = _fragments(plan, settings)
    row = plan.spec.dim * (4 if settings.dtype == "float32" else 2) + ROW_BYTES
    cell = fragments * row + TIMING_BYTES
    seconds, problem = _timed(lambda: trial(plan, settings, needed)) if left else (None, "")
    rate = needed.crews.device / seconds if seconds else None
    return Estimate(
        output=str(plan.dataset.place),
        model=plan.spec.name,
        source=plan.source,
        device=settings.device,
        precision=settings.precision,
        processes=needed.crews.device,
        shards=len(plan.mine),
        fragments_per_cell=fragments,
        cells=counted.cells,
        done=counted.done,
        unusable=counted.unusable,
        output_bytes=left * cell + counted.parts * PART_BYTES if left else 0,
        working_bytes=min(parts_open(needed.lanes), counted.parts) * counted.most * cell,
        free_bytes=_free_bytes(plan.dataset.root),
        seconds=left / rate if rate else None,
        cells_per_s=rate,
        trial_problem=problem,
        warnings=(*plan.warnings, *names_missing(plan, counted.names)),
        dense=settings.dense,
        output_here=not isinstance(plan.dataset.place, Address),
    )


def _weights(plan: Plan) -> Weights:
    """Published weights are taken as given, because looking for them may download them."""
    option, published = plan.config.weights, plan.spec.published
    if option is not None or published is None or published.library == "user":
        return weights.resolve(plan.spec, option)
    if plan.earlier:
        return Weights(plan.earlier.settings.weights, plan.earlier.settings.weights_sha256, None, None)
    return Weights(published.file, "", None, None)


def _settings(plan: Plan, found: Weights) -> Settings:
    """The run's settings.  Raises SettingsError where the run would be refused."""
    settings = resolve(
        plan.config, plan.spec, plan.source, found, plan.made_with, usable_gpus(plan.config, plan.made_with)
    )
    if plan.made_with:
        check_same(settings, plan.made_with, str(plan.dataset.place))
    return settings


def _fragments(plan: Plan, settings: Settings) -> int:
    """Fragments of a typical cell."""
    side = (plan.first_cell.rows, plan.first_cell.cols)
    return len(FragmentGrid.of(*side, settings.fragment_size, settings.overlap, settings.border_shift))


# -- counting -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counted:
    """Cells selected and done of this process, cells left of the shard that has most, its parts, the names of
    ``--cells`` that were met."""

    cells: int = 0
    done: int = 0
    most: int = 0
    parts: int = 0
    names: set[str] = field(default_factory=set)
    unusable: dict[str, str] = field(default_factory=dict)


def _count(plan: Plan, tick: Tick) -> _Counted:
    """Open and count.  Raises UsageError where no cell is selected."""
    finished, found, selected = _finished(plan), _Counted(), 0
    limit, mine = plan.config.limit, set(plan.mine)
    for index, opened in listings(plan, finished, tick):
        cells = finished[index][0] if opened is None else len(opened.cells)
        if limit is not None:
            cells = max(0, min(cells, limit - selected))
            selected += cells
        if index in mine:
            done = min(cells, finished[index][1] if opened is None else _journalled(plan, index))
            found.cells += cells
            found.done += done
            found.most = max(found.most, cells - done)
            found.parts += bool(cells) or plan.selection.everything
            if opened is not None:
                found.names |= opened.named
                if opened.error:
                    found.unusable[plan.shards[index].name] = opened.error
        if limit is not None and selected >= limit:
            break
    if not found.cells and not found.unusable:
        require_selected(plan)
    return found


def _finished(plan: Plan) -> dict[int, tuple[int, int]]:
    """Shards that need no opening: index -> (their cells, those that will not be tried again)."""
    if plan.earlier is None:
        return {}
    present, finished, known = plan.dataset.done_stems(), {}, plan.earlier.shards
    plan.dataset.bring_timings(present.intersection(plan.every_stem) - known.keys())
    for index, path in enumerate(plan.shards):
        stem = printable(path.stem)
        if stem in present:
            facts = known.get(stem) or read_facts(plan.dataset.timings(stem))
            cells = facts.cells + facts.failed
            finished[index] = (cells, facts.cells if plan.config.retry_failed else cells)
    return finished


def _journalled(plan: Plan, index: int) -> int:
    """Cells that are safe in the journal of an unfinished part."""
    journals = plan.dataset.journals().get(printable(plan.shards[index].stem), ()) if plan.earlier else ()
    return max((len(read_journal(path)) for path in journals), default=0)


# -- time -----------------------------------------------------------------------------------------------------------


def _timed(trial: Callable[[], float]) -> tuple[float | None, str]:
    """Seconds that one worker needs for a cell, or why that is not known."""
    try:
        return trial(), ""
    except MtembedError as error:
        return None, str(error)


def _free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


# -- words ----------------------------------------------------------------------------------------------------------


def _lines(found: Estimate) -> Iterator[str]:
    with_what = f"{found.precision} on {found.processes} x {found.device}"
    yield f"{found.model} on {found.source}, {with_what}, into {found.output}"
    done = f", {found.done} of them done already" if found.done else ""
    yield f"cells:   {found.cells:,} selected in {plural(found.shards, 'shard')}{done}"
    what = "maps:   " if found.dense else "vectors:"
    yield f"{what} {found.left * found.fragments_per_cell} to compute, {found.fragments_per_cell} a cell"
    room = "" if found.fits else "  IT DOES NOT FIT: make space or choose another --output"
    there = "" if found.output_here else " behind the address"
    needed = f"at most {size(found.output_bytes)}{there}, and {size(found.working_bytes)} while the run lasts"
    yield f"disk:    {needed}; {size(found.free_bytes)} free{room}"
    if found.seconds is not None and found.cells_per_s is not None:
        rate = f"{found.cells_per_s:.2f} cells/s in a short trial of the network alone"
        yield f"time:    about {duration(max(1.0, found.seconds))}, an estimate: {rate}"
    elif found.trial_problem:
        yield f"time:    no trial was possible: {found.trial_problem}"
    if not found.left:
        yield "nothing to do: every cell that was asked for is there already"
    yield from (f"warning: {warning}" for warning in found.warnings)
    yield from _unusable(found.unusable)
    yield "nothing was written"


def _unusable(problems: Mapping[str, str]) -> Iterator[str]:
    if not problems:
        return
    yield f"{plural(len(problems), 'shard')} cannot be used:"
    listed: Sequence[str] = list(problems.values())[:LISTED]
    yield from (f"  {problem}" for problem in listed)
    if len(problems) > LISTED:
        yield f"  and {len(problems) - LISTED} more"
