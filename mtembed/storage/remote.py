"""A Parquet file behind an address: its footer is read once and kept on disk, its columns by ranges, ahead of need."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.errors import StorageError
from mtembed.storage import cache, spans
from mtembed.storage.address import Address, Place
from mtembed.storage.patience import persist
from mtembed.storage.readers import submit
from mtembed.storage.spans import Span
from mtembed.storage.store import Head, Missing
from mtembed.storage.stores import store_of
from mtembed.storage.traffic import METER

MAGIC = b"PAR1"
MOST_FOOTER = 1 << 28  # bytes
AHEAD_BYTES = 1 << 28  # that may be read, or be under way, before somebody asks for them
BUFFER_BYTES = 4 << 20  # read at a time from a column chunk that is too large for that


class Replaced(StorageError):
    """A file is another one than it was."""


@dataclass(frozen=True, slots=True)
class Footer:
    """A file's version, its footer, and the footer's sha256."""

    head: Head
    metadata: pq.FileMetaData
    sha256: str


def footer_of(address: Address) -> Footer:
    """Two requests, or one where the footer is on disk.  Raises StorageError, FileNotFoundError."""
    end, head = tail(address, 8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC or not 0 < length <= min(MOST_FOOTER, head.size - 12):
        raise StorageError(f"{address} is not a readable Parquet file: it does not end as one")
    where = cache.place(address, head, "footers")
    content = cache.kept(where)
    if content is None or len(content) != length:
        content = read(address, head, (head.size - 8 - length, head.size - 8))
        cache.keep(where, content)
    try:
        parsed = pq.read_metadata(pa.BufferReader(MAGIC + content + end))
    except (OSError, pa.ArrowException, ValueError):
        raise StorageError(f"{address} is not a readable Parquet file: its footer is damaged") from None
    return Footer(head, parsed, hashlib.sha256(content).hexdigest())


def tail(address: Address, count: int) -> tuple[bytes, Head]:
    """The last bytes of a file, and its version.  Raises StorageError, FileNotFoundError."""
    try:
        content, head = persist(address, lambda: store_of(address).tail(address, count))
    except Missing:
        raise FileNotFoundError(f"{address} does not exist") from None
    METER.count(bytes=len(content))
    return content, head


def read(address: Address, head: Head, span: Span) -> bytes:
    """Bytes of one version of a file.  Raises StorageError, also where it is another one by now."""
    try:
        content, now = persist(address, lambda: store_of(address).read(address, *span))
    except Missing:
        raise StorageError(f"{address} was removed while it was read: start again with --retry-failed") from None
    METER.count(bytes=len(content))
    if now != head:
        raise Replaced(f"{address} was replaced while it was read: start again with --retry-failed")
    return content


class Pieces:
    """Ranges of a file that are read, or under way."""

    def __init__(self, address: Address, head: Head) -> None:
        self._address, self._head = address, head
        self._found: dict[Span, Future[bytes]] = {}

    @property
    def bytes(self) -> int:
        return sum(stop - start for start, stop in self._found)

    def ask(self, wanted: Sequence[Span]) -> None:
        """Begin to read what is not here."""
        for span in spans.merged([span for span in wanted if self._holding(*span) is None]):
            self._found[span] = submit(partial(read, self._address, self._head, span))

    def take(self, start: int, stop: int) -> memoryview:
        """Bytes that were asked for, or are read now.  Raises StorageError."""
        holding = self._holding(start, stop)
        with METER.blocked():
            if holding is None:
                return memoryview(read(self._address, self._head, (start, stop)))
            found = self._found[holding].result()
        return memoryview(found)[start - holding[0] : stop - holding[0]]

    def drop(self, wanted: Sequence[Span]) -> None:
        """What was asked for is not needed any more."""
        for start, stop in wanted:
            if (holding := self._holding(start, stop)) is not None:
                self._found.pop(holding).cancel()

    def _holding(self, start: int, stop: int) -> Span | None:
        return next((span for span in self._found if span[0] <= start and stop <= span[1]), None)


class KeptPieces(Pieces):
    """Ranges that are kept on this machine's disk, as footers are: of a file that is asked for the same ones often."""

    def ask(self, wanted: Sequence[Span]) -> None:
        missing = []
        for span in wanted:
            if self._holding(*span) is not None:
                continue
            content = cache.kept(self._place(span))
            if content is None or len(content) != span[1] - span[0]:
                missing.append(span)
            else:
                self._found[span] = Future()
                self._found[span].set_result(content)
        for whole in spans.merged(missing):
            inside = [span for span in missing if whole[0] <= span[0] and span[1] <= whole[1]]
            self._found[whole] = submit(partial(self._fetched, whole, inside))

    def take(self, start: int, stop: int) -> memoryview:
        if self._holding(start, stop) is not None:
            return super().take(start, stop)
        self.ask([(start, stop)])
        try:
            return super().take(start, stop)
        finally:
            self.drop([(start, stop)])

    def _fetched(self, whole: Span, inside: Sequence[Span]) -> bytes:
        content = read(self._address, self._head, whole)
        for start, stop in inside:
            cache.keep(self._place((start, stop)), content[start - whole[0] : stop - whole[0]])
        return content

    def _place(self, span: Span) -> Path:
        return cache.place(self._address, self._head, "ranges") / f"{span[0]}-{span[1]}"


