"""``mtembed finish``: one manifest, one list of failures and one card for what any number of processes made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtembed.dataset.far import dataset_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import Manifest, Notes, read
from mtembed.dataset.record import finish as write_end
from mtembed.dataset.record import found_parts, write_manifest
from mtembed.dataset.settings import check_same
from mtembed.errors import OutputError, UsageError
from mtembed.notes import Traffic


@dataclass(frozen=True, slots=True)
class FinishResult:
    """``missing`` are shards that have no part (by name); ``joined`` manifests became one."""

    dataset: str
    complete: bool
    shards: int
    cells: int
    failed: int
    embeddings: int
    joined: int
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"event": "result", **dataclasses.asdict(self)}


def finish(dataset: str | Path) -> FinishResult:
    """Make one manifest of all that lie in a dataset's folder, of the parts that are there, with its list of failures
    and its card; take away what dead processes left.

    Raises UsageError where there is no dataset, LockedError where processes are at work, SettingsError where manifests
    are of different settings, OutputError where the folder cannot be read or written.
    """
    folder = dataset_of(str(dataset))
    if not folder.manifests():
        raise UsageError(f"{dataset} is not a dataset made by mtembed: name the --output folder of a run")
    with folder.joined():
        folder.require_alone("it finishes the dataset by itself")
        try:
            return _finish(folder)
        except OSError as error:
            raise OutputError(folder.problem(error)) from error


def _finish(folder: Dataset) -> FinishResult:
    folder.sweep()
    paths = folder.manifests()
    manifest = joined([read(path) for path in paths], str(folder.place))
    names = manifest.input or ()
    missing = _missing(folder, names)
    whole = manifest.complete or not missing
    manifest = dataclasses.replace(manifest, shards=found_parts(folder, manifest.shards, names))
    written = write_end(folder, manifest, whole, names if whole else (), lambda one: write_manifest(folder, one))
    for path in paths:
        if path != folder.manifest_path:
            folder.remove([folder.of(path).failures_path, path])
    sums = written.totals
    return FinishResult(
        dataset=str(folder.place),
        complete=written.complete,
        shards=sums.shards,
        cells=sums.cells,
        failed=sums.failed,
        embeddings=sums.embeddings,
        joined=len(paths),
        missing=() if whole else missing,
    )


def _missing(folder: Dataset, names: Sequence[str]) -> tuple[str, ...]:
    done = folder.done_stems()
    return tuple(name for name in names if Path(name).stem not in done)


def joined(manifests: Sequence[Manifest], folder: str) -> Manifest:
    """One manifest of those of several processes.  Raises SettingsError where their settings differ."""
    first = manifests[0]
    for other in manifests[1:]:
        check_same(other.settings, first.settings, folder)
    independent = {one.position_independent for one in manifests} - {None}
    return dataclasses.replace(
        first,
        settings=dataclasses.replace(first.settings, shard_count=1),
        started=min(one.started for one in manifests),
        runs=sum(one.runs for one in manifests),
        starts=tuple(sorted(start for one in manifests for start in one.starts)),
        ended=max((one.ended for one in manifests if one.ended), default=None),
        devices=_each(*(one.devices for one in manifests)),
        kernels=_each(*(one.kernels for one in manifests)),
        warnings=_each(*(one.warnings for one in manifests)),
        input=_each(*(one.input or () for one in manifests)),
        versions={name: version for one in manifests for name, version in one.versions.items()},
        notes=_notes([one.notes for one in manifests]),
        shards={stem: facts for one in manifests for stem, facts in one.shards.items()},
        complete=all(one.complete for one in manifests),
        position_independent=None if not independent else False not in independent,
        workers=next((one.workers for one in manifests if one.workers), None),
        roofline=next((one.roofline for one in manifests if one.roofline), None),
        seconds=round(sum(one.seconds or 0.0 for one in manifests), 3) or None,
    )


def _notes(every: Sequence[Notes]) -> Notes:
    events = {
        field.name: _each(*(getattr(one, field.name) for one in every))
        for field in dataclasses.fields(Notes)
        if field.default == ()
    }
    decoded = [one.decoded_bands for one in every if one.decoded_bands]
    fetched = [one.network for one in every if one.network]
    return Notes(
        precision_check=next((one.precision_check for one in every if one.precision_check), None),
        decoded_bands=dataclasses.replace(
            decoded[0], gpu=sum(one.gpu for one in decoded), cpu=sum(one.cpu for one in decoded)
        )
        if decoded
        else None,
        network=sum(fetched, Traffic()) if fetched else None,
        **events,
    )


def _each(*several: Sequence[Any]) -> tuple[Any, ...]:
    """All values, each once, in their order."""
    return tuple({repr(value): value for values in several for value in values}.values())
