"""Converted datasets: what is lossless is the same bits, what is lost is told, and every command reads every form."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mtembed
from mtembed.dataset.form import DoesNotFitError, Form
from mtembed.dataset.reader import open_dataset
from mtembed.errors import OutputError, SettingsError, UsageError
from tests.tools.commands import ROOT
from tests.tools.embeddings import FORMS, grid_table, random_vectors, write, write_manifest

CELLS = [f"{row}U_{col}R" for row in range(10, 15) for col in range(20, 28)]
FRAGMENTS = 4
ROWS = len(CELLS) * FRAGMENTS
VECTORS = np.random.default_rng(5).standard_normal((ROWS, 12)).astype(np.float32) + random_vectors(ROWS)
EVERY = ("float32", "float16", "bfloat16", "int8", "uint8", "bits", "pca:3")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    table = grid_table(VECTORS, CELLS, FRAGMENTS)
    write(tmp_path / "set/embeddings/part_00001.parquet", table.slice(0, 100), row_group_size=30)
    write(tmp_path / "set/embeddings/part_00002.parquet", table.slice(100))
    write_manifest(tmp_path / "set")
    return tmp_path / "set"


def vectors_of(path: Path) -> npt.NDArray[np.float32]:
    return np.concatenate([batch.vectors for batch in open_dataset(path).batches() if batch.vectors is not None])


def others(path: Path) -> dict[str, list[Any]]:
    opened = open_dataset(path)
    names = [name for name in opened.columns if name != "embedding_scale"]
    tables = [batch.table for batch in opened.batches(names, vectors=False)]
    return {name: [value for table in tables for value in table[name].to_pylist()] for name in names}


@pytest.mark.parametrize("form", ["float32", "array", "array:float32"])
def test_lossless_forms_are_the_same_bits(dataset: Path, tmp_path: Path, form: str) -> None:
    result = mtembed.convert(dataset, tmp_path / "out", to=form)
    assert vectors_of(tmp_path / "out").tobytes() == VECTORS.tobytes()
    assert (result.recall_at_10, result.mean_cosine, result.max_abs_error) == (1.0, 1.0, 0.0)
    again = mtembed.convert(tmp_path / "out", tmp_path / "back", to="float32")
    assert vectors_of(tmp_path / "back").tobytes() == VECTORS.tobytes()
    assert again.rows == ROWS


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("form", "error", "recall"),
    [("float16", 2e-3, 0.99), ("bfloat16", 2e-2, 0.95), ("int8", 5e-2, 0.9), ("uint8", 3e-2, 0.95), ("bits", 99, 0.1)],
)
def test_reduced_forms_lose_little_and_say_how_much(
    dataset: Path, tmp_path: Path, form: str, error: float, recall: float, array: bool
) -> None:
    result = mtembed.convert(dataset, tmp_path / "out", to=f"array:{form}" if array else form)
    read = vectors_of(tmp_path / "out")
    assert read.shape == VECTORS.shape
    worst = float(np.abs(read - VECTORS).max())
    assert worst < error
    assert result.max_abs_error == pytest.approx(worst)  # so few rows are all sampled
    assert recall < result.recall_at_10 <= 1.0
    assert 0.5 < result.mean_cosine <= 1.0


@pytest.mark.parametrize("form", [*EVERY, *(f"array:{form}" for form in EVERY)])
def test_all_other_columns_stay_and_every_command_reads_every_form(dataset: Path, tmp_path: Path, form: str) -> None:
    mtembed.convert(dataset, tmp_path / "out", to=form)
    assert others(tmp_path / "out") == others(dataset)
    row = others(dataset)["unique_id"][70]
    hits = mtembed.search(tmp_path / "out", row=row, top=3).hits
    assert form.endswith("bits") or hits[0].unique_id == row  # twelve signs are alike in many rows
    mtembed.index(tmp_path / "out", tmp_path / "index")
    assert mtembed.search(tmp_path / "index", row=row, top=3).hits == hits
    assert mtembed.pca(tmp_path / "out", tmp_path / "pca").n == len(CELLS)
    assert open_dataset(tmp_path / "out").model == "rcf"


def test_components_are_those_of_the_data(dataset: Path, tmp_path: Path) -> None:
    result = mtembed.convert(dataset, tmp_path / "out", to="pca:12")
    assert result.mean_cosine > 0.999999
    assert result.max_abs_error < 1e-4
    three = mtembed.convert(dataset, tmp_path / "three", to="pca:3")
    assert three.dim == 3
    record = json.loads((tmp_path / "three/convert.json").read_text())
    components, mean = np.array(record["pca"]["components"]), np.array(record["pca"]["mean"])
    assert np.allclose(vectors_of(tmp_path / "three"), (VECTORS - mean) @ components.T, atol=1e-5)


def test_ten_lines_of_numpy_read_an_array(dataset: Path, tmp_path: Path) -> None:
    mtembed.convert(dataset, tmp_path / "out", to="array:uint8")
    header = json.loads((tmp_path / "out/header.json").read_text())
    stored = np.fromfile(tmp_path / "out/embeddings.bin", header["dtype"]).reshape(header["shape"])
    vectors = stored * np.array(header["scale"], np.float32) + np.array(header["offset"], np.float32)
    assert np.array_equal(vectors.astype(np.float32), vectors_of(tmp_path / "out"))
    assert {"sources", "model", "dtype", "shape", "scale", "offset"} <= header.keys()
    assert all(len(source["footer_sha256"]) == 64 for source in header["sources"])
    assert pq.read_table(tmp_path / "out/metadata.parquet")["unique_id"].to_pylist() == others(dataset)["unique_id"]


@pytest.mark.parametrize("form", ["array", "array:uint8", "array:float16"])
def test_the_lines_of_the_documentation_run(
    dataset: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mtembed.convert(dataset, tmp_path / "vectors", to=form)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/conversion.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        exec(lines, found)
    assert np.array_equal(np.asarray(found["vectors"], np.float32), vectors_of(tmp_path / "vectors"))
    assert "(160, 12)" in capsys.readouterr().out


def test_an_array_of_another_size_than_its_header_says_is_refused(dataset: Path, tmp_path: Path) -> None:
    mtembed.convert(dataset, tmp_path / "out", to="array")
    values = tmp_path / "out/embeddings.bin"
    values.write_bytes(values.read_bytes()[:-4])
    with pytest.raises(OutputError, match="its header says 160 x 12 values"):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize("kind", FORMS, ids=str)
def test_published_types_can_be_converted(tmp_path: Path, kind: Any) -> None:
    vectors = random_vectors(ROWS)
    write(tmp_path / "a.parquet", grid_table(vectors, CELLS, FRAGMENTS, kind))
    mtembed.convert(tmp_path / "a.parquet", tmp_path / "out", to="float16")
    assert np.array_equal(vectors_of(tmp_path / "out"), vectors)


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
def test_overflow_is_an_error_with_its_row_and_never_infinity(tmp_path: Path, form: str) -> None:
    vectors = VECTORS.copy()
    vectors[101, 3] = 3.4e38
    write(tmp_path / "set/a.parquet", grid_table(vectors, CELLS, FRAGMENTS))
    with pytest.raises(OutputError, match=rf"a.parquet, row 101: the value 3.4e\+38 does not fit into {form}"):
        mtembed.convert(tmp_path / "set", tmp_path / "out", to=form)


@pytest.mark.parametrize("form", ["int8", "uint8", "bits"])
def test_whole_numbers_hold_no_nan(tmp_path: Path, form: str) -> None:
    vectors = VECTORS.copy()
    vectors[7, 3] = np.nan
    write(tmp_path / "a.parquet", grid_table(vectors, CELLS, FRAGMENTS))
    with pytest.raises(OutputError, match="row 7: the value nan does not fit"):
        mtembed.convert(tmp_path / "a.parquet", tmp_path / "out", to=form)
    mtembed.convert(tmp_path / "a.parquet", tmp_path / "half", to="bfloat16")
    assert np.isnan(vectors_of(tmp_path / "half")[7, 3])


@pytest.mark.parametrize("form", ["double", "pca", "pca:0", "pca:x", "array:array", "array:double", "", "pca:13"])
def test_what_is_no_form_is_one_sentence(dataset: Path, tmp_path: Path, form: str) -> None:
    with pytest.raises(UsageError) as caught:
        mtembed.convert(dataset, tmp_path / "out", to=form)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["uint8", "array:int8"])
def test_a_conversion_goes_on_where_it_was_stopped(dataset: Path, tmp_path: Path, form: str) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "writing" and done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtembed.convert(dataset, tmp_path / "out", to=form, tick=stop)
    result = mtembed.convert(dataset, tmp_path / "out", to=form)
    assert not result.nothing_to_do
    mtembed.convert(dataset, tmp_path / "calm", to=form)
    assert vectors_of(tmp_path / "out").tobytes() == vectors_of(tmp_path / "calm").tobytes()
    assert others(tmp_path / "out") == others(dataset)
    assert mtembed.convert(dataset, tmp_path / "out", to=form).nothing_to_do
    with pytest.raises(SettingsError, match="--to"):
        mtembed.convert(dataset, tmp_path / "out", to="array:bits" if form.startswith("array") else "bits")


@given(
    vectors=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=st.floats(-1e4, 1e4, width=32)
    ),
    name=st.sampled_from(["float16", "bfloat16", "int8", "bits"]),
)
def test_reading_back_errs_by_half_a_step_at_most(vectors: npt.NDArray[np.float32], name: str) -> None:
    form = Form(name, vectors.shape[1])
    read = form.decode(*form.encode(vectors))
    assert read.dtype == np.float32
    if name == "bits":
        assert np.array_equal(read > 0, vectors >= 0)
        return
    size = np.abs(vectors)
    step = {
        "float16": np.maximum(size * 2.0**-10, 2.0**-24),
        "bfloat16": np.maximum(size * 2.0**-7, 2.0**-133),
        "int8": np.broadcast_to(size.max(axis=1, keepdims=True) / 127 * 1.0001 + 1e-45, vectors.shape),
    }[name]
    assert (np.abs(read.astype(np.float64) - vectors) <= step / 2 * 1.001).all()
    assert json.dumps(Form.of(form.as_json()).as_json()) == json.dumps(form.as_json())


def test_bfloat16_is_torch_s() -> None:
    import torch

    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, np.uint32)
    values = bits.view(np.float32).reshape(-1, 10)
    values = np.where(np.isfinite(values) & (np.abs(values) < 3e38), values, np.float32(0.1))
    stored, _ = Form("bfloat16", 10).encode(values)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(stored, expected)
    with pytest.raises(DoesNotFitError):
        Form("float16", 1).encode(np.array([[65520.0]], np.float32))
