"""What in an output folder was made by mtembed: only that is ever overwritten or removed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from mtembed.dataset.folder import FOLDERS, WORK, Dataset, output_problem
from mtembed.dataset.manifest import Manifest, read
from mtembed.errors import OutputError

NAMED = 3  # files in a sentence


def require_ours(dataset: Dataset, wanted: Iterable[str]) -> None:
    """Raises OutputError where the folder holds files of others, or files of others have the names of the ``wanted``
    parts, and where a manifest in it cannot be read."""
    root = dataset.root
    try:
        known = {stem for path in dataset.manifests() for stem in _listed(Dataset.of_manifest(path), read(path))}
        others = [] if dataset.manifests() else _others(root)
        foreign = sorted(set(wanted) - known)
        others += [
            str(path.relative_to(root))
            for stem in foreign
            for path in (dataset.part(stem), dataset.timings(stem))
            if os.path.lexists(path)
        ]
    except OSError as error:
        raise OutputError(output_problem(root, error)) from error
    if others:
        shown = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        raise OutputError(
            f"the output folder {root.name} has files that no manifest of mtembed lists ({shown}): "
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
            _remove(Dataset.of_manifest(path), read(path))
    if not dataset.manifests():
        dataset.card_path.unlink(missing_ok=True)
    for paths in dataset.journals().values() if every else ():
        for path in paths:
            path.unlink(missing_ok=True)


def _remove(dataset: Dataset, manifest: Manifest) -> None:
    """The manifest goes last: killed before that, the same command removes the rest."""
    for stem in _listed(dataset, manifest):
        for path in (dataset.part(stem), dataset.timings(stem), *dataset.journals().get(stem, ())):
            path.unlink(missing_ok=True)
    dataset.failures_path.unlink(missing_ok=True)
    dataset.manifest_path.unlink(missing_ok=True)


def _listed(dataset: Dataset, manifest: Manifest) -> set[str]:
    """Stems of the parts that a process made, or was making when it was killed."""
    names = manifest.input or ()
    if manifest.settings.limit is not None:  # then all processes' shards are listed, in order
        names = names[dataset.index :: dataset.count]
    return {*manifest.shards, *(Path(name).stem for name in names)}


def _others(root: Path) -> list[str]:
    """Names in a folder without a manifest that are not ours; hidden ones stand in nobody's way."""
    if not root.exists():
        return []
    found = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return [path.name for path in found if not (path.name in FOLDERS and path.is_dir() and not any(path.iterdir()))]
