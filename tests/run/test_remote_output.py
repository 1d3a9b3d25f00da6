"""Datasets that are made behind an address: the same files as in a folder, whatever store and processes do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mtembed.dataset.board import FolderBoard
from mtembed.dataset.claims import owners
from tests.tools.bucket import writable
from tests.tools.commands import embeddings, leftovers, run, start, wait_for
from tests.tools.remote import PLACE, SECRET, bucket_served, here, there, times_put
from tests.tools.shards import default_cells, make_shard, write_metadata
from tests.tools.web import Fault, Handler, Server

SHARDS, CELLS = 4, 3
TIMES = {
    "read",
    "decode",
    "ring_wait",
    "upload",
    "preprocess",
    "forward",
    "download",
    "write",
    "total",
    "started",
    "clock",
}
SEGFAULT = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "row_group": 2, "action": "segfault"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, cells = tmp_path_factory.mktemp("archive"), default_cells(SHARDS * CELLS)
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
        for number in range(SHARDS)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


def command(archive: Path, output: str | Path, *more: str) -> list[str]:
    small = ("--slots", "2", "--workers", "1", "--share-of-machine", "0.5")
    return ["--model", "rcf", "--fragment-size", "32", *small, "--output", str(output), *more, str(archive)]


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dataset in a folder."""
    output = tmp_path_factory.mktemp("expected") / "out"
    code, _, err = run(command(archive, output))
    assert code == 0, err
    return output


@pytest.fixture(scope="module")
def expected(local: Path) -> dict[str, bytes]:
    return embeddings(local)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with bucket_served(tmp_path / "store", monkeypatch) as found:
        yield found


def finished(archive: Path, output: str, *more: str) -> str:
    code, out, err = run(command(archive, output, *more))
    assert code == 0, out + err
    assert SECRET not in out + err
    return out + err


def assert_whole(archive: Path, server: Server, expected: dict[str, bytes]) -> None:
    folder = there(server)
    assert embeddings(folder) == expected and leftovers(folder) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] and manifest["totals"]["cells"] == SHARDS * CELLS and len(manifest["shards"]) == SHARDS
    code, out, err = run(["verify", PLACE, "--shards", str(archive)])
    assert code == 0, out + err


def cells_here(cache: Path) -> bool:
    """Whether a journal has more than its head."""
    with contextlib.suppress(FileNotFoundError):  # a part was finished meanwhile
        return any(path.stat().st_size > 1000 for path in here(cache) if ".journal" in path.name)
    return False


def columns_without_times(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    return table.drop_columns([name for name in table.column_names if name in TIMES or name == "worker"]).to_pydict()


def test_the_same_files_as_in_a_folder(
    server: Server, cache: Path, archive: Path, local: Path, expected: dict[str, bytes]
) -> None:
    said = finished(archive, PLACE)
    assert PLACE in said
    assert_whole(archive, server, expected)
    names = sorted(str(path.relative_to(local)) for path in local.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(there(server))) for path in there(server).rglob("*") if path.is_file()) == names
    for path in (local / "timings").iterdir():
        assert columns_without_times(path) == columns_without_times(there(server) / "timings" / path.name)
    assert SECRET not in "".join(path.read_text() for path in there(server).iterdir() if path.is_file())
    assert here(cache) == []
    asked = len(server.requests)
    assert "nothing to do" in finished(archive, PLACE)
    puts = [request.path for request in server.requests[asked:] if request.method == "PUT"]
    assert not any("embeddings" in path or "timings" in path for path in puts)


