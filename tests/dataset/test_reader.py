"""Reading datasets of embeddings: every published form gives the same rows, and what cannot be read says so."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.errors import MtembedError, OutputError, UsageError
from tests.tools.embeddings import FORMS, grid_table, random_vectors, write, write_manifest

CELLS = [f"{10 + i}U_{20 + i}R" for i in range(30)]
VECTORS = random_vectors(len(CELLS))


def table(kind: pa.DataType | None = None, **changes: Any) -> pa.Table:
    return grid_table(VECTORS, CELLS, kind=kind, **changes)


def everything(dataset: EmbeddingDataset, columns: tuple[str, ...] = (), rows: int = 7) -> tuple[np.ndarray, pa.Table]:
    batches = list(dataset.batches(columns, rows))
    assert all(len(batch.vectors) == batch.rows == batch.table.num_rows or not columns for batch in batches)
    return np.concatenate([batch.vectors for batch in batches]), pa.concat_tables([batch.table for batch in batches])


@pytest.mark.parametrize("kind", FORMS, ids=str)
@pytest.mark.parametrize("group", [4, 1000])
def test_every_form_gives_the_same_vectors(tmp_path: Path, kind: pa.DataType, group: int) -> None:
    path = write(tmp_path / "part.parquet", table(kind), row_group_size=group)
    dataset = open_dataset(path)
    vectors, rest = everything(dataset, ("grid_cell",))
    assert (dataset.dim, dataset.rows, vectors.dtype) == (12, 30, np.float32)
    assert dataset.dtype == np.dtype(kind.value_type.to_pandas_dtype()).name
    np.testing.assert_array_equal(vectors, VECTORS)
    assert rest["grid_cell"].to_pylist() == CELLS


def test_vectors_are_not_copied(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", table(), use_dictionary=False)
    tracemalloc.start()
    (batch,) = open_dataset(path).batches()
    assert batch.vectors is not None and not batch.vectors.flags.owndata and not batch.vectors.flags.writeable
    tracemalloc.stop()


TEXT_FORMS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "string": lambda a: a,
    "large": lambda a: a.cast(pa.large_string()),
    "bytes": lambda a: a.cast(pa.binary()),
    "dictionary": lambda a: a.dictionary_encode(),
    "view": lambda a: a.cast(pa.string_view()),
}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_text_is_text(tmp_path: Path, form: str) -> None:
    column = TEXT_FORMS[form](pa.array(CELLS))
    dataset = open_dataset(write(tmp_path / "part.parquet", table(grid_cell=column)))
    rest = everything(dataset, ("grid_cell",))[1]
    assert rest.schema.field("grid_cell").type == pa.string() and rest["grid_cell"].to_pylist() == CELLS


def test_time_stamps_become_text(tmp_path: Path) -> None:
    stamps = pa.array([np.datetime64("2020-03-04T05:06:07.891", "ms")] * 30)
    dataset = open_dataset(write(tmp_path / "part.parquet", table(timestamp=stamps)))
    assert set(everything(dataset, ("timestamp",))[1]["timestamp"].to_pylist()) == {"20200304T050607"}


@pytest.mark.parametrize("form", ["binary", "large", "wkt"])
def test_geometry_is_wkb(tmp_path: Path, form: str) -> None:
    shapes = shapely.from_wkb(table()["geometry"].to_pylist())
    forms = {
        "binary": pa.array(shapely.to_wkb(shapes), pa.binary()),
        "large": pa.array(shapely.to_wkb(shapes), pa.large_binary()),
        "wkt": pa.array(shapely.to_wkt(shapes, rounding_precision=-1)),
    }
    dataset = open_dataset(write(tmp_path / "part.parquet", table(geometry=forms[form])))
    column = everything(dataset, ("geometry",))[1]["geometry"]
    assert column.type == pa.binary()
    assert shapely.equals_exact(shapely.from_wkb(column.to_pylist()), shapes).all()


def test_columns_in_any_order_and_unknown_ones(tmp_path: Path) -> None:
    made = table(cloud=pa.array(np.arange(30.0)), notes=pa.array([{"a": i} for i in range(30)]))
    dataset = open_dataset(write(tmp_path / "part.parquet", made.select(sorted(made.column_names, reverse=True))))
    rest = everything(dataset, ("cloud", "grid_cell", "notes"))[1]
    assert rest.column_names == ["cloud", "grid_cell", "notes"]
    assert rest["cloud"].to_pylist() == list(range(30)) and rest["notes"][3].as_py() == {"a": 3}
    assert "embedding" not in dataset.columns


def test_a_missing_vector_is_nan(tmp_path: Path) -> None:
    for kind in FORMS:
        column = table(kind)["embedding"].combine_chunks()
        some = pa.array([None, [1.0, None, *[0.0] * 10], *column.cast(pa.list_(pa.float64())).to_pylist()[2:]], kind)
        made = table().set_column(1, "embedding", some)
        vectors = everything(open_dataset(write(tmp_path / "part.parquet", made)))[0]
        assert np.isnan(vectors[0]).all() and np.isnan(vectors[1]).tolist() == [False, True, *[False] * 10]
        np.testing.assert_array_equal(vectors[2:], VECTORS[2:])


def run_folder(root: Path, **manifest: Any) -> Path:
    write(root / "embeddings" / "part_00002.parquet", table().slice(20))
    write(root / "embeddings" / "part_00001.parquet", table().slice(0, 20))
    write(root / "embeddings" / "part_00003.parquet", table().slice(0, 0))
    write(root / "timings" / "part_00001.parquet", pa.table({"total": [1.0]}))
    write_manifest(root, **manifest)
    return root


@pytest.mark.parametrize("name", ["", "embeddings", "embeddings/*.parquet", "embeddings/part_0000[12].parquet"])
def test_a_folder_of_a_run_by_any_name(tmp_path: Path, name: str) -> None:
    root = run_folder(tmp_path / "run")
    dataset = open_dataset(root / name if "*" not in name and "[" not in name else f"{root}/{name}")
    np.testing.assert_array_equal(everything(dataset)[0], VECTORS)
    assert (dataset.model, dataset.root) == ("rcf", root)
    assert dataset.manifest is not None and dataset.manifest["settings"]["weights"] == "random:1"
    assert [file.name for file in dataset.files][:2] == ["part_00001.parquet", "part_00002.parquet"]


def test_several_folders_are_one_dataset(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}" / "part.parquet", table().slice(10 * i, 10)).parent for i in range(3)]
    dataset = open_dataset([*names, names[0]])
    assert [file.name for file in dataset.files] == ["0/part.parquet", "1/part.parquet", "2/part.parquet"]
    np.testing.assert_array_equal(everything(dataset)[0], VECTORS)
    assert dataset.model is None and dataset.root is None
    assert [batch.file for batch in dataset.batches(files=[2, 0])] == [2, 0]


def test_columns_are_those_of_every_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(cloud=pa.array(np.arange(30.0))))
    write(tmp_path / "b.parquet", table(pa.list_(pa.float16())))
    dataset = open_dataset(tmp_path)
    assert "cloud" not in dataset.columns and "grid_cell" in dataset.columns and dataset.dtype == "float32"
    with pytest.raises(UsageError, match="has no column cloud"):
        next(dataset.batches(("cloud",)))


def test_identity_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", table())
    before = open_dataset(path).sources()
    os.utime(path, (1, 1))
    assert open_dataset(path).sources() == before
    assert open_dataset(path).files[0].mark.mtime_ns == 10**9
    write(path, table().slice(1))
    assert open_dataset(path).sources() != before


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 29), max_size=40), group=st.integers(1, 31))
def test_rows_by_number(tmp_path_factory: pytest.TempPathFactory, rows: list[int], group: int) -> None:
    path = write(tmp_path_factory.mktemp("take") / "part.parquet", table(), row_group_size=group)
    vectors, rest = open_dataset(path).take(0, rows, ("grid_cell",))
    np.testing.assert_array_equal(vectors, VECTORS[rows])
    assert rest["grid_cell"].to_pylist() == [CELLS[row] for row in rows]
    assert open_dataset(path).take(0, rows, ("grid_cell",), vectors=False)[0] is None


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_batches_say_where_they_begin(tmp_path: Path, group: int) -> None:
    dataset = open_dataset(write(tmp_path / "part.parquet", table(), row_group_size=group))
    at = 0
    for batch in dataset.batches(("grid_cell",), 4, vectors=False):
        assert batch.vectors is None and batch.first_row == at and batch.rows <= 4
        assert batch.table["grid_cell"].to_pylist() == CELLS[at : at + batch.rows]
        at += batch.rows
    assert at == 30
    assert sum(batch.rows for batch in dataset.batches(vectors=False)) == 30


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path) -> None:
    """A bit in the vectors' pages."""
    chunk = pq.read_metadata(path).row_group(0).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], Any], type[MtembedError], str]] = {
    "nothing there": (lambda f: None, UsageError, "folder without embeddings"),
    "cut": (lambda f: cut(write(f / "a.parquet", table()), 0.7), OutputError, "a.parquet cannot be read"),
    "empty": (lambda f: (f / "a.parquet").write_bytes(b""), OutputError, "a.parquet cannot be read"),
    "flipped": (
        lambda f: flip(write(f / "a.parquet", table(), compression="none", use_dictionary=False)),
        OutputError,
        "a.parquet cannot be read",
    ),
    "no vectors": (lambda f: write(f / "a.parquet", pa.table({"x": [1]})), UsageError, "no column embedding"),
    "other vectors": (
        lambda f: write(f / "a.parquet", pa.table({"embedding": [["a"]]})),
        UsageError,
        "is list<.*>, which is no list of",
    ),
    "no rows": (lambda f: write(f / "a.parquet", table().slice(0, 0)), UsageError, "has no rows"),
    "two dimensions": (
        lambda f: [
            write(f / "a.parquet", table()),
            write(f / "b.parquet", grid_table(random_vectors(30, 5), CELLS)),
        ],
        UsageError,
        r"a.parquet has vectors of 12 values and .*b.parquet of 5",
    ),
    "lists that differ": (
        lambda f: write(f / "a.parquet", pa.table({"embedding": [[1.0, 2.0], [1.0]]})),
        OutputError,
        "a.parquet cannot be read .vectors of 1 values among those of 2",
    ),
    "a broken manifest": (
        lambda f: (write(f / "a.parquet", table()), (f / "manifest.json").write_text("{")),
        OutputError,
        "manifest.json is no JSON object",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_says_so(tmp_path: Path, fault: str) -> None:
    make, error, sentence = FAULTS[fault]
    make(tmp_path)
    with pytest.raises(error, match=sentence):
        everything(open_dataset(tmp_path))


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"model": "dinov2"}, "made with model rcf and .* with dinov2"),
        ({"weights": "random:2"}, "made with weights random:1 and .* with random:2"),
    ],
)
def test_two_models_are_named(tmp_path: Path, second: dict[str, str], sentence: str) -> None:
    roots = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", **second)]
    with pytest.raises(UsageError, match=sentence):
        open_dataset(roots)
    run_folder(tmp_path / "b")
    dataset = open_dataset(roots)
    assert dataset.model == "rcf" and dataset.root is None


def test_a_folder_of_datasets_names_them(tmp_path: Path) -> None:
    run_folder(tmp_path / "S2L1C")
    with pytest.raises(UsageError, match="name one of S2L1C in it"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.parquet"])
def test_a_name_that_matches_nothing(name: str) -> None:
    with pytest.raises(UsageError, match="no file of embeddings matches"):
        open_dataset(name)


def test_a_file_that_changes_under_way(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", table())
    dataset = open_dataset(path)
    write(path, table().slice(5))
    with pytest.raises(OutputError, match="changed while it was read"):
        next(dataset.batches())


def test_a_huge_row_group_is_read_in_small_steps(tmp_path: Path) -> None:
    """60 MB of vectors in one row group, 1 MB at a time."""
    vectors = np.random.default_rng(0).standard_normal((20_000, 768)).astype(np.float32)
    made = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 768)})
    path = write(tmp_path / "part.parquet", made, use_dictionary=False, compression="zstd")
    del made
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for batch in open_dataset(path).batches(rows=340):
        np.testing.assert_array_equal(batch.vectors[0], vectors[batch.first_row])
        most = max(most, pool.bytes_allocated() - before)
    assert most < 30e6
