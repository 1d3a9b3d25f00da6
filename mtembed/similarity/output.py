"""Hits as files: GeoParquet, GeoJSON, CSV, by the suffix of the name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mtembed.dataset.atomic import write_atomically
from mtembed.errors import OutputError, UsageError
from mtembed.similarity.result import Hit

SUFFIXES = (".parquet", ".geojson", ".csv")


def require_suffix(path: Path) -> None:
    """Raises UsageError for a kind of file that is not written."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--output {path} has no kind that is written: end it with {', '.join(SUFFIXES)}")


def write(hits: Sequence[Hit], path: Path) -> None:
    """Write hits, complete or not at all; an earlier file of that name is replaced.  Raises OutputError."""
    require_suffix(path)
    writers: dict[str, Callable[[Sequence[Hit]], str | bytes]] = {
        ".parquet": _parquet,
        ".geojson": _geojson,
        ".csv": _csv,
    }
    content = writers[path.suffix](hits)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another --output") from error


def _parquet(hits: Sequence[Hit]) -> bytes:
    import geopandas

    records = [hit.record() for hit in hits]
    lon = [hit.centre_lon if hit.centre_lon is not None else float("nan") for hit in hits]
    lat = [hit.centre_lat if hit.centre_lat is not None else float("nan") for hit in hits]
    frame = geopandas.GeoDataFrame(records, geometry=geopandas.points_from_xy(lon, lat), crs="EPSG:4326")
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


def _geojson(hits: Sequence[Hit]) -> str:
    features = [
        {
            "type": "Feature",
            "geometry": None
            if hit.centre_lon is None
            else {"type": "Point", "coordinates": [hit.centre_lon, hit.centre_lat]},
            "properties": hit.record(),
        }
        for hit in hits
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def _csv(hits: Sequence[Hit]) -> str:
    out = io.StringIO()
    names = list(Hit.__dataclass_fields__)
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for hit in hits:
        record = hit.record()
        box = record["pixel_bbox"]
        writer.writerow({**record, "pixel_bbox": "" if box is None else " ".join(map(str, box))})
    return out.getvalue()
