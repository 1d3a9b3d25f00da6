"""``mtembed verify``: a finished dataset, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Dir, Talk


def verify(
    directory: Dir,
    /,
    *,
    shards: Annotated[
        tuple[Path, ...], Parameter(consume_multiple=True, help="The input it was made from, to be compared.")
    ] = (),
    talk: Talk = SPEECH,
) -> int:
    """Read a finished dataset back and check every file and every row."""
    from mtembed.check import verify as checks

    with talk.counting("checking rows") as tick:
        verdict = checks.verify(directory, shards, tick)
    talk.show("\n".join([*verdict.lines(), checks.sentence(verdict)]), [verdict.as_json()])
    return 0 if verdict.ok else 1
