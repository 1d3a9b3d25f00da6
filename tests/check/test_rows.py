"""Rows at the edge of the map, and rows of cells without a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely

from mtembed.check.findings import Findings, RowFindings, Verdict
from mtembed.check.rows import Expected, Group, check_rows
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
