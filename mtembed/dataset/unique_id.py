"""The reference's row identifier: a hash over geometry, time, product and the *printed* vector."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from mtembed.dataset.printing import Vectors, print_vectors

_AT_ONCE = 500  # rows


def unique_ids(
    geometry_wkt: Sequence[str],
    timestamps: Sequence[str],
    product_ids: Sequence[str],
    vectors: Vectors,
) -> list[str]:
    """Return sha256 hex of ``f"{geometry}_{timestamp}_{product_id}_{embedding}"`` for each of n rows.

    ``vectors`` is [n, D], the values as they are stored; ``embedding`` is a row of it as a float32 array printed with
    numpy's default options, whatever options the caller has set.  ValueError where the lengths differ.
    """
    rows = zip(geometry_wkt, timestamps, product_ids, _printed(vectors), strict=True)
    return [
        hashlib.sha256(f"{geometry}_{timestamp}_{product}_".encode() + text).hexdigest()
        for geometry, timestamp, product, text in rows
    ]


def _printed(vectors: Vectors) -> Iterator[bytes]:
    """The rows as text, so many at a time that the text takes little memory."""
    for first in range(0, len(vectors), _AT_ONCE):
        yield from print_vectors(vectors[first : first + _AT_ONCE])
