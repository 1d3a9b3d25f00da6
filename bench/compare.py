"""Compare a run of the benchmarks with a stored one: a ratio that fell by more than a tenth is an error.

    pytest bench --benchmark-json=new.json
    python -m bench.compare new.json                # with the baseline of this class of machine
    python -m bench.compare new.json --baseline old.json
    python -m bench.compare new.json --accept       # store it as the baseline of this class of machine

Ratios are of a benchmark to its yardstick in the same round (see ``conftest.py``), because absolute times of two days
on one machine differ by more than what is looked for.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
FELL = 0.10


def ratios(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> ratio, yardstick and time per cell, of a JSON file of pytest-benchmark or a stored baseline."""
    if "ratios" in content:
        stored: dict[str, dict[str, Any]] = content["ratios"]
        return stored
    return {one["name"]: one["extra_info"] for one in content["benchmarks"] if "ratio" in one.get("extra_info", {})}


def machine_class(content: dict[str, Any]) -> str:
    """Processor and number of cores, as a file name."""
    cpu = content["machine_info"]["cpu"]
    name = re.sub(r"\(r\)|\(tm\)|@.*|\bcpu\b|processor", " ", cpu.get("brand_raw", "unknown").lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") + f"-{cpu['count']}-cores"


def fallen(new: dict[str, dict[str, Any]], old: dict[str, dict[str, Any]]) -> list[str]:
    """Names whose ratio is more than a tenth below the stored one."""
    return [name for name in new if name in old and new[name]["ratio"] < (1 - FELL) * old[name]["ratio"]]


def table(new: dict[str, dict[str, Any]], old: dict[str, dict[str, Any]]) -> Table:
    result = Table("benchmark", "yardstick", "then", "now", "change", box=None, pad_edge=False)
    worse = fallen(new, old)
    for name, facts in sorted(new.items()):
        then = old.get(name, {}).get("ratio")
        change = "new" if then is None else f"{facts['ratio'] / then - 1:+.1%}"
        shown = "-" if then is None else f"{then:.3g}"
        style = "bold red" if name in worse else ""
        result.add_row(name, facts["yardstick"], shown, f"{facts['ratio']:.3g}", change, style=style)
    return result


def stored(content: dict[str, Any]) -> dict[str, Any]:
    """What a baseline keeps: the machine without its name, the commit, the ratios."""
    machine = {key: content["machine_info"][key] for key in ("machine", "system", "python_version")}
    cpu = {key: content["machine_info"]["cpu"].get(key) for key in ("brand_raw", "count")}
    commit = content.get("commit_info", {}).get("id")
    return {"machine": {**machine, **cpu}, "when": content["datetime"], "commit": commit, "ratios": ratios(content)}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--baseline", type=Path, help="default: the one of this class of machine")
    parser.add_argument("--accept", action="store_true", help="store it as that baseline")
    options = parser.parse_args(words)
    content = json.loads(options.new.read_text())
    path = options.baseline or RESULTS / f"baseline-{machine_class(content)}.json"
    if options.accept:
        path.write_text(json.dumps(stored(content), indent=1) + "\n")
        print(f"stored as {path.name}")
        return
    if not path.exists():
        sys.exit(f"there is no {path.name}: store this run with --accept, or name another with --baseline")
    old = ratios(json.loads(path.read_text()))
    Console(width=140).print(table(ratios(content), old))
    worse = fallen(ratios(content), old)
    missing = sorted(old.keys() - ratios(content).keys())
    if missing:
        print(f"not in this run: {', '.join(missing)}")
    if worse:
        sys.exit(f"fell by more than {FELL:.0%}: {', '.join(worse)}; run these again to tell a fall from noise")


if __name__ == "__main__":
    main()
