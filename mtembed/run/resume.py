"""What of a run is done already, and whether the folder fits it.  Only reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mtembed.archive.shards import fingerprint, state_of
from mtembed.dataset import manifest
from mtembed.dataset.atomic import sha256_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.origin import begin, carried_on
from mtembed.dataset.record import found_parts
from mtembed.dataset.settings import Settings, check_same
from mtembed.dataset.timings import read_facts
from mtembed.errors import OutputError, SettingsError, StorageError
from mtembed.run.plan import Plan
from mtembed.storage.address import Address, Place
from mtembed.text import printable
from mtembed.types import Fingerprint, ShardFacts

LOOKERS = 16  # threads that look whether finished shards are still the same


@dataclass(frozen=True, slots=True)
class Remaining:
    """``done``: shards that need no more work, by index, with their number of selected cells; ``kept``: facts of the
    parts of this process, by stem; ``shards``: indexes of this process that are still to be embedded; ``damaged``:
    stems among these whose part is there and not as it was written, so that it must be made again; ``redo``: these,
    and those whose failed cells are tried again."""

    done: Mapping[int, int]
    kept: Mapping[str, ShardFacts]
    shards: tuple[int, ...]
    damaged: tuple[str, ...] = ()
    redo: tuple[str, ...] = ()


def remaining(plan: Plan, settings: Settings, remake: Collection[str] = ()) -> Remaining:
    """Finished parts, compared with the input and with these settings; those in ``remake`` (stems) count as damaged.

    Raises SettingsError where they do not fit, OutputError where a file of the folder cannot be read.
    """
    _check_settings(plan, settings)
    recorded = plan.earlier.shards if plan.earlier else {}
    present = plan.dataset.done_stems()
    kept = {stem: facts for stem, facts in recorded.items() if stem in present}
    asked = present.intersection(plan.every_stem)
    plan.dataset.bring_timings(stem for stem in asked if stem not in kept or kept[stem].failed)
    done: dict[int, int] = {}
    damaged: list[str] = []
    finished: list[tuple[Place, Fingerprint]] = []
    for index, path in enumerate(plan.shards):
        stem, mine = printable(path.stem), index in plan.mine
        # the limit counts the cells of all processes in shard order, so their parts matter too
        if stem not in present or not (mine or settings.limit is not None):
            continue
        facts = _facts(plan, stem, kept.get(stem))
        if mine and (facts is None or stem in remake or _damaged(plan, stem, facts)):
            damaged.append(stem)
            kept.pop(stem, None)
            continue
        if facts is None:
            raise OutputError(f"timings/{stem}.parquet cannot be read: run the process that made it again")
        finished.append((path, facts.fingerprint))
        if mine:
            kept[stem] = facts
        if not (plan.config.retry_failed and facts.failed):
            done[index] = facts.cells + facts.failed
    with ThreadPoolExecutor(LOOKERS) as pool:
        deque(pool.map(lambda one: _check_unchanged(*one), finished), 0)
    left = tuple(index for index in plan.mine if index not in done)
    redo = tuple(stem for index in left if (stem := plan.every_stem[index]) in present)
    return Remaining(done, kept, left, tuple(damaged), redo)


def _facts(plan: Plan, stem: str, recorded: ShardFacts | None) -> ShardFacts | None:
    """What is known of a part: by the manifest, or where that may be behind, because others are at work, by its
    timings."""
    if recorded is not None and not (plan.dataset.others and _damaged(plan, stem, recorded)):
        return recorded
    return _told(plan.dataset, stem)


def _told(dataset: Dataset, stem: str) -> ShardFacts | None:
    """What the timings of a part tell of it; None where they are damaged."""
    dataset.bring_timings([stem])
    try:
        return read_facts(dataset.timings(stem))
    except OutputError:
        return None


def _damaged(plan: Plan, stem: str, facts: ShardFacts) -> bool:
    """Whether a part is not as it was written.  Its size is looked at; digests only of what this run will read."""
    part, timings = plan.dataset.part(stem), plan.dataset.timings(stem)
    try:
        if plan.dataset.size_of(stem) != facts.part_bytes:
            return True
        if facts.failed and facts.timings_sha256 and sha256_of(timings) != facts.timings_sha256:
            return True
        here = not isinstance(plan.dataset.place, Address)  # another one is read when it is made again
        again = here and facts.failed and plan.config.retry_failed and facts.part_sha256
        return bool(again) and sha256_of(part) != facts.part_sha256
    except OSError:
        return True


def without(left: Remaining, empty: Collection[int]) -> Remaining:
    """What remains when shards in which no cell is selected are left out."""
    return replace(
        left,
        done={**dict.fromkeys(empty, 0), **left.done},
        shards=tuple(index for index in left.shards if index not in empty),
    )


def _check_settings(plan: Plan, settings: Settings) -> None:
    """This process's earlier starts, and other processes of a shared folder, had the same settings."""
    folder = str(plan.dataset.place)
    if plan.earlier:
        check_same(settings, plan.earlier.settings, folder)
        if settings.limit is not None and plan.earlier.input != plan.names:
            raise SettingsError(f"{folder} was made with --limit from other shards: name the same ones, or use --fresh")
    for path in plan.dataset.manifests():
        if path != plan.dataset.manifest_path:
            check_same(settings, manifest.read(path).settings, folder)


def beginning(plan: Plan, settings: Settings, left: Remaining) -> Manifest:
    """The manifest of this start, with what earlier ones left in it."""
    first = begin(plan.spec, settings, (plan.first_cell.rows, plan.first_cell.cols), plan.warnings)
    names, earlier = plan.names, plan.earlier
    if settings.limit is None:
        mine = tuple(names[index] for index in plan.mine)
        names = tuple(dict.fromkeys((*(earlier.input or () if earlier else ()), *mine)))
    known = {**(earlier.shards if earlier else {}), **left.kept}
    shards = found_parts(plan.dataset, {stem: known[stem] for stem in known.keys() - {*left.damaged}}, ())
    still = bool(earlier and earlier.complete) and not left.shards  # else that is found at the end
    return carried_on(first, earlier, shards=shards, names=names, complete=still)


def _check_unchanged(path: Place, then: Fingerprint) -> None:
    """A finished shard by size and time stamp; only where the stamp differs is the footer read."""
    if not then.size:
        return  # it could not be opened then
    try:
        size, stamp = state_of(path)
        if (size, stamp) == (then.size, then.mtime_ns):
            return
        same = size == then.size and fingerprint(path, then.rows).footer_sha256 == then.footer_sha256
    except StorageError as error:
        raise SettingsError(str(error)) from None
    except OSError as error:
        raise SettingsError(
            f"{path.name} was embedded and cannot be read any more ({error.strerror or 'it is gone'}): bring it back, "
            "or leave it out of the input"
        ) from error
    if not same:
        raise SettingsError(
            f"{path.name} has changed since it was embedded: choose another --output, or start over with --fresh"
        )
