"""Which backend does the fragmenting; one that is not asked for is not imported."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from mtembed.types import Normalisation

GPU_BACKENDS = ("nvrtc", "cupy", "cuda")
"""What can run on a GPU, in the order in which it is tried: with what torch brings, CuPy, numba.cuda."""
BACKENDS = ("numpy", "numba", *GPU_BACKENDS)
"""The definition, one CPU thread, and those for GPUs.  Each is ``fragment_<name>.py`` in this folder."""


class Fragment(Protocol):
    """Cut, upsample, normalise and cast: arguments as ``fragment_numpy`` defines them."""

    def __call__(
        self,
        raw: Any,
        planes: Any,
        fragments: Any,
        subtract: Any,
        nodata: Any,
        normalisation: Normalisation,
        out: Any,
    ) -> None: ...


def backend(name: str = "numba") -> Fragment:
    """Return the ``fragment`` function of a backend; ``numba`` is the one for CPUs.  ValueError for unknown names."""
    if name not in BACKENDS:
        raise ValueError(f"The kernel backend {name!r} is none of {', '.join(BACKENDS)}.")
    return cast(Fragment, importlib.import_module(f"mtembed.kernels.fragment_{name}").fragment)


def kernel_name(fragment: Fragment) -> str:
    """The backend that a ``fragment`` function belongs to."""
    return str(getattr(fragment, "__module__", "")).rpartition("_")[2]
