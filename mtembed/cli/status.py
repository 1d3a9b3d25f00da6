"""``mtembed status``: how far a dataset is, over all processes."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Dir, Talk

EVERY_S = 5.0


def status(
    directory: Dir,
    /,
    *,
    follow: Annotated[bool, Parameter(help="Say it again every few seconds, as long as somebody is at work.")] = False,
    talk: Talk = SPEECH,
) -> int:
    """Say how far a dataset is, over all processes that work on it.

    Cells and shards, failures, rate and time left; then what each process has done since it was started.
    """
    from mtembed.report import status as reading

    while True:
        found = reading.status(directory)
        talk.show("\n".join(found.lines()), [found.as_json()])
        if not (follow and found.processes):
            return 0
        time.sleep(EVERY_S)
