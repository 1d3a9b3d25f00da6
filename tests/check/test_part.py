"""Every damage to a dataset is named, with its file and its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mtembed.check.verify import verify
from tests.tools.damages import DAMAGES
from tests.tools.rewriting import PART


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
