"""How far vectors are from the golden path, which is torch in float32; and that they are numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mtembed import notes
from mtembed.engine.cutter import Cells, Cutter
from mtembed.engine.memory import is_out_of_memory, reason
from mtembed.errors import CellError
from mtembed.messages import DeviceJob
from mtembed.models import ModelSpec
from mtembed.types import FloatArray

CHECKED = 32  # fragments that are computed in float32 too, at most
AT_ONCE = 8  # of them, so that their activations take little memory beside those of a run


class PrecisionCheck:
    """Computes a few fragments once more in float32 and compares."""

    def __init__(self, job: DeviceJob, spec: ModelSpec, cutter: Cutter, device: torch.device) -> None:
        self.job, self.spec, self.cutter, self.device = job, spec, cutter, device
        self.needed = (job.engine, job.precision) != ("torch", "fp32")
        self.golden: nn.Module | None = None  # built when needed; a caller who has it may put it here

    def __call__(self, cells: Cells, fragments: Any, vectors: FloatArray) -> notes.Note:
        """Compare ``vectors`` [n, D] with those of the golden path for the first of ``fragments`` (int32 [n, 3]).

        Where memory does not suffice for that, the note says so: a check must not end a device's work.
        """
        try:
            return self._compare(cells, fragments, vectors)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return notes.PrecisionUnknown(reason(error))
        finally:
            self.golden = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _compare(self, cells: Cells, fragments: Any, vectors: FloatArray) -> notes.Note:
        count = min(len(vectors), self.job.batch, CHECKED)
        shape = (count, len(self.spec.bands_for(self.job.source)), self.job.size, self.job.size)
        out = torch.empty(shape, device=self.device)
        self.cutter(cells, fragments[:count], out)
        golden = self.golden
        if golden is None:
            golden = self.spec.build(self.job.weights, self.job.source, self.job.size)
        golden.to(self.device)
        exact = torch.cat([golden(out[first : first + AT_ONCE]).cpu() for first in range(0, count, AT_ONCE)])
        return self._note(relative_l2(vectors[:count], exact.numpy()))

    def _note(self, error: npt.NDArray[np.float64]) -> notes.PrecisionCheck:
        return notes.PrecisionCheck(
            precision=self.job.precision,
            engine=self.job.engine,
            fragments=len(error),
            median_relative_l2=float(np.median(error)),
            worst_relative_l2=float(error.max()),
        )


def relative_l2(vectors: FloatArray, golden: FloatArray) -> npt.NDArray[np.float64]:
    """Per row: |v - g| / |g|, float64 [n]."""
    difference = np.linalg.norm(vectors.astype(np.float64) - golden, axis=1)
    return np.asarray(difference / np.maximum(np.linalg.norm(golden.astype(np.float64), axis=1), 1e-30))


def require_finite(vectors: FloatArray) -> None:
    """Raises CellError unless every value is a number."""
    if not np.isfinite(vectors).all():
        raise CellError("the network gave a vector that is not finite", "embed")
