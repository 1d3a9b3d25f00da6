"""Pictures and words as vectors of a dataset's own model, with the weights and settings that its manifest names."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import models
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.errors import UsageError
from mtembed.models.base import ModelSpec
from mtembed.similarity.scoring import Doubles, unit
from mtembed.sources import SOURCES
from mtembed.types import Source

BLACK, WHITE = 0, 4000  # digital numbers that the rule ``rgb`` makes 0 and 1: clip(2.5 x / 10000, 0, 1)
KEPT = ("fragment_size", "overlap", "border_shift", "offset", "precision", "engine")  # settings that change vectors
PLACE = (500_000.0, 10_000.0, "EPSG:32631")  # easting, northing: on Earth, for a picture that does not say where it is


def of_image(dataset: EmbeddingDataset, weights: str | None, path: Path) -> Doubles:
    """The vector of an image file, float64 [D]: the mean over its fragments, each of length 1.

    A GeoTIFF with the model's bands, in the model's order or with their names as descriptions, goes through the engine
    as a cell of the archive would.  Any other picture is for models of red, green and blue: its middle square is
    brought to the size of a fragment.  Raises UsageError where that is not possible.
    """
    spec, settings = _maker(dataset, "--image")
    source: Source = settings["source"]
    bands = _bands(path, spec, source, int(settings["fragment_size"]))
    with tempfile.TemporaryDirectory(prefix="mtembed-") as name:
        shard = Path(name) / "part_00001.parquet"
        pq.write_table(_shard(bands), shard)
        made = _embedded(shard, Path(name) / "out", spec, settings, _weights(dataset, weights, "--image"), path)
        _require_same(dataset, made)
        found = [batch.vectors for batch in made.batches() if batch.vectors is not None]
    directions, _ = unit(np.concatenate(found))
    return np.asarray(directions.mean(axis=0, dtype=np.float64))


def of_text(dataset: EmbeddingDataset, weights: str | None, words: str) -> Doubles:
    """The vector of words, float64 [D], by the text tower of the dataset's model.

    Raises UsageError for a model without one, WeightsError for weights without one.
    """
    from mtembed.engine.text import text_vector

    spec, _ = _maker(dataset, "--text")
    if spec.text is None:
        able = ", ".join(name for name in models.names() if models.get(name).text)
        raise UsageError(
            f"--text needs a model with a text tower, and {spec.name} has none: embed with {able} for that"
        )
    return np.asarray(text_vector(spec, _weights(dataset, weights, "--text"), words), np.float64)


def _maker(dataset: EmbeddingDataset, option: str) -> tuple[ModelSpec, Mapping[str, Any]]:
    if dataset.manifest is None:
        raise UsageError(f"{option} needs the manifest of a run of mtembed, and {dataset.name} has none: use --vector")
    settings = dataset.manifest["settings"]
    return models.get(settings["model"], settings.get("model_card")), settings


def _weights(dataset: EmbeddingDataset, given: str | None, option: str) -> str | None:
    """What ``--weights`` of a run would have to be."""
    if given is not None or dataset.manifest is None:
        return given
    named, known = str(dataset.manifest["settings"]["weights"]), dataset.manifest["weights"]
    if named.startswith("random:"):
        return named
    published = known.get("published")
    if published or Path(named).is_file():
        return None if published else named
    raise UsageError(f"{option} needs the weights of {dataset.name}, {named}: name the file with --weights")


def _require_same(dataset: EmbeddingDataset, made: EmbeddingDataset) -> None:
    before, now = ((one.manifest or {})["settings"]["weights_sha256"] for one in (dataset, made))
    if before != now:
        raise UsageError(f"these weights are not those of {dataset.name} (sha256 {now[:12]}, not {before[:12]})")


def _embedded(
    shard: Path, output: Path, spec: ModelSpec, settings: Mapping[str, Any], weights: str | None, path: Path
) -> EmbeddingDataset:
    from mtembed.run.embed import embed

    kept = {**{name: settings[name] for name in KEPT}, "model_card": settings.get("model_card")}
    kept["accept_licence"] = True  # as when the dataset was made
    try:
        embed(shard, spec.name, output=output, weights=weights, max_failures=1.0, device="cpu", **kept)
        return open_dataset(output)
    except UsageError as error:
        failures = output / "failures.jsonl"
        said = failures.read_text() if failures.exists() else str(error)
        raise UsageError(f"--image {path} could not be embedded by {spec.name}: {said.strip()[:300]}") from error


def _bands(path: Path, spec: ModelSpec, source: Source, size: int) -> dict[str, bytes]:
    """A GeoTIFF for each column that the model reads."""
    names = spec.bands_for(source)
    found = _bands_of_geotiff(path, names, size)
    if found is None:
        if spec.normalisation_for(source).rule != "rgb":
            raise UsageError(
                f"--image {path} has not the {len(names)} bands that {spec.name} needs ({' '.join(names)}): "
                "give a GeoTIFF with them in this order"
            )
        pixels = _picture(path, size)
        found = {name: pixels[..., i] for i, name in enumerate(names)}, None
    arrays, profile = found
    kind = np.dtype(SOURCES[source].dtype)
    return {name: _geotiff(array.astype(kind), profile) for name, array in arrays.items()}


def _bands_of_geotiff(
    path: Path, names: tuple[str, ...], size: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any] | None] | None:
    """Arrays by band and where they are; None for what is no raster with these bands."""
    import rasterio

    try:
        with (
            warnings.catch_warnings(action="ignore", category=rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(path) as file,
        ):
            if np.dtype(file.dtypes[0]) == np.uint8 or file.count < len(names):
                return None
            described = [(text or "").upper() for text in file.descriptions]
            places = [described.index(name.upper()) if name.upper() in described else -1 for name in names]
            if -1 in places:
                if file.count != len(names):
                    return None
                places = list(range(len(names)))
            if min(file.shape) < size:
                raise UsageError(f"--image {path} has {file.height} x {file.width} px and a fragment {size}: give more")
            profile = {"transform": file.transform, "crs": file.crs, "nodata": file.nodata} if file.crs else None
            return {name: file.read(place + 1) for name, place in zip(names, places, strict=True)}, profile
    except rasterio.errors.RasterioError as error:
        if not path.is_file():
            raise UsageError(f"--image {path} is not a file: name a picture or a GeoTIFF") from error
        return None


def _picture(path: Path, size: int) -> npt.NDArray[Any]:
    """The middle square of a picture, [size, size, 3], in digital numbers."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"--image {path} cannot be read ({error}): give a picture or a GeoTIFF") from error
    return np.round(BLACK + np.asarray(fitted, np.float64) / 255 * (WHITE - BLACK))


def _geotiff(array: npt.NDArray[Any], profile: Mapping[str, Any] | None) -> bytes:
    import rasterio
    from rasterio.io import MemoryFile

    east, north, crs = PLACE
    where = profile or {"transform": rasterio.Affine(10.0, 0.0, east, 0.0, -10.0, north), "crs": crs}
    rows, cols = array.shape
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=rows, width=cols, count=1, dtype=array.dtype, **where) as file:
            file.write(array, 1)
        return bytes(memory.read())


def _shard(bands: Mapping[str, bytes]) -> pa.Table:
    texts = {"product_id": "example", "grid_cell": "0U_0R", "timestamp": "20200101T000000"}
    return pa.table(
        {
            **{name: [text] for name, text in texts.items()},
            **{name: pa.array([b], pa.binary()) for name, b in bands.items()},
        }
    )
