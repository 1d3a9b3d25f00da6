"""CPU time of fragmenting and normalising one cell, next to the definition in numpy.

Pixels are synthetic: reflectances of 0 to 0.4 as uint16, log-normal backscatter as float32.  Times are of the process,
not of the clock, so that neighbours on the machine disturb them less.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from bench.conftest import Paired
from mtembed.geo.fragments import FragmentGrid
from mtembed.kernels.select import backend
from mtembed.types import Normalisation

SIDE = 1068
S2_FACTORS = (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 6, 2, 2)
MODELS = {
    "ssl4eo-s2": (224, S2_FACTORS, Normalisation("reflectance")),
    "ssl4eo-s1": (224, (1, 1), Normalisation("decibel", (-12.54847273, -20.19237134), (5.25697717, 5.91150917))),
    "dinov2": (224, (1, 1, 1), Normalisation("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    "siglip": (384, (1, 1, 1), Normalisation("rgb", (0.5,) * 3, (0.5,) * 3)),
}


@pytest.mark.benchmark(group="kernel", timer=time.process_time)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_kernel(paired: Paired, model: str, dtype: str) -> None:
    """Into channels-last memory, as the networks take it."""
    size, factors, normalisation = MODELS[model]
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *((SIDE // factor) ** 2 for factor in factors)])
    if normalisation.rule == "decibel":
        raw = rng.lognormal(-3, 1, starts[-1]).astype(np.float32)
    else:
        raw = rng.integers(0, 4000, starts[-1], dtype=np.uint16)
    planes = [(start, SIDE // factor, factor, factor) for start, factor in zip(starts, factors, strict=False)]
    offsets = FragmentGrid.of(SIDE, SIDE, size).offsets()
    fragments = np.insert(offsets, 0, 0, axis=1)
    shape = (len(fragments), size, size, len(factors))
    out = np.zeros(shape, "uint16" if dtype == "bfloat16" else dtype)
    out = out.transpose(0, 3, 1, 2)
    tables = np.array([planes], np.int64), fragments, np.zeros(1, np.int32), np.array([math.nan])
    golden = np.empty_like(out)
    paired(
        lambda: backend("numba")(raw, *tables, normalisation, out),
        lambda: backend("numpy")(raw, *tables, normalisation, golden),
        "the definition in numpy",
        5,
    )
    assert np.array_equal(out, golden)
