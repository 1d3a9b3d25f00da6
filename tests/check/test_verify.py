"""``mtembed verify`` passes what a run wrote, and names every damage done to it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from mtembed.check.findings import Findings, RowFindings, Verdict
from mtembed.check.rows import Expected, Group, check_rows
from mtembed.check.verify import sentence, verify
from mtembed.cli.app import main
from mtembed.dataset.rows import build_table
from mtembed.errors import UsageError
from mtembed.run.embed import embed
from mtembed.types import CellRecord, Georeference
from tests.tools.damages import DAMAGES, edit, edit_timings, part_removed
from tests.tools.rewriting import PART, editing, put, rehash
from tests.tools.shards import Shard, ShardCell, cut, default_cells, make_shard, write_metadata

OPTIONS: dict[str, Any] = {"model": "rcf", "fragment_size": 32, "device": "cpu", "workers": 1}


@dataclass(frozen=True)
class Made:
    """An archive of three shards (a cell of the second is broken, the third is no Parquet) and what was made of it."""

    root: Path
    shards: tuple[Shard, ...]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("verify")
    images = folder / "Core" / "images"
    cells = default_cells(5)
    first = make_shard(images / "part_00001.parquet", cells[:3])
    second = make_shard(images / "part_00002.parquet", cells[2:], damage={(1, "B03"): cut})
    write_metadata(folder / "Core" / "metadata.parquet", [first, second])
    (images / "part_00003.parquet").write_bytes(b"PAR1, but not much more")
    summary = embed(folder / "Core", **OPTIONS, output=str(folder / "out"), extras=True)
    assert summary.exit_code == 3  # two failures: a cell and a shard
    return Made(folder / "out", (first, second))


@pytest.fixture
def root(made: Made, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made.root, tmp_path / "out"))


def test_a_finished_dataset_is_right(made: Made) -> None:
    verdict = verify(made.root, [made.shards[0].path.parent])
    assert verdict.lines() == []
    assert verdict.ok
    expected = {"parts": 3, "cells": 5, "failed": 2, "embeddings": 45, "inputs_checked": 3, "repeated_grid_cells": 1}
    assert expected.items() <= verdict.info.items()
    assert sentence(verdict).startswith("everything is right: 45 embeddings of 5 cells in 3 parts; 2 cells failed")


def test_progress_reaches_the_number_of_rows(made: Made) -> None:
    seen: list[tuple[int, int]] = []
    verify(made.root, tick=lambda done, total: seen.append((done, total)))
    assert seen == [(27, 45), (45, 45)]


def test_half_precision_without_border_shift_is_right(tmp_path: Path) -> None:
    cells = [ShardCell(epsg=32633, rows=101, cols=77, pixel=7.5), ShardCell(epsg=32633, rows=64, cols=32)]
    shard = make_shard(tmp_path / "images" / "s1.parquet", cells, "S1RTC")
    options = OPTIONS | {"dtype": "float16", "border_shift": False, "overlap": 0.4}
    assert embed(shard.path, **options, output=str(tmp_path / "out")).exit_code == 0
    assert verify(tmp_path / "out", [shard.path]).lines() == []


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage, kinds, line", DAMAGES, ids=[line for _, _, line in DAMAGES])
def test_damage_is_named(root: Path, damage: Callable[[Path], None], kinds: set[str], line: str) -> None:
    damage(root)
    verdict = verify(root)
    text = "\n".join(verdict.lines())
    assert line in text
    assert kinds == set(verdict.counts) - ({"facts"} if "unreadable" in kinds else set()), text


def test_overwritten_bytes_of_vectors_are_noticed(root: Path) -> None:
    """By the codec, by the page's checksum where there is one, or by the hash of the values."""
    path = root / PART
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert set(verify(root).counts) in ({"unique_id"}, {"unreadable"})


