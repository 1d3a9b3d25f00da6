"""End to end against the model alone, and against a loop in the reference's style, in one run on this machine.

    python -m bench.end_to_end --models ssl4eo-s2,ssl4eo-s1,dinov2 --engines torch,openvino --precisions fp32,auto

What is compared (A B A B, medians over the rounds):

* ``end_to_end``: the real command on a shard of copies of the packaged sample cell (uncompressed blobs), cells per
  second of its device workers, each between its first cell (warm-up) and its last.
* ``model_alone``: as many processes as the run had device workers, with the same network, engine, precision, threads
  and micro-batches, on tensors that are already there.
* ``reference_style``: one process that reads, decodes with rasterio, upsamples, stacks, casts, fragments and runs the
  untouched fp32 network on one cell at a time, with all cores.  Our own few lines, not the published code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import machine as this_machine
from mtembed import models
from mtembed.dataset.origin import versions

ROOT = Path(__file__).resolve().parents[1]


RESULTS = ROOT / "bench" / "results"
SAMPLE = ROOT / "mtembed" / "sample"
SECONDS = 8.0  # of the model alone, a round
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class Measurement:
    """Medians over the rounds, cells per second; ratios are medians of the rounds' own ratios."""

    model: str
    engine: str
    precision: str
    processes: int
    threads: int
    batch: int
    end_to_end: float
    model_alone: float
    reference_style: float
    to_model_alone: float
    to_reference_style: float


@dataclass
class Rates:
    """Cells per second, one value a round."""

    settings: dict[str, Any] = field(default_factory=dict)
    processes: int = 0
    end_to_end: list[float] = field(default_factory=list)
    model_alone: list[float] = field(default_factory=list)
    reference_style: list[float] = field(default_factory=list)


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    variants = [(e, p) for e in options.engines.split(",") for p in options.precisions.split(",")]
    results = []
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as folder:
        for model in options.models.split(","):
            cells = options.cells if model != "dinov2" else -(-options.cells // 2)
            shard = archive(Path(folder), model, cells)
            for found in rates(
                shard, model, variants, options.rounds, Path(folder), options.reference, options.seconds
            ):
                results.append(summary(model, found))
                print(line(results[-1]), flush=True)
    report = {"machine": machine(), "when": datetime.now(UTC).isoformat(timespec="seconds"), "cells": options.cells,
              "rounds": options.rounds, "results": [asdict(result) for result in results]}  # fmt: skip
    target = Path(options.output) if options.output else RESULTS / "end-to-end-cpu.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {os.path.relpath(target)}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ssl4eo-s2,ssl4eo-s1,dinov2")
    parser.add_argument("--engines", default="torch,openvino")
    parser.add_argument("--precisions", default="fp32,auto")
    parser.add_argument("--cells", type=int, default=12, help="cells per end-to-end round; half of them for dinov2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON to write; default bench/results/end-to-end-cpu.json")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the model alone is measured")
    parser.add_argument("--no-reference", dest="reference", action="store_false", help="leave the plain loop out")
    return parser.parse_args(words)


def archive(folder: Path, model: str, cells: int) -> Path:
    """A shard of ``cells`` copies of the packaged sample cell that the model was made for."""
    row = pq.read_table(SAMPLE / f"Core-{models.get(model).source}/images/part_00001.parquet")
    path = folder / model / "images" / "part_00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables([row.slice(0, 1)] * cells), path, row_group_size=1, compression="snappy")
    return path


def rates(
    shard: Path,
    model: str,
    variants: Sequence[tuple[str, str]],
    rounds: int,
    folder: Path,
    reference: bool = True,
    seconds: float = SECONDS,
) -> list[Rates]:
    """Of each variant (engine, precision), in rounds; without ``reference`` the plain loop is left out."""
    found = [Rates() for _ in variants]
    for number in range(rounds):
        plain = reference_style(model, shard) if reference else 0.0
        for one, (engine, precision) in zip(found, variants, strict=True):
            output = folder / f"out-{model}-{engine}-{precision}-{number}"
            one.settings, one.processes, rate = end_to_end(shard, model, engine, precision, output)
            one.end_to_end.append(rate)
            one.model_alone.append(model_alone(one.settings, one.processes, seconds))
            one.reference_style.append(plain)
    return found


