"""Addresses: what they name, and that nothing secret of them is ever shown."""

from __future__ import annotations

import pytest

from mtembed.dataset.origin import command_line
from mtembed.errors import UsageError
from mtembed.storage.address import Address, is_address, shown

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("name", "root", "key", "file"),
    [
        ("s3://bucket/a/part_1.parquet", "s3://bucket", "a/part_1.parquet", "part_1.parquet"),
        ("S3://bucket/a/", "s3://bucket", "a/", "a"),
        ("https://host:8/a/part%201.parquet?sig=x", "https://host:8", "a/part%201.parquet", "part 1.parquet"),
        ("hf:Core-S2L2A", "hf://datasets", "Major-TOM/Core-S2L2A", "Core-S2L2A"),
        ("hf:Core-S2L2A/images/p.parquet", "hf://datasets", "Major-TOM/Core-S2L2A/images/p.parquet", "p.parquet"),
        ("gs://bucket/ä b.parquet", "gs://bucket", "ä b.parquet", "ä b.parquet"),
    ],
)
def test_what_an_address_names(name: str, root: str, key: str, file: str) -> None:
    found = Address.of(name)
    assert (found.root, found.key, found.name) == (root, key, file)


def test_neighbours_of_a_file() -> None:
    for root in ("s3://bucket", "https://host", "hf://datasets"):
        shard = Address.of(f"{root}/core/images/part_1.parquet")
        assert str(shard.above(2, "metadata.parquet")) == f"{root}/core/metadata.parquet"
        assert str(shard.above(1)) == f"{root}/core/images" and shard.stem == "part_1"
        assert str(shard.below("a/b")) == f"{root}/a/b"


@pytest.mark.parametrize("name", ["hf:", "hf:else", "://x", "s3://", "s3:///", "1:// x", "ht tp://a"])
def test_what_only_looks_like_an_address(name: str) -> None:
    assert is_address(name)
    with pytest.raises(UsageError, match="is no address"):
        Address.of(name)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/a/part_1.parquet",
        f"https://host/a/part_1.parquet?X-Amz-Signature={SECRET}&b=/c",
        f"https://host/a/part_1.parquet?{SECRET}",
        f"https://host/a/part_1.parquet#{SECRET}",
        f"https://host?token={SECRET}",
        f"s3://key:{SECRET}@bucket/a/part_1.parquet",
        f"s3://bucket/a/part_?.parquet?X-Amz-Signature={SECRET}",
        f"hf://datasets/a/b/part_1.parquet?token={SECRET}",
        f"hf:Core-S2L2A?token={SECRET}",
    ],
)
def test_secrets_are_never_shown(url: str) -> None:
    for text in (shown(url), str(Address(url)), repr(Address(url)), command_line(["mtembed", url])):
        assert SECRET not in text
    assert shown(url).partition(":")[0] == url.partition(":")[0]


@pytest.mark.parametrize("name", ["a/b.parquet", "s3://b/part_?.parquet", "https://h/a.parquet", "s3://b/[a]*.parquet"])
def test_names_without_secrets_are_shown_as_they_are(name: str) -> None:
    assert shown(name) == name
