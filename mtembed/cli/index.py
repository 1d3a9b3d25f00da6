"""``mtembed index``: the index that makes searches of large datasets quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working

if TYPE_CHECKING:
    from mtembed.similarity.result import IndexResult


def index(
    dataset: Annotated[
        tuple[str, ...], Parameter(name="DATASET", negative=(), help="A folder of embeddings, a glob, or files.")
    ],
    /,
    *,
    output: Annotated[Path | None, Parameter(help="Folder of the index. Default: DATASET/index.")] = None,
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Build an index of embeddings, so that searches of large datasets are quick.

    Writes index.faiss, rows.parquet and index.json, and for large datasets the lists and codes beside them. The same
    command started again goes on where it was stopped.
    """
    from dataclasses import asdict

    from mtembed.similarity.index import index as build

    with working(talk) as tick:
        found = build(dataset[0] if len(dataset) == 1 else dataset, output, fresh=fresh, tick=tick)
    talk.show(_text(found), [{"event": "result", **asdict(found), "output": str(found.output)}])
    return 0


def _text(found: IndexResult) -> str:
    from mtembed.text import plural, size

    how = "every row is compared" if found.kind == "flat" else f"{found.kind}, recall@10 {found.recall_at_10:.3f}"
    made = "was there: nothing to do" if found.nothing_to_do else size(found.bytes)
    return f"{found.output}: index of {plural(found.rows, 'vector')} of {found.dim} values ({how}), {made}"
