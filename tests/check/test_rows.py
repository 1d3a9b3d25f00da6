"""Rows at the edge of the map, and rows of cells without a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely

from mtembed.check.expected import Expected
from mtembed.check.findings import Findings, RowFindings, Verdict
from mtembed.check.rows import Group, check_rows
from mtembed.dataset.rows import build_table
from mtembed.types import CellRecord, Georeference
from tests.tools.rewriting import put, rehash


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


def test_fragments_that_all_cross_the_antimeridian_are_right() -> None:
    """A row group of one fragment per cell may hold no plain outline at all."""
    place = Georeference(32601, 165_861.0, 5_678_901.5, 10.0, 10.0, 32, 32)
    record = CellRecord(5, "product", "10U_1800R", "20200101T000000", place, 32, np.zeros((1, 2), np.int32))
    assert checked(build_table([record], np.ones((1, 3), np.float32), "float32", False)).lines() == []


@pytest.mark.parametrize(
    "name", ["12345U_1R", "1U_32767R", "32768D_1L", "1U_99999R", "99999999999999999999U_1R", "odd"]
)
def test_any_grid_cell_that_a_run_writes_is_right(name: str) -> None:
    place = Georeference(32633, 400_000.0, 5_000_000.0, 10.0, 10.0, 32, 32)
    record = CellRecord(5, "product", name, "20200101T000000", place, 32, np.zeros((1, 2), np.int32))
    table = build_table([record], np.ones((1, 3), np.float32), "float32", False)
    assert checked(table).counts == {"cell": 1}  # only that the timings name another cell


@pytest.mark.parametrize("time", ["2020-01-01 12:00:00", "20200101", "15778800T000000Z", "20200101T1200000"])
def test_times_of_another_form_are_named(time: str) -> None:
    table = rehash(put(rows_at(32633, 400_000.0, 5_000_000.0), "timestamp", dict.fromkeys(range(4), time)))
    assert checked(table).counts == {"timestamp": 4}


def test_places_outside_the_earth_are_named() -> None:
    table = rows_at(32633, 400_000.0, 5_000_000.0)
    beyond = shapely.to_wkb(shapely.box(10.0, 5e6, 10.1, 5.1e6))
    verdict = checked(rehash(put(table, "geometry", {1: beyond})))
    assert verdict.counts["outside"] == 1
    assert "geometry lies outside longitude -180..180" in "\n".join(verdict.lines())
