"""What a user says of a network of timm or open_clip: the fields of a card."""

from __future__ import annotations

from typing import Literal

import msgspec

from mtembed.types import Rule, Source


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the network is given of one source: band columns in its order, and how pixels are normalised."""

    bands: tuple[str, ...]
    rule: Rule
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model as its user describes it.

    ``network`` is ``timm:NAME`` or ``open_clip:NAME``; ``sources`` what it is given of each source, that which it was
    made for first; ``size`` the fragment's side in pixels, ``patch`` what another size must be a multiple of (0: there
    is no other).  ``pooling``: the network's own, the mean over its map or all its tokens, or its class token.
    ``options`` go to the library as they are.  Of a weights file: keys that match a pattern of ``drop`` are left out,
    ``prefix`` is taken off, and each regular expression of ``rename`` is replaced by the text beside it, one after the
    other.  ``file`` is the name of the published file, ``page`` where it is found.  ``dim`` and ``parameters`` are the
    network's own numbers; they are looked up.
    """

    network: str
    size: int
    sources: dict[Source, Input]
    name: str = ""
    title: str = ""
    patch: int = 0
    pooling: Literal["network", "mean", "class"] = "network"
    half: Literal["float16", "bfloat16"] | None = None
    gpu_batch: int = 128
    cpu_batch: int = 5
    offset: Literal["keep", "remove"] = "keep"
    licence: str = "not stated"
    citation: str = "not stated"
    file: str = ""
    page: str = ""
    prefix: str = ""
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    options: dict[str, bool | int | float | str] = {}
    dim: int = 0
    parameters: int = 0

    @property
    def library(self) -> str:
        return self.network.partition(":")[0]

    @property
    def architecture(self) -> str:
        """The library's name of the network."""
        return self.network.partition(":")[2]
