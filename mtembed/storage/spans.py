"""Ranges of bytes: those of a Parquet file's columns, and which of them are read in one request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pyarrow.parquet as pq

Span = tuple[int, int]  # from, up to but not including
LARGEST_HOLE = 1 << 16  # bytes that are read for nothing rather than asked for twice
HOLE_SHARE = 0.01  # or this share of what is wanted


def of_columns(footer: pq.FileMetaData, row_groups: Iterable[int], columns: Collection[str] | None) -> list[Span]:
    """Where the chunks of columns (by their top name; None: all) lie."""
    found = []
    for number in row_groups:
        group = footer.row_group(number)
        for i in range(group.num_columns):
            chunk = group.column(i)
            if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
                start = chunk.data_page_offset
                if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
                    start = chunk.dictionary_page_offset
                found.append((start, start + chunk.total_compressed_size))
    return found


def merged(spans: Sequence[Span]) -> list[Span]:
    """In order, neighbours with small holes between them as one."""
    hole = min(LARGEST_HOLE, int(HOLE_SHARE * sum(stop - start for start, stop in spans)))
    found: list[Span] = []
    for start, stop in sorted(span for span in spans if span[1] > span[0]):
        if found and start - found[-1][1] <= hole:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
