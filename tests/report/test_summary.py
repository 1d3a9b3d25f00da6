"""A report says what the timing files say: known medians, known shares, and the stage that was made to be slow."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtembed
from mtembed.cli import app
from mtembed.cli.report import view, write_page
from mtembed.dataset.journal import HEAD, Journal, read_journal
from mtembed.dataset.manifest import Notes
from mtembed.dataset.timings import timing_table
from mtembed.errors import OutputError, UsageError
from mtembed.notes import Traffic
from mtembed.report.busy import Spans, Work
from mtembed.report.limit import find_limit
from mtembed.report.page import page
from mtembed.report.summary import Report, report, summarise
from mtembed.report.svg import nice, worked
from mtembed.report.timings import load
from mtembed.sources import SOURCES
from mtembed.text import milliseconds, significant
from mtembed.types import STAGES, CellTiming, CrewSizes, ShardFacts
from tests.tools.manifests import facts as shard_facts
from tests.tools.manifests import manifest, settings
from tests.tools.screens import screen

BOOT = 1_800_000_000.0  # seconds since 1970 at which the clock of the invented cells was zero
SETTINGS = settings(source="S2L1C")
FIRST_KEYS = [
    "schema", "model", "source", "patch_size", "cells", "embeddings", "seconds_per_cell", "total_s", "stages",
    "limiting_stage",
]  # fmt: skip


def cell(
    row: int, at: float = 0.0, worker: str = "decode-0 device-0", clock: float = BOOT, **values: Any
) -> CellTiming:
    """A cell whose stages follow each other; ``at`` is its start in seconds, ``gap`` the wait for the writer in ms."""
    gap = values.pop("gap", 0.0)
    timing = CellTiming("part_00001.parquet", row, fragments=25, device="cpu", worker=worker, started=at, clock=clock)
    for name, value in values.items():
        setattr(timing, name, value)
    timing.total = gap + sum(getattr(timing, name) for name in STAGES[:-2])
    return timing


def failure(row: int, at: float, error: str = "B04 is torn") -> CellTiming:
    return CellTiming(
        "part_00001.parquet", row, status="failed", stage="decode", error=error, worker="decode-0", read=1.0, total=1.0,
        started=at, clock=BOOT,
    )  # fmt: skip


def facts(stem: str, cells: Sequence[CellTiming]) -> ShardFacts:
    ok = [timing for timing in cells if timing.status == "ok"]
    embeddings = sum(timing.fragments for timing in ok)
    return shard_facts(
        stem,
        cells=len(ok),
        failed=len(cells) - len(ok),
        embeddings=embeddings,
        rows=len(cells),
        encodings={},
        baselines={},
    )


def dataset(root: Path, parts: dict[str, list[CellTiming]], name: str = "manifest.json", **changes: Any) -> Path:
    """A dataset as a run leaves it, as far as a report looks at it."""
    (root / "timings").mkdir(parents=True, exist_ok=True)
    for stem, cells in parts.items():
        for timing in cells:
            timing.shard = f"{stem}.parquet"
        pq.write_table(timing_table(cells, facts(stem, cells)), root / "timings" / f"{stem}.parquet")
    listed = changes.pop("shards", {stem: facts(stem, cells) for stem, cells in parts.items()})
    made = manifest(*listed.values(), made=SETTINGS, devices=("a CPU",), **changes)
    (root / name).write_text(json.dumps(made.as_json()))
    return root


def journal(root: Path, stem: str, cells: Sequence[CellTiming]) -> Path:
    """The journal of a part that is being made."""
    (root / ".mtembed").mkdir(exist_ok=True)
    path = root / ".mtembed" / f"{stem}.journal"
    writer = Journal(path, {"shard": f"{stem}.parquet"})
    for timing in cells:
        timing.shard = f"{stem}.parquet"
        writer.append(timing, None, np.zeros((25, 64), np.float32))
    writer.close()
    return path


def shown(found: Report, width: int = 110) -> str:
    """What a terminal shows of a report."""
    return screen(view(found), width)


def steady(count: int = 40, **slow: float) -> list[CellTiming]:
    """Cells through one decode worker and one device worker, each stage 1 ms but for the ``slow`` ones."""
    ms = {"read": 1.0, "decode": 1.0, "preprocess": 1.0, "forward": 1.0, "write": 1.0, **slow}
    decoded = computed = written = 0.0
    cells = []
    for row in range(count):
        ready = decoded + ms["read"] + ms["decode"]
        begin = max(ready, computed)
        computed = begin + ms["preprocess"] + ms["forward"]
        safe = max(computed, written)
        cells.append(cell(row, decoded / 1e3, ring_wait=begin - ready, gap=safe - computed, **ms))
        written = safe + ms["write"]
        decoded = ready if ready > computed - 50 else begin  # a ring that holds a few cells
    return cells


# -- numbers ------------------------------------------------------------------------------------------------------


def test_medians_and_99th_percentiles_are_those_of_the_cells(tmp_path: Path) -> None:
    cells = [cell(i, i, forward=float(i + 1), read=2.0, decode=0.5) for i in range(101)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert (found.stages["forward"].median_ms, found.stages["forward"].p99_ms) == (51.0, 100.0)
    assert (found.stages["read"].median_ms, found.stages["decode"].p99_ms) == (2.0, 0.5)
    assert found.stages["total"].median_ms == pytest.approx(53.5)
    assert list(found.stages) == list(STAGES)


def test_failed_and_empty_cells_do_not_bend_the_medians(tmp_path: Path) -> None:
    empty = cell(98, 98.0, forward=0.0)
    empty.fragments = 0
    cells = [*(cell(i, i, forward=10.0) for i in range(5)), *(failure(i, i) for i in range(5, 90)), empty]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert found.stages["forward"].median_ms == 10.0
    assert (found.cells, found.failed, found.embeddings) == (6, 85, 125)
    assert found.failures == [{"stage": "decode", "error": "B04 is torn", "cells": 85}]


def test_busy_shares_and_waits_are_those_of_the_time_line(tmp_path: Path) -> None:
    """The device works 0.1-1.1 s and 2.1-3.1 s: two of three seconds; the decode worker 0.1 s of the three."""
    cells = [cell(0, 0.0, decode=100.0, forward=1000.0), cell(1, 2.0, decode=100.0, forward=1000.0)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    busy = {use.name: use.busy for use in found.workers}
    assert busy["device-0"] == pytest.approx(2 / 3, abs=1e-3)
    assert busy["decode-0"] == pytest.approx(0.1 / 3, abs=1e-3)
    waits = {queue.items: queue.worker_waits.median_ms for queue in found.queues}
    assert waits["decoded cells"] == pytest.approx(1000.0, abs=0.1)
    assert waits["free slots"] == pytest.approx(1900.0, abs=0.1)
    assert found.cells_per_s == pytest.approx(2 / 3, abs=1e-3)
    assert found.total_s == pytest.approx(3.1, abs=1e-3)


def test_overlapping_work_of_a_worker_counts_once(tmp_path: Path) -> None:
    cells = [cell(i, 0.1 * i, forward=1000.0) for i in range(11)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert [use.busy for use in found.workers if use.kind == "device"] == [1.0]


def test_a_crew_is_as_large_as_the_manifest_says(tmp_path: Path) -> None:
    cells = [cell(i, i, forward=1000.0) for i in range(10)]
    found = report(dataset(tmp_path, {"part_00001": cells}, workers=CrewSizes(3, 4, 1)))
    assert found.crews["decode"].count == 3
    assert found.crews["device"].busy == pytest.approx(0.25, abs=1e-3)


def test_loading_a_model_is_no_waiting(tmp_path: Path) -> None:
    """Cells decoded while the device still loads wait long; shares count from the first cell on the device."""
    cells = [cell(i, 0.001 * i, decode=1.0, ring_wait=20_000 + 999.0 * i, forward=1000.0) for i in range(4)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert found.crews["device"].busy == pytest.approx(1.0, abs=0.01)
    assert found.cells_per_s == pytest.approx(1.0, abs=0.01)
    assert found.total_s == pytest.approx(24.0, abs=0.1)


# -- time over starts and machines ----------------------------------------------------------------------------------


def test_a_pause_between_two_starts_is_not_time_at_work(tmp_path: Path) -> None:
    cells = [cell(i, i, forward=1000.0) for i in range(10)] + [cell(i, 5000 + i, forward=1000.0) for i in range(10, 20)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert found.total_s == pytest.approx(20.0, abs=0.01)
    assert found.seconds_per_cell == pytest.approx(1.0, abs=1e-3)


def test_a_new_start_ends_a_stretch_however_short_the_pause(tmp_path: Path) -> None:
    """Killed at 10 s, started again at 15 s: the five seconds between and the loading are nobody's waiting."""
    again = datetime.fromtimestamp(BOOT + 15, UTC).isoformat()
    cells = [cell(i, i, forward=1000.0) for i in range(10)]
    cells += [cell(10 + i, 16 + i, ring_wait=4000.0, forward=1000.0) for i in range(10)]
    found = report(dataset(tmp_path, {"part_00001": cells}, starts=(again,)))
    assert found.crews["device"].busy == pytest.approx(1.0, abs=0.01)
    assert found.cells_per_s == pytest.approx(1.0, abs=0.01)
    assert found.total_s == pytest.approx(24.0, abs=0.01)


