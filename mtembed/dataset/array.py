"""Metadata and a raw array of bytes (arXiv 2412.05600, section 3.2): three files that ten lines of numpy read.

header.json         dtype, shape, form, sources and their hashes, model
embeddings.bin      the values, row after row, little-endian
metadata.parquet    all other columns; its row i belongs to vector i
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.dataset.atomic import json_object, read_json
from mtembed.dataset.form import Form
from mtembed.errors import OutputError
from mtembed.storage.address import Address, Place
from mtembed.storage.copies import local
from mtembed.storage.remote import read, tail
from mtembed.storage.store import Head

HEADER, VALUES, METADATA = "header.json", "embeddings.bin", "metadata.parquet"


@dataclass(frozen=True, slots=True)
class RawArray:
    """An array: ``header`` is the place of its header, ``rows`` its vectors, ``form`` how they are stored; ``head`` is
    that of its values behind an address."""

    header: Place
    rows: int
    form: Form
    head: Head | None = None

    @classmethod
    def open(cls, header: Place) -> RawArray:
        """Raises OutputError where the header cannot be read, or tells another size than the values have; StorageError,
        FileNotFoundError."""
        content = read_json(header) if isinstance(header, Path) else None
        try:
            content = json_object(local(header).read_bytes()) if content is None else content
            form = Form.of(content["form"])
            rows, width = (int(side) for side in content["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{header} is no header of an array of embeddings ({error}): make it again") from error
        values = _beside(header, VALUES)
        head = _head(values) if isinstance(values, Address) else None
        size = head.size if head else values.stat().st_size if isinstance(values, Path) and values.is_file() else None
        if width != form.width or size != rows * width * form.dtype.itemsize:
            told = "is not there" if size is None else f"has {size} bytes"
            raise OutputError(
                f"{values} {told}, and its header says {rows} x {width} values of {form.dtype.itemsize} bytes: "
                "copy it again, or make it again"
            )
        return cls(header, rows, form, head)

    @property
    def values(self) -> Place:
        return _beside(self.header, VALUES)

    @property
    def metadata(self) -> Place:
        return _beside(self.header, METADATA)

    @property
    def bytes(self) -> int:
        """Of all values."""
        return self.rows * self._row

    @property
    def _row(self) -> int:
        return int(self.form.width * self.form.dtype.itemsize)

    def column(self, first: int, count: int) -> pa.Array:
        """Stored values of some rows as a column of lists; on this machine their memory is the file's.

        Raises StorageError.
        """
        return pa.FixedSizeListArray.from_arrays(pa.array(self._stored(first, count)), self.form.width)

    def _stored(self, first: int, count: int) -> npt.NDArray[Any]:
        """Values [count * width]."""
        values, dtype = self.values, self.form.dtype
        if isinstance(values, Path):
            whole: npt.NDArray[Any] = np.memmap(values, dtype, "r", shape=(self.rows, self.form.width))
            return whole[first : first + count].reshape(-1)
        if not count or self.head is None:
            return np.empty(0, dtype)
        return np.frombuffer(read(values, self.head, (first * self._row, (first + count) * self._row)), dtype)


def _beside(header: Place, name: str) -> Place:
    return header.with_name(name) if isinstance(header, Path) else header.above(1, name)


def _head(values: Address) -> Head | None:
    """What is behind an address; None where nothing is.  Raises StorageError."""
    try:
        return tail(values, 8)[1]
    except FileNotFoundError:
        return None