def summary(model: str, found: Rates) -> Measurement:
    """Medians, and medians of the rounds' ratios."""
    settings = found.settings
    return Measurement(
        model, settings["engine"], settings["precision"], found.processes, settings["threads"], settings["batch"],
        _median(found.end_to_end), _median(found.model_alone), _median(found.reference_style),
        _ratio(found.end_to_end, found.model_alone), _ratio(found.end_to_end, found.reference_style),
    )  # fmt: skip


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return _median([a / b if b else 0.0 for a, b in zip(ours, theirs, strict=True)])


def end_to_end(shard: Path, model: str, engine: str, precision: str, output: Path) -> tuple[dict[str, Any], int, float]:
    """The real command; its settings, its number of device workers, and its rate from the timings it wrote."""
    command = [sys.executable, "-m", "mtembed", "--model", model, "--precision", precision, "--quiet"]
    weights = [] if model == "rcf" else ["--weights", "random:1"]
    chosen = ["--engine", engine, "--device", "cpu", "--output", output]
    subprocess.run([*command, *weights, *chosen, shard], env=ENVIRONMENT, check=True)
    settings = json.loads((output / "manifest.json").read_text())["settings"]
    return settings, *rate_of(output)


def rate_of(output: Path) -> tuple[int, float]:
    """Device workers of a run and their cells per second together, of each from its first cell to its last: who has
    none left at the end waits for the others, which says nothing of a run of many cells."""
    timings = pq.read_table(output / "timings" / "part_00001.parquet").to_pydict()
    ended = np.array(timings["started"]) + np.array(timings["total"]) / 1e3
    workers = np.array([name.split()[-1] for name in timings["worker"]])
    each = [np.sort(ended[workers == worker]) for worker in set(workers)]
    return len(each), float(sum((len(times) - 1) / max(times[-1] - times[0], 1e-9) for times in each))


def model_alone(settings: dict[str, Any], processes: int, seconds: float) -> float:
    """Cells per second of all processes together on resident tensors."""
    env = {**ENVIRONMENT, "OMP_NUM_THREADS": str(settings["threads"]), "MKL_NUM_THREADS": str(settings["threads"])}
    command = [sys.executable, str(ROOT / "bench" / "model_alone.py"), json.dumps(settings), str(seconds)]
    children = [
        subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    for child in children:
        child.stdout.readline()  # type: ignore[union-attr]  # warm
    for child in children:
        child.stdin.write("go\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
    return sum(float(child.communicate()[0]) for child in children)


def reference_style(model: str, shard: Path) -> float:
    """Cells per second of a plain loop, from a process of its own with all cores."""
    command = [sys.executable, str(ROOT / "bench" / "reference_style.py"), model, str(shard)]
    return float(
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def machine() -> dict[str, Any]:
    processor = {
        "cpu": this_machine.cpu_name(), "cores": this_machine.cores(), "bf16": this_machine.fast_bf16()
    }  # fmt: skip
    load = round(os.getloadavg()[0], 2)
    return {**processor, "python": platform.python_version(), "load_at_start": load, **versions()}


def line(result: Measurement) -> str:
    plain = f", {result.to_reference_style:.1f} x the reference-style loop ({result.reference_style:.3f})"
    return (
        f"{result.model:10s} {result.engine:8s} {result.precision:5s} {result.processes} x {result.threads} threads: "
        f"end to end {result.end_to_end:.3f} cells/s = {result.to_model_alone:.2f} of the model alone "
        f"({result.model_alone:.3f}){plain if result.reference_style else ''}"
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {time.monotonic() - started:.0f} s")
