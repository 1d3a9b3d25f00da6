"""One GPU: is it right, is it the same, how fast is each part, and the real command around it.

    python -m bench.gpu                                          # all; continues where an earlier call stopped
    python -m bench.gpu --cpu --models rcf --batch 8 --seconds 0.2   # the same code on the CPU, to see that it runs

Needs torch, timm, pyarrow, numba and nothing else; no network: weights are random, shards are copies of the packaged
sample.  Each step runs in a process of its own and is written to ``--output`` (``bench/results/gpu-<card>.json``) as
soon as it is done; after ``--within`` seconds no more is begun, and the same command goes on from there.

In the order of their worth, for every model: ``right`` (kernels against the definition, vectors against a CPU in
fp32), ``same`` (shuffled feeds, places in a batch, another process), ``speed`` (``gpu_speed.py``); then what the
decoder of the card does, and runs of the command.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu_machine import facts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
MODELS = ("ssl4eo-s2", "ssl4eo-s1", "dinov2", "siglip", "rcf")
WITHIN_S = 470.0
NEEDED = ("cyclopts", "imagecodecs", "pyproj", "shapely")  # by the command, not by the engine
DONE = "done"


def main() -> None:
    options = arguments()
    began = time.monotonic()
    machine = facts(options.cpu)
    if machine is None:
        sys.exit("no GPU that torch can use: --cpu runs the same code on the processor")
    slug = re.sub(r"[^a-z0-9]+", "-", str(machine["device"]).lower()).strip("-")
    target = options.output or RESULTS / f"gpu-{slug}.json"
    content = earlier(target, machine)
    for step, model, module in steps(options.models.split(",")):
        known = content["results"].setdefault(step, {}).setdefault(model, {})
        if known.get(DONE) or known.get("left_out"):
            continue
        left = options.within - (time.monotonic() - began)
        if left < 5:
            print("out of time: the same command goes on from here", flush=True)
            break
        for found in measured(module, step, model, options, left):
            known |= found
            compare(content["results"], step, model)
            save(target, content)
            print(f"{step} {model}: {json.dumps(found)}", flush=True)
    print(f"written to {target.name}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--cells", type=int, default=10_000, help="cells of a run of the command")
    parser.add_argument("--batch", type=int, help="fragments; default: the model's")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--settle", type=float, default=30.0, help="seconds of the fed engine, until clocks settle")
    parser.add_argument("--within", type=float, default=WITHIN_S)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def earlier(target: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call wrote, if it was on this machine with these versions; else an empty result."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    if target.exists():
        content: dict[str, Any] = json.loads(target.read_text())
        if content.get("machine") == machine:
            return content
    return {"machine": machine, "when": when, "results": {}}


def compare(results: dict[str, Any], step: str, model: str) -> None:
    """Whether another process gave the same bits."""
    other = results[step][model].get("digest_of_another_process")
    first = [
        one["digest"] for one in results["right"].get(model, {}).values() if isinstance(one, dict) and "digest" in one
    ]
    if other and first:
        results[step][model]["equal"] = other == first[0]


def save(target: Path, content: dict[str, Any]) -> None:
    scratch = target.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    scratch.replace(target)


def steps(models: list[str]) -> Iterator[tuple[str, str, str]]:
    """(step, model, module that measures it), most valuable first."""
    for step, module in (("right", "bench.gpu_right"), ("speed", "bench.gpu_speed"), ("same", "bench.gpu_right")):
        yield from ((step, model, module) for model in models)
    yield "decode", "ssl4eo-s2", "bench.gpu_decode"
    yield from (("run", model, "bench.gpu_run") for model in models)


def measured(module: str, step: str, model: str, options: argparse.Namespace, left: float) -> Iterator[dict[str, Any]]:
    """One step of one model in a process of its own, which prints a JSON object for each thing it has found."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if step == "run" and missing:
        yield {"left_out": f"not installed: {', '.join(missing)}"}
        return
    command = [sys.executable, "-m", module, step, model, "--seconds", str(options.seconds)]
    command += ["--settle", str(options.settle), "--cells", str(options.cells)]
    command += ["--batch", str(options.batch)] if options.batch else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({"MTEMBED_CPU_CARDS": "1"} if options.cpu else {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        out, err = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        yield from objects(out)
        yield {"stopped": "out of time"}
        return
    yield from objects(out)
    yield {DONE: True} if process.returncode == 0 else {"failed": err.strip().splitlines()[-1:]}


def objects(text: str) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in text.splitlines() if line.startswith("{"))


if __name__ == "__main__":
    main()
