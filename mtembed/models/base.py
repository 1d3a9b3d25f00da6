"""What a model is: a record of plain data plus a loader.  Imports no torch before a network is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from mtembed.errors import UsageError
from mtembed.types import MapLayout, MapShape, Normalisation, Rule, Source, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn


REFLECTANCE = Normalisation("reflectance")
# dB statistics of vv and vh, as in the reference embedder and in SSL4EO-S12's own data set code.
DECIBEL = Normalisation("decibel", mean=(-12.54847273, -20.19237134), std=(5.25697717, 5.91150917))


LIBRARIES = ("timm:", "open_clip:")  # whose networks need a card
CARD_SUFFIX = ".toml"


def is_custom(name: str) -> bool:
    """Whether ``--model`` is a card, or a network that needs one."""
    return name.startswith(LIBRARIES) or name.endswith(CARD_SUFFIX)


def spanned(rule: Rule, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
    """A standard ``rule`` that maps mean - 2 std .. mean + 2 std of each band onto 0..1, without clipping."""
    low = tuple(m - 2 * s for m, s in zip(mean, std, strict=True))
    return Normalisation(rule, mean=low, std=tuple(4 * s for s in std))


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Where a model's weights are published.

    ``entry`` is the name under which ``library`` knows them (a member of a torchgeo enum, a timm hub config), nothing
    for a file that only the Hugging Face ``hub`` knows, and the whole address for a file of any other server
    (``url``); a file of a ``user`` is never downloaded, one that is ``packaged`` need not be: ``entry`` is its place in
    ``models/files``, beside its licence.  ``file`` is the name of the file a user will have,
    ``repository`` its ``owner/name`` on the hub, or the address of the page that offers it.  ``sha256`` is the file's
    in hex, where it is known.
    """

    library: Literal["torchgeo", "timm", "hub", "url", "user", "packaged"]
    entry: str
    file: str
    repository: str
    sha256: str = ""

    @property
    def page(self) -> str:
        """The web page that offers the file."""
        elsewhere = self.library in ("url", "user", "packaged")
        return self.repository if elsewhere else f"https://huggingface.co/{self.repository}"


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
    """One model.  Everything that is particular to it stands here; nothing elsewhere asks for its name or family.

    ``architecture`` is timm's name of the network (or ``rcf``); ``bands`` holds, for every source the model can run on,
    the columns in the network's order; ``source`` is the one it was made for, ``also`` others that it was made for too;
    ``offset`` whether it was trained on pixels with the radiometric offset of new baselines (keep), or on pixels whose
    offset was taken off (remove); ``size`` the fragment's side in pixels and ``patch`` what another size must be a
    multiple of (``smallest`` at least; 0: there is no other); ``dim`` the vector's length; ``parameters`` their number
    at ``source`` and ``size``; ``oracle`` the first values of a published embedding of an all-white fragment, where one
    is known.

    How it is run: ``half`` is the 16-bit type that ``--precision auto`` means on CUDA (on a CPU it is bfloat16, for
    every model; None: float32 everywhere); ``gpu_batch`` and ``cpu_batch`` are fragments per forward, ``engines`` what
    can run it on a CPU.  ``text`` is open_clip's name of the pair whose visual tower it is, where words have vectors
    too.  ``trained`` is False for a network that is random by design: its random weights are the real
    ones, and it is made for every source it has bands for.  ``card`` is the JSON of the user's card that it is made of.
    ``terms`` is where the licence of the weights stands, if it is not an open one: users are asked before a download.
    ``package`` is one that its network comes from and that not everybody has.

    ``layout`` is where the vectors of its map lie, for a network that has one; ``whole`` says that a map is that of a
    whole cell.  ``shape`` is what ``mapped`` made of it: the vector then is a whole map, row by row.
    """

    name: str
    title: str
    architecture: str
    source: Source
    bands: Mapping[Source, tuple[str, ...]]
    normalisations: Mapping[Source, Normalisation]
    size: int
    patch: int
    smallest: int
    dim: int
    parameters: int
    half: Literal["float16", "bfloat16"] | None
    gpu_batch: int
    cpu_batch: int
    licence: str
    citation: str
    published: PublishedWeights | None
    layouts: tuple[KeyLayout, ...]
    loader: Loader
    oracle: tuple[float, ...] = ()
    trained: bool = True
    engines: tuple[str, ...] = ("torch", "openvino")
    text: str | None = None
    also: tuple[Source, ...] = ()
    offset: Literal["keep", "remove"] = "keep"
    card: str = ""
    terms: str = ""
    package: str = ""
    layout: MapLayout | None = None
    whole: bool = False
    shape: MapShape | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32."""
        return 4 * self.parameters

    def recommends(self, source: Source) -> bool:
        """Say whether the model was made for this source."""
        return source in (self.source, *self.also) or (not self.trained and source in self.bands)

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

    def require_package(self) -> None:
        """Raise ``UsageError`` where the network comes from a package that is not installed."""
        if self.package and find_spec(self.package.replace("-", "_")) is None:
            raise UsageError(f"{self.name} needs a package that is not installed: pip install {self.package}.")

    def require_size(self, size: int) -> None:
        """Raise ``UsageError`` if the network cannot take fragments of ``size`` pixels."""
        if size == self.size or (self.patch and size >= self.smallest and size % self.patch == 0):
            return
        rule = f"{self.smallest} or more" if self.patch else f"{self.size}"
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
        self.require_package()
        return self.loader(self, source, weights, size)
