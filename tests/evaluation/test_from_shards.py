"""Baselines that the engine makes from the shards: of the same fragments, joined row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mtembed
from mtembed.errors import UsageError
from tests.tools.commands import run
from tests.tools.embeddings import write
from tests.tools.labels import known_dataset
from tests.tools.shards import default_cells, make_shard, place

FRAGMENT, FRAGMENTS = 32, 9  # pixels; of a cell of 96 x 96
QUICK = {"shots": "all", "resamples": 50, "probes": "knn", "neighbours": "5"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of six cells, each in its own block; vectors of a network with random:0; labels of all rows."""
    folder = tmp_path_factory.mktemp("archive")
    cells = [place(cell, grid_cell=f"{433 - 20 * i}D_629L") for i, cell in enumerate(default_cells(6))]
    shards = [
        make_shard(folder / f"S1/part_0000{number}.parquet", some, source="S1RTC").path
        for number, some in enumerate((cells[:4], cells[4:]), 1)
    ]
    mtembed.embed(
        shards, model="ssl4eo-s1", weights="random:0", fragment_size=FRAGMENT, output=folder / "vectors", overlap=0.2
    )
    table = pa.concat_tables([pq.read_table(path) for path in (folder / "vectors/embeddings").iterdir()])
    words = np.random.default_rng(0).choice(["forest", "water"], len(table)).tolist()
    write(folder / "labels.parquet", pa.table({"unique_id": table["unique_id"], "word": words}))
    return folder


def test_band_statistics_random_convolutions_and_random_weights_are_rows_of_every_table(
    archive: Path, tmp_path: Path
) -> None:
    """The vectors are those of random:0 themselves: the baseline of that name scores the same, row joined to row."""
    words = ["evaluate", str(archive / "vectors"), "--labels", str(archive / "labels.parquet"), "--column", "word"]
    words += ["--shots", "all", "--resamples", "50", "--probes", "knn", "--neighbours", "5", "--json"]
    words += ["--output", str(tmp_path / "out"), "--shards", *map(str, sorted((archive / "S1").iterdir()))]
    code, out, err = run(words)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["rows_labelled"] == 6 * FRAGMENTS and not found["rows_dropped"]
    scores = {
        (line["features"], line["metric"]): (line["value"], line["low"], line["high"])
        for line in found["scores"]
        if (line["probe"], line["split"]) == ("knn-5", "blocks")
    }
    assert {"bands", "rcf", "random-weights"} <= {features for features, _ in scores}
    for metric in ("balanced_accuracy", "accuracy"):
        assert scores["random-weights", metric] == scores["embedding", metric]
        assert scores["bands", metric] != scores["embedding", metric] != scores["rcf", metric]
    said = " ".join(found["sentences"])
    assert all(name in said for name in ("band statistics", "random convolutions (rcf)", "random weights"))
    page = (tmp_path / "out/evaluation.html").read_text()
    assert all(name in page for name in ("band statistics", "random convolutions (rcf)", "random weights"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.html", "evaluation.json"]
    assert {one["file"] for one in found["sources"]} >= {"part_00001.parquet", "labels.parquet"}


def test_rows_whose_pixels_are_not_there_are_left_out_of_all(archive: Path) -> None:
    found = mtembed.evaluate(
        _renamed(archive), labels=archive / "labels.parquet", column="word", shards=archive / "S1/part_00001.parquet",
        **QUICK,
    )  # fmt: skip
    assert found.rows_dropped == {"whose pixels are not in --shards": 2 * FRAGMENTS}
    assert {score.n_test for _, score in found.scores} == {4 * FRAGMENTS}
    assert {score.features for _, score in found.scores} >= {"bands", "rcf"}
    assert any("No baseline of random weights" in text for text in found.sentences)


def _renamed(archive: Path) -> Path:
    """The same dataset, made by a model that is not known here."""
    folder = archive / "renamed"
    for path in (archive / "vectors/embeddings").iterdir():
        write(folder / "embeddings" / path.name, pq.read_table(path))
    content = json.loads((archive / "vectors/manifest.json").read_text())
    content["settings"]["model"] = "theirs"
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_shards_that_do_not_fit_are_refused_in_a_sentence(archive: Path, tmp_path: Path) -> None:
    other = make_shard(tmp_path / "S2.parquet", 1).path
    options = {"labels": archive / "labels.parquet", "column": "word", **QUICK}
    with pytest.raises(UsageError, match="--shards are of S2L1C, and vectors was made from S1RTC"):
        mtembed.evaluate(archive / "vectors", shards=[other], **options)
    with pytest.raises(UsageError, match="no shard matches"):
        mtembed.evaluate(archive / "vectors", shards=[tmp_path / "none"], **options)
    with pytest.raises(UsageError, match="has no manifest that says how its fragments were cut"):
        mtembed.evaluate(known_dataset(tmp_path / "data").path, column="word", shards=[other])
    with pytest.raises(UsageError, match="--shards needs labels"):
        mtembed.evaluate(archive / "vectors", shards=[other])
    with pytest.raises(UsageError, match="there is no option shard: did you mean shards"):
        mtembed.evaluate(archive / "vectors", shard=[other])
