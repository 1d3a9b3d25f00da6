"""``mtembed report``: what a run cost and what limited it, as tables for a terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Run, Talk
from mtembed.text import counted, duration, milliseconds, significant

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from mtembed.report.roofline import Roof
    from mtembed.report.summary import Report

MOST_WORKERS = 12  # lines before the least busy ones are summed up
MOST_NAMED = 10  # failed cells that are named


def report(
    directory: Run,
    *,
    html: Annotated[Path | None, Parameter(help="Also write a page with pictures to this file.")] = None,
    price_per_hour: Annotated[
        float | None, Parameter(help="What an hour of the machines costs, for the cost of the whole archive.")
    ] = None,
    talk: Talk = SPEECH,
) -> int:
    """Say what a run cost, where its time went and what limited it; also of an unfinished run."""
    from mtembed.dataset.at_hand import at_hand
    from mtembed.report.busy import Work
    from mtembed.report.summary import summarise
    from mtembed.report.timings import load

    with at_hand(directory) as folder:
        timings = load(folder)
        work = Work(timings)
        result = summarise(timings, work, price_per_hour)
    if html is not None:
        from mtembed.report.page import page

        write_page(html, page(result, timings.cells, work))
    talk.show(view(result), [result.as_json()])
    return 0


def write_page(path: Path, content: str) -> None:
    """The page, complete or not at all.  Raises OutputError."""
    from mtembed.dataset.atomic import write_atomically
    from mtembed.errors import OutputError

    try:
        write_atomically(path, content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another file for --html") from error


def view(report: Report) -> Group:
    """Everything the report says, in the order one asks."""
    from rich.console import Group

    from mtembed.cli.tables import lines, pairs

    parts: list[RenderableType] = [_head(report), lines(""), _stages(report), lines(""), _queues(report), lines("")]
    parts += [_workers(report), lines(""), lines(report.evidence, style="bold")]
    parts += [lines(text) for text in (report.advice, "", report.projected) if text or report.advice]
    if report.network:
        parts += [lines(""), lines("Network", style="bold"), pairs(report.network.words())]
    if report.roofline:
        parts += [lines(""), _roofline(report.roofline), lines(report.roofline.sentence)]
    if report.failed:
        parts += [lines(""), *_failures(report)]
    parts += [lines(f"Note: {note}", style="dim") for note in (*report.notes, *report.warnings)]
    return Group(*parts)


def _head(report: Report) -> RenderableType:
    from mtembed.cli.tables import Columns

    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    rate = "-" if report.cells_per_s is None else significant(report.cells_per_s)
    headings = ("model", "source", "fragment", "embeddings", "cells", "s per cell", "in all", "cells/s")
    row = (
        report.model, report.source, f"{report.patch_size} px", f"{report.embeddings:,}", f"{report.cells:,}", each,
        duration(report.total_s), rate,
    )  # fmt: skip
    return Columns(headings, [row], numbers=headings[2:])


def _stages(report: Report) -> RenderableType:
    from mtembed.cli.tables import Columns

    rows = [(name, milliseconds(one.median_ms), milliseconds(one.p99_ms)) for name, one in report.stages.items()]
    marked = [i for i, name in enumerate(report.stages) if name == report.marked_stage]
    return Columns(("stage", "median", "99 %"), rows, title="Time per cell", numbers=("median", "99 %"), marked=marked)


def _roofline(roof: Roof) -> RenderableType:
    from mtembed.cli.tables import Columns

    headings = ("stage", "alone", "limit, cells/s", "used")
    rows = [
        (name, milliseconds(stage.alone_ms), significant(stage.limit_cells_per_s), f"{stage.share:.0%}")
        for name, stage in roof.stages.items()
    ]
    return Columns(headings, rows, title="Limits of this machine", numbers=headings[1:])


def _queues(report: Report) -> RenderableType:
    from mtembed.cli.tables import Columns

    headings = ("queue", "workers", "item waits", "to 99 %", "worker waits", "to  99 %")
    rows = []
    for queue in report.queues:
        spreads = (queue.item_waits, queue.worker_waits)
        times = [milliseconds(value) for spread in spreads for value in (spread.median_ms, spread.p99_ms)]
        rows.append((queue.items, queue.workers, *times))
    return Columns(headings, rows, title="Waiting", numbers=headings[2:])


def _workers(report: Report) -> RenderableType:
    from mtembed.cli.tables import Columns

    most = sorted(report.workers, key=lambda use: -use.busy)[:MOST_WORKERS]
    rows = [
        (report.name_of(use), f"{use.cells:,}", f"{use.busy:.0%}", use.device) for use in report.workers if use in most
    ]
    if len(most) < len(report.workers):
        rows.append((f"and {len(report.workers) - len(most)} less busy ones", "", "", ""))
    return Columns(("worker", "cells", "busy", "on"), rows, title="Workers", numbers=("cells", "busy"))


def _failures(report: Report) -> list[RenderableType]:
    from mtembed.cli.tables import Columns, lines

    reasons = [(one["stage"], f"{one['cells']:,}", one["error"]) for one in report.failures]
    cells = [(one.shard, one.row, one.grid_cell or "-", one.error) for one in report.failed_cells[:MOST_NAMED]]
    hint = report.failed_hint(MOST_NAMED)
    return [
        Columns(("stage", "cells", "error"), reasons, title=f"{counted(report.failed)} failed", numbers=("cells",)),
        lines(""),
        Columns(("shard", "row group", "grid cell", "error"), cells, numbers=("row group",)),
        *([lines(hint)] if hint else []),
    ]
