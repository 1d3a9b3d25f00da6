"""What is known before any worker starts: the input, its first cell, the model and the output folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtembed import models
from mtembed.archive import tiff
from mtembed.archive.metadata import check_metadata, find_metadata
from mtembed.archive.reader import cell_blobs
from mtembed.archive.shards import find_shards, missing_columns, open_shard
from mtembed.config import RunConfig
from mtembed.dataset import manifest
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.settings import Settings
from mtembed.errors import MtembedError, ShardError, UsageError
from mtembed.models import ModelSpec
from mtembed.parquet import UNREADABLE
from mtembed.sources import CORE_SIDE, source_of
from mtembed.text import printable
from mtembed.types import Source

SHARDS_TRIED = 20  # for the first cell
CELLS_TRIED = 10  # of a shard


@dataclass(frozen=True, slots=True)
class FirstCell:
    """The first readable cell of the input: its source, rows and columns of its finest band, each band's share of
    those pixels (0..1).

    ``encodings`` are those of its bands, ``place`` its shard and row group; empty and None where no cell was readable.
    """

    source: Source
    rows: int
    cols: int
    band_shares: tuple[float, ...]
    encodings: frozenset[str] = frozenset()
    place: tuple[Path, int] | None = None

    @classmethod
    def of_core(cls, source: Source, bands: int) -> FirstCell:
        """What stands in for it where no cell was readable."""
        return cls(source, CORE_SIDE, CORE_SIDE, (1.0,) * bands)


@dataclass(frozen=True, slots=True)
class Plan:
    """``mine`` are the indexes of the shards that this process embeds, ``earlier`` the manifest of an earlier start."""

    config: RunConfig
    spec: ModelSpec
    shards: tuple[Path, ...]
    mine: tuple[int, ...]
    first_cell: FirstCell
    dataset: Dataset
    earlier: Manifest | None
    warnings: tuple[str, ...]

    @property
    def source(self) -> Source:
        return self.first_cell.source

    @property
    def made_with(self) -> Settings | None:
        """Settings of the earlier start."""
        return self.earlier.settings if self.earlier else None

    @property
    def stems(self) -> tuple[str, ...]:
        """Stems of the parts that this process makes."""
        return tuple(printable(self.shards[index].stem) for index in self.mine)


def plan(config: RunConfig) -> Plan:
    """Look at the options, the input and the output folder.  Raises UsageError and SettingsError; writes nothing."""
    spec = models.get(config.model)
    spec.require_size(config.fragment_size or spec.size)
    if config.metadata:
        check_metadata(Path(config.metadata))
    if config.cells and not Path(config.cells).is_file():
        raise UsageError(f"--cells {config.cells} does not exist: give a text or Parquet file of cells")
    shards = tuple(find_shards(config.shards))
    dataset = Dataset(Path(config.output or f"embeddings-{spec.name}"), config.shard_index, config.shard_count)
    first = first_cell(shards, spec)
    return Plan(
        config=config,
        spec=spec,
        shards=shards,
        mine=tuple(range(config.shard_index, len(shards), config.shard_count)),
        first_cell=first,
        dataset=dataset,
        earlier=_earlier(config, dataset),
        warnings=_warnings(config, spec, shards, first),
    )


def seen_again(plan: Plan) -> Plan:
    """The plan with the manifest as it is now that the folder is locked."""
    return replace(plan, earlier=_earlier(plan.config, plan.dataset))


def _earlier(config: RunConfig, dataset: Dataset) -> Manifest | None:
    if config.fresh or not os.path.lexists(dataset.manifest_path):
        return None
    return manifest.read(dataset.manifest_path)


def _warnings(config: RunConfig, spec: ModelSpec, shards: Sequence[Path], first: FirstCell) -> tuple[str, ...]:
    found = []
    if not spec.recommends(first.source):
        found.append(f"{spec.name} was made for {spec.source}; this is {first.source}")
    if not config.metadata and find_metadata(shards[0]) is None:
        found.append("no metadata.parquet was found: time stamps come from the shards themselves")
    return tuple(found)


def first_cell(shards: Sequence[Path], spec: ModelSpec) -> FirstCell:
    """Source and sizes from the first shard that can be opened.  Raises UsageError when it lacks the model's bands."""
    for path in shards[:SHARDS_TRIED]:
        try:
            with open_shard(path) as file:
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
        except (ShardError, *UNREADABLE):
            continue  # it will be a line in failures.jsonl
        source = source_of(columns) or spec.source
        bands = spec.bands_for(source)
        missing = missing_columns(columns, bands)
        if missing:
            raise UsageError(f"{path.name} lacks {', '.join(missing)}, which {spec.name} needs: choose another model")
        if rows:
            return _of_shard(path, rows, source, bands)
    return FirstCell.of_core(spec.source, len(spec.bands_for(spec.source)))


def _of_shard(path: Path, rows: int, source: Source, bands: Sequence[str]) -> FirstCell:
    for row in range(min(rows, CELLS_TRIED)):
        try:
            infos = [tiff.parse(blob) for blob in cell_blobs(path, row, bands)]
        except MtembedError:
            continue
        height, width = max((info.rows, info.cols) for info in infos)
        pixels = max(1, height * width)
        return FirstCell(
            source=source,
            rows=height,
            cols=width,
            band_shares=tuple(min(1.0, info.rows * info.cols / pixels) for info in infos),
            encodings=frozenset(info.encoding for info in infos),
            place=(path, row),
        )
    return FirstCell.of_core(source, len(bands))
