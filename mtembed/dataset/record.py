"""The manifest while a run lasts: what is learnt goes in here, and from here to disk."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from mtembed.dataset import readme
from mtembed.dataset.atomic import as_text
from mtembed.dataset.claims import owners
from mtembed.dataset.folder import Dataset, now
from mtembed.dataset.manifest import Manifest, read, totals
from mtembed.dataset.origin import noted
from mtembed.dataset.timings import read_facts, read_timings
from mtembed.notes import Note
from mtembed.types import CrewSizes, Roofline, ShardFacts

Change = Callable[[Manifest], Manifest]
SELDOM = 20.0  # saving takes one in so many seconds at most: nothing is dealt meanwhile
MOST_STARTS = 1000  # whose times are kept
FAILURE = ("shard", "row_group", "grid_cell", "product_id", "stage", "error")
"""Fields of a timing that make a line of ``failures.jsonl``."""


class RunRecord:
    """Manifest, list of failures and card of a run.  Every method that writes raises OSError.

    The manifest is that of all processes: what this one learns is a change of it, made to what the others have left
    there when it is written.  Which parts there are is seen in the folder, so that no process can lose another's.
    """

    def __init__(self, dataset: Dataset, clock: Callable[[], float] = time.monotonic) -> None:
        self.dataset = dataset
        self._clock = clock
        self._manifest: Manifest | None = None
        self._changes: list[Change] = []
        self._own: dict[str, ShardFacts] = {}
        self._written: tuple[int, int] = (0, 0)
        self._took = 0.0  # seconds, for the last manifest
        self._worked_until = self._saved = clock()

    @property
    def manifest(self) -> Manifest:
        """As it stands.  Raises RuntimeError before ``begin``."""
        if self._manifest is None:
            raise RuntimeError("the run has not begun")
        return self._manifest

    def begin(self, manifest: Manifest) -> None:
        """A start, while it is this process's turn (``Dataset.joining``): ``manifest`` holds what is known of it and of
        others."""
        self._worked_until = self._clock()
        starts = (*manifest.starts, now())[-MOST_STARTS:]
        self._write(dataclasses.replace(manifest, runs=manifest.runs + 1, starts=starts))

    def sized(self, workers: CrewSizes, roofline: Roofline | None) -> None:
        """How many workers there are, and what each stage can do alone, where that was measured."""
        self._change(lambda m: dataclasses.replace(m, workers=workers, roofline=roofline or m.roofline))

    def part(self, facts: ShardFacts) -> None:
        """A part is under its final name."""
        stem = Path(facts.shard).stem
        self._own[stem] = facts
        self._change(lambda m: dataclasses.replace(m, shards={**m.shards, stem: facts}))

    def note(self, note: Note) -> None:
        """What a worker told."""
        self._change(lambda m: noted(m, note))

    def save_if_due(self) -> None:
        """The manifest, when the last one is so old that it is time for another: the more seldom the longer it takes,
        with waiting for the others."""
        began = self._clock()
        if began - self._saved > max(self.dataset.save_s, SELDOM * self._took):
            self._worked()
            with self.dataset.joining():
                self._write(self._joined())
            self._took = self._clock() - began

    def close(self, complete: bool, worked: bool, seen: Collection[str]) -> None:
        """Manifest, list of failures and card as they stand at the end, however it came; ``worked``: cells were
        embedded, so that the time counts.  ``complete``: all shards of this run, ``seen`` by name, have their parts."""
        if worked:
            self._worked()
        with self.dataset.joining():
            finish(self.dataset, dataclasses.replace(self._joined(), ended=now()), complete, seen, self._write)

    def _change(self, change: Change) -> None:
        self._manifest = change(self.manifest)
        self._changes.append(change)

    def _worked(self) -> None:
        """Time counts from here on, or from the last call."""
        passed, self._worked_until = self._clock() - self._worked_until, self._clock()
        self._change(lambda m: dataclasses.replace(m, seconds=round((m.seconds or 0.0) + passed, 3)))

    def _joined(self) -> Manifest:
        """What the folder says, if another process wrote it last, with this one's changes."""
        path = self.dataset.manifest_path
        if not path.exists() or _mark(path) == self._written:
            return self.manifest
        found = read(path)
        for change in self._changes:
            found = change(found)
        agreed = {stem: facts for stem, facts in found.shards.items() if self._own.get(stem, facts) == facts}
        return dataclasses.replace(found, shards=found_parts(self.dataset, agreed, found.input))

    def _write(self, manifest: Manifest) -> Manifest:
        self._manifest = write_manifest(self.dataset, manifest)
        self._written, self._changes = _mark(self.dataset.manifest_path), []
        self._saved = self._clock()
        return self._manifest


