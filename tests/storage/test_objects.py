"""Every object store through its own protocol: listed, read by ranges, refused, missing, empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.errors import StorageError
from mtembed.storage import stores
from mtembed.storage.address import Address
from mtembed.storage.finding import files_of
from mtembed.storage.remote import RemoteParquet, footer_of, tail
from tests.tools.web import Fault, Handler, Server, bucket, container, serving

TABLE = pa.table({"name": ["a", "b", "c"], "number": [1, 2, 3]})
ANSWERS: dict[str, Callable[[Handler], bool]] = {"s3": bucket, "gs": bucket, "az": container}


@pytest.fixture(params=list(ANSWERS))
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "web/core/images"
    folder.mkdir(parents=True)
    for name in ("part_1", "part 2"):
        pq.write_table(TABLE, folder / f"{name}.parquet", row_group_size=1)
    (folder / "empty.parquet").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(tmp_path / "web") as found:
        found.answer = ANSWERS[scheme]
        keys = {
            "AWS_ENDPOINT_URL": found.url(), "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s3cr3t",
            "GOOGLE_BASE_URL": found.url().rstrip("/"), "GOOGLE_SKIP_SIGNATURE": "true",
            "AZURE_STORAGE_ENDPOINT": found.url().rstrip("/"), "AZURE_STORAGE_ACCOUNT_NAME": "somebody",
            "AZURE_SKIP_SIGNATURE": "true",
        }  # fmt: skip
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        stores._store.cache_clear()
        yield found
    stores._store.cache_clear()


def test_a_folder_is_listed_and_its_files_are_read(server: Server, scheme: str) -> None:
    found = files_of(Address.of(f"{scheme}://core/images"), ".parquet")
    assert [one.name for one in found] == ["empty.parquet", "part 2.parquet", "part_1.parquet"]
    for one in found[1:]:
        with RemoteParquet(one) as file:
            assert file.read(["number"]).equals(TABLE.select(["number"]))
            assert file.read_row_group(1, ["name"]).equals(TABLE.slice(1, 1).select(["name"]))
    content, head = tail(found[0], 8)
    assert content == b"" and head.size == 0


def test_what_is_missing_or_refused_is_told(server: Server, scheme: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{scheme}://core/nothing.parquet does not exist"):
        footer_of(Address.of(f"{scheme}://core/nothing.parquet"))
    server.fail_next([Fault("403")])
    with pytest.raises(StorageError, match=r"access is refused\): set (AWS|GOOGLE|AZURE)_"):
        footer_of(Address.of(f"{scheme}://core/images/part_1.parquet"))
    server.fail_next([Fault("503"), Fault("reset")])
    assert footer_of(Address.of(f"{scheme}://core/images/part_1.parquet")).metadata.num_rows == 3
