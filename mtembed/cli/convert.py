"""``mtembed convert``: embeddings in another form, with what was lost and gained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working

if TYPE_CHECKING:
    from mtembed.conversion.convert import ConvertResult
    from mtembed.conversion.geotiff import GeotiffResult


def convert(
    dataset: Annotated[str, Parameter(name="DATASET", help="A folder of embeddings, a glob, a file, or an address.")],
    output: Annotated[Path, Parameter(name="OUT", help="Folder of the result.")],
    /,
    *,
    to: Annotated[
        str,
        Parameter(
            metavar="FORM",
            help="float32, float16, bfloat16, int8, uint8, bits, pca:K, array or array:FORM; geotiff for maps.",
        ),
    ],
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Write embeddings in another form, and say what was lost and gained.

    float16 and bfloat16 halve the values; int8 has a scale for each row, uint8 a scale and an offset for each
    dimension; bits keeps signs; pca:K keeps K components; array writes embeddings.bin, metadata.parquet and
    header.json, which ten lines of numpy read; geotiff makes a file of each map that a run with --dense wrote. All
    other columns stay. The same command started again goes on where it
    was stopped.
    """
    from dataclasses import asdict

    from mtembed.conversion.convert import convert as write
    from mtembed.conversion.geotiff import GEOTIFF, geotiffs

    with working(talk) as tick:
        if to == GEOTIFF:
            made = geotiffs(dataset, output, fresh=fresh, tick=tick)
            talk.show(_maps(made), [{"event": "result", **asdict(made), "output": str(made.output)}])
            return 0
        found = write(dataset, output, to=to, fresh=fresh, tick=tick)
    talk.show(_text(found), [{"event": "result", **asdict(found), "output": str(found.output)}])
    return 0


def _maps(found: GeotiffResult) -> str:
    from mtembed.text import plural, size

    made = "was there: nothing to do" if found.nothing_to_do else f"{plural(found.files, 'GeoTIFF')}"
    return f"{found.output}: {made}\n  {size(found.bytes_before)} became {size(found.bytes_after)}"


def _text(found: ConvertResult) -> str:
    from mtembed.text import plural, size

    share = found.bytes_after / max(1, found.bytes_before)
    made = "was there: nothing to do" if found.nothing_to_do else f"{plural(found.rows, 'vector')} as {found.form}"
    return (
        f"{found.output}: {made}\n"
        f"  {size(found.bytes_before)} became {size(found.bytes_after)} ({share:.0%})\n"
        f"  of the ten nearest, {found.recall_at_10:.2%} stay; mean cosine {found.mean_cosine:.6f}; largest error of a "
        f"value {found.max_abs_error:.3g} (on {plural(found.sampled, 'row')})"
    )
