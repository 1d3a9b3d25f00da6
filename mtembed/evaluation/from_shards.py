"""Baselines that the engine makes from the shards, for the labelled rows of a dataset and the same fragments of them:
band statistics, random convolutions, and the dataset's own network with random weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mtembed import models
from mtembed.archive.shards import find_shards, fingerprint, open_shard
from mtembed.config import RunConfig
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.settings import Settings
from mtembed.errors import MtembedError, UsageError
from mtembed.evaluation.labelled import Labelled
from mtembed.models import bands, rcf
from mtembed.run.embed import embed
from mtembed.run.plan import plan
from mtembed.run.progress import Progress
from mtembed.storage.address import Place
from mtembed.types import FloatArray, Tick

KEY = ("grid_cell", "product_id", "pixel_bbox")  # what names a fragment of the archive
SEED = 0  # of the random weights
MISSING = "whose pixels are not in --shards"
Key = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Maker:
    """A model that a baseline is made with; ``name`` is that of its features."""

    name: str
    model: str
    weights: str | None = None
    model_card: str | None = None


def sources(shards: Sequence[str]) -> list[dict[str, Any]]:
    """What identifies the shards in a result.  Raises UsageError where there are none."""
    return [dict(_source(path)) for path in find_shards(shards)]


def _source(path: Place) -> Iterator[tuple[str, Any]]:
    yield "file", path.name
    try:
        with open_shard(path) as file:
            mark = fingerprint(path, file.metadata.num_rows)
    except MtembedError:  # the run tells what is wrong with it
        return
    yield from (("rows", mark.rows), ("bytes", mark.size), ("footer_sha256", mark.footer_sha256))


def with_baselines(
    dataset: EmbeddingDataset, rows: Labelled, shards: Sequence[str], folder: Path, tick: Tick
) -> Labelled:
    """The labelled rows with vectors of the baselines beside their own; rows that lack one are counted and left out.

    ``folder`` keeps the baselines' datasets: with the same one, what is finished is not made again.  Raises UsageError
    where the dataset's fragments are not known, or are not those of the shards.
    """
    settings = _settings(dataset)
    dataset.require(KEY, "--shards")
    keys = _keys(dataset, rows)
    folder.mkdir(parents=True, exist_ok=True)
    cells = folder / f"cells-{_digest(sorted({key[0] for key in keys}))}.txt"
    cells.write_text("".join(f"{name}\n" for name in sorted({key[0] for key in keys})))
    options = _options(settings) | {"cells": str(cells), "max_failures": 1.0}  # cells that fail cost their rows alone
    _require_source(dataset, settings, shards, options)
    makers, notes = _makers(settings)
    beside, there = {}, np.ones(len(rows), bool)
    for maker in makers:
        name = f"{maker.name}-{_digest([maker.model, maker.weights, options])}"
        config = {field: getattr(maker, field) for field in ("model", "weights", "model_card")}
        config |= {"output": str(folder / name), **options}
        embed(shards, on_progress=_told(maker.name, tick), **config)
        beside[maker.name], found = _aligned(folder / name, keys)
        there &= found
    if not there.any():
        raise UsageError(
            f"none of the labelled fragments of {dataset.name} is in --shards: name the shards that it was made from"
        )
    with_them = replace(rows, beside=beside, notes=(*rows.notes, *notes))
    return with_them.rows(there, rows.target.narrowed(there, "--shards"), MISSING)


def _settings(dataset: EmbeddingDataset) -> Settings:
    """How the dataset was made.  Raises UsageError where its manifest does not say."""
    try:
        if dataset.manifest is not None:
            return msgspec.convert(dataset.manifest["settings"], Settings)
    except (KeyError, msgspec.ValidationError):
        pass
    raise UsageError(
        f"{dataset.name} has no manifest that says how its fragments were cut, which --shards needs: "
        "name the output folder of one run, or leave --shards out"
    )


def _options(settings: Settings) -> dict[str, Any]:
    """What decides which fragments there are, and their pixels."""
    names = ("fragment_size", "overlap", "border_shift", "offset", "max_nodata")
    return {name: getattr(settings, name) for name in names}


def _makers(settings: Settings) -> tuple[list[Maker], list[str]]:
    """The baselines that say something of this model, and why one is not among them."""
    statistics = next(spec for spec in bands.SPECS if spec.source == settings.source)
    made = [Maker("bands", statistics.name), Maker("rcf", rcf.SPECS[0].name)]
    notes = []
    if not settings.model_card and settings.model not in models.names():
        notes.append(f"no baseline of random weights: {settings.model} is no model of this mtembed")
    elif models.get(settings.model, settings.model_card).trained:
        made.append(Maker("random-weights", settings.model, f"random:{SEED}", settings.model_card))
    return [maker for maker in made if maker.model != settings.model or maker.weights], notes


def _require_source(
    dataset: EmbeddingDataset, settings: Settings, shards: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Raises UsageError where the shards are of another source than the dataset."""
    source = plan(RunConfig.of(shards, model=rcf.SPECS[0].name, **options)).source  # a model that runs on all of them
    if source != settings.source:
        raise UsageError(
            f"--shards are of {source}, and {dataset.name} was made from {settings.source}: "
            "name the shards that it was made from"
        )


def _told(name: str, tick: Tick) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        if progress.total:
            tick(f"embedding: {name}", progress.total - progress.remaining, progress.total)

    return tell


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


# -- joining ----------------------------------------------------------------------------------------------------------


def _key_rows(table: Any) -> list[Key]:
    cells, products, boxes = (table[name].to_pylist() for name in KEY)
    return [(cell, product, tuple(box or ())) for cell, product, box in zip(cells, products, boxes, strict=True)]


def _keys(dataset: EmbeddingDataset, rows: Labelled) -> list[Key]:
    """Of the labelled rows, in their order."""
    found: list[Key] = [("", "", ())] * len(rows)
    for number in np.unique(rows.file).tolist():
        mine = np.flatnonzero(rows.file == number)
        _, table = dataset.take(number, rows.row[mine], KEY, vectors=False)
        for at, key in zip(mine.tolist(), _key_rows(table), strict=True):
            found[at] = key
    return found


def _aligned(folder: Path, keys: Sequence[Key]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Vectors float32 [n, D] of the fragments that ``keys`` name, and which of them are there and finite."""
    if not any((folder / "embeddings").glob("*.parquet")):
        return np.zeros((len(keys), 1), np.float32), np.zeros(len(keys), bool)
    made = open_dataset(folder)
    rows_of: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        rows_of.setdefault(key, []).append(i)
    vectors, there = np.zeros((len(keys), made.dim), np.float32), np.zeros(len(keys), bool)
    for batch in made.batches(KEY):
        assert batch.vectors is not None
        for i, key in enumerate(_key_rows(batch.table)):
            if key in rows_of:
                vectors[rows_of[key]], there[rows_of[key]] = batch.vectors[i], np.isfinite(batch.vectors[i]).all()
    return vectors, there
