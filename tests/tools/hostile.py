"""Seeded mutations of the files of a dataset: damaged by chance, and written with bad intent."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Mutation = Callable[[np.random.Generator, Path], None]

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, -1, 0, 1, 32768, 10**10, 2**63, 10**400, 0.5, float("nan"), float("inf"), "", "x" * 100_000, "\ud800",
    "\x1b[31mred", "../../../etc/passwd", "a\nb", [], [[]], {}, {"": None}, [1, 2], DEEP, "part_00001", "part_00009",
]  # fmt: skip
TEXTS = ["[" * 100_000, "{}", "null", "", "[1]", '"text"', "{" * 50_000, '{"settings": 1, "shards": 2}', "\ufeff{}"]


def damaged_bytes(random: np.random.Generator, data: bytes, end_bytes: int = 0) -> bytes:
    """One to three changes: bits, bytes, cuts, repeats; half of them among the last ``end_bytes``."""
    content = bytearray(data)
    for _ in range(random.integers(1, 4)):
        if not content:
            break
        near_end = end_bytes and random.random() < 0.5
        at = int(random.integers(max(0, len(content) - end_bytes) if near_end else 0, len(content)))
        match random.integers(0, 6):
            case 0 | 1:
                content[at] ^= 1 << int(random.integers(0, 8))
            case 2:
                content[at : at + 4] = random.bytes(4)
            case 3:
                del content[at : at + int(random.integers(1, 64))]
            case 4:
                content[at:at] = content[at : at + int(random.integers(1, 64))]
            case 5:
                del content[at:]
    return bytes(content)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON text."""
    if path:
        yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


def hostile_json(random: np.random.Generator, content: Any) -> Any:
    """One to three values replaced, lost, or under another name."""
    content = copy.deepcopy(content)
    for _ in range(random.integers(1, 4)):
        ways = list(places(content))
        if not ways:
            return content
        *path, last = ways[random.integers(0, len(ways))]
        owner = content
        for key in path:
            owner = owner[key]
        match random.integers(0, 4):
            case 0 if isinstance(owner, dict):
                del owner[last]
            case 1 if isinstance(owner, dict):
                owner[str(VALUES[random.integers(0, len(VALUES))])[:1000]] = owner.pop(last)
            case _:
                owner[last] = copy.deepcopy(VALUES[random.integers(0, len(VALUES))])
    return content


def odd_file(random: np.random.Generator, path: Path) -> None:
    """Something in the place of the file that is none: nothing, a pipe, a folder, a link to itself or to nowhere."""
    path.unlink(missing_ok=True)
    match random.integers(0, 5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/nowhere/at/all")


def text_file(random: np.random.Generator, path: Path) -> None:
    """A file of JSON: values, bytes, whole texts, or no file."""
    match random.integers(0, 10):
        case 0:
            odd_file(random, path)
        case 1:
            path.write_text(TEXTS[random.integers(0, len(TEXTS))])
        case 2 | 3:
            path.write_bytes(damaged_bytes(random, path.read_bytes()))
        case _:
            path.write_text(json.dumps(hostile_json(random, json.loads(path.read_text()))))


def text_lines(random: np.random.Generator, path: Path) -> None:
    """A file of JSON lines."""
    match random.integers(0, 10):
        case 0:
            odd_file(random, path)
        case 1 | 2 | 3:
            path.write_bytes(damaged_bytes(random, path.read_bytes()))
        case 4:
            path.write_text(TEXTS[random.integers(0, len(TEXTS))] + "\n")
        case _:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(line) + "\n" for line in hostile_json(random, lines)))


def binary_file(random: np.random.Generator, path: Path) -> None:
    if random.integers(0, 12) == 0:
        odd_file(random, path)
    else:
        path.write_bytes(damaged_bytes(random, path.read_bytes()))


def parquet_file(random: np.random.Generator, path: Path) -> None:
    """Bytes, most of them of the footer; texts under its keys; values of its columns; or no file."""
    match random.integers(0, 12):
        case 0:
            odd_file(random, path)
        case 1 | 2 | 3 | 4 | 5:
            path.write_bytes(damaged_bytes(random, path.read_bytes(), 4000))
        case 6 | 7 | 8:
            _hostile_keys(random, path)
        case _:
            _hostile_column(random, path)


def _hostile_keys(random: np.random.Generator, path: Path) -> None:
    table = pq.read_table(path)
    keys = pq.read_metadata(path).metadata or {}
    keys = {key: value for key, value in keys.items() if key != b"ARROW:schema"}
    name = sorted(keys)[random.integers(0, len(keys))]
    try:
        keys[name] = json.dumps(hostile_json(random, json.loads(keys[name]))).encode()
    except ValueError:
        keys[name] = TEXTS[random.integers(0, len(TEXTS))].encode()
    _write(table.replace_schema_metadata(keys), path)


def _hostile_column(random: np.random.Generator, path: Path) -> None:
    """Another value in some rows, of the column's type where there is one; or the column itself lost or doubled."""
    table = pq.read_table(path)
    at = int(random.integers(0, table.num_columns))
    field = table.schema.field(at)
    match random.integers(0, 6):
        case 0:
            table = table.remove_column(at)
        case 1:
            table = table.append_column(field, table.column(at))
        case _:
            values = table.column(at).to_pylist()
            for row in random.integers(0, max(1, len(values)), 3).tolist() if values else []:
                values[row] = _value(random, field.type)
            table = table.set_column(at, field, pa.array(values, field.type))
    _write(table, path)


def _value(random: np.random.Generator, kind: pa.DataType) -> Any:
    """A value that the type can hold and that nobody expects."""
    if pa.types.is_floating(kind):
        return [float("nan"), float("inf"), -1e300 if kind == pa.float64() else -6e4, 0.0, None][random.integers(0, 5)]
    if pa.types.is_integer(kind):
        return [-1, 0, 2 ** (kind.bit_width - 1) - 1, -(2 ** (kind.bit_width - 1)), None][random.integers(0, 5)]
    if pa.types.is_string(kind):
        shapes = ["POLYGON ((nan nan, 1 1, 2 2, nan nan))", "POLYGON EMPTY", "EPSG:4979", "EPSG:99999999999", "EPSG:0"]
        texts = ["", "x" * 10_000, "\x1b[2J", "99999999999999999999U_1R", "GEOMETRYCOLLECTION EMPTY", None, *shapes]
        return texts[random.integers(0, len(texts))]
    if pa.types.is_binary(kind):
        rings = b"\x01\x03\0\0\0\xff\xff\xff\x7f", b"\x01\x07\0\0\0\0\0\0\0", b"\x01\x01\0\0\0" + b"\xff" * 16
        return [b"", random.bytes(60), None, *rings][random.integers(0, 6)]
    if pa.types.is_struct(kind):
        return {field.name: _value(random, field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return [_value(random, kind.value_type) for _ in range(kind.list_size)]
    if pa.types.is_list(kind):
        return [[], None, [None], [_value(random, kind.value_type)]][random.integers(0, 4)]
    return None


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
