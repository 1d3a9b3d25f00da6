"""What a run cost and what held it up, from its timing files and manifests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtembed.dataset.manifest import Manifest
from mtembed.dataset.settings import Settings
from mtembed.errors import UsageError
from mtembed.report.busy import Crew, Spread, Work, WorkerUse, intervals
from mtembed.report.limit import NETWORK, Limit, find_limit
from mtembed.report.network import Network, network
from mtembed.report.roofline import Roof, roof
from mtembed.report.timings import Cells, DatasetTimings, FailedCell, load
from mtembed.sources import SOURCES
from mtembed.text import counted
from mtembed.types import STAGES

SCHEMA = "mtembed.report/1"
FEW_CELLS = 20  # with fewer there is neither advice nor a projection
MOST_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Queue:
    """What lies between two stages: how long its items wait for a worker, and workers for an item, per cell."""

    items: str
    workers: str
    item_waits: Spread
    worker_waits: Spread


@dataclass(frozen=True, slots=True)
class Projection:
    """The whole archive on the machines that made this dataset, at the rate they had while at work.

    ``hours`` is None where too few cells were embedded to tell.
    """

    archive: str
    cells: int
    hours: float | None
    price_per_hour: float | None
    cost: float | None

    def sentence(self, processes: int) -> str:
        """What the whole archive would take."""
        if self.hours is None:
            return f"No projection for the {self.cells:,} cells of {self.archive}: too few were embedded."
        cost = "" if self.cost is None else f" and would cost {self.cost:,.2f} at {self.price_per_hour:,.2f} an hour"
        machines = "these machines" if processes > 1 else "this machine"
        return f"All {self.cells:,} cells of {self.archive} would take {self.hours:,.1f} hours on {machines}{cost}."


@dataclass(frozen=True, slots=True)
class MadeWith:
    """Machine and settings; of several processes the settings are those of the first, which all share."""

    mtembed: str
    devices: list[str]
    processes: int
    starts: int
    device: str
    precision: str
    engine: str
    batch: int
    threads: int
    dtype: str
    weights: str
    encodings: list[str]
    started: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything ``mtembed report`` says; the fields are the keys of ``--json``, in their order.

    ``total_s`` is wall time over all starts and processes, ``seconds_per_cell`` its share per embedded cell;
    ``cells_per_s`` leaves out the time before the first cell was on a device.
    """

    schema: str
    model: str
    source: str
    patch_size: int
    cells: int
    embeddings: int
    seconds_per_cell: float | None
    total_s: float
    stages: dict[str, Spread]
    limiting_stage: str | None
    evidence: str
    advice: str
    finished: bool
    failed: int
    failures: list[dict[str, Any]]
    failed_cells: list[FailedCell]
    warnings: list[str]
    notes: list[str]
    cells_per_s: float | None
    bytes_per_s: float | None
    crews: dict[str, Crew]
    queues: list[Queue]
    workers: list[WorkerUse]
    projection: Projection
    roofline: Roof | None
    made_with: MadeWith
    network: Network | None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def marked_stage(self) -> str | None:
        """The row of ``stages`` that the limit is in: the network's is that of reading."""
        return "read" if self.limiting_stage == NETWORK else self.limiting_stage

    @property
    def projected(self) -> str:
        """What the whole archive would take, as a sentence."""
        return self.projection.sentence(self.made_with.processes)

    def failed_hint(self, named: int) -> str:
        """Where all failed cells are listed, when only the first ``named`` are named here."""
        more = self.failed - min(named, len(self.failed_cells))
        return f"{counted(more)} more: see failures*.jsonl in the folder." if more > 0 else ""

    def name_of(self, use: WorkerUse) -> str:
        """A worker's name; with several processes their number in front."""
        return f"{use.process}: {use.name}" if self.made_with.processes > 1 else use.name


def report(root: Path, price_per_hour: float | None = None) -> Report:
    """Of the dataset in ``root``, finished or not.

    ``price_per_hour`` is of all machines together.  Raises UsageError when ``root`` is no dataset, OutputError when one
    of its files is damaged.
    """
    timings = load(root)
    return summarise(timings, Work(timings), price_per_hour)


