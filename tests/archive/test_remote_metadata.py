"""``metadata.parquet`` behind an address: the same lines as on disk, and no more fetched than they take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.archive.metadata import MetadataIndex, check_metadata
from mtembed.archive.selection import Selection
from mtembed.archive.where import by_metadata
from mtembed.errors import UsageError
from mtembed.run.mirror import fetch
from mtembed.storage.address import Address
from mtembed.storage.patience import Patience
from tests.tools.shards import default_cells, make_shard, write_metadata
from tests.tools.web import Fault, Server, serving

GROUPS, LINES = 24, 400  # row groups, each about one shard's rows
TAIL = 1 << 16  # what Arrow reads of the end of a file that it scans


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Texts that take room, in the order of the archive; clouds grow with the row groups."""
    count = GROUPS * LINES
    numbers = np.arange(count)
    shard = numbers // LINES
    noise = np.random.default_rng(1)
    table = pa.table({
        "grid_cell": [f"{n}U_{n}R" for n in numbers],
        "product_id": [noise.bytes(60).hex() for _ in numbers],
        "note": [noise.bytes(200).hex() for _ in numbers],
        "timestamp": [f"20{20 + s // 4}0101T000000" for s in shard],
        "cloud_cover": shard + noise.random(count),
        "centre_lat": noise.random(count),
        "centre_lon": noise.random(count),
        "crs": ["EPSG:32633"] * count,
        "parquet_url": [f"https://host/images/part_{s:05}.parquet" for s in shard],
        "parquet_row": numbers % LINES,
    })  # fmt: skip
    (tmp_path / "web").mkdir()
    pq.write_table(table, tmp_path / "web/metadata.parquet", row_group_size=LINES)
    return tmp_path / "web/metadata.parquet"


@pytest.fixture
def server(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(lines.parent) as found:
        yield found


def address(server: Server) -> Address:
    return Address.of(server.url("metadata.parquet?token=s3cr3t"))


def chunks(path: Path, columns: tuple[str, ...], groups: range | tuple[int, ...] = range(GROUPS)) -> int:
    """Bytes of columns in row groups."""
    footer = pq.read_metadata(path)
    found = (footer.row_group(group).column(i) for group in groups for i in range(footer.num_columns))
    return sum(chunk.total_compressed_size for chunk in found if chunk.path_in_schema in columns)


def test_a_shards_lines_take_its_row_groups_only(server: Server, lines: Path) -> None:
    name = "part_00007.parquet"
    expected = MetadataIndex(lines).of_shard(name)
    assert len(expected.of_row) == LINES and not expected.notes
    assert MetadataIndex(address(server)).of_shard(name) == expected
    others = ("product_id", "grid_cell", "crs", "timestamp", "centre_lat", "centre_lon", "parquet_row")
    needed = chunks(lines, ("parquet_url",)) + chunks(lines, others, (7,)) + pq.read_metadata(lines).serialized_size
    assert needed <= server.sent <= 1.02 * needed + 16 < lines.stat().st_size / 4
    sent = server.sent
    assert MetadataIndex(address(server)).of_shard(name) == expected  # as another process: all of it is on disk
    assert server.sent == sent + 8


@pytest.mark.parametrize(
    ("where", "columns", "groups"),
    [
        ("cloud_cover < 2.5", ("cloud_cover",), (0, 1, 2)),
        ("timestamp >= '2025' and cloud_cover < 21", ("cloud_cover", "timestamp"), (20,)),
        ("cloud_cover + 0 < 2.5", ("cloud_cover",), range(GROUPS)),
        ("cloud_cover < 0", ("cloud_cover",), ()),
    ],
)
def test_a_condition_takes_its_columns_and_the_row_groups_that_may_fulfil_it(
    server: Server, lines: Path, where: str, columns: tuple[str, ...], groups: tuple[int, ...]
) -> None:
    expected = by_metadata(Selection(), where, [lines], skip=False).rows
    found = by_metadata(Selection(), where, [address(server)], skip=False).rows
    assert expected is not None and found is not None and found.keys() == expected.keys()
    assert all(np.array_equal(found[name], rows) for name, rows in expected.items())
    footer = pq.read_metadata(lines).serialized_size
    most = chunks(lines, (*columns, "parquet_url", "parquet_row"), groups)
    assert server.sent <= most + 2 * (footer + TAIL) < lines.stat().st_size / 4


def test_boxes_take_the_columns_of_places(server: Server, lines: Path) -> None:
    box = Selection(bbox=(0.0, 0.0, 0.001, 1.0))
    found = by_metadata(box, None, [address(server)], skip=True)
    assert found.empty == by_metadata(box, None, [lines], skip=True).empty != set()
    assert server.sent < lines.stat().st_size / 3


def test_a_server_that_fails_costs_tries_and_one_that_refuses_a_sentence(
    server: Server, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtembed.storage.patience.PATIENCE", Patience(first=0.0, most=0.0))
    faults = [Fault("500"), None, Fault("cut"), Fault("reset"), None, Fault("429", after="0")]
    server.fail_next(faults * 4)
    found = by_metadata(Selection(), "cloud_cover < 1.5", [address(server)], skip=False).rows
    assert found is not None and {"part_00000.parquet", "part_00001.parquet"} <= found.keys()
    server.fail_next([None, None, *[Fault("403")] * 200])
    with pytest.raises(UsageError, match="refuses access") as caught:
        by_metadata(Selection(), "product_id like 'ab%'", [address(server)], skip=False)
    assert "s3cr3t" not in str(caught.value) and "is not possible" not in str(caught.value)


def test_named_metadata_is_checked_by_its_first_and_last_lines(server: Server, lines: Path) -> None:
    check_metadata(address(server))
    assert server.sent < lines.stat().st_size / 4
    with pytest.raises(UsageError, match="has no column parquet_url"):
        pq.write_table(pa.table({"a": [1]}), lines.with_name("other.parquet"))
        check_metadata(Address.of(server.url("other.parquet")))


def test_a_copy_of_some_rows_takes_their_lines(server: Server, tmp_path: Path) -> None:
    folder = server.folder / "Core"
    cells = default_cells(4)
    shards = [make_shard(folder / f"images/part_{i}.parquet", cells[2 * i :][:2], "S1RTC", 32) for i in range(2)]
    write_metadata(folder / "metadata.parquet", shards)
    urls = [server.url(f"Core/images/part_{i}.parquet") for i in range(2)]
    found = fetch(urls, tmp_path / "copy", where="parquet_row = 1")
    assert found.cells == 2
    told = pq.read_table(tmp_path / "copy/metadata.parquet")
    assert told["product_id"].to_pylist() == [cells[1].product_id, cells[3].product_id]
    assert told["parquet_row"].to_pylist() == [0, 0]
