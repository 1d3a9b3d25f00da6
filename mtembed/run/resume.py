"""What of a run is done already, and whether the folder fits it.  Only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtembed.archive.shards import fingerprint
from mtembed.dataset import manifest
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.origin import begin, carried_on
from mtembed.dataset.part import read_facts
from mtembed.dataset.settings import Settings, check_same
from mtembed.errors import SettingsError
from mtembed.run.plan import Plan
from mtembed.text import printable
from mtembed.types import Fingerprint, ShardFacts


@dataclass(frozen=True, slots=True)
class Remaining:
    """``done``: shards that need no more work, by index, with their number of selected cells; ``kept``: facts of the
    parts of this process, by stem; ``shards``: indexes of this process that are still to be embedded."""

    done: Mapping[int, int]
    kept: Mapping[str, ShardFacts]
    shards: tuple[int, ...]


def remaining(plan: Plan, settings: Settings) -> Remaining:
    """Finished parts, compared with the input and with these settings.

    Raises SettingsError where they do not fit, OutputError where a file of the folder cannot be read.
    """
    _check_settings(plan, settings)
    recorded = plan.earlier.shards if plan.earlier else {}
    present = plan.dataset.done_stems()
    kept = {stem: facts for stem, facts in recorded.items() if stem in present}
    done: dict[int, int] = {}
    for index, path in enumerate(plan.shards):
        stem, mine = printable(path.stem), index in plan.mine
        # the limit counts the cells of all processes in shard order, so their parts matter too
        if stem not in present or not (mine or settings.limit is not None):
            continue
        facts = kept.get(stem) or read_facts(plan.dataset.timings(stem))
        _check_unchanged(path, facts.fingerprint)
        if mine:
            kept[stem] = facts
        if not (plan.config.retry_failed and facts.failed):
            done[index] = facts.cells + facts.failed
    return Remaining(done, kept, tuple(index for index in plan.mine if index not in done))


def _check_settings(plan: Plan, settings: Settings) -> None:
    """This process's earlier starts, and other processes of a shared folder, had the same settings."""
    folder = str(plan.dataset.root)
    if plan.earlier:
        check_same(settings, plan.earlier.settings, folder)
        if settings.limit is not None and plan.earlier.input != _names(plan):
            raise SettingsError(f"{folder} was made with --limit from other shards: name the same ones, or use --fresh")
    for path in plan.dataset.manifests():
        if path != plan.dataset.manifest_path:
            check_same(settings, manifest.read(path).settings, folder)


def beginning(plan: Plan, settings: Settings, left: Remaining) -> Manifest:
    """The manifest of this start, with what earlier ones left in it."""
    first = begin(plan.spec, settings, (plan.first_cell.rows, plan.first_cell.cols), plan.warnings)
    names = _names(plan)
    if settings.limit is None:
        mine = tuple(names[index] for index in plan.mine)
        names = tuple(dict.fromkeys((*(plan.earlier.input or () if plan.earlier else ()), *mine)))
    return carried_on(first, plan.earlier, shards=left.kept, names=names, complete=not left.shards)


def _names(plan: Plan) -> tuple[str, ...]:
    return tuple(printable(path.name) for path in plan.shards)


def _check_unchanged(path: Path, then: Fingerprint) -> None:
    """A finished shard by size and time stamp; only where the stamp differs is the footer read."""
    if not then.size:
        return  # it could not be opened then
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (then.size, then.mtime_ns):
            return
        same = stat.st_size == then.size and fingerprint(path, then.rows).footer_sha256 == then.footer_sha256
    except OSError as error:
        raise SettingsError(
            f"{path.name} was embedded and cannot be read any more ({error.strerror}): bring it back, "
            "or leave it out of the input"
        ) from error
    if not same:
        raise SettingsError(
            f"{path.name} has changed since it was embedded: choose another --output, or start over with --fresh"
        )
