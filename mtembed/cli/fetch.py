"""``mtembed fetch``: a selection of an archive, copied to shards on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mtembed.cli.console import say
from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import counting
from mtembed.config import BBOX, WHOLE
from mtembed.text import counted, plural, size

FAILED = 3


def fetch(
    shards: Annotated[
        tuple[str, ...], Parameter(name="SHARDS", negative=(), help="Files, folders, globs, addresses (hf:Core-S2L2A).")
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(metavar="DIR", help="Where the shards are put: DIR/images, DIR/metadata.parquet.")
    ],
    metadata: Annotated[str | None, Parameter(metavar="FILE", help="Core's metadata.parquet.")] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None, BBOX, Parameter(help="Only cells whose centre lies in W,S,E,N.")
    ] = None,
    cells: Annotated[str | None, Parameter(metavar="FILE", help="Only cells named in this file.")] = None,
    where: Annotated[str | None, Parameter(metavar="EXPR", help="Only cells whose metadata fulfil this.")] = None,
    limit: Annotated[int | None, WHOLE, Parameter(help="Only the first N cells.")] = None,
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Copy a selection of an archive to shards on this machine.

    Shards of which all cells are wanted come as they are, of others the rows that are. What comes is said first, with
    its size. Killed, the same command goes on. The copy has Core's layout, and mtembed run, verify and inspect take it
    as they take the archive.
    """
    from mtembed.run import mirror

    with counting(talk, "fetching", "bytes") as tick:
        found = mirror.fetch(
            shards,
            output,
            metadata=metadata,
            bbox=bbox,
            cells=cells,
            where=where,
            limit=limit,
            fresh=fresh,
            note=lambda sentence: None if talk.quiet or talk.json else say(sentence),
            tick=tick,
        )
    lines = [f"{found.output}: {counted(found.cells)} in {plural(found.shards, 'shard')}, {size(found.bytes)}"]
    lines += [f"left out: {why}" for why in found.unusable.values()]
    talk.show("\n".join(lines), [found.as_json()])
    return FAILED if found.unusable else 0
