"""A Parquet file as a dataset that Arrow scans: columns that are named, row groups that statistics do not rule out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mtembed.errors import StorageError
from mtembed.storage.address import Place
from mtembed.storage.remote import KeptPieces, RemoteParquet, Source

if TYPE_CHECKING:
    import pyarrow.dataset as ds

AT_ONCE = 8  # runs of row groups, of which Arrow reads some side by side


@contextmanager
def scanned(place: Place) -> Iterator[ds.Dataset]:
    """The file's dataset; behind an address what is read of it is kept on this machine's disk.

    Raises StorageError, also where whoever scans it made another error of one; FileNotFoundError, pyarrow's errors.
    """
    import pyarrow.dataset as ds

    if isinstance(place, Path):
        yield ds.dataset(str(place), format="parquet")
        return
    problems: list[StorageError] = []
    form = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False))
    with RemoteParquet(place, kept=True) as file:
        schema, groups, head = file.schema_arrow, range(file.num_row_groups), file.head
    runs = [groups[first::AT_ONCE] for first in range(min(AT_ONCE, len(groups)))]
    fragments = [
        form.make_fragment(
            pa.PythonFile(_Told(KeptPieces(place, head), head.size, problems), mode="r"), row_groups=list(run)
        )
        for run in runs
    ]
    try:
        if fragments:
            fragments[0].ensure_complete_metadata()  # the others find the footer on disk
        yield ds.FileSystemDataset(fragments, schema, form)
    except Exception:
        if problems:
            raise problems[0] from None
        raise


class _Told(Source):
    """A source that notes why it could not be read."""

    def __init__(self, pieces: KeptPieces, size: int, problems: list[StorageError]) -> None:
        super().__init__(pieces, size)
        self._problems = problems

    def read(self, count: int = -1) -> Any:
        try:
            return super().read(count)
        except StorageError as error:
            self._problems.append(error)
            raise
