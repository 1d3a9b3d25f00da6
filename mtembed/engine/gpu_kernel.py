"""Which fragment kernel works on this GPU: the first whose bits are the definition's, tried before any cell comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtembed.engine.arithmetic import TORCH_DTYPE
from mtembed.engine.cutter import Cutter
from mtembed.engine.memory import is_out_of_memory, reason
from mtembed.errors import WorkerError
from mtembed.kernels import fragment_numpy
from mtembed.kernels.select import GPU_BACKENDS, Fragment, backend
from mtembed.types import FloatArray, Normalisation

SIDE, SIZE = 36, 20  # pixels of the trial's cells and fragments
FACTORS = (1, 2, 6)
ROOM = 8  # channels of the trial's network input go up to a multiple of this


@dataclass(frozen=True, slots=True)
class Trial:
    """A small case of a model's own rule and types; ``cells`` lie on the device, as ``cutter.Cells``."""

    raw: Tensor
    planes: Tensor
    subtract: Tensor
    nodata: Tensor
    fragments: Tensor
    normalisation: Normalisation
    out: Tensor

    @classmethod
    def of(cls, normalisation: Normalisation, bands: int, dtype: str, precision: str, device: torch.device) -> Trial:
        """Two cells of noise, with all that occurs: coarse bands, an offset, nodata, pixels that are no numbers."""
        noise = np.random.default_rng(0)
        factors = [FACTORS[band % 3] for band in range(bands)]
        counts = np.array([(SIDE // factor) ** 2 for factor in factors] * 2)
        first = np.cumsum(counts) - counts
        rows = [(at, SIDE // factor, factor, factor) for at, factor in zip(first.tolist(), factors * 2, strict=True)]
        room = -(-bands // ROOM) * ROOM
        memory = torch.zeros((3, SIZE, SIZE, room), dtype=TORCH_DTYPE[precision], device=device)
        return cls(
            raw=torch.from_numpy(_pixels(noise, int(counts.sum()), dtype)).to(device),
            planes=torch.tensor(rows, dtype=torch.int64, device=device).reshape(2, bands, 4),
            subtract=torch.tensor([0, 1000], dtype=torch.int32, device=device),
            nodata=torch.tensor([torch.nan, -32768.0], dtype=torch.float64, device=device),
            fragments=torch.tensor([(0, 0, 0), (1, 16, 3), (1, 5, 16)], dtype=torch.int32, device=device),
            normalisation=normalisation,
            out=memory[..., :bands].permute(0, 3, 1, 2),
        )

    def problem(self, kernel: Fragment) -> str:
        """Run a kernel; return what is wrong with its result, or nothing."""
        self.out.zero_()
        Cutter(kernel, self.normalisation)(self, self.fragments, self.out)
        found = self.out.float().cpu().numpy()
        exact = np.empty(found.shape, np.float32)
        raw, planes, fragments, subtract, nodata = (
            table.cpu().numpy() for table in (self.raw, self.planes, self.fragments, self.subtract, self.nodata)
        )
        fragment_numpy.fragment(raw, planes, fragments, subtract, nodata, self.normalisation, exact)
        expected = torch.from_numpy(exact).to(self.out.dtype).float().numpy()
        return "" if self._equal(found, expected) else "its numbers are not those of the definition"

    def _equal(self, found: FloatArray, expected: FloatArray) -> bool:
        """Bit for bit; for decibels a device's own log10 may be one unit in the last place off."""
        if not self.normalisation.rule.startswith("decibel"):
            return bool(np.array_equal(found, expected, equal_nan=True))
        _, scale = fragment_numpy.constants(self.normalisation, expected.shape[1])
        unit = 2e-6 / scale.min() + torch.finfo(self.out.dtype).eps * np.maximum(np.abs(expected), 1)
        return bool((np.abs(found - expected) <= unit).all())


def _pixels(noise: np.random.Generator, count: int, dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "uint16":
        return noise.choice(np.array([0, 1, 999, 1000, 1001, 3999, 4000, 4001, 9999, 65535], np.uint16), count)
    pixels = noise.lognormal(-3, 2, count).astype(np.float32)
    pixels[::7] = noise.choice(np.array([-32768, np.nan, np.inf, -np.inf, 0, -1, 1e-10], np.float32), len(pixels[::7]))
    return pixels


def working_kernel(
    trial: Trial, names: Sequence[str] = GPU_BACKENDS, load: Callable[[str], Fragment] = backend
) -> Fragment:
    """Return the first of the backends ``names`` that gives the definition's bits.

    What does not is left out: a library that is missing, a compiler that fails, a cache folder that cannot be written,
    wrong numbers.  Raises WorkerError with all reasons where none is left, and an error of memory as it is.
    """
    problems = []
    for name in names:
        try:
            kernel = load(name)
            problem = trial.problem(kernel)
        except Exception as error:  # compilers, drivers and three libraries each raise their own
            if is_out_of_memory(error):
                raise
            problem = reason(error)
        if not problem:
            return kernel
        problems.append(f"{name}: {problem}")
    raise WorkerError(
        f"no kernel that cuts fragments runs on this GPU ({'; '.join(problems)}): install torch's build for the CUDA "
        "of your driver, or use --device cpu"
    )
