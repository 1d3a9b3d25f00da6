"""What a run shows while it lasts: the live table, plain lines, JSON lines."""

from __future__ import annotations

import io
import json
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from mtembed.cli.console import Speech
from mtembed.cli.live import LiveView, draw
from mtembed.cli.progress import Every, progress_facts, progress_line
from mtembed.cli.views import JsonView, PlainView, QuietView, view
from mtembed.errors import UsageError
from mtembed.notes import Traffic
from mtembed.run.process import Worker
from mtembed.run.progress import ADVICE, Progress
from mtembed.text import duration
from mtembed.types import CellTiming, RunSummary


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def midway(**values: Any) -> Progress:
    """A run that has done 120 of 500 cells: 12 cells and 1.5 GB a second."""
    progress = Progress(shards=4, shards_done=1, slots=20)
    progress.known, progress.done, progress.failed, progress.resumed = 500, 120, 2, 100
    progress.free, progress.ready, progress.limiting = 8, 9, "device"
    progress.busy = {"decode": 0.38, "device": 0.995, "write": 0.21}
    progress.devices = {"device-0": 1.0, "device-1": 0.99}
    progress._recent = deque([(0.0, 0, 0, 0, 0, 0.0), (10.0, 120, 15_000_000_000, 12_000_000_000, 0, 6.2)])
    for name, value in values.items():
        setattr(progress, name, value)
    return progress


def drawn(progress: Progress, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width)
    with screen.capture() as captured:
        screen.print(draw(progress))
    return captured.get()


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_shows_everything_one_asks_for() -> None:
    shown = drawn(midway())
    for words in (
        "120 done", "2 failed", "278 to go", "100 were there before", "1 of 4", "12.00 cells/s", "1.500 GB/s read",
        "23 s left", "12 of 20 slots filled", "9 wait for a device", "device-0", "100% busy", "device-1", "99% busy",
        "38% busy", "21% busy",
    ):  # fmt: skip
        assert words in shown
    assert shown.rstrip().endswith(ADVICE["device"])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits_its_terminal(width: int) -> None:
    assert all(len(line) <= width for line in drawn(midway(), width).splitlines())


@pytest.mark.parametrize("stage", list(ADVICE))
def test_one_plain_sentence_names_the_limiting_stage(stage: str) -> None:
    assert drawn(midway(limiting=stage)).rstrip().endswith(ADVICE[stage])
    assert progress_line(midway(limiting=stage)).endswith(ADVICE[stage])


def test_the_network_is_shown_where_shards_come_over_one() -> None:
    far = midway(traffic=Traffic(9, 3, 10**9, 2.0))
    words = "1.200 GB/s over the network, 9 requests (3 again after 2 s), decode workers wait 62% of their time for it"
    assert words in " ".join(drawn(far, 160).split()) and words in progress_line(far)
    facts = progress_facts(far)["network"]
    assert facts["waiting"] == 0.62 and facts["requests"] == 9 and facts["bytes_per_s"] == 1_200_000_000
    assert "network" not in drawn(midway()) + progress_line(midway())


def test_a_stopping_run_says_so() -> None:
    assert "stopping: finishing what is in flight" in drawn(midway(stopping=True))


def test_many_devices_share_a_line() -> None:
    shown = drawn(midway(devices={f"device-{i}": 0.5 + i / 100 for i in range(17)}))
    assert "17 devices" in shown and "58% busy on average, 50% to 66%" in shown and "device-3" not in shown


def test_dead_workers_are_mentioned_when_there_are_any() -> None:
    assert "died" not in drawn(midway())
    assert "3 died and were replaced" in drawn(midway(deaths=3))


def test_a_run_that_has_not_begun_can_be_drawn() -> None:
    shown = drawn(Progress())
    assert "0 done" in shown and "- left" in shown and ADVICE["start"] in shown


def test_the_live_view_draws_twice_a_second_and_keeps_notes_as_they_are() -> None:
    clock, screen = Clock(), io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=True, width=100), clock)
    for _ in range(10):
        view.tick(midway())
        clock.now += 0.1
    view.note("found [bold]weights[/] in cache")
    view.close()
    assert screen.getvalue().count("GB/s read") >= 2
    assert "[bold]weights[/]" in screen.getvalue()


# -- lines ------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_is_a_line_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shown = PlainView(clock, lambda: datetime(2026, 11, 25, 12, 41, 25, tzinfo=UTC))
    for _ in range(95):
        shown.tick(midway())
        clock.now += 1.0
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 3
    line = said.err.splitlines()[0]
    assert line.startswith("2026-11-25T12:41:25Z 222 of 500 cells (100 from before), 1 of 4 shards, 2 failed")
    for words in ("12.00 cells/s", "1.500 GB/s", "23 s left", "device 100%", "12 of 20 slots"):
        assert words in line


