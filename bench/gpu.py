"""One GPU: the network on resident tensors, the card's engine around it, and the real command around that.

    python -m bench.gpu                                # every model; writes bench/results/gpu-<card>.json
    python -m bench.gpu --cpu --models rcf --batch 8   # the same code on the CPU, to see that it runs

Needs no network: weights are random ones, shards are copies of the packaged sample.  Prints, for each model, cells per
second of the network alone (``alone``), of the engine fed from full slots (``card``: copies up, kernel, network, copies
down) and of the command (``run``; left out where its packages are missing), milliseconds per cell of each stage, the
share of copies that hides behind arithmetic, the network's TFLOP/s beside a large matrix product's, peak memory.  At
the end, milliseconds per cell of 13 bands to decode each encoding, some cells at a time, and whether it is exact.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import end_to_end
from bench.encoded import encode
from mtembed import machine, models
from mtembed.archive import tiff
from mtembed.archive.reader import cell_blobs
from mtembed.dataset.settings import automatic_batch, automatic_precision
from mtembed.engine.arithmetic import TORCH_DTYPE, exact_fp32
from mtembed.engine.gpu import GpuDevice
from mtembed.engine.gpu_decode import GpuDecoder
from mtembed.errors import MtembedError
from mtembed.kernels.select import GPU_BACKENDS
from mtembed.messages import GPU_ENCODINGS, DeviceJob
from mtembed.report.busy import Spans
from mtembed.types import DEVICE_STAGES, CellTiming
from tests.tools.slots import fill, job, ring_for, slot_of

ROOT = Path(__file__).resolve().parents[1]


MODELS = ("ssl4eo-s2", "ssl4eo-s1", "dinov2", "siglip", "rcf")
SIDE = 1068
ROUNDS, SECONDS = 3, 3.0
NEEDED = ("cyclopts", "imagecodecs", "pyproj", "shapely")
MATRIX = 8192
CELLS_AT_ONCE = (1, 4, 16)
SAMPLE = ROOT / "mtembed/sample/Core-S2L1C/images/part_00001.parquet"


def main() -> None:
    options = arguments()
    device = torch.device("cpu" if options.cpu else "cuda")
    if options.cpu:
        os.environ["MTEMBED_CPU_CARDS"] = "1"
    elif not torch.cuda.is_available():
        sys.exit("no GPU is visible: --cpu runs the same code on the processor")
    torch.set_grad_enabled(False)
    exact_fp32()
    name = machine.cpu_name() if options.cpu else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}", flush=True)
    results = [measure(model, device, options) for model in options.models.split(",")]
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"card": name, **versions, "when": when, "rounds": ROUNDS, "results": results}
    content["decode"] = decode_routes(device)
    print(json.dumps(content["decode"]), flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    target = options.output or end_to_end.RESULTS / f"gpu-{slug}.json"
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {target.name}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--cells", type=int, default=200, help="cells of a run of the command")
    parser.add_argument("--batch", type=int, help="fragments; default: the model's")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def measure(model: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    spec = models.get(model)
    precision = automatic_precision(spec, "cpu" if options.cpu else "cuda")
    batch = options.batch or automatic_batch(spec, "cuda")
    wanted = job(model, spec.source, spec.size, precision=precision, batch=batch, card=0)
    fragments = 9 if spec.size == 384 else 25
    wanted = replace(wanted, cells=-(-batch // fragments) + 1)
    engine = Engine(wanted, device)
    found: dict[str, Any] = {"model": model, "precision": precision, "batch": engine.gpu.network.batch, "fragments": fragments}
    alone, fed = [], []
    for _ in range(ROUNDS):
        alone.append(engine.alone() / fragments)
        fed.append(engine.fed())
    found |= {"alone": _median(alone), "card": _median(fed), "card_to_alone": _median(list(np.divide(fed, alone)))}
    found["stages_ms"] = engine.stages()
    if device.type == "cuda":
        found |= engine.overlap()
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    found |= arithmetic(engine, found["alone"] * fragments)
    engine.close()
    found["kernels_ms"] = kernels(wanted, device)
    found |= run(model, precision, options, found["alone"])
    print(json.dumps(found), flush=True)
    return found


class Engine:
    """A card with a ring of full slots."""

    def __init__(self, wanted: DeviceJob, device: torch.device, kernel: str | None = None) -> None:
        self.job, self.device = wanted, device
        self.slots = 3 * wanted.cells
        self.ring = ring_for(wanted, self.slots, SIDE)
        self.gpu = GpuDevice(wanted, self.ring, device, kernel)
        self.tasks = [fill(self.ring, index, wanted, SIDE, SIDE) for index in range(self.slots)]
        self.timings: list[CellTiming] = []

    def close(self) -> None:
        self.gpu.close()
        self.ring.close()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def alone(self) -> float:
        """Fragments per second of the network on the batch that lies there."""
        self.gpu.network.embed_input()
        self.synchronize()
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            self.gpu.network.embed_input()
            self.synchronize()
            count += self.gpu.network.batch
        return count / (time.perf_counter() - started)

    def fed(self) -> float:
        """Cells per second through the engine, which always has another cell at hand."""
        self.feed(self.slots)
        return self.feed(max(2 * self.slots, round(SECONDS * self.feed(self.slots))))

    def feed(self, count: int) -> float:
        done, given, waiting = 0, 0, list(range(self.slots))
        started = time.perf_counter()
        while done < count:
            if waiting and given < count:
                task = self.tasks[waiting.pop(0)]
                task = replace(task, timing=CellTiming("bench", task.key[1], started=time.monotonic()))
                given += 1
                outcomes = self.gpu.take(task, slot_of(self.ring, task))
            else:
                outcomes = self.gpu.idle()
            for outcome in outcomes:
                if outcome.error:
                    raise outcome.error
                done += 1
                waiting.append(outcome.task.slot.index)
                self.timings.append(outcome.task.timing)
        return count / (time.perf_counter() - started)

    def stages(self) -> dict[str, float]:
        """Medians, milliseconds per cell."""
        return {name: _median([getattr(one, name) for one in self.timings]) for name in DEVICE_STAGES}

    def overlap(self) -> dict[str, float]:
        """The share of copy time during which a kernel was running too, from a profile of the fed engine."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as trace:
            self.feed(3 * self.slots)
            self.synchronize()
        copies, kernels = [], []
        for event in trace.events():
            if str(event.device_type).endswith("CUDA"):
                span = (event.time_range.start, event.time_range.end)
                (copies if event.name.startswith("Memcpy") else kernels).append(span)
        if not copies or not kernels:
            return {}
        busy = Spans.union(*np.array(kernels, float).T)
        both = sum(float(np.subtract(*reversed(busy_part(busy, *span))).sum()) for span in copies)
        return {"copies_hidden": round(both / sum(end - start for start, end in copies), 3)}


