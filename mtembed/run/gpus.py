"""Which GPUs a run may use: those that torch can use, asked once and not by this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

from mtembed import machine
from mtembed.config import RunConfig
from mtembed.dataset.settings import Settings
from mtembed.machine import Gpus
from mtembed.run.process import PACKAGE_PARENT

PATIENCE_S = 120.0  # loading torch from a cold disk, and a driver that wakes up


def usable_gpus(config: RunConfig, earlier: Settings | None) -> Gpus:
    """The GPUs for a run with these options; nobody is asked where it is to be on a CPU anyway."""
    engine = earlier.engine if earlier and config.engine == "auto" else config.engine
    device = earlier.device if earlier and config.device == "auto" and not config.gpus else config.device
    if device == "cpu" or engine == "openvino":
        return Gpus(machine.visible_gpus())
    return asked()


def asked() -> Gpus:
    """What torch says in a short-lived process; nothing is asked where the machine shows no sign of a GPU."""
    if machine.cpu_cards() or not machine.shows_gpus():
        return Gpus(machine.visible_gpus())
    return _ask(os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def _ask(named: str | None) -> Gpus:
    """The answer for these names of GPUs; the same for as long as this process lives."""
    environment = {**os.environ, "CUDA_DEVICE_ORDER": machine.device_order()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "mtembed.engine.usable"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return Gpus((), f"torch did not say within {PATIENCE_S:g} s whether it can use a GPU")
    return answer(done.returncode, done.stdout, done.stderr)


def answer(status: int, out: str, err: str) -> Gpus:
    """What the process said, or how it ended."""
    try:
        found = json.loads(out.strip().splitlines()[-1])
        return Gpus(tuple(found["numbers"]), found["problem"])
    except (IndexError, ValueError, KeyError, TypeError):
        words = err.strip().splitlines()
        last = f" ({words[-1]})" if words else ""
        return Gpus((), f"asking torch for a GPU ended with status {status}{last}")


def told(gpus: Gpus, device: str) -> str:
    """A sentence for a run on the CPU although there are signs of a GPU; nothing elsewhere."""
    if device != "cpu" or gpus.numbers or not gpus.problem:
        return ""
    return f"no GPU can be used, the CPU computes: {gpus.problem}"
