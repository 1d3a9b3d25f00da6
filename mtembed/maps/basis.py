"""Principal components as a record: how they are found, how vectors become scores, and scores become colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.dataset.atomic import json_object, read_regular
from mtembed.errors import OutputError, UsageError
from mtembed.maps.moments import BLOCK_ROWS, Matrix, Moments
from mtembed.types import FloatArray

Scale = Literal["gain", "gamma"]
Colours = npt.NDArray[np.uint8]
CHANNELS = 3
STEPS = 1 << 16  # of a component's range, in which its values are counted
FIXED_POINT = 2.0**32  # values of 0..1 are summed as whole numbers: no bit depends on their order


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """``mean`` [D], ``components`` [k, D] orthonormal rows, ``ratio`` [k] their shares of the variance; all float64.

    The largest loading of a component is positive.
    """

    n: int
    mean: Matrix
    components: Matrix
    ratio: Matrix
    model: str | None = None

    @classmethod
    def of(cls, moments: Moments, count: int, model: str | None = None) -> Basis:
        """The first ``count`` components.  Raises UsageError where there are too few vectors for them."""
        dim = len(moments.mean)
        if count > dim:
            raise UsageError(f"--components {count} is more than the {dim} values of a vector: choose at most {dim}")
        if moments.n <= count:
            raise UsageError(
                f"{moments.n} vectors are too few for {count} components, which need {count + 1}: "
                "name more data, use --fragments all, or project with --basis"
            )
        values, vectors = np.linalg.eigh(moments.scatter / (moments.n - 1))
        components = np.ascontiguousarray(vectors[:, ::-1][:, :count].T)
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(count), largest])[:, None]
        total = float(np.trace(moments.scatter)) / (moments.n - 1)
        shares = np.maximum(values[::-1][:count], 0.0) / total if total > 0 else np.zeros(count)
        return cls(moments.n, moments.mean, components, shares, model)

    def scores(self, vectors: FloatArray) -> FloatArray:
        """Float32 [n, k] of vectors [n, D]: computed in float64, some thousand rows at a time."""
        found = np.empty((len(vectors), len(self.components)), np.float32)
        off = self.mean @ self.components.T
        for at in range(0, len(vectors), BLOCK_ROWS):
            rows = slice(at, at + BLOCK_ROWS)
            found[rows] = vectors[rows].astype(np.float64) @ self.components.T - off
        return found


@dataclass(frozen=True, slots=True)
class Colouring:
    """From scores to 8-bit colours: 255 gain u ** gamma, u being the score's place in its ``range`` (0..1, clipped)."""

    ranges: tuple[tuple[float, float], ...]
    gains: tuple[float, ...]
    gammas: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.ranges)

    def colours(self, scores: FloatArray) -> Colours:
        """uint8 [n, 3] of scores [n, k]; one component is grey, of two the third channel is the mean of the others."""
        found = np.empty((len(scores), CHANNELS), np.uint8)
        for channel in range(self.channels):
            place = np.clip(self.places(scores, channel), 0.0, 1.0)
            value = 255.0 * self.gains[channel] * place ** self.gammas[channel]
            found[:, channel] = np.floor(value + 0.5)
        if self.channels == 1:
            found[:, 1] = found[:, 2] = found[:, 0]
        elif self.channels == 2:
            found[:, 2] = found[:, :2].mean(axis=1)
        return found

    def places(self, scores: FloatArray, channel: int) -> Matrix:
        """Where scores of a component lie in its range: below 0 and above 1 what is outside."""
        low, high = self.ranges[channel]
        values = scores[:, channel].astype(np.float64)
        return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)

    def clipped(self, scores: FloatArray) -> int:
        """How many values of the channels lie outside their range."""
        places = [self.places(scores, channel) for channel in range(self.channels)]
        return int(sum(((place < 0) | (place > 1)).sum() for place in places))


class Ranges:
    """The smallest and the largest value of each component, over portions of scores."""

    def __init__(self, channels: int) -> None:
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, scores: FloatArray) -> None:
        if len(scores):
            values = scores[:, : len(self.low)]
            np.minimum(self.low, values.min(axis=0), out=self.low)
            np.maximum(self.high, values.max(axis=0), out=self.high)

    def pairs(self) -> tuple[tuple[float, float], ...]:
        return tuple((float(low), float(high)) for low, high in zip(self.low, self.high, strict=True))


