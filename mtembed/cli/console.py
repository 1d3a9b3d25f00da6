"""What is printed, and how: results on stdout, everything else on stderr; text for people or one JSON object per line.

A ``Speech`` is made of the options ``--json``, ``--quiet`` and ``--verbose``, wherever they came from.  Control
characters in a text (from a file name, a column, an archive) are shown as escapes and never reach a terminal.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from mtembed.errors import MtembedError

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130  # exit code of a run that can be resumed
WIDE = 160  # columns where the output is not a terminal
# C0 but for tab and line feed, DEL, C1, line separators, marks and overrides of the writing direction, lone surrogates
CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class OutputLost(MtembedError):
    """Standard output cannot be written."""


@dataclass(frozen=True, slots=True)
class Speech:
    """How a command speaks.

    Parameters
    ----------
    json
        One JSON object per line instead of text.
    quiet
        Errors only.
    verbose
        Tracebacks with errors.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def live(self) -> bool:
        """Something may be drawn on the terminal while one waits."""
        return not self.json and not self.quiet and sys.stderr.isatty()

    def show(self, result: str | RenderableType, facts: Iterable[Mapping[str, Any]]) -> None:
        """A result on stdout: text or tables for people, or its facts as one JSON object per line."""
        if self.json:
            for fact in facts:
                emit(fact)
        elif not self.quiet:
            _write(clean(result) + "\n" if isinstance(result, str) else _rendered(result))

    def fail(self, error: BaseException, message: str, exit_code: int) -> None:
        """An error: one sentence on stderr, before it the traceback if that was asked for."""
        if self.verbose:
            say("".join(traceback.format_exception(error)).rstrip())
        if self.json:
            name = type(error).__name__
            emit({"event": "error", "error": name, "message": message, "exit_code": exit_code})
        say(f"mtembed: {' '.join(message.split())}")


def clean(text: str) -> str:
    """The text with every control character as an escape such as ``\\x1b``."""
    return CONTROL.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def say(text: str) -> None:
    """A line on stderr.  Nothing can be done when that is lost: the work goes on."""
    try:
        print(clean(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        abandon(sys.stderr)


def emit(event: Mapping[str, Any]) -> None:
    """A line of JSON on stdout, ASCII only, so that it survives every encoding.  Raises OutputLost."""
    _write(json.dumps(event) + "\n")


def _write(text: str) -> None:
    """On stdout, at once.  Raises BrokenPipeError when the reader has left, OutputLost for every other reason."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputLost(f"standard output cannot be written ({error.strerror}): redirect it elsewhere") from error


def _rendered(result: RenderableType) -> str:
    """Tables as text, coloured on a terminal."""
    from rich.console import Console

    width = shutil.get_terminal_size((WIDE, 24)).columns
    screen = io.StringIO()
    Console(file=screen, force_terminal=sys.stdout.isatty(), width=width, highlight=False).print(result)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines()) + "\n"


def open_streams() -> None:
    """Give the process the three standard streams it may have been started without, and make printing safe.

    A missing one becomes the null device, so that no file or socket is opened under its number; what an encoding cannot
    say is replaced.
    """
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        name = ("stdin", "stdout", "stderr")[number]
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def abandon(stream: TextIO) -> None:
    """Nobody reads it any more: what is left in it goes nowhere, so that Python does not complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
