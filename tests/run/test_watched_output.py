"""A dataset behind an address while it is made: seen from another machine, in a retry, when the store goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.bucket import writable
from tests.tools.commands import embeddings, run, start, wait_for
from tests.tools.remote import PLACE, bucket_served, here, there, times_put
from tests.tools.shards import default_cells, make_shard
from tests.tools.web import Handler, Server

SHARDS, CELLS = 4, 3


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with bucket_served(tmp_path / "store", monkeypatch) as found:
        yield found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    cells = default_cells(SHARDS * CELLS)
    for number in range(SHARDS):
        make_shard(tmp_path / f"archive/images/part_{number}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
    return tmp_path / "archive"


def command(archive: Path) -> list[str]:
    small = ("--slots", "2", "--workers", "1", "--share-of-machine", "0.5")
    return ["--model", "rcf", "--fragment-size", "32", *small, "--output", PLACE, str(archive)]


def test_it_is_seen_from_another_machine(
    server: Server, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[subprocess.Popen[str]]
) -> None:
    begun.append(start(command(archive)))
    wait_for(lambda: times_put(server, "timings"), begun[0])
    os.killpg(begun[0].pid, signal.SIGSTOP)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    found = json.loads(run(["status", PLACE, "--json"])[1])
    done = len(list((there(server) / "timings").iterdir()))
    assert found["processes"] == 1 and not found["complete"] and found["cells"] == done * CELLS
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0 and "a run is working here; finished parts are right" in out, out + err
    code, out, err = run(["report", PLACE, "--json"])
    assert code == 0 and json.loads(out.splitlines()[-1])["cells"] == done * CELLS, err
    os.killpg(begun[0].pid, signal.SIGCONT)
    out, err = begun[0].communicate(timeout=200)
    assert begun[0].returncode == 0, out + err
    assert json.loads((there(server) / "manifest.json").read_text())["complete"]


def test_a_retry_that_is_killed_between_a_part_and_its_timings_goes_on(
    server: Server, archive: Path, tmp_path: Path
) -> None:
    segfault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}
    publish = "mtembed.dataset.far:FarDataset.publish"
    assert run(command(archive), [segfault])[0] == 3
    killed = {"kind": "finish", "function": publish, "call": 2, "action": "kill-group"}
    assert run([*command(archive), "--retry-failed"], [killed])[0] == -signal.SIGKILL
    code, out, err = run([*command(archive), "--retry-failed"])
    assert code == 0, out + err
    manifest = json.loads((there(server) / "manifest.json").read_text())
    assert manifest["complete"] and manifest["totals"]["cells"] == SHARDS * CELLS and manifest["totals"]["failed"] == 0
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0 and here(tmp_path / "cache") == [], out + err


def test_a_store_that_goes_away_is_one_sentence_and_nothing_is_lost(
    server: Server, archive: Path, tmp_path: Path, begun: list[subprocess.Popen[str]]
) -> None:
    """Nothing is waited for again and again once it was waited for in vain."""

    def away(handler: Handler) -> bool:
        if "/embeddings/" in handler.path:
            server.answer = gone
        return server.answer(handler) if server.answer is gone else writable(handler)

    def gone(handler: Handler) -> bool:
        handler.reset()
        return True

    server.answer = away
    code, out, err = run(command(archive), timeout=120)
    assert code == 1 and "the connection broke off" in err and "run the same command again" in err, out + err
    assert [path for path in here(tmp_path / "cache") if ".journal" in path.name] and not embeddings_there(server)
    server.answer = writable
    code, out, err = run(command(archive))
    assert code == 0 and len(embeddings(there(server))) == SHARDS, out + err
    assert f"{SHARDS * CELLS} of them now" not in out + err and here(tmp_path / "cache") == []


def embeddings_there(server: Server) -> list[Path]:
    return list((there(server) / "embeddings").glob("*"))


AFTER_ALL = {"kind": "finish", "function": "mtembed.run.channel:Channel.send", "call": 2, "action": "kill"}
BETWEEN = {"kind": "finish", "function": "mtembed.dataset.far:FarDataset.publish", "call": 2, "action": "kill"}


@pytest.mark.parametrize("fault", [AFTER_ALL, BETWEEN])
@pytest.mark.parametrize("retry", [False, True])
def test_a_finisher_that_dies_after_a_part_was_put_costs_no_row(
    server: Server, archive: Path, tmp_path: Path, fault: dict[str, Any], retry: bool
) -> None:
    """The next one finds the part where it is now, and what of it is not in the journal."""
    segfault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}
    words = command(archive)
    if retry:
        assert run(words, [segfault])[0] == 3
        words.append("--retry-failed")
    code, out, err = run(words, [{**fault, "once": str(tmp_path / "once")}])
    assert code == 0 and (tmp_path / "once").exists(), out + err
    manifest = json.loads((there(server) / "manifest.json").read_text())
    assert manifest["complete"] and manifest["totals"]["cells"] == SHARDS * CELLS and manifest["totals"]["failed"] == 0
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0 and here(tmp_path / "cache") == [], out + err


def test_what_was_left_here_does_not_hinder_a_dataset_that_was_begun_anew_elsewhere(
    server: Server, archive: Path, tmp_path: Path, begun: list[subprocess.Popen[str]]
) -> None:
    begun.append(start(command(archive)))
    wait_for(lambda: journals(tmp_path / "cache"), begun[0])
    os.killpg(begun[0].pid, signal.SIGKILL)
    begun[0].communicate()
    assert journals(tmp_path / "cache")
    for path in [path for path in there(server).rglob("*.*") if path.is_file() and ".mtembed" not in path.parts]:
        path.unlink()
    code, out, err = run([*command(archive), "--dtype", "float16"])
    assert code == 0, out + err
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0 and here(tmp_path / "cache") == [], out + err


def journals(cache: Path) -> list[Path]:
    """Those that have a cell."""
    return [path for path in here(cache) if ".journal" in path.name and path.stat().st_size > 1000]
