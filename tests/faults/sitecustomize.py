"""Faults for tests: Python loads this file in every process that has its folder on PYTHONPATH.

``MTEMBED_TEST_FAULTS`` is a JSON list.  Each fault names the kind of process (``parent``, ``decode``, ``device``,
``write``, ``finish``), a function as ``module:attribute``, when (the n-th ``call``, a ``row_group``, a ``shard`` by the
name of its file, or always), what to do, and perhaps the one ``card`` whose worker it is for, and a file that makes it
happen ``once`` over all starts.

A fault whose module or attribute does not exist ends every process at its start: a test can never wait for a fault
that a renaming has made impossible.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import importlib.abc
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {kind.__name__: kind for kind in (KeyError, IndexError, TypeError, ValueError, OverflowError, MemoryError)}


def _kind() -> str:
    words = sys.orig_argv
    return words[words.index("mtembed.run.worker") + 1] if "mtembed.run.worker" in words else "parent"


def _row_group(arguments: tuple) -> int | None:
    for argument in arguments:
        argument = getattr(argument, "record", argument)
        if hasattr(argument, "row_group"):
            return argument.row_group
    return None


def _shard(arguments: tuple) -> str | None:
    """The name of the shard that a call is about."""
    for argument in arguments:
        argument = getattr(argument, "info", argument)  # an unfinished part knows its input
        for name in ("shard", "name"):
            if isinstance(found := getattr(argument, name, None), str) and found.endswith(".parquet"):
                return found
    return None


def _act(action: str, arguments: tuple) -> None:
    if action == "half":  # the first half of a write arrives, then the process is gone
        fd, parts = arguments
        data = b"".join(parts)
        os.write(fd, data[: len(data) // 2])
        action = "kill"
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "kill-group":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    elif action == "segfault":
        ctypes.string_at(0)
    elif action == "out-of-memory":
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 28, hard))
        try:
            bytearray(1 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    elif action == "hang":
        while True:
            signal.pause()
    elif action.startswith("count:"):
        with Path(action.removeprefix("count:")).open("ab") as file:
            file.write(b".")
    elif action.startswith("replace:"):
        source, target = action.removeprefix("replace:").split(":")
        Path(source).replace(target)
    elif action.startswith("delete:"):
        Path(action.removeprefix("delete:")).unlink()
    elif action.startswith("delete-folder:"):
        shutil.rmtree(action.removeprefix("delete-folder:"))
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action in ERRORS:
        raise ERRORS[action]("made for a test")
    elif action == "cuda-error":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    elif action == "device-memory":
        raise sys.modules["torch"].cuda.OutOfMemoryError("CUDA out of memory")
    elif action == "disk-full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _wrap(function, fault):
    calls = 0

    def faulty(*arguments, **named):
        nonlocal calls
        calls += 1
        group = _row_group(arguments)
        shard = _shard(arguments)
        due = (
            calls == fault.get("call", calls)
            and group == fault.get("row_group", group)
            and shard == fault.get("shard", shard)
        )
        once = Path(fault["once"]) if fault.get("once") else None
        if due and not (once and once.exists()):
            if once:
                once.touch()
            _act(fault["action"], arguments)
        return function(*arguments, **named)

    return faulty


def _patch(module, fault) -> None:
    *path, name = fault["function"].partition(":")[2].split(".")
    owner = module
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, _wrap(getattr(owner, name), fault))


class _AfterImport(importlib.abc.MetaPathFinder):
    def __init__(self, fault) -> None:
        self.fault = fault
        self.module = fault["function"].partition(":")[0]

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            _patch(module, self.fault)

        spec.loader.exec_module = exec_module
        return spec


def _require(fault) -> None:
    """The source of the fault's module must define its attribute; nothing is imported for that."""
    module, _, path = fault["function"].partition(":")
    if module == "os":
        found = hasattr(os, path)
    else:
        source = ROOT.joinpath(*module.split("."))
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        body = ast.parse(source.read_text()).body if source.is_file() else []
        found = bool(body)
        for name in path.split("."):
            body = next((node.body for node in body if getattr(node, "name", None) == name), None)
            found = found and body is not None
            body = body or []
    if not found:
        sys.stderr.write(f"fault for tests: there is no {fault['function']}\n")
        sys.stderr.flush()
        os._exit(70)


for _fault in json.loads(os.environ.get("MTEMBED_TEST_FAULTS", "[]")):
    _require(_fault)
    if _fault["kind"] != _kind() or _fault.get("card") not in (None, os.environ.get("CUDA_VISIBLE_DEVICES")):
        continue
    if _fault["function"].partition(":")[0] == "os":
        _patch(os, _fault)
    else:
        sys.meta_path.insert(0, _AfterImport(_fault))
