"""The manifest while a run lasts: what is learnt goes in here, and from here to disk."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mtembed.dataset import readme
from mtembed.dataset.atomic import as_text
from mtembed.dataset.folder import Dataset, now
from mtembed.dataset.manifest import Manifest, totals
from mtembed.dataset.origin import noted
from mtembed.dataset.timings import read_timings
from mtembed.notes import Note
from mtembed.types import CrewSizes, Roofline, ShardFacts

SAVE_EVERY_S = 30.0
MOST_STARTS = 1000  # whose times are kept
FAILURE = ("shard", "row_group", "grid_cell", "product_id", "stage", "error")
"""Fields of a timing that make a line of ``failures.jsonl``."""


class RunRecord:
    """Manifest, list of failures and card of one process's run.  Every method that writes raises OSError."""

    def __init__(self, dataset: Dataset, clock: Callable[[], float] = time.monotonic) -> None:
        self.dataset = dataset
        self._clock = clock
        self._manifest: Manifest | None = None
        self._began = self._saved = clock()
        self._seconds_before = 0.0

    @property
    def manifest(self) -> Manifest:
        """As it stands.  Raises RuntimeError before ``begin``."""
        if self._manifest is None:
            raise RuntimeError("the run has not begun")
        return self._manifest

    def begin(self, manifest: Manifest) -> None:
        """A start: ``manifest`` holds what is known of it and of earlier ones."""
        self._seconds_before = manifest.seconds or 0.0
        self._began = self._clock()
        starts = (*manifest.starts, now())[-MOST_STARTS:]
        self._manifest = dataclasses.replace(manifest, runs=manifest.runs + 1, starts=starts)
        self._save()

    def sized(self, workers: CrewSizes, roofline: Roofline | None) -> None:
        """How many workers there are, and what each stage can do alone, where that was measured."""
        self._set(workers=workers, roofline=roofline or self.manifest.roofline)

    def part(self, facts: ShardFacts) -> None:
        """A part is under its final name."""
        self._set(shards={**self.manifest.shards, Path(facts.shard).stem: facts})

    def note(self, note: Note) -> None:
        """What a worker told."""
        self._manifest = noted(self.manifest, note)

    def save_if_due(self) -> None:
        """The manifest, when the last one is older than ``SAVE_EVERY_S``."""
        if self._clock() - self._saved > SAVE_EVERY_S:
            self._worked()
            self._save()

    def close(self, complete: bool, worked: bool) -> None:
        """Manifest, list of failures and card as they stand at the end, however it came; ``worked``: cells were
        embedded, so that the time counts."""
        if worked:
            self._worked()
        self._set(ended=now(), complete=complete)
        self._save()
        self.dataset.write(self.dataset.failures_path, self._failures())
        self.dataset.write(self.dataset.card_path, readme.render(self.manifest))

    def _worked(self) -> None:
        seconds = round(self._seconds_before + self._clock() - self._began, 3)
        cells = totals(self.manifest.shards).cells
        self._set(seconds=seconds, cells_per_s=round(cells / seconds, 4) if seconds else None)

    def _save(self) -> None:
        shards = dict(sorted(self.manifest.shards.items()))
        self._set(shards=shards, totals=totals(shards))
        self.dataset.write(self.dataset.manifest_path, as_text(self.manifest.sealed()))
        self._saved = self._clock()

    def _set(self, **changes: object) -> None:
        self._manifest = dataclasses.replace(self.manifest, **changes)  # type: ignore[arg-type]

    def _failures(self) -> str:
        """Derived from the timings of the shards that have any, and the shards of which no part could be made."""
        lost = {"row_group": None, "grid_cell": "", "product_id": ""}
        lines = [_line({**lost, **shard}) for shard in self.manifest.notes.lost_shards]
        for stem, facts in sorted(self.manifest.shards.items()):
            if facts.failed:
                for timing in read_timings(self.dataset.timings(stem))[0].values():
                    if timing.status == "failed":
                        lines.append(_line({name: getattr(timing, name) for name in FAILURE}))
        return "".join(lines)


def _line(failure: Mapping[str, object]) -> str:
    return json.dumps({name: failure[name] for name in FAILURE}) + "\n"