class Source(io.RawIOBase):
    """What pyarrow reads a file of ``size`` bytes through."""

    def __init__(self, pieces: Pieces, size: int) -> None:
        super().__init__()
        self._pieces, self._size, self._at = pieces, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def size(self) -> int:
        return self._size

    def read(self, count: int = -1) -> Any:
        stop = self._size if count < 0 else min(self._size, self._at + count)
        found = self._pieces.take(self._at, stop) if stop > self._at else memoryview(b"")
        self._at = stop
        return found


class RemoteParquet(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    """A Parquet file behind an address.  Only the chunks of the columns that are read are fetched."""

    def __init__(
        self, address: Address, checksums: bool = False, *, kept: bool = False, footer: Footer | None = None
    ) -> None:
        """``checksums``: those of pages are compared.  ``kept``: what is read is kept on this machine's disk.
        ``footer`` is that of an earlier look, whose version of the file is read, or none.

        Raises StorageError, FileNotFoundError.
        """
        with METER.blocked():
            self.footer = footer or footer_of(address)
        self._pieces = (KeptPieces if kept else Pieces)(address, self.footer.head)
        source = pa.PythonFile(Source(self._pieces, self.footer.head.size), mode="r")
        super().__init__(
            source,
            metadata=self.footer.metadata,
            pre_buffer=False,
            buffer_size=BUFFER_BYTES,
            page_checksum_verification=checksums,
        )

    @property
    def head(self) -> Head:
        return self.footer.head

    def read_ahead(self, row_group: int, columns: Collection[str]) -> None:
        """Begin to read columns of a row group, if that is not too much at once."""
        wanted = self._spans([row_group], columns)
        if self._fits(wanted):
            self._pieces.ask(wanted)

    def read_row_group(self, i: int, columns: Any = None, **options: Any) -> pa.Table:
        return self.read_row_groups([i], columns, **options)

    def read_row_groups(self, row_groups: Any, columns: Any = None, **options: Any) -> pa.Table:
        wanted = self._spans(row_groups, columns)
        self._pieces.ask(wanted)
        try:
            return super().read_row_groups(row_groups, columns, **options)
        finally:
            self._pieces.drop(wanted)

    def iter_batches(self, batch_size: int = 65536, row_groups: Any = None, **options: Any) -> Iterator[Any]:
        """The batches that a local file gives; row groups are fetched as they are needed, and one ahead."""
        groups = list(range(self.num_row_groups) if row_groups is None else row_groups)
        ends = list(accumulate(self.metadata.row_group(group).num_rows for group in groups))
        wanted = [self._spans([group], options.get("columns")) for group in groups]
        batches = super().iter_batches(batch_size, groups, **options)
        asked = dropped = rows = 0
        try:
            while True:
                while asked < len(groups) and (asked == 0 or ends[asked - 1] <= rows + batch_size):
                    if self._fits(wanted[asked]):
                        self._pieces.ask(wanted[asked])
                    asked += 1
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch
                rows += batch.num_rows
                while dropped < asked and ends[dropped] <= rows:
                    self._pieces.drop(wanted[dropped])
                    dropped += 1
        finally:
            for spans_of_group in wanted[dropped:asked]:
                self._pieces.drop(spans_of_group)

    def read(self, columns: Any = None, **options: Any) -> pa.Table:
        return self.read_row_groups(list(range(self.num_row_groups)), columns, **options)

    def _fits(self, wanted: Sequence[Span]) -> bool:
        return self._pieces.bytes + sum(stop - start for start, stop in wanted) <= AHEAD_BYTES

    def _spans(self, row_groups: Any, columns: Any) -> list[Span]:
        names = None if columns is None else {name.partition(".")[0] for name in columns}
        return spans.of_columns(self.footer.metadata, row_groups, names)


def open_parquet(place: Place) -> pq.ParquetFile:
    """A Parquet file wherever it is.  Raises StorageError, FileNotFoundError and pyarrow's errors."""
    return RemoteParquet(place) if isinstance(place, Address) else pq.ParquetFile(place, pre_buffer=False)