def test_many_problems_of_a_kind_are_counted(root: Path) -> None:
    edit("unique_id", dict.fromkeys(range(20), "0" * 64))(root)
    verdict = verify(root)
    assert verdict.counts == {"unique_id": 20}
    assert len(verdict.problems) == 5
    assert verdict.lines()[-1] == "... and 15 more problems of this kind (unique_id)"
    assert sentence(verdict).startswith("20 problems: 45 embeddings")


def test_a_dataset_in_work_is_said_to_be(root: Path) -> None:
    lock = root / ".mtembed" / "lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "a run is working on this dataset" in "\n".join(verify(root).lines())
    assert "left over from an unfinished run" in "\n".join(verify(root).lines())


# -- the input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(made: Made, tmp_path: Path) -> Path:
    """A copy of the input to be changed."""
    return Path(shutil.copytree(made.shards[0].path.parent, tmp_path / "images"))


def test_a_changed_input_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00001.parquet", 3, side=102)
    verdict = verify(made.root, [images])
    assert set(verdict.counts) == {"input"}
    assert verdict.lines()[0].startswith("part_00001.parquet: its ")


def test_an_input_with_other_rows_is_named(root: Path, images: Path) -> None:
    edit_timings(lambda rows: rows[1].update(grid_cell="1U_1R"))(root)
    edit("grid_cell", dict.fromkeys(range(9, 18), "1U_1R"))(root)
    verdict = verify(root, [images])
    assert "part_00001.parquet: row group 1: holds 432D_628L of S2A_MSIL1C" in "\n".join(verdict.lines())
    assert set(verdict.counts) == {"input", "grid cell"}


def test_an_input_without_a_part_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00004.parquet", 1)
    verdict = verify(made.root, [images])
    assert verdict.lines() == [
        "part_00004.parquet: this shard has no part in the dataset: run the same command again to finish"
    ]


def test_an_input_that_can_be_opened_now_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00003.parquet", 1)
    assert "part_00003.parquet: it could not be opened when it was embedded" in verify(made.root, [images]).lines()[0]


