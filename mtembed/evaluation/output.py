"""The folder of a result: never half a file, never over something else, nothing to do where it is there already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtembed.dataset.atomic import write_atomically
from mtembed.dataset.folder import output_problem
from mtembed.errors import OutputError, UsageError


def earlier(folder: Path, name: str, wanted: Mapping[str, Any], fresh: bool) -> dict[str, Any] | None:
    """The content of ``folder/name`` where it was made by the same command from the same input; None where there is
    nothing, or ``fresh``.

    ``wanted`` are keys and values that it must have.  Raises UsageError where something else is there.
    """
    path = folder / name
    if fresh or not folder.exists():
        return None
    if not path.exists():
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        raise UsageError(f"{folder} is there already and holds no {name}: choose another --output")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no JSON file that can be read: choose another --output, or --fresh") from error
    differing = [key for key, value in wanted.items() if not isinstance(content, dict) or content.get(key) != value]
    if differing:
        which = _named(differing[0], wanted, content)
        raise UsageError(
            f"{folder} holds the result of another run ({which} differs): choose another --output, or --fresh"
        )
    return dict(content)


def _named(key: str, wanted: Mapping[str, Any], content: Any) -> str:
    """'settings' -> '--column' where one option differs."""
    before = content.get(key) if isinstance(content, dict) else None
    if isinstance(before, Mapping) and isinstance(wanted[key], Mapping):
        differing = [name for name, value in wanted[key].items() if before.get(name) != value]
        if differing:
            return f"--{differing[0].replace('_', '-')}"
    return key


def make(folder: Path) -> None:
    """Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(output_problem(folder, error)) from error


def put(path: Path, text: str) -> None:
    """Raises OutputError."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise OutputError(output_problem(path.parent, error)) from error


def to_json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
