"""What is looked for: one direction, made of rows, places, vectors, pictures or words, and of counter-examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import shapely

from mtembed.dataset.places import centres, columns_for
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.similarity.best import Floats, unit
from mtembed.similarity.scan import require

AGAINST = 0.5  # weight of counter-examples (Rocchio 1971; less than examples, which are what is known)
PREFIX = 8  # letters of a unique_id that are enough where only one row begins with them
NEAR_KM = 3.0  # of a centre, where a dataset has no footprints
EARTH_KM = 6371.0
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Examples:
    """What a user points at.  ``places`` are (latitude, longitude) in degrees, ``vectors`` .npy files."""

    rows: tuple[str, ...] = ()
    minus_rows: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    vectors: tuple[Path, ...] = ()
    images: tuple[Path, ...] = ()
    text: str | None = None

    def __post_init__(self) -> None:
        if not (self.rows or self.places or self.vectors or self.images or self.text):
            raise UsageError("nothing to look for: give --row, --at, --vector, --image or --text")
        for lat, lon in self.places:
            if not (-90 <= lat <= 90 and -180 <= lon <= 180):
                raise UsageError(f"--at {lat},{lon} is no place: give latitude,longitude in degrees")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The direction, float64 [D] of length 1, and the cells that the rows among the examples lie in."""

    direction: Floats
    cells: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Found:
    vector: Floats
    cell: str | None


def target(
    dataset: EmbeddingDataset, examples: Examples, embedded: Callable[[Path], Floats], worded: Callable[[str], Floats]
) -> Target:
    """The mean of the examples less half the mean of the counter-examples, each of length 1.

    ``embedded`` and ``worded`` make vectors [D] of a picture and of words.  Raises UsageError for a row that is not
    there, a place without data, a vector of another length.
    """
    rows = _rows(dataset, (*examples.rows, *examples.minus_rows))
    places = [_at(dataset, place) for place in examples.places]
    wanted = [*(rows[name] for name in examples.rows), *places]
    directions = [
        *(found.vector for found in wanted),
        *(_vector(path, dataset) for path in examples.vectors),
        *(embedded(path) for path in examples.images),
        *([worded(examples.text)] if examples.text else []),
    ]
    direction = unit(np.stack(directions)).mean(axis=0)
    if examples.minus_rows:
        direction = direction - AGAINST * unit(np.stack([rows[name].vector for name in examples.minus_rows])).mean(0)
    if not np.isfinite(direction).all() or not np.any(np.abs(direction) > 1e-12):
        raise UsageError("the query has no direction: its vector is zero or not finite, or examples cancel each other")
    cells = frozenset(found.cell for found in wanted if found.cell)
    return Target(unit(direction[None])[0], cells)


def _rows(dataset: EmbeddingDataset, names: Sequence[str]) -> dict[str, _Found]:
    if not names:
        return {}
    dataset.require(["unique_id"], "--row")
    columns = [name for name in ("unique_id", "grid_cell") if name in dataset.columns]
    found: dict[str, _Found] = {}
    for batch in dataset.batches(columns, vectors=False):
        ids = batch.table["unique_id"]
        for name in names:
            mask = pc.starts_with(ids, name) if len(name) >= PREFIX else pc.equal(ids, name)
            matches = np.flatnonzero(pc.fill_null(mask, False).to_numpy())
            whole = [i for i in matches if ids[int(i)].as_py() == name] or matches
            if name in found and len(whole):
                raise UsageError(f"--row {name} is the beginning of several rows: give the whole unique_id")
            if len(whole) > 1 and ids[int(whole[0])].as_py() != name:
                raise UsageError(f"--row {name} is the beginning of several rows: give the whole unique_id")
            if len(whole):
                found[name] = _row(dataset, batch.file, batch.first_row + int(whole[0]))
    for name in names:
        if name not in found:
            raise UsageError(
                f"{dataset.name} has no row {name[:80]}: give a unique_id of it, or a place with --at LAT,LON"
            )
    return found


def _row(dataset: EmbeddingDataset, file: int, row: int) -> _Found:
    columns = ["grid_cell"] if "grid_cell" in dataset.columns else []
    vectors, table = dataset.take(file, [row], columns)
    assert vectors is not None
    return _Found(vectors[0].astype(np.float64), table["grid_cell"][0].as_py() if columns else None)


def _at(dataset: EmbeddingDataset, place: Place) -> _Found:
    """The row whose footprint holds a place, nearest its centre, the latest of several."""
    require(dataset, ("centre_lat", "centre_lon"), "--at")
    names = columns_for(dataset, ("centre_lat", "centre_lon", "timestamp"))
    held = "geometry" in dataset.columns
    names = list(dict.fromkeys([*names, "geometry"])) if held else names
    best: tuple[float, Any, int, int] | None = None
    nearest = np.inf
    for batch in dataset.batches(names, vectors=False):
        km = _distance(place, *centres(batch.table))
        nearest = min(nearest, float(np.nanmin(km, initial=np.inf)))
        here = np.flatnonzero(km < (50.0 if held else NEAR_KM))
        if held and len(here):
            shapes = shapely.from_wkb(batch.table["geometry"].to_numpy()[here])
            here = here[shapely.intersects_xy(shapes, place[1], place[0])]
        for row in here:
            time = batch.table["timestamp"][int(row)].as_py() if "timestamp" in names else ""
            key = (round(float(km[row]), 6), _Latest(time or ""), batch.file, batch.first_row + int(row))
            best = key if best is None or key < best else best
    if best is None:
        far = f"the nearest row is {nearest:,.0f} km away" if np.isfinite(nearest) else "no row has a place"
        raise UsageError(f"{dataset.name} has no data at {place[0]},{place[1]}: {far}")
    return _row(dataset, best[2], best[3])


class _Latest(str):
    """A time stamp that sorts before earlier ones."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def _distance(place: Place, lat: Floats, lon: Floats) -> Floats:
    """Great-circle distances in km (haversine formula)."""
    one, two = np.radians(place[0]), np.radians(lat)
    half = np.sin((two - one) / 2) ** 2 + np.cos(one) * np.cos(two) * np.sin(np.radians(lon - place[1]) / 2) ** 2
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))))


def _vector(path: Path, dataset: EmbeddingDataset) -> Floats:
    try:
        found = np.load(path, allow_pickle=False)
        values = np.asarray(found, np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--vector {path} cannot be read ({error}): give a .npy file of numbers") from error
    if (
        not isinstance(found, np.ndarray)
        or values.ndim not in (1, 2)
        or values.shape[-1] != dataset.dim
        or not values.size
    ):
        shape = " x ".join(map(str, values.shape)) or "a single number"
        raise UsageError(f"--vector {path} is {shape}: {dataset.name} has vectors of {dataset.dim} values")
    rows = unit(np.atleast_2d(values))
    if not np.isfinite(rows).all():
        raise UsageError(f"--vector {path} holds a vector that is zero or not finite: give one with a direction")
    return np.asarray(rows.mean(axis=0))
