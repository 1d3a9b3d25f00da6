"""``mtembed evaluate`` as people call it: files, findings, refusals; the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mtembed
from mtembed.errors import MtembedError, UsageError
from mtembed.evaluation.options import EvaluateOptions
from tests.tools.commands import run
from tests.tools.embeddings import grid_table, write
from tests.tools.labels import cell_names, known_dataset, with_columns

QUICK = {"shots": "all", "resamples": 50}
NEAR = {**QUICK, "probes": "knn", "neighbours": "1,5"}


def score(found: mtembed.Evaluation, features: str, probe: str, metric: str, split: str = "blocks") -> Any:
    return next(
        s for _, s in found.scores if (s.features, s.probe, s.metric, s.split) == (features, probe, metric, split)
    )


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return known_dataset(tmp_path_factory.mktemp("known")).path


def test_the_command_writes_json_and_a_page_and_the_same_ones_again(tmp_path: Path, numbers: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    words = ["--column", "number", "--shots", "2,10,all", "--draws", "2", "--resamples", "50", "--seed", "4"]
    for output in outputs:
        code, out, err = run(["evaluate", str(numbers), *words, "--output", str(output), "--json"])
        assert code == 0, err
        last = json.loads(out.splitlines()[-1])
        assert last["event"] == "result" and last["task"] == "regression"
    for name in ("evaluation.json", "evaluation.html"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    content = json.loads((outputs[0] / "evaluation.json").read_text())
    assert {
        "settings", "seed", "versions", "rows_labelled", "rows_dropped", "scores", "health", "sentences",
    } <= content.keys()  # fmt: skip
    assert content["seed"] == 4 and content["rows_labelled"] == 144 and str(tmp_path) not in json.dumps(content)
    wanted = {"features", "probe", "split", "metric", "value", "low", "high", "n_train", "n_test", "blocks"}
    assert all(wanted <= line.keys() for line in content["scores"])
    assert {line["features"] for line in content["scores"]} == {"embedding", "mean", "latlon", "permuted"}
    page = (outputs[0] / "evaluation.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page and page.count("<svg") >= 3
    code, out, _ = run(["evaluate", str(numbers), *words, "--output", str(outputs[0]), "--json"])
    assert code == 0 and json.loads(out.splitlines()[-1]) == {**last, "output": str(outputs[0])}
    code, _, err = run(["evaluate", str(numbers), "--column", "word", "--output", str(outputs[0])])
    assert code != 0 and "--column" in err and "--fresh" in err and err.count("\n") == 1


def test_the_table_fits_eighty_columns(tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [
        "--column",
        "word",
        "--shots",
        "all",
        "--resamples",
        "20",
        "--probes",
        "knn",
        "--output",
        str(tmp_path / "out"),
    ]
    code, out, _ = run(["evaluate", str(numbers), *words])
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "majority class" in out and "lat/lon" in out and "balanced accuracy" in out and "permuted labels" in out


def test_what_is_linear_is_found_and_permuted_labels_are_not(numbers: Path) -> None:
    found = mtembed.evaluate(numbers, column="number", **QUICK)
    assert score(found, "embedding", "linear", "r2").value > 0.999
    assert score(found, "permuted", "linear", "r2").value <= 0.02
    assert score(found, "mean", "constant", "r2").value <= 0.0
    assert any("better than mean" in text for text in found.sentences)
    words = mtembed.evaluate(numbers, column="word", **QUICK)
    assert score(words, "embedding", "linear", "balanced_accuracy").value > 0.9
    assert sum(map(sum, words.confusion["linear"])) == words.rows_labelled


def test_permuted_labels_are_chance(numbers: Path) -> None:
    """Over several permutations: a single one is off by its own luck."""
    options = {**NEAR, "column": "word", "neighbours": "5", "resamples": 20}
    found = [
        score(mtembed.evaluate(numbers, seed=seed, **options), "permuted", "knn-5", "balanced_accuracy").value
        for seed in range(8)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_noise_is_said_to_be_no_better_than_the_mean(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    known = known_dataset(tmp_path, number=rng.normal(size=144))
    found = mtembed.evaluate(known.path, column="number", **QUICK)
    said = [text for text in found.sentences if "not better than" in text]
    assert len(said) == 2 and all("mean" in text and "lat/lon" in text for text in said)


def test_a_random_split_stands_beside_blocks_and_names_the_gap(tmp_path: Path) -> None:
    """Every cell has its own vector and label: rows of one cell give each other away."""
    rng = np.random.default_rng(0)
    cells = cell_names()
    vectors = np.repeat(rng.normal(size=(36, 8)), 9, axis=0) + 0.01 * rng.normal(size=(324, 8))
    table = grid_table(vectors.astype(np.float32), cells, 9, number=np.repeat(rng.normal(size=36), 9))
    path = write(tmp_path / "part.parquet", table)
    found = mtembed.evaluate(path, column="number", folds="random", **NEAR)
    loose, strict = (score(found, "embedding", "knn-5", "r2", split).value for split in ("random", "blocks"))
    assert loose > 0.95 and strict < 0.2
    assert any("a gap of" in text and "neighbours" in text for text in found.sentences)


def test_no_cell_stands_on_both_sides_even_where_two_dates_of_it_are_there(tmp_path: Path) -> None:
    """The same cells twice, with equal vectors: kNN with k = 1 would be perfect if one copy could see the other."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(36, 8)).astype(np.float32)
    table = grid_table(vectors, cell_names(), 1, number=rng.normal(size=36))
    path = write(tmp_path / "part.parquet", pa.concat_tables([table, table]))
    for folds in ("blocks", "cells"):
        found = mtembed.evaluate(path, column="number", folds=folds, **NEAR)
        assert score(found, "embedding", "knn-1", "r2", folds).value < 0.3
    assert score(mtembed.evaluate(path, column="number", folds="random", **NEAR), "embedding", "knn-1", "r2",
                 "random").value > 0.3  # fmt: skip