def test_commands_read_it_where_it_is(server: Server, cache: Path, archive: Path, local: Path, tmp_path: Path) -> None:
    finished(archive, PLACE)
    code, out, err = run(["status", PLACE, "--json"])
    assert code == 0 and json.loads(out)["complete"] and json.loads(out)["cells"] == SHARDS * CELLS, err
    code, out, err = run(["finish", PLACE, "--json"])
    assert code == 0 and json.loads(out)["dataset"] == PLACE and json.loads(out)["missing"] == [], err
    code, out, err = run(["report", PLACE, "--json"])
    assert code == 0 and json.loads(out.splitlines()[-1])["cells"] == SHARDS * CELLS, err
    for name, place in (("near", str(local)), ("far", PLACE)):
        code, _, err = run(["pca", place, "--output", str(tmp_path / name)])
        assert code == 0, err
    assert (tmp_path / "near/components.parquet").read_bytes() == (tmp_path / "far/components.parquet").read_bytes()
    row = pq.read_table(local / "embeddings/part_1.parquet", columns=["unique_id"])["unique_id"][4].as_py()
    said = [run(["search", place, "--row", row, "--json"]) for place in (str(local), PLACE)]
    hits = [[one["unique_id"] for one in map(json.loads, out.splitlines()) if "unique_id" in one] for _, out, _ in said]
    assert hits[0] == hits[1] and len(hits[0]) == 10, said
    assert here(cache) == []


def test_a_dry_run_writes_nothing(server: Server, cache: Path, archive: Path) -> None:
    said = finished(archive, PLACE, "--dry-run")
    assert "behind the address" in said and "nothing was written" in said
    assert {request.method for request in server.requests} == {"GET"} and here(cache) == []


def test_killed_in_the_middle_the_same_command_goes_on(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes], begun: list[subprocess.Popen[str]]
) -> None:
    """At once, though what it had claimed is still claimed in the store; of what was safe nothing is done again."""
    begun.append(start(command(archive, PLACE)))
    wait_for(lambda: times_put(server, "timings") and cells_here(cache), begun[0])
    os.killpg(begun[0].pid, signal.SIGKILL)
    begun[0].communicate()
    assert json.loads(run(["status", PLACE, "--json"])[1])["processes"] == 0
    done = set(times_put(server, "timings"))
    finished(archive, PLACE)
    assert_whole(archive, server, expected)
    assert all(times_put(server, "timings")[name] == 1 for name in done) and here(cache) == []


@pytest.mark.parametrize("call", [1, 2])
def test_killed_between_a_part_and_its_timings(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes], call: int
) -> None:
    """The journal has it all: the part is made of it again."""
    publish = "mtembed.dataset.far:FarDataset.publish"
    fault = {"kind": "finish", "function": publish, "call": call, "action": "kill-group"}
    assert run(command(archive, PLACE), [fault])[0] == -signal.SIGKILL
    assert cells_here(cache)
    finished(archive, PLACE)
    assert_whole(archive, server, expected)
    assert here(cache) == []


def test_a_signal_ends_it_and_leaves_what_is_open_here(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes], begun: list[subprocess.Popen[str]]
) -> None:
    begun.append(start(command(archive, PLACE)))
    wait_for(lambda: cells_here(cache), begun[0])
    os.kill(begun[0].pid, signal.SIGINT)
    _, err = begun[0].communicate(timeout=60)
    assert begun[0].returncode == 130 and "run the same command again" in err, err
    assert leftovers(there(server)) == []
    finished(archive, PLACE)
    assert_whole(archive, server, expected)
    assert here(cache) == []


def test_two_processes_at_once_make_every_part_once(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes], begun: list[subprocess.Popen[str]]
) -> None:
    """On two machines, as far as they know: each has a cache of its own."""
    for name in ("one", "two"):
        env = {"XDG_CACHE_HOME": str(cache / name)}
        begun.append(begin(command(archive, PLACE, "--lease", "20"), env))
    for process in begun:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
    assert_whole(archive, server, expected)
    assert set(times_put(server).values()) == {1} and len(times_put(server)) == SHARDS
    assert here(cache / "one") == here(cache / "two") == []


def begin(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        return start(words)


def test_a_lost_machine_is_followed_by_another(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes], begun: list[subprocess.Popen[str]]
) -> None:
    """Its open parts are made again elsewhere after the lease; when it comes back, nothing is left to do."""
    words, lost = command(archive, PLACE, "--lease", "3"), {"XDG_CACHE_HOME": str(cache / "lost")}
    begun.append(begin(words, lost))
    wait_for(lambda: cells_here(cache / "lost"), begun[0])
    os.killpg(begun[0].pid, signal.SIGKILL)
    begun[0].communicate()
    assert owners(FolderBoard(there(server) / ".mtembed"), "claim")
    finished(archive, PLACE, "--lease", "3")
    assert_whole(archive, server, expected)
    assert here(cache / "lost") != []
    begun.append(begin(words, lost))
    out, err = begun[1].communicate(timeout=120)
    assert begun[1].returncode == 0 and "nothing to do" in out + err
    assert here(cache / "lost") == [] and set(times_put(server, "timings").values()) == {1}


