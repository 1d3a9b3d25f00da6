"""numba's ``njit`` with its compiled code kept in a user folder, never beside an installed package."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _user_cache() -> Path:
    """Where this platform keeps a user's caches (XDG base directories; ``~/Library/Caches`` on macOS)."""
    default = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    root = Path(os.environ.get("XDG_CACHE_HOME") or default)
    try:
        root = root.expanduser()
    except RuntimeError:  # no home: what follows finds the root unwritable
        root = Path(os.devnull)
    return root / "mtembed" / "numba"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache() -> Path | None:
    """The folder named in the environment, else the user's, else one of this process's own that goes with it.

    The last is inherited by child processes and never a fixed name in a shared folder: what lies there is executed.
    None where no folder can be written: code is compiled anew in every process then, which takes seconds.
    """
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or _user_cache())
    if _writable(folder):
        return folder
    try:
        folder = Path(tempfile.mkdtemp(prefix="mtembed-numba-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_FOLDER = _cache()
if _FOLDER is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(_FOLDER)

import numba  # noqa: E402

if _FOLDER is not None:  # for a numba imported before this module
    setattr(numba.config, "CACHE_DIR", str(_FOLDER))  # noqa: B010 (untyped)


def njit(function: _Function) -> _Function:
    """Compile ``function`` at its first call, release the GIL inside it and cache the machine code on disk."""
    return cast(_Function, numba.njit(cache=_FOLDER is not None, nogil=True)(function))


def inlined(function: _Function) -> _Function:
    """A function pasted into the compiled functions that call it, where a call would cost more than its body."""
    return cast(_Function, numba.njit(inline="always")(function))
