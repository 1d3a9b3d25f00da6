"""The console script: arguments, environment and ``mtembed.toml`` in, one command, an exit code out.

To add a command write ``cli/NAME.py`` with a function ``NAME`` and add a line to ``COMMANDS``.  The function's
docstring is its help page and begins with the sentence of that line; ``talk: Talk = SPEECH`` (from ``cli.options``)
gives it ``--json``, ``--quiet`` and ``--verbose``; what it returns is the exit code; what it finds it shows with
``talk.show(text_or_table, facts)``, with tables from ``cli.tables``; what goes wrong it raises as an MtembedError.
The file is imported when the command is called, not before, and imports at its top no library heavier than cyclopts
and rich: a function that is called imports what it needs.  ``mtembed --help`` stays under 0.3 s that way.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, MissingArgumentError

from mtembed import __version__
from mtembed.cli.configuration import FileOptions, sources, sources_of_speech, unknown_variables
from mtembed.cli.console import INTERRUPTED, OutputLost, Speech, abandon, open_streams, say
from mtembed.cli.options import SPEECH, Talk, shown_default
from mtembed.cli.run import run
from mtembed.cli.usage import explained, require_command, short_help
from mtembed.errors import MtembedError
from mtembed.machine import require_supported

COMMANDS = {
    "run": "Embed every fragment of every cell of Major TOM Core shards.",
    "fetch": "Copy a selection of an archive to shards on this machine.",
    "demo": "Embed the samples that ship with mtembed, map and search them, draw the result, say what comes next.",
    "models": "List the models, or check one.",
    "inspect": "Say what is in shards (encodings, nodata, models that fit) or in embeddings (origin, health).",
    "report": "Say what a run cost, where its time went and what limited it; also of an unfinished run.",
    "status": "Say how far a dataset is, over all processes that work on it.",
    "finish": "Make one manifest, one list of failures and one card of what many processes left in a dataset.",
    "verify": "Read a finished dataset back and check every file and every row.",
    "evaluate": "Score embeddings with frozen probes against labels; without labels say how they are.",
    "predict": "Apply a saved probe to a whole dataset: a table, a GeoTIFF and a picture.",
    "pca": "Find the principal components of embeddings and draw maps coloured by them.",
    "convert": "Write embeddings in another form, and say what was lost and gained.",
    "push": "Send a finished dataset with its card to the hub of Hugging Face.",
    "merge": "Merge files of embeddings into few large ones, named as the published sets are.",
    "index": "Build an index of embeddings, so that searches of large datasets are quick.",
    "search": "Find the rows of a dataset that are most like a row, a place, a vector, a picture or words.",
}
USAGE = 2
NO_TEMPORARY = "there is no folder for temporary files: set TMPDIR to one that can be written"

app = App(
    name="mtembed",
    usage="Usage: mtembed [run] --model NAME [OPTIONS] SHARDS...\n       mtembed COMMAND [OPTIONS]",
    help="Turn Earth-observation archives in Major TOM layout into embeddings.",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=(), show_env_var=False, show_default=shown_default),
    help_epilogue="Options may also come from mtembed.toml and from MTEMBED_* variables.",
    result_action="return_value",
)
app.default(run)  # the word `run` may be left out
app.register_install_completion_command()


def main(arguments: Sequence[str] | None = None) -> None:
    """Every error becomes one sentence on stderr and an exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    talk: Speech | None = None
    try:
        require_supported()
        command, bound = parsed(words)
        talk = bound.arguments.get("talk", SPEECH)
        if not talk.quiet:
            for sentence in unknown_variables(inspect.signature(command).parameters):
                say(f"mtembed: {sentence}")
        code = command(*bound.args, **bound.kwargs)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has seen enough
        abandon(sys.stdout)
        code = 1
    except Exception as error:
        if not words and isinstance(error, MissingArgumentError):
            say(short_help(COMMANDS))
            sys.exit(USAGE)
        message, code = _answer(error)
        _fail(talk or _speech(words), error, message, code)
    sys.exit(code or 0)


def parsed(words: list[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The command that the words name, with its arguments."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    require_command(words, COMMANDS)
    _register(words)
    app.config = sources(COMMANDS)
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return command, bound


def _register(words: Sequence[str]) -> None:
    """The commands by the place of their functions; the help of one that is called is its docstring."""
    for name, sentence in COMMANDS.items():
        if name not in app:
            app.command(f"mtembed.cli.{name}:{name}", name=name, help=_page(name) if name in words[:1] else sentence)


def _page(name: str) -> str:
    """A command's docstring with a line for each paragraph, so that the terminal's width breaks it and nothing else."""
    function = getattr(import_module(f"mtembed.cli.{name}"), name)
    paragraphs = inspect.cleandoc(function.__doc__).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _answer(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    if isinstance(error, CycloptsError):
        return explained(error), USAGE
    if isinstance(error, MtembedError):
        return str(error) + (_file_hint() if error.exit_code == USAGE else ""), error.exit_code
    if isinstance(error, OSError) and "temporary" in (error.strerror or ""):
        return NO_TEMPORARY, 1
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror}", 1
    if isinstance(error, MemoryError):
        return "there is not enough memory: use fewer --workers or a smaller --batch", 1
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"this is a fault of mtembed ({told}): please report it with what --verbose shows", 1


def _file_hint() -> str:
    """Options that nobody typed may be what is wrong."""
    files = [source.name for source in app.config or () if isinstance(source, FileOptions) and source.content]
    return f" (some options come from {files[0]})" if files else ""


def _fail(talk: Speech, error: Exception, message: str, code: int) -> None:
    if isinstance(error, OutputLost):
        abandon(sys.stdout)
    try:
        talk.fail(error, message, code)
    except (BrokenPipeError, OutputLost):
        abandon(sys.stdout)


# -- how to speak when the command line could not be understood -------------------------------------------------------

listener = App(name="mtembed", help_flags=(), version_flags=(), default_parameter=app.default_parameter)


@listener.default
def _listen(*, talk: Talk = SPEECH) -> None:
    """Only the options about speech; everything else is left over."""
    del talk


def _speech(words: list[str]) -> Speech:
    listener.config = sources_of_speech(words, COMMANDS)
    with contextlib.suppress(CycloptsError):
        _, bound, *_ = listener.parse_known_args(words)
        talk: Speech = bound.arguments.get("talk", SPEECH)
        return talk
    return SPEECH
