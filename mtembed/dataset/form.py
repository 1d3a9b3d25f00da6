"""Vectors in fewer bytes: how the values of a reduced dataset are stored, and what they mean.

A form is named in the footer of a Parquet file, or in the header of an array, under ``KEY``; a reader gets float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

KEY = b"mtembed:form"
SCALES = "embedding_scale"  # column of the form int8: what a row's values are multiplied with
STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bits": np.dtype("u1"),
}
LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
}  # finite values (IEEE 754; bfloat16: (2 - 2^-7) 2^127)
Values = npt.NDArray[Any]


class DoesNotFitError(ValueError):
    """A value that a form cannot hold; ``row`` is its row among those that were given."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How vectors of ``dim`` values are stored.

    ``int8``: a scale for each row; ``uint8``: ``offset`` and ``scale`` for each dimension, float32 [dim]; ``bits``: the
    sign of each value, eight to a byte, the first in the lowest bit.
    """

    name: str
    dim: int
    scale: FloatArray | None = None
    offset: FloatArray | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return STORED[self.name]

    @property
    def width(self) -> int:
        """Stored values of a vector."""
        return -(-self.dim // 8) if self.name == "bits" else self.dim

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are needed beside the values."""
        return (SCALES,) if self.name == "int8" else ()

    def encode(self, vectors: FloatArray) -> tuple[Values, FloatArray | None]:
        """Values [n, width] of vectors float32 [n, dim], and scales [n] where rows have them.

        Raises DoesNotFitError for the first vector with a value that would become another kind of number.
        """
        if self.name == "float32":
            return np.ascontiguousarray(vectors, self.dtype), None
        self._require_fit(vectors)
        if self.name == "float16":
            return vectors.astype(self.dtype), None
        if self.name == "bfloat16":
            return _to_bfloat16(vectors), None
        if self.name == "bits":
            return np.packbits(vectors >= 0, axis=1, bitorder="little"), None
        if self.name == "int8":
            most = np.abs(vectors).max(axis=1)
            scales = np.where(most > 0, most / np.float32(127), np.float32(1)).astype(np.float32)
            return np.rint(vectors / scales[:, None]).clip(-127, 127).astype(np.int8), scales
        assert self.scale is not None and self.offset is not None
        return np.rint((vectors - self.offset) / self.scale).clip(0, 255).astype(np.uint8), None

    def decode(self, values: Values, scales: FloatArray | None = None) -> FloatArray:
        """Vectors float32 [n, dim] of stored values [n, width]."""
        if self.name == "bfloat16":
            return (np.ascontiguousarray(values, np.uint32) << 16).view(np.float32)
        if self.name == "bits":
            signs = np.unpackbits(np.ascontiguousarray(values), axis=1, count=self.dim, bitorder="little")
            return np.where(signs, np.float32(1), np.float32(-1))
        if self.name == "int8":
            assert scales is not None
            return np.asarray(values * scales[:, None].astype(np.float32), np.float32)
        if self.name == "uint8":
            assert self.scale is not None and self.offset is not None
            return np.asarray(values * self.scale + self.offset, np.float32)
        return np.asarray(values, np.float32)

    def _require_fit(self, vectors: FloatArray) -> None:
        with np.errstate(invalid="ignore"):
            if self.name in LARGEST:
                wrong = np.abs(vectors) > LARGEST[self.name]  # halves round beyond this; NaN stays NaN
                wrong |= np.isinf(vectors)
            else:
                wrong = ~np.isfinite(vectors)
        if wrong.any():
            row = int(wrong.any(axis=1).argmax())
            raise DoesNotFitError(row, f"the value {vectors[row][wrong[row]][0]:g} does not fit into {self.name}")

    def as_json(self) -> dict[str, Any]:
        """As footers and headers have it; numbers are exact."""
        more = {"scale": self.scale, "offset": self.offset}
        lists = {name: [float(one) for one in value] for name, value in more.items() if value is not None}
        return {"name": self.name, "dim": self.dim, **lists}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Form:
        """Raises ValueError for what is no form."""
        try:
            name, dim = str(content["name"]), int(content["dim"])
            found = {key: np.array(content[key], np.float32) for key in ("scale", "offset") if key in content}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its form cannot be read ({error})") from error
        if name not in STORED or dim < 1 or any(value.shape != (dim,) for value in found.values()):
            raise ValueError(f"its form {name[:20]} is not known here")
        if name == "uint8" and len(found) < 2:
            raise ValueError("its form uint8 has no scale")
        return cls(name, dim, **found)

    @classmethod
    def of_footer(cls, metadata: Mapping[bytes, bytes] | None) -> Form | None:
        """The form that a Parquet file names; None for plain vectors.  Raises ValueError for an unknown one."""
        if not metadata or KEY not in metadata:
            return None
        content = json.loads(metadata[KEY])
        if not isinstance(content, dict):
            raise ValueError("its form is not a JSON object")
        return cls.of(content)


def _to_bfloat16(vectors: FloatArray) -> npt.NDArray[np.uint16]:
    """The upper halves, rounded to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(vectors), np.uint16(0x7FC0), rounded)
