"""How a manifest comes to be: what is known before the first cell, earlier starts, what workers tell."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, assert_never

from mtembed import __version__
from mtembed.dataset.folder import now
from mtembed.dataset.manifest import GridFacts, Manifest, ModelFacts, Notes, WeightsFacts, totals
from mtembed.dataset.settings import Settings
from mtembed.geo.fragments import FragmentGrid
from mtembed.models import ModelSpec, origin
from mtembed.notes import (
    BatchHalved,
    DecodedBands,
    DecodedOnCpu,
    LaneDropped,
    MetadataOdd,
    Note,
    PartRemade,
    PrecisionCheck,
    PrecisionUnknown,
    ShardLost,
    Traffic,
    Unfused,
    Unpinned,
    WorkerReady,
)
from mtembed.storage.address import shown
from mtembed.text import printable
from mtembed.types import ShardFacts

LIBRARIES = ("torch", "timm", "numpy", "pyarrow", "numba", "imagecodecs", "rasterio", "pyproj", "shapely")
DATA_LICENCE = "contains modified Copernicus Sentinel data; Major TOM Core is CC-BY-SA-4.0"
WORDS_OF_COMMAND = 40
CARD = " (card "  # between the model and the number of a GPU, in the names of devices
T = TypeVar("T")


def begin(spec: ModelSpec, settings: Settings, side: tuple[int, int], warnings: Sequence[str] = ()) -> Manifest:
    """What is known before the first cell; ``side`` is a typical cell in pixels.

    Raises ValueError where a fragment does not fit into that cell.
    """
    grid = FragmentGrid.of(*side, settings.fragment_size, settings.overlap, settings.border_shift)
    return Manifest(
        started=now(),
        runs=0,
        devices=(),
        notes=Notes(),
        starts=(),
        input=None,
        mtembed=__version__,
        settings=settings,
        model=ModelFacts(
            name=spec.name,
            title=spec.title,
            bands=spec.bands_for(settings.source),
            dim=spec.dim,
            normalisation=spec.normalisation_for(settings.source),
            citation=spec.citation,
            shape=spec.shape,
        ),
        weights=WeightsFacts(
            file=settings.weights,
            sha256=settings.weights_sha256,
            published=spec.published.file if spec.published else None,
            random=settings.weights.startswith("random:") and spec.trained,
            licence=spec.licence,
        ),
        data_licence=DATA_LICENCE,
        fragment_grid=GridFacts(
            typical_cell=side,
            fragment_size=settings.fragment_size,
            row_offsets=tuple(grid.row_offsets),
            col_offsets=tuple(grid.col_offsets),
            uncovered_share=grid.uncovered,
        ),
        versions={"python": sys.version.split()[0], **versions(), **_maker(spec)},
        command=command_line(sys.argv),
        warnings=tuple(warnings),
        complete=False,
        shards={},
        totals=totals({}),
    )


def carried_on(
    first: Manifest,
    earlier: Manifest | None,
    *,
    shards: Mapping[str, ShardFacts],
    names: tuple[str, ...],
    complete: bool,
) -> Manifest:
    """The manifest of a start: ``first`` as it would be without an ``earlier`` one, with what that one knows.

    ``shards`` are the parts that are finished, ``names`` the shards of the input, ``complete``: none is left.
    """
    here = dataclasses.replace(first, input=names, complete=complete, shards=shards, totals=totals(shards))
    if earlier is None:
        return here
    return dataclasses.replace(
        here,
        started=earlier.started,
        runs=earlier.runs,
        starts=earlier.starts,
        devices=earlier.devices,
        kernels=earlier.kernels,
        position_independent=earlier.position_independent,
        notes=dataclasses.replace(earlier.notes, lost_shards=()),  # this start tries them again
        workers=earlier.workers,
        roofline=earlier.roofline,
        seconds=earlier.seconds,
        cells_per_s=earlier.cells_per_s,
        ended=earlier.ended,
    )


def noted(manifest: Manifest, note: Note) -> Manifest:
    """The manifest with what a worker told."""
    notes = manifest.notes
    if isinstance(note, WorkerReady):
        return _with_device(manifest, note)
    if isinstance(note, MetadataOdd):
        return dataclasses.replace(manifest, warnings=_with(manifest.warnings, note.cause))
    if isinstance(note, PrecisionCheck):
        notes = dataclasses.replace(notes, precision_check=note)
    elif isinstance(note, DecodedBands):
        before = notes.decoded_bands or DecodedBands(0, 0)
        notes = dataclasses.replace(notes, decoded_bands=DecodedBands(before.gpu + note.gpu, before.cpu + note.cpu))
    elif isinstance(note, Traffic):
        notes = dataclasses.replace(notes, network=(notes.network or Traffic()) + note)
    elif isinstance(note, BatchHalved):
        notes = dataclasses.replace(notes, batch_halved=(*notes.batch_halved, note.as_json()))
    elif isinstance(note, PartRemade):
        notes = dataclasses.replace(notes, remade_parts=(*notes.remade_parts, note.as_json()))
    elif isinstance(note, LaneDropped | Unpinned | Unfused | DecodedOnCpu | PrecisionUnknown | ShardLost):
        events: dict[str, Any] = {note.name: _with(getattr(notes, note.name), note.as_json())}
        notes = dataclasses.replace(notes, **events)
    else:
        assert_never(note)
    return dataclasses.replace(manifest, notes=notes)


def _with_device(manifest: Manifest, ready: WorkerReady) -> Manifest:
    """The manifest with a device that computes; GPUs that are not alike are warned about."""
    devices = _with(manifest.devices, ready.device)
    independent = (manifest.position_independent, ready.position_independent)
    unlike = _unlike(devices)
    return dataclasses.replace(
        manifest,
        devices=devices,
        kernels=_with(manifest.kernels, ready.kernel),
        versions={**manifest.versions, **ready.versions},
        position_independent=None if independent == (None, None) else False not in independent,
        warnings=_with(manifest.warnings, unlike) if unlike else manifest.warnings,
    )


def _unlike(devices: Sequence[str]) -> str:
    """A sentence where GPUs of several models compute one dataset."""
    models = sorted({device.rpartition(CARD)[0] for device in devices if CARD in device})
    if len(models) < 2:
        return ""
    return f"the GPUs are not alike ({', '.join(models)}): which of them embeds a cell may change its last bits"


def versions() -> dict[str, str]:
    """Versions of the libraries that shape the result, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _maker(spec: ModelSpec) -> dict[str, str]:
    """The package that the model comes from, where it is another one, and its version."""
    package, _, number = origin(spec).rpartition(" ")
    return {package: number} if package else {}


def command_line(argv: Sequence[str]) -> str:
    """The command with every path cut to its last part: no user names, no folders.  Bytes that are no UTF-8 are
    escaped."""
    plain = map(shown, argv[1:])  # no passwords, no signatures
    words = ["mtembed", *(printable(Path(word).name if "/" in word else word) for word in plain)]
    more = len(words) - WORDS_OF_COMMAND
    return " ".join(words[:WORDS_OF_COMMAND]) + (f" ... and {more} more" if more > 0 else "")


def _with(values: tuple[T, ...], value: T) -> tuple[T, ...]:
    """The values with one more, each once."""
    return values if value in values else (*values, value)
