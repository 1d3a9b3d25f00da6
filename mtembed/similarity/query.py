"""Examples, and the one vector that they make: rows, places, files of vectors, images, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from mtembed.dataset.finding import Name
from mtembed.dataset.places import centres
from mtembed.errors import UsageError
from mtembed.parquet import first_line
from mtembed.similarity.places import covers, kilometres
from mtembed.similarity.rows import require
from mtembed.similarity.scoring import Doubles, Integers
from mtembed.similarity.target import Target

NEAR = 64  # rows around a place whose footprints are looked at
FRAGMENT_KM = 2.24  # side of a fragment where a dataset does not say it: 224 px of 10 m
PIXEL_KM = 0.01
MARGIN_KM = 0.2  # corners of a fragment are no further off than its projection turns it
SWAPPED_KM = 20.0
BYTES_OF_FILE = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """``vector`` is float64 [D] as it was given; ``row`` is its number in the target's rows, where it is one."""

    name: str
    vector: Doubles
    row: int | None = None


def combined(examples: Sequence[Example], counter: Sequence[Example]) -> Doubles:
    """The unit vector [D] that is searched for: the mean of the examples' directions, turned away from that of the
    counter-examples by as much as they differ (2 p - n).

    Raises UsageError where nothing is left.
    """
    if not examples:
        raise UsageError("there is no example to search for: name one with --row, --at, --vector, --image or --text")
    wanted = _mean(examples)
    if counter:
        wanted = 2 * wanted - _mean(counter)
    length = float(np.linalg.norm(wanted))
    if not length > 1e-9:
        raise UsageError("the examples cancel each other: leave one out")
    return np.asarray(wanted / length)


def _mean(examples: Sequence[Example]) -> Doubles:
    total = np.zeros(len(examples[0].vector))
    for example in examples:
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(example.vector))
        if not (np.isfinite(length) and length > 0):
            raise UsageError(f"{example.name} is a vector without a direction (NaN, or all zeros): choose another one")
        total += example.vector / length
    return np.asarray(total / len(examples))


# -- rows -------------------------------------------------------------------------------------------------------------


def of_rows(target: Target, names: Sequence[str], option: str) -> list[Example]:
    """Rows by ``unique_id``, or by as many of its first characters as tell it from others.  Raises UsageError."""
    if not names:
        return []
    require(target.rows, ("unique_id",), f"--{option}", "use --at LAT,LON or --vector FILE.npy")
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for first, table in target.rows.batches(("unique_id",)):
        column = table["unique_id"]
        for name in names:
            _note(found[name], name, column, first)
    rows = [_only(target, name, found[name], option) for name in names]
    vectors = target.vectors(np.array(rows, np.int64)).astype(np.float64)
    return [Example(f"--{option} {name}", vector, row) for name, vector, row in zip(names, vectors, rows, strict=True)]


def _note(found: dict[str, int], name: str, column: pa.ChunkedArray, first: int) -> None:
    """Ids that begin with a name, and the first row of each; two are enough to know that it is not unique."""
    if not name or name in found:
        return
    begins = np.flatnonzero(pc.fill_null(pc.starts_with(column, name), False).to_numpy())
    for row in begins.tolist():
        identity = column[row].as_py()
        if identity == name or len(found) < 2:
            found.setdefault(identity, first + row)
        if identity == name:
            return


def _only(target: Target, name: str, found: dict[str, int], option: str) -> int:
    if name in found:
        return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UsageError(f"--{option} {name} is the beginning of several rows: write more of its unique_id")
    raise UsageError(
        f"--{option} {name[:80]} is not in {target.name}: give a unique_id of it, as mtembed search --at LAT,LON "
        "--json shows them"
    )


def of_places(target: Target, places: Sequence[tuple[float, float]]) -> list[Example]:
    """The row whose footprint holds a place (latitude, longitude), and whose centre is nearest.  Raises UsageError."""
    if not places:
        return []
    require(target.rows, ("centre_lat", "centre_lon"), "--at", "use --row UNIQUE_ID or --vector FILE.npy")
    rows = [_at(target, place) for place in places]
    vectors = target.vectors(np.array(rows, np.int64)).astype(np.float64)
    names = [f"--at {lat:g},{lon:g}" for lat, lon in places]
    return [Example(name, vector, row) for name, vector, row in zip(names, vectors, rows, strict=True)]


def _at(target: Target, place: tuple[float, float]) -> int:
    lat, lon = place
    if not (-90 <= lat <= 90 and -360 <= lon <= 360):
        raise UsageError(f"--at {lat:g},{lon:g} is no place: give LAT,LON in degrees")
    ids, far = _around(target, place)
    inside = _holding(target, ids, far, place)
    if not len(inside):
        where = f"its nearest row is {far[0]:,.0f} km away" if len(far) else "none of its rows has a place"
        swapped = abs(lon) <= 90 and len(far) and _around(target, (lon, lat))[1][0] < min(SWAPPED_KM, far[0])
        advice = "latitude comes first" if swapped else "choose a place inside the dataset"
        raise UsageError(f"{target.name} has no data at {lat:g},{lon:g} ({where}): {advice}")
    return int(inside[0])


