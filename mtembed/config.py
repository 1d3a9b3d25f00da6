"""What a run is asked to do: every option once, with its default.  Frozen; nothing here looks at the machine."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from mtembed.errors import UsageError
from mtembed.storage.address import Address, is_address
from mtembed.storage.stores import require_writable

INPUT = Parameter(group=Group("Where from, where to", sort_key=1))
WHAT = Parameter(group=Group("What is computed", sort_key=2))
CELLS = Parameter(group=Group("Which cells", sort_key=3))
SPEED = Parameter(group=Group("Speed", sort_key=4))
AGAIN = Parameter(group=Group("Trying, failing, starting again", sort_key=5))


def whole(word: str) -> int:
    """An integer.  Raises ValueError in plain words."""
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{word} is not a whole number") from None


def _comma_separated(number: Callable[[str], Any], count: int | None, metavar: str, example: str) -> Parameter:
    """An option whose value is one word such as 0,1."""

    def convert(_: Any, tokens: Sequence[Any]) -> tuple[Any, ...] | None:
        words = [word.strip() for token in tokens for word in token.value.split(",")]
        if count is None and words == ["all"]:
            return None
        try:
            values = tuple(map(number, words))
        except ValueError:
            raise ValueError(f"give {example}") from None
        if count is not None and len(values) != count:
            raise ValueError(f"give {example}")
        return values

    return Parameter(converter=convert, n_tokens=1, allow_leading_hyphen=True, metavar=metavar)


def _one(_: Any, tokens: Sequence[Any]) -> int:
    return whole(tokens[0].value)


WHOLE = Parameter(converter=_one, n_tokens=1, allow_leading_hyphen=True, metavar="N")
BBOX = _comma_separated(float, 4, "W,S,E,N", "four numbers W,S,E,N in degrees")
GPUS = _comma_separated(whole, None, "0,1", "numbers separated by commas, such as 0,1, or all")
NEGATIVE = Parameter(negative="--no-border-shift")
FILE, DIR, NAME, SHARE = (Parameter(metavar=word) for word in ("FILE", "DIR", "NAME", "F"))


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The options of ``mtembed run``, as the user gave them (None: decided from the machine or the model).

    Parameters
    ----------
    shards
        Parquet shards of Major TOM Core: files, folders, globs, or addresses of these (s3://, https://, hf:Core-S2L2A).
    model
        The network: one that mtembed models lists, timm:NAME or open_clip:NAME with a model card, or a card itself.
    model_card
        A TOML file that describes a network of timm or open_clip: bands, normalisation, size. Default: none.
    weights
        A file in any layout the libraries publish, or random:SEED. Default: the published file, downloaded once.
    accept_licence
        Your word that you accept the licence of the published weights, where it is not an open one.
    gpus
        GPUs to use: numbers such as 0,1, or all. Default: all visible ones, else the CPU.
    device
        What to compute on.
    output
        Output dataset: a folder, or an address to write to (s3://, gs://, az://, hf://). Default: embeddings-MODEL.
    metadata
        Core's metadata.parquet. Default: the one beside images/.
    precision
        Arithmetic of the network; auto is 16 bit where the device has fast units for it.
    batch
        Fragments per forward pass.
    workers
        Decode processes.
    slots
        Cells held in shared memory.
    share_of_machine
        This process's share of the machine's cores and memory, for several processes on one.
    decoder
        Where LZW and deflate are decoded; auto tries both, if a GPU is there.
    overlap
        Share of a fragment that neighbours have in common, at least.
    border_shift
        Move the last fragment of a row or column inwards so that every pixel is covered.
    fragment_size
        Side of a fragment in pixels. Default: the model's.
    offset
        Sentinel-2 radiometric offset of baselines from 04.00 on; auto: as in the pixels that the model was trained on.
    max_nodata
        Leave out fragments with more than this share of nodata.
    bbox
        Only cells whose centre lies in W,S,E,N (degrees).
    cells
        Only cells named in this file: text, one a line, or Parquet with a grid_cell column.
    where
        Only cells whose line in metadata.parquet fulfils this condition in SQL, such as "cloud_cover < 10".
    limit
        Only the first N cells of the sorted run.
    shard_index
        This process takes shards I, I+N, ... of the sorted list, for machines that share no folder.
    shard_count
        Between how many processes the shards are dealt. Processes that share an output folder need no deal.
    max_failures
        Stop when more than this share of the cells fails (after 100 cells).
    dtype
        Type of the stored vectors.
    dense
        Maps instead of vectors, where the model has them: one a fragment, or one a cell for models that see it whole.
    extras
        Add quality columns: nodata, saturated, cloud, baseline and more.
    engine
        What runs the network on CPU.
    stall_timeout
        A worker without progress for so many seconds is replaced.
    cluster
        Work on a Ray cluster: ray for that of RAY_ADDRESS or this machine, or ray://HOST:10001.
    nodes_gpus
        With --cluster: share of a GPU for each process, 0 on CPUs. Default: 1 where the cluster has GPUs.
    lease
        What a process has taken is free for others when it is silent for so many seconds.
    retry_failed
        Try the failed cells of a finished dataset again.
    fresh
        Start over instead of resuming.
    dry_run
        Say what would be done, and write nothing.
    roofline
        Measure each stage's limit for a few seconds first.
    """

    shards: Annotated[tuple[str, ...], INPUT]
    _: KW_ONLY
    model: Annotated[str, NAME, WHAT]
    model_card: Annotated[str | None, FILE, WHAT] = None
    weights: Annotated[str | None, FILE, WHAT] = None
    accept_licence: Annotated[bool, WHAT] = False
    gpus: Annotated[tuple[int, ...] | None, GPUS, SPEED] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], SPEED] = "auto"
    output: Annotated[str | None, DIR, INPUT] = None
    metadata: Annotated[str | None, FILE, INPUT] = None
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], SPEED] = "auto"
    batch: Annotated[int | None, WHOLE, SPEED] = None
    workers: Annotated[int | None, WHOLE, SPEED] = None
    slots: Annotated[int | None, WHOLE, SPEED] = None
    share_of_machine: Annotated[float, SHARE, SPEED] = 1.0
    decoder: Annotated[Literal["auto", "cpu", "gpu"], SPEED] = "auto"
    overlap: Annotated[float, SHARE, WHAT] = 0.1
    border_shift: Annotated[bool, NEGATIVE, WHAT] = True
    fragment_size: Annotated[int | None, WHOLE, WHAT] = None
    offset: Annotated[Literal["auto", "keep", "remove"], WHAT] = "auto"
    max_nodata: Annotated[float, SHARE, WHAT] = 1.0
    bbox: Annotated[tuple[float, float, float, float] | None, BBOX, CELLS] = None
    cells: Annotated[str | None, FILE, CELLS] = None
    where: Annotated[str | None, Parameter(metavar="EXPR"), CELLS] = None
    limit: Annotated[int | None, WHOLE, CELLS] = None
    shard_index: Annotated[int, WHOLE, Parameter(metavar="I"), CELLS] = 0
    shard_count: Annotated[int, WHOLE, CELLS] = 1
    max_failures: Annotated[float, SHARE, AGAIN] = 0.05
    dtype: Annotated[Literal["float32", "float16"], WHAT] = "float32"
    dense: Annotated[bool, WHAT] = False
    extras: Annotated[bool, WHAT] = False
    engine: Annotated[Literal["auto", "torch", "openvino"], SPEED] = "auto"
    stall_timeout: Annotated[float, Parameter(metavar="S"), AGAIN] = 300.0
    cluster: Annotated[str | None, Parameter(metavar="ray"), SPEED] = None
    nodes_gpus: Annotated[float | None, SHARE, SPEED] = None
    lease: Annotated[float, Parameter(metavar="S"), AGAIN] = 120.0
    retry_failed: Annotated[bool, AGAIN] = False
    fresh: Annotated[bool, AGAIN] = False
    dry_run: Annotated[bool, AGAIN] = False
    roofline: Annotated[bool, SPEED] = False

    @classmethod
    def of(cls, shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], **options: Any) -> Self:
        """From what a Python caller gives: paths and lists are taken too.  Raises UsageError for everything wrong."""
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                meant = f"did you mean {near[0]}?" if near else f"the options are {', '.join(names[1:])}"
                raise UsageError(f"there is no option {name}: {meant}")
        if "model" not in options:
            raise UsageError("model is missing: name one, such as model='rcf'")
        given = (shards,) if isinstance(shards, str | os.PathLike) else _sequence("shards", shards)
        plain = {name: _plain(value) for name, value in options.items()}
        return cls(tuple(_plain(one) for one in given), **plain)

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise UsageError(f"--{name.replace('_', '-')} {value!r} is not possible: give {_words(hint)}")
        if is_address(self.output or ""):
            require_writable(Address.of(str(self.output)))
        for name, ok, rule in self._rules():
            if not ok:
                value = getattr(self, name.replace("-", "_"))
                raise UsageError(f"--{name} {value} is not possible: {rule}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        west, south, east, north = self.bbox or (0.0, 0.0, 0.0, 0.0)
        return [
            ("overlap", 0.0 <= self.overlap < 1.0, "choose a share from 0 up to, but not including, 1"),
            ("max-nodata", 0.0 <= self.max_nodata <= 1.0, "choose a share between 0 and 1"),
            ("max-failures", 0.0 <= self.max_failures <= 1.0, "choose a share between 0 and 1"),
            ("share-of-machine", 0.0 < self.share_of_machine <= 1.0, "choose a share above 0 and up to 1"),
            ("shard-count", self.shard_count >= 1, "choose 1 or more"),
            ("shard-index", 0 <= self.shard_index < max(1, self.shard_count), "choose 0 up to --shard-count minus 1"),
            ("limit", self.limit is None or self.limit >= 1, "choose 1 or more cells"),
            ("batch", self.batch is None or self.batch >= 1, "choose 1 or more fragments"),
            ("workers", self.workers is None or self.workers >= 1, "choose 1 or more processes"),
            ("slots", self.slots is None or self.slots >= 2, "choose 2 or more slots"),
            ("fragment-size", self.fragment_size is None or self.fragment_size >= 1, "choose 1 or more pixels"),
            ("cluster", _is_cluster(self.cluster), "choose ray or ray://HOST:PORT"),
            ("gpus", not (self.cluster and self.gpus), "with --cluster Ray chooses them: leave it out"),
            ("nodes-gpus", self.nodes_gpus is None or self.nodes_gpus >= 0, "choose 0 or more"),
            ("nodes-gpus", self.nodes_gpus is None or self.cluster is not None, "it belongs to --cluster ray"),
            ("lease", self.lease > 0, "choose a positive number of seconds"),
            ("stall-timeout", self.stall_timeout > 0, "choose a positive number of seconds"),
            (
                "bbox",
                -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90,
                "give W,S,E,N in degrees with S <= N (W > E means across the antimeridian)",
            ),
        ]


def _is_cluster(name: str | None) -> bool:
    return name is None or name == "ray" or name.startswith("ray://")


@cache
def _hints() -> dict[str, Any]:
    """The type of each option, without what is meant for the command line."""
    hints = get_type_hints(RunConfig)
    return {field.name: hints[field.name] for field in fields(RunConfig)}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type as RunConfig uses them; a float is finite."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if hint is int else hint)


def _words(hint: Any) -> str:
    """What to give for a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _words(next(one for one in inner if one is not types.NoneType))
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is tuple:
        return f"{len(inner)} numbers" if inner[-1] is not Ellipsis else f"a list, each {_words(inner[0])}"
    return {str: "a text", bool: "True or False", int: "a whole number", float: "a number"}[hint]


def _plain(value: object) -> Any:
    """Paths as text, lists as tuples."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(value) if isinstance(value, list) else value


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, Iterable):
        raise UsageError(f"{name} {value!r} is not possible: give a path or a list of them")
    return tuple(value)