def test_official_split_groups_and_classes_that_cannot_be_learned(tmp_path: Path) -> None:
    known = known_dataset(tmp_path / "data")
    split = ["test" if i % 3 == 0 else "val" if i % 3 == 1 else "train" for i in range(36) for _ in range(4)]
    split[7] = "unused"
    rare = ["rare" if i == 0 else word for i, word in enumerate(known.word)]
    site = [f"site {i // 8}" for i in range(144)]
    path = with_columns(known, tmp_path / "more.parquet", split=split, rare=rare, site=site)
    found = mtembed.evaluate(path, column="number", split_column="split", **QUICK)
    assert score(found, "embedding", "linear", "rmse", "column").n_test == 48
    assert found.rows_dropped == {"neither train nor test in split": 1}
    assert {s.split for _, s in found.scores} == {"column", "blocks"}
    classes = mtembed.evaluate(path, column="rare", group_column="site", **NEAR)
    assert classes.classes == ("forest", "water") and classes.rows_labelled == 143
    assert any("class rare" in text for text in classes.sentences)
    assert {s.split for _, s in classes.scores} == {"groups", "blocks"}


def test_a_column_of_names_of_rows_is_refused_at_once(tmp_path: Path) -> None:
    """Thousands of classes that live in one place each go together, not one by one."""
    known = known_dataset(tmp_path / "data", cell_names(12, 12), 25)
    with pytest.raises(UsageError, match=r"no two classes of unique_id .* 3,590 more\)"):
        mtembed.evaluate(known.path, column="unique_id", **NEAR)
    common = ["forest" if i % 3 else f"stand {i}" if i % 2 else "water" for i in range(3600)]
    path = with_columns(known, tmp_path / "more.parquet", common=common)
    found = mtembed.evaluate(path, column="common", **NEAR)
    assert found.classes == ("forest", "water") and any("and 590 more" in text for text in found.sentences)
    pairs = [f"pair {i % 1800}" for i in range(3600)]
    with pytest.raises(UsageError, match="has 1,800 classes, and 1,000 are the most"):
        mtembed.evaluate(with_columns(known, tmp_path / "pairs.parquet", pairs=pairs), column="pairs",
                         folds="random", fold_count=2, **NEAR)  # fmt: skip


def test_several_labels_at_once(tmp_path: Path) -> None:
    known = known_dataset(tmp_path / "data")
    seen = [[name for name, value in zip("ab", row[:2], strict=True) if value > 0] for row in known.vectors]
    tags = ["; ".join(names) or "c" for names in seen]
    path = with_columns(known, tmp_path / "more.parquet", tags=tags)
    found = mtembed.evaluate(path, column="tags", task="multilabel", output=tmp_path / "out", **QUICK)
    assert found.classes == ("a", "b", "c")
    linear, constant = (score(found, *names, "macro_map") for names in (("embedding", "linear"), ("mean", "constant")))
    assert linear.low > constant.high


