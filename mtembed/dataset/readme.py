"""The dataset card of an output folder: what it holds, what made it, how to read it.  From the manifest alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mtembed.dataset.manifest import Manifest
from mtembed.sources import SOURCES
from mtembed.text import counted, encoding, plural

COLUMNS = (
    ("unique_id", "string", "sha256 of footprint, time stamp, product and vector"),
    ("embedding", "fixed-size list", "the vector"),
    ("timestamp", "string", "sensing start, `YYYYMMDDTHHMMSS`"),
    ("product_id", "string", "Copernicus product"),
    ("grid_cell", "string", "Major TOM cell"),
    ("grid_row_u, grid_col_r", "int16", "its row (up) and column (right), signed"),
    ("geometry", "WKB", "footprint of the fragment's pixels, EPSG:4326, longitude first"),
    ("centre_lat, centre_lon", "float32", "centre of the footprint in degrees"),
    ("utm_footprint, utm_crs", "string", "the same footprint as WKT in the image's own CRS"),
    ("pixel_bbox", "list of 4 int32", "column and row of the first pixel, then those behind the last, finest band"),
    ("bbox", "struct", "bounds of the geometry (GeoParquet covering)"),
)
DENSE_COLUMNS = (
    ("dense_transform", "list of 6 doubles", "a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f"),
)
EXTRA_COLUMNS = (
    ("nodata, saturated, cloud", "float32", "shares of the fragment's pixels, 0 to 1"),
    ("baseline", "string", "Sentinel-2 processing baseline as in product_id"),
    ("offset_removed", "bool", "whether the radiometric offset was taken off"),
    ("parquet_url, parquet_row", "string, int64", "the image row in the archive"),
)
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
         (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip
SETTINGS_SHOWN = (
    "fragment_size", "overlap", "border_shift", "offset", "max_nodata", "bbox", "where", "limit", "precision", "engine",
    "device", "batch", "threads", "dtype", "dense", "extras",
)  # fmt: skip
LISTED = 10


def render(manifest: Manifest) -> str:
    """Markdown with Hugging Face front matter; the same manifest gives the same text."""
    sections = (
        _front_matter(manifest), _title(manifest), _warning(manifest), _contents(manifest), _columns(manifest),
        _provenance(manifest), _failures(manifest), _loading(manifest), _licences(manifest), _citation(manifest),
    )  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """YAML; strings are written as JSON, which YAML reads."""
    settings, totals = manifest.settings, manifest.totals
    tags = ["earth-observation", "remote-sensing", "embeddings", "major-tom", "geospatial", "geoparquet"]
    tags += [SOURCES[settings.source].mission, manifest.model.name]
    size = next((name for limit, name in SIZES if totals.embeddings < limit), "n>1B")
    lines = [
        "---",
        "license: cc-by-sa-4.0",
        f"pretty_name: {json.dumps(_name(manifest), ensure_ascii=False)}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "size_categories:",
        f"- {json.dumps(size)}",
        "configs:",
        "- config_name: default",
        "  data_files: embeddings/*.parquet",
        "---",
    ]
    return "\n".join(lines)


def _name(manifest: Manifest) -> str:
    return f"{manifest.model.name} embeddings of Major TOM Core-{manifest.settings.source}"


def _title(manifest: Manifest) -> str:
    model, settings, totals = manifest.model, manifest.settings, manifest.totals
    side = settings.fragment_size
    return (
        f"# {_name(manifest)}\n\n"
        f"{plural(totals.embeddings, 'embedding')} of {counted(totals.cells)} "
        f"of Major TOM Core, {SOURCES[settings.source].description}.\n"
        f"Model: {model.title}. Each row is {_vector(manifest)} for a fragment of {side} x {side} px."
        + (_SHARED.format(settings.shard_count) if settings.shard_count > 1 else "")
    )


def _vector(manifest: Manifest) -> str:
    shape = manifest.model.shape
    if shape is None:
        return f"a vector of {manifest.model.dim} values"
    return f"a map of {shape.rows} x {shape.cols} vectors of {shape.dim} values, row by row,"


_SHARED = (
    "\n\n{} processes write into this folder; the numbers below are those of the one that wrote this card last. "
    "`mtembed finish` joins them."
)


def _warning(manifest: Manifest) -> str:
    if not manifest.weights.random:
        return ""
    return (
        "> **WARNING: RANDOM WEIGHTS.** The network was not trained; "
        f"its weights are `{manifest.weights.file}`.\n> These vectors are good for tests and benchmarks only."
    )


def _contents(manifest: Manifest) -> str:
    totals = manifest.totals
    rows = [
        ("shards", f"{totals.shards:,}"),
        ("cells", f"{totals.cells:,}"),
        ("failed cells", f"{totals.failed:,}"),
        ("embeddings", f"{totals.embeddings:,}"),
        ("image encodings met", _counted({encoding(name): count for name, count in totals.encodings.items()})),
    ]
    if SOURCES[manifest.settings.source].has_offset:
        rows.append(("processing baselines met", _counted(totals.baselines)))
    return "## Contents\n\n" + _table(("what", "how many"), rows)


def _columns(manifest: Manifest) -> str:
    settings, dim = manifest.settings, manifest.model.dim
    columns = COLUMNS + (DENSE_COLUMNS if settings.dense else ()) + (EXTRA_COLUMNS if settings.extras else ())
    rows = [
        (f"`{name}`".replace(", ", "`, `"), f"{settings.dtype} x {dim}" if name == "embedding" else kind, text)
        for name, kind, text in columns
    ]
    note = "GeoParquet 1.1, one file for each shard of the archive; cells in shard order, fragments row by row."
    return "## Columns\n\n" + _table(("column", "type", "meaning"), rows) + f"\n\n{note}"


def _provenance(manifest: Manifest) -> str:
    model, weights, grid = manifest.model, manifest.weights, manifest.fragment_grid
    norm = model.normalisation
    constants = f", mean {_list(norm.mean)}, std {_list(norm.std)}" if norm.mean else ""
    rows = [
        ("model", model.title),
        ("weights", f"`{weights.file}`" + (f", sha256 `{weights.sha256}`" if weights.sha256 else "")),
        ("bands, in order", " ".join(model.bands)),
        ("normalisation", norm.rule + constants),
        ("fragments of a typical cell", f"rows {_list(grid.row_offsets)}, columns {_list(grid.col_offsets)} "
         f"of {grid.typical_cell[0]} x {grid.typical_cell[1]} px"),
        ("share of pixels in no fragment", f"{grid.uncovered_share:.4%}"),
        *((name.replace("_", " "), _shown(getattr(manifest.settings, name))) for name in SETTINGS_SHOWN),
        ("computed on", ", ".join(manifest.devices) or "not recorded"),
        ("fragments cut by", ", ".join(manifest.kernels) or "not recorded"),
        ("mtembed", manifest.mtembed),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("command", _code(manifest.command)),
        ("made", " to ".join(filter(None, (manifest.started, manifest.ended)))),
    ]  # fmt: skip
    warnings = "".join(f"\n\nNote: {warning}." for warning in manifest.warnings)
    return "## Provenance\n\n" + _table(("what", "value"), rows) + warnings + _precision(manifest)


def _precision(manifest: Manifest) -> str:
    check = manifest.notes.precision_check
    if not check:
        return ""
    return (
        f"\n\nThe first {check.fragments} fragments were computed again in fp32: {check.precision} differs by "
        f"{check.median_relative_l2:.2e} (median) and {check.worst_relative_l2:.2e} (worst) in relative L2."
    )


def _failures(manifest: Manifest) -> str:
    failed = {stem: facts.failed for stem, facts in manifest.shards.items() if facts.failed}
    lines = []
    if failed:
        listed = "failures.jsonl" if manifest.settings.shard_count == 1 else "failures-*.jsonl"
        lines.append(f"Without embeddings: {counted(sum(failed.values()))}; `{listed}` says why. Shards concerned:")
        lines.append("\n".join(f"- {_code(stem)}: {count}" for stem, count in sorted(failed.items())[:LISTED]))
        if len(failed) > LISTED:
            lines.append(f"and {len(failed) - LISTED} more.")
    odd = manifest.totals.warnings
    if odd:
        lines.append("Oddities of the archive, each counted by cell (the timing rows name them):")
        lines.append("\n".join(f"- {_plain(text)}: {count:,}" for text, count in sorted(odd.items())))
    return "## Failures and warnings\n\n" + "\n\n".join(lines) if lines else ""


def _loading(manifest: Manifest) -> str:
    part = json.dumps(f"embeddings/{min(manifest.shards, default='part_00001')}.parquet")  # a literal of Python too
    return f"""\
