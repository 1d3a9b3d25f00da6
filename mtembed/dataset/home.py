"""Where the files of a dataset behind an address are put and found; what goes wrong there is one sentence.

After a first failure that trying again did not help, nothing is waited for any more: the run ends, and what is finished
here is put there by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from mtembed.errors import OutputError, StorageError
from mtembed.storage import writing
from mtembed.storage.address import Address
from mtembed.storage.copies import download
from mtembed.storage.patience import Patience
from mtembed.storage.readers import in_order
from mtembed.storage.store import Head, Listed, NotExclusive

T = TypeVar("T")
ELSEWHERE = frozenset(("", ".", ".."))  # parts of a path that do not lead down


@dataclass(slots=True)
class Home:
    """One address; names are paths below it.  Every method raises OutputError, once it is ``lost`` without waiting."""

    address: Address
    lost: bool = field(default=False, repr=False)

    def at(self, name: str) -> Address:
        """The address of a file."""
        return self.address.below("/".join((self.address.key.strip("/"), name)).lstrip("/"))

    def listed(self, folder: str = "") -> dict[str, Listed]:
        """All files, or those below a folder, by their path below it; no marks of folders, no paths elsewhere."""
        found = self._tell(lambda: writing.listed(self.at(folder) if folder else self.address, self._patience()))
        return {name: one for name, one in found.items() if not ELSEWHERE.intersection(name.split("/"))}

    def head(self, name: str) -> Head | None:
        """A file as it is now, if it is there."""
        return self._tell(lambda: writing.head(self.at(name), self._patience()))

    def read(self, name: str, most: int) -> bytes:
        """A small file, of at most so many bytes; nothing where it is gone."""
        return self._tell(lambda: writing.read(self.at(name), most, self._patience()))

    def fetch(self, name: str, path: Path) -> bool:
        """A copy at ``path``, whole or not at all; whether the file is there.  Raises OSError too, of the disk here."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._tell(lambda: download(self.at(name), path))
        except FileNotFoundError:
            return False
        return True

    def put(self, name: str, content: bytes | Path, require: Callable[[], None] = lambda: None) -> str:
        """A file, in the place of any that was there; ``require`` raises where that must not be any more, and is asked
        before each try.  Returns its tag."""
        return self._tell(lambda: writing.put(self.at(name), content, self._patience(), require))

    def create(self, name: str, content: bytes) -> bool:
        """A file, if there was none; whether it is ours."""
        return self._tell(lambda: writing.create(self.at(name), content, self._patience()))

    def remove(self, names: Iterable[str]) -> None:
        """Files are there no more."""
        calls = [partial(writing.remove, self.at(name), self._patience()) for name in names]
        self._tell(lambda: list(in_order(calls)))

    def is_exclusive(self, name: str) -> bool:
        """Whether of several that create one file here only one is told so; tried with a file of this name."""
        try:
            if not self.create(name, b"first"):
                return False
            second = self.create(name, b"second")
        except NotExclusive:
            return False
        self.remove([name])
        return not second

    def _patience(self) -> Patience:
        return replace(writing.WRITING, deadline=0.0) if self.lost else writing.WRITING

    def _tell(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except StorageError as error:
            self.lost = True
            raise OutputError(str(error)) from None
