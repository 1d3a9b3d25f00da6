"""``mtembed pca`` as it is typed: what it prints, several datasets, and that it is quiet when told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mtembed.cli.console import Speech
from mtembed.cli.working import counting, working
from tests.tools.commands import run
from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

CELLS = [f"{450 + i // 4}U_{120 + i % 4}R" for i in range(12)]


def dataset(root: Path, model: str) -> Path:
    made = grid_table(random_vectors(len(CELLS), seed=len(model)), CELLS)
    write(root / "embeddings" / "part_00001.parquet", made)
    write_manifest(root, model)
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [dataset(folder / name, name) for name in ("rcf", "dinov2", "siglip", "ssl4eo-s2")]


def test_models_side_by_side(roots: list[Path], tmp_path: Path) -> None:
    picture = tmp_path / "figure" / "four.png"
    code, out, err = run(["pca", *map(str, roots), "--picture", str(picture)])
    assert code == 0 and err == ""
    assert all(f"{root.name}: 3 components of 12 vectors of 12 values hold" in out for root in roots)
    assert all((root / "pca" / "map.png").is_file() for root in roots) and str(picture) in out
    with Image.open(picture) as image, Image.open(roots[0] / "pca" / "map.png") as one:
        assert image.format == "PNG" and image.size[0] > one.size[0]
    code, out, _ = run(["pca", *map(str, roots), "--json", "--picture", str(picture)])
    (*_, last) = map(json.loads, out.splitlines())
    assert last["event"] == "result" and [one["model"] for one in last["datasets"]][:2] == ["rcf", "dinov2"]
    assert all(one["nothing_to_do"] for one in last["datasets"]) and last["picture"] == str(picture)


def test_json_and_quiet(roots: list[Path], tmp_path: Path) -> None:
    code, out, err = run(["pca", str(roots[0]), "--output", str(tmp_path / "a"), "--json", "--components", "2"])
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and err == "" and events[-1]["event"] == "result" and events[0]["event"] == "progress"
    wanted = {"output", "dim", "n", "rows", "cells", "explained_variance_ratio", "channel_means", "clipped_fraction"}
    assert wanted <= set(events[-1]) and len(events[-1]["explained_variance_ratio"]) == 2
    assert run(["pca", str(roots[0]), "--output", str(tmp_path / "b"), "--quiet"]) == (0, "", "")


def test_files_are_one_dataset_and_folders_one_each(roots: list[Path], tmp_path: Path) -> None:
    part = str(roots[0] / "embeddings" / "part_00001.parquet")
    again = str(write(tmp_path / "more.parquet", grid_table(random_vectors(12), [f"7U_{i}R" for i in range(12)])))
    code, out, err = run(["pca", part, again, "--output", str(tmp_path / "files"), "--json"])
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["cells"] == 24
    code, _, _ = run(["pca", str(roots[0]), str(roots[1]), "--output", str(tmp_path / "both"), "--quiet"])
    assert code == 0 and sorted(path.name for path in (tmp_path / "both").iterdir()) == ["dinov2", "rcf"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nowhere"], 2, "no file of embeddings matches nowhere"),
        (["ROOT", "--components", "0"], 2, "--components 0 is not possible"),
        (["ROOT", "--scale", "magic"], 2, "--scale"),
        ([], 2, "DATASET"),
    ],
)
def test_what_is_wrong_is_one_sentence(roots: list[Path], words: list[str], code: int, sentence: str) -> None:
    words = [str(roots[0]) if word == "ROOT" else word for word in words]
    ended, out, err = run(["pca", *words])
    assert (ended, out) == (code, "") and err.count("\n") == 1 and sentence in err


def test_the_time_left_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with working(Speech(json=True), clock=lambda: now) as tick:
        for second in range(5):
            now = float(second)
            tick("adding up", 100 * second, 1000)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["eta_s"] for event in events] == [None, 9.0, 8.0, 7.0, 6.0]
    now = 0.0
    with working(Speech(), clock=lambda: now) as tick:
        for second in range(0, 70, 10):
            now = float(second)
            tick("adding up", 10 * second, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "adding up: 300 of 1,000 rows, 1 min 10 s left",
        "adding up: 600 of 1,000 rows, 40 s left",
    ]


def test_a_long_count_says_where_it_is_and_leaves_json_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    for talk in (Speech(), Speech(json=True), Speech(quiet=True)):
        seconds = [0.0]
        with counting(talk, "checking", "rows", clock=lambda passed=seconds: passed[-1]) as tick:
            for second in range(0, 70, 10):
                seconds.append(float(second))
                tick(10 * second, 1000)
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        "checking: 300 of 1,000 rows, 1 min 10 s left",
        "checking: 600 of 1,000 rows, 40 s left",
    ]
