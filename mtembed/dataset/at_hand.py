"""A dataset on this machine's disk: its folder, or copies of files that lie behind an address, its parts one by one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path

from mtembed.dataset.atomic import is_file_name
from mtembed.dataset.board import MOST_BYTES
from mtembed.dataset.finding import PARTS, Name, listed, names_below
from mtembed.dataset.folder import FOLDERS, WORK
from mtembed.errors import StorageError, UsageError
from mtembed.storage import cache, writing
from mtembed.storage.address import Address, is_address
from mtembed.storage.copies import download, local
from mtembed.storage.readers import THREADS, submit

Each = Callable[[Iterable[str]], Iterator[str]]
"""Stems of parts in, the same out: a part's files are there from its turn on until the next one's."""


@contextmanager
def at_hand(name: Name) -> Iterator[Path]:
    """The folder itself, or a temporary one of copies from behind an address, without embeddings.

    Copies stay in the cache for as long as the files are the same.  Raises UsageError where nothing is behind the
    address, StorageError.
    """
    if not is_address(str(name)):
        yield Path(name)
        return
    with _copied(Address.of(str(name)), later=(PARTS,)) as (root, _):
        yield root


@contextmanager
def part_by_part(name: Name) -> Iterator[tuple[Path, Each]]:
    """The folder, and a way to go through its parts.

    Behind an address files of a part are copied when it is its turn, those of the next one meanwhile, and emptied after
    it: the disk holds two parts, and a listing of the folder still names all of them.  Errors as of ``at_hand``.
    """
    if not is_address(str(name)):
        yield Path(name), iter
        return
    with _copied(Address.of(str(name)), later=FOLDERS) as (root, files):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield root, _Turns(files).each


class _Turns:
    """Files of parts, fetched when it is their turn, by threads that nobody waits for when it comes to nothing."""

    def __init__(self, files: Mapping[Path, Address]) -> None:
        self._files = files
        self._of_stem: dict[str, list[Path]] = {}
        for path in files:
            self._of_stem.setdefault(path.stem, []).append(path)

    def each(self, stems: Iterable[str]) -> Iterator[str]:
        every = [*stems]
        coming = self._fetch(every[0]) if every else []
        for stem, after in zip_longest(every, every[1:]):
            for future in coming:
                future.result()
            coming = [] if after is None else self._fetch(after)
            yield stem
            for path in self._of_stem.get(stem, ()):
                with suppress(FileNotFoundError):
                    os.truncate(path, 0)

    def _fetch(self, stem: str) -> list[Future[None]]:
        paths = self._of_stem.get(stem, ())
        return [submit(partial(_download, self._files[path], path)) for path in paths]


@contextmanager
def _copied(address: Address, later: tuple[str, ...]) -> Iterator[tuple[Path, dict[Path, Address]]]:
    """A folder of copies, and what of the folders ``later`` is not copied yet."""
    files = listed(address)
    if not files:
        raise UsageError(f"nothing is behind {address}: check the address, and that it may be read")
    with _scratch(address) as root:
        named = zip(files, names_below(address, files), strict=True)
        every = {root / name: file for file, name in named if ".." not in Path(name).parts}
        wanted = {path: file for path, file in every.items() if path.relative_to(root).parts[0] != WORK}
        if len(wanted) < len(every):
            _copy_work(address.above(0, WORK), root / WORK)
        waiting = {path: file for path, file in wanted.items() if path.relative_to(root).parts[0] in later}
        now = [one for one in wanted.items() if one[0] not in waiting]
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda one: _link(*one), now):
                pass
        yield root, waiting


@contextmanager
def _scratch(address: Address) -> Iterator[Path]:
    """A temporary folder where links to copies can be made, called as the dataset is."""
    try:
        cache.folder().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache.folder(), prefix="dataset-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(address, error) from None
    with scratch:
        yield Path(scratch.name) / address.name


def _copy_work(address: Address, work: Path) -> None:
    """Who is at work, in files that are as old as they are there: by that it is judged who still lives."""
    work.mkdir(parents=True)
    for name, found in writing.listed(address).items():
        if not is_file_name(name):
            continue
        (work / name).write_bytes(writing.read(address.above(0, name), MOST_BYTES))
        os.utime(work / name, (found.modified, found.modified))


def _link(path: Path, file: Address) -> None:
    """A copy that stays in the cache; nothing where the file is not there."""
    with suppress(FileNotFoundError):
        copy = local(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(copy, path)


def _download(file: Address, path: Path) -> None:
    """Nothing where the file is not there.  Raises StorageError."""
    try:
        download(file, path)
    except FileNotFoundError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _no_room(file, error) from None


def _no_room(address: Address, error: OSError) -> StorageError:
    return StorageError(
        f"{address} cannot be kept in {cache.folder()} ({error.strerror}): set XDG_CACHE_HOME to a folder with room"
    )
