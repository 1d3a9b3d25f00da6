"""Where weights come from and what their files hold.  Imports no torch, timm or torchgeo before they are needed.

``resolve`` turns ``--weights`` into a ``Weights`` record: a file on disk with its sha256, or a seed.  ``read_state``
reads such a file into timm's keys, whatever layout the libraries published it in, and ``require_fit`` compares it with
the network it is for.  ``random:SEED`` can be repeated without this package::

    torch.manual_seed(SEED)
    timm.create_model(architecture, pretrained=False, num_classes=0)  # resnet50: in_chans=C, zero_init_last=False

at the network's native size (518 px for ``vit_base_patch14_dinov2``); a position embedding is then resampled as a
published file's is.  For ``rcf`` it is the seed of numpy's PCG64, 1 by default.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from mtembed.errors import UsageError, WeightsError
from mtembed.types import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from mtembed.models.base import KeyLayout, ModelSpec, PublishedWeights

log = logging.getLogger(__name__)

RANDOM = "random:"
_NAMED_KEYS = 3
_WRAPPERS = ("state_dict", "model")
PACKAGED = Path(__file__).with_name("files")


def resolve(spec: ModelSpec, option: str | None, accepted: bool = False) -> Weights:
    """Return the weights that ``--weights OPTION`` means for a model; None means the published ones.

    Published weights are taken from the cache of the library that publishes them, or downloaded into it, and verified.
    Those whose licence is not an open one need the user's word (``accepted``).  Raises ``UsageError`` for a bad option
    and without that word, ``WeightsError`` if the weights cannot be had or are damaged.
    """
    if option is None:
        if not accepted:
            require_open(spec)
        return _published(spec)
    if option.startswith(RANDOM):
        return _seeded(option)
    if not spec.trained:
        raise UsageError(f"{spec.name} has no weights file; leave --weights out or give random:SEED.")
    path = Path(option)
    if not path.is_file():
        raise UsageError(f"The weights file {option} does not exist; check --weights.")
    return Weights(path.name, file_sha256(path), path, None)


def require_open(spec: ModelSpec) -> None:
    """Raise ``UsageError`` where the published weights have a licence that must be read first."""
    if spec.terms:
        raise UsageError(
            f"The weights of {spec.name} are under the {spec.licence}, which is not an open licence ({spec.terms}): "
            "read it and say --accept-licence, or give your own copy with --weights FILE."
        )


def _seeded(option: str) -> Weights:
    text = option.removeprefix(RANDOM)
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**63:
        raise UsageError(f"--weights {option} has no usable seed; write random:SEED with a whole number below 2^63.")
    return Weights(f"{RANDOM}{int(text)}", "", None, int(text))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex; raise ``WeightsError`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"The weights file {path.name} cannot be read ({error}); check its permissions.") from error


# Published weights


def _published(spec: ModelSpec) -> Weights:
    published = spec.published
    if not spec.trained:
        return _seeded(f"{RANDOM}1")
    if published is None or published.library == "user":
        named = f" {published.file}, which {published.page or 'its page'} offers" if published else ""
        raise UsageError(f"{spec.name} needs its weights{named}: give --weights FILE, or random:SEED for a trial.")
    path = _place_of(published)
    if path is None or not path.is_file():
        path = _downloaded(spec, published)
    digest = file_sha256(path)
    if not digest.startswith(_promised(published, path)):
        raise WeightsError(f"{path.name} of {spec.name} in {path.parent} is damaged; delete it and start again.")
    return Weights(path.name, digest, path, None)


def _place_of(published: PublishedWeights) -> Path | None:
    """Where the file is once it is on this machine; None where that is not known before it is there."""
    if published.library == "packaged":
        return PACKAGED / published.entry
    return _torch_hub_file(published) if published.library in ("torchgeo", "url") else _hub_cache_file(published)


def _promised(published: PublishedWeights, path: Path) -> str:
    """The first hex digits of the file's sha256, as far as its record or its name has them.

    torch hub writes some into the name, behind the last hyphen; the HF cache names its blobs by the whole.
    """
    by_torch = published.library in ("torchgeo", "url")
    named = path.stem.rpartition("-")[2] if by_torch else path.resolve().name
    is_digest = re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", named)
    return published.sha256 or (named if is_digest else "")


def _torch_hub_file(published: PublishedWeights) -> Path:
    """Return where torch hub keeps the file (``torch.hub.get_dir()``, without importing torch).

    Files of other servers have names like ``encoder.pt``: each has a folder of its own there.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    folder = home.expanduser() / "hub" / "checkpoints"
    if published.library == "url":
        folder /= hashlib.sha256(published.entry.encode()).hexdigest()[:8]
    return folder / published.file


def _hub_cache_file(published: PublishedWeights) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(published.repository, published.file)
    return Path(found) if isinstance(found, str) else None


def _downloaded(spec: ModelSpec, published: PublishedWeights) -> Path:
    log.info("downloading %s of %s from %s", published.file, spec.name, published.page)
    try:
        return _FETCHERS[published.library](published)
    except Exception as error:  # torch hub, urllib, httpx and huggingface_hub each raise their own
        raise WeightsError(
            f"{published.file} of {spec.name} cannot be downloaded ({type(error).__name__}); fetch it from "
            f"{published.page} on a connected machine and name it with --weights FILE."
        ) from error


def _from_torchgeo(published: PublishedWeights) -> Path:
    import torchgeo.models

    enum, _, member = published.entry.partition(".")
    return _from_server(published, getattr(torchgeo.models, enum)[member].url)


def _from_url(published: PublishedWeights) -> Path:
    return _from_server(published, published.entry)


