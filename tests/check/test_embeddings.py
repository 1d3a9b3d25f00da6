"""``mtembed inspect`` says what is in embeddings and in an output folder."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.check.shard import inspect
from mtembed.cli import inspect as inspection_view
from mtembed.dataset.rows import PartWriter, schema
from mtembed.errors import UsageError
from tests.tools.parts import write_part
from tests.tools.screens import screen


def test_a_part(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, 5], [3, 4], [1, 1]], np.float32)
    path = write_part(tmp_path / "part.parquet", vectors)
    facts = inspect(path)
    expected = {
        "kind": "embeddings", "file": "part.parquet", "bytes": path.stat().st_size, "parts": 1, "rows": 4, "cells": 1,
        "dtype": "float32", "dim": 2, "row_groups": 1, "storage": ["zstd, BYTE_STREAM_SPLIT"], "geoparquet": "1.1.0",
        "schema": "mtembed",
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["health"] == {
        "vectors": 4, "not_finite": 0, "norm_min": pytest.approx(2**0.5), "norm_median": 5.0, "norm_max": 5.0,
        "identical": 0.5, "constant": 0.25,
    }  # fmt: skip
    text = screen(inspection_view.view(facts), 160)
    assert text.startswith("part.parquet: 4 embeddings of 1 cell, float32 x 2")
    assert "no manifest beside it" in text
    assert "50.00% of the vectors have a twin" in text


def test_half_precision_and_extras(tmp_path: Path) -> None:
    facts = inspect(write_part(tmp_path / "part.parquet", np.eye(4, 8), "float16", extras=True))
    assert (facts["dtype"], facts["dim"], facts["schema"]) == ("float16", 8, "mtembed with extras")
    assert facts["health"]["norm_median"] == 1.0


def test_embeddings_of_others(tmp_path: Path) -> None:
    path = tmp_path / "published.parquet"
    vectors = [[1.0, float("nan")], [2.0, 2.0], [0.0, 1.0]]
    pq.write_table(pa.table({"id": [1, 2, 3], "embedding": pa.array(vectors, pa.list_(pa.float32()))}), path)
    facts = inspect(path)
    assert (facts["dtype"], facts["dim"], facts["cells"], facts["schema"]) == ("float32", None, None, "other")
    assert facts["health"]["not_finite"] == 1
    assert facts["health"]["norm_max"] == pytest.approx(8**0.5)
    assert "GeoParquet no" in screen(inspection_view.view(facts), 160)


def test_a_part_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    PartWriter(path, schema(8, "float32", False)).close({"mtembed": json.dumps({"cells": []})})
    facts = inspect(path)
    assert (facts["rows"], facts["cells"], facts["storage"]) == (0, 0, [])
    assert facts["health"]["norm_min"] is None
    assert "0 of 0 vectors" in screen(inspection_view.view(facts), 160)


def test_a_folder_with_its_manifest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rng = np.random.default_rng(0)
    for i in range(3):
        write_part(out / "embeddings" / f"part_{i}.parquet", rng.normal(size=(5, 16)))
    settings = {"model": "rcf", "weights": "random:1", "source": "S2L1C", "precision": "fp32", "fragment_size": 224}
    manifest = {"mtembed": "0.1.0", "settings": settings, "weights": {"random": True}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    facts = inspect(out)
    assert facts["kind"] == "dataset"
    assert (facts["parts"], facts["rows"], facts["cells"], facts["model"]) == (3, 15, 3, "rcf")
    assert facts["health"]["vectors"] == 15
    text = screen(inspection_view.view(facts), 160)
    assert "15 embeddings of 3 cells in 3 parts, float32 x 16" in text
    assert "rcf, weights random:1 (RANDOM), on S2L1C, fp32, 224 px, mtembed 0.1.0" in text
    part = inspect(out / "embeddings" / "part_1.parquet")
    assert (part["kind"], part["rows"], part["model"]) == ("embeddings", 5, "rcf")


ODD_VECTORS = {
    "strings": pa.array([["a"], ["b"]]),
    "structs": pa.array([[{"x": 1.0}], []]),
    "decimals": pa.array([[Decimal("1.5")], []], pa.list_(pa.decimal128(9, 2))),
    "lists": pa.array([[[1.0]], [[2.0]]]),
    "no list": pa.array(["a", "b"]),
}


@pytest.mark.parametrize("values", ODD_VECTORS.values(), ids=ODD_VECTORS)
def test_what_is_no_vector_is_a_usage_error(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"embedding": values}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="no list of numbers"):
        inspect(tmp_path / "x.parquet")


def test_vectors_of_different_lengths_are_a_usage_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"embedding": [[1.0, 2.0, 3.0], [4.0]]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="different lengths"):
        inspect(tmp_path / "x.parquet")


def test_vectors_that_are_null_are_left_out(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"embedding": pa.array([[3, 4], None, [0, 1]], pa.list_(pa.int8(), 2))}), tmp_path / "x.parquet"
    )
    health = inspect(tmp_path / "x.parquet")["health"]
    assert (health["vectors"], health["norm_max"]) == (2, 5.0)


def test_two_columns_of_vectors_are_a_usage_error(tmp_path: Path) -> None:
    column = pa.array([[1.0]])
    pq.write_table(pa.Table.from_arrays([column, column], ["embedding", "embedding"]), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="has 2 columns embedding"):
        inspect(tmp_path / "x.parquet")


@pytest.mark.parametrize("geo", ["[1]", "null", "1", "{}", "[" * 100_000, "no json", '{"version": [1]}'])
@pytest.mark.parametrize("key", ["geo", "mtembed"])
def test_texts_of_any_kind_in_the_footer(tmp_path: Path, key: str, geo: str) -> None:
    table = pa.table({"embedding": [[1.0]]}).replace_schema_metadata({key: geo})
    pq.write_table(table, tmp_path / "x.parquet")
    facts = inspect(tmp_path / "x.parquet")
    assert facts["rows"] == 1 and facts["cells"] is None
