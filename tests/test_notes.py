"""What workers tell of themselves: each fact has its key in the manifest, and words where users should know it."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from mtembed.notes import (
    BatchHalved,
    DecodedBands,
    DecodedOnCpu,
    LaneDropped,
    MetadataOdd,
    Note,
    PartRemade,
    PrecisionCheck,
    PrecisionUnknown,
    ShardLost,
    Traffic,
    Unfused,
    Unpinned,
    WorkerReady,
)

NOTES: list[tuple[Note, str, dict[str, object], str]] = [
    (
        WorkerReady("Arm", "numba", {"openvino": "1"}),
        "device",
        {"device": "Arm", "kernel": "numba", "versions": {"openvino": "1"}, "position_independent": None},
        "",
    ),
    (
        PrecisionCheck("bf16", "torch", 25, 0.001, 0.002),
        "precision_check",
        {
            "precision": "bf16",
            "engine": "torch",
            "fragments": 25,
            "median_relative_l2": 0.001,
            "worst_relative_l2": 0.002,
        },
        "",
    ),
    (PrecisionUnknown("no memory"), "precision_unknown", {"cause": "no memory"}, "was not measured: no memory"),
    (
        DecodedOnCpu(0, "no memory"),
        "decoded_on_cpu",
        {"card": 0, "cause": "no memory"},
        "a core of the CPU does the rest: no memory",
    ),
    (DecodedBands(12, 1), "decoded_bands", {"gpu": 12, "cpu": 1}, ""),
    (BatchHalved(1, 20, 10), "batch_halved", {"card": 1, "from": 20, "to": 10}, "10 instead of 20 fragments"),
    (
        PartRemade("a.parquet", "checksum"),
        "remade_parts",
        {"shard": "a.parquet", "cause": "checksum"},
        "made again from the shard: checksum",
    ),
    (
        ShardLost("a.parquet", "write", "killed"),
        "lost_shards",
        {"shard": "a.parquet", "stage": "write", "error": "killed"},
        "no part could be made of a.parquet: killed",
    ),
    (LaneDropped(2, "was killed"), "dropped_cards", {"lane": 2, "cause": "was killed"}, "lane 2 is given up"),
    (Unfused(0, "no kernel"), "unfused", {"card": 0, "cause": "no kernel"}, "without joined operators: no kernel"),
    (
        Traffic(7, 1, 1000, 2.0, 0.5),
        "network",
        {"requests": 7, "again": 1, "bytes": 1000, "waited": 2.0, "blocked": 0.5},
        "",
    ),
    (MetadataOdd("no line"), "warnings", {"cause": "no line"}, ""),
    (Unpinned(0, "error 2"), "unpinned", {"card": 0, "cause": "error 2"}, "could not be pinned: error 2"),
]


@pytest.mark.parametrize(("note", "name", "content", "words"), NOTES, ids=[name for _, name, _, _ in NOTES])
def test_a_note_has_a_key_a_content_and_perhaps_a_sentence(
    note: Note, name: str, content: dict[str, object], words: str
) -> None:
    assert note.name == name
    assert json.loads(json.dumps(note.as_json())) == content
    assert words in note.sentence() and bool(note.sentence()) == bool(words)


def test_no_kind_of_note_is_left_out_here() -> None:
    assert {type(note) for note, *_ in NOTES} == set(get_args(Note))
