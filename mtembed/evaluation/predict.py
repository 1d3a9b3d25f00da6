"""``mtembed predict``: a trained probe over a whole dataset: a table, a GeoTIFF and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.dataset.finding import Name
from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.errors import OutputError, UsageError
from mtembed.evaluation import labels, probe_file, probes
from mtembed.evaluation.burn import Canvas, Extent
from mtembed.evaluation.join import footprints, place_columns
from mtembed.evaluation.predict_files import Drawing, TableWriter, write_geotiff, write_picture
from mtembed.evaluation.result import rounded, versions
from mtembed.evaluation.trained import TrainedProbe
from mtembed.types import Tick

JSON_NAME, TABLE_NAME, RASTER_NAME, PICTURE_NAME = (f"predictions.{end}" for end in ("json", "parquet", "tif", "png"))
FILES = (TABLE_NAME, RASTER_NAME, PICTURE_NAME)
KEPT = ("unique_id", "grid_cell", "product_id", "timestamp", "centre_lat", "centre_lon")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What ``mtembed.predict`` returns.

    ``counts``: rows of each class (of those predicted first; for several labels, of those at 0.5 or more).  ``mean``,
    ``low`` and ``high`` are of numbers: the mean prediction, and what the 90 % interval adds.  ``skipped`` rows have
    vectors that are not finite, and no prediction.
    """

    output: str
    dataset: str
    task: str
    column: str
    rows: int
    skipped: int
    counts: Mapping[str, int]
    mean: float | None
    low: float | None
    high: float | None
    probe_score: str
    files: tuple[str, ...] = FILES


def predict(dataset: Name, probe: Name, output: Name, *, fresh: bool = False) -> Prediction:
    """Apply a probe that ``evaluate`` saved; the same as ``mtembed predict``, without printing.

    ``dataset`` is a folder, glob or file of embeddings of the model that the probe was trained on.  Writes table,
    raster and picture to the folder ``output``.  Raises MtembedError.
    """
    return run(dataset, Path(probe), Path(output), fresh, lambda stage, done, total: None)


def run(name: Name, probe_path: Path, folder: Path, fresh: bool, tick: Tick) -> Prediction:
    """With progress.  An output that is there already, of the same probe and dataset, is read back."""
    dataset, probe = open_dataset(name, tick=tick), probe_file.load(probe_path)
    _check(dataset, probe, probe_path)
    sources = [*dataset.sources(), {"probe": True, **labels.identity(probe_path)}]
    result = ResultFolder(folder, JSON_NAME, FILES, {}, sources)
    with result.held(fresh) as held:
        if held.finished:
            return _again(held.content(), folder)
        with probes.calm():
            found = _predicted(dataset, probe, held.work, folder, tick)
        for name_of_file in found.files:
            held.publish(held.work / name_of_file)
        held.record({"command": "predict", "versions": versions(), **rounded(_facts(found))})
        return found


def _check(dataset: EmbeddingDataset, probe: TrainedProbe, path: Path) -> None:
    if dataset.dim != probe.dim:
        raise UsageError(
            f"{path.name} was trained on vectors of {probe.dim} values and {dataset.name} has vectors of "
            f"{dataset.dim}: name a dataset of the same model"
        )
    if probe.embedding_model and dataset.model and probe.embedding_model != dataset.model:
        raise UsageError(
            f"{path.name} was trained on vectors of {probe.embedding_model} and {dataset.name} was made by "
            f"{dataset.model}: name a dataset of the same model"
        )


def _facts(found: Prediction) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if name != "output"}


def _again(content: Mapping[str, Any], folder: Path) -> Prediction:
    try:
        names = [name for name in Prediction.__dataclass_fields__ if name != "output"]
        facts = {name: content[name] for name in names}
        return Prediction(output=str(folder), **{**facts, "files": tuple(facts["files"])})
    except KeyError as error:
        raise OutputError(f"{folder / JSON_NAME} is damaged: make it again with --fresh") from error


def _predicted(dataset: EmbeddingDataset, probe: TrainedProbe, work: Path, folder: Path, tick: Tick) -> Prediction:
    """Into ``work``, in two passes: where the footprints lie, then predictions batch by batch."""
    extent = Extent()
    for batch in dataset.batches(place_columns(dataset), vectors=False):
        extent.add(footprints(batch.table))
    canvas = Canvas(extent, len(layer_names(probe)), surest={"classification": 1}.get(probe.task))
    tally = _Tally(probe)
    columns = dict.fromkeys((*(name for name in KEPT if name in dataset.columns), *place_columns(dataset)))
    done = 0
    with TableWriter(work / TABLE_NAME) as table:
        for batch in dataset.batches(tuple(columns)):
            said = _said(batch, probe)
            shapes = footprints(batch.table)
            table.write(_rows(batch, probe, said), shapes)
            canvas.add(shapes, layers(probe, said))
            tally.add(said)
            done += batch.rows
            tick("predicting", done, dataset.rows)
    found = tally.result(dataset, folder)
    drawing = Drawing(probe.column, layer_names(probe), probe.classes, found.probe_score)
    write_geotiff(work / RASTER_NAME, canvas, drawing, probe.task)
    write_picture(work / PICTURE_NAME, canvas, drawing, probe)
    return found


