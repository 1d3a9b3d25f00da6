"""``mtembed predict``: a saved probe over a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working

if TYPE_CHECKING:
    from rich.console import Group

    from mtembed.evaluation.predict import Prediction


def predict(
    dataset: Annotated[str, Parameter(help="Embeddings of the model that the probe was trained on.")],
    /,
    *,
    probe: Annotated[Path, Parameter(help="The file that mtembed evaluate --save-probe wrote.")],
    output: Annotated[Path, Parameter(help="Folder of the table, the GeoTIFF and the picture.")],
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Apply a saved probe to a whole dataset: a table, a GeoTIFF and a picture."""
    from dataclasses import asdict

    from mtembed.evaluation.predict import run

    with working(talk, unit="") as tick:
        found = run(dataset, probe, output, fresh, tick)
    talk.show(view(found), [{"event": "result", **asdict(found)}])
    return 0


def view(found: Prediction) -> Group:
    """What was predicted, how often, how well the probe did, and the files."""
    from rich.console import Group

    from mtembed.cli.tables import Columns, lines
    from mtembed.evaluation.words import number

    said = [f"{found.rows:,} rows of {found.dataset}: {found.column}"]
    if found.skipped:
        said.append(f"{found.skipped:,} rows have vectors that are not finite, and no prediction.")
    if found.mean is not None and found.low is not None and found.high is not None:
        said.append(
            f"mean {number(found.mean)}; 90 % of what was held out lay between {number(found.low)} and "
            f"{number(found.high)} of its prediction"
        )
    rows = [(name, f"{count:,}", f"{count / max(1, found.rows):.1%}") for name, count in found.counts.items()]
    table = [Columns(("class", "rows", "share"), rows, numbers=("rows", "share"))] if rows else []
    files = [f"{found.output}/{name}" for name in found.files]
    return Group(lines(*said), *table, lines(f"The probe on held-out rows: {found.probe_score}", *files))
