"""Parquet files behind a real web server, which fails in every way that it can: the same values, or one sentence."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.errors import StorageError
from mtembed.notes import Traffic
from mtembed.storage import cache
from mtembed.storage.address import Address
from mtembed.storage.copies import local
from mtembed.storage.finding import files_of
from mtembed.storage.patience import Patience, persist
from mtembed.storage.remote import RemoteParquet, footer_of
from mtembed.storage.spans import merged
from mtembed.storage.store import TryAgain
from mtembed.storage.traffic import METER
from tests.tools.web import Fault, Server, serving

ROWS, BYTES = 6, 40_000
COLUMNS = ["name", "a", "thumbnail", "b", "c"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def table() -> pa.Table:
    """One row a row group, as shards have it."""
    noise = np.random.default_rng(1)
    columns = {name: [noise.bytes(BYTES) for _ in range(ROWS)] for name in COLUMNS[1:]}
    return pa.table({"name": [f"cell {row}" for row in range(ROWS)], **columns})


@pytest.fixture
def server(tmp_path: Path, table: pa.Table) -> Iterator[Server]:
    (tmp_path / "web").mkdir()
    pq.write_table(table, tmp_path / "web/part_1.parquet", row_group_size=1, use_dictionary=["name"])
    with serving(tmp_path / "web") as found:
        yield found


def address(server: Server) -> Address:
    return Address.of(server.url("part_1.parquet?token=s3cr3t"))


def test_only_wanted_chunks_and_one_footer_are_fetched(server: Server, table: pa.Table) -> None:
    with RemoteParquet(address(server)) as file:
        footer = server.sent
        for row in range(ROWS):
            assert file.read_row_group(row, ["name", "b", "c"]).equals(table.slice(row, 1).select(["name", "b", "c"]))
    assert server.sent - footer <= 1.02 * ROWS * (2 * BYTES + 300)
    assert len(server.requests) == 2 + 2 * ROWS  # the thumbnail lies between: two ranges a row
    before = server.sent
    with RemoteParquet(address(server)) as file:  # the footer is on disk
        assert server.sent - before == 8 and file.footer.metadata.num_rows == ROWS


def test_the_same_values_by_every_way_of_reading(server: Server, table: pa.Table) -> None:
    with RemoteParquet(address(server)) as file:
        assert file.read(["a", "name"]).equals(table.select(["a", "name"]))
        assert file.read_row_groups([4, 1]).equals(pa.concat_tables([table.slice(4, 1), table.slice(1, 1)]))
        batches = list(file.iter_batches(2, [0, 2, 3], columns=["c"]))
        assert pa.Table.from_batches(batches).equals(table.take([0, 2, 3]).select(["c"]))
        file.read_ahead(5, ["a"])
        asked = len(server.requests)
        assert file.read_row_group(5, ["a"]).equals(table.slice(5, 1).select(["a"]))
        assert len(server.requests) <= asked + 1


@pytest.mark.parametrize("seed", range(4))
def test_five_hundred_faults_change_nothing(
    server: Server, table: pa.Table, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values, or a sentence; and the next try has them."""
    chance = random.Random(seed)
    kinds = [Fault("500"), Fault("503"), Fault("429", after="0"), Fault("reset"), Fault("cut"), Fault("etag"), None]
    faults = [chance.choice(kinds) for _ in range(150)]
    server.fail_next(faults)
    right = wrong = 0
    monkeypatch.setattr("mtembed.storage.patience.PATIENCE", Patience(first=0.0, most=0.0))
    while server.faults:
        row, columns = chance.randrange(ROWS), chance.sample(COLUMNS, 2)
        try:
            with RemoteParquet(address(server)) as file:
                found = file.read_row_group(row, columns)
        except StorageError as error:
            assert "replaced while it was read" in str(error) and "s3cr3t" not in str(error)
            wrong += 1
        else:
            assert found.select(columns).equals(table.slice(row, 1).select(columns))
            right += 1
    assert right and wrong


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("401", r"wants credentials\): put user and password into ~/\.netrc"),
        ("403", "refuses access"),
        ("whole", "whole files only: download it first"),
    ],
)
def test_what_no_other_try_can_mend_is_one_sentence_at_once(server: Server, what: str, words: str) -> None:
    server.fail_next([Fault(what)])  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=words) as caught:
        footer_of(address(server))
    assert len(server.requests) == 1 and "s3cr3t" not in repr(caught.value) and caught.value.__cause__ is None


def test_a_file_that_is_not_there_and_one_that_is_no_parquet(server: Server) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        footer_of(Address.of(server.url("nothing.parquet")))
    (server.folder / "text.parquet").write_text("not Parquet, and long enough for a footer")
    with pytest.raises(StorageError, match="is not a readable Parquet file: it does not end as one"):
        footer_of(Address.of(server.url("text.parquet")))


