"""One process of ``end_to_end.py``'s yardstick: the network on resident tensors.  Prints when warm, then the rate."""

from __future__ import annotations

import json
import sys
import time

import torch

from mtembed import models
from mtembed.engine.arithmetic import exact_fp32
from mtembed.engine.cpu import CpuDevice, micro_batches
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import DeviceJob
from mtembed.models import weights
from mtembed.sources import CORE_SIDE


def main() -> None:
    settings, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    exact_fp32()
    spec = models.get(settings["model"])
    found = weights.resolve(spec, "random:1" if spec.trained else None)
    sizes = (settings["fragment_size"], settings["precision"], settings["batch"], settings["threads"])
    job = DeviceJob(spec.name, settings["source"], found, *sizes, settings["engine"])
    network = CpuDevice(job).network
    network.input[...] = 0
    fragments = len(FragmentGrid.of(CORE_SIDE, CORE_SIDE, job.size, settings["overlap"], settings["border_shift"]))
    counts = [last - first for first, last in micro_batches(fragments, job.batch)]
    for count in counts:
        network(count)
    print("warm", flush=True)
    sys.stdin.readline()
    cells, started = 0, time.perf_counter()
    while cells == 0 or time.perf_counter() - started < seconds:
        for count in counts:
            network(count)
        cells += 1
    print(cells / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
