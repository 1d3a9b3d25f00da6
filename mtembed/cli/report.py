"""The report as tables for a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mtembed.report.busy import WorkerUse
from mtembed.report.roofline import Roof
from mtembed.report.summary import Report
from mtembed.text import counted, duration, milliseconds, significant

MOST_WORKERS = 12  # lines before the least busy ones are summed up
WIDTH = 110  # columns where stdout is not a terminal


def text(report: Report) -> str:
    """The tables as text, coloured where stdout is a terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    with console.capture() as captured:
        console.print(tables(report))
    return captured.get().rstrip()


def tables(report: Report) -> Group:
    """Everything the report says, in the order one asks."""
    parts: list[RenderableType] = [_head(report), Text(""), _stages(report), Text(""), _queues(report), Text("")]
    parts += [_workers(report), Text(""), Text(report.evidence, style="bold"), Text(report.advice), Text("")]
    parts.append(Text(projection_sentence(report)))
    if report.roofline:
        parts += [Text(""), _roofline(report.roofline), Text(roofline_sentence(report.roofline))]
    if report.failed:
        parts += [Text(""), _failures(report)]
    parts += [Text(f"Note: {note}", style="dim") for note in (*report.notes, *report.warnings)]
    return Group(*parts)


def _table(*columns: str, title: str | None = None, texts: int = 1) -> Table:
    """The first ``texts`` columns are words, the others numbers."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < texts else "right", header_style="dim")
    return table


def _head(report: Report) -> Table:
    table = _table(
        "model", "source", "patch", "embeddings", "grid cells", "s per cell", "total time", "cells/s", texts=2
    )
    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    rate = "-" if report.cells_per_s is None else significant(report.cells_per_s)
    table.add_row(
        report.model, report.source, f"{report.patch_size} px", f"{report.embeddings:,}", f"{report.cells:,}", each,
        duration(report.total_s), rate,
    )  # fmt: skip
    return table


def _stages(report: Report) -> Table:
    table = _table("stage", "median", "99 %", title="Time per cell")
    for name, spread in report.stages.items():
        style = "bold" if name == report.limiting_stage else ""
        table.add_row(name, milliseconds(spread.median_ms), milliseconds(spread.p99_ms), style=style)
    return table


def _roofline(roof: Roof) -> Table:
    table = _table("stage", "alone", "limit, cells/s", "used", title="Limits of this machine")
    for name, stage in roof.stages.items():
        limit = significant(stage.limit_cells_per_s)
        table.add_row(name, milliseconds(stage.alone_ms), limit, f"{stage.share:.0%}")
    return table


def _queues(report: Report) -> Table:
    table = _table("queue", "workers", "item waits", "99 %", "worker waits", "99 %", title="Waiting", texts=2)
    for queue in report.queues:
        spreads = (queue.item_waits, queue.worker_waits)
        times = [milliseconds(value) for spread in spreads for value in (spread.median_ms, spread.p99_ms)]
        table.add_row(queue.items, queue.workers, *times)
    return table


def _workers(report: Report) -> Table:
    table = _table("worker", "on", "cells", "busy", title="Workers", texts=2)
    most = sorted(report.workers, key=lambda use: -use.busy)[:MOST_WORKERS]
    for use in (use for use in report.workers if use in most):
        table.add_row(worker_name(use, report), escape(use.device), f"{use.cells:,}", f"{use.busy:.0%}")
    if len(most) < len(report.workers):
        table.add_row(f"and {len(report.workers) - len(most)} less busy ones", "", "", "")
    return table


def _failures(report: Report) -> Table:
    table = _table("stage", "cells", "error", title=f"{counted(report.failed)} failed")
    for one in report.failures:
        table.add_row(one["stage"], f"{one['cells']:,}", escape(one["error"]))
    table.columns[2].justify = "left"
    return table


def worker_name(use: WorkerUse, report: Report) -> str:
    """With several processes their number in front."""
    return f"{use.process}: {use.name}" if report.made_with["processes"] > 1 else use.name


def projection_sentence(report: Report) -> str:
    """What the whole archive would take."""
    plan = report.projection
    if plan.hours is None:
        return f"Nothing was embedded yet: no projection for {plan.archive}."
    cost = "" if plan.cost is None else f" and would cost {plan.cost:,.2f} at {plan.price_per_hour:,.2f} an hour"
    machines = "these machines" if report.made_with["processes"] > 1 else "this machine"
    return f"All {plan.cells:,} cells of {plan.archive} would take {plan.hours:,.1f} hours on {machines}{cost}."


def roofline_sentence(roof: Roof) -> str:
    """End to end against the best possible."""
    best, read = significant(roof.best_cells_per_s), significant(roof.read_bytes_per_s / 1e9)
    return (
        f"The run reached {roof.share:.0%} of the {best} cells/s that its stages allow together; "
        f"one worker alone read {read} GB/s of images."
    )
