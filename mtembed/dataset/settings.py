"""What decides the bytes of a dataset: resolved once, kept in the manifest, and held to on every later start."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtembed import machine
from mtembed.config import RunConfig
from mtembed.errors import SettingsError, UsageError
from mtembed.geo.fragments import FragmentGrid
from mtembed.machine import Gpus
from mtembed.models import ModelSpec
from mtembed.sources import CORE_SIDE
from mtembed.types import Source, Weights

Precision = Literal["fp32", "bf16", "fp16"]
Engine = Literal["torch", "openvino"]
Device = Literal["cpu", "cuda"]
HALF: dict[str | None, Precision] = {
    "float16": "fp16",
    "bfloat16": "bf16",
    None: "fp32",
}  # a model's 16-bit type, as --precision names it


@dataclass(frozen=True, slots=True)
class Settings:
    """Every value that can change a byte under ``embeddings/`` (beside versions of libraries and the processor)."""

    model: str
    weights: str
    weights_sha256: str
    source: Source
    fragment_size: int
    overlap: float
    border_shift: bool
    offset: Literal["keep", "remove"]
    max_nodata: float
    dtype: Literal["float32", "float16"]
    extras: bool
    bbox: tuple[float, ...] | None
    cells_sha256: str | None
    limit: int | None
    shard_count: int
    precision: Precision
    engine: Engine
    device: Device
    batch: int
    threads: int
    model_card: str | None = None
    dense: bool = False
    where: str | None = None

    @property
    def id(self) -> str:
        """A short digest of all values, but of how shards are dealt: no byte depends on that."""
        text = json.dumps(dataclasses.asdict(dataclasses.replace(self, shard_count=1)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return content


OPTION_OF = {"weights_sha256": "weights", "cells_sha256": "cells", "engine": "engine"}


def resolve(
    config: RunConfig, spec: ModelSpec, source: Source, weights: Weights, earlier: Settings | None, gpus: Gpus
) -> Settings:
    """Settings of this run: the user's words, else an earlier run's choice, else the machine's fixed properties."""
    device, engine = resolve_device(config, earlier, gpus)
    named = None if config.precision == "auto" else config.precision
    precision = named or (earlier.precision if earlier else automatic_precision(spec, device))
    if engine == "openvino":
        check_openvino(spec, precision)
    return Settings(
        model=spec.name,
        weights=weights.label,
        weights_sha256=weights.sha256,
        source=source,
        fragment_size=config.fragment_size or spec.size,
        overlap=config.overlap,
        border_shift=config.border_shift,
        offset=spec.offset if config.offset == "auto" else config.offset,
        max_nodata=config.max_nodata,
        dtype="float16" if config.dense else config.dtype,
        extras=config.extras,
        bbox=config.bbox,
        cells_sha256=None if config.cells is None else hashlib.sha256(Path(config.cells).read_bytes()).hexdigest(),
        limit=config.limit,
        shard_count=config.shard_count,
        precision=precision,
        engine=engine,
        device=device,
        batch=config.batch or (earlier.batch if earlier else automatic_batch(spec, device, config)),
        where=config.where,
        threads=earlier.threads if earlier else _threads(spec, device, config.share_of_machine),
        model_card=spec.card or None,
        dense=config.dense,
    )


def resolve_device(config: RunConfig, earlier: Settings | None, gpus: Gpus) -> tuple[Device, Engine]:
    """``cpu`` or ``cuda``, and the engine; ``gpus`` are those that can be used.

    Raises UsageError for devices that are not there or do not go together.
    """
    visible = gpus.numbers
    engine: Engine = (earlier.engine if earlier else "torch") if config.engine == "auto" else config.engine
    automatic: Device = earlier.device if earlier else "cuda" if visible and engine == "torch" else "cpu"
    device: Device = "cuda" if config.gpus else automatic if config.device == "auto" else config.device
    if config.gpus and config.device == "cpu":
        raise UsageError("--gpus and --device cpu exclude each other: leave one out")
    if device == "cuda" and engine == "openvino":
        raise UsageError("--engine openvino computes on the CPU: leave out --gpus and --device cuda")
    if config.decoder == "gpu" and device == "cpu":
        raise UsageError("--decoder gpu needs a GPU for the network: leave it out, GeoTIFFs are decoded on the CPU")
    if device == "cuda" and not visible:
        why = f"no GPU can be used ({gpus.problem})" if gpus.problem else "no NVIDIA GPU is visible"
        raise UsageError(f"{why}: use --device cpu (a dataset begun on a GPU can only go on on one)")
    unknown = sorted(set(config.gpus or ()) - set(visible))
    if unknown:
        why = f" ({gpus.problem})" if gpus.problem else ""
        raise UsageError(f"--gpus {unknown[0]} cannot be used{why}: choose among {', '.join(map(str, visible))}")
    return device, engine


def check_openvino(spec: ModelSpec, precision: str) -> None:
    """Raises UsageError where OpenVINO cannot run the model, or is not there."""
    if "openvino" not in spec.engines:
        raise UsageError(f"{spec.name} has no OpenVINO version: leave out --engine openvino")
    if precision == "fp16":
        raise UsageError("--engine openvino computes in fp32 or bf16: choose one of these with --precision")
    if importlib.util.find_spec("openvino") is None:
        raise UsageError("--engine openvino needs a package that is not installed: pip install 'mtembed[openvino]'")


def automatic_precision(spec: ModelSpec, device: Device) -> Precision:
    """16 bit where the device has fast units for it and the model has a 16-bit type."""
    if device == "cuda" and not machine.cpu_cards():
        return HALF[spec.half]
    return "bf16" if spec.half and machine.fast_bf16() else "fp32"


def automatic_batch(spec: ModelSpec, device: Device, config: RunConfig) -> int:
    """Fragments per forward; on a GPU whole cells of Core, so that none goes up twice because it lies across a batch's
    end."""
    if device == "cpu" or machine.cpu_cards():
        return spec.cpu_batch
    size = config.fragment_size or spec.size
    side = max(CORE_SIDE, size)
    per_cell = len(FragmentGrid.of(side, side, size, config.overlap, config.border_shift))
    return spec.gpu_batch // per_cell * per_cell or spec.gpu_batch


def _threads(spec: ModelSpec, device: Device, share: float) -> int:
    return 1 if device == "cuda" else cpu_layout(spec, share)[1]


def cpu_layout(spec: ModelSpec, share: float = 1.0) -> tuple[int, int]:
    """Processes and threads of each on CPU: one thread each where the model fits that often into half the memory."""
    cores = machine.cores(share)
    footprint = 2 * spec.weight_bytes + (1 << 30)  # weights while they are being prepared, activations, libraries
    processes = max(1, min(cores, machine.memory_bytes(share) // 2 // footprint))
    return processes, max(1, cores // processes)


def check_same(settings: Settings, earlier: Settings, folder: str) -> None:
    """Raises SettingsError naming every setting in which this run differs from the one that made the folder."""
    then = earlier.as_json()
    differing = [
        f"{OPTION_OF.get(name, name).replace('_', '-')} was {_shown(then[name])}, is now {_shown(value)}"
        for name, value in settings.as_json().items()
        if then[name] != value and name != "shard_count"
    ]
    if differing:
        raise SettingsError(
            f"{folder} was made with other settings ({'; '.join(dict.fromkeys(differing))}): "
            "repeat them, choose another --output, or start over with --fresh"
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else value[:12] if isinstance(value, str) else json.dumps(value)