def test_json_is_one_event_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    shown = JsonView(clock)
    shown.note("a note\nof two lines")
    for _ in range(4):
        shown.tick(midway())
        clock.now += 0.5
    shown.end(RunSummary("out", "rcf", "S2L1C", cells=5))
    error = UsageError("no shard matches x")
    Speech(json=True).fail(error, str(error), error.exit_code)
    said = capsys.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["note", "progress", "progress", "end", "error"]
    progress = events[1]
    assert (progress["cells_done"], progress["cells_failed"], progress["cells_remaining"]) == (120, 2, 278)
    assert (progress["cells_per_s"], progress["bytes_per_s"], progress["eta_s"]) == (12.0, 1_500_000_000, 23)
    assert progress["devices"] == {"device-0": 1.0, "device-1": 0.99}
    assert progress["queue"] == {"ready": 9, "free_slots": 8, "slots": 20}
    assert progress["limiting"] == "device" and progress["sentence"] == ADVICE["device"]
    assert events[-1]["exit_code"] == 2


def test_quiet_is_quiet_but_for_errors(capsys: pytest.CaptureFixture[str]) -> None:
    shown = QuietView()
    shown.tick(midway())
    shown.note("nothing")
    shown.close()
    shown.end(RunSummary("out", "rcf", "S2L1C", cells=5, failed=1))
    Speech(quiet=True).show("nothing", [])
    assert capsys.readouterr() == ("", "")
    error = UsageError("no shard matches x")
    Speech(quiet=True).fail(error, str(error), error.exit_code)
    assert capsys.readouterr().err == "mtembed: no shard matches x\n"


def test_how_to_show_follows_options_and_terminal() -> None:
    """pytest's stderr is no terminal."""
    assert isinstance(view(Speech(json=True, quiet=True)), JsonView)
    assert isinstance(view(Speech(quiet=True)), QuietView)
    assert isinstance(view(Speech()), PlainView)


def test_the_end_names_cells_rate_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    done = RunSummary("out", "rcf", "S2L1C", cells=90, failed=2, embeddings=2250, new_cells=30, seconds=75.0)
    PlainView().end(done)
    said = capsys.readouterr().err
    for words in ("2,250 embeddings of 90 cells", "30 of them now in 1 min 15 s at 0.40 cells/s", "2 cells failed"):
        assert words in said
    PlainView().end(RunSummary("out", "rcf", "S2L1C", cells=1, failed=1, embeddings=25))
    said = capsys.readouterr().err
    assert "25 embeddings of 1 cell\n" in said and "1 cell failed: see out/failures.jsonl" in said


def test_an_interrupted_run_tells_parts_and_cells_apart(capsys: pytest.CaptureFixture[str]) -> None:
    result = RunSummary("out", "rcf", "S2L1C", cells=12, embeddings=300, new_cells=13, seconds=10.0, exit_code=130)
    PlainView().end(result)
    said = capsys.readouterr().err
    assert "out: 13 cells now in 10 s" in said and "300 embeddings of 12 cells in finished parts" in said


