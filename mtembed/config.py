"""What a run is asked to do: every option once, with its default.  Frozen; nothing here looks at the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mtembed.errors import UsageError


def _comma_separated(number: Callable[[str], Any], count: int | None) -> Parameter:
    """An option whose value is one word such as 0,1."""

    def convert(_: Any, tokens: Sequence[Any]) -> tuple[Any, ...]:
        values = tuple(number(word) for token in tokens for word in token.value.split(","))
        if count is not None and len(values) != count:
            raise ValueError(f"give {count} numbers separated by commas")
        return values

    return Parameter(converter=convert, n_tokens=1, allow_leading_hyphen=True)


Bbox = Annotated[tuple[float, float, float, float], _comma_separated(float, 4)]
Gpus = Annotated[tuple[int, ...], _comma_separated(int, None)]
BorderShift = Annotated[bool, Parameter(negative="--no-border-shift")]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The options of ``mtembed run``, as the user gave them (None: decided from the machine or the model).

    Parameters
    ----------
    shards
        Parquet shards of Major TOM Core: files, folders or globs.
    model
        The network: see ``mtembed models``.
    weights
        A file in any layout the libraries publish, or random:SEED. Default: the published file, downloaded once.
    gpus
        GPUs to use, such as 0,1. Default: all visible ones, else the CPU.
    device
        What to compute on.
    output
        Output dataset. Default: embeddings-MODEL.
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
    decoder
        Where LZW and deflate are decoded; auto tries both, if a GPU is there.
    overlap
        Share of a fragment that neighbours have in common, at least.
    border_shift
        Move the last fragment of a row or column inwards so that every pixel is covered.
    fragment_size
        Side of a fragment in pixels. Default: the model's.
    offset
        Sentinel-2 radiometric offset of baselines from 04.00 on.
    max_nodata
        Leave out fragments with more than this share of nodata.
    bbox
        Only cells whose centre lies in W,S,E,N (degrees).
    cells
        Only cells named in this file: text, one a line, or Parquet with a grid_cell column.
    limit
        Only the first N cells of the sorted run.
    shard_index
        This process takes shards I, I+N, ... of the sorted list.
    shard_count
        How many processes share the work and the output folder.
    max_failures
        Stop when more than this share of the cells fails (after 100 cells).
    dtype
        Type of the stored vectors.
    extras
        Add quality columns: nodata, saturated, cloud, baseline and more.
    engine
        What runs the network on CPU.
    stall_timeout
        A worker without progress for so many seconds is replaced.
    retry_failed
        Try the failed cells of a finished dataset again.
    fresh
        Start over instead of resuming.
    dry_run
        Say what would be done, and write nothing.
    roofline
        Measure each stage's limit for a few seconds first.
    """

    shards: tuple[str, ...]
    _: KW_ONLY
    model: str
    weights: str | None = None
    gpus: Gpus | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    output: str | None = None
    metadata: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch: int | None = None
    workers: int | None = None
    slots: int | None = None
    decoder: Literal["auto", "cpu", "gpu"] = "auto"
    overlap: float = 0.1
    border_shift: BorderShift = True
    fragment_size: int | None = None
    offset: Literal["keep", "remove"] = "keep"
    max_nodata: float = 1.0
    bbox: Bbox | None = None
    cells: str | None = None
    limit: int | None = None
    shard_index: int = 0
    shard_count: int = 1
    max_failures: float = 0.05
    dtype: Literal["float32", "float16"] = "float32"
    extras: bool = False
    engine: Literal["auto", "torch", "openvino"] = "auto"
    stall_timeout: float = 300.0
    retry_failed: bool = False
    fresh: bool = False
    dry_run: bool = False
    roofline: bool = False

    def __post_init__(self) -> None:
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
            ("shard-count", self.shard_count >= 1, "choose 1 or more"),
            ("shard-index", 0 <= self.shard_index < max(1, self.shard_count), "choose 0 up to --shard-count minus 1"),
            ("limit", self.limit is None or self.limit >= 1, "choose 1 or more cells"),
            ("batch", self.batch is None or self.batch >= 1, "choose 1 or more fragments"),
            ("workers", self.workers is None or self.workers >= 1, "choose 1 or more processes"),
            ("slots", self.slots is None or self.slots >= 2, "choose 2 or more slots"),
            ("fragment-size", self.fragment_size is None or self.fragment_size >= 1, "choose 1 or more pixels"),
            ("stall-timeout", self.stall_timeout > 0, "choose a positive number of seconds"),
            (
                "bbox",
                -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90,
                "give W,S,E,N in degrees with S <= N (W > E means across the antimeridian)",
            ),
        ]