def write_manifest(dataset: Dataset, manifest: Manifest) -> Manifest:
    """Returns the manifest as it is written.  Raises OSError."""
    written = summed(manifest)
    dataset.write(dataset.manifest_path, as_text(written.sealed()))
    return written


def summed(manifest: Manifest) -> Manifest:
    """The manifest as it is written: its parts in order, with their sums."""
    shards, seconds = dict(sorted(manifest.shards.items())), manifest.seconds
    sums = totals(shards)
    rate = round(sums.cells / seconds, 4) if seconds else manifest.cells_per_s
    return dataclasses.replace(manifest, shards=shards, totals=sums, cells_per_s=rate)


def found_parts(
    dataset: Dataset, known: Mapping[str, ShardFacts], names: Iterable[str] | None
) -> dict[str, ShardFacts]:
    """Facts of the parts that lie in the folder: those known, and those of the named shards that nobody noted.

    Raises OutputError where a file of timings is damaged, OSError.
    """
    done = dataset.done_stems()
    found = {stem: facts for stem, facts in known.items() if stem in done}
    unknown = {Path(name).stem for name in names or ()} & done - found.keys()
    dataset.bring_timings(unknown)
    return {**found, **{stem: read_facts(dataset.timings(stem)) for stem in unknown}}


def finish(
    dataset: Dataset, manifest: Manifest, complete: bool, seen: Collection[str], write: Callable[[Manifest], Manifest]
) -> Manifest:
    """Write list of failures, card and manifest, of the parts that are there; complete only if nobody is at work on
    one and all shards that any process was given have one, but those ``seen`` to need none.  The manifest goes last:
    killed before that, the run has not come to its end, and the next start does this again.  Raises OSError."""
    done = dataset.done_stems()
    lost = tuple(event for event in manifest.notes.lost_shards if Path(str(event["shard"])).stem not in done)
    others = {stem for stem, owner in owners(dataset.board, "claim").items() if owner != dataset.process}
    limited = manifest.settings.limit is not None
    missing = {name for name in manifest.input or () if name not in seen and Path(name).stem not in done}
    end = summed(
        dataclasses.replace(
            manifest,
            shards=found_parts(dataset, manifest.shards, manifest.input),
            notes=dataclasses.replace(manifest.notes, lost_shards=lost),
            complete=complete and not others and (limited or not missing),
        )
    )
    dataset.write(dataset.failures_path, failures(dataset, end))
    dataset.write(dataset.card_path, readme.render(end))
    return write(end)


def failures(dataset: Dataset, manifest: Manifest) -> str:
    """Derived from the timings of the shards that have any, and the shards of which no part could be made."""
    lost = {"row_group": None, "grid_cell": "", "product_id": ""}
    lines = [_line({**lost, **shard}) for shard in manifest.notes.lost_shards]
    stems = sorted(stem for stem, facts in manifest.shards.items() if facts.failed)
    dataset.bring_timings(stems)
    for stem in stems:
        for timing in read_timings(dataset.timings(stem))[0].values():
            if timing.status == "failed":
                lines.append(_line({name: getattr(timing, name) for name in FAILURE}))
    return "".join(lines)


def _mark(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns


def _line(failure: Mapping[str, object]) -> str:
    return json.dumps({name: failure[name] for name in FAILURE}) + "\n"