class Counts:
    """How the values of each component are spread over its range: exact sums, and a histogram of ``STEPS`` steps."""

    def __init__(self, ranges: tuple[tuple[float, float], ...]) -> None:
        ones = (1.0,) * len(ranges)
        self.ranges = ranges
        self._plain = Colouring(ranges, ones, ones)
        self._sums, self._n = [0] * len(ranges), 0
        self.histograms = np.zeros((len(ranges), STEPS), np.int64)

    def add(self, scores: FloatArray) -> None:
        self._n += len(scores)
        for channel in range(self._plain.channels):
            place = np.clip(self._plain.places(scores, channel), 0.0, 1.0)
            self._sums[channel] += int(np.rint(place * FIXED_POINT).astype(np.int64).sum())
            steps = np.minimum((place * STEPS).astype(np.int64), STEPS - 1)
            self.histograms[channel] += np.bincount(steps, minlength=STEPS)

    def means(self) -> list[float]:
        """Mean place in the range, 0..1, per component."""
        return [total / max(1, self._n) / FIXED_POINT for total in self._sums]

    def within(self, clip: float) -> tuple[tuple[float, float], ...]:
        """Ranges without the ``clip`` percent of the values that are smallest, and as many that are largest."""
        found = []
        for (low, high), histogram in zip(self.ranges, self.histograms, strict=True):
            upto = np.cumsum(histogram)
            outside = clip / 100 * upto[-1]
            first = int(np.searchsorted(upto, outside, side="right"))
            last = int(np.searchsorted(upto, upto[-1] - outside, side="left"))
            step = (high - low) / STEPS
            found.append((low + step * first, low + step * (last + 1)))
        return tuple(found)


def balanced(counts: Counts, scale: Scale) -> Colouring:
    """Channels of equal mean intensity: gains that dim the brighter ones to the darkest, or a gamma for each."""
    ranges, means = counts.ranges, counts.means()
    ones = (1.0,) * len(ranges)
    if scale == "gain":
        return Colouring(ranges, tuple(min(means) / mean if mean > 0 else 1.0 for mean in means), ones)
    target = sum(means) / len(means)
    return Colouring(ranges, ones, tuple(_gamma(histogram, target) for histogram in counts.histograms))


def _gamma(histogram: npt.NDArray[np.int64], target: float) -> float:
    """The power that takes the mean of a spread over 0..1 to ``target``, by halving."""
    middle = (np.arange(STEPS) + 0.5) / STEPS
    weights = histogram / max(1, histogram.sum())
    low, high = 1e-2, 1e2
    for _ in range(60):
        power = (low * high) ** 0.5
        low, high = (power, high) if float(weights @ middle**power) > target else (low, power)
    return float((low * high) ** 0.5)


def as_json(basis: Basis, colouring: Colouring) -> dict[str, Any]:
    """The part of ``pca.json`` that projects and colours other data in the same way."""
    return {
        "dim": len(basis.mean),
        "n": basis.n,
        "model": basis.model,
        "mean": basis.mean.tolist(),
        "components": basis.components.tolist(),
        "explained_variance_ratio": basis.ratio.tolist(),
        "ranges": [list(pair) for pair in colouring.ranges],
        "gains": list(colouring.gains),
        "gammas": list(colouring.gammas),
    }


def read_basis(path: Path) -> tuple[Basis, Colouring]:
    """A basis from a ``pca.json``.  Raises UsageError where there is none, OutputError where it is not one."""
    try:
        content = json_object(read_regular(path))
        return _basis(content), _colouring(content)
    except FileNotFoundError as error:
        raise UsageError(f"--basis {path} does not exist: name a pca.json that mtembed pca wrote") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"--basis {path} cannot be read: name a pca.json that mtembed pca wrote") from error


def _basis(content: Mapping[str, Any]) -> Basis:
    mean, components = np.array(content["mean"], np.float64), np.array(content["components"], np.float64)
    ratio = np.array(content["explained_variance_ratio"], np.float64)
    if components.ndim != 2 or components.shape != (len(ratio), len(mean)) or not len(ratio):
        raise ValueError("shapes differ")
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        raise ValueError("not finite")
    return Basis(int(content["n"]), mean, components, ratio, content.get("model"))


def _colouring(content: Mapping[str, Any]) -> Colouring:
    ranges = tuple((float(low), float(high)) for low, high in content["ranges"])
    gains, gammas = (_numbers(content[name]) for name in ("gains", "gammas"))
    if not 1 <= len(ranges) == len(gains) == len(gammas) <= min(CHANNELS, len(content["components"])):
        raise ValueError("channels differ")
    return Colouring(ranges, gains, gammas)


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
