"""``mtembed pca`` of maps of vectors: the components of all vectors, and each map as a GeoTIFF in their colours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtembed import __version__
from mtembed.dataset.maps import DenseMap, map_names, maps
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.dataset.result import ResultFolder
from mtembed.errors import UsageError
from mtembed.maps import basis as bases
from mtembed.maps.basis import CHANNELS, Basis, Colouring, Counts, Ranges
from mtembed.maps.moments import EXACT_ROWS, Accumulator, finite
from mtembed.maps.result import PcaResult, PcaSettings
from mtembed.types import FloatArray, Tick

RECORD = "pca.json"


class DensePca:
    """One start of the command: three passes over the maps, of which memory holds one."""

    def __init__(
        self,
        dataset: EmbeddingDataset,
        output: Path,
        settings: PcaSettings,
        given: tuple[Basis, Colouring] | None,
        tick: Tick,
    ) -> None:
        self._dataset, self._settings, self._given, self._tick = dataset, settings, given, tick
        self._names = [f"{name}.tif" for name in map_names(dataset)]
        self._folder = ResultFolder(output, RECORD, self._names, asdict(settings), dataset.sources())
        self._not_finite = 0

    def run(self, fresh: bool) -> PcaResult:
        with self._folder.held(fresh) as folder:
            nothing_to_do = folder.finished
            if not nothing_to_do:
                basis = self._given[0] if self._given else self._fit()
                self._project(basis)
                self._write(basis, self._given[1] if self._given else self._colouring())
        return PcaResult.of(folder.root, folder.content(), nothing_to_do)

    def _fit(self) -> Basis:
        found: Accumulator | None = None
        for number, one in enumerate(maps(self._dataset), 1):
            rows, cols, dim = one.values.shape
            found = found or Accumulator(dim, exact=rows * cols * self._dataset.rows <= EXACT_ROWS)
            found.add(one.values.reshape(-1, dim))
            self._tick("adding up", number, self._dataset.rows)
        if found is None:
            raise UsageError(f"{self._dataset.name} has no maps: name a dataset made with --dense")
        return Basis.of(found.result(), self._settings.components, self._dataset.model)

    def _project(self, basis: Basis) -> None:
        """A file of scores for each map, NaN where a vector is not finite; what an earlier start wrote is kept."""
        for number, one in enumerate(maps(self._dataset)):
            path = self._scores(number)
            if not path.exists():
                vectors = one.values.reshape(-1, one.values.shape[2])
                if vectors.shape[1] != len(basis.mean):
                    raise UsageError(f"the basis is of vectors of {len(basis.mean)} values, not {vectors.shape[1]}")
                scores = np.full((len(vectors), len(basis.components)), np.nan, np.float32)
                good = finite(vectors)
                scores[good] = basis.scores(vectors[good])
                scratch = path.with_suffix(".tmp")
                with scratch.open("wb") as file:
                    np.save(file, scores)
                scratch.replace(path)
            self._tick("projecting", number + 1, self._dataset.rows)

    def _scores(self, number: int) -> Path:
        return self._folder.work / f"scores-{number:06d}.npy"

    def _read(self, number: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Scores of the vectors of a map that have some, and which those are."""
        scores: FloatArray = np.load(self._scores(number), allow_pickle=False)
        good = np.isfinite(scores[:, 0])
        return scores[good], good

    def _colouring(self) -> Colouring:
        numbers = range(len(self._names))
        ranges = Ranges(min(CHANNELS, self._settings.components))
        for number in numbers:
            ranges.add(self._read(number)[0])
        counts = self._counts(ranges.pairs())
        if self._settings.clip:
            counts = self._counts(counts.within(self._settings.clip))
        return bases.balanced(counts, self._settings.scale or "gain")

    def _counts(self, ranges: tuple[tuple[float, float], ...]) -> Counts:
        counts = Counts(ranges)
        for number in range(len(self._names)):
            counts.add(self._read(number)[0])
        return counts

    def _write(self, basis: Basis, colouring: Colouring) -> None:
        """A file for each map, and last the record."""
        sums, clipped, rows, all_rows = np.zeros(CHANNELS), 0, 0, 0
        for number, (name, one) in enumerate(zip(self._names, maps(self._dataset), strict=True)):
            scores, good = self._read(number)
            colours = colouring.colours(scores)
            _draw(self._folder.work / name, one, colours, good)
            self._folder.publish(self._folder.work / name)
            sums += colours.sum(axis=0, dtype=np.float64)
            clipped += colouring.clipped(scores)
            rows, all_rows = rows + len(scores), all_rows + len(good)
            self._tick("drawing", number + 1, self._dataset.rows)
        content = {
            "mtembed": __version__,
            **bases.as_json(basis, colouring),
            "channel_means": (sums / max(1, rows)).tolist(),
            "clipped_fraction": clipped / max(1, rows * colouring.channels),
            "fragments": self._settings.fragments,
            "rows": rows,
            "cells": len(self._names),
            "off_grid": 0,
            "not_finite": all_rows - rows,
            "maps": len(self._names),
        }
        self._folder.record(content)


def _draw(path: Path, one: DenseMap, colours: npt.NDArray[np.uint8], good: npt.NDArray[np.bool_]) -> None:
    """RGBA in the CRS of the cell, a pixel for each vector; transparent where there is none."""
    import rasterio

    rows, cols, _ = one.values.shape
    image = np.zeros((rows * cols, 4), np.uint8)
    image[good, :CHANNELS], image[good, CHANNELS] = colours, 255
    profile = {"width": cols, "height": rows, "count": 4, "dtype": "uint8", "crs": one.crs, "compress": "deflate"}
    place = rasterio.Affine(*one.transform)
    with rasterio.open(path, "w", driver="GTiff", transform=place, photometric="RGB", alpha="yes", **profile) as file:
        file.write(image.reshape(rows, cols, 4).transpose(2, 0, 1))
        file.update_tags(**one.tags)
