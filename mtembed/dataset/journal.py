"""The journal of an open part: finished cells in the order they came, each in a frame with a checksum.

A frame is a fixed head (magic, length of the text, length of the vectors, CRC-32 of both), a JSON text (the cell's
record and timing) and the raw vectors.  Frames are only ever appended; a process killed at any byte leaves at most
one torn frame at the end, which is cut off when the journal is opened again.  The first frame names what the part is
made from, so that a journal is never continued with other settings or another input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mtembed.dataset.atomic import open_own, open_to_read
from mtembed.types import CellRecord, CellTiming, Georeference

HEAD = struct.Struct("<4sIQI")
MAGIC = b"MTJ1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished cell in the journal: its timing, its record (None for a failed one), where its vectors lie."""

    timing: CellTiming
    record: CellRecord | None
    offset: int
    nbytes: int


class Journal:
    """Append with ``append``; ``entries`` holds what is safe, by row group (None: the shard itself failed)."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Open or create.  Raises ValueError when an existing journal has another identity, or was written by another
        version, OSError as files do."""
        self.path = path
        self.entries: dict[int | None, Entry] = {}
        self._fd = open_own(path)
        try:
            self._end = self._replay(identity)
        except ValueError:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, self._end)
        if self._end == 0:
            self._write(json.dumps(identity, sort_keys=True).encode(), b"")

    def append(self, timing: CellTiming, record: CellRecord | None, vectors: npt.NDArray[Any] | None) -> None:
        """One finished cell; after an error (disk full) the file is cut back and stays whole.  Raises OSError."""
        text = json.dumps({"timing": dataclasses.asdict(timing), "record": record and _to_json(record)}).encode()
        body = memoryview(b"") if vectors is None else np.ascontiguousarray(vectors).data.cast("B")
        offset = self._end + HEAD.size + len(text)
        self._write(text, body)
        self.entries[timing.row_group] = Entry(timing, record, offset, body.nbytes)

    def vectors(self, entries: Sequence[Entry], dtype: str, dim: int) -> npt.NDArray[Any]:
        """[n, dim] of the stored type, those of all entries below each other, read from the file.  Raises OSError."""
        itemsize = np.dtype(dtype).itemsize * dim
        result = np.empty((sum(entry.nbytes for entry in entries) // itemsize, dim), dtype)
        raw, at = result.reshape(-1).view(np.uint8), 0
        for entry in entries:
            if os.preadv(self._fd, [raw[at : at + entry.nbytes].data], entry.offset) != entry.nbytes:
                raise OSError(errno.EIO, "the journal is shorter than it was", self.path.name)
            at += entry.nbytes
        return result

    def close(self) -> None:
        os.close(self._fd)

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def _write(self, text: bytes, body: bytes | memoryview) -> None:
        head = HEAD.pack(MAGIC, len(text), len(body), zlib.crc32(body, zlib.crc32(text)))
        parts = [memoryview(head), memoryview(text), memoryview(body)]
        os.lseek(self._fd, self._end, os.SEEK_SET)
        try:
            total = sum(len(part) for part in parts)
            done = os.writev(self._fd, parts)
            if done < total:  # a full disk or a file-size limit cuts the first write short; the second says why
                rest = b"".join(parts)[done:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._end += total

    def _replay(self, identity: dict[str, Any]) -> int:
        """Read frames up to the first torn one; returns where the whole ones end."""
        size = os.fstat(self._fd).st_size
        if size == 0:
            return 0
        end = 0
        with mmap.mmap(self._fd, size, access=mmap.ACCESS_READ) as data:
            while (frame := _frame(data, end, size)) is not None:
                text, body, following = frame
                if end == 0:
                    _check_identity(json.loads(text), identity)
                else:
                    self._remember(json.loads(text), body, following)
                end = following
        return end

    def _remember(self, content: dict[str, Any], body: int, following: int) -> None:
        """One whole frame.  Raises ValueError where it is not one of this version's."""
        try:
            timing = _timing(content)
            record = _from_json(content["record"]) if content["record"] else None
        except (KeyError, TypeError) as error:
            raise ValueError(f"another version of mtembed wrote it ({error})") from error
        self.entries[timing.row_group] = Entry(timing, record, body, following - body)


def read_journal(path: Path) -> list[CellTiming]:
    """Timings of the whole frames of a journal, in order, beside its writer: reads only, locks and maps nothing.

    Only the last frame can be torn, so only its checksum is looked at; a journal that is gone has no frames.  What is
    damaged further up, or written by another version, ends the list: a resumed run cuts it there.
    """
    try:
        with os.fdopen(open_to_read(path), "rb") as file:
            texts = _texts(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return []
    timings = []
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        for text in texts[1:]:
            timings.append(_timing(json.loads(text)))
    return timings


def _timing(content: dict[str, Any]) -> CellTiming:
    return CellTiming(**{**content["timing"], "warnings": tuple(content["timing"]["warnings"])})


def _texts(file: BinaryIO, size: int) -> list[bytes]:
    """The texts of the whole frames among the first ``size`` bytes; vectors are skipped, all but the last ones."""
    texts: list[bytes] = []
    end = checksum = body_length = 0
    while end + HEAD.size <= size:
        file.seek(end)
        head = file.read(HEAD.size)
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            break
        _, text_length, following_length, following_checksum = HEAD.unpack(head)
        if end + HEAD.size + text_length + following_length > size:
            break
        end += HEAD.size + text_length + following_length
        body_length, checksum = following_length, following_checksum
        texts.append(file.read(text_length))
    if texts:
        file.seek(end - body_length)
        if zlib.crc32(file.read(body_length), zlib.crc32(texts[-1])) != checksum:
            texts.pop()
    return texts


def _frame(data: mmap.mmap, start: int, size: int) -> tuple[bytes, int, int] | None:
    """Text, offset of the vectors, offset behind the frame; None where no whole frame starts."""
    if start + HEAD.size > size:
        return None
    magic, text_length, body_length, checksum = HEAD.unpack_from(data, start)
    body = start + HEAD.size + text_length
    end = body + body_length
    if magic != MAGIC or end > size:
        return None
    with memoryview(data) as view, view[start + HEAD.size : end] as covered:
        if zlib.crc32(covered) != checksum:
            return None
    return data[start + HEAD.size : body], body, end


def _check_identity(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(wanted))
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        raise ValueError(", ".join(f"{key} ({found.get(key)} then, {wanted.get(key)} now)" for key in differing))


ARRAYS = {"offsets": np.int32, "nodata": np.float32, "saturated": np.float32, "cloud": np.float32}


def _to_json(record: CellRecord) -> dict[str, Any]:
    content = {name: getattr(record, name) for name in CellRecord.__dataclass_fields__}
    content["georeference"] = dataclasses.astuple(record.georeference)
    for name in ARRAYS:
        if content[name] is not None:
            content[name] = content[name].tolist()
    return content


def _from_json(content: dict[str, Any]) -> CellRecord:
    content["georeference"] = Georeference(*content["georeference"])
    for name, dtype in ARRAYS.items():
        if content[name] is not None:
            content[name] = np.asarray(content[name], dtype)
    content["offsets"] = content["offsets"].reshape(-1, 2)
    return CellRecord(**content)
