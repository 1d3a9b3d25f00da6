"""What ``mtembed inspect`` found, as text: a few lines and a table.  Returns text, prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtembed.cli.models import render

SHOWN = 5  # kinds or damaged blobs that are listed


def text(facts: Mapping[str, Any]) -> str:
    """The facts about one file for people."""
    return _shard(facts) if facts["kind"] == "shard" else _embeddings(facts)


def _shard(facts: Mapping[str, Any]) -> str:
    fits = [f"{name}: {verdict}" for name, verdict in facts["models"].items()]
    looked = facts["sampled_rows"]
    sample = "all rows" if looked == facts["rows"] else f"a sample of {looked} rows"
    rows = f"{facts['rows']} rows in {facts['row_groups']} row groups"
    lines = [
        f"{facts['file']}: a shard of Core-{facts['source']}, {rows}, {size(facts['bytes'])}",
        f"  time column   {facts['time_column'] or 'none'}",
        f"  metadata      {facts['metadata'] or 'none found'}",
        f"  CRS           {counted(facts['crs'])}",
        f"  baselines     {counted(facts['baselines'])}",
        *([f"  grid cells    {facts['repeated_grid_cells']} repeated"] if facts["repeated_grid_cells"] else []),
        *(f"  {'models' if not i else '':<13} {fit}" for i, fit in enumerate(fits)),
        *(f"  problem       {problem}" for problem in facts["problems"]),
        "",
        f"GeoTIFFs of {sample}:",
        "",
        _bands(facts),
    ]
    others = [column for column in facts["columns"] if column["name"] not in facts["bands"]]
    table = [(column["name"], column["type"], column["codec"], size(column["bytes"])) for column in others]
    lines += ["", "Other columns:", "", render(("column", "type", "codec", "bytes"), table)]
    return "\n".join([*lines, *_damage(facts["damaged"])])


def _bands(facts: Mapping[str, Any]) -> str:
    headings = (
        "band",
        "type",
        "size",
        "pixel",
        "GeoTIFF",
        "layout",
        "nodata tag",
        "nodata",
        "codec",
        "bytes",
        "packed to",
    )
    columns = {column["name"]: column for column in facts["columns"]}
    rows = []
    for name, band in facts["bands"].items():
        column, share = columns[name], band["nodata_share"]
        packed = f"{column['bytes'] / column['plain_bytes']:.0%}" if column["plain_bytes"] else "-"
        kinds = (counted(band[key]) for key in ("dtype", "size", "pixel", "encoding", "layout", "nodata_tag"))
        rows.append((name, *kinds, _share(share), column["codec"], size(column["bytes"]), packed))
    return render(headings, rows)


def _damage(damaged: list[dict[str, Any]]) -> list[str]:
    if not damaged:
        return []
    lines = [
        f"  row group {item['row_group']}, {item['band'] or 'all bands'}: {item['error']}" for item in damaged[:SHOWN]
    ]
    more = [f"  ... and {len(damaged) - SHOWN} more"] if len(damaged) > SHOWN else []
    return ["", f"Damaged, {len(damaged)} in all:", *lines, *more]


def _embeddings(facts: Mapping[str, Any]) -> str:
    health = facts["health"]
    cells = "" if facts["cells"] is None else f" of {facts['cells']} cells"
    parts = f" in {facts['parts']} parts" if facts["kind"] == "dataset" else ""
    made = facts.get("model", "unknown: no manifest beside it")
    if "model" in facts:
        made += f", weights {facts['weights']}" + (" (RANDOM)" if facts["random_weights"] else "")
        made += f", on {facts['source']}, {facts['precision']}, {facts['fragment_size']} px, mtembed {facts['mtembed']}"
    rows = [
        ("model", made),
        ("vectors", f"{' or '.join(facts['vector_types'])}, stored as {' or '.join(facts['storage']) or 'none'}"),
        ("columns", f"{len(facts['columns'])}, {facts['schema']}; GeoParquet {facts['geoparquet'] or 'no'}"),
        ("size", f"{size(facts['bytes'])} in {facts['row_groups']} row groups"),
        ("looked at", f"{health['vectors']} of {facts['rows']} vectors"),
        ("not finite", str(health["not_finite"])),
        ("norm", " ".join(f"{name} {_number(health[f'norm_{name}'])}" for name in ("min", "median", "max"))),
        ("identical", f"{health['identical']:.2%} of the vectors have a twin"),
        ("constant", f"{health['constant']:.2%} of the vectors have one value throughout"),
    ]
    heading = f"{facts['file']}: {facts['rows']} embeddings{cells}{parts}, {facts['dtype']} x {facts['dim'] or '?'}"
    return "\n".join([heading, *(f"  {name:<12}{value}" for name, value in rows)])


def counted(counts: Mapping[str, int]) -> str:
    """'none', or 'N0500 (3), N0400 (1)'; a single kind without its number."""
    kinds = sorted(counts.items(), key=lambda item: -item[1])
    if len(kinds) < 2:
        return kinds[0][0] if kinds else "none"
    more = f" and {len(kinds) - SHOWN} more" if len(kinds) > SHOWN else ""
    return ", ".join(f"{kind} ({count})" for kind, count in kinds[:SHOWN]) + more


def size(count: int) -> str:
    """'4.1 GB', '15.8 MB', '12 kB', '80 B'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count} B"


def _share(share: float | None) -> str:
    return "-" if share is None else "0" if share == 0 else f"{share:.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
