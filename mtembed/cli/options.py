"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter

from mtembed.cli.console import Speech

OUTPUT = Group("What is printed", sort_key=90)

Talk = Annotated[Speech, Parameter(name="*", group=OUTPUT)]
"""``talk: Talk = SPEECH`` as a keyword-only parameter gives a command ``--json``, ``--quiet`` and ``--verbose``."""

SPEECH = Speech()


def shown_default(value: object) -> str | None:
    """What a help page says of a default: nothing of a switch that is off, or of a list without entries."""
    if value is None or value is False or value == ():
        return None
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


Dir = Annotated[str, Parameter(help="The output folder of a run, or its address.")]
Run = Annotated[str, Parameter(name="DIRECTORY", help="The output folder of a run, or its address.")]
Fresh = Annotated[bool, Parameter(help="Start over instead of resuming.")]