## How to load

```python
# geopandas: one part, with its footprints
import geopandas
frame = geopandas.read_parquet({part})

# geopandas: all parts
frames = geopandas.read_parquet("embeddings")

# numpy: the vectors alone
import pyarrow.parquet
column = pyarrow.parquet.read_table("embeddings", columns=["embedding"]).column(0).combine_chunks()
vectors = column.flatten().to_numpy().reshape(len(column), -1)

# polars: every part, lazily
import polars
rows = polars.scan_parquet("embeddings/*.parquet").select("grid_cell", "embedding")

# duckdb: one cell
import duckdb
cells = duckdb.sql("SELECT grid_cell, count(*) FROM 'embeddings/*.parquet' GROUP BY 1 ORDER BY 1").fetchall()
name, count = cells[0]
cell = duckdb.execute("SELECT embedding FROM 'embeddings/*.parquet' WHERE grid_cell = ?", [name]).fetchall()

# Hugging Face datasets
import datasets
data = datasets.load_dataset("parquet", data_files="embeddings/*.parquet", split="train")
```

torchgeo 0.9 or later (Python 3.12), one part at a time because it reads all of it:

```python
from torchgeo.datasets import MajorTOMEmbeddings
samples = MajorTOMEmbeddings({part})
```"""


def _licences(manifest: Manifest) -> str:
    weights = manifest.weights
    return (
        f"## Licences\n\nData: {manifest.data_licence}. This dataset is derived from it and is shared under "
        f"CC-BY-SA-4.0.\nWeights of the model: {weights.licence}."
    )


def _citation(manifest: Manifest) -> str:
    return (
        f"## Citation\n\n- {manifest.model.citation}\n"
        "- Francis and Czerkawski, Major TOM: Expandable Datasets for Earth Observation, 2024, arXiv:2402.12095\n"
        "- Czerkawski, Kluczek and Bojanowski, Global and Dense Embeddings of Earth: Major TOM Floating in the Latent "
        "Space, 2024, arXiv:2412.05600"
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Nothing that came from a file name or an archive may break the table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|") or "-"


def _code(text: str) -> str:
    """A span of code: one line, and nothing in it that ends the span."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _plain(text: str) -> str:
    """Text that came from outside: one line, neither markup nor HTML."""
    return re.sub(r"([\\`*_\[\]#])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())) or "none"


def _list(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value) if not isinstance(value, str) else value
