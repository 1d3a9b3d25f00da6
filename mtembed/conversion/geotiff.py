"""Maps of vectors as GeoTIFFs: a file for each row of a dataset made with ``--dense``, a band for each value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtembed import __version__
from mtembed.conversion.convert import made_with
from mtembed.dataset.files import RECORDS
from mtembed.dataset.finding import Name
from mtembed.dataset.maps import DenseMap, map_names, maps
from mtembed.dataset.reader import open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.types import Tick

GEOTIFF = "geotiff"
BLOCK = 64  # px of a tile's side


@dataclass(frozen=True, slots=True)
class GeotiffResult:
    """The files of a dataset's maps: their folder and number; bytes of the dataset and of the files."""

    output: Path
    files: int
    bytes_before: int
    bytes_after: int
    nothing_to_do: bool


def geotiffs(
    dataset: Name,
    output: Name,
    *,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> GeotiffResult:
    """Write every map of a dataset as a GeoTIFF of float32 in the CRS of its cell, the values of a vector as bands.

    Names are PART-ROW-CELL.tif, rows counted from 0.  Started again it goes on where it was stopped.  Raises UsageError
    where the dataset holds no maps, OutputError and SettingsError as ``convert`` does.
    """
    opened = open_dataset(dataset, maps=True, tick=tick)
    names = [f"{name}.tif" for name in map_names(opened)]
    folder = ResultFolder(Path(output), RECORDS[0], names, {"to": GEOTIFF}, opened.sources())
    with folder.held(fresh) as held:
        nothing_to_do = held.finished
        if not nothing_to_do:
            for number, (name, one) in enumerate(zip(names, maps(opened), strict=True)):
                if not (held.root / name).exists():
                    _write(held.work / name, one)
                    held.publish(held.work / name)
                tick("writing", number + 1, len(names))
            after = sum((held.root / name).stat().st_size for name in names)
            before = sum(file.mark.size for file in opened.files)
            facts = {"files": len(names), "bytes_before": before, "bytes_after": after}
            held.record({"to": GEOTIFF, **facts, "made_with": made_with(opened), "mtembed": __version__})
        content = held.content()
    numbers = {name: int(content[name]) for name in ("files", "bytes_before", "bytes_after")}
    return GeotiffResult(output=Path(output), nothing_to_do=nothing_to_do, **numbers)


def _write(path: Path, one: DenseMap) -> None:
    import rasterio

    rows, cols, dim = one.values.shape
    tiled = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK} if min(rows, cols) > BLOCK else {}
    profile = {"width": cols, "height": rows, "count": dim, "dtype": "float32", "crs": one.crs, **tiled}
    place = rasterio.Affine(*one.transform)
    with rasterio.open(
        path, "w", driver="GTiff", transform=place, compress="deflate", predictor=3, interleave="pixel", **profile
    ) as file:
        file.write(one.values.transpose(2, 0, 1))
        file.update_tags(**one.tags)
