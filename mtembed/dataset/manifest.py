"""``manifest.json``: what made this dataset.  Built here, written by ``run.py``, read by resume, report and verify."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mtembed import __version__
from mtembed.dataset.settings import Settings
from mtembed.geo.fragments import FragmentGrid
from mtembed.models import ModelSpec

LIBRARIES = ("torch", "timm", "numpy", "pyarrow", "numba", "imagecodecs", "rasterio", "pyproj", "shapely")
DATA_LICENCE = "contains modified Copernicus Sentinel data; Major TOM Core is CC-BY-SA-4.0"


def describe(spec: ModelSpec, settings: Settings, side: tuple[int, int]) -> dict[str, Any]:
    """The part of the manifest that is known before the first cell; ``side`` is a typical cell in pixels."""
    grid = FragmentGrid.of(*side, settings.fragment_size, settings.overlap, settings.border_shift)
    return {
        "mtembed": __version__,
        "settings": settings.as_json(),
        "model": {
            "name": spec.name,
            "title": spec.title,
            "bands": list(spec.bands_for(settings.source)),
            "dim": spec.dim,
            "normalisation": dataclasses.asdict(spec.normalisation_for(settings.source)),
            "citation": spec.citation,
        },
        "weights": {
            "file": settings.weights,
            "sha256": settings.weights_sha256,
            "published": spec.published.file if spec.published else None,
            "random": settings.weights.startswith("random:") and spec.trained,
            "licence": spec.licence,
        },
        "data_licence": DATA_LICENCE,
        "fragment_grid": {
            "typical_cell": list(side),
            "fragment_size": settings.fragment_size,
            "row_offsets": list(grid.row_offsets),
            "col_offsets": list(grid.col_offsets),
            "uncovered_share": grid.uncovered,
        },
        "versions": {"python": sys.version.split()[0], **versions()},
        "command": command_line(sys.argv),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that shape the result, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line(argv: list[str]) -> str:
    """The command with every path cut to its last part: no user names, no folders."""
    words = ["mtembed", *(Path(word).name if "/" in word else word for word in argv[1:])]
    return " ".join(words[:40]) + (f" ... and {len(words) - 40} more" if len(words) > 40 else "")


def totals(shards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the shards' facts."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in ("warnings", "encodings", "baselines")}
    for facts in shards.values():
        for name, counter in counted.items():
            counter.update(facts[name])
    sums = {
        name: sum(facts[name] for facts in shards.values())
        for name in ("cells", "failed", "embeddings", "offset_removed")
    }
    return {"shards": len(shards), **sums, **{name: dict(sorted(c.items())) for name, c in counted.items()}}
