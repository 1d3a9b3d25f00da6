"""metadata.parquet as others leave it: what is odd or damaged costs a line or a note, never a shard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex, check_metadata, find_metadata, shard_names
from mtembed.archive.selection import Selection
from mtembed.errors import UsageError
from mtembed.types import ShardListing
from tests.tools.shards import Shard, make_shard, retyped, write_metadata

BANDS = ("vv", "vh")


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "images/part_1.parquet", 3, "S1RTC", 32)


def listing(shard: Shard, lines: Path) -> ShardListing:
    found = list_shard(0, shard.path, BANDS, MetadataIndex(lines), Selection())
    assert len(found.cells) == 3 and not found.error
    return found


def matched(shard: Shard, lines: Path) -> list[int]:
    return [cell.row_group for cell in listing(shard, lines).cells if cell.metadata]


def dictionary(values: pa.Array) -> pa.Array:
    return values.dictionary_encode()


@pytest.mark.parametrize(
    "kind",
    [dictionary, pa.string_view(), pa.large_string(), pa.binary(), pa.binary_view()],
    ids=["category", "string_view", "large_string", "binary", "binary_view"],
)
def test_texts_of_every_type_match(shard: Shard, tmp_path: Path, kind: Any) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard])
    before = listing(shard, lines)
    names = ("parquet_url", "product_id", "grid_cell", "crs", "timestamp")
    assert listing(shard, retyped(lines, dict.fromkeys(names, kind))) == before
    assert all(cell.metadata[0].product_id == shard.cells[cell.row_group].product_id for cell in before.cells)


@pytest.mark.parametrize(
    ("rows", "usable"),
    [
        (pa.array([0, None, 2], pa.int64()), [0, 2]),
        (pa.array([0.0, float("nan"), 2.0]), [0, 2]),
        (pa.array([0.0, float("inf"), 1.5]), [0]),
        (pa.array(["0", "n/a", "2"]), [0, 2]),
        (pa.array([-1, 2**62, 1]), [1]),
        (pa.array([[0], [1], [2]]), []),
    ],
)
def test_lines_without_a_usable_row_are_left_out_with_a_note(
    shard: Shard, tmp_path: Path, rows: pa.Array, usable: list[int]
) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard], parquet_row=rows)
    assert matched(shard, lines) == usable
    assert any("without a usable parquet_row" in note for note in listing(shard, lines).notes)


def test_a_line_with_an_endless_text_is_left_out(shard: Shard, tmp_path: Path) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard], product_id=["x" * 300_000, "b", "c"])
    assert matched(shard, lines) == [1, 2]


def test_centres_that_are_no_numbers_are_none(shard: Shard, tmp_path: Path) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard], centre_lat=["-39.0", "n/a", "-38.8"])
    assert matched(shard, lines) == [0, 1, 2]


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xa5" * (len(content) // 2 - 4)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        damaged,
        lambda path: pq.write_table(pq.read_table(path).drop_columns(["parquet_url"]), path),
        lambda path: pq.write_table(pq.read_table(path).drop_columns(["parquet_row"]), path),
        lambda path: retyped(path, {"parquet_url": lambda values: pa.array([1, 2, 3])}),
        lambda path: retyped(path, {"parquet_url": lambda values: pa.array([{"a": 1}] * 3)}),
    ],
    ids=["empty", "cut", "damaged", "no url", "no row", "url number", "url struct"],
)
def test_a_metadata_file_that_cannot_be_used_is_a_note_that_names_it(shard: Shard, tmp_path: Path, spoil: Any) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard])
    spoil(lines)
    found = listing(shard, lines)
    assert not any(cell.metadata for cell in found.cells)
    assert len(found.notes) == 1 and "metadata.parquet cannot be read and is left aside" in found.notes[0]
    assert "\n" not in found.notes[0]
    with pytest.raises(UsageError, match="--metadata"):
        check_metadata(lines)


def test_named_metadata_must_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metadata.parquet")
    for path in (tmp_path / "metadata.parquet", tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(UsageError, match="is not a file"):
            check_metadata(path)
    assert find_metadata(tmp_path / "part_1.parquet") is None


@pytest.mark.parametrize(
    "url",
    [
        "https://x/resolve/main/images/part_1.parquet?download=true",
        "https://x/images/part_1.parquet#rows",
        "images/part_1.parquet",
        "part_1.parquet",
        "https://x/images/part%5F1.parquet",
    ],
)
def test_urls_of_all_kinds_name_their_file(shard: Shard, tmp_path: Path, url: str) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard], parquet_url=[url] * 3)
    assert matched(shard, lines) == [0, 1, 2]
    assert "?" not in listing(shard, lines).cells[0].metadata[0].parquet_url


def test_names_with_marks_of_urls_are_found_as_they_are() -> None:
    assert "part 100%? #1.parquet" in shard_names("https://x/part 100%? #1.parquet")


def test_a_shard_without_a_line_is_noted(shard: Shard, tmp_path: Path) -> None:
    lines = write_metadata(tmp_path / "metadata.parquet", [shard], parquet_url=["https://x/other.parquet"] * 3)
    assert listing(shard, lines).notes == ("metadata.parquet has no line about some of the shards",)
