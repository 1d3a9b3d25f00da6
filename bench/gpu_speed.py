"""How fast a GPU is for one model: the network alone, fed from full slots, and its parts; a step of ``bench.gpu``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.gpu_fed import Fed, device_of, fragments_of, job_for, options, tell
from bench.gpu_machine import Watch
from mtembed import models
from mtembed.engine.arithmetic import TORCH_DTYPE
from mtembed.engine.cutter import Cutter
from mtembed.engine.fused import stem_of
from mtembed.engine.gpu_kernel import Trial
from mtembed.engine.memory import reason
from mtembed.kernels.select import GPU_BACKENDS, backend
from mtembed.messages import DeviceJob
from mtembed.models.networks import optimise
from mtembed.sources import SOURCES
from mtembed.types import DEVICE_STAGES

SIDE = 1068
ROUNDS = 3
MATRIX = 8192
BATCHES = (32, 64, 128, 256, 500, 512)


def main() -> None:
    chosen = options()
    cuda = device_of().type == "cuda"
    wanted = job_for(chosen.model, chosen.batch)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    fed = Fed(wanted, 3 * wanted.cells, SIDE)
    per_cell, seconds = fragments_of(chosen.model), chosen.seconds
    fed.feed(seconds)  # warm
    with Watch() as watch:
        tell(fed_settled=rounded(fed.feed(chosen.settle)), batch=fed.gpu.network.batch, **watch.as_json())
    alone, full = [], []
    for _ in range(ROUNDS):
        alone.append(per_second(fed, seconds) / per_cell)
        full.append(fed.feed(seconds))
    ratio = statistics.median(np.divide(full, alone).tolist())
    tell(alone=rounded(*alone), fed=rounded(*full), fed_to_alone=rounded(ratio), stages_ms=stages(fed))
    tell(pinned_slots=fed.gpu.ring.slots, slots=len(fed.tasks), unpinned=fed.gpu.ring.problem, upload_gb_s=upload(fed))
    if cuda:
        tell(peak_memory_bytes=torch.cuda.max_memory_allocated(), memory_info=torch.cuda.mem_get_info())
        tell(profile=profile(fed, seconds))
    tell(**arithmetic(fed, statistics.median(alone) * per_cell))
    tell(kernels_ms_per_cell=kernels(fed, per_cell, seconds))
    tell(unfused_cells_per_s=unfused(fed, seconds, per_cell), stem_ms=stem(fed, seconds))
    fed.close()
    tell(cells_per_s_by_batch=by_batch(wanted, per_cell, seconds))


def rounded(*values: float) -> float | None:
    """The median to five digits; None where there is none."""
    value = statistics.median(values)
    return float(f"{value:.5g}") if np.isfinite(value) else None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeated(work: Callable[[], object], seconds: float, at_once: int = 20) -> float:
    """Seconds of one call; the device is waited for after every ``at_once`` calls."""
    work()
    synchronize()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(at_once):
            work()
        synchronize()
        count += at_once
    return (time.perf_counter() - began) / count


def per_second(fed: Fed, seconds: float) -> float:
    """Fragments per second of the network on the batch that lies there, on the stream that runs use."""
    network, streams = fed.gpu.network, fed.gpu.streams
    with streams.on(streams.compute):
        return network.batch / repeated(network.embed_input, seconds, at_once=20 if streams.cuda else 1)


def stages(fed: Fed) -> dict[str, float | None]:
    """Medians, milliseconds per cell."""
    return {name: rounded(*(getattr(one, name) for one in fed.timings)) for name in DEVICE_STAGES}


def upload(fed: Fed) -> float | None:
    """GB/s of copies of a slot to the device while nothing else runs."""
    view = torch.from_numpy(fed.ring.slot(0).view)
    target = torch.empty_like(view, device=device_of())
    return rounded(view.numel() / repeated(lambda: target.copy_(view, non_blocking=True), 0.5) / 1e9)


def profile(fed: Fed, seconds: float) -> dict[str, Any]:
    """Copies by kind (bytes are not told by every version of the profiler), and how idle the device was."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    with recorded(activities=[ProfilerActivity.CUDA]) as trace:
        fed.feed(min(2.0, seconds))
        synchronize()
    copies: dict[str, float] = {}
    spans = []
    for event in trace.events():
        if not str(event.device_type).endswith("CUDA"):
            continue
        start, end = event.time_range.start, event.time_range.end
        if event.name.startswith("Memcpy"):
            copies[event.name] = copies.get(event.name, 0.0) + (end - start) / 1e6
        else:
            spans.append((start, end))
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - min(start for start, _ in spans) if spans else 0.0
    return {"copy_s": copies, "compute_idle_share": rounded(1 - busy / whole) if whole else None}