def test_a_restarted_machine_begins_its_clock_again(tmp_path: Path) -> None:
    """Equal values of the monotonic clock after a restart are another time."""
    cells = [cell(i, 60.0 + i, forward=1000.0, clock=BOOT + 90_000 * (i // 10)) for i in range(20)]
    found = report(dataset(tmp_path, {"part_00001": cells}))
    assert found.total_s == pytest.approx(20.0, abs=0.01)
    assert found.crews["device"].busy == pytest.approx(1.0, abs=0.01)


def test_total_time_is_the_manifests_when_that_includes_starting_up(tmp_path: Path) -> None:
    found = report(dataset(tmp_path, {"part_00001": [cell(0, 0, forward=1000.0)]}, seconds=14.5))
    assert (found.total_s, found.seconds_per_cell) == (14.5, 14.5)


def test_processes_side_by_side_share_the_time_but_not_the_workers(tmp_path: Path) -> None:
    first = [cell(i, i, forward=1000.0) for i in range(10)]
    second = [cell(i, i, forward=500.0) for i in range(10)]
    dataset(tmp_path, {"part_00001": first}, "manifest-0-of-2.json", seconds=12.0)
    dataset(tmp_path, {"part_00002": second}, "manifest-1-of-2.json", seconds=11.0)
    found = report(tmp_path)
    devices = {(use.process, use.name): use.busy for use in found.workers if use.kind == "device"}
    assert devices[0, "device-0"] == pytest.approx(1.0, abs=1e-3)
    assert devices[1, "device-0"] == pytest.approx(5 / 9.5, abs=1e-3)
    assert (found.cells, found.total_s, found.seconds_per_cell) == (20, 12.0, 0.6)
    assert found.cells_per_s == pytest.approx(2.0, abs=1e-3)
    assert found.made_with.processes == 2


@pytest.mark.parametrize("price", [None, 3.0])
def test_the_whole_archive_at_the_rate_while_at_work(tmp_path: Path, price: float | None) -> None:
    cells = [cell(i, i, forward=1000.0) for i in range(60)]
    plan = report(dataset(tmp_path, {"part_00001": cells}, seconds=500.0), price).projection
    assert (plan.archive, plan.cells) == ("Core-S2L1C", 2_245_886)
    assert plan.hours == pytest.approx(2_245_886 / 3600, rel=1e-3)
    assert plan.cost == (None if price is None else pytest.approx(3 * 2_245_886 / 3600, rel=1e-3))
    assert SOURCES["S1RTC"].cells_in_core == 1_469_955


# -- what limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["read", "decode", "preprocess", "forward", "write"])
def test_the_slow_stage_is_named(tmp_path: Path, stage: str) -> None:
    found = report(dataset(tmp_path, {"part_00001": steady(**{stage: 20.0})}))
    assert found.limiting_stage == stage
    assert found.evidence.count("%") >= 3 and found.evidence.endswith(".")
    assert found.advice


def test_between_two_busy_crews_the_queue_decides() -> None:
    busy, ms = {"decode": 0.97, "device": 0.93, "write": 0.1}, dict.fromkeys(STAGES, 1.0)
    crews = {"decode": 2, "device": 1, "write": 1}
    assert find_limit(busy, ms | {"forward": 9.0}, crews, 300.0, 1.0, SETTINGS).stage == "forward"
    assert find_limit(busy, ms | {"decode": 9.0}, crews, 0.0, 15.0, SETTINGS).stage == "decode"


@pytest.mark.parametrize(("blocked", "stage"), [(0.7, "network"), (0.1, "read")])
def test_the_network_is_the_limit_where_reading_waits_for_it(tmp_path: Path, blocked: float, stage: str) -> None:
    """40 cells are read in 0.8 s; of these decode workers waited for bytes, or did not."""
    fetched = Traffic(requests=120, again=3, bytes=500_000_000, waited=1.5, blocked=blocked)
    root = dataset(tmp_path, {"part_00001": steady(read=20.0)}, notes=Notes(network=fetched))
    found = report(root)
    assert found.limiting_stage == stage and found.network is not None
    assert (found.network.requests, found.network.bytes) == (120, 500_000_000)
    assert found.network.waiting == pytest.approx(blocked / 0.8 * 20 / 21 * found.crews["decode"].busy, abs=0.01)
    assert found.evidence.startswith("The network limits the run" if stage == "network" else "Reading the shards")
    assert ("waiting for bytes" in found.evidence) == (stage == "network")
    words = " ".join(shown(found).split())
    assert "Network" in words and "fetched 500 MB" in words and "120 requests, 3 of them again after 2 s" in words
    timings = load(root)
    assert "<h2>Network</h2>" in page(found, timings.cells, Work(timings))


def test_without_a_network_nothing_is_said_of_one(tmp_path: Path) -> None:
    source, found = page_of(tmp_path, steady(read=20.0))
    assert found.network is None and "etwork" not in shown(found) and "<h2>Network" not in source


def test_when_nobody_is_busy_the_report_says_so() -> None:
    busy, crews = {"decode": 0.05, "device": 0.3, "write": 0.01}, {"decode": 2, "device": 1, "write": 1}
    limit = find_limit(busy, dict.fromkeys(STAGES, 1.0), crews, 0.0, 80.0, SETTINGS)
    assert limit.evidence.startswith("Nobody was busy half of the time")


def test_advice_fits_the_machine() -> None:
    busy, crews = {"decode": 0.1, "device": 0.99, "write": 0.1}, {"decode": 2, "device": 1, "write": 1}
    ms = dict.fromkeys(STAGES, 1.0) | {"forward": 50.0}
    network = settings(source="S2L1C", model="dinov2")
    gpu = find_limit(busy, ms, crews, 9.0, 0.0, dataclasses.replace(network, device="cuda")).advice
    assert "more GPUs" in gpu and "16-bit" in gpu
    assert "openvino" in find_limit(busy, ms, crews, 9.0, 0.0, network).advice
    assert "openvino" not in find_limit(busy, ms, crews, 9.0, 0.0, SETTINGS).advice


# -- unfinished, damaged, large -------------------------------------------------------------------------------------


def test_a_running_dataset_counts_the_cells_of_its_journals_and_leaves_them_alone(tmp_path: Path) -> None:
    dataset(tmp_path, {"part_00001": [cell(i, i, forward=1000.0) for i in range(4)]})
    path = journal(tmp_path, "part_00002", [cell(i, 4 + i, forward=1000.0) for i in range(3)])
    with path.open("ab") as file:
        file.write(HEAD.pack(b"MTJ1", 5000, 90_000, 7) + b'{"timing": {"shard"')
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    found = report(tmp_path)
    assert (found.cells, found.finished) == (7, False)
    assert found.total_s == pytest.approx(7.0, abs=0.01)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert any("not finished" in note for note in found.notes)


def test_a_cell_tried_again_is_counted_once(tmp_path: Path) -> None:
    dataset(tmp_path, {"part_00001": [cell(0, 0, forward=1.0), failure(1, 1)]})
    journal(tmp_path, "part_00001", [cell(1, 2, forward=1.0)])
    found = report(tmp_path)
    assert (found.cells, found.failed) == (2, 0)


def test_a_journal_is_read_up_to_any_torn_byte(tmp_path: Path) -> None:
    dataset(tmp_path, {})
    path = journal(tmp_path, "part_00001", [cell(i, i, forward=1.0) for i in range(3)])
    whole = path.read_bytes()
    ends = [*(i for i in range(1, len(whole)) if whole.startswith(b"MTJ1", i)), len(whole)]
    for cut in {*range(0, len(whole), 97), *ends, *(end - 1 for end in ends)}:
        path.write_bytes(whole[:cut])
        assert [t.row_group for t in read_journal(path)] == list(range(sum(end <= cut for end in ends[1:])))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [t.row_group for t in read_journal(path)] == [0, 1]
    assert read_journal(tmp_path / "gone.journal") == []


def test_only_the_newest_parts_are_looked_at_cell_by_cell(tmp_path: Path) -> None:
    parts = {
        f"part_{p:05d}": [cell(i, 10 * p + i, forward=1000.0 if p == 2 else 1.0) for i in range(10)] for p in range(3)
    }
    dataset(tmp_path, parts)
    loaded = load(tmp_path, most_cells=12)
    assert (len(loaded.cells), loaded.older.cells, loaded.older.embeddings) == (10, 20, 500)
    assert len(load(tmp_path).cells) == 30


def test_parts_that_no_manifest_lists_yet_count_too(tmp_path: Path) -> None:
    dataset(tmp_path, {"part_00001": steady(5), "part_00002": steady(5)}, shards={})
    assert report(tmp_path).cells == 10


def test_nothing_embedded_is_said_and_is_no_error(tmp_path: Path) -> None:
    found = page_of(tmp_path, [failure(0, 0)])[1]
    assert (found.cells, found.failed, found.seconds_per_cell, found.limiting_stage) == (0, 1, None, None)
    assert "Nothing was embedded" in shown(found) and "No projection" in shown(found)
    assert report(dataset(tmp_path / "empty", {})).total_s == 0.0


def test_what_is_no_dataset_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web app"}')
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "other"):
        with pytest.raises((UsageError, OutputError)) as caught:
            report(folder)
        with pytest.raises(SystemExit) as stop:
            app.main(["report", str(folder)])
        assert stop.value.code == caught.value.exit_code
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and ("manifest" in said.err or str(folder) in said.err)


def test_a_damaged_timing_file_is_one_sentence(tmp_path: Path) -> None:
    dataset(tmp_path, {"part_00001": steady(5)})
    (tmp_path / "timings" / "part_00001.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(OutputError, match="cannot be read"):
        report(tmp_path)


# -- what it looks like -----------------------------------------------------------------------------------------------


def test_json_is_one_object_with_the_agreed_keys_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset(tmp_path, {"part_00001": steady(60, forward=20.0)})
    with pytest.raises(SystemExit) as stop:
        app.main(["report", str(tmp_path), "--json", "--price-per-hour", "2"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found)[: len(FIRST_KEYS)] == FIRST_KEYS
    assert found["schema"] == "mtembed.report/1" and found["patch_size"] == 224
    assert all(set(stage) == {"median_ms", "p99_ms"} for stage in found["stages"].values())
    assert found["limiting_stage"] in found["stages"]
    assert found["seconds_per_cell"] == pytest.approx(found["total_s"] / found["cells"], rel=0.02)


@pytest.mark.parametrize("price", ["-1", "nan"])
def test_a_price_that_is_none_is_refused(tmp_path: Path, price: str) -> None:
    with pytest.raises(SystemExit) as stop:
        app.main(["report", str(dataset(tmp_path, {})), f"--price-per-hour={price}"])
    assert stop.value.code == 2


def test_the_tables_show_the_facts(tmp_path: Path) -> None:
    dataset(
        tmp_path, {"part_00001": [*steady(60, forward=20.0), failure(60, 2, "[red]odd[/] name")]}, warnings=("beware",)
    )
    table = shown(report(tmp_path, 1.5))
    for word in (
        "rcf",
        "S2L1C",
        "224 px",
        "1,500",
        "forward",
        "decode-0",
        "[red]odd[/] name",
        "beware",
        "1.50 an hour",
    ):
        assert word in table


class Page(html.parser.HTMLParser):
    """Collects what a page would fetch, and checks that its elements are closed in order."""

    VOID = ("meta", "rect", "line", "path", "circle", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def page_of(root: Path, cells: list[CellTiming]) -> tuple[str, Report]:
    timings = load(dataset(root, {"part_00001": cells}))
    work = Work(timings)
    found = summarise(timings, work, 2.0)
    write_page(root / "page.html", page(found, timings.cells, work))
    return (root / "page.html").read_text(encoding="utf-8"), found


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    cells = [*steady(60, forward=20.0), failure(60, 2, '<script src="http://evil.example/x.js">')]
    source, found = page_of(tmp_path, cells)
    page = Page(source)
    assert not page.open and not page.fetched
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "url(" not in source and "@import" not in source and "&lt;script src=" in source
    assert "prefers-color-scheme: dark" in source
    for word in (found.evidence.split("'")[0], "Throughput", "Workers over time", "decode-0", "device-0", "Both sides"):
        assert word in source


def test_the_page_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    small, _ = page_of(tmp_path / "small", steady(2_000, forward=20.0))
    large, _ = page_of(tmp_path / "large", steady(20_000, forward=20.0))
    assert len(large) < 1.2 * len(small) < 200_000


def test_the_time_line_shows_the_last_cells_of_every_worker(tmp_path: Path) -> None:
    cells = [
        cell(i, i // 2, f"decode-0 device-{i % 2}", decode=1.0, preprocess=10.0, forward=980.0) for i in range(200)
    ]
    source, _ = page_of(tmp_path, cells)
    assert 2 * 16 <= source.count("<title>forward ") <= 2 * 16 + 2


def test_failed_cells_are_named_in_both_views(tmp_path: Path) -> None:
    lost = [failure(row, 2, "band B04 is torn") for row in range(60, 95)]
    source, found = page_of(tmp_path, [*steady(60), *lost])
    assert [one.row_group for one in found.failed_cells] == list(range(60, 80))
    assert "part_00001.parquet" in shown(found) and "25 cells more: see failures*.jsonl" in shown(found)
    assert "part_00001.parquet" in source and "15 cells more" in source


def test_few_cells_give_no_advice_and_no_projection(tmp_path: Path) -> None:
    source, found = page_of(tmp_path, steady(1))
    assert found.advice == "" and found.projection.hours is None
    assert "Only 1 cell so far" in shown(found) and "would take" not in shown(found) + source


def test_waiting_is_drawn_apart_from_work(tmp_path: Path) -> None:
    source, _ = page_of(tmp_path, steady(60, forward=20.0))
    work, waits = source.index("Work, mean per cell"), source.index("Waiting in queues")
    assert work < source.index("<title>forward") < waits < source.index("<title>ring_wait")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_report_fits_its_terminal(tmp_path: Path, width: int) -> None:
    cells = [*steady(60), failure(60, 2, "an error of many words, " * 10)]
    lines = shown(report(dataset(tmp_path, {"part_00001": cells})), width).splitlines()
    assert max(map(len, lines)) <= width


# -- pieces -----------------------------------------------------------------------------------------------------------

times = st.floats(0, 100, width=32)


@given(st.lists(st.tuples(times, times), max_size=30))
def test_a_union_covers_what_its_intervals_cover(pairs: list[tuple[float, float]]) -> None:
    starts, ends = (np.array([edge(pair) for pair in pairs], np.float64) for edge in (min, max))
    union = Spans.union(starts, ends)
    assert (union.starts[1:] > union.ends[:-1]).all() and (union.starts <= union.ends).all()
    for moment in np.linspace(0, 100, 101):
        inside = bool(((starts <= moment) & (moment <= ends)).any())
        assert inside == bool(((union.starts <= moment) & (moment <= union.ends)).any())
    inner = union.clip(starts, ends)
    assert Spans.union(*inner).seconds == pytest.approx(union.seconds)
    if len(starts):
        order = np.sort(ends)
        assert (np.diff(worked(union, order)) >= -1e-9).all() and worked(union, order).max() <= union.seconds + 1e-9


def test_numbers_are_short() -> None:
    assert [milliseconds(v) for v in (None, 0.0, 0.42, 12.3, 1234.0, 61_000.0)] == [
        "-", "0 ms", "0.4 ms", "12 ms", "1.2 s", "61 s",
    ]  # fmt: skip
    assert [significant(v) for v in (0.012345, 3.9102, 245.4, 12_300.0)] == ["0.0123", "3.91", "245", "12,300"]
    assert [nice(v) for v in (0.0, 0.7, 1.0, 3.0, 6.0, 12.0)] == [1.0, 1.0, 1.0, 5.0, 10.0, 20.0]


# -- a real run -------------------------------------------------------------------------------------------------------


def test_the_report_of_a_real_run_agrees_with_its_files(tmp_path: Path) -> None:
    sample = Path(mtembed.__file__).parent / "sample" / "Core-S1RTC" / "images"
    summary = mtembed.embed(sample, model="rcf", output=str(tmp_path / "out"), limit=2)
    found = report(tmp_path / "out")
    rows = [row for path in (tmp_path / "out" / "timings").iterdir() for row in pq.read_table(path).to_pylist()]
    parts = [pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "embeddings").iterdir()]
    assert (found.cells, found.failed) == (len(rows), 0) == (summary.cells, 0)
    assert found.embeddings == sum(parts) == sum(row["fragments"] for row in rows)
    for name, stage in found.stages.items():
        assert stage.median_ms == pytest.approx(statistics.median(row[name] for row in rows), rel=1e-3, abs=1e-3)
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert found.total_s == pytest.approx(made["seconds"], abs=1e-3)
    assert found.finished and found.limiting_stage in STAGES
    assert {kind: crew.count for kind, crew in found.crews.items()} == made["workers"]
    assert all(0.0 <= use.busy <= 1.0 for use in found.workers)
    assert sum(use.cells for use in found.workers if use.kind == "device") == len(rows)
