"""What a terminal of a given width shows."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def screen(shown: RenderableType, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()
