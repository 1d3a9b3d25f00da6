"""Selections by metadata, and their copies on this machine: the rows that were asked for, as they are."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mtembed
from mtembed.errors import SettingsError, UsageError
from tests.tools.commands import embeddings, leftovers, run
from tests.tools.shards import default_cells, make_shard, write_metadata
from tests.tools.web import Fault, serving

ROWS = 4
CLOUD = [float(10 * (row % ROWS)) for row in range(3 * ROWS)]
FEW = "cloud_cover in (10, 30)"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cells = default_cells(3 * ROWS)
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", cells[ROWS * number :][:ROWS], "S1RTC")
        for number in range(3)
    ]
    write_metadata(folder / "metadata.parquet", shards, cloud_cover=CLOUD)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def command(output: Path, shards: Path | str, *more: str) -> list[str]:
    return ["--model", "rcf", "--fragment-size", "32", "--output", str(output), *more, str(shards)]


def rows(output: Path) -> pa.Table:
    """The rows of a dataset, in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((output / "embeddings").iterdir())])


def test_a_run_of_what_a_condition_selects(archive: Path, tmp_path: Path) -> None:
    where = ("--where", f"{FEW} and parquet_url not like '%part_1.parquet'")
    code, _, err = run(command(tmp_path / "out", archive, *where))
    assert code == 0, err
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["totals"]["cells"] == 4 and list(manifest["shards"]) == ["part_0", "part_2"]
    assert manifest["settings"]["where"] == where[1]
    names = [f"{433 - i}D_{629 - i}L" for i in (1, 3, 9, 11)]
    assert sorted(set(rows(tmp_path / "out").column("grid_cell").to_pylist())) == sorted(names)
    code, out, err = run(["verify", str(tmp_path / "out"), "--shards", str(archive)])
    assert code == 0, out + err
    code, _, err = run(command(tmp_path / "out", archive))
    assert code == 1 and "where was" in err and "is now not set" in err
    code, _, err = run(command(tmp_path / "no", archive, "--where", "cloud_cover > 100"))
    assert code == 2 and "nothing matches" in err and not (tmp_path / "no").exists()
    code, _, err = run(command(tmp_path / "no", archive / "images/part_0.parquet", "--where", "clouds > 100"))
    assert code == 2 and "columns are grid_cell" in err and len(err.splitlines()) == 1


def test_what_is_fetched_is_embedded_as_the_archive_is(archive: Path, tmp_path: Path) -> None:
    result = mtembed.fetch(archive, tmp_path / "copy", where=FEW)
    assert (result.shards, result.cells, result.unusable) == (3, 6, {})
    assert leftovers(tmp_path / "copy") == []
    for source, output, where in ((archive, "a", ("--where", FEW)), (tmp_path / "copy", "b", ())):
        code, _, err = run(command(tmp_path / output, source, *where))
        assert code == 0 and "no line" not in err, err
    assert rows(tmp_path / "a").equals(rows(tmp_path / "b"))
    lines = pq.read_table(tmp_path / "copy/metadata.parquet")
    assert lines.num_rows == 6 and lines.column("parquet_row").to_pylist() == [0, 1] * 3


def test_whole_shards_are_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    said: list[str] = []
    ticks: list[tuple[int, int]] = []
    result = mtembed.fetch([archive], tmp_path / "copy", note=said.append, tick=lambda *now: ticks.append(now))
    size = sum(path.stat().st_size for path in (archive / "images").iterdir())
    assert result.bytes == size and ticks[-1] == (size, size) and "12 cells in 3 shards" in said[0]
    for path in (archive / "images").iterdir():
        assert (tmp_path / "copy/images" / path.name).read_bytes() == path.read_bytes()
    assert pq.read_table(tmp_path / "copy/metadata.parquet").equals(pq.read_table(archive / "metadata.parquet"))


def test_from_a_server_that_fails_killed_and_started_again(archive: Path, tmp_path: Path) -> None:
    kinds = [Fault("500"), None, Fault("reset"), None, Fault("cut"), None, Fault("429", after="0"), None]
    with serving(archive) as server:
        server.fail_next(kinds * 50)
        urls = [server.url(f"images/part_{i}.parquet?sig=s3cr3t") for i in range(3)]
        arguments = ["fetch", *urls, "--output", str(tmp_path / "copy"), "--where", FEW]
        kill = {
            "kind": "parent",
            "function": "mtembed.dataset.result:ResultFolder.publish",
            "call": 2,
            "action": "kill",
            "once": str(tmp_path / "once"),
        }
        code, _, _ = run(arguments, [kill])
        assert code == -signal.SIGKILL
        there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "copy/images").iterdir()}
        code, out, err = run(arguments)
        assert code == 0 and "6 cells in 3 shards" in out, err
    assert (
        there
        and there.items()
        <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "copy/images").iterdir()}.items()
    )
    mtembed.fetch(archive, tmp_path / "local", where=FEW)
    for path in (tmp_path / "local/images").iterdir():
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "copy/images" / path.name))
    assert "s3cr3t" not in out + err + (tmp_path / "copy/fetch.json").read_text()


def test_bad_input_is_one_sentence(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing matches"):
        mtembed.fetch(archive, tmp_path / "copy", where="false")
    with pytest.raises(UsageError, match="no shard matches"):
        mtembed.fetch(tmp_path / "nothing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    mtembed.fetch(archive, tmp_path / "copy", limit=5)
    with pytest.raises(SettingsError, match="was made with --limit 5 and not 6"):
        mtembed.fetch(archive, tmp_path / "copy", limit=6)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/part_9.parquet").write_text("damaged")
    code, out, _ = run(["fetch", str(archive), str(tmp_path / "in"), "--output", str(tmp_path / "some")])
    assert code == 3 and "left out: part_9.parquet is not a readable Parquet file" in out


def test_far_shards_that_hold_nothing_wanted_are_not_opened(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "cells.txt").write_text(f"{433 - 5}D_{629 - 5}L\n")
    with serving(archive) as server:
        urls = [server.url(f"images/part_{i}.parquet") for i in range(3)]
        code, _, err = run(command(tmp_path / "out", urls[0], *urls[1:], "--cells", str(tmp_path / "cells.txt")))
        assert code == 0, err
        asked = [request.path for request in server.requests if request.path == "/images/part_2.parquet"]
    assert asked == [] and list(embeddings(tmp_path / "out")) == ["part_1.parquet"]
