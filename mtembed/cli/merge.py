"""``mtembed merge``: many files of embeddings into few."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working
from mtembed.config import WHOLE

if TYPE_CHECKING:
    from mtembed.conversion.merge import MergeResult


def merge(
    dataset: Annotated[str, Parameter(name="DATASET", help="A folder of embeddings, a glob, a file, or an address.")],
    output: Annotated[Path, Parameter(name="OUT", help="Folder of the result.")],
    /,
    *,
    order: Annotated[
        Literal["grid", "hilbert"],
        Parameter(help="South to north and west to east, or along a curve that keeps neighbours together."),
    ] = "grid",
    shards_per_file: Annotated[int, WHOLE, Parameter(help="How many files become one.")] = 50,
    drop_duplicates: Annotated[bool, Parameter(help="Keep of each cell the newest image only.")] = False,
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Merge files of embeddings into few large ones, named as the published sets are.

    Rows are ordered in each file, repeated cells are counted. The same command started again goes on where it was
    stopped.
    """
    from dataclasses import asdict

    from mtembed.conversion.merge import merge as write

    with working(talk) as tick:
        found = write(
            dataset, output, order=order, shards_per_file=shards_per_file, drop_duplicates=drop_duplicates, fresh=fresh,
            tick=tick,
        )  # fmt: skip
    talk.show(_text(found), [{"event": "result", **asdict(found), "output": str(found.output)}])
    return 0


def _text(found: MergeResult) -> str:
    from mtembed.text import counted, plural, size

    made = (
        "was there: nothing to do"
        if found.nothing_to_do
        else f"{plural(len(found.files), 'file')}, {size(found.bytes)}"
    )
    lines = [f"{found.output}: {plural(found.rows, 'row')} in {found.order} order, {made}"]
    if found.repeated_cells:
        left = f"{plural(found.dropped, 'row')} of older images left out" if found.dropped else "all were kept"
        lines.append(f"  {counted(found.repeated_cells)} there more than once: {left}")
    return "\n".join(lines)
