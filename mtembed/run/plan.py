"""What is known before any worker starts: the input, its first cell, the model and the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtembed import models
from mtembed.archive.metadata import MetadataIndex, check_metadata, find_metadata
from mtembed.archive.selection import Selection, read_cell_list
from mtembed.archive.shards import find_shards
from mtembed.archive.where import by_metadata
from mtembed.config import RunConfig
from mtembed.dataset import manifest
from mtembed.dataset.far import dataset_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.settings import Settings
from mtembed.errors import StorageError, UsageError
from mtembed.models import ModelSpec
from mtembed.run.first_cell import FirstCell, first_cell
from mtembed.storage.address import Address, Place, place_of
from mtembed.storage.remote import tail
from mtembed.text import printable
from mtembed.types import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """``mine`` are the indexes of the shards that this process embeds, ``earlier`` the manifest of an earlier start,
    ``selection`` the cells that are wanted."""

    config: RunConfig
    spec: ModelSpec
    shards: tuple[Place, ...]
    mine: tuple[int, ...]
    first_cell: FirstCell
    dataset: Dataset
    earlier: Manifest | None
    selection: Selection
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
        """Stems of the parts that this process may make."""
        return tuple(printable(self.shards[index].stem) for index in self.mine)

    @property
    def every_stem(self) -> tuple[str, ...]:
        """Stems of the parts of all shards."""
        return tuple(printable(path.stem) for path in self.shards)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all shards."""
        return tuple(printable(path.name) for path in self.shards)


def plan(config: RunConfig) -> Plan:
    """Look at the options, the input and the output folder; write nothing.

    Raises UsageError for options and inputs that cannot be, OutputError for a manifest that cannot be read.
    """
    try:
        return _plan(config)
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be read ({error.strerror}): check its name and permissions"
        ) from error


def _plan(config: RunConfig) -> Plan:
    spec = models.get(config.model, config.model_card)
    spec.require_size(config.fragment_size or spec.size)
    spec.require_package()
    if config.metadata:
        check_metadata(place_of(config.metadata))
    if config.cells and not Path(config.cells).is_file():
        raise UsageError(f"--cells {config.cells} does not exist: give a text or Parquet file of cells")
    selection = Selection(config.bbox, read_cell_list(Path(config.cells)) if config.cells else None)
    shards = tuple(find_shards(config.shards))
    _require_reached(shards[0])
    selection = selected(selection, config.where, config.metadata, shards)
    named = f"embeddings-{spec.name}{'-dense' if config.dense else ''}"
    dataset = dataset_of(config.output or named, config.shard_index, config.shard_count)
    first = first_cell(shards, spec)
    if config.dense:
        own = min(first.rows, first.cols) if spec.whole else spec.size
        spec = models.mapped(spec, config.fragment_size or own)
    _require_room(config.fragment_size or spec.size, first)
    return Plan(
        config=config,
        spec=spec,
        shards=shards,
        mine=tuple(range(config.shard_index, len(shards), config.shard_count)),
        first_cell=first,
        dataset=dataset,
        earlier=None if config.fresh else _earlier(dataset),
        selection=selection,
        warnings=_warnings(config, spec, shards, first),
    )


def selected(selection: Selection, where: str | None, metadata: str | None, shards: Sequence[Place]) -> Selection:
    """The selection with what the metadata say of it.  Raises UsageError where there are none and they are needed."""
    far = any(isinstance(shard, Address) for shard in shards)
    if where is None and (selection.everything or not far):
        return selection
    named = [place_of(metadata)] if metadata else [find_metadata(shard) for shard in shards]
    files = list(dict.fromkeys(place for place in named if place is not None))
    if where is not None and not files:
        raise UsageError("--where needs metadata.parquet, and there is none beside the shards: name it with --metadata")
    return by_metadata(selection, where, files, skip=far)


def _require_reached(shard: Place) -> None:
    """Raises UsageError for an address that does not answer, before others are tried as long."""
    if isinstance(shard, Address):
        try:
            tail(shard, 8)
        except (StorageError, FileNotFoundError) as error:
            raise UsageError(str(error)) from None


def _require_room(size: int, first: FirstCell) -> None:
    """Raises UsageError where not one fragment fits into the first cell."""
    least = min(first.rows, first.cols)
    if size > least:
        raise UsageError(
            f"a fragment of {size} px does not fit into a cell of {first.rows} x {first.cols} px: "
            f"choose a --fragment-size of {least} or less"
        )


def seen_again(plan: Plan) -> Plan:
    """The plan with the manifest as it is now, whoever wrote it."""
    return replace(plan, earlier=_earlier(plan.dataset))


def _earlier(dataset: Dataset) -> Manifest | None:
    dataset.look()
    return manifest.read(dataset.manifest_path) if dataset.has(dataset.manifest_path) else None


def _warnings(config: RunConfig, spec: ModelSpec, shards: Sequence[Place], first: FirstCell) -> tuple[str, ...]:
    found = []
    if not spec.recommends(first.source):
        found.append(f"{spec.name} was made for {spec.source}; this is {first.source}")
    metadata = place_of(config.metadata) if config.metadata else find_metadata(shards[0])
    if metadata is None:
        found.append("no metadata.parquet was found: time stamps come from the shards themselves")
    found += MetadataIndex(metadata).of_shard(shards[0].name).notes
    return tuple(found)