def test_one_block_falls_back_to_cells_and_one_cell_is_refused(tmp_path: Path) -> None:
    near = known_dataset(tmp_path / "near", cell_names(3, 3, spread=1), fragments=9)
    found = mtembed.evaluate(near.path, column="number", **NEAR)
    assert {s.split for _, s in found.scores} == {"cells"}
    assert any("one block" in text for text in found.sentences)
    assert all(s.low is None for _, s in found.scores)
    one = known_dataset(tmp_path / "one", ["300U_100R"], fragments=25)
    with pytest.raises(UsageError, match="one grid cell"):
        mtembed.evaluate(one.path, column="number", **NEAR)
    alone = mtembed.evaluate(one.path, column="number", folds="random", **NEAR)
    assert any("no place could be held out" in text for text in alone.sentences)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"column": "number", "max_labels": 10, "fold_count": 11}, "10 labelled rows for 11 folds"),
     ({"column": "number", "split_column": "word"}, "does not split the rows"),
     ({"column": "gone"}, "no column gone")],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(numbers: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MtembedError, match=words) as raised:
        mtembed.evaluate(numbers, **options)
    assert "\n" not in str(raised.value)


def test_health_alone_needs_no_labels_and_names_what_is_broken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(144, 16)).astype(np.float32)
    vectors[:, 5] = 2.0
    vectors[10] = np.nan
    vectors[20] = vectors[21]
    vectors[30] = 0
    path = write(tmp_path / "part.parquet", grid_table(vectors, cell_names(), 4))
    found = mtembed.evaluate(path, output=tmp_path / "out")
    (facts,) = found.health
    assert found.scores == () and found.as_json()["task"] is None
    assert (facts["rows"], facts["not_finite"], facts["zero_vectors"], facts["dead_dimensions"]) == (144, 1, 1, 0)
    assert facts["duplicate_share"] == pytest.approx(2 / 143)
    said = " ".join(found.sentences)
    assert "1 of 144 vectors are not finite" in said and "equal another one" in said
    vectors[30] = 1.0
    vectors[:, 5] = 2.0
    again = mtembed.evaluate(write(tmp_path / "part.parquet", grid_table(vectors, cell_names(), 4)))
    assert again.health[0]["dead_dimensions"] == 1


def test_two_datasets_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    known = known_dataset(tmp_path / "data")
    noise = np.random.default_rng(5).normal(size=(144, 8)).astype(np.float32)
    other = write(tmp_path / "noise.parquet", grid_table(noise, cell_names(), 4, number=known.number))
    found = mtembed.evaluate([known.path, other], column="number", output=tmp_path / "out", **QUICK)
    assert {name for name, _ in found.scores} == {"part_00001.parquet", "noise.parquet"}
    assert any("part_00001.parquet is better" in text for text in found.sentences)
    (pair,) = found.agreement
    assert pair["matched"] == 144 and pair["matched_by"] == ["grid_cell", "pixel_bbox"] and 0 < pair["cka"] < 0.5
    same = mtembed.evaluate([known.path, known.path])
    assert same.agreement[0]["cka"] == pytest.approx(1.0) and same.agreement[0]["retrieval_1"] == 1.0
    assert same.agreement[0]["same_place_cosine"] == pytest.approx(1.0)
    assert same.agreement[0]["shared_neighbours_10"] == 1.0


def test_a_dataset_with_two_dates_says_how_stable_a_place_is(tmp_path: Path) -> None:
    """Each place keeps most of its vector; then nothing of it; then all dates are one."""
    rng = np.random.default_rng(3)
    cells, size = cell_names(), (36 * 4, 24)
    first = rng.normal(size=size).astype(np.float32) + 5  # what all vectors share does not count
    kept = first + 0.3 * rng.normal(size=size).astype(np.float32)
    later = {"timestamp": ["20210701T120000"] * len(first), "product_id": ["S2B"] * len(first)}
    before = grid_table(first, cells, 4)
    for second, low, high in ((kept, 0.9, 0.99), (rng.normal(size=size).astype(np.float32) + 5, -0.1, 0.1)):
        after = grid_table(second, cells, 4, **later)
        path = write(tmp_path / "both.parquet", pa.concat_tables([after, before]))
        (facts,) = (found := mtembed.evaluate(path)).health
        assert facts["two_date_places"] == 144 and low < facts["same_place_cosine"] < high
        assert abs(facts["other_places_cosine"]) < 0.02
        (said,) = (text for text in found.sentences if "two dates" in text)
        assert "144 fragments" in said and said.endswith("a diagnostic of stability, not a score.")
        paths = [write(tmp_path / "one.parquet", before), write(tmp_path / "two.parquet", after)]
        (pair,) = (apart := mtembed.evaluate(paths)).agreement
        assert pair["at_another_date"] == 144 and pair["same_place_cosine"] == pytest.approx(facts["same_place_cosine"])
        assert any("144 of them at another date" in text for text in apart.sentences)
    path = write(tmp_path / "same.parquet", pa.concat_tables([before, before]))
    found = mtembed.evaluate(path)
    assert found.health[0]["two_date_places"] == 0 and not any("two dates" in text for text in found.sentences)


