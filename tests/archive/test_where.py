"""Rows that metadata select, by conditions in SQL, boxes and lists, without opening a shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.archive.selection import Selection
from mtembed.archive.where import by_metadata
from mtembed.errors import UsageError

LINES = {
    "parquet_url": [
        "https://host/images/a%20b.parquet?download=true", "https://host/images/a%20b.parquet?download=true",
        "c.parquet", "c.parquet", "c.parquet", None, "d.parquet",
    ],
    "parquet_row": [3, 1, 0, 0, 7, 2, 5],
    "grid_cell": ["1U_1R", "2U_2R", "3U_3R", "3U_3R", "4U_4R", "5U_5R", "6U_6R"],
    "timestamp": ["20190101T00", "20200101T00", "20210101T00", None, "20220101T00", "", "20230101T00"],
    "cloud_cover": [5.0, 50.0, 0.0, 1.0, None, 3.0, 2.0],
    "centre_lat": [0.0, 10.0, 20.0, 20.0, 30.0, 40.0, None],
    "centre_lon": [0.0, 179.5, -179.5, -179.5, 30.0, 40.0, 0.0],
}  # fmt: skip


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    pq.write_table(pa.table(LINES), tmp_path / "metadata.parquet", row_group_size=2)
    return tmp_path / "metadata.parquet"


def rows(lines: Path, where: str) -> dict[str, list[int]]:
    found = by_metadata(Selection(), where, [lines], skip=False)
    assert found.rows is not None and not found.everything
    return {name: numbers.tolist() for name, numbers in found.rows.items()}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("cloud_cover < 10", {"a b.parquet": [3], "c.parquet": [0], "d.parquet": [5]}),
        ("cloud_cover < 10 and timestamp >= '2020'", {"c.parquet": [0], "d.parquet": [5]}),
        ("parquet_row in (1, 3) -- a comment", {"a b.parquet": [1, 3]}),
        ("grid_cell like '4U%' or centre_lat is null", {"c.parquet": [7], "d.parquet": [5]}),
        ("cloud_cover = (select max(cloud_cover) from metadata)", {"a b.parquet": [1]}),
        ("false", {}),
    ],
)
def test_conditions_select_rows_of_shards(lines: Path, where: str, expected: dict[str, list[int]]) -> None:
    found = rows(lines, where)
    assert {name: numbers for name, numbers in found.items() if "%" not in name and "?" not in name} == expected


@pytest.mark.parametrize("kind", [pa.float64(), pa.int8(), pa.string(), pa.uint64()])
def test_row_numbers_of_every_type(lines: Path, kind: pa.DataType) -> None:
    table = pq.read_table(lines)
    column = table.column("parquet_row").cast(kind)
    pq.write_table(table.set_column(1, "parquet_row", column), lines)
    assert rows(lines, "cloud_cover = 1")["c.parquet"] == [0]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("nosuch < 1", "columns are parquet_url, parquet_row, grid_cell"),
        ("cloud_cover <", "syntax error"),
        ("", "columns are"),
        ("true); drop table metadata; select (1", "give one condition"),
        ("exists (select * from read_csv('/etc/passwd'))", "disabled by configuration"),
        ("(select count(*) from glob('/*')) > 0", "disabled by configuration"),
        ("timestamp > 5 + 'x'", "not possible"),
    ],
)
def test_conditions_that_cannot_be_are_one_sentence(lines: Path, where: str, words: str) -> None:
    with pytest.raises(UsageError, match="is not possible") as caught:
        rows(lines, where)
    assert words in str(caught.value)
    assert pq.read_table(lines).num_rows == 7


def test_a_table_without_urls_is_no_metadata(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"has no column parquet_url: name Core's metadata\.parquet"):
        rows(tmp_path / "other.parquet", "a = 1")
    (tmp_path / "other.parquet").write_text("text")
    with pytest.raises(UsageError, match="cannot be read"):
        rows(tmp_path / "other.parquet", "a = 1")


@pytest.mark.parametrize(
    ("selection", "empty"),
    [
        (Selection(bbox=(-1.0, -1.0, 1.0, 1.0)), {"c.parquet"}),
        (Selection(bbox=(179.0, 0.0, -179.0, 15.0)), {"c.parquet"}),
        (Selection(bbox=(179.0, 15.0, -179.0, 25.0)), {"a b.parquet"}),
        (Selection(cells=frozenset({"4U_4R", "9U_9R"})), {"a b.parquet", "d.parquet"}),
        (
            Selection(cells=frozenset({"1U_1R"}), bbox=(29.0, 29.0, 31.0, 31.0)),
            {"a b.parquet", "c.parquet", "d.parquet"},
        ),
        (Selection(), set()),
    ],
)
def test_shards_that_hold_nothing_wanted_are_not_opened(lines: Path, selection: Selection, empty: set[str]) -> None:
    """A line without a centre may be anywhere; a shard without lines is opened."""
    found = by_metadata(selection, None, [lines], skip=True)
    assert {name for name in found.empty if "%" not in name and "?" not in name} == empty
    assert found.passes("unknown.parquet") and found.rows is None
