"""What the whole archive needs, on paper: bytes, network, cores, hours and money, as the tables of docs/archive.md.

    python -m bench.archive_cost            # print the tables
    python -m bench.archive_cost --write    # and put them into docs/archive.md

Measured inputs: pixels of the packaged sample, ``results/host-path.json``, ``results/feed.json``,
``results/remote.json`` and ``results/end-to-end-cpu.json``.  Speeds and prices of GPUs and rates of stores are
assumptions, named as such: choose others with ``--speeds``, ``--price`` and ``--rates``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtembed import models
from mtembed.models.base import ModelSpec
from mtembed.sources import SOURCES

ROOT = Path(__file__).resolve().parents[1]


RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "archive.md"
NAMES = ("ssl4eo-s2", "ssl4eo-s1", "dinov2", "siglip")
FRAGMENTS = {224: 25, 384: 9}
ROW_BYTES = 300  # of a row beside its vector
GPUS = (1, 8, 100)
HOSTS = ((1, 16), (2, 16), (2, 32), (8, 32), (8, 64), (8, 128))  # GPUs and cores of one machine
PACES = (200, 400)  # cells/s of one GPU
FETCHING = (8, 100)  # GPUs
SHARDS = 4492  # of Core-S2L1C, as of Core-S2L2A


def band_bytes(spec: ModelSpec) -> int:
    """Bytes of the GeoTIFFs a model reads of a cell (uncompressed, the packaged sample)."""
    columns = list(spec.bands_for(spec.source))
    row = pq.read_table(ROOT / f"mtembed/sample/Core-{spec.source}/images/part_00001.parquet", columns=columns)
    return sum(len(row[name][0].as_py()) for name in columns)


def bytes_table() -> str:
    lines = []
    for spec in map(models.get, NAMES):
        cells, fragments = SOURCES[spec.source].cells_in_core, FRAGMENTS[spec.size]
        read, rows = band_bytes(spec), fragments * (4 * spec.dim + ROW_BYTES)
        vectors = f"{cells * fragments / 1e6:,.1f} M"
        sizes = (f"{read / 1e6:.1f} MB", f"{cells * read / 1e12:.1f} TB", f"{cells * rows / 1e12:.2f} TB")
        lines.append((f"`{spec.name}`", f"{cells:,}", vectors, *sizes))
    return table(("model", "cells", "vectors", "pixels a cell", "pixels in all", "output, at most"), lines)


def cpu_table() -> str:
    content = json.loads((RESULTS / "end-to-end-cpu.json").read_text())
    machine = content["machine"]
    best: dict[str, dict[str, float]] = {}
    for one in content["results"]:
        if one["end_to_end"] > best.get(one["model"], {}).get("end_to_end", 0.0):
            best[one["model"]] = one
    lines = []
    for name, one in best.items():
        days = SOURCES[models.get(name).source].cells_in_core / one["end_to_end"] / 86400
        lines.append((f"`{name}`", f"{one['engine']} {one['precision']}", f"{one['end_to_end']:.2f}", f"{days:,.0f}"))
    head = table(("model", "engine", "cells/s", "days for the archive"), lines)
    return f"{machine['cpu']}, {machine['cores']} cores:\n\n{head}"


def gpu_table(speeds: list[float], price: float) -> str:
    host = json.loads((RESULTS / "host-path.json").read_text())["pixels"]["noisy"]["together"] / 1e3
    read = band_bytes(models.get("ssl4eo-s2"))
    cells = SOURCES["S2L1C"].cells_in_core
    lines = []
    for speed in speeds:
        hours = cells / speed / 3600
        each = [_time(hours / count) for count in GPUS]
        feed = (f"{speed * read / 1e9:.1f} GB/s", f"{speed * host:.1f}")
        lines.append((f"{speed:g}", *feed, *each, f"{hours * price:,.0f}"))
    heads = ("cells/s a GPU", "pixels a GPU", "cores a GPU", *(f"{count} GPU" + "s" * (count > 1) for count in GPUS))
    return table((*heads, f"at {price:g} a GPU hour"), lines)


def fed_table() -> str:
    """What was measured of one lane, and CPU milliseconds per cell of each kind of process."""
    lines = []
    for one in _fed():
        costs = one["cpu_ms_per_cell"]
        each = [f"{costs[kind]:.2f}" for kind in ("parent", "decode", "write", "finish")]
        way = "done beforehand" if one["decoded"] else "13 bands, uncompressed"
        lines.append((f"{one['device_rate']:g}", way, f"{one['cells_per_s']:.0f}", *each, one["limiting_stage"]))
    heads = ("cells/s of the device", "decoding", "cells/s reached", "parent", "decode", "write", "finish", "limit")
    return f"{_fed()[0]['processor']}, {_fed()[0]['cores']} cores:\n\n{table(heads, lines)}"


def host_table() -> str:
    """What one process could feed on larger machines: a parent, a writer for each GPU, 1 + GPUs / 2 finishers, and all
    cores for everything."""
    runs = _fed()
    costs = {**runs[-1]["cpu_ms_per_cell"], "decode": runs[0]["cpu_ms_per_cell"]["decode"]}
    lines = []
    for gpus, cores in HOSTS:
        limits = {
            "parent": 1e3 / costs["parent"],
            "writers": gpus * 1e3 / costs["write"],
            "finishers": (1 + gpus // 2) * 1e3 / costs["finish"],
            "cores": cores * 1e3 / sum(costs.values()),
        }
        least = min(limits, key=lambda name: limits[name])
        reached = [
            f"{gpus * pace}" if gpus * pace <= limits[least] else f"{limits[least]:.0f} ({least})" for pace in PACES
        ]
        lines.append((f"{gpus}", f"{cores}", *(f"{limit:.0f}" for limit in limits.values()), *reached))
    return table(("GPUs", "cores", *limits, *(f"GPUs of {pace}" for pace in PACES)), lines)


def network_table(speed: float, rates: Sequence[float]) -> str:
    """GPUs of ``speed`` cells/s before stores of ``rates`` GB/s in all: how long, what limits, what they are asked."""
    measured = json.loads((RESULTS / "remote.json").read_text())
    cells, each = SOURCES["S2L1C"].cells_in_core, band_bytes(models.get("ssl4eo-s2"))
    core_s = (measured["remote"]["together"] - measured["local"]["together"]) / 1e3
    lines = []
    for gpus in FETCHING:
        for rate in rates:
            able, served = gpus * speed, rate * 1e9 / each
            reached = min(able, served)
            asked = measured["requests_per_cell"] * reached
            limit = "network" if served < able else "GPUs"
            hours = _time(cells / reached / 3600)
            lines.append((f"{gpus}", f"{rate:g}", f"{able:,.0f}", f"{reached:,.0f}", hours, limit, f"{asked:,.0f}",
                          f"{core_s * reached:,.1f}"))  # fmt: skip
    heads = ("GPUs", "GB/s in all", "cells/s the GPUs can do", "cells/s", "the archive in", "limit", "requests/s",
             "cores for fetching")  # fmt: skip
    asked = measured["requests_per_cell"] * cells / 1e6
    head = f"{SHARDS:,} shards, {cells:,} cells, {asked:,.1f} million requests, {speed:g} cells/s a GPU:"
    return f"{head}\n\n{table(heads, lines)}"


def _fed() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((RESULTS / "feed.json").read_text())
    return runs


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ("---",) * len(heads), *lines))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speeds", default="25,50,100,200", help="cells per second of one GPU, assumed")
    parser.add_argument("--price", type=float, default=2.5, help="of one GPU for an hour, assumed")
    parser.add_argument("--rates", default="0.5,2,12.5,100", help="GB/s of a store for all readers together, assumed")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(words)
    speeds = [float(word) for word in options.speeds.split(",")]
    gpus = gpu_table(speeds, options.price)
    network = network_table(100.0, [float(word) for word in options.rates.split(",")])
    parts = {"bytes": bytes_table(), "cpu": cpu_table(), "gpu": gpus, "fed": fed_table(), "host": host_table(),
             "network": network}  # fmt: skip
    for name, text in parts.items():
        print(f"{name}:\n\n{text}\n")
    if options.write:
        page = PAGE.read_text()
        for name, text in parts.items():
            page = re.sub(rf"(?s)(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", rf"\g<1>{text}\n\g<2>", page)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
