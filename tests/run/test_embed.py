"""Runs as users start them: from the shell, a script without a main guard, a notebook; selections; settings."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtembed.errors import SettingsError, UsageError
from mtembed.run.embed import embed
from tests.tools.commands import ROOT, embeddings, run, start
from tests.tools.shards import default_cells, make_shard, write_metadata

SMALL: dict[str, Any] = {"model": "rcf", "fragment_size": 32}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of three cells."""
    folder = tmp_path_factory.mktemp("archive")
    shards = [
        make_shard(folder / f"images/part_{number}.parquet", default_cells(6)[3 * number : 3 * number + 3], "S2L2A")
        for number in range(2)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    result = embed(archive, output=str(folder), **SMALL)
    assert (result.exit_code, result.cells, result.failed, result.embeddings) == (0, 6, 0, 54)
    return folder


def cells_of(folder: Path) -> list[str]:
    tables = [pq.read_table(path, columns=["grid_cell"]) for path in sorted((folder / "embeddings").iterdir())]
    return list(dict.fromkeys(name for table in tables for name in table.column(0).to_pylist()))


def test_a_second_start_does_nothing_and_says_so(archive: Path, finished: Path) -> None:
    before = embeddings(finished)
    result = embed(archive, output=str(finished), **SMALL)
    assert result.exit_code == 0 and result.new_cells == 0 and "nothing to do" in result.message
    assert embeddings(finished) == before


def test_rows_are_cells_in_row_group_order_and_fragments_row_major(finished: Path) -> None:
    table = pq.read_table(finished / "embeddings/part_0.parquet")
    names = [cell.grid_cell for cell in default_cells(3)]
    assert table.column("grid_cell").to_pylist() == [name for name in names for _ in range(9)]
    boxes = table.column("pixel_bbox").to_pylist()
    assert [(box[1], box[0]) for box in boxes[:9]] == [(r, c) for r in (0, 32, 64) for c in (0, 32, 64)]


def test_timings_have_a_row_per_cell_with_every_column_of_the_contract(finished: Path) -> None:
    table = pq.read_table(finished / "timings/part_1.parquet")
    contract = [
        "shard", "row_group", "grid_cell", "product_id", "status", "stage", "error", "warnings", "attempts",
        "fragments", "bytes_in", "encoding", "device", "worker", "read", "decode", "ring_wait", "upload",
        "preprocess", "forward", "download", "write", "total",
    ]  # fmt: skip
    assert table.column_names[: len(contract)] == contract
    assert table.column("status").to_pylist() == ["ok"] * 3
    assert all(
        value > 0 for name in ("read", "decode", "forward", "write", "total") for value in table[name].to_pylist()
    )


def test_the_manifest_says_what_made_the_dataset_and_nothing_private(archive: Path, finished: Path) -> None:
    text = (finished / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["settings"]["model"] == "rcf" and manifest["weights"]["file"] == "random:1"
    assert manifest["totals"]["cells"] == 6 and set(manifest["shards"]) == {"part_0", "part_1"}
    assert manifest["shards"]["part_0"]["rows"] == 3 and len(manifest["shards"]["part_0"]["footer_sha256"]) == 64
    assert str(archive) not in text and str(Path.home()) not in text


SCRIPT = """
import mtembed
result = mtembed.embed({shards!r}, model="rcf", fragment_size=32, output={output!r})
print(result.cells, result.exit_code)
"""


def test_a_notebook_has_a_running_loop_and_no_main_file(archive: Path, finished: Path, tmp_path: Path) -> None:
    """A kernel runs cells inside an asyncio loop, from standard input as far as ``__main__`` can tell."""
    code = SCRIPT.format(shards=str(archive), output=str(tmp_path / "out"))
    cell = f"import asyncio\nasync def cell():\n    exec({code!r})\nasyncio.run(cell())\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-"], input=cell, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "6 0\n", done.stderr
    assert embeddings(tmp_path / "out") == embeddings(finished)


def test_from_a_thread_of_a_running_loop(archive: Path, finished: Path, tmp_path: Path) -> None:
    async def main() -> Any:
        return await asyncio.to_thread(embed, archive, output=str(tmp_path / "out"), **SMALL)

    assert asyncio.run(main()).cells == 6
    assert embeddings(tmp_path / "out") == embeddings(finished)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_decode_workers_and_slots_changes_no_byte(
    archive: Path, finished: Path, tmp_path: Path, workers: int
) -> None:
    embed(archive, output=str(tmp_path / "out"), workers=workers, slots=2 * workers, **SMALL)
    assert embeddings(tmp_path / "out") == embeddings(finished)


def test_limit_takes_the_first_cells_over_the_sorted_run(archive: Path, tmp_path: Path) -> None:
    embed(archive, output=str(tmp_path / "out"), limit=4, **SMALL)
    assert cells_of(tmp_path / "out") == [cell.grid_cell for cell in default_cells(4)]


def test_limit_counts_over_all_processes(archive: Path, tmp_path: Path) -> None:
    for index in (1, 0):
        embed(archive, output=str(tmp_path / "out"), limit=4, shard_count=2, shard_index=index, **SMALL)
    assert cells_of(tmp_path / "out") == [cell.grid_cell for cell in default_cells(4)]


def test_a_list_of_cells(archive: Path, tmp_path: Path) -> None:
    wanted = [default_cells(6)[i].grid_cell for i in (1, 5)]
    (tmp_path / "cells.txt").write_text("\n".join(wanted))
    embed(archive, output=str(tmp_path / "out"), cells=str(tmp_path / "cells.txt"), **SMALL)
    assert cells_of(tmp_path / "out") == wanted


def test_a_box(archive: Path, tmp_path: Path) -> None:
    lines = pq.read_table(archive / "metadata.parquet").to_pylist()
    lat, lon = lines[2]["centre_lat"], lines[2]["centre_lon"]
    box = (lon - 1e-4, lat - 1e-4, lon + 1e-4, lat + 1e-4)
    embed(archive, output=str(tmp_path / "out"), bbox=box, **SMALL)
    assert cells_of(tmp_path / "out") == [default_cells(6)[2].grid_cell]


def test_float16(archive: Path, finished: Path, tmp_path: Path) -> None:
    embed(archive, output=str(tmp_path / "out"), dtype="float16", **SMALL)
    half, full = (pq.read_table(folder / "embeddings/part_0.parquet") for folder in (tmp_path / "out", finished))
    a, b = (np.array(table["embedding"].to_pylist(), np.float32) for table in (half, full))
    assert (a == b.astype(np.float16).astype(np.float32)).all()


def test_fragments_of_nodata_are_left_out_when_asked(tmp_path: Path) -> None:
    def half(band: str, rows: int, cols: int) -> np.ndarray:
        pixels = np.ones((rows, cols), np.uint16)
        pixels[:, : cols // 2] = 0
        return pixels

    cells = [default_cells(1)[0].__class__(content=half), default_cells(2)[1].__class__(content="zero")]
    make_shard(tmp_path / "part_0.parquet", cells, "S2L2A")
    result = embed(tmp_path, output=str(tmp_path / "out"), max_nodata=0.1, extras=True, **SMALL)
    assert (result.exit_code, result.cells, result.embeddings) == (0, 2, 3)
    table = pq.read_table(tmp_path / "out/embeddings/part_0.parquet")
    assert table["nodata"].to_pylist() == [0.0] * 3
    assert {box[0] for box in table["pixel_bbox"].to_pylist()} == {64}


def test_the_radiometric_offset_is_removed_only_when_asked(tmp_path: Path) -> None:
    """Cells alternate between baselines 04.00 and 05.09, both with the offset; N0301 has none."""
    new = default_cells(1)[0]
    old = new.__class__(product_id=new.product_id.replace("N0400", "N0301"))
    assert "N0301" in old.product_id
    raised = new.__class__(product_id=new.product_id, content=lambda b, r, c: np.full((r, c), 3000, np.uint16))
    plain = new.__class__(product_id=old.product_id, content=lambda b, r, c: np.full((r, c), 2000, np.uint16))
    make_shard(tmp_path / "part_0.parquet", [raised, plain], "S2L2A")

    def vectors(**options: Any) -> np.ndarray:
        folder = tmp_path / f"out-{len(options)}"
        embed(tmp_path / "part_0.parquet", output=str(folder), extras=True, **options, **SMALL)
        table = pq.read_table(folder / "embeddings/part_0.parquet")
        assert table["offset_removed"].to_pylist() == [bool(options)] * 9 + [False] * 9
        return np.array(table["embedding"].to_pylist())

    kept, removed = vectors(), vectors(offset="remove")
    assert not np.allclose(kept[0], kept[9])
    assert (removed[0] == removed[9]).all()


DIFFERENT: list[tuple[str, dict[str, Any]]] = [
    ("weights", {"weights": "random:7"}),
    ("model", {"model": "dinov2", "weights": "random:1", "fragment_size": 28}),
    ("precision", {"precision": "bf16"}),
    ("fragment-size", {"fragment_size": 48}),
    ("overlap", {"overlap": 0.5}),
    ("border-shift", {"border_shift": False}),
    ("dtype", {"dtype": "float16"}),
    ("limit", {"limit": 2}),
    ("bbox", {"bbox": (0.0, 0.0, 1.0, 1.0)}),
    ("batch", {"batch": 3}),
    ("offset", {"offset": "remove"}),
    ("max-nodata", {"max_nodata": 0.5}),
    ("extras", {"extras": True}),
]


@pytest.mark.parametrize(("named", "options"), DIFFERENT, ids=[d[0] for d in DIFFERENT])
def test_other_settings_are_refused_by_name(archive: Path, finished: Path, named: str, options: dict[str, Any]) -> None:
    before = embeddings(finished)
    with pytest.raises(SettingsError, match=named) as caught:
        embed(archive, output=str(finished), **{**SMALL, **options})
    assert "--fresh" in str(caught.value)
    assert embeddings(finished) == before


def test_the_limited_run_cannot_become_the_full_one(archive: Path, tmp_path: Path) -> None:
    embed(archive, output=str(tmp_path / "out"), limit=2, **SMALL)
    with pytest.raises(SettingsError, match="limit"):
        embed(archive, output=str(tmp_path / "out"), **SMALL)
    result = embed(archive, output=str(tmp_path / "out"), fresh=True, **SMALL)
    assert result.cells == 6


def test_a_changed_shard_is_refused_by_name_and_a_touched_one_is_not(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "in")
    embed(tmp_path / "in", output=str(tmp_path / "out"), **SMALL)
    os.utime(tmp_path / "in/images/part_1.parquet", ns=(1, 1))
    assert embed(tmp_path / "in", output=str(tmp_path / "out"), **SMALL).exit_code == 0
    make_shard(tmp_path / "in/images/part_1.parquet", 2, "S2L2A")
    with pytest.raises(SettingsError, match=r"part_1\.parquet has changed"):
        embed(tmp_path / "in", output=str(tmp_path / "out"), **SMALL)


def test_more_shards_may_be_added_later(archive: Path, finished: Path, tmp_path: Path) -> None:
    first = archive / "images/part_0.parquet"
    embed(first, output=str(tmp_path / "out"), **SMALL)
    result = embed(archive, output=str(tmp_path / "out"), **SMALL)
    assert (result.cells, result.new_cells) == (6, 3)
    assert embeddings(tmp_path / "out") == embeddings(finished)


def test_missing_bands_refuse_before_anything_is_written(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="B10"):
        embed(archive, model="ssl4eo-s2", weights="random:1", output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_unusual_source_is_a_warning_in_the_manifest(tmp_path: Path) -> None:
    make_shard(tmp_path / "part_0.parquet", 1, "S2L1C")
    code, _, err = run(["--model", "dinov2", "--weights", "random:1", "--fragment-size", "28", "--limit", "1",
                        "--output", str(tmp_path / "out"), str(tmp_path)])  # fmt: skip
    assert code == 0, err
    assert "dinov2 was made for S2L2A" in json.loads((tmp_path / "out/manifest.json").read_text())["warnings"][0]


def small_dev_shm(command: Callable[..., Any]) -> bool:
    """Whether this user may make a mount namespace with a small /dev/shm."""
    probe = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /dev/shm"]
    return shutil.which("unshare") is not None and command(probe, capture_output=True).returncode == 0


def test_a_tiny_dev_shm_is_enough(archive: Path, finished: Path, tmp_path: Path) -> None:
    if not small_dev_shm(subprocess.run):
        pytest.skip("mount namespaces are not permitted here")
    inner = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -m mtembed"
    words = f"--model rcf --fragment-size 32 --output {tmp_path}/out {archive}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["unshare", "-m", "sh", "-c", f"{inner} {words}"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert embeddings(tmp_path / "out") == embeddings(finished)


def test_one_permitted_core_means_one_device_worker(archive: Path, finished: Path, tmp_path: Path) -> None:
    process = start(
        ["--model", "rcf", "--fragment-size", "32", "--output", str(tmp_path / "out"), str(archive)],
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    workers = pq.read_table(tmp_path / "out/timings/part_0.parquet")["worker"].to_pylist()
    assert {name.split()[-1] for name in workers} == {"device-0"}


def test_the_error_of_16_bit_is_measured_whoever_embeds_the_first_cell(tmp_path: Path) -> None:
    """Also where the worker that was asked dies with it."""
    sample = Path(__file__).resolve().parents[2] / "mtembed/sample/Core-S1RTC/images/part_00001.parquet"
    options = [
        "--model",
        "ssl4eo-s1",
        "--weights",
        "random:1",
        "--precision",
        "bf16",
        "--output",
        str(tmp_path / "out"),
    ]
    once = {"once": str(tmp_path / "once")}
    fault = {"kind": "device", "function": "mtembed.engine.cutter:Cutter.__call__", "call": 1, "action": "kill", **once}
    code, _, err = run([*options, str(sample)], [fault])
    assert code == 0, err
    assert (tmp_path / "once").exists()
    check = json.loads((tmp_path / "out/manifest.json").read_text())["notes"]["precision_check"]
    assert check["precision"] == "bf16" and 0 < check["median_relative_l2"] < 0.05


# -- selections that match less than everything -----------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [(), ("--fresh",)])
def test_a_selection_without_a_cell_is_exit_2_and_writes_nothing(
    archive: Path, finished: Path, tmp_path: Path, fresh: tuple[str, ...]
) -> None:
    command = ["--model", "rcf", "--fragment-size", "32", "--bbox", "-50,-80,10,-79", *fresh, str(archive)]
    code, _, err = run([*command, "--output", str(tmp_path / "out")])
    assert code == 2 and "no cell lies in -50,-80,10,-79 (W,S,E,N): is it lat/lon swapped?" in err
    assert not (tmp_path / "out").exists()
    if fresh:
        shutil.copytree(finished, tmp_path / "out")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
        assert run([*command, "--output", str(tmp_path / "out")])[0] == 2
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_only_shards_that_hold_a_selected_cell_get_a_part(tmp_path: Path) -> None:
    for number in range(3):
        cells = [replace(default_cells(1, 48)[0], grid_cell=f"{number + 1}U_1R")]
        make_shard(tmp_path / f"images/part_{number}.parquet", cells, "S1RTC")
    (tmp_path / "cells.txt").write_text("2U_1R\n7U_7R\n")
    plain = [
        "--model",
        "rcf",
        "--fragment-size",
        "32",
        "--cells",
        str(tmp_path / "cells.txt"),
        str(tmp_path / "images"),
    ]
    command = [*plain, "--output", str(tmp_path / "out")]
    code, _, err = run(command)
    assert code == 0 and "1 of 2 names of --cells is in no shard" in err, err
    assert list(embeddings(tmp_path / "out")) == ["part_1.parquet"]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["complete"]
    code, _, err = run(command)
    assert code == 0 and "nothing to do: every cell that was asked for is there already" in err
    assert run(["verify", str(tmp_path / "out"), "--shards", str(tmp_path / "images")])[0] == 0
    shared = [*plain, "--shard-count", "2", "--shard-index", "0", "--output", str(tmp_path / "shared")]
    code, _, err = run(shared)
    assert code == 0 and "no cell is selected in the shards of this process" in err
    assert not embeddings(tmp_path / "shared")


def test_metadata_that_say_nothing_of_a_later_shard_are_told_once(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive / "images", tmp_path / "in" / "images")
    first = make_shard(tmp_path / "spare" / "part_0.parquet", default_cells(3), "S2L2A")
    write_metadata(tmp_path / "in" / "metadata.parquet", [first])
    code, _, err = run(
        ["--model", "rcf", "--fragment-size", "32", "--output", str(tmp_path / "out"), str(tmp_path / "in")]
    )
    assert code == 0 and err.count("metadata.parquet has no line about some of the shards") == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["warnings"] == ["metadata.parquet has no line about some of the shards"]
