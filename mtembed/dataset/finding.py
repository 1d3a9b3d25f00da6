"""Which files of embeddings a name stands for, on this machine or behind an address, and what they are called."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mtembed.dataset.array import HEADER, METADATA
from mtembed.dataset.folder import FOLDERS
from mtembed.dataset.manifest import read
from mtembed.errors import UsageError
from mtembed.storage.address import WEB, Address, Place, is_address
from mtembed.storage.copies import local
from mtembed.storage.finding import below, files_of
from mtembed.storage.remote import tail

Name = str | Path
PARTS = "embeddings"  # the folder of a dataset that holds its files


def find_files(name: Name) -> list[Place]:
    """Places of the files that a name stands for, sorted.  Raises UsageError where there are none, StorageError."""
    return _behind(Address.of(str(name))) if is_address(str(name)) else _here(Path(name))


def is_folder(name: Name) -> bool:
    """Whether a name is that of a folder; behind an address, whether it looks like one."""
    if not is_address(str(name)):
        return Path(name).is_dir()
    address = Address.of(str(name))
    return not address.is_pattern and not address.name.endswith(".parquet")


def title_of(names: Name | Sequence[Name]) -> str:
    """What a person calls a dataset: the last part of its name."""
    first = names if isinstance(names, str | Path) else names[0]
    title = Address.of(str(first)).name if is_address(str(first)) else Path(first).absolute().name
    return title if isinstance(names, str | Path) or len(names) == 1 else f"{title} and others"


def default_output(names: Name | Sequence[Name], what: str) -> Path:
    """``DATASET/WHAT`` for a folder on this machine, ``NAME-WHAT`` in the current folder for anything else."""
    first = names if isinstance(names, str | Path) else names[0]
    if (isinstance(names, str | Path) or len(names) == 1) and not is_address(str(first)) and Path(first).is_dir():
        return Path(first) / what
    return Path(f"{title_of(first).removesuffix('.parquet').strip('*') or 'dataset'}-{what}")


def shared_folder(places: Sequence[Place]) -> Place:
    """The folder that all files share.  Raises UsageError for files of several stores."""
    if len({place.root if isinstance(place, Address) else "" for place in places}) > 1:
        raise UsageError("files of several stores are no dataset: name files of one store, or of this machine")
    first, shared = places[0], _path(places[0]).parent
    while not all(_path(place).is_relative_to(shared) for place in places):
        shared = shared.parent
    return first.above(len(_path(first).relative_to(shared).parts)) if isinstance(first, Address) else Path(shared)


def names_below(shared: Place, places: Sequence[Place]) -> list[str]:
    """The paths of files below a folder."""
    return [_path(place).relative_to(_path(shared)).as_posix() for place in places]


def _path(place: Place) -> PurePosixPath:
    if isinstance(place, Path):
        return PurePosixPath(place)
    return PurePosixPath("/", unquote(place.key) if place.scheme in WEB else place.key)


def _behind(address: Address) -> list[Place]:
    header = address.above(int(address.name in (HEADER, METADATA)), HEADER)
    if address.name == HEADER or (address.name == METADATA and _is_there(header)):
        return [header]
    try:
        by_manifest = address.scheme in WEB and is_folder(address.url)
        files = listed(address) if by_manifest else files_of(address, ".parquet")
    except UsageError:  # a web server's folder without a manifest
        if _is_there(header):
            return [header]
        raise
    found = [file for file in files if file.name.endswith(".parquet") and not file.name.startswith(".")]
    if not found:
        raise UsageError(f"no file of embeddings matches {address}: check the address, and that it may be read")
    if not is_folder(address.url):
        return [*found]
    folder = _path(address)
    inside = [file for file in found if _path(file).parent == folder / PARTS]
    inside = inside or [file for file in found if _path(file).parent == folder and file.name != METADATA]
    if not inside and _is_there(header):
        return [header]
    if not inside:
        others = sorted({_path(file).parent.parent.name for file in found if _path(file).parent.name == PARTS})
        advice = f"name one of {', '.join(others[:5])} in it" if others else "name a folder of embedding files"
        raise UsageError(f"{address} is a folder without embeddings: {advice}")
    return [*inside]


def _is_there(file: Address) -> bool:
    try:
        tail(file, 8)
    except FileNotFoundError:
        return False
    return True


def listed(address: Address) -> list[Address]:
    """All files of a dataset behind an address; web servers list none, but a manifest does.

    Raises UsageError where there is neither, StorageError.
    """
    if address.scheme not in WEB:
        return below(address)
    try:
        shards = read(local(address.above(0, "manifest.json"))).shards
    except FileNotFoundError:
        raise UsageError(
            f"{address} has no manifest.json, and web servers list no folders: name each file of embeddings"
        ) from None
    names = ["manifest.json", "README.md", "failures.jsonl"]
    names += [f"{folder}/{stem}.parquet" for folder in FOLDERS for stem in shards]
    return [_below(address, name) for name in names]


def _below(folder: Address, name: str) -> Address:
    for part in name.split("/"):
        folder = folder.above(0, part)
    return folder


def _here(path: Path) -> list[Place]:
    if path.is_dir() and (path / HEADER).is_file():
        return [path / HEADER]
    if path.is_dir():
        folder = path / PARTS if (path / PARTS).is_dir() else path
        found = [p for p in folder.glob("*.parquet") if p.name != METADATA and not p.name.startswith(".")]
        if not found:
            inside = sorted(p.parent.name for p in path.glob(f"*/{PARTS}"))
            advice = f"name one of {', '.join(inside[:5])} in it" if inside else "name a folder of embedding files"
            raise UsageError(f"{path} is a folder without embeddings: {advice}")
    elif path.exists():
        of_array = path.name == METADATA and path.with_name(HEADER).is_file()
        found = [path.with_name(HEADER) if of_array else path]
    else:
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]  # noqa: PTH207
        if not found:
            raise UsageError(f"no file of embeddings matches {path}: name a dataset's folder, files or a glob")
    return [*sorted(found)]
