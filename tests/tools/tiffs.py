"""GeoTIFFs tag by tag: what GDAL never writes, but others do."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Blob = npt.NDArray[np.uint8]
Field = tuple[int, Sequence[Any] | bytes]  # TIFF field type, values
SHORT, LONG, ASCII, DOUBLE = 3, 4, 2, 12
CODES = {1: "B", 2: "c", SHORT: "H", LONG: "I", 5: "II", 6: "b", 11: "f", DOUBLE: "d", 16: "Q"}
UTM_19_SOUTH = ((1024, 0, 1, 1), (1025, 0, 1, 1), (3072, 0, 1, 32719))
LEFT, TOP, PIXEL = 333_333.25, 5_678_901.5, 10.0


def geokeys(
    keys: Sequence[tuple[int, int, int, int]], doubles: Sequence[float] = (), text: str = ""
) -> dict[int, Field]:
    """The tags of (key, location, count, value) entries with their doubles and text."""
    tags: dict[int, Field] = {34735: (SHORT, [1, 1, 0, len(keys), *(value for key in keys for value in key)])}
    if doubles:
        tags[34736] = (DOUBLE, doubles)
    if text:
        tags[34737] = (ASCII, text.encode() + b"\0")
    return tags


def tiff(
    pixels: npt.NDArray[Any],
    changes: Mapping[int, Field | None] | None = None,
    *,
    order: str = "<",
    rows_per_strip: int | None = None,
    strips: Sequence[bytes] | None = None,
) -> Blob:
    """``pixels`` [rows, cols] uncompressed in EPSG:32719, then ``changes``: other fields, None takes a tag away.

    ``strips`` are bytes that stand for the pixels; offsets and counts follow unless they are changed too.
    """
    rows, cols = pixels.shape
    height = rows_per_strip or rows
    raw = pixels.astype(pixels.dtype.newbyteorder(order))
    blocks = list(strips or (raw[row : row + height].tobytes() for row in range(0, rows, height)))
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags: dict[int, Field | None] = {
        256: (LONG, [cols]), 257: (LONG, [rows]), 258: (SHORT, [8 * pixels.itemsize]), 259: (SHORT, [1]),
        262: (SHORT, [1]), 273: (LONG, [0] * len(blocks)), 277: (SHORT, [1]), 278: (LONG, [height]),
        279: (LONG, [len(block) for block in blocks]), 339: (SHORT, [kind]),
        33550: (DOUBLE, [PIXEL, PIXEL, 0.0]), 33922: (DOUBLE, [0.0, 0.0, 0.0, LEFT, TOP, 0.0]),
        **geokeys(UTM_19_SOUTH), **(changes or {}),
    }  # fmt: skip
    fields = {tag: field for tag, field in sorted(tags.items()) if field is not None}
    begin = 8 + 2 + 12 * len(fields) + 4
    places = begin + sum(len(_packed(*field, order)) + 7 for field in fields.values())
    starts = np.cumsum([places, *(len(block) for block in blocks[:-1])]).tolist()
    for tag in (273, 324):
        if tag in fields and not (changes or {}).get(tag):
            fields[tag] = (LONG, starts)
    entries, body = b"", b""
    for tag, (code, values) in fields.items():
        packed = _packed(code, values, order)
        where = packed.ljust(4, b"\0")
        if len(packed) > 4:
            where = struct.pack(order + "I", begin + len(body))
            body += packed + bytes(-len(packed) % 8)
        entries += struct.pack(order + "HHI", tag, code, len(packed) // struct.calcsize("=" + CODES[code])) + where
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(fields)) + entries + bytes(4)
    return np.frombuffer((head + body).ljust(places, b"\0") + b"".join(blocks), np.uint8)


def _packed(code: int, values: Sequence[Any] | bytes, order: str) -> bytes:
    return values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{CODES[code]}", *values)
