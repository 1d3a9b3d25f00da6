"""The report as one page that needs nothing else: no scripts, no fonts, no network; light and dark.

``page.html`` and ``page.css`` lie beside this file; jinja2 fills them and escapes every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from mtembed.report import svg
from mtembed.report.busy import Work
from mtembed.report.summary import Report
from mtembed.report.timings import Cells
from mtembed.text import duration, milliseconds, plural, significant
from mtembed.types import DECODE_STAGES, DEVICE_STAGES, STAGES

MOST_WORKERS = 64
LEAST_MS = 0.1  # left end of the logarithmic scale of stages
WORK_STAGES = (*DECODE_STAGES, *DEVICE_STAGES, "write")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: ``numbers`` are the heads of columns set to the right, row ``marked`` is bold; ``pictures``, one
    for each row, make a last column."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()
    marked: int | None = None
    pictures: Sequence[Markup] = ()
    picture_head: str = ""


def page(report: Report, cells: Cells, work: Work) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["zip"] = zip
    timeline, hidden = svg.timeline(cells, work)
    return environment.get_template("page.html").render(
        report=report,
        title=f"{report.model} on {report.source}",
        subtitle=_subtitle(report),
        tiles=_tiles(report),
        dataset=_dataset(report),
        **_where_time_goes(report, cells),
        timeline=Markup(timeline),
        timeline_more=f"{plural(hidden, 'more worker')} not shown." if hidden else "",
        throughput=Markup(svg.throughput(cells, work)),
        network=Grid(("network", ""), report.network.words()) if report.network else None,
        roofline=_roofline(report),
        queues=_queues(report),
        workers=_workers(report),
        workers_more=_more_workers(report),
        reasons=_reasons(report),
        failed=_failed(report),
        failed_hint=report.failed_hint(len(report.failed_cells)),
        notes=[*report.notes, *report.warnings],
    )


def _subtitle(report: Report) -> str:
    made = report.made_with
    words = [
        ", ".join(made.devices) or made.device,
        made.precision,
        f"batch {made.batch}",
        f"weights {made.weights}",
        f"mtembed {made.mtembed}",
        f"begun {made.started}",
        "finished" if report.finished else "not finished yet",
    ]
    return " · ".join(words)


def _tiles(report: Report) -> list[tuple[str, str]]:
    rate = "-" if report.cells_per_s is None else significant(report.cells_per_s)
    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    gigabytes = "-" if report.bytes_per_s is None else significant(report.bytes_per_s / 1e9)
    return [
        (f"{report.cells:,}", "cells embedded"),
        (f"{report.failed:,}", "cells failed"),
        (f"{report.embeddings:,}", "embeddings"),
        (rate, "cells/s at work"),
        (each, "s per cell"),
        (gigabytes, "GB/s of pixels read"),
    ]


def _dataset(report: Report) -> Grid:
    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    heads = ("model", "source", "fragment", "embeddings", "grid cells", "seconds per cell", "total time")
    row = (
        report.model, report.source, f"{report.patch_size} px", f"{report.embeddings:,}", f"{report.cells:,}", each,
        duration(report.total_s),
    )  # fmt: skip
    return Grid(heads, [row], numbers=heads[2:])


def _where_time_goes(report: Report, cells: Cells) -> dict[str, Any]:
    """The bars of work and of waiting, to one scale, and the table of stages."""
    whole = cells.embedded
    if not whole.any():
        return {"stages": None, "worked": WORK_STAGES}
    means = {name: float(cells.stage(name)[whole].mean()) for name in STAGES}
    on_way = sum(means[name] for name in (*DECODE_STAGES, "ring_wait", *DEVICE_STAGES))
    work = {name: means[name] for name in WORK_STAGES}
    waits = {"ring_wait": means["ring_wait"], "writer_wait": max(0.0, means["total"] - on_way)}
    scale = max(sum(work.values()), sum(waits.values()))
    return {
        "stages": _stages(report),
        "work_ms": milliseconds(sum(work.values())),
        "work_bar": Markup(svg.split(work, scale)),
        "worked": [name for name, ms in work.items() if ms > 0],
        "wait_ms": milliseconds(sum(waits.values())),
        "wait_bar": Markup(svg.split(waits, scale)),
        "waited": [name for name, ms in waits.items() if ms > 0],
    }


def _stages(report: Report) -> Grid:
    most = max(spread.p99_ms or 0.0 for spread in report.stages.values())
    return Grid(
        heads=("stage", "median", "99 %"),
        rows=[(name, milliseconds(one.median_ms), milliseconds(one.p99_ms)) for name, one in report.stages.items()],
        numbers=("median", "99 %"),
        marked=list(report.stages).index(report.marked_stage) if report.marked_stage else None,
        pictures=[
            Markup(svg.spread(one.median_ms, one.p99_ms, LEAST_MS, most, name)) for name, one in report.stages.items()
        ],
        picture_head="median to 99 %, logarithmic",
    )


def _roofline(report: Report) -> Grid | None:
    if report.roofline is None:
        return None
    stages = report.roofline.stages
    return Grid(
        heads=("stage", "alone, per cell", "limit, cells/s", "used"),
        rows=[
            (name, milliseconds(one.alone_ms), significant(one.limit_cells_per_s), f"{one.share:.0%}")
            for name, one in stages.items()
        ],
        numbers=("alone, per cell", "limit, cells/s", "used"),
        pictures=[_meter(one.share) for one in stages.values()],
    )


def _meter(share: float) -> Markup:
    return Markup("<div class='meter'><div style='width:{:.1f}%'></div></div>").format(100 * min(1.0, share))


def _queues(report: Report) -> Grid:
    rows = [
        (queue.items, queue.workers, *(
            milliseconds(value) for spread in (queue.item_waits, queue.worker_waits)
            for value in (spread.median_ms, spread.p99_ms)
        ))
        for queue in report.queues
    ]  # fmt: skip
    numbers = ("item waits, median", "item waits, 99 %", "worker waits, median", "worker waits, 99 %")
    return Grid(("queue", "waited for by", *numbers), rows, numbers)


def _workers(report: Report) -> Grid:
    shown = report.workers[:MOST_WORKERS]
    rows = [(report.name_of(use), use.device, f"{use.cells:,}", f"{use.busy:.0%}") for use in shown]
    return Grid(
        ("worker", "on", "cells", "busy"), rows, ("cells", "busy"), pictures=[_meter(use.busy) for use in shown]
    )


def _more_workers(report: Report) -> str:
    more = len(report.workers) - MOST_WORKERS
    return f"{plural(more, 'more worker')} not shown." if more > 0 else ""


def _reasons(report: Report) -> Grid:
    rows = [(one["stage"], f"{one['cells']:,}", one["error"]) for one in report.failures]
    return Grid(("stage", "cells", "error"), rows, ("cells",))


def _failed(report: Report) -> Grid:
    rows = [(one.shard, one.row, one.grid_cell or "-", one.error) for one in report.failed_cells]
    return Grid(("shard", "row group", "grid cell", "error"), rows, ("row group",))
