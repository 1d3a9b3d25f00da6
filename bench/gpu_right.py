"""Whether a GPU's numbers are right, and the same each time; a step of ``bench.gpu``."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from bench.gpu_fed import Fed, device_of, job_for, options, tell
from mtembed import machine, models
from mtembed.engine.cpu import CpuDevice
from mtembed.engine.gpu_kernel import Trial
from mtembed.engine.memory import reason
from mtembed.engine.precision import relative_l2
from mtembed.kernels.select import GPU_BACKENDS, backend
from mtembed.messages import DeviceJob
from mtembed.notes import WorkerReady
from mtembed.sources import SOURCES
from tests.tools.slots import slot_of

CELLS = 9


def main() -> None:
    chosen = options()
    wanted = job_for(chosen.model, chosen.batch)
    if chosen.step == "right":
        tell(kernels={name: problem(name, wanted) for name in GPU_BACKENDS})
        for precision in dict.fromkeys([wanted.precision, "fp32"]):
            tell(**{precision: compared(replace(wanted, precision=precision))})
    else:
        fed = small(wanted)
        fed.embed(range(CELLS))
        tell(digest_of_another_process=fed.digest())


def problem(name: str, wanted: DeviceJob) -> str:
    """What is wrong with a kernel's bits on this device; nothing where they are the definition's."""
    spec, source = models.get(wanted.model), wanted.source
    rule, bands = spec.normalisation_for(source), len(spec.bands_for(source))
    try:
        return Trial.of(rule, bands, SOURCES[source].dtype, wanted.precision, device_of()).problem(backend(name))
    except Exception as error:  # each library raises its own
        return reason(error)


def small(wanted: DeviceJob) -> Fed:
    """Cells of four fragments."""
    return Fed(wanted, CELLS, wanted.size * 3 // 2)


def compared(wanted: DeviceJob) -> dict[str, object]:
    """Vectors against a CPU in fp32, and two feeds in another order against each other."""
    fed = small(wanted)
    fed.embed(range(CELLS))
    first, vectors = fed.digest(), fed.vectors(0)
    order = list(range(CELLS))
    random.Random(1).shuffle(order)
    fed.embed(order)
    again = fed.digest()
    torch.set_num_threads(machine.cores())
    golden = CpuDevice(replace(wanted, precision="fp32", card=None, threads=machine.cores(), batch=4))
    golden.take(fed.tasks[0], slot_of(fed.ring, fed.tasks[0]))
    error = relative_l2(vectors, fed.vectors(0))
    ready = fed.gpu.ready[0]
    assert isinstance(ready, WorkerReady)
    notes = [note.sentence() for note in fed.gpu.ready if note.sentence()]
    fed.close()
    return {
        "worst_relative_l2_to_cpu_fp32": float(error.max()),
        "shuffled_feed_equal": first == again,
        "position_independent": ready.position_independent,
        "kernel": ready.kernel,
        "digest": first,
        "notes": notes,
    }


if __name__ == "__main__":
    main()
