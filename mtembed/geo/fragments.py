"""Where the fragments of a cell lie: the paper's Algorithm 1 in plain integers, for any size of cell."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def axis_offsets(length: int, size: int, overlap: float = 0.1, border_shift: bool = True) -> tuple[int, ...]:
    """First pixels of the fragments along one axis, strictly increasing and starting at 0.

    ``length`` and ``size`` are pixels of the axis and of a fragment, ``overlap`` the wanted share in 0 <= overlap < 1.
    With ``border_shift`` the last fragment ends at the border and every pixel is covered.  Without it the fragments
    keep one stride, and the last ``(length - size) % steps`` pixels, fewer than there are steps, stay uncovered.

    Source: Algorithm 1 of the Major TOM embeddings paper with n + 1 fragments, which its own totals use (25 of 224 and
    9 of 384 px in 1068 px).  Two cases are ours: steps that would skip pixels are made more and even, and
    an overlap so great that fragments would repeat gives a fragment at each pixel.

    Raises ValueError when the axis is shorter than a fragment or the overlap is outside its range.
    """
    if size < 1 or length < size:
        raise ValueError(f"A fragment of {size} px does not fit into {length} px; choose a size from 1 to {length}.")
    if not 0 <= overlap < 1:
        raise ValueError(f"The overlap {overlap} must be at least 0 and less than 1.")
    spare = length - size
    if spare == 0:
        return (0,)
    steps = min(max(1, round(spare / (size - overlap * size))), spare)
    enough = max(steps, -(-spare // size))
    stride = spare // steps  # equals the paper's size - ceil(size - spare / steps)
    if not border_shift:
        if stride > size:
            steps, stride = enough, spare // enough
        return tuple(step * stride for step in range(steps + 1))
    if spare - (steps - 1) * stride > size:  # no jump is longer than the last
        return tuple(step * spare // enough for step in range(enough + 1))
    return (*(step * stride for step in range(steps)), spare)


def _covered(offsets: tuple[int, ...], size: int) -> int:
    """Pixels of an axis that at least one fragment holds."""
    return size + sum(min(size, after - before) for before, after in itertools.pairwise(offsets))


@dataclass(frozen=True, slots=True)
class FragmentGrid:
    """The fragments of a cell of ``rows`` x ``cols`` finest-band pixels: squares of ``size`` px at all offset pairs."""

    rows: int
    cols: int
    size: int
    row_offsets: tuple[int, ...]
    col_offsets: tuple[int, ...]

    @classmethod
    def of(cls, rows: int, cols: int, size: int, overlap: float = 0.1, border_shift: bool = True) -> FragmentGrid:
        """The grid of a cell; parameters and errors as in ``axis_offsets``."""
        row_offsets = axis_offsets(rows, size, overlap, border_shift)
        return cls(rows, cols, size, row_offsets, axis_offsets(cols, size, overlap, border_shift))

    def __len__(self) -> int:
        return len(self.row_offsets) * len(self.col_offsets)

    def offsets(self) -> npt.NDArray[np.int32]:
        """int32 [n, 2]: (row, col) of each fragment's upper-left pixel, row-major."""
        return np.array(list(itertools.product(self.row_offsets, self.col_offsets)), np.int32)

    @property
    def uncovered(self) -> float:
        """Share of the cell's pixels that no fragment holds: 0 with border shift."""
        covered = _covered(self.row_offsets, self.size) * _covered(self.col_offsets, self.size)
        return 1 - covered / (self.rows * self.cols)