def test_a_store_that_fails_all_the_time(server: Server, archive: Path, expected: dict[str, bytes]) -> None:
    """Also after it has done what it was asked: the answer is lost, and the next try finds the file there."""
    chance = random.Random(1)

    def moody(handler: Handler) -> bool:
        happens = chance.choice(["500", "429", "503", "reset", "lost", *[""] * 25])
        if happens.isdigit():
            handler.status(int(happens))
            return True
        if happens == "lost" and handler.command != "GET":
            handler.wfile = open(os.devnull, "wb")  # noqa: SIM115, PTH123
            writable(handler)
            happens = "reset"
        if happens == "reset":
            handler.reset()
            return True
        return writable(handler)

    server.answer = moody
    finished(archive, PLACE)
    server.answer = writable
    assert_whole(archive, server, expected)


def test_access_that_is_refused_is_one_sentence_and_nothing_is_lost(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes]
) -> None:
    server.fail_next([Fault("403")] * 1000)
    code, _, err = run(command(archive, PLACE))
    assert code == 1 and "access is refused" in err and "AWS_ACCESS_KEY_ID" in err and len(err.splitlines()) == 1, err
    server.fail_next([])

    def no_parts(handler: Handler) -> bool:
        if handler.command == "PUT" and "/embeddings/" in handler.path:
            handler.status(403)
            return True
        return writable(handler)

    server.answer = no_parts
    code, _, err = run(command(archive, PLACE))
    assert code == 1 and "cannot be written (access is refused)" in err and SECRET not in err, err
    assert cells_here(cache)
    server.answer = writable
    said = finished(archive, PLACE)
    assert f"{SHARDS * CELLS} of them now" not in said  # what was safe is not embedded again
    assert_whole(archive, server, expected)


def test_a_bucket_that_is_not_there(server: Server, archive: Path) -> None:
    code, _, err = run(command(archive, "s3://nowhere/vectors"))
    assert code == 1 and "there is no such bucket" in err and len(err.splitlines()) == 1, err


def test_failed_cells_are_tried_again_and_fresh_starts_over(
    server: Server, cache: Path, archive: Path, expected: dict[str, bytes]
) -> None:
    assert run(command(archive, PLACE), [SEGFAULT])[0] == 3
    assert len((there(server) / "failures.jsonl").read_text().splitlines()) == SHARDS
    code, _, err = run(command(archive, PLACE))
    assert code == 3 and "nothing to do" in err
    (there(server) / "notes.txt").write_text("mine")
    finished(archive, PLACE, "--retry-failed")
    assert (there(server) / "failures.jsonl").read_text() == ""
    code, _, err = run(command(archive, PLACE, "--dtype", "float16"))
    assert code == 1 and "--fresh" in err
    finished(archive, PLACE, "--fresh")
    assert (there(server) / "notes.txt").read_text() == "mine"
    assert_whole(archive, server, expected)
    assert here(cache) == []


def test_a_place_of_others_is_refused(server: Server, archive: Path) -> None:
    (there(server) / "embeddings").mkdir(parents=True)
    (there(server) / "embeddings/years_of_work.parquet").write_text("mine")
    code, _, err = run(command(archive, PLACE))
    assert code == 1 and "no manifest of mtembed lists (embeddings)" in err
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("https://example.org/vectors", "takes no files"),
        ("memory://vectors", "the memory of one process"),
        ("s3://bucket/*", "is a pattern"),
        ("hf://somebody/vectors", "give hf://datasets/OWNER/NAME"),
        ("s3://", "is no address"),
    ],
)
def test_places_that_take_no_dataset(archive: Path, place: str, words: str) -> None:
    code, _, err = run(command(archive, place))
    assert code == 2 and words in err and len(err.splitlines()) == 1
