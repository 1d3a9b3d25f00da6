"""What a principal component analysis is asked for, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.dataset.finding import Name
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.maps.basis import Basis, Colouring, Scale, read_basis

Fragments = Literal["central", "all"]
COMPONENTS = 3


@dataclass(frozen=True, slots=True)
class PcaSettings:
    """What decides the result beside the data; ``basis`` is the sha256 of the file that fixes components and scale."""

    components: int
    fragments: Fragments
    scale: Scale | None
    clip: float | None
    basis: str | None


@dataclass(frozen=True, slots=True, eq=False)
class PcaResult:
    """What ``pca.json`` says, and the folder it lies in.

    ``mean`` [dim], ``components`` [k, dim] and ``explained_variance_ratio`` [k] are float64.  ``n`` vectors were
    fitted, ``rows`` projected, ``not_finite`` left out; ``cells`` are drawn, ``off_grid`` have names that are no cells
    of the grid.  ``channel_means`` are those of the 8-bit colours, ``clipped_fraction`` is the share of values that lie
    outside the scale.  ``maps`` are the GeoTIFFs of a dataset of maps, 0 for vectors.
    """

    output: Path
    model: str | None
    dim: int
    n: int
    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    explained_variance_ratio: npt.NDArray[np.float64]
    gains: tuple[float, ...]
    channel_means: tuple[float, ...]
    clipped_fraction: float
    fragments: str
    rows: int
    cells: int
    off_grid: int
    not_finite: int
    nothing_to_do: bool
    maps: int = 0

    @classmethod
    def of(cls, output: Path, content: Mapping[str, Any], nothing_to_do: bool) -> PcaResult:
        return cls(
            output=output,
            model=content["model"],
            dim=int(content["dim"]),
            n=int(content["n"]),
            mean=np.array(content["mean"]),
            components=np.array(content["components"]),
            explained_variance_ratio=np.array(content["explained_variance_ratio"]),
            gains=tuple(content["gains"]),
            channel_means=tuple(content["channel_means"]),
            clipped_fraction=content["clipped_fraction"],
            fragments=content["fragments"],
            rows=int(content["rows"]),
            cells=int(content["cells"]),
            off_grid=int(content["off_grid"]),
            not_finite=int(content["not_finite"]),
            nothing_to_do=nothing_to_do,
            maps=int(content.get("maps", 0)),
        )


def settings(
    components: int | None, fragments: Fragments, scale: Scale | None, clip: float | None, basis: Name | None
) -> PcaSettings:
    """The options with their defaults.  Raises UsageError for what is not possible or contradicts a basis."""
    if basis is not None:
        for name, value in (("components", components), ("scale", scale), ("clip", clip)):
            if value is not None:
                raise UsageError(f"--{name} is fixed by --basis: leave one of the two out")
        found = read_basis(Path(basis))[0]
        digest = hashlib.sha256(Path(basis).read_bytes()).hexdigest()
        return PcaSettings(len(found.components), fragments, None, None, digest)
    components, clip = COMPONENTS if components is None else components, 0.0 if clip is None else clip
    if components < 1:
        raise UsageError(f"--components {components} is not possible: choose 1 or more")
    if not 0.0 <= clip < 50.0:
        raise UsageError(f"--clip {clip} is not possible: choose a percentage from 0 up to, but not including, 50")
    return PcaSettings(components, fragments, scale or "gain", float(clip), None)


def basis_for(path: Path, dataset: EmbeddingDataset) -> tuple[Basis, Colouring]:
    """A basis that was made before, for this dataset.  Raises UsageError where it does not fit."""
    basis, colouring = read_basis(path)
    if len(basis.mean) != dataset.dim:
        made, named = f"vectors of {len(basis.mean)} values", f"{dataset.dim}"
    elif None not in (basis.model, dataset.model) and basis.model != dataset.model:
        made, named = f"the model {basis.model}", f"{dataset.model}"
    else:
        return basis, colouring
    raise UsageError(
        f"--basis {path} is of {made} and {dataset.name} of {named}: name a basis that was made with the same model"
    )