def busy_part(busy: Spans, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of what [start, end] has in common with the stretches."""
    starts, ends = np.maximum(busy.starts, start), np.minimum(busy.ends, end)
    return starts[ends > starts], ends[ends > starts]


def kernels(wanted: DeviceJob, device: torch.device) -> dict[str, float]:
    """Milliseconds per cell of each kernel backend that runs on the device."""
    found = {}
    for name in GPU_BACKENDS if device.type == "cuda" else ("numpy", "numba"):
        try:
            engine = Engine(wanted, device, name)
        except MtembedError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        engine.feed(2 * engine.slots)
        found[name] = engine.stages()["preprocess"]
        engine.close()
    return found


def arithmetic(engine: Engine, fragments_per_s: float) -> dict[str, float]:
    """TFLOP/s of the network (two for a multiply and add) beside a large matrix product in the same type."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        engine.gpu.network.embed(engine.gpu.network.input[:1])
    achieved = counter.get_total_flops() * fragments_per_s / 1e12
    side = MATRIX if engine.device.type == "cuda" else MATRIX // 8
    a, b = (torch.randn(side, side, device=engine.device).to(TORCH_DTYPE[engine.job.precision]) for _ in range(2))
    rates = []
    for _ in range(5):
        engine.synchronize()
        started = time.perf_counter()
        for _ in range(4):
            a @ b
        engine.synchronize()
        rates.append(4 * 2 * side**3 / (time.perf_counter() - started) / 1e12)
    return {"tflops": round(achieved, 2), "matmul_tflops": _median(rates)}


def decode_routes(device: torch.device) -> dict[str, Any]:
    """Milliseconds per cell of the sample's 13 bands, by encoding and cells at a time, on the decoder of a card."""
    bands = models.get("ssl4eo-s2").bands_for("S2L1C")
    pixels = []
    for blob in cell_blobs(SAMPLE, 0, bands):
        info = tiff.parse(blob)
        pixels.append(np.empty((info.rows, info.cols), info.dtype))
        tiff.decode_into(blob, info, pixels[-1])
    try:
        decoder = GpuDecoder(device)
    except (ImportError, RuntimeError) as error:
        return {"left_out": str(error).partition("\n")[0]}
    found: dict[str, Any] = {}
    for encoding in GPU_ENCODINGS:
        try:
            blobs = [encode(band, encoding) for band in pixels]
        except ImportError as error:
            found[encoding] = {"left_out": str(error)}
            continue
        decoded = decoder.decode(blobs)
        exact = all(d is not None and np.array_equal(d.cpu().numpy(), p) for d, p in zip(decoded, pixels, strict=True))
        found[encoding] = {
            "exact": exact,
            **{str(n): _decode_ms(decoder, blobs * n, device) / n for n in CELLS_AT_ONCE},
        }
    return found


def _decode_ms(decoder: GpuDecoder, blobs: list[Any], device: torch.device) -> float:
    times = []
    for _ in range(1 + 2 * ROUNDS):
        started = time.perf_counter()
        decoder.decode(blobs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return _median(times[1:])


def run(model: str, precision: str, options: argparse.Namespace, alone: float) -> dict[str, Any]:
    """The command on copies of the packaged sample cell, and its rate as a share of the network alone."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return {"run": None, "run_left_out": f"not installed: {', '.join(missing)}"}
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as folder:
        shard = end_to_end.archive(Path(folder), model, options.cells)
        weights = [] if model == "rcf" else ["--weights", "random:0"]
        batch = ["--batch", str(options.batch)] if options.batch else []
        output = Path(folder) / "out"
        command = [sys.executable, "-m", "mtembed", "--model", model, "--gpus", "0", "--quiet", *weights, *batch]
        subprocess.run([*command, "--precision", precision, "--output", str(output), str(shard)],
                       env=end_to_end.ENVIRONMENT | dict(os.environ), cwd=ROOT, check=True)  # fmt: skip
        rate = end_to_end.rate_of(output)[1]
    return {"run": round(rate, 3), "run_to_alone": round(rate / alone, 3)}


def _median(values: list[float]) -> float:
    return round(float(statistics.median(values)), 4)


if __name__ == "__main__":
    main()
