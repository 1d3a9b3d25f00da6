"""Parts of a finished dataset made again from the input: as a resumed run makes what is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mtembed import models
from mtembed.archive.shards import find_shards
from mtembed.config import RunConfig
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest, read
from mtembed.errors import UsageError
from mtembed.run.plan import Plan, plan


def repairs(
    root: Path,
    bad: Collection[str],
    shards: Sequence[str | Path],
    *,
    weights: str | None = None,
    cells: str | None = None,
    metadata: str | None = None,
) -> Iterator[tuple[Plan, frozenset[str]]]:
    """For every process that made one of the ``bad`` parts: its run, and the stems it must make again.

    Options come from the manifests.  ``weights``, ``cells`` and ``metadata`` are files of which a manifest keeps the
    name or the digest only.  Raises UsageError where the input of a bad part or one of these files is not given, and
    OutputError for a manifest that cannot be read; nothing is written here.
    """
    found = find_shards(str(path) for path in shards)
    absent = sorted(set(bad) - {path.stem for path in found})
    if absent:
        raise UsageError(f"the input of {absent[0]} is not among --shards: name every shard whose part is to be made")
    for path in Dataset(root).manifests():
        manifest, dataset = read(path), Dataset.of_manifest(path)
        mine = frozenset(stem for stem in bad if stem in manifest.shards)
        if mine:
            files = {"weights": _weights(manifest, weights), "cells": _cells(manifest, cells), "metadata": metadata}
            yield plan(_config(manifest, dataset, [str(shard) for shard in found], files)), mine


def _config(manifest: Manifest, dataset: Dataset, shards: list[str], files: dict[str, str | None]) -> RunConfig:
    made = manifest.settings
    same = ("fragment_size", "overlap", "border_shift", "offset", "max_nodata", "dtype", "extras")
    cells = ("bbox", "where", "limit")
    machine = ("precision", "engine", "device", "batch", "model", "model_card", "dense")
    return RunConfig.of(
        shards,
        output=str(dataset.root),
        shard_index=dataset.index,
        shard_count=dataset.count,
        accept_licence=True,  # as when the dataset was made
        **{name: getattr(made, name) for name in (*same, *cells, *machine)},
        **files,
    )


def _weights(manifest: Manifest, given: str | None) -> str | None:
    """None: the published file."""
    settings = manifest.settings
    made, published = settings.weights, models.get(settings.model, settings.model_card).published
    if given or made.startswith("random:"):
        return given or made
    if published is None or published.file != made:
        raise UsageError(f"the dataset was made with the weights {made}: give that file with --weights")
    return None


def _cells(manifest: Manifest, given: str | None) -> str | None:
    if manifest.settings.cells_sha256 and not given:
        raise UsageError("the dataset was made with a list of cells: give that file with --cells")
    return given
