"""``manifest.json``: what made this dataset.  Its types, and the one reader of it.

A manifest lies in a folder that others may write to, so ``read`` trusts nothing: types, ranges and names of files are
checked, and whatever is wrong becomes one sentence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mtembed.dataset.atomic import is_file_name, read_regular
from mtembed.dataset.settings import Settings
from mtembed.errors import OutputError
from mtembed.notes import DecodedBands, PrecisionCheck, Traffic
from mtembed.types import CrewSizes, MapShape, Normalisation, Roofline, ShardFacts

MOST_ROWS = 2**31  # of a shard, whose row groups have 32-bit numbers
LARGEST = 2**63 - 1  # of a count, as in Arrow's int64
Event = Mapping[str, int | float | str | None]
"""One note of a kind that may come several times, as its ``as_json`` gives it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model as it was when the dataset was made: ``bands`` in the network's order, ``dim`` values in a vector, or
    in a map of that ``shape``."""

    name: str
    title: str
    bands: tuple[str, ...]
    dim: int
    normalisation: Normalisation
    citation: str
    shape: MapShape | None = None


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """The weights: the file's name (or ``random:SEED``), its sha256, the published file's name, whether untrained."""

    file: str
    sha256: str
    published: str | None
    random: bool
    licence: str


@dataclass(frozen=True, slots=True)
class GridFacts:
    """How a typical cell (rows, columns in px) is cut: offsets of the fragments in px, share of pixels in none."""

    typical_cell: tuple[int, int]
    fragment_size: int
    row_offsets: tuple[int, ...]
    col_offsets: tuple[int, ...]
    uncovered_share: float


@dataclass(frozen=True, slots=True)
class Notes:
    """What workers told of the run; ``lost_shards`` of the last start, the others of all; ``network``: their sums."""

    precision_check: PrecisionCheck | None = None
    decoded_bands: DecodedBands | None = None
    batch_halved: tuple[Event, ...] = ()
    dropped_cards: tuple[Event, ...] = ()
    unpinned: tuple[Event, ...] = ()
    remade_parts: tuple[Event, ...] = ()
    lost_shards: tuple[Event, ...] = ()
    unfused: tuple[Event, ...] = ()
    decoded_on_cpu: tuple[Event, ...] = ()
    precision_unknown: tuple[Event, ...] = ()
    network: Traffic | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the shards' facts; ``failed_shards`` of the ``failed`` are shards that could not be read."""

    shards: int
    cells: int
    failed: int
    embeddings: int
    offset_removed: int
    warnings: Mapping[str, int]
    encodings: Mapping[str, int]
    baselines: Mapping[str, int]
    failed_shards: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a dataset, and what is in it.

    ``shards`` are the finished parts by stem, ``input`` the names of the shards that they
    are, or are to be, made of (with a limit on its cells those of all processes);
    ``starts`` are times (UTC, ISO 8601) of the last starts, of which there were ``runs``; ``complete``: the run came to
    its end.  ``seconds`` is wall time over all starts; it and the fields after it are None until they are known.
    ``position_independent`` says whether a fragment's bits were the same wherever in a batch it lay, on every GPU that
    worked; None without GPUs.
    """

    started: str
    runs: int
    devices: tuple[str, ...]
    notes: Notes
    starts: tuple[str, ...]
    input: tuple[str, ...] | None
    mtembed: str
    settings: Settings
    model: ModelFacts
    weights: WeightsFacts
    data_licence: str
    fragment_grid: GridFacts
    versions: Mapping[str, str]
    command: str
    warnings: tuple[str, ...]
    complete: bool
    shards: Mapping[str, ShardFacts]
    totals: Totals
    kernels: tuple[str, ...] = ()
    position_independent: bool | None = None
    workers: CrewSizes | None = None
    roofline: Roofline | None = None
    seconds: float | None = None
    cells_per_s: float | None = None
    ended: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data with the keys of ``manifest.json`` in their order; what is not known is left out."""
        content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        content["notes"] = {name: note for name, note in content["notes"].items() if note}
        absent = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) == f.default]
        return {name: value for name, value in content.items() if name not in absent}

    def sealed(self) -> dict[str, Any]:
        """What is written: those keys, and their ``digest``, so that a reader notices a byte that was changed."""
        content = self.as_json()
        return content | {"digest": digest(content)}


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest's values without ``digest`` itself, however the text is laid out."""
    values = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Manifest:
    """The manifest in a file.  Raises OutputError, in one sentence, where there is none that can be used."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise OutputError(f"{path.name} cannot be read ({error.strerror}): {_ADVICE}") from error
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        _check(manifest)
        values = msgspec.json.decode(content)
        if values.get("digest", "") not in ("", digest(values)):
            raise ValueError("its digest is of other values: something in it was changed")
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _words(str(error))
        raise OutputError(f"{path.name} is not a manifest of mtembed ({reason}): {_ADVICE}") from error
    return manifest


_ADVICE = "restore it, or choose another --output"


def totals(shards: Mapping[str, ShardFacts]) -> Totals:
    """Sums over the shards' facts."""
    every = shards.values()
    return Totals(
        shards=len(shards),
        cells=sum(facts.cells for facts in every),
        failed=sum(facts.failed for facts in every),
        embeddings=sum(facts.embeddings for facts in every),
        offset_removed=sum(facts.offset_removed for facts in every),
        warnings=_added(facts.warnings for facts in every),
        encodings=_added(facts.encodings for facts in every),
        baselines=_added(facts.baselines for facts in every),
        failed_shards=sum(facts.unread for facts in every),
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for one in counts:
        found.update(one)
    return dict(sorted(found.items()))


# -- what is read may be anything -------------------------------------------------------------------------------------


def _check(manifest: Manifest) -> None:
    """Raises ValueError for values of the right type that no run can have written."""
    settings = manifest.settings
    least = {"fragment_size": 1, "batch": 1, "threads": 1, "shard_count": 1, "limit": 1}
    _require_counts("settings", settings, least)
    if not 0.0 <= settings.overlap < 1.0 or not 0.0 <= settings.max_nodata <= 1.0:
        raise ValueError("a share of its settings is not between 0 and 1")
    if settings.bbox is not None and len(settings.bbox) != 4:
        raise ValueError("its box does not have four numbers")
    _require_counts("model", manifest.model, {"dim": 1})
    _require_counts("manifest", manifest, {})
    if manifest.notes.network:
        _require_counts("network", manifest.notes.network, {})
    if manifest.workers:
        _require_counts("workers", manifest.workers, {})
    for stem, facts in manifest.shards.items():
        if not is_file_name(stem) or Path(facts.shard).stem != stem or not is_file_name(facts.shard):
            raise ValueError(f"{stem!r:.80} is not the name of a part")
        _require_counts(stem, facts, {})
        if facts.rows >= MOST_ROWS:
            raise ValueError(f"the shard of {stem} has {facts.rows} rows")


def _require_counts(where: str, record: Any, least: Mapping[str, int]) -> None:
    """Whole numbers and counts of a record are at least 0, or what is named, and fit into 63 bit."""
    for entry in dataclasses.fields(record):
        value = getattr(record, entry.name)
        numbers = value.values() if isinstance(value, dict) else (value,)
        for number in numbers:
            if isinstance(number, int | float) and not least.get(entry.name, 0) <= number <= LARGEST:
                raise ValueError(f"{entry.name} of {where} is {number}")


def _words(message: str) -> str:
    """A message of msgspec as part of a sentence: "Expected `int`, got `str` - at `$.shards`"."""
    return message.replace("`", "").replace(" - at $.", " at ").replace(" - at $", "").replace("$.", "")
