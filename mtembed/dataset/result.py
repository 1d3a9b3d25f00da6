"""A folder that one command fills from a dataset: complete or not at all, resumed or refused, never half new.

    with ResultFolder(root, "pca.json", FILES, settings, sources).held(fresh=False) as folder:
        if not folder.finished:
            ...                                     # state that helps to resume goes to folder.work
            folder.publish(folder.work / "map.tif")
            folder.record({"n": 5})                 # last: from now on the folder is finished

The record names its settings and sources.  The same command on the same input resumes, or finds nothing to do; others
are refused.  ``fresh`` removes what an earlier command made and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtembed.dataset.atomic import as_text, open_own, output_problem, read_json, write_atomically
from mtembed.dataset.folder import WORK
from mtembed.errors import LockedError, OutputError, SettingsError, UsageError

IDENTITY = "made-from.json"


class ResultFolder:
    """``record`` is the name of the JSON file that finishes the folder, ``files`` those it holds beside it."""

    def __init__(
        self,
        root: Path,
        record: str,
        files: Sequence[str],
        settings: Mapping[str, Any],
        sources: Sequence[Mapping[str, Any]],
    ) -> None:
        self.root = root
        self.work = root / WORK
        self.finished = False
        self._record, self._files = root / record, [root / name for name in files]
        self._identity = json.loads(json.dumps({"settings": settings, "sources": sources}))

    @contextlib.contextmanager
    def held(self, fresh: bool = False) -> Iterator[ResultFolder]:
        """Hold the folder for this process; what is in it is looked at, and refused or kept.

        Raises SettingsError where something else lies there, LockedError where another process is at work, and
        OutputError with a sentence for what goes wrong with the folder inside the block.  After a UsageError in it
        nothing is kept that would stand in the way of another choice.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._begin(fresh)
                try:
                    yield self
                except UsageError:
                    shutil.rmtree(self.work)
                    raise
                shutil.rmtree(self.work)
        except OSError as error:
            raise OutputError(output_problem(self.root, error)) from error
        finally:
            self._tidy()

    def publish(self, scratch: Path, name: str = "") -> None:
        """Move a complete file out of the work folder to its place, ``name`` or what it is called.  Raises OSError."""
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(self.root / (name or scratch.name))

    def record(self, content: Mapping[str, Any]) -> None:
        """Write the record: the folder is finished.  Raises OSError."""
        write_atomically(self._record, as_text({**content, **self._identity}))
        self.finished = True

    def content(self) -> dict[str, Any]:
        """The record as it was written.  Raises OutputError."""
        return read_json(self._record)

    def _begin(self, fresh: bool) -> None:
        identity = self.work / IDENTITY
        made = self._record if self._record.exists() else identity if identity.exists() else None
        if made is None:
            self._refuse_strangers()
        elif fresh:
            self._remove()
        else:
            self._compare(read_json(made))
            self.finished = made == self._record and all(path.exists() for path in self._files)
        if not self.finished:
            write_atomically(identity, as_text(self._identity))

    def _refuse_strangers(self) -> None:
        strange = [path.name for path in self._files if path.exists()]
        if strange:
            raise SettingsError(
                f"{self.root} holds {', '.join(strange)} and no {self._record.name} that says what made it: "
                "choose another --output"
            )

    def _compare(self, made: Mapping[str, Any]) -> None:
        before, now = made.get("settings"), self._identity["settings"]
        if not isinstance(before, Mapping):
            raise SettingsError(f"{self._record} was not written by this command: choose another --output")
        for name in now:
            if before.get(name) != now[name]:
                raise SettingsError(
                    f"{self.root} was made with --{name.replace('_', '-')} {before.get(name)} and not {now[name]}: "
                    "choose another --output, or start over with --fresh"
                )
        then, here = _records(made.get("sources")), _records(self._identity["sources"])
        if then != here:
            raise SettingsError(
                f"{self.root} was made from {_named(then, here)} as they were, and not from "
                f"{_named(here, then)} as they are: choose another --output, or start over with --fresh"
            )

    def _remove(self) -> None:
        for path in (self._record, *self._files):
            path.unlink(missing_ok=True)
        for path in self.work.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = open_own(self.work / "lock")
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(
                    f"{self.root} is in use by another process: wait for it, or choose another --output"
                ) from None
            yield
        finally:
            os.close(fd)

    def _tidy(self) -> None:
        """Leave no folder behind in which nothing was begun."""
        with contextlib.suppress(OSError):
            if [path.name for path in self.work.iterdir()] == ["lock"]:
                shutil.rmtree(self.work)
        with contextlib.suppress(OSError):
            self.root.rmdir()


def _records(sources: Any) -> list[Mapping[str, Any]]:
    return [source for source in sources or [] if isinstance(source, Mapping)]


def _named(sources: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """'part_00001.parquet and 3 more' of recorded sources; what is not among the others is named first."""
    names = [str(source.get("file")) for source in sorted(sources, key=lambda one: one in others)]
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "nothing"
