"""``mtembed index``: an index of a dataset's vectors, for fast search."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working

if TYPE_CHECKING:
    from mtembed.similarity.result import IndexResult


def index(
    datasets: Annotated[
        tuple[str, ...],
        Parameter(
            name="DATASET",
            negative=(),
            help="A folder of embeddings, a glob, files that are one dataset; addresses.",
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            help="Folder of the index. Default: DATASET/index; NAME-index in the current folder where DATASET is no "
            "folder of this machine."
        ),
    ] = None,
    kind: Annotated[
        Literal["exact", "ivf"] | None,
        Parameter(help="Keep the vectors, or codes of them in lists around centroids. Default: exact up to 1 GiB."),
    ] = None,
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Build an index of embeddings, so that searches of large datasets are quick.

    Writes index.faiss (which FAISS can open), rows.parquet and index.json. The same command started again goes on where
    it was stopped.
    """
    from mtembed.cli.console import say
    from mtembed.similarity.index import LEAST_RECALL
    from mtembed.similarity.index import index as build

    with working(talk) as tick:
        result = build(datasets if len(datasets) > 1 else datasets[0], output, kind=kind, fresh=fresh, tick=tick)
    warning = ""
    if result.recall_at_10 < LEAST_RECALL:
        warning = (
            f"the index finds {result.recall_at_10:.1%} of the ten nearest rows, less than {LEAST_RECALL:.0%}: "
            "search with --exact, or index with --kind exact --fresh"
        )
        if not talk.json and not talk.quiet:
            say(f"mtembed: {warning}")
    facts = {**asdict(result), "output": str(result.output), "warnings": [warning] if warning else []}
    talk.show(_text(result), [{"event": "result", **facts}])
    return 0


def _text(result: IndexResult) -> str:
    from mtembed.text import plural, size

    left = f"; {plural(result.left_out, 'row')} left out (NaN, infinite or all zeros)" if result.left_out else ""
    how = "every vector as it is" if result.kind == "exact" else (
        f"{result.lists:,} lists, {result.nprobe:,} of them looked at, recall@10 {result.recall_at_10:.3f}"
    )  # fmt: skip
    there = " was there: nothing to do" if result.nothing_to_do else ""
    return (
        f"{plural(result.rows, 'row')} of {result.dim} values{left}: {result.kind}, {how}, {size(result.bytes)}\n"
        f"{result.output}: the index{there}"
    )
