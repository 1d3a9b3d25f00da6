"""What a model is: a record of plain data plus a loader.  Imports no torch before a network is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mtembed.errors import UsageError
from mtembed.types import Normalisation, Source, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


REFLECTANCE = Normalisation("reflectance")


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Where a model's weights are published.

    ``entry`` is the name under which ``library`` knows them (a member of a torchgeo enum, a timm hub config), ``file``
    the name of the file a user will have, ``repository`` its ``owner/name`` on the Hugging Face hub.
    """

    library: Literal["torchgeo", "timm"]
    entry: str
    file: str
    repository: str

    @property
    def page(self) -> str:
        """The web page that offers the file."""
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """One way in which the libraries name a network's tensors in a file.

    A file has this layout when one of its keys starts with ``mark`` (the empty mark fits every file).  Kept keys start
    with ``prefix``, which is taken off; keys that match a ``dropped`` pattern are not even read; ``rename`` then turns
    what was read into timm's keys.
    """

    name: str
    mark: str = ""
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


class Loader(Protocol):
    """Builds the network: eval mode, float32, on the CPU, [n, C, size, size] -> float32 [n, D]."""

    def __call__(self, spec: ModelSpec, source: Source, weights: Weights, size: int) -> nn.Module: ...


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    ``architecture`` is timm's name of the network (or ``rcf``); ``bands`` holds, for every source the model can run on,
    the columns in the network's order; ``source`` is the one it was made for; ``size`` the fragment's side in pixels
    and ``patch`` what another size must be a multiple of (``smallest`` at least); ``dim`` the vector's length;
    ``parameters`` their number at ``source`` and ``size``; ``half`` the 16-bit type to use on CUDA; ``oracle`` the
    first values of a published embedding of an all-white fragment, where one is known.
    """

    name: str
    title: str
    architecture: str
    kind: Literal["conv", "vit", "rcf"]
    source: Source
    bands: Mapping[Source, tuple[str, ...]]
    normalisations: Mapping[Source, Normalisation]
    size: int
    patch: int
    smallest: int
    dim: int
    parameters: int
    half: Literal["float16", "bfloat16"]
    licence: str
    citation: str
    published: PublishedWeights | None
    layouts: tuple[KeyLayout, ...]
    loader: Loader
    oracle: tuple[float, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32."""
        return 4 * self.parameters

    def recommends(self, source: Source) -> bool:
        """Say whether the model was made for this source (random convolutions are made for none, so for all)."""
        return source == self.source or (self.kind == "rcf" and source in self.bands)

    def bands_for(self, source: Source) -> tuple[str, ...]:
        """Return the band columns in network order; raise ``UsageError`` if the source lacks one."""
        self._require(source)
        return self.bands[source]

    def normalisation_for(self, source: Source) -> Normalisation:
        """Return how raw pixels of this source become network input; raise ``UsageError`` if it cannot be used."""
        self._require(source)
        return self.normalisations[source]

    def _require(self, source: Source) -> None:
        if source not in self.bands:
            needed = " ".join(self.bands[self.source])
            usable = " or ".join(self.bands)
            raise UsageError(
                f"{self.name} needs the bands {needed}, which {source} does not have; use {usable} shards."
            )

    def require_size(self, size: int) -> None:
        """Raise ``UsageError`` if the network cannot take fragments of ``size`` pixels."""
        if size == self.size or (size >= self.smallest and size % self.patch == 0):
            return
        rule = f"{self.smallest} or more"
        if self.patch > 1:
            rule = f"{self.size} or a multiple of {self.patch}"
        raise UsageError(f"{self.name} cannot take fragments of {size} px; --fragment-size must be {rule}.")

    def build(self, weights: Weights, source: Source | None = None, size: int | None = None) -> nn.Module:
        """Return the network: eval mode, float32, on the CPU, [n, C, size, size] -> float32 [n, dim].

        Raises ``UsageError`` for a source or size that does not fit, ``WeightsError`` for weights that do not.
        """
        source, size = source or self.source, size or self.size
        self._require(source)
        self.require_size(size)
        return self.loader(self, source, weights, size)


@dataclass(frozen=True, slots=True)
class ConstantImage:
    """What a network makes of one constant image (``check``).

    ``norm`` is the vector's L2 norm, ``values`` its first four; ``from_oracle`` is the relative L2 distance of these to
    the model's published ``oracle`` (None where none is known, meaningful for published weights only).
    """

    image: str
    norm: float
    finite: bool
    values: tuple[float, ...]
    from_oracle: float | None = None


def check(spec: ModelSpec, weights: Weights) -> list[ConstantImage]:
    """Embed constant images of brightness 0, 0.5 and 1 at the model's own source and size.

    Brightness counts after the scaling of ``normalisation`` and before its mean and std.  Where an oracle is known, a
    white image scaled by another 1/255 is embedded too: the distances tell which of the two inputs the published set
    was made from (``white``: the right one, ``white / 255``: scaled twice).
    """
    import torch

    network = spec.build(weights)
    images = {"black": 0.0, "grey": 0.5, "white": 1.0}
    if spec.oracle:
        images["white / 255"] = 1 / 255
    batch = torch.stack([torch.tensor(_constant(spec, value)) for value in images.values()])
    with torch.inference_mode():
        vectors = network(batch[:, :, None, None].expand(-1, -1, spec.size, spec.size).contiguous())
    return [_outcome(spec, image, vector) for image, vector in zip(images, vectors, strict=True)]


def _constant(spec: ModelSpec, value: float) -> list[float]:
    """Return the network input of one pixel of that brightness, one value per band."""
    rule = spec.normalisations[spec.source]
    if rule.rule != "rgb":
        return [value] * len(spec.bands[spec.source])
    return [(value - mean) / std for mean, std in zip(rule.mean, rule.std, strict=True)]


def _outcome(spec: ModelSpec, image: str, vector: Tensor) -> ConstantImage:
    finite = bool(vector.isfinite().all())
    distance = None
    if spec.oracle:
        oracle = vector.new_tensor(spec.oracle)
        distance = float((vector[: len(oracle)] - oracle).norm() / oracle.norm())
    return ConstantImage(image, float(vector.norm()), finite, tuple(vector[:4].tolist()), distance)
