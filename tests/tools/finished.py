"""A finished dataset without a run: shards, parts that nobody looks into, timings with facts, a manifest."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mtembed.archive.shards import fingerprint
from mtembed.config import RunConfig
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.settings import Settings, resolve
from mtembed.dataset.timings import timing_table
from mtembed.models import weights
from mtembed.run.gpus import usable_gpus
from mtembed.run.plan import Plan, plan
from mtembed.types import CellTiming
from tests.tools.manifests import facts, manifest
from tests.tools.shards import make_shard

ROWS = 2
PART = b"a part"


def config(folder: Path, **options: Any) -> RunConfig:
    """Of the run that made the dataset in ``folder``."""
    plain: dict[str, Any] = {"model": "rcf", "fragment_size": 32, "output": str(folder / "out")}
    return RunConfig((str(folder / "images"),), **{**plain, **options})


def settings_of(found: Plan) -> Settings:
    """What a run with this plan settles on."""
    gpus = usable_gpus(found.config, found.made_with)
    seed = weights.resolve(found.spec, None)
    return resolve(found.config, found.spec, found.source, seed, found.made_with, gpus)


def finished(folder: Path, shards: int = 2) -> Manifest:
    """Make ``folder/images`` and the dataset ``folder/out``, as a run with ``config(folder)`` leaves it."""
    parts = []
    for number in range(shards):
        stem = f"part_{number}"
        path = make_shard(folder / "images" / f"{stem}.parquet", ROWS, "S1RTC", side=64).path
        mark = dataclasses.asdict(fingerprint(path, ROWS))
        parts.append(
            facts(
                stem,
                **mark,
                cells=ROWS,
                embeddings=ROWS * 9,
                part_bytes=len(PART),
                encodings={"none": ROWS},
                baselines={},
            )
        )
        for name in ("embeddings", "timings"):
            (folder / "out" / name).mkdir(parents=True, exist_ok=True)
        (folder / "out/embeddings" / f"{stem}.parquet").write_bytes(PART)
        timings = [CellTiming(path.name, row, grid_cell=f"{row}U_1R") for row in range(ROWS)]
        pq.write_table(timing_table(timings, parts[-1]), folder / "out/timings" / f"{stem}.parquet")
    made = settings_of(plan(config(folder)))
    whole = manifest(*parts, made=made, input=tuple(one.shard for one in parts))
    (folder / "out/manifest.json").write_text(json.dumps(whole.as_json()))
    for name in ("README.md", "failures.jsonl"):
        (folder / "out" / name).write_text("")
    return whole


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e300, 10**30, 2**63, "", "..", "../x", "a/b", "x" * 300, "\ud800", "\x1b[31m", [], {},
    [[]], [None], {"": None}, {"a": {"b": 1}},
)  # fmt: skip
"""What may stand in place of anything."""


def mutated(content: Any, chance: random.Random) -> bytes:
    """The JSON text of a manifest, changed in one to three places, or its bytes damaged."""
    if chance.random() < 0.1:
        return bytes(chance.choice((b"[" * 100_000, b"", b"null", b'{"settings": ', b"\xff\xfe", b'{"a": NaN}')))
    text = json.loads(json.dumps(content))
    for _ in range(chance.randint(1, 3)):
        change = chance.choice((_replace, _remove, _rename))
        change(text, chance)
    data = bytearray(json.dumps(text).encode())
    if chance.random() < 0.1:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _place(content: Any, chance: random.Random) -> tuple[Any, Any]:
    """A container somewhere in the content, and a key in it."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = chance.choice(keys)
        inner = content[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
            return content, key
        content = inner


def _replace(content: Any, chance: random.Random) -> None:
    if content:
        container, key = _place(content, chance)
        container[key] = chance.choice(ODD)


def _remove(content: Any, chance: random.Random) -> None:
    if content:
        container, key = _place(content, chance)
        del container[key]


def _rename(content: Any, chance: random.Random) -> None:
    if content:
        container, key = _place(content, chance)
        if isinstance(container, dict):
            container[str(chance.choice(ODD))] = container.pop(key)
