"""How a manifest comes to be: what is known before the first cell, earlier starts, what workers tell."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from mtembed import __version__
from mtembed.dataset.folder import now
from mtembed.dataset.manifest import GridFacts, Manifest, ModelFacts, Notes, WeightsFacts, totals
from mtembed.dataset.settings import Settings
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import BatchHalved, DecodedBands, LaneDropped, Note, PrecisionCheck, Unpinned, WorkerReady
from mtembed.models import ModelSpec
from mtembed.text import printable
from mtembed.types import ShardFacts

LIBRARIES = ("torch", "timm", "numpy", "pyarrow", "numba", "imagecodecs", "rasterio", "pyproj", "shapely")
DATA_LICENCE = "contains modified Copernicus Sentinel data; Major TOM Core is CC-BY-SA-4.0"
WORDS_OF_COMMAND = 40
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
        versions={"python": sys.version.split()[0], **versions()},
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
        notes=earlier.notes,
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
        return dataclasses.replace(
            manifest,
            devices=_with(manifest.devices, note.device),
            kernels=_with(manifest.kernels, note.kernel),
            versions={**manifest.versions, **note.versions},
        )
    if isinstance(note, PrecisionCheck):
        notes = dataclasses.replace(notes, precision_check=note)
    elif isinstance(note, DecodedBands):
        before = notes.decoded_bands or DecodedBands(0, 0)
        notes = dataclasses.replace(notes, decoded_bands=DecodedBands(before.gpu + note.gpu, before.cpu + note.cpu))
    elif isinstance(note, BatchHalved):
        notes = dataclasses.replace(notes, batch_halved=(*notes.batch_halved, note.as_json()))
    elif isinstance(note, LaneDropped):
        notes = dataclasses.replace(notes, dropped_cards=_with(notes.dropped_cards, note.as_json()))
    elif isinstance(note, Unpinned):
        notes = dataclasses.replace(notes, unpinned=_with(notes.unpinned, note.as_json()))
    return dataclasses.replace(manifest, notes=notes)


def versions() -> dict[str, str]:
    """Versions of the libraries that shape the result, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line(argv: Sequence[str]) -> str:
    """The command with every path cut to its last part: no user names, no folders.  Bytes that are no UTF-8 are
    escaped."""
    words = ["mtembed", *(printable(Path(word).name if "/" in word else word) for word in argv[1:])]
    more = len(words) - WORDS_OF_COMMAND
    return " ".join(words[:WORDS_OF_COMMAND]) + (f" ... and {more} more" if more > 0 else "")


def _with(values: tuple[T, ...], value: T) -> tuple[T, ...]:
    """The values with one more, each once."""
    return values if value in values else (*values, value)