def summarise(timings: DatasetTimings, work: Work, price_per_hour: float | None = None) -> Report:
    """The report of a dataset that was loaded.  Raises UsageError for a price that is none."""
    if price_per_hour is not None and not price_per_hour >= 0:
        raise UsageError(f"--price-per-hour {price_per_hour} is not possible: give the price of one hour, 0 or more")
    cells, older, settings = timings.cells, timings.older, timings.manifests[0].settings
    whole = cells.embedded
    stages = {name: Spread.of(cells.stage(name)[whole]) for name in STAGES}
    crews = {kind: work.crew(kind) for kind in ("decode", "device", "write")}
    queues = _queues(cells, work)
    done = int(cells.ok.sum()) + older.cells
    means = {name: float(cells.stage(name)[whole].mean()) for name in STAGES} if whole.any() else None
    fetched = network(timings.manifests, done, means, crews["decode"].busy, work.seconds)
    limit = _limit(means, crews, queues, settings, fetched)
    evidence, advice = _verdict(limit, done)
    total_s = _total_seconds(timings, work, len(cells))
    rate = int(cells.ok.sum()) / work.seconds if work.seconds > 0 else None
    return Report(
        schema=SCHEMA,
        model=settings.model,
        source=settings.source,
        patch_size=settings.fragment_size,
        cells=done,
        embeddings=int(cells.fragments[cells.ok].sum()) + older.embeddings,
        seconds_per_cell=round(total_s / done, 6) if done else None,
        total_s=round(total_s, 3),
        stages=stages,
        limiting_stage=limit.stage if limit else None,
        evidence=evidence,
        advice=advice,
        finished=not timings.unfinished,
        failed=int((~cells.ok).sum()) + older.failed,
        failures=_failures(cells),
        failed_cells=cells.named,
        warnings=_warnings(timings),
        notes=_notes(timings, len(cells)),
        cells_per_s=rate,
        bytes_per_s=float(cells.bytes_in.sum()) / work.seconds if rate else None,
        crews=crews,
        queues=queues,
        workers=work.uses(),
        projection=_projection(settings.source, rate if done >= FEW_CELLS else None, price_per_hour),
        roofline=roof(timings.manifests, rate),
        made_with=_made_with(timings.manifests),
        network=fetched,
    )


def _total_seconds(timings: DatasetTimings, work: Work, looked_at: int) -> float:
    """Wall time: what the manifests say (with start-up), or what the timings show (with killed starts), if more."""
    shown = work.at_work.seconds
    unseen = timings.older.cells + timings.older.failed
    if looked_at:
        shown *= 1 + unseen / looked_at
    return max([shown, *(manifest.seconds or 0.0 for manifest in timings.manifests)])


def _queues(cells: Cells, work: Work) -> list[Queue]:
    whole = cells.embedded
    to_write = (cells.end - intervals(cells, "device")[1])[whole] * 1e3
    return [
        Queue("free slots", "decode workers", Spread(None, None), work.waits("decode")),
        Queue("decoded cells", "device workers", Spread.of(cells.stage("ring_wait")[whole]), work.waits("device")),
        Queue("vectors", "writer", Spread.of(np.maximum(to_write, 0.0)), work.waits("write")),
    ]


def _limit(
    means: Mapping[str, float] | None,
    crews: Mapping[str, Crew],
    queues: list[Queue],
    settings: Settings,
    fetched: Network | None,
) -> Limit | None:
    if means is None:
        return None
    return find_limit(
        {kind: crew.busy for kind, crew in crews.items()},
        means,
        {kind: crew.count for kind, crew in crews.items()},
        queues[1].item_waits.median_ms or 0.0,
        queues[1].worker_waits.median_ms or 0.0,
        settings,
        fetched,
    )


def _verdict(limit: Limit | None, done: int) -> tuple[str, str]:
    """Evidence and advice, where there is enough to go by."""
    if limit is None:
        return "Nothing was embedded yet.", ""
    if done < FEW_CELLS:
        return f"Only {counted(done)} so far: too few to say what limits the run.", ""
    return limit.evidence, limit.advice


def _failures(cells: Cells) -> list[dict[str, Any]]:
    most = sorted(cells.reasons.items(), key=lambda item: (-item[1], item[0]))[:MOST_FAILURES]
    return [{"stage": stage, "error": error, "cells": count} for (stage, error), count in most]


def _warnings(timings: DatasetTimings) -> list[str]:
    """The run's own warnings, then those of cells with their number."""
    said = [text for manifest in timings.manifests for text in manifest.warnings]
    counts: dict[str, int] = {}
    for manifest in timings.manifests:
        for text, count in manifest.totals.warnings.items():
            counts[text] = counts.get(text, 0) + count
    return [*dict.fromkeys(said), *(f"{counted(count)}: {text}" for text, count in sorted(counts.items()))]


def _notes(timings: DatasetTimings, looked_at: int) -> list[str]:
    notes = []
    if timings.unfinished:
        notes.append("the dataset is not finished: figures are of the cells that are safe so far")
    if timings.older.cells:
        notes.append(f"stages, queues and workers are of the last {counted(looked_at)}")
    if looked_at < FEW_CELLS:
        notes.append(f"only {counted(looked_at)}: medians and shares are rough")
    if timings.manifests[0].weights.random:
        notes.append("made with random weights: the times are real, the vectors mean nothing")
    return notes


def _projection(source: str, rate: float | None, price: float | None) -> Projection:
    count = SOURCES[source].cells_in_core
    hours = count / rate / 3600 if rate else None
    return Projection(f"Core-{source}", count, hours, price, None if hours is None or price is None else hours * price)


def _made_with(manifests: list[Manifest]) -> MadeWith:
    first = manifests[0]
    settings = first.settings
    return MadeWith(
        mtembed=first.mtembed,
        devices=sorted({device for manifest in manifests for device in manifest.devices}),
        processes=len(manifests),
        starts=sum(manifest.runs for manifest in manifests),
        device=settings.device,
        precision=settings.precision,
        engine=settings.engine,
        batch=settings.batch,
        threads=settings.threads,
        dtype=settings.dtype,
        weights=settings.weights,
        encodings=sorted({name for manifest in manifests for name in manifest.totals.encodings}),
        started=min(manifest.started for manifest in manifests),
    )
