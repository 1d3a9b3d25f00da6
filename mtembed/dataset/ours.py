"""What in an output folder was made by mtembed: only that is ever overwritten or removed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from mtembed.dataset.folder import FOLDERS, WORK, Dataset
from mtembed.dataset.manifest import Manifest, read
from mtembed.errors import OutputError

NAMED = 3  # files in a sentence


def require_ours(dataset: Dataset, wanted: Iterable[str]) -> None:
    """Raises OutputError where the folder holds files of others, or files of others have the names of the ``wanted``
    parts, and where a manifest in it cannot be read."""
    root = dataset.root
    try:
        known = {stem for path in dataset.manifests() for stem in _listed(dataset.of(path), read(path))}
        others = [] if dataset.manifests() else dataset.visible()
        foreign = sorted(set(wanted) - known)
        others += [
            str(path.relative_to(root))
            for stem in foreign
            for path in (dataset.part(stem), dataset.timings(stem))
            if dataset.has(path)
        ]
    except OSError as error:
        raise OutputError(dataset.problem(error)) from error
    if others:
        shown = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        raise OutputError(
            f"the output folder {dataset.place.name} has files that no manifest of mtembed lists ({shown}): "
            "choose another --output, or move them away"
        )


def clear(dataset: Dataset) -> None:
    """``--fresh``: remove the files that manifests list, the manifests, and what unfinished runs left.

    A process that shares the folder removes only its own.  Nothing is removed through a link, or beside a running
    process.  Raises LockedError, OutputError and OSError.
    """
    for name in (*FOLDERS, WORK):
        if (dataset.root / name).is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(dataset.root / name))
    dataset.require_alone()
    every = dataset.count == 1
    for path in dataset.manifests() if every else [dataset.manifest_path]:
        if path.exists():
            _remove(dataset.of(path), read(path))
    if not dataset.manifests():
        dataset.remove([dataset.card_path])
    for paths in dataset.journals().values() if every else ():
        for path in paths:
            path.unlink(missing_ok=True)


def _remove(dataset: Dataset, manifest: Manifest) -> None:
    """The manifest goes last: killed before that, the same command removes the rest."""
    stems, journals = _listed(dataset, manifest), dataset.journals()
    dataset.remove(path for stem in stems for path in (dataset.part(stem), dataset.timings(stem)))
    for path in (path for stem in stems for path in journals.get(stem, ())):
        path.unlink(missing_ok=True)
    dataset.remove([dataset.failures_path])
    dataset.remove([dataset.manifest_path])


def _listed(dataset: Dataset, manifest: Manifest) -> set[str]:
    """Stems of the parts that a process made, or was making when it was killed."""
    names = manifest.input or ()
    if manifest.settings.limit is not None:  # then all processes' shards are listed, in order
        names = names[dataset.index :: dataset.count]
    return {*manifest.shards, *(Path(name).stem for name in names)}
