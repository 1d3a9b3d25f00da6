"""Parquet files that may be anything: what pyarrow raises for them, and columns of bytes and text in all types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

UNREADABLE = (OSError, pa.ArrowException, ValueError)
"""What pyarrow raises for files that are not what they should be (UnicodeDecodeError, a ValueError, for odd names)."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves: what a dictionary or an extension type holds."""
    while pt.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if pt.is_dictionary(kind) else kind.storage_type
    return kind


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of that type holds bytes or text, in whatever form Arrow has for them."""
    kind = plain_type(kind)
    binary = pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind)
    return bool(binary or pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def as_bytes(values: pa.Array) -> pa.Array:
    """Values of any type that ``holds_bytes`` as binary or large_binary; those two and strings without a copy.

    Raises pyarrow's errors for other types.
    """
    while isinstance(values, pa.DictionaryArray | pa.ExtensionArray):
        values = values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values.storage
    if pt.is_binary(values.type) or pt.is_large_binary(values.type):
        return values
    if pt.is_string(values.type):
        return values.view(pa.binary())
    if pt.is_fixed_size_binary(values.type):
        return values.cast(pa.binary())
    if pt.is_large_string(values.type) or pt.is_string_view(values.type):
        return values.cast(pa.large_string()).view(pa.large_binary())
    return values.cast(pa.large_binary())


def as_texts(values: pa.Array | pa.ChunkedArray) -> list[str]:
    """A column as texts: bytes are UTF-8 (what is not is replaced), nulls empty, numbers as Python writes them."""
    return [as_text(value) for value in _python(values)]


def as_text(value: Any) -> str:
    """One value as text."""
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _python(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    if not holds_bytes(values.type):
        listed: list[Any] = values.to_pylist()
        return listed
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return [value for chunk in chunks for value in as_bytes(chunk).to_pylist()]


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once: Arrow finds none of them by name then."""
    return [name for name, count in Counter(names).items() if count > 1]
