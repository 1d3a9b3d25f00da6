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

from mtembed.dataset.atomic import read_json
from mtembed.dataset.form import Form
from mtembed.errors import OutputError

HEADER, VALUES, METADATA = "header.json", "embeddings.bin", "metadata.parquet"


@dataclass(frozen=True, slots=True)
class RawArray:
    """An array on disk: ``header`` is the path of its header, ``rows`` its vectors, ``form`` how they are stored."""

    header: Path
    rows: int
    form: Form

    @classmethod
    def open(cls, header: Path) -> RawArray:
        """Raises OutputError where the header cannot be read, or tells another size than the values have."""
        content = read_json(header)
        try:
            form = Form.of(content["form"])
            rows, width = (int(side) for side in content["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{header} is no header of an array of embeddings ({error}): make it again") from error
        found = cls(header, rows, form)
        size = found.values.stat().st_size if found.values.is_file() else None
        if width != form.width or size != rows * width * form.dtype.itemsize:
            told = "is not there" if size is None else f"has {size} bytes"
            raise OutputError(
                f"{found.values} {told}, and its header says {rows} x {width} values of {form.dtype.itemsize} bytes: "
                "copy it again, or make it again"
            )
        return found

    @property
    def values(self) -> Path:
        return self.header.with_name(VALUES)

    @property
    def metadata(self) -> Path:
        return self.header.with_name(METADATA)

    def column(self, first: int, count: int) -> pa.Array:
        """Stored values of some rows as a column of lists; their memory is the file's."""
        shape, width = (self.rows, self.form.width), self.form.width
        stored: npt.NDArray[Any] = np.memmap(self.values, self.form.dtype, "r", shape=shape)
        return pa.FixedSizeListArray.from_arrays(pa.array(stored[first : first + count].reshape(-1)), width)
