"""Tables for a terminal: the one place that makes them.  Whatever they hold is plain text: markup means nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mtembed.cli.console import clean


class Columns:
    """Rows under headings; where the terminal is too narrow for a line per row, each row is a record of its own.

    ``numbers`` are the headings of columns set to the right, ``marked`` rows are bold.  The columns ``optional`` are
    left out, in this order, before it comes to records; their names are said.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        title: str = "",
        numbers: Collection[str] = (),
        marked: Collection[int] = (),
        optional: Sequence[str] = (),
    ) -> None:
        self.headings = headings
        self.rows = [[clean(text) for text in row] for row in rows]
        self.title, self.numbers, self.marked, self.optional = title, numbers, marked, optional

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="bold")
        for count in range(len(self.optional) + 1):
            grid = self._grid(without=self.optional[:count])
            if Measurement.get(console, options.update(max_width=10_000), grid).maximum <= options.max_width:
                yield grid
                if count:
                    names = ", ".join(self.optional[:count])
                    yield Text(f"{names}: shown where the terminal is wider, and with --json", style="dim")
                return
        if self._folds(options.max_width):
            yield self._grid(fold=self.headings[-1])
        else:
            yield from self._records()

    def _grid(self, without: Collection[str] = (), fold: str = "") -> Table:
        """A line per row, some columns left out; the column ``fold`` may take several lines."""
        grid = Table(box=None, pad_edge=False)
        kept = [i for i, heading in enumerate(self.headings) if heading not in without]
        for heading in (self.headings[i] for i in kept):
            side: Literal["right", "left"] = "right" if heading in self.numbers else "left"
            folds = heading == fold
            grid.add_column(
                Text(heading), justify=side, header_style="dim", no_wrap=not folds, overflow="fold",
                ratio=1 if folds else None,
            )  # fmt: skip
        for number, row in enumerate(self.rows):
            grid.add_row(*(Text(row[i]) for i in kept), style="bold" if number in self.marked else "")
        return grid

    def _folds(self, width: int) -> bool:
        """Whether a text in the last column has room to be folded: the others leave it a third of the line."""
        others = [max(len(row[i]) for row in (self.headings, *self.rows)) + 2 for i in range(len(self.headings) - 1)]
        return self.headings[-1] not in self.numbers and sum(others) <= width * 2 // 3

    def _records(self) -> Iterable[RenderableType]:
        for row in self.rows:
            yield Text(row[0], style="bold")
            yield pairs(list(zip(self.headings[1:], row[1:], strict=True)))


def pairs(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and what they stand for, indented; long values are folded under themselves."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=0)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold", ratio=1)
    for name, value in rows:
        grid.add_row("", Text(clean(name)), Text(clean(value)))
    return grid


def lines(*texts: str, style: str = "") -> Group:
    """Sentences one below the other."""
    return Group(*(Text(clean(text), style=style) for text in texts))


def shared(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, list[str], list[list[str]]]:
    """Columns that say the same in every row, as a phrase; the headings and the rows without them."""
    same = [i for i in range(1, len(headings)) if len(rows) > 1 and len({row[i] for row in rows}) == 1]
    phrase = ", ".join(f"{headings[i]} {rows[0][i]}" for i in same)
    kept = [i for i in range(len(headings)) if i not in same]
    return phrase, [headings[i] for i in kept], [[row[i] for i in kept] for row in rows]
