"""``--decoder``: which GeoTIFFs are decoded on the GPU.  Asked of the card itself before the run starts.

The pixels of an intact blob are the same either way, so this is no setting of a dataset.  A GPU that decodes computes
less, and decode workers cost it nothing as long as they keep up: ``auto`` moves the work only where they do not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mtembed.dataset.settings import Settings
from mtembed.errors import MtembedError, WorkerError
from mtembed.messages import GPU_ENCODINGS, DeviceJob, Probed, ProbeJob
from mtembed.run.plan import Plan
from mtembed.run.process import Job, Worker, ask, start_patience_s
from mtembed.run.roofline import decode_trial
from mtembed.run.sizes import Sizes, device_environment
from mtembed.run.trial import network_trial
from mtembed.sources import SOURCES
from mtembed.storage.address import Place

WORTH = 1.05  # the GPU decodes where that is so many times as fast


@dataclass(frozen=True, slots=True)
class Choice:
    """The encodings that go to the GPU, and sentences on why."""

    gpu: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def choose(
    plan: Plan, settings: Settings, sizes: Sizes, start_decoder: Callable[[], Worker], shards: Sequence[Place]
) -> Choice:
    """For a run on GPUs; ``start_decoder`` starts a decode worker for a trial.

    Under ``gpu`` a GPU that cannot be asked is a WorkerError; under ``auto`` everything stays on the CPU then.
    """
    wanted, first = plan.config.decoder, plan.first_cell
    packed = first.encodings & set(GPU_ENCODINGS)
    if wanted == "cpu" or not sizes.on_gpu or first.place is None or (wanted == "auto" and not packed):
        return Choice()
    if settings.extras or settings.max_nodata < 1.0:
        words = "--extras and --max-nodata look at pixels on the CPU, so GeoTIFFs are decoded there"
        return Choice(notes=(words,) if wanted == "gpu" else ())
    if not _installed():
        missing = "nvImageCodec is not installed: pip install 'mtembed[gpu]' to have LZW and deflate decoded on the GPU"
        return Choice(notes=(missing,))
    try:
        return _asked(plan, settings, sizes, packed, start_decoder, shards)
    except (MtembedError, OSError, ValueError) as error:
        if wanted == "gpu":
            raise
        return Choice(notes=(f"{error}; {', '.join(sorted(packed))} stays on the CPU",))


def _asked(
    plan: Plan, settings: Settings, sizes: Sizes, packed: frozenset[str], start: Callable[[], Worker],
    shards: Sequence[Place],
) -> Choice:  # fmt: skip
    """The choice, when extras and the library leave one.  Raises WorkerError when a worker of a trial ends too soon."""
    wanted = plan.config.decoder
    found = _ask(plan, sizes.device_jobs[0])
    exact = found.exact
    concerned = {name: why for name, why in found.problems.items() if wanted == "gpu" or name in packed}
    notes = tuple(f"{', '.join(names)} stays on the CPU, because on the GPU {why}" for why, names in _by(concerned))
    if wanted == "gpu":
        return Choice(
            exact, notes + ((f"the GPU decodes {', '.join(sorted(exact))} wherever a shard has it",) if exact else ())
        )
    if not packed & exact:
        return Choice(notes=notes)
    return _faster(plan, settings, sizes, packed & exact, found.seconds, start, shards)


def _installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:
        return False


def _ask(plan: Plan, job: DeviceJob) -> Probed:
    """What the first GPU can decode; it is asked in a process of its own."""
    assert plan.first_cell.place is not None
    path, row = plan.first_cell.place
    question = ProbeJob(SOURCES[plan.source].dtype, path, row, plan.spec.bands_for(plan.source))
    patience = start_patience_s(plan.config.stall_timeout)
    try:
        return ask("probe", Job((), question), Probed, patience, device_environment(job))
    except WorkerError as error:
        raise WorkerError(f"the GPU could not be asked what it can decode: {error}") from None


def _faster(
    plan: Plan, settings: Settings, sizes: Sizes, packed: frozenset[str], seconds: float,
    start: Callable[[], Worker], shards: Sequence[Place],
) -> Choice:  # fmt: skip
    """Where these encodings are decoded faster, from short trials of the parts; ``seconds`` a cell on the GPU."""
    worker = start()
    try:
        timings = decode_trial(worker, shards, sizes.decode_credit, plan.config.stall_timeout)
    finally:
        worker.close()
    if not timings:
        return Choice()
    crews = sizes.crews
    share = crews.device / crews.decode / len(timings) / 1e3  # of a decode worker's time, for one GPU's cells
    found = rates(
        reading_s=sum(timing.read for timing in timings) * share,
        decoding_s=sum(timing.decode for timing in timings) * share,
        network_s=network_trial(plan, settings, sizes).seconds,
        gpu_decoding_s=seconds,
    )
    where = "GPU" if found.gpu_is_worth_it else "CPU"
    words = f"{found.on_cpu:.3g} cells/s a card with {crews.decode} decode workers, {found.on_gpu:.3g} with the GPU"
    note = f"decoding {', '.join(sorted(packed))} on the {where}: in a trial {words}"
    return Choice(packed if where == "GPU" else frozenset(), (note,))


@dataclass(frozen=True, slots=True)
class Rates:
    """Cells per second of one GPU, with the blobs decoded on the CPU and on the GPU."""

    on_cpu: float
    on_gpu: float

    @property
    def gpu_is_worth_it(self) -> bool:
        return self.on_gpu > WORTH * self.on_cpu


def rates(*, reading_s: float, decoding_s: float, network_s: float, gpu_decoding_s: float) -> Rates:
    """What limits either way, from seconds per cell: the decode workers read and perhaps decode beside the GPU, which
    computes the network and perhaps decodes before it."""
    return Rates(1 / max(reading_s + decoding_s, network_s), 1 / max(reading_s, network_s + gpu_decoding_s))


def _by(problems: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Reasons, each with the encodings it holds for."""
    reasons = dict.fromkeys(problems.values())
    return [(reason, [name for name, other in problems.items() if other == reason]) for reason in reasons]