def _from_server(published: PublishedWeights, url: str) -> Path:
    import torch.hub

    path = _torch_hub_file(published)
    path.parent.mkdir(parents=True, exist_ok=True)
    promised = _promised(published, path) or None
    torch.hub.download_url_to_file(url, str(path), hash_prefix=promised, progress=False)
    return path


def _from_timm(published: PublishedWeights) -> Path:
    import timm
    from huggingface_hub import hf_hub_download

    config: Any = timm.models.get_pretrained_cfg(published.entry)
    return Path(hf_hub_download(config.hf_hub_id, published.file))


def _from_hub(published: PublishedWeights) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(published.repository, published.file))


_FETCHERS: Mapping[str, Callable[[PublishedWeights], Path]] = {
    "torchgeo": _from_torchgeo,
    "timm": _from_timm,
    "hub": _from_hub,
    "url": _from_url,
}


# Files


def read_state(
    path: Path, layouts: Iterable[KeyLayout], fits: Callable[[dict[str, Tensor]], None] = lambda state: None
) -> dict[str, Tensor]:
    """Read the tensors of a weights file that a network needs, as float32 on the CPU, under timm's keys.

    ``layouts`` are tried in order, the first whose mark is found counts.  Tensors that it drops are not read (of a
    .safetensors file) or not touched (of a memory-mapped .pth).  Before any value is read, ``fits`` sees the tensors
    as shapes alone (on the meta device, under timm's keys) and may raise ``WeightsError``; so a small file cannot claim
    a large memory.  Raises ``WeightsError`` if the file is not one of plain tensors, holds keys that its layout does
    not know, or values that are not finite.
    """
    opened = _safetensors if path.suffix == ".safetensors" else _pickle
    with ExitStack() as stack:
        with _readable(path):
            file = opened(path, stack)
        layout, kept, unknown = _sorted_keys(file.shapes, tuple(layouts))
        if unknown:
            raise WeightsError(f"{path.name} does not fit: {_listed('unexpected', unknown)}; check --weights.")
        fits(_renamed(path, layout, {ours: _shape_of(file.shapes[theirs]) for theirs, ours in kept.items()}))
        if sum(math.prod(file.shapes[theirs]) for theirs in kept) > path.stat().st_size:
            raise WeightsError(f"{path.name} names more values than it holds; fetch it anew.")
        with _readable(path):
            state = {ours: file.read(theirs).float() for theirs, ours in kept.items()}
    state = _renamed(path, layout, state)
    broken = sorted(key for key, tensor in state.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise WeightsError(
            f"{path.name} holds values that are not finite ({_listed('tensors', broken)}); fetch it anew."
        )
    return state


@dataclass(frozen=True, slots=True)
class _File:
    """An opened weights file: shapes by key, and how to read a tensor."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What the libraries raise about a file, as a sentence."""
    try:
        yield
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own
        raise WeightsError(
            f"{path.name} is not a readable file of plain tensors ({type(error).__name__}; a pickle that holds code is "
            "never run); give --weights a .safetensors or .pth file as the libraries publish them."
        ) from error


def _safetensors(path: Path, stack: ExitStack) -> _File:
    from safetensors import safe_open

    file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
    return _File({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, file.get_tensor)  # noqa: SIM118


def _pickle(path: Path, stack: ExitStack) -> _File:
    import zipfile

    import torch

    with torch.serialization.safe_globals([Namespace, PosixPath]):  # plain data that training scripts save beside them
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise TypeError("not a mapping of names to tensors")
    return _File({key: tuple(value.shape) for key, value in content.items()}, lambda key: content[key].detach())


def _shape_of(shape: tuple[int, ...]) -> Tensor:
    import torch

    return torch.empty(shape, device="meta")


def _renamed(path: Path, layout: KeyLayout, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under timm's keys.  Raises ``WeightsError`` where parts that belong together do not fit each other."""
    try:
        return layout.rename(state) if layout.rename else state
    except (RuntimeError, LookupError, ValueError) as error:
        raise WeightsError(f"{path.name} does not fit: {error}; check --weights.") from error


def _sorted_keys(keys: Iterable[str], layouts: tuple[KeyLayout, ...]) -> tuple[KeyLayout, dict[str, str], list[str]]:
    """Return the layout of a file with these keys, the keys to read (theirs -> without prefix) and the unknown ones."""
    keys = sorted(keys)
    layout = next(layout for layout in layouts if any(key.startswith(layout.mark) for key in keys) or not layout.mark)
    kept, unknown = {}, []
    for key in keys:
        if any(fnmatchcase(key, pattern) for pattern in (*layout.dropped, "*num_batches_tracked")):
            continue
        if key.startswith(layout.prefix):
            kept[key] = key.removeprefix(layout.prefix)
        else:
            unknown.append(key)
    return layout, kept, unknown


def require_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Raise ``WeightsError`` unless ``state`` has the expected keys and shapes; ``num_batches_tracked`` is optional."""
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    both = state.keys() & expected.keys()
    faults = (
        _listed("missing", expected.keys() - state.keys() - optional),
        _listed("unexpected", state.keys() - expected.keys()),
        _listed(
            "of another shape",
            [
                f"{key} {_shape(state[key])} instead of {_shape(expected[key])}"
                for key in both
                if state[key].shape != expected[key].shape
            ],
        ),
    )
    if any(faults):
        raise WeightsError(f"{name} does not fit the network: {'; '.join(filter(None, faults))}; check --weights.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _listed(what: str, keys: Iterable[str]) -> str:
    """Return e.g. ``missing 7 (a, b, c, ...)``, or nothing if there are none."""
    keys = sorted(keys)
    if not keys:
        return ""
    more = ", ..." if len(keys) > _NAMED_KEYS else ""
    return f"{what} {len(keys)} ({', '.join(keys[:_NAMED_KEYS])}{more})"