def test_a_shard_that_is_replaced_under_way_is_noticed(server: Server, table: pa.Table) -> None:
    with RemoteParquet(address(server)) as file:
        pq.write_table(table.slice(1), server.folder / "part_1.parquet", row_group_size=1)
        with pytest.raises(StorageError, match="was replaced while it was read: start again with --retry-failed"):
            file.read_row_group(0, ["b"])
        (server.folder / "part_1.parquet").unlink()
        with pytest.raises(StorageError, match="was removed while it was read"):
            file.read_row_group(1, ["b"])


def test_nobody_answers() -> None:
    with pytest.raises(StorageError, match=r"the connection broke off, or could not be made; \d+ tries"):
        waited: list[float] = []
        clock = iter(float(i) for i in range(0, 10_000, 10))
        patience = Patience(wait=waited.append, clock=lambda: next(clock))
        from mtembed.storage.web import Web

        persist("it", lambda: Web().tail(Address.of("http://127.0.0.1:9/a"), 8), patience)


def test_waits_grow_as_long_as_the_store_asks_for_and_end_at_the_deadline() -> None:
    waited: list[float] = []
    now = [0.0]

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    def fails(after: float | None, times: int) -> list[str]:
        left = [*range(times)]

        def attempt() -> list[str]:
            if left:
                left.pop()
                raise TryAgain("status 503", after)
            return ["done"]

        return persist("s3://bucket/a", attempt, Patience(wait=wait, clock=lambda: now[0]))

    assert fails(7.0, 3) == ["done"] and waited == [7.0, 7.0, 7.0]
    waited.clear()
    assert fails(None, 5) == ["done"]
    assert all(0.5 * step <= one <= step for one, step in zip(waited, (0.25, 0.5, 1.0, 2.0, 4.0), strict=True))
    start = now[0]
    with pytest.raises(StorageError, match=r"s3://bucket/a cannot be read \(status 503; \d+ tries\): check"):
        fails(None, 1000)
    assert now[0] - start <= 55.0
    with pytest.raises(StorageError, match="1 tries"):
        fails(3600.0, 2)  # nobody waits for an hour


def test_copies_are_kept_for_as_long_as_the_file_is_the_same(server: Server) -> None:
    copy = local(address(server))
    assert copy.read_bytes() == (server.folder / "part_1.parquet").read_bytes()
    sent = server.sent
    assert local(address(server)) == copy and server.sent == sent + 8
    (server.folder / "part_1.parquet").write_bytes(b"another one, and longer than eight bytes")
    assert local(address(server)).read_bytes() == b"another one, and longer than eight bytes"


def test_a_disk_without_room_costs_a_read_and_nothing_else(
    server: Server, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with RemoteParquet(address(server)) as file:
        assert file.read_row_group(0, ["name"]).equals(table.slice(0, 1).select(["name"]))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME to a folder with room"):
        local(address(server))
    assert cache.folder() == tmp_path / "file/mtembed"


def test_small_holes_are_read_and_large_ones_are_not() -> None:
    wide = [(0, 1000), (1005, 2000), (2100, 3000)]
    assert merged(wide) == [(0, 2000), (2100, 3000)]
    assert merged([(10, 20), (0, 10), (5, 8), (30, 30)]) == [(0, 20)]


def test_what_was_asked_for_is_counted(server: Server) -> None:
    METER.taken()
    server.fail_next([Fault("503", after="0"), None, Fault("429", after="0")])
    with RemoteParquet(address(server)) as file:
        file.read_row_group(0, ["b"])
    found = METER.taken()
    assert 0.0 < found.blocked < 55.0
    assert (found.requests, found.again, found.waited) == (5, 2, 0.0) and found.requests == len(server.requests)
    assert found.bytes == server.sent and METER.taken() == Traffic()


def test_a_store_that_fsspec_knows(table: pa.Table) -> None:
    files = fsspec.filesystem("memory")
    with files.open("/core/images/part_1.parquet", "wb") as file:
        pq.write_table(table, file, row_group_size=1)
    place = Address.of("memory://core/images/part_1.parquet")
    assert files_of(Address.of("memory://core"), ".parquet") == [place]
    assert files_of(Address.of("memory://core/*/part_?.parquet"), ".parquet") == [place]
    assert files_of(Address.of("memory://core/part_?.parquet"), ".parquet") == []
    with RemoteParquet(place) as remote:
        assert remote.read(["a", "c"]).equals(table.select(["a", "c"]))
        with files.open("/core/images/part_1.parquet", "wb") as file:
            pq.write_table(table, file, row_group_size=1)
        with pytest.raises(StorageError, match="was replaced while it was read"):
            remote.read_row_group(0, ["b"])
    files.rm("/core", recursive=True)
    with pytest.raises(FileNotFoundError):
        footer_of(place)
