"""Files of a folder that others may write to: they appear whole or not at all, and no link is followed to write."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtembed.errors import OutputError
from mtembed.parquet import first_line

MOST_BYTES = 1 << 30  # of a file that is read whole; a manifest of a million shards has half of it
LONGEST_NAME = 255  # bytes; ext4, xfs, APFS


def is_file_name(name: str) -> bool:
    """Whether a word can be the name of a file in a folder, and of nothing outside it."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\0"} and len(os.fsencode(name)) <= LONGEST_NAME


def read_regular(path: Path) -> bytes:
    """The content of a regular file.  Raises OSError, also for pipes and devices, which would block or never end."""
    with os.fdopen(open_to_read(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise OSError(0, f"it has more than {MOST_BYTES} bytes", str(path))
        return file.read(size)


def sha256_of(path: Path) -> str:
    """Digest of a regular file, in hexadecimal digits.  Raises OSError."""
    with os.fdopen(open_to_read(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_read(path: Path) -> int:
    """A descriptor to read a regular file.  Raises OSError for anything else, at once."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_own(path: Path) -> int:
    """A descriptor to read and write a regular file of ours, made if it is not there.  Raises OSError for anything
    else that has its name, a link above all."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        _require_regular(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def new_file(path: Path) -> int:
    """A descriptor to write a file that did not exist.  Raises OSError, also where a link has its name."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def rename_whole(scratch: Path, path: Path) -> None:
    """Give a written file its final name; it is removed where that fails.  Raises OSError."""
    try:
        scratch.replace(path)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside and rename, so that no reader ever sees half a file.

    The file beside is new and has a name that nobody can guess: no link is followed, no process takes another's.
    Raises OSError.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with os.fdopen(new_file(scratch), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    rename_whole(scratch, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.  Raises OutputError where the file cannot be read as one."""
    try:
        return json_object(read_regular(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise OutputError(f"{path.name} cannot be read ({reason}): restore it, or choose another --output") from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds, whoever wrote it.  Raises ValueError for any other text."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def as_text(content: Mapping[str, Any]) -> str:
    """A JSON object as a file has it: indented, so that people can read it and compare versions."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def output_problem(root: Path, error: OSError) -> str:
    """One sentence with the next step for an error of the output folder."""
    advice = {
        errno.ENOSPC: "make space and run the same command again",
        errno.EDQUOT: "make space and run the same command again",
        errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command again",
        errno.ENOENT: "it was removed: run the same command again",
        errno.ENOTDIR: "a file stands in its way: choose another --output",
        errno.EEXIST: "a file stands in its way: choose another --output",
        errno.ELOOP: "a link stands in the way of one of its files: remove the link, or choose another --output",
        errno.ENAMETOOLONG: "choose a shorter --output",
    }.get(error.errno or 0, "check its permissions or choose another --output")
    return f"the output folder {root.name} cannot be written ({error.strerror}): {advice}"


def make_folders(work: Path) -> list[Path]:
    """Make the work folder and what is above it; returns those that were not there.  Raises OSError, also for a link
    in its place."""
    missing = [folder for folder in reversed(work.parents) if not folder.exists()]
    for folder in (*missing, work):
        folder.mkdir(exist_ok=True)
    if work.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(work))
    return missing


def stems(folder: Path, suffix: str) -> set[str]:
    """Stems of the files of a folder that have a suffix; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix)}
    except FileNotFoundError:
        return set()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _require_regular(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(0, "it is not a regular file", str(path))
