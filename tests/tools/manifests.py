"""Settings and manifests made by hand, whole, for tests that need no run to have made them."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtembed import models
from mtembed.dataset.manifest import Manifest, totals
from mtembed.dataset.origin import begin
from mtembed.dataset.settings import Settings
from mtembed.types import ShardFacts


def settings(**changes: Any) -> Settings:
    """Of a run of random convolution features on Sentinel-2 L2A."""
    plain = Settings(
        model="rcf",
        weights="random:1",
        weights_sha256="",
        source="S2L2A",
        fragment_size=224,
        overlap=0.1,
        border_shift=True,
        offset="keep",
        max_nodata=1.0,
        dtype="float32",
        extras=False,
        bbox=None,
        cells_sha256=None,
        limit=None,
        shard_count=1,
        precision="fp32",
        engine="torch",
        device="cpu",
        batch=8,
        threads=1,
    )
    return dataclasses.replace(plain, **changes)


def facts(stem: str = "part_00001", **changes: Any) -> ShardFacts:
    """Of a shard of three cells, all of them embedded."""
    plain = ShardFacts(
        shard=f"{stem}.parquet",
        size=1000,
        mtime_ns=1,
        rows=3,
        footer_sha256="ab" * 32,
        cells=3,
        failed=0,
        embeddings=75,
        warnings={},
        encodings={"none": 3},
        baselines={"05.09": 3},
        offset_removed=0,
        part_bytes=1000,
    )
    return dataclasses.replace(plain, **changes)


def manifest(*shards: ShardFacts, made: Settings | None = None, **changes: Any) -> Manifest:
    """Of a finished run that made these parts."""
    made = made or settings()
    parts = {one.shard.removesuffix(".parquet"): one for one in shards}
    first = begin(models.get(made.model), made, (1068, 1068))
    whole = {"shards": parts, "totals": totals(parts), "complete": True, "runs": 1, "ended": first.started, **changes}
    return dataclasses.replace(first, **whole)
