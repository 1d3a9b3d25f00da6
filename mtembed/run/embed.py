"""One run from options to a finished dataset: look, join, resume, lay out, run the pipeline, keep the record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mtembed.config import RunConfig
from mtembed.dataset.ours import clear, require_ours
from mtembed.dataset.record import RunRecord
from mtembed.dataset.settings import Settings, resolve
from mtembed.errors import OutputError, UsageError
from mtembed.notes import Note
from mtembed.ring import Ring
from mtembed.run import process
from mtembed.run.crews import Crews, Start, crews
from mtembed.run.decoder_choice import choose
from mtembed.run.dryrun import Estimate, estimate
from mtembed.run.fetch import fetch
from mtembed.run.gpus import told, usable_gpus
from mtembed.run.pipeline import Pipeline
from mtembed.run.plan import Plan, plan, seen_again
from mtembed.run.progress import Progress
from mtembed.run.resume import Remaining, beginning, remaining, without
from mtembed.run.roofline import measure
from mtembed.run.selected import chosen
from mtembed.run.sizes import Sizes, sizes
from mtembed.run.taking import Shared
from mtembed.run.work import Callbacks, Work
from mtembed.storage.traffic import METER
from mtembed.text import plural, size
from mtembed.types import Roofline, RunSummary, Weights

Tick = Callable[[Progress], None]
TELL_EVERY_S = 0.5
NOTHING_TO_DO = "nothing to do: every cell that was asked for is there already"
NOTHING_SELECTED = "nothing to do: no cell is selected in the shards of this process"
INTERRUPTED = "interrupted; run the same command again to go on"


class Run:
    """``execute`` embeds; ``stop`` (from a signal handler) ends it gracefully."""

    def __init__(
        self,
        plan: Plan,
        on_tick: Tick = lambda progress: None,
        on_note: Callable[[str], None] = lambda note: None,
        *,
        start: Start = process.start,
        remake: Collection[str] = (),
    ) -> None:
        """``remake``: stems of finished parts that are made again."""
        self.plan = plan
        self._remake = remake
        self.record = RunRecord(plan.dataset)
        self._on_tick, self._on_note = on_tick, on_note
        self._start = start
        self._pipeline: Pipeline | None = None
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True
        if self._pipeline:
            self._pipeline.stop()

    def execute(self) -> RunSummary:
        """Embed what is left.  Raises MtembedError; what was finished is safe whatever happens."""
        dataset, began = self.plan.dataset, time.monotonic()
        weights = fetch(self.plan, self._on_note)
        require_ours(dataset, self.plan.stems)
        with dataset.joined(self.plan.config.lease):
            try:
                return self._joined(weights, began)
            except OSError as error:
                raise OutputError(dataset.problem(error)) from error

    def _joined(self, weights: Weights, began: float) -> RunSummary:
        plan, settings, layout, left = self._begun(weights)
        plan.dataset.create()
        if left.shards:
            self._embed(plan, settings, layout, left)
        elif not (plan.earlier and plan.earlier.complete and plan.dataset.has(plan.dataset.failures_path)):
            self.record.close(complete=True, worked=False, seen=plan.names)
        return self._summary(time.monotonic() - began)

    def _begun(self, weights: Weights) -> tuple[Plan, Settings, Sizes, Remaining]:
        """What is to be done, with settings that all processes share, noted in the manifest."""
        dataset, fresh = self.plan.dataset, self.plan.config.fresh
        if fresh:
            dataset.require_alone()
        while True:
            plan = self.plan if fresh else seen_again(self.plan)
            gpus = usable_gpus(plan.config, plan.made_with)
            settings = resolve(plan.config, plan.spec, plan.source, weights, plan.made_with, gpus)
            layout = sizes(plan, settings, weights)
            choice = chosen(plan, self._on_note)
            if fresh:
                clear(dataset)
                fresh = False
            left = without(remaining(plan, settings, self._remake), choice.empty)
            with dataset.joining():
                again = seen_again(dataclasses.replace(plan, warnings=(*plan.warnings, *choice.warnings)))
                if again.made_with == plan.made_with:  # else another process has begun meanwhile
                    self.record.begin(beginning(again, settings, left))
                    break
        for stem in left.damaged:
            self._on_note(f"the part {stem} is not as it was written: it is made again")
        for warning in (*again.warnings, told(gpus, settings.device), dataset.advice):
            if warning:
                self._on_note(warning)
        return again, settings, layout, left

    def _embed(self, plan: Plan, settings: Settings, layout: Sizes, left: Remaining) -> None:
        with ExitStack() as stack:
            stack.callback(self._close)
            rings = [Ring.create(layout.ring) for _ in range(layout.lanes)]
            for ring in rings:
                stack.callback(ring.close)
            crew = self._crews(plan, settings, layout, rings, left)
            roofline = self._roofline(plan, settings, layout, crew, left.shards) if plan.config.roofline else None
            self.record.sized(layout.crews, roofline)
            self._pipeline = Pipeline(
                Work(plan.shards, frozenset(plan.mine), left.done, settings.limit, plan.config.retry_failed),
                crew.by_kind(),
                [layout.ring.slots] * layout.lanes,
                Callbacks(self.record.part, self._noted, self._tick),
                Shared(plan.dataset, plan.every_stem, left.redo, left.damaged),
                check=self.record.manifest.notes.precision_check is None,
                max_failures=plan.config.max_failures,
                stall_timeout=plan.config.stall_timeout,
            )
            self._pipeline.progress.traffic += dataclasses.replace(METER.taken(), blocked=0.0)  # planning, no worker
            if self._stopping:
                self._pipeline.stop()
            try:
                self._pipeline.run()
            except OutputError:
                plan.dataset.wait_no_more()
                raise

    def _crews(self, plan: Plan, settings: Settings, layout: Sizes, rings: Sequence[Ring], left: Remaining) -> Crews:
        """With GPUs, the decode workers leave to them what is faster decoded there."""
        found = crews(plan, settings, layout, rings, start=self._start)
        paths = [plan.shards[index] for index in left.shards]
        choice = choose(plan, settings, layout, lambda: found.decode.start("decode-0", 0), paths)
        for note in choice.notes:
            self._on_note(note)
        if choice.gpu:
            return crews(plan, settings, layout, rings, on_gpu=choice.gpu, start=self._start)
        return found

    def _roofline(self, plan: Plan, settings: Settings, layout: Sizes, crew: Crews, shards: Sequence[int]) -> Roofline:
        self._on_note("measuring what each stage can do alone")
        decoder = crew.decode.start("decode-0", 0)
        try:
            found = measure(plan, settings, layout, decoder, shards)
        finally:
            decoder.close()
        far = ", read over the network" if found.over_network else ""
        self._on_note(f"at best {found.best:.3g} cells/s{far}; mtembed report compares the run with that, by stage")
        return found

    def _noted(self, note: Note) -> None:
        known = self.record.manifest.warnings
        self.record.note(note)
        for sentence in (note.sentence(), *self.record.manifest.warnings[len(known) :]):
            if sentence:
                self._on_note(sentence)

    def _tick(self, progress: Progress) -> None:
        self.record.save_if_due()
        self._on_tick(progress)

    def _close(self) -> None:
        """Also after an error, as far as the folder is still there."""
        pipeline = self._pipeline
        if self.plan.dataset.root.exists():
            self.record.close(
                complete=pipeline is not None and pipeline.finished and not pipeline.lost,
                worked=pipeline is not None and pipeline.progress.done > 0,
                seen=self.plan.names,
            )

    def _idle(self) -> str:
        """Why there was nothing to do."""
        nothing = not self.plan.selection.everything and not self.record.manifest.shards
        return NOTHING_SELECTED if nothing else NOTHING_TO_DO

    def _summary(self, seconds: float) -> RunSummary:
        if self._pipeline and (traffic := self._pipeline.progress.traffic).requests:
            again = f", {traffic.again:,} of them again" if traffic.again else ""
            self._on_note(f"fetched {size(traffic.bytes)} in {plural(traffic.requests, 'request')}{again}")
        sums, pipeline = self.record.manifest.totals, self._pipeline
        progress = pipeline.progress if pipeline else Progress()
        interrupted = pipeline is not None and not pipeline.finished
        lost = pipeline.lost if pipeline else 0
        return RunSummary(
            output=str(self.plan.dataset.place),
            model=self.plan.spec.name,
            source=self.plan.source,
            cells=sums.cells,
            failed=sums.failed,
            embeddings=sums.embeddings,
            seconds=seconds,
            exit_code=130 if interrupted else 3 if sums.failed or lost else 0,
            message=self._idle() if pipeline is None else INTERRUPTED if interrupted else "",
            new_cells=progress.done,
            limiting_stage=progress.limiting,
            failures=self.plan.dataset.failures_path.name,
            failed_shards=sums.failed_shards + lost,
        )


def embed(
    shards: str | Path | Iterable[str | Path], model: str, *, on_progress: Tick | None = None, **options: Any
) -> RunSummary | Estimate:
    """Embed Major TOM Core shards; the same as ``mtembed run``, without printing.

    ``shards`` are files, folders or globs; ``options`` are the fields of ``config.RunConfig``.  Works from notebooks
    and from scripts without a main guard.  ``on_progress`` is called about twice a second with a ``Progress``
    (``done``, ``failed``, ``resumed``, ``total`` and ``remaining`` cells; ``cells_per_s``; ``eta_s``, seconds or None);
    what it raises ends the run, which can be resumed.  Returns a RunSummary, also when some cells failed, or with
    ``dry_run=True`` the Estimate, and writes nothing then.  Raises MtembedError.
    """
    planned = plan(RunConfig.of(shards, model=model, **options))
    if planned.config.cluster is not None:
        raise UsageError("a cluster is for mtembed --cluster on the command line: leave it out")
    return estimate(planned) if planned.config.dry_run else Run(planned, _seldom(on_progress)).execute()


def _seldom(call: Tick | None) -> Tick:
    """At most once in ``TELL_EVERY_S`` seconds."""
    last = 0.0

    def tick(progress: Progress) -> None:
        nonlocal last
        if call is not None and time.monotonic() - last >= TELL_EVERY_S:
            last = time.monotonic()
            call(progress)

    return tick