def _said(batch: EmbeddingBatch, probe: TrainedProbe) -> npt.NDArray[np.float64]:
    """[n] numbers or [n, K] shares; NaN for vectors that are not finite."""
    assert batch.vectors is not None
    good = np.asarray(np.isfinite(batch.vectors).all(axis=1))
    said = probe.model(np.where(good[:, None], batch.vectors, np.float32(0)))
    said[~good] = np.nan
    return said


def layer_names(probe: TrainedProbe) -> tuple[str, ...]:
    """Bands of the raster."""
    if probe.task == "classification":
        return "class", "probability"
    return probe.classes if probe.task == "multilabel" else ("prediction", "low", "high")


def layers(probe: TrainedProbe, said: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What of each row is burnt into the raster, [n, L]."""
    if probe.task == "multilabel":
        return said
    if probe.task == "regression":
        low, high = probe.residuals or (0.0, 0.0)
        return np.stack([said, said + low, said + high], axis=1)
    good = np.isfinite(said).all(axis=1)
    chosen, surest = np.nan_to_num(said).argmax(axis=1), said.max(axis=1)
    return np.stack([np.where(good, chosen, np.nan), surest], axis=1)


def _rows(batch: EmbeddingBatch, probe: TrainedProbe, said: npt.NDArray[np.float64]) -> dict[str, pa.Array]:
    """Columns of the table: those that were kept, and the prediction with its probability or interval."""
    found: dict[str, pa.Array] = {
        name: batch.table[name].combine_chunks() for name in batch.table.column_names if name != "geometry"
    }
    return found | dict(_prediction(probe, said))


def _prediction(probe: TrainedProbe, said: npt.NDArray[np.float64]) -> Iterator[tuple[str, pa.Array]]:
    def floats(values: npt.NDArray[Any]) -> pa.Array:
        return pa.array(values.astype(np.float32), from_pandas=True)

    if probe.task == "regression":
        for name, values in zip(layer_names(probe), layers(probe, said).T, strict=True):
            yield name, floats(values)
        return
    if probe.task == "classification":
        good = np.isfinite(said).all(axis=1)
        names = np.array(probe.classes, object)[np.nan_to_num(said).argmax(axis=1)]
        yield "prediction", pa.array(np.where(good, names, None), pa.string())
        yield "probability", floats(said.max(axis=1))
    for name, values in zip(probe.classes, said.T, strict=True):
        yield f"probability_{name}", floats(values)


class _Tally:
    """Counts of classes, or the mean."""

    def __init__(self, probe: TrainedProbe) -> None:
        self._probe = probe
        self._rows = self._skipped = 0
        self._counts = np.zeros(len(probe.classes), np.int64)
        self._sum = 0.0

    def add(self, said: npt.NDArray[np.float64]) -> None:
        good = np.isfinite(said) if said.ndim == 1 else np.isfinite(said).all(axis=1)
        self._rows += len(said)
        self._skipped += int((~good).sum())
        if self._probe.task == "regression":
            self._sum += float(said[good].sum())
        elif self._probe.task == "multilabel":
            self._counts += (said[good] >= 0.5).sum(axis=0)
        elif good.any():
            self._counts += np.bincount(said[good].argmax(axis=1), minlength=len(self._counts))

    def result(self, dataset: EmbeddingDataset, folder: Path) -> Prediction:
        from mtembed.evaluation import words

        probe, there = self._probe, self._rows - self._skipped
        low, high = probe.residuals or (None, None)
        score = words.with_interval(probe.value, probe.low, probe.high)
        return Prediction(
            output=str(folder),
            dataset=dataset.name,
            task=probe.task,
            column=probe.column,
            rows=self._rows,
            skipped=self._skipped,
            counts=dict(zip(probe.classes, self._counts.tolist(), strict=True)),
            mean=self._sum / there if probe.task == "regression" and there else None,
            low=low,
            high=high,
            probe_score=f"{words.METRIC[probe.metric]} {score}, {words.SPLIT[probe.split]}",
        )