def test_moran_sees_the_grid(tmp_path: Path) -> None:
    """A checkerboard of neighbouring cells, and one of fragments within each cell."""
    cells = cell_names(10, 10, spread=1, first=(0, 0))  # at the equator rows of the grid line up
    sign = np.array([(-1) ** (i + j) for i in range(10) for j in range(10)], np.float32)
    axis = np.zeros(8, np.float32)
    axis[0] = 1
    noise = 0.001 * np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    path = write(tmp_path / "cells.parquet", grid_table(sign[:, None] * axis + noise, cells))
    assert mtembed.evaluate(path).health[0]["moran_cells"] == pytest.approx(-1, abs=0.05)
    smooth = np.repeat(np.arange(10.0), 10).astype(np.float32)[:, None] * axis + noise
    path = write(tmp_path / "smooth.parquet", grid_table(smooth, cells))
    assert mtembed.evaluate(path).health[0]["moran_cells"] > 0.8
    inside = np.tile([(-1) ** (i + j) for i in range(4) for j in range(4)], 9).astype(np.float32)
    few = 0.001 * np.random.default_rng(0).normal(size=(144, 8)).astype(np.float32)
    path = write(tmp_path / "inside.parquet", grid_table(inside[:, None] * axis + few, cell_names(3, 3), 16))
    assert mtembed.evaluate(path).health[0]["moran_fragments"] == pytest.approx(-1, abs=0.05)


def test_something_else_in_the_output_folder_is_left_alone(tmp_path: Path, numbers: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("evaluation.html", "thesis.txt"):
        (tmp_path / "out" / name).write_text("mine")
    for fresh in (False, True):
        with pytest.raises(MtembedError, match="choose another --output"):
            mtembed.evaluate(numbers, output=tmp_path / "out", fresh=fresh)
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"mine"}


def test_a_mistake_does_not_stand_in_the_way_of_the_next_try(tmp_path: Path, numbers: Path) -> None:
    with pytest.raises(UsageError, match="no column nummber"):
        mtembed.evaluate(numbers, column="nummber", output=tmp_path / "out", **NEAR)
    assert not (tmp_path / "out").exists()
    assert mtembed.evaluate(numbers, column="number", output=tmp_path / "out", **NEAR).rows_labelled == 144
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.html", "evaluation.json"]


def test_a_probe_is_not_written_over_something_else(tmp_path: Path, numbers: Path) -> None:
    """Refused before the work, not after it."""
    path = tmp_path / "thesis.safetensors"
    path.write_text("mine")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="is no probe: choose another --save-probe"):
            mtembed.evaluate(numbers, column="number", save_probe=path, fresh=fresh, **NEAR)
    assert path.read_text() == "mine"
    path.unlink()
    mtembed.evaluate(numbers, column="number", save_probe=path, **NEAR)
    first = path.read_bytes()
    mtembed.evaluate(numbers, column="number", save_probe=path, **NEAR)
    assert path.read_bytes() == first
    with pytest.raises(UsageError, match="trained on something else"):
        mtembed.evaluate(numbers, column="word", save_probe=path, **NEAR)
    mtembed.evaluate(numbers, column="word", save_probe=path, fresh=True, **NEAR)
    assert path.read_bytes() != first


def test_algae_is_not_better_than_the_mean(shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "eval/golden/presto.npz")["algae"].astype(np.float32)
    folder = shared / "eval/algae"
    place = np.load(folder / "latlon.npy")
    table = pa.table({
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(golden.reshape(-1)), golden.shape[1]),
        "centre_lat": place[:, 0], "centre_lon": place[:, 1],
        "severity": np.load(folder / "target.npy"), "is_test": np.load(folder / "is_test.npy"),
    })  # fmt: skip
    path = write(tmp_path / "algae.parquet", table)
    found = mtembed.evaluate(
        path, column="severity", task="regression", split_column="is_test", shots="all", resamples=200
    )
    said = [text for text in found.sentences if "not better than" in text]
    assert any("linear probe" in text and "mean" in text for text in said), found.sentences


def test_options_are_documented_one_by_one() -> None:
    from dataclasses import fields

    documented = {line.strip() for line in (EvaluateOptions.__doc__ or "").splitlines()}
    assert all(field.name in documented for field in fields(EvaluateOptions) if field.name != "_")