def test_the_list_of_failures_has_its_own_name_in_a_shared_run(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView().end(RunSummary("out", "rcf", "S2L1C", cells=1, failed=2, failures="failures-0-of-2.jsonl"))
    assert "see out/failures-0-of-2.jsonl" in capsys.readouterr().err


def test_nothing_printed_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31m\x07\x9b2J\u202eb\u2028c\udc80"
    PlainView().note(hostile)
    Speech().show(hostile, [])
    Speech(json=True).show("", [{"name": hostile}])
    said = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e\u2028\udc80") & set(said.out + said.err)
    assert json.loads(said.out.splitlines()[-1])["name"] == hostile
    assert said.err.rstrip().endswith(r"a\x1b[31m\x07\x9b2J\u202eb\u2028c\udc80")


def test_times_are_readable() -> None:
    assert [duration(s) for s in (0.4, 12, 59.6, 250, 11_100)] == [
        "0 s",
        "12 s",
        "1 min 00 s",
        "4 min 10 s",
        "3 h 05 min",
    ]


@pytest.mark.parametrize("at_once", [True, False])
def test_every_is_due_once_in_its_period(at_once: bool) -> None:
    clock = Clock()
    due = Every(10.0, at_once, clock)
    calls = []
    for _ in range(25):
        calls.append(due())
        clock.now += 1.0
    assert [i for i, yes in enumerate(calls) if yes] == ([0, 10, 20] if at_once else [10, 20])


# -- what is behind ---------------------------------------------------------------------------------------------------


def test_shards_not_opened_count_like_those_opened_in_this_start() -> None:
    progress = Progress(shards=100, shards_done=90)
    progress.known, progress.unopened = 1000, 8
    assert progress.total == 5000


def test_a_limit_bounds_what_is_expected() -> None:
    progress = Progress(shards=1000, most=120)
    progress.known, progress.unopened = 50, 990
    assert (progress.total, progress.remaining) == (120, 120)


def test_without_a_rate_there_is_no_time_left_to_tell() -> None:
    assert progress_facts(Progress())["eta_s"] is None


def test_counts_follow_the_timings() -> None:
    progress = Progress()
    progress.count(CellTiming("p", 0, fragments=25, bytes_in=100))
    progress.count(CellTiming("p", 1, status="failed", bytes_in=50))
    assert (progress.done, progress.failed, progress.embeddings, progress.bytes_in) == (1, 1, 25, 150)


def worker(kind: str, name: str, busy_s: float) -> Worker:
    return Worker(kind, name, process=None, channel=None, stderr=None, busy_s=busy_s)  # type: ignore[arg-type]


def test_utilisation_is_the_share_of_time_with_work_at_hand() -> None:
    crew = [worker("device", "device-0", 0.0), worker("device", "device-1", 0.0), worker("write", "write-0", 0.0)]
    clock = Clock()
    progress = Progress(done=1, clock=clock)
    progress.observe(crew, unopened=0)
    clock.now += 100.0
    crew[0].busy_s, crew[1].busy_s, crew[2].busy_s = 99.0, 51.0, 4.0
    progress.observe([*crew, worker("device", "device-2", 0.0)], unopened=0)
    assert progress.devices == pytest.approx({"device-0": 0.99, "device-1": 0.51, "device-2": 0.0})
    assert progress.busy == pytest.approx({"device": 0.5, "write": 0.04})
    assert progress.limiting == "device"


@pytest.mark.parametrize(("forward_ms", "limiting"), [(5.0, "decode"), (9.5, "device")])
def test_a_device_that_waits_for_its_batch_is_not_the_limit(forward_ms: float, limiting: str) -> None:
    """It has cells at hand all the time; how long they took says whether it computes."""
    crew = [worker("device", "device-0", 0.0), worker("decode", "decode-0", 0.0)]
    clock = Clock()
    progress = Progress(clock=clock)
    progress.observe(crew, unopened=0)
    clock.now += 1.0
    crew[0].busy_s, crew[1].busy_s = 1.0, 0.85
    for row in range(100):
        progress.count(CellTiming("p", row, forward=forward_ms))
    progress.observe(crew, unopened=0)
    assert progress.limiting == limiting


@pytest.mark.parametrize(("blocked", "limiting"), [(60.0, "network"), (20.0, "decode")])
def test_the_network_is_the_limit_where_decode_workers_wait_for_it(blocked: float, limiting: str) -> None:
    """Two workers with work at hand all the time: whether they wait or decode says what holds the run up."""
    crew = [worker("device", "device-0", 0.0), worker("decode", "decode-0", 0.0), worker("decode", "decode-1", 0.0)]
    clock = Clock()
    progress = Progress(done=1, clock=clock, traffic=Traffic(10, blocked=5.0))
    progress.observe(crew, unopened=0)
    clock.now += 50.0
    crew[0].busy_s, crew[1].busy_s, crew[2].busy_s = 10.0, 50.0, 50.0
    progress.traffic += Traffic(100, 0, 10**9, 0.0, blocked)
    progress.observe(crew, unopened=0)
    assert progress.limiting == limiting and progress.waiting == pytest.approx(blocked / 100.0)
    crew[0].busy_s, crew[1].busy_s, crew[2].busy_s = 60.0, 52.0, 50.0
    clock.now += 50.0
    progress.observe(crew, unopened=0)
    assert progress.limiting == "device"  # the network may be slow: it does not hold the run up


def test_shards_that_could_not_be_read_are_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView().end(RunSummary("out", "rcf", "S2L1C", cells=237, failed=3, failed_shards=2))
    assert "1 cell failed and 2 shards could not be read: see out/failures.jsonl" in capsys.readouterr().err
    PlainView().end(RunSummary("out", "rcf", "S2L1C", failed=1, failed_shards=1))
    assert "Z 1 shard could not be read: see out/failures.jsonl; --retry-failed tries it" in capsys.readouterr().err


def test_finishing_parts_is_writing() -> None:
    clock = Clock()
    progress = Progress(done=1, clock=clock)
    crew = [worker("write", "write-0", 0.0), worker("finish", "finish-0", 0.0)]
    progress.observe(crew, unopened=0)
    clock.now += 10.0
    crew[1].busy_s = 9.0
    progress.observe(crew, unopened=0)
    assert progress.busy == pytest.approx({"write": 0.9}) and progress.limiting == "write"
