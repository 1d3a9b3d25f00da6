"""``--decoder``: which GeoTIFFs are decoded on the GPU.  Asked of the card itself before the run starts.

The pixels are the same either way, so this is no setting of a dataset.  A GPU that decodes computes less, and decode
workers cost it nothing as long as they keep up: ``auto`` moves the work only where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtembed import layout, workers
from mtembed.errors import WorkerError
from mtembed.messages import DeviceJob, ProbeJob
from mtembed.roofline import decode_trial
from mtembed.settings import Settings
from mtembed.trial import network_trial
from mtembed.worker import Job
from mtembed.workers import Fatal, Ready, Worker

if TYPE_CHECKING:
    from mtembed.run import Plan

UNPACKED = "none"
WORTH = 1.05  # the GPU decodes where that is so many times as fast


@dataclass(frozen=True, slots=True)
class Choice:
    """The encodings that go to the GPU, and sentences on why."""

    gpu: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def choose(
    plan: Plan, settings: Settings, job: DeviceJob, start_decoder: Callable[[], Worker], shards: Sequence[Path]
) -> Choice:
    """For a run on GPUs; ``job`` is the first card's, ``start_decoder`` starts a decode worker for a trial.

    Raises WorkerError when a worker of the trial ends before it has answered.
    """
    wanted, peek = plan.config.decoder, plan.peek
    packed = peek.encodings - {UNPACKED}
    if wanted == "cpu" or job.card is None or peek.place is None or (wanted == "auto" and not packed):
        return Choice()
    if settings.extras or settings.max_nodata < 1.0:
        words = "--extras and --max-nodata look at pixels on the CPU, so GeoTIFFs are decoded there"
        return Choice(notes=(words,) if wanted == "gpu" else ())
    found = _ask(plan, job)
    exact, problems = frozenset(found["exact"]), found["problems"]
    notes = [f"{', '.join(names)}: decoded on the CPU, because on the GPU {reason}" for reason, names in _by(problems)]
    if wanted == "gpu":
        return Choice(exact, tuple(notes + ([f"decoding {', '.join(sorted(exact))} on the GPU"] if exact else [])))
    if not packed & exact:
        return Choice()
    return _faster(plan, settings, packed & exact, found["seconds"], start_decoder, shards)


def _ask(plan: Plan, job: DeviceJob) -> dict[str, Any]:
    """What the first card can decode; it is asked in a process of its own."""
    assert plan.peek.place is not None
    path, row = plan.peek.place
    dtype = "float32" if plan.source == "S1RTC" else "uint16"
    question = Job((), ProbeJob(dtype, path, row, plan.spec.bands_for(plan.source)))
    worker = workers.start("probe", "probe-0", question, (), layout.device_environment(job))
    try:
        message: Ready | Fatal = worker.connection.recv()
    except (EOFError, OSError):
        raise WorkerError(f"the GPU could not be asked what it can decode: {worker.cause_of_death()}") from None
    finally:
        worker.close()
    if isinstance(message, Fatal):
        raise WorkerError(message.message)
    return message.details


def _faster(
    plan: Plan, settings: Settings, packed: frozenset[str], seconds: float, start: Callable[[], Worker],
    shards: Sequence[Path],
) -> Choice:  # fmt: skip
    """Cells per second of one card with either decoder, from short trials of the parts."""
    worker = start()
    try:
        timings = decode_trial(worker, shards, plan.config.stall_timeout)
    finally:
        worker.close()
    if not timings:
        return Choice()
    sizes = layout.crew_sizes(plan.spec, settings, plan.config)
    decoding = sum(timing.read + timing.decode for timing in timings) / len(timings) / 1e3 * sizes.device / sizes.decode
    network = network_trial(plan, settings).seconds
    on_cpu, on_gpu = 1 / max(decoding, network), 1 / (network + seconds)
    where = "GPU" if on_gpu > WORTH * on_cpu else "CPU"
    rates = f"{on_cpu:.3g} cells/s a card with {sizes.decode} decode workers, {on_gpu:.3g} with the GPU"
    note = f"decoding {', '.join(sorted(packed))} on the {where}: in a trial {rates}"
    return Choice(packed if where == "GPU" else frozenset(), (note,))


def _by(problems: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Reasons, each with the encodings it holds for."""
    reasons = dict.fromkeys(problems.values())
    return [(reason, [name for name, other in problems.items() if other == reason]) for reason in reasons]
