"""Which backend does the fragmenting; one that is not asked for is not imported."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol, cast

from mtembed.types import Normalisation

BACKENDS = ("numpy", "numba", "cuda", "cupy")
"""The definition; one CPU thread; numba.cuda; CuPy.  Each is ``fragment_<name>.py`` in this folder."""


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


def backend(name: str = "auto", device: str = "cpu") -> Fragment:
    """The ``fragment`` function of a backend.  A name decides alone; ``auto`` looks at ``device`` (``cpu``, ``cuda``).

    ``auto`` takes ``numba`` on the CPU.  On ``cuda`` it takes ``cupy`` where CuPy is installed and ``cuda`` elsewhere,
    an order that measurements on a GPU have yet to confirm.  ValueError for unknown names.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"The device {device!r} is neither cpu nor cuda.")
    if name == "auto":
        name = "numba" if device == "cpu" else ("cupy" if importlib.util.find_spec("cupy") else "cuda")
    if name not in BACKENDS:
        raise ValueError(f"The kernel backend {name!r} is none of auto, {', '.join(BACKENDS)}.")
    return cast(Fragment, importlib.import_module(f"mtembed.kernels.fragment_{name}").fragment)
