"""A trained probe as one safetensors file: arrays, and a JSON object in its header.  Data only, never code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mtembed.dataset.atomic import output_problem
from mtembed.errors import OutputError, UsageError
from mtembed.evaluation.options import Task
from mtembed.evaluation.probes import Linear, Neighbours, Scaler
from mtembed.evaluation.target import Target
from mtembed.evaluation.trained import TrainedProbe
from mtembed.parquet import first_line

KEY = "mtembed.probe"
VERSION = 1
FACTS = (
    "classes", "column", "dim", "embedding_model", "rows", "split", "metric", "value", "low", "high", "residuals",
)  # fmt: skip
Arrays = dict[str, npt.NDArray[Any]]


def require_ours(path: Path, made_from: str, fresh: bool) -> None:
    """Raises UsageError where a file lies at ``path`` that is no probe, or, unless ``fresh``, one of another input.

    ``made_from`` identifies labels, vectors and options.
    """
    if not path.exists():
        return
    try:
        facts, _ = _read(path)
    except UsageError as error:
        raise UsageError(f"{path} is there already and is no probe: choose another --save-probe") from error
    if not fresh and facts.get("made_from") != made_from:
        raise UsageError(
            f"{path} is a probe that was trained on something else: choose another --save-probe, or --fresh"
        )


def save(path: Path, probe: TrainedProbe, made_from: str) -> None:
    """Complete or not at all; the same probe gives the same bytes.  ``made_from``: see ``require_ours``.

    Raises OutputError.
    """
    from safetensors.numpy import save as to_bytes

    model = probe.model
    facts: dict[str, Any] = {"version": VERSION, "task": probe.task, "made_from": made_from}
    facts |= {name: getattr(probe, name) for name in FACTS}
    arrays: Arrays = {"mean": model.scaler.mean, "scale": model.scaler.scale}
    if isinstance(model, Linear):
        facts |= {"kind": "linear", "penalty": model.penalty}
        arrays |= {"weights": np.ascontiguousarray(model.weights), "bias": model.bias}
    else:
        facts |= {"kind": "knn", "k": model.k, "distance": model.metric}
        arrays |= {"vectors": model.vectors, "values": model.target.values}
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(to_bytes(arrays, {KEY: json.dumps(facts, sort_keys=True)}))
        scratch.replace(path)
    except OSError as error:
        raise OutputError(output_problem(path.parent, error)) from error


def load(path: Path) -> TrainedProbe:
    """Raises UsageError where the file is missing, damaged, or not a probe."""
    facts, arrays = _read(path)
    try:
        task = facts["task"]
        if facts["version"] != VERSION or task not in get_args(Task):
            raise ValueError("it is of another version")
        model = _linear(facts, arrays, task) if facts["kind"] == "linear" else _neighbours(facts, arrays, task)
        _check(facts, arrays, model)
        residuals = facts["residuals"]
        return TrainedProbe(
            model=model,
            classes=tuple(map(str, facts["classes"])),
            column=str(facts["column"]),
            dim=int(facts["dim"]),
            embedding_model=None if facts["embedding_model"] is None else str(facts["embedding_model"]),
            rows=int(facts["rows"]),
            split=str(facts["split"]),
            metric=str(facts["metric"]),
            value=float(facts["value"]),
            low=None if facts["low"] is None else float(facts["low"]),
            high=None if facts["high"] is None else float(facts["high"]),
            residuals=None if residuals is None else (float(residuals[0]), float(residuals[1])),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no probe that can be used ({error}): make it again with --save-probe") from error


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"there is no file {path}: make it with mtembed evaluate --save-probe")
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            return dict(facts), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise UsageError(f"{path} holds no probe: name a file that mtembed evaluate --save-probe wrote") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as a probe ({first_line(error).rstrip('.')})") from error


def _linear(facts: dict[str, Any], arrays: Arrays, task: Literal[Task]) -> Linear:
    weights, bias = (arrays[name].astype(np.float64) for name in ("weights", "bias"))
    return Linear(task, _scaler(arrays), weights, bias, float(facts["penalty"]))


def _neighbours(facts: dict[str, Any], arrays: Arrays, task: Literal[Task]) -> Neighbours:
    if facts["kind"] != "knn" or facts["distance"] not in ("euclidean", "cosine"):
        raise ValueError(f"it is of the unknown kind {facts['kind']}")
    target = Target(task, "of a file", arrays["values"], tuple(map(str, facts["classes"])))
    vectors = arrays["vectors"].astype(np.float32)
    return Neighbours(target, _scaler(arrays), vectors, int(facts["k"]), facts["distance"])


def _scaler(arrays: Arrays) -> Scaler:
    return Scaler(arrays["mean"].astype(np.float64), arrays["scale"].astype(np.float64))


def _check(facts: dict[str, Any], arrays: Arrays, model: Linear | Neighbours) -> None:
    """Shapes must fit each other.  Raises ValueError."""
    dim, classes = int(facts["dim"]), len(facts["classes"])
    columns = classes if facts["task"] != "regression" else 1
    if isinstance(model, Linear):
        wanted = {"mean": (dim,), "scale": (dim,), "weights": (dim, columns), "bias": (columns,)}
    else:
        rows = len(arrays["vectors"])
        values = {"classification": (rows,), "regression": (rows,)}.get(facts["task"], (rows, classes))
        wanted = {"mean": (dim,), "scale": (dim,), "vectors": (rows, dim), "values": values}
        if not model.k >= 1 or not rows:
            raise ValueError("it has no neighbours")
        if facts["task"] == "classification" and not (
            0 <= model.target.values.min() <= model.target.values.max() < classes
        ):
            raise ValueError("it names classes that it does not have")
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has the shape {arrays[name].shape} and not {shape}")
