"""One process of ``end_to_end.py``'s yardstick: the network on resident tensors.  Prints when warm, then the rate."""

from __future__ import annotations

import json
import sys
import time

import torch

from mtembed import models, weights
from mtembed.device import TORCH_DTYPE, micro_batches
from mtembed.models.networks import optimise

SECONDS = 12.0
FRAGMENTS = {224: 25, 384: 9}


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    spec = models.get(job["model"])
    found = weights.resolve(spec, None if spec.kind == "rcf" else "random:1")
    dtype, size = TORCH_DTYPE[job["precision"]], job["fragment_size"]
    network = optimise(spec.build(found, job["source"], size), dtype, True)
    bands = len(spec.bands_for(job["source"]))
    batches = [
        torch.rand(last - first, bands, size, size).to(dtype=dtype, memory_format=torch.channels_last)
        for first, last in micro_batches(FRAGMENTS[size], job["batch"])
    ]
    for batch in batches:
        network(batch)
    print("warm", flush=True)
    sys.stdin.readline()
    cells, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for batch in batches:
            network(batch)
        cells += 1
    print(cells / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