def test_an_input_that_is_no_file_is_a_usage_error(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shard matches"):
        verify(made.root, [tmp_path / "nowhere"])


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_work(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made together."""
    out = tmp_path_factory.mktemp("shared-work") / "out"
    images = made.shards[0].path.parent
    codes = [embed(images, **OPTIONS, output=str(out), shard_index=i, shard_count=2).exit_code for i in (0, 1)]
    assert codes == [3, 3]
    return out


@pytest.fixture
def two(shared_work: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_work, tmp_path / "out"))


def test_processes_that_share_a_folder_make_one_dataset(two: Path, made: Made) -> None:
    verdict = verify(two, [made.shards[0].path.parent])
    assert verdict.lines() == []
    assert {"manifests": 2, "parts": 3, "embeddings": 45, "failed": 2}.items() <= verdict.info.items()


def test_a_missing_process_is_named(two: Path) -> None:
    (two / "manifest-1-of-2.json").unlink()
    verdict = verify(two)
    assert "manifest-1-of-2.json: this process's manifest is missing: start it with --shard-index 1" in verdict.lines()
    assert set(verdict.counts) == {"manifest", "orphan"}


def test_processes_with_other_settings_or_the_same_shard_are_named(two: Path) -> None:
    with editing(two / "manifest-0-of-2.json") as first, editing(two / "manifest-1-of-2.json") as second:
        second["settings"]["offset"] = "remove"
        second["shards"]["part_00001"] = first["shards"]["part_00001"]
    text = "\n".join(verify(two).lines())
    assert "manifest-1-of-2.json: offset is remove, in manifest-0-of-2.json keep" in text
    assert "part_00001 is in manifest-0-of-2.json too" in text


def test_another_number_of_processes_is_named(two: Path) -> None:
    with editing(two / "manifest-1-of-2.json") as manifest:
        manifest["settings"]["shard_count"] = 3
    (two / "manifest-1-of-2.json").rename(two / "manifest-1-of-3.json")
    assert "manifests of runs with --shard-count 2 and 3 are mixed" in verify(two).lines()


# -- rows at the edge of the map --------------------------------------------------------------------------------------


def rows_at(epsg: int, left: float, top: float) -> pa.Table:
    """Four fragments of a cell there, with vectors of three values."""
    place = Georeference(epsg, left, top, 10.0, 10.0, 64, 64)
    offsets = np.array([[0, 0], [0, 32], [32, 0], [32, 32]], np.int32)
    record = CellRecord(5, "product", "10U_1800R", "20200101T000000", place, 32, offsets)
    return build_table([record], np.ones((4, 3), np.float32), "float32", False)


def checked(table: pa.Table) -> Verdict:
    findings = Findings()
    cell = np.full(table.num_rows, 5, np.int64)
    expected = Expected(3, "float32", False, 32, 0.1, True, 1.0)
    check_rows(Group(table, cell, expected, RowFindings(findings.of("x"), 0, 0)), {5: ("10U_1800R", "product")})
    return findings.verdict


@pytest.mark.parametrize("latitude_m", [10_000.0, 5_500_000.0, 8_900_000.0])
def test_footprints_across_the_antimeridian_are_right(latitude_m: float) -> None:
    from pyproj import Transformer

    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32601", always_xy=True)
    latitude = latitude_m / 111_320
    x, y = to_utm.transform(180.0, latitude)
    table = rows_at(32601, x - 325.0, y + 300.0)
    kinds = set(shapely.get_type_id(shapely.from_wkb(table["geometry"].to_numpy())).tolist())
    assert 6 in kinds  # some fragment is cut
    assert checked(table).lines() == []


def antimeridian_damages() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    yield "one side is lost", lambda geometry: shapely.get_parts(geometry)[0]
    yield "one side is moved", lambda geometry: shapely.transform(geometry, lambda xy: xy + 1e-7)
    yield "it is not cut", lambda geometry: shapely.box(*geometry.bounds)


@pytest.mark.parametrize("name, change", list(antimeridian_damages()))
def test_damaged_footprints_across_the_antimeridian_are_named(name: str, change: Callable[[Any], Any]) -> None:
    table = rows_at(32601, 166_021.4 - 325.0, 300.0)
    geometry = shapely.from_wkb(table["geometry"].to_numpy())
    row = int(np.flatnonzero(shapely.get_type_id(geometry) == 6)[0])
    verdict = checked(rehash(put(table, "geometry", {row: shapely.to_wkb(change(geometry[row]))})))
    assert "geometry" in verdict.counts, name
    assert verdict.problems[0].where == f"row {row} (row group 0)"


def test_cells_without_a_number_have_none() -> None:
    table = rows_at(32633, 400_000.0, 5_000_000.0)
    named = put(table, "grid_cell", dict.fromkeys(range(4), "elsewhere"))
    assert checked(named).counts == {"grid cell": 8, "cell": 1}
    for name in ("grid_row_u", "grid_col_r"):
        named = put(named, name, dict.fromkeys(range(4)))
    assert checked(named).counts == {"cell": 1}  # only that the timings name another cell


# -- command ----------------------------------------------------------------------------------------------------------


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_command_says_that_all_is_right(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(made.root), "--shards", *(str(shard.path) for shard in made.shards)) == 0
    assert capsys.readouterr().out.startswith("everything is right: 45 embeddings")


def test_command_lists_problems(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part_removed(root)
    assert command("verify", str(root)) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{PART}: the file is missing")


def test_command_speaks_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit("centre_lon", {5: 0.0})(root)
    assert command("verify", str(root), "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is False
    assert content["counts"] == {"centre": 1}
    assert content["problems"][0]["file"] == PART
    assert content["problems"][0]["where"] == "row 5 (row group 0)"
    assert content["info"]["embeddings"] == 45


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_command_needs_a_dataset(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(tmp_path / name)) == 2
    assert "name the output folder of a run" in capsys.readouterr().err