def _around(target: Target, place: tuple[float, float]) -> tuple[Integers, Doubles]:
    """The rows whose centres are nearest to a place, nearest first, and how far away in km."""
    ids, far = np.empty(0, np.int64), np.empty(0)
    for first, table in target.rows.batches(("centre_lat", "centre_lon")):
        away = kilometres(*centres(table), place)
        good = np.flatnonzero(np.isfinite(away))
        ids, far = np.append(ids, first + good), np.append(far, away[good])
        best = np.lexsort((ids, far))[:NEAR]
        ids, far = ids[best], far[best]
    return ids, far


def _holding(target: Target, ids: Integers, far: Doubles, place: tuple[float, float]) -> Integers:
    """Of the rows around a place, nearest first, those that hold it."""
    if not len(ids):
        return ids
    dataset = target.dataset
    if dataset is not None and "geometry" in dataset.dataset.columns:
        wkb = dataset.raw(target.numbers(ids), ("geometry",))["geometry"].to_numpy()
        shapes = shapely.from_wkb(wkb)
        if (shapely.get_dimensions(shapes) == 2).any():
            held: Integers = ids[covers(shapes, place)]
            return held
    near: Integers = ids[far <= _sides(target, ids) / 2 * np.sqrt(2)]
    return near


def _sides(target: Target, ids: Integers) -> Doubles:
    """Sides of rows' fragments in km, of pixels of 10 m."""
    boxes = target.rows.take(ids, ("pixel_bbox",))["pixel_bbox"].to_pylist()
    return np.array([FRAGMENT_KM if box is None else PIXEL_KM * (box[2] - box[0]) for box in boxes])


def overlapping(target: Target, rows: Sequence[int]) -> Integers:
    """Numbers of rows whose footprints share ground with those of the given rows, whatever cell they are of.

    Neighbouring cells of the grid overlap too.  Without footprints, those whose centre is less than a side away.
    """
    own = np.array(rows, np.int64)
    if not {"centre_lat", "centre_lon"} <= set(target.rows.columns):
        return own
    lat, lon = centres(target.rows.take(own, ("centre_lat", "centre_lon")))
    sides = _sides(target, own)
    found = [own]
    for first, table in target.rows.batches(("centre_lat", "centre_lon")):
        here = centres(table)
        for one in range(len(own)):
            away = kilometres(*here, (float(lat[one]), float(lon[one])))
            with np.errstate(invalid="ignore"):
                found.append(first + np.flatnonzero(away < np.sqrt(2) * sides[one] + MARGIN_KM))
    near: Integers = np.unique(np.concatenate(found))
    if target.dataset is None or "geometry" not in target.dataset.dataset.columns:
        return near
    shapes, mine = (
        shapely.from_wkb(target.dataset.raw(target.numbers(ids), ("geometry",))["geometry"].to_numpy())
        for ids in (near, own)
    )
    share = np.zeros(len(near), np.bool_)
    for shape in mine:
        share |= shapely.intersects(shapes, shape) & ~shapely.touches(shapes, shape)
    shared: Integers = near[share | np.isin(near, own)]
    return shared


# -- files of vectors -------------------------------------------------------------------------------------------------


def of_vectors(target: Target, given: Sequence[Name | npt.NDArray[np.floating]]) -> list[Example]:
    """Vectors [D] or [n, D]: arrays, or .npy files of them; each row is an example.  Raises UsageError."""
    return [example for one in given for example in _of_vector(target, one)]


def _of_vector(target: Target, given: Name | npt.NDArray[np.floating]) -> list[Example]:
    name = "--vector" if isinstance(given, np.ndarray) else f"--vector {given}"
    values = given if isinstance(given, np.ndarray) else _read(Path(given))
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or not values.size:
        raise UsageError(f"{name} holds {values.dtype} {list(values.shape)}: give one vector, or rows of vectors")
    rows = np.atleast_2d(values).astype(np.float64)
    if rows.shape[1] != target.dim:
        raise UsageError(
            f"{name} has vectors of {rows.shape[1]} values and {target.name} of {target.dim}: "
            "give a vector of the same model"
        )
    many = len(rows) > 1
    return [Example(f"{name}[{i}]" if many else name, row) for i, row in enumerate(rows)]


def _read(path: Path) -> npt.NDArray[np.floating]:
    try:
        if path.stat().st_size > BYTES_OF_FILE:
            raise ValueError(f"it has more than {BYTES_OF_FILE} bytes")
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it holds several arrays")
        return found
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"--vector {path} cannot be read ({first_line(error)}): give a .npy file of numbers"
        ) from error
