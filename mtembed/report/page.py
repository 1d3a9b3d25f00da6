"""The report as one page that needs nothing else: no scripts, no fonts, no network; light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mtembed.cli.report import projection_sentence, roofline_sentence, worker_name
from mtembed.report import svg
from mtembed.report.busy import Work
from mtembed.report.summary import Report
from mtembed.report.timings import STAGES, Cells
from mtembed.text import duration, milliseconds, significant

MOST_WORKERS = 64
LEAST_MS = 0.1  # left end of the logarithmic scale of stages

STYLE = """
:root { color-scheme: light dark;
  --page: #f7f7f5; --card: #fff; --text: #1d2125; --soft: #667079; --line: #e3e5e8; --track: #eef0f2; --accent: #0b62a8;
  --read: #7cb5e8; --decode: #1f6fb4; --ring_wait: #8b959e; --upload: #c58bc9; --preprocess: #2a9d75;
  --forward: #d9622b; --download: #d9a52b; --writer_wait: #bcc3c9; --write: #7d5bb0; --total: #667079; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --card: #1c2024; --text: #e6e9ec; --soft: #97a1ab; --line: #2e343a; --track: #262b30;
  --accent: #6db3f2; --read: #8fc3f0; --decode: #3f8fd6; --ring_wait: #69737d; --upload: #c58bc9; --preprocess: #3cb58a;
  --forward: #e87a45; --download: #e0b347; --writer_wait: #3a4148; --write: #a283d6; --total: #97a1ab; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 17px; margin: 0 0 10px }
.sub, .hint, .notes { color: var(--soft) } .sub { margin: 2px 0 18px } .hint { margin: 8px 0 0; font-size: 13px }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px }
section { padding: 18px 20px; margin: 0 0 16px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 0 0 16px }
.tile { padding: 12px 16px }
.tile b { display: block; font-size: 22px; line-height: 1.25; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 13px }
.limit { border-left: 4px solid var(--accent) }
.limit p { margin: 0 } .limit p + p { margin-top: 6px; color: var(--soft) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; white-space: nowrap }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle }
tr:last-child td { border-bottom: 0 } .n { text-align: right; white-space: nowrap }
tr.limiting td { font-weight: 600 }
svg { display: block } svg.wide { width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
.label { text-anchor: end } .tick { text-anchor: middle }
svg .inside { fill: #fff; font-weight: 600 }
.grid { stroke: var(--line) } .track { fill: var(--track) } .area { fill: var(--accent); opacity: .75 }
.pause { stroke: var(--text); stroke-dasharray: 3 3 }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0 0; color: var(--soft); font-size: 13px }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px }
.meter { background: var(--track); border-radius: 4px; height: 12px; min-width: 180px }
.meter div { background: var(--accent); border-radius: 4px; height: 12px }
"""


def page(report: Report, cells: Cells, work: Work) -> str:
    """The whole page."""
    title = f"{report.model} on {report.source}"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}: mtembed report</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p class='sub'>{escape(_subtitle(report))}</p>{_tiles(report)}{_limit(report)}"
        f"{_archive(report)}{_stages(report, cells)}{_timeline(cells, work)}{_throughput(report, cells, work)}"
        f"{_roofline(report)}{_queues(report)}{_workers(report)}{_failures(report)}{_notes(report)}</main></body></html>\n"
    )


def _subtitle(report: Report) -> str:
    made = report.made_with
    devices = ", ".join(made["devices"]) or made["device"]
    words = [
        devices,
        made["precision"],
        f"batch {made['batch']}",
        f"weights {made['weights']}",
        f"mtembed {made['mtembed']}",
    ]
    state = "finished" if report.finished else "not finished yet"
    return " · ".join([*words, f"begun {made['started']}" if made["started"] else "", state]).replace(" ·  · ", " · ")


def _tiles(report: Report) -> str:
    rate = "-" if report.cells_per_s is None else significant(report.cells_per_s)
    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    gigabytes = "-" if report.bytes_per_s is None else significant(report.bytes_per_s / 1e9)
    values = [
        (f"{report.cells:,}", "cells embedded"), (f"{report.failed:,}", "cells failed"),
        (f"{report.embeddings:,}", "embeddings"), (rate, "cells/s at work"), (each, "s per cell"),
        (gigabytes, "GB/s of pixels read"),
    ]  # fmt: skip
    tiles = "".join(f"<div class='tile'><b>{value}</b><span>{name}</span></div>" for value, name in values)
    return f"<div class='tiles'>{tiles}</div>"


def _limit(report: Report) -> str:
    return f"<section class='limit'><p><b>{escape(report.evidence)}</b></p><p>{escape(report.advice)}</p></section>"


def _archive(report: Report) -> str:
    each = "-" if report.seconds_per_cell is None else significant(report.seconds_per_cell)
    heads = ("model", "source", "patch size", "#embeddings", "#grid cells", "#seconds per cell", "#total time")
    row = (
        report.model, report.source, f"{report.patch_size} px", f"{report.embeddings:,}", f"{report.cells:,}", each,
        duration(report.total_s),
    )  # fmt: skip
    return _section("The dataset", _table(heads, [row]) + f"<p class='hint'>{escape(projection_sentence(report))}</p>")


def _stages(report: Report, cells: Cells) -> str:
    whole = cells.embedded
    if not whole.any():
        return ""
    means = {name: float(cells.stage(name)[whole].mean()) for name in STAGES[:-1]}
    on_way = sum(means[name] for name in STAGES[:-2])
    pieces = [(name, means[name]) for name in STAGES[:-2]]
    pieces += [("writer_wait", max(0.0, float(cells.stage("total")[whole].mean()) - on_way)), ("write", means["write"])]
    most = max(spread.p99_ms or 0.0 for spread in report.stages.values())
    rows = [
        (name, milliseconds(one.median_ms), milliseconds(one.p99_ms),
         svg.spread(one.median_ms, one.p99_ms, LEAST_MS, most, name))
        for name, one in report.stages.items()
    ]  # fmt: skip
    marked = list(report.stages).index(report.limiting_stage) if report.limiting_stage else None
    body = svg.split(pieces) + _legend(name for name, ms in pieces if ms > 0)
    heads = ("stage", "#median", "#99 %", "median to 99 %, logarithmic")
    return _section("Where the time of a cell goes", body + "<p></p>" + _table(heads, rows, marked, raw=(3,)))


def _timeline(cells: Cells, work: Work) -> str:
    drawing = svg.timeline(cells, work)
    legend = _legend(("read", "decode", "upload", "preprocess", "forward", "download", "write"))
    return _section("Workers over time, at the end of the run", drawing + legend) if drawing else ""


def _throughput(report: Report, cells: Cells, work: Work) -> str:
    drawing = svg.throughput(cells, work)
    hint = "Cells per second over the time at work; a dashed line is a pause between two starts."
    return _section("Throughput", f"{drawing}<p class='hint'>{hint}</p>") if drawing else ""


def _roofline(report: Report) -> str:
    if report.roofline is None:
        return ""
    rows = [
        (name, milliseconds(stage.alone_ms), significant(stage.limit_cells_per_s), f"{stage.share:.0%}",
         _meter(stage.share))
        for name, stage in report.roofline.stages.items()
    ]  # fmt: skip
    table = _table(("stage", "#alone, per cell", "#limit, cells/s", "#used", ""), rows, raw=(4,))
    hint = f"<p class='hint'>{escape(roofline_sentence(report.roofline))}</p>"
    return _section("Limits of this machine", table + hint)


def _meter(share: float) -> str:
    return f"<div class='meter'><div style='width:{100 * min(1.0, share):.1f}%'></div></div>"


def _queues(report: Report) -> str:
    heads = ("queue", "waited for by", "#item waits", "#99 %", "#worker waits", "#99 %")
    rows = [
        (queue.items, queue.workers, *(
            milliseconds(value) for spread in (queue.item_waits, queue.worker_waits)
            for value in (spread.median_ms, spread.p99_ms)
        ))
        for queue in report.queues
    ]  # fmt: skip
    hint = "Where items wait the stage behind is slow; where workers wait the stage before is."
    return _section("Both sides of every queue", _table(heads, rows) + f"<p class='hint'>{hint}</p>")


def _workers(report: Report) -> str:
    rows = [
        (worker_name(use, report), use.device, f"{use.cells:,}", f"{use.busy:.0%}",
         _meter(use.busy))
        for use in report.workers[:MOST_WORKERS]
    ]  # fmt: skip
    more = len(report.workers) - MOST_WORKERS
    hint = f"<p class='hint'>{more} more workers are not shown.</p>" if more > 0 else ""
    return _section("Workers", _table(("worker", "on", "#cells", "#busy", ""), rows, raw=(4,)) + hint) if rows else ""


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    rows = [(one["stage"], f"{one['cells']:,}", one["error"]) for one in report.failures]
    return _section("Failed cells", _table(("stage", "#cells", "error"), rows))


def _notes(report: Report) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in (*report.notes, *report.warnings))
    return _section("Notes", f"<ul class='notes'>{lines}</ul>") if lines else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None, raw: Sequence[int] = ()
) -> str:
    """Columns whose head begins with # are numbers; ``raw`` ones hold markup; row ``marked`` is set in bold."""
    style = ["class='n'" if head.startswith("#") else "" for head in heads]
    lines = [_row("th", [escape(head.lstrip("#")) for head in heads], style, False)]
    for i, row in enumerate(rows):
        texts = [text if column in raw else escape(text) for column, text in enumerate(row)]
        lines.append(_row("td", texts, style, i == marked))
    return f"<div class='scroll'><table>{''.join(lines)}</table></div>"


def _row(tag: str, texts: Iterable[str], style: Sequence[str], marked: bool) -> str:
    cells = "".join(f"<{tag} {how}>{text}</{tag}>" for text, how in zip(texts, style, strict=True))
    return f"<tr class='limiting'>{cells}</tr>" if marked else f"<tr>{cells}</tr>"


def _legend(names: Iterable[str]) -> str:
    items = "".join(f"<span><i style='background:var(--{name})'></i>{name}</span>" for name in names)
    return f"<div class='legend'>{items}</div>"
