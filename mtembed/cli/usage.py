"""What was wrong with a command line, in one sentence that names the next step."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Sequence

from cyclopts.exceptions import CoercionError, CycloptsError, MissingArgumentError

from mtembed.errors import UsageError

SEE = "see mtembed --help"
SHORT = """\
usage: mtembed --model NAME [OPTIONS] SHARDS    embed shards of Major TOM Core
       mtembed COMMAND [OPTIONS]                {commands}
       mtembed --help                           every option; also mtembed COMMAND --help

Try:   mtembed demo                             no network, no download, no GPU
       mtembed models                           models and the bands they need"""
WORD = re.compile(r"[a-z][a-z_-]*")
GPU_WORDS = ("gpu", "gpus", "nvidia", "cuda:0", "cuda:1")


def require_command(words: Sequence[str], commands: Collection[str]) -> None:
    """Raise UsageError when the first word looks like a command, is none, and is no file either."""
    first = words[0] if words else ""
    if not WORD.fullmatch(first) or first in commands or os.path.lexists(first):
        return
    near = difflib.get_close_matches(first, sorted(commands), 1)
    meant = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(sorted(commands))}"
    raise UsageError(f"there is no command and no file '{first}': {meant}")


def short_help(commands: Collection[str]) -> str:
    """For someone who typed the name of the program only."""
    return SHORT.format(commands=", ".join(name for name in commands if name != "run"))


def explained(error: CycloptsError) -> str:
    """The sentence for an error of the parser."""
    if isinstance(error, MissingArgumentError):
        return _missing(error)
    text = " ".join(str(error).split())
    if isinstance(error, CoercionError) and error.token and error.token.value.lower() in GPU_WORDS:
        text = re.sub(r" Did you mean .*", "", text) + ' Did you mean "cuda"?'
    source = error.token.source if isinstance(error, CoercionError) and error.token else "cli"
    where = f"{source}: " if source not in ("", "cli") and source not in text else ""
    return f"{where}{text[:1].lower()}{text[1:]}".rstrip(".") + f" ({_help(error)})"


def _missing(error: MissingArgumentError) -> str:
    """Without a value (``--output`` at the end of the line), or not given at all."""
    argument = error.argument
    name = argument.name if argument else "an argument"
    if error.keyword:
        return f"{error.keyword} has no value ({_help(error)})"
    if name == "--model":
        from mtembed import models

        return f"--model is missing: choose one of {', '.join(models.names())} (mtembed models tells about them)"
    if name == "--shards":
        return "no shards are named: give Parquet files of Major TOM Core, folders of them, or globs"
    if name.startswith("--") or argument is None:
        return f"{name} is missing ({_help(error)})"
    command = " ".join(("mtembed", *(error.command_chain or ())))
    return f"{name} is missing: put it before the options, as in {command} {name}"


def _help(error: CycloptsError) -> str:
    command = " ".join(error.command_chain or ())
    return f"see mtembed {command} --help" if command else SEE
