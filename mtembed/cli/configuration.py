"""Where options come from besides the command line: ``MTEMBED_*`` variables, then ``mtembed.toml``.

The file's top-level keys are the options of a run (a table ``[run]`` says the same); the options of another command
stand in a table of its name.  The first of command line, environment and file that has an option wins.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env

from mtembed.cli.console import Speech
from mtembed.config import RunConfig
from mtembed.errors import UsageError

FILE = "mtembed.toml"
PREFIX = "MTEMBED_"
NO_OPTIONS = ("MTEMBED_CPU_CARDS", "MTEMBED_TEST_FAULTS")  # variables that mean something but are no options
Source = Callable[[App, tuple[str, ...], ArgumentCollection], None]


@dataclass(frozen=True)
class FileOptions:
    """The options of one file.  Called by cyclopts for the command that was given."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    lenient: bool = False

    @property
    def name(self) -> str:
        """The file as a person would name it from here."""
        return os.path.relpath(self.path)

    def of(self, command: tuple[str, ...]) -> dict[str, Any]:
        """The options of a command; () is a run."""
        table: dict[str, Any] = self.content.get(command[0] if command else "run", {})
        if command and command[0] != "run":
            return table
        return {key: value for key, value in self.content.items() if not isinstance(value, dict)} | table

    def __call__(self, app: App, command: tuple[str, ...], arguments: ArgumentCollection) -> None:
        options = self.of(command)
        Dict(options, source=self.name, use_commands_as_keys=False, allow_unknown=self.lenient)(app, (), arguments)


def sources_of_speech(words: Sequence[str], commands: Collection[str]) -> tuple[Source, ...]:
    """The same, as far as it can be read, for the few options that say how an error is told."""
    path = found_file()
    with contextlib.suppress(UsageError):
        if path is not None:
            options = FileOptions(path, _content(path)).of(tuple(word for word in words[:1] if word in commands))
            return environment(), FileOptions(path, options, lenient=True)
    return (environment(),)


def sources(commands: Collection[str]) -> tuple[Source, ...]:
    """For ``App.config``.  Raises UsageError when the file cannot be read or holds a table of no command."""
    return environment(), *_file(commands)


def environment() -> Source:
    return Env(PREFIX, source="the environment", command=False)


def _file(commands: Collection[str]) -> list[FileOptions]:
    path = found_file()
    if path is None:
        return []
    options = FileOptions(path, _content(path))
    for key, value in options.content.items():
        if isinstance(value, dict) and key not in commands:
            raise UsageError(f"{options.name}: there is no command for the table [{key}]{_nearest(key, commands)}")
        if not isinstance(value, dict) and key in commands:
            raise UsageError(f"{options.name}: {key} is a command: write its options under [{key}]")
    return [options]


def found_file() -> Path | None:
    """``mtembed.toml`` in this folder or the nearest one above."""
    here = Path.cwd()
    return next((folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file()), None)


def _content(path: Path) -> dict[str, Any]:
    name = os.path.relpath(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({error.strerror}): mend or remove it") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not TOML: {str(error).rstrip('.')}") from error


def unknown_variables(command_options: Collection[str]) -> list[str]:
    """A sentence for each ``MTEMBED_*`` variable that is an option of neither a run nor this command."""
    options = {*(one.name for kind in (RunConfig, Speech) for one in fields(kind)), *command_options}
    known = {PREFIX + name.lstrip("-").upper().replace("-", "_") for name in options} | {*NO_OPTIONS}
    odd = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return [f"the variable {name} is not an option{_nearest(name, known)}" for name in odd]


def _nearest(word: str, words: Collection[str]) -> str:
    near = difflib.get_close_matches(word, sorted(words), 1)
    return f": did you mean {near[0]}?" if near else ""