def arithmetic(fed: Fed, fragments_per_s: float) -> dict[str, float | None]:
    """TFLOP/s of the network (two for a multiply and add) beside a large matrix product in the same type."""
    from torch.utils.flop_counter import FlopCounterMode

    spec, job = models.get(fed.job.model), fed.job
    plain = spec.build(job.weights, job.source, job.size)
    with FlopCounterMode(display=False) as counter:
        plain(torch.zeros(1, len(spec.bands_for(job.source)), job.size, job.size))
    side = MATRIX if torch.cuda.is_available() else MATRIX // 16
    a, b = (torch.randn(side, side, device=device_of()).to(TORCH_DTYPE[job.precision]) for _ in range(2))
    matrix = 2 * side**3 / repeated(lambda: a @ b, 1.0, at_once=10) / 1e12
    tflops = counter.get_total_flops() * fragments_per_s / 1e12
    return {"tflops": rounded(tflops), "matmul_tflops": rounded(matrix)}


def kernels(fed: Fed, per_cell: int, seconds: float) -> dict[str, Any]:
    """Milliseconds per cell of each kernel backend that is right on the device."""
    spec, job, network = models.get(fed.job.model), fed.job, fed.gpu.network
    rule, bands = spec.normalisation_for(job.source), len(spec.bands_for(job.source))
    trial = Trial.of(rule, bands, SOURCES[job.source].dtype, job.precision, device_of())
    batch = fed.gpu.free[-1]  # the one used last: its tables name real fragments
    found: dict[str, Any] = {}
    for name in GPU_BACKENDS if device_of().type == "cuda" else ("numba",):
        try:
            problem = trial.problem(backend(name))
        except Exception as error:  # each library raises its own
            problem = reason(error)
        if problem:
            found[name] = problem
            continue
        cutter = Cutter(backend(name), rule)
        took = repeated(lambda cut=cutter: cut(batch.cells, batch.fragments, network.input), seconds / 2, at_once=4)
        found[name] = rounded(took * 1e3 / network.batch * per_cell)
    return found


def unfused(fed: Fed, seconds: float, per_cell: int) -> float | None:
    """Cells per second of the network as torch has it."""
    spec, job, network = models.get(fed.job.model), fed.job, fed.gpu.network
    plain = spec.build(job.weights, job.source, job.size)
    plain = optimise(plain, TORCH_DTYPE[job.precision], True).to(device_of())
    x = network.input.contiguous(memory_format=torch.channels_last)
    return rounded(network.batch / repeated(lambda: plain(x), seconds, at_once=2) / per_cell)


def stem(fed: Fed, seconds: float) -> dict[str, float | None]:
    """Milliseconds of the first convolution on a batch, with as many channels as there are bands, and with more."""
    spec, job, network = models.get(fed.job.model), fed.job, fed.gpu.network
    first = stem_of(optimise(spec.build(job.weights, job.source, job.size), TORCH_DTYPE[job.precision], True))
    if first is None:
        return {}
    bands, found = len(spec.bands_for(job.source)), {}
    places: Any = (first.stride, first.padding)
    for channels in dict.fromkeys((bands, -(-bands // 4) * 4, -(-bands // 8) * 8)):
        missing = channels - bands
        weight = functional.pad(first.weight, (0, 0, 0, 0, 0, missing)).to(device_of())
        weight = weight.contiguous(memory_format=torch.channels_last)
        shape = (network.batch, channels, job.size, job.size)
        x = torch.rand(shape, device=device_of()).to(weight.dtype).contiguous(memory_format=torch.channels_last)
        took = repeated(lambda x=x, w=weight: functional.conv2d(x, w, None, *places), seconds / 4, at_once=2)
        found[str(channels)] = rounded(took * 1e3)
    return found


def by_batch(wanted: DeviceJob, per_cell: int, seconds: float) -> dict[str, float | None]:
    """Cells per second of the network alone, by fragments per forward."""
    found = {}
    for batch in BATCHES if device_of().type == "cuda" else (wanted.batch,):
        fed = Fed(replace(wanted, batch=batch, cells=1), 1, wanted.size)
        found[str(batch)] = rounded(per_second(fed, seconds / 2) / per_cell)
        fed.close()
    return found


if __name__ == "__main__":
    main()
