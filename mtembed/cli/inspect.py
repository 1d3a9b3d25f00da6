"""``mtembed inspect``: what is in a shard or in embeddings, as a few lines and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Talk
from mtembed.text import encoding, plural, size

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 5  # kinds or damaged blobs that are listed
BANDS = ("band", "type", "size", "pixel", "GeoTIFF", "layout", "nodata tag", "nodata", "codec", "bytes", "packed to")
NUMBERS = ("nodata", "bytes", "packed to")


def inspect(
    files: Annotated[
        tuple[str, ...],
        Parameter(name="FILE", negative=(), help="Shards, a folder of them, embeddings, an output folder; addresses."),
    ],
    /,
    *,
    talk: Talk = SPEECH,
) -> int:
    """Say what is in shards (encodings, nodata, models that fit) or in embeddings (origin, health)."""
    from mtembed.check import shard
    from mtembed.storage.address import place_of

    for number, path in enumerate(files):
        facts = shard.inspect(place_of(path))
        if number and not talk.json:
            talk.show("", [])
        talk.show(view(facts), [facts])
    return 0


def view(facts: Mapping[str, Any]) -> RenderableType:
    """The facts about one file for people."""
    return _shard(facts) if facts["kind"] == "shard" else _embeddings(facts)


def _shard(facts: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    from mtembed.cli.tables import Columns, lines, pairs

    looked = facts["sampled_rows"]
    sample = "all rows" if looked == facts["rows"] else f"a sample of {plural(looked, 'row')}"
    rows = f"{plural(facts['rows'], 'row')} in {plural(facts['row_groups'], 'row group')}"
    others = [column for column in facts["columns"] if column["name"] not in facts["bands"]]
    table = [(column["name"], column["type"], column["codec"], size(column["bytes"])) for column in others]
    return Group(
        lines(f"{facts['file']}: a shard of Core-{facts['source']}, {rows}, {size(facts['bytes'])}"),
        pairs(_about(facts)),
        lines("", f"GeoTIFFs of {sample}:"),
        *_bands(facts),
        lines("", "Other columns:"),
        Columns(("column", "type", "codec", "bytes"), table, numbers=("bytes",)),
        *_damage(facts["damaged"]),
    )


def _about(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    repeated = facts["repeated_grid_cells"]
    return [
        ("time column", facts["time_column"] or "none"),
        ("metadata", facts["metadata"] or "none found"),
        ("CRS", kinds(facts["crs"])),
        ("baselines", kinds(facts["baselines"])),
        *([("grid cells", f"{repeated} repeated")] if repeated else []),
        *((f"model {name}", verdict) for name, verdict in facts["models"].items()),
        *(("problem", problem) for problem in facts["problems"]),
    ]


def _bands(facts: Mapping[str, Any]) -> list[RenderableType]:
    """A row for each band; what all bands have in common is said once."""
    from mtembed.cli.tables import Columns, lines, shared

    columns = {column["name"]: column for column in facts["columns"]}
    rows = []
    for name, band in facts["bands"].items():
        column = columns[name]
        packed = f"{column['bytes'] / column['plain_bytes']:.0%}" if column["plain_bytes"] else "-"
        packings = {encoding(name): count for name, count in band["encoding"].items()}
        words = [kinds(band[key]) for key in ("dtype", "size", "pixel")]
        words += [kinds(packings), kinds(band["layout"]), kinds(band["nodata_tag"])]
        rows.append([name, *words, _share(band["nodata_share"]), column["codec"], size(column["bytes"]), packed])
    phrase, headings, rows = shared(BANDS, rows)
    table = Columns(headings, rows, numbers=NUMBERS)
    return [lines(f"in all bands: {phrase}"), table] if phrase else [table]


def _damage(damaged: list[dict[str, Any]]) -> list[RenderableType]:
    from mtembed.cli.tables import lines

    if not damaged:
        return []
    said = [
        f"  row group {item['row_group']}, {item['band'] or 'all bands'}: {item['error']}" for item in damaged[:SHOWN]
    ]
    more = [f"  ... and {len(damaged) - SHOWN} more"] if len(damaged) > SHOWN else []
    return [lines("", f"Damaged, {len(damaged)} in all:", *said, *more)]


def _embeddings(facts: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    from mtembed.cli.tables import lines, pairs

    cells = "" if facts["cells"] is None else f" of {plural(facts['cells'], 'cell')}"
    parts = f" in {plural(facts['parts'], 'part')}" if facts["kind"] == "dataset" else ""
    count = plural(facts["rows"], "embedding")
    heading = f"{facts['file']}: {count}{cells}{parts}, {facts['dtype']} x {facts['dim'] or '?'}"
    return Group(lines(heading), pairs(_origin_and_health(facts)))


def _origin_and_health(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    health = facts["health"]
    made = facts.get("model", "unknown: no manifest beside it")
    if "model" in facts:
        made += f", weights {facts['weights']}" + (" (RANDOM)" if facts["random_weights"] else "")
        made += f", on {facts['source']}, {facts['precision']}, {facts['fragment_size']} px, mtembed {facts['mtembed']}"
    return [
        ("model", made),
        ("vectors", f"{' or '.join(facts['vector_types'])}, stored as {' or '.join(facts['storage']) or 'none'}"),
        ("columns", f"{len(facts['columns'])}, {facts['schema']}; GeoParquet {facts['geoparquet'] or 'no'}"),
        ("size", f"{size(facts['bytes'])} in {plural(facts['row_groups'], 'row group')}"),
        ("looked at", f"{health['vectors']:,} of {plural(facts['rows'], 'vector')}"),
        ("not finite", str(health["not_finite"])),
        ("norm", " ".join(f"{name} {_number(health[f'norm_{name}'])}" for name in ("min", "median", "max"))),
        ("identical", f"{health['identical']:.2%} of the vectors have a twin"),
        ("constant", f"{health['constant']:.2%} of the vectors have one value throughout"),
    ]


def kinds(counts: Mapping[str, int]) -> str:
    """'none', or 'N0500 (3), N0400 (1)'; a single kind without its number."""
    most = sorted(counts.items(), key=lambda item: -item[1])
    if len(most) < 2:
        return most[0][0] if most else "none"
    more = f" and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
    return ", ".join(f"{kind} ({count})" for kind, count in most[:SHOWN]) + more


def _share(share: float | None) -> str:
    return "-" if share is None else "0" if share == 0 else f"{share:.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
