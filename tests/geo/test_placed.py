"""Whatever a GeoTIFF says of its place: its rows pass ``verify``, or its cell is refused."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtembed.check.expected import Expected
from mtembed.check.findings import Findings, RowFindings
from mtembed.check.rows import Group, check_rows
from mtembed.dataset.rows import build_table
from mtembed.errors import CellError
from mtembed.geo.footprint import footprints
from mtembed.geo.fragments import FragmentGrid
from mtembed.geo.utm import surely_on_earth
from mtembed.types import CellRecord, Georeference

CODES = (
    32601,
    32631,
    32660,
    32701,
    32719,
    32760,
    4326,
    4269,
    4258,
    3857,
    3035,
    3031,
    3413,
    2193,
    27700,
    2225,
    3832,
    5041,
)
NEAR = (0.0, -180.0, 180.0, 90.0, -90.0, 165_861.0, 500_000.0, 1e6, 5e6, 1e7, -2e7, 9.329e6, 1.1e6)
EXPECTED = Expected(
    dim=4, dtype="float32", extras=False, fragment_size=32, overlap=0.1, border_shift=True, max_nodata=1.0
)


def record(epsg: int, left: float, top: float, width: float, height: float) -> CellRecord:
    place = Georeference(epsg, left, top, width, height, 64, 64)
    grid = FragmentGrid.of(64, 64, 32, 0.1, True)
    return CellRecord(0, "product", "1U_1R", "20230824T131249", place, 32, grid.offsets())


coordinate = st.one_of(st.sampled_from(NEAR), st.floats(-3e7, 3e7), st.floats(-200, 200))
corner = st.tuples(coordinate, st.floats(-1e4, 1e4)).map(sum)
side = st.one_of(st.just(10.0), st.floats(1e-7, 1e5), st.floats(-320, 6).map(lambda power: 10.0**power))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CODES), corner, corner, side, side)
@example(4326, 333_333.25, 5_678_901.5, 10.0, 10.0)
@example(4326, 10.0, 5e6, 1e-9, 1e-9)
@example(4326, 10.0, 10.0, 1e-100, 1e-100)
@example(4326, 10.0, 10.0, 5e-324, 5e-324)
@example(32601, 165_861.0, 5e6, 10.0, 10.0)
@example(4326, 180.0, 10.0, 1e-4, 1e-4)
@example(4326, -71.0, -39.0, 1e-4, 1e-4)
def test_rows_pass_verify_or_the_cell_is_refused(
    epsg: int, left: float, top: float, width: float, height: float
) -> None:
    cell = record(epsg, left, top, width, height)
    sure = surely_on_earth(cell.georeference)
    try:
        footprints([cell])
    except CellError:
        assert not sure
        return
    vectors = np.ones((len(cell.offsets), 4), np.float32)
    table = build_table([cell], vectors, "float32", False)
    findings = Findings()
    group = Group(table, np.zeros(table.num_rows, np.int64), EXPECTED, RowFindings(findings.of("part"), 0, 0))
    check_rows(group, {0: ("1U_1R", "product")})
    assert findings.verdict.ok, findings.verdict.lines()
