"""The demo: the packaged samples from any folder, map, search and picture, and a second start that resumes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mtembed.cli import demo
from mtembed.maps.picture import colours_of
from tests.tools.commands import embeddings, leftovers, run

PACKAGED_BYTES = 10_000_000


@dataclass
class Ended:
    """A demo that ran in ``folder``, and what it printed."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("anywhere")
    code, out, err = run(["demo"], cwd=folder)
    assert code == 0, err
    return Ended(folder, out, err)


def test_each_source_becomes_a_dataset(first: Ended) -> None:
    for source in demo.SOURCES:
        table = pq.read_table(first.folder / "mtembed-demo" / source / "embeddings" / "part_00001.parquet")
        assert table.num_rows == 25
        assert set(table.column("grid_cell").to_pylist()) == {"282D_485L"}
        assert table.schema.field("embedding").type.list_size == 512
        assert not leftovers(first.folder / "mtembed-demo" / source)


def test_three_places_are_mapped_and_searched(first: Ended) -> None:
    places = first.folder / "mtembed-demo" / demo.PLACES
    table = pq.read_table(places / "embeddings" / "part_00001.parquet", columns=["grid_cell", "pixel_bbox"])
    assert set(table.column("grid_cell").to_pylist()) == set(demo.TITLES)
    assert (places / "pca" / "map.png").is_file() and (places / "index" / "index.json").is_file()
    green = first.out.partition("and elsewhere")[2].splitlines()[1:4]
    assert all("Denmark, fields" in line for line in green), "the green strips in Denmark are like the field in Chile"
    row = first.out.partition("--row ")[2].partition(")")[0]
    code, out, err = run(["search", str(places), "--row", row, "--top", "1", "--json"])
    assert code == 0, err
    hit = json.loads(out.splitlines()[0])
    assert (hit["grid_cell"], tuple(hit["pixel_bbox"])) == demo.QUERY


def test_what_comes_next_can_be_typed(first: Ended) -> None:
    lines = [line.strip().partition("  ")[0] for line in first.out.partition("Next:")[2].splitlines()]
    for line in lines:
        if "path/to" not in line and line.startswith("mtembed "):
            code, _, err = run(line.split()[1:], cwd=first.folder)
            assert code == 0, f"{line}: {err}"


def test_it_says_where_things_are_and_what_comes_next(first: Ended) -> None:
    assert str(Path("mtembed-demo") / "demo.png") in first.out
    assert "mtembed report" in first.out and "mtembed --model" in first.out
    assert all(str(Path("mtembed-demo") / source) in first.err for source in demo.SOURCES)


def test_the_picture_is_drawn(first: Ended) -> None:
    with Image.open(first.folder / "mtembed-demo" / "demo.png") as image:
        assert image.format == "PNG" and min(image.size) > 600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100


def test_a_second_start_has_nothing_to_do_and_draws_again(first: Ended) -> None:
    folder = first.folder / "mtembed-demo"
    before = [embeddings(folder / source) for source in demo.SOURCES]
    (folder / "demo.png").unlink()
    code, out, err = run(["demo", "--json"], cwd=first.folder)
    assert code == 0, err
    ends = [event for event in map(json.loads, out.splitlines()) if event["event"] == "end"]
    assert ["nothing to do" in end["message"] for end in ends] == [True] * (len(demo.SOURCES) + 1)
    assert [embeddings(folder / source) for source in demo.SOURCES] == before
    assert (folder / "demo.png").is_file()


def test_the_sample_is_small_and_carries_its_licence() -> None:
    files = [path for path in demo.SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < PACKAGED_BYTES
    licence = (demo.SAMPLE / "LICENSE").read_text()
    assert "CC-BY-SA-4.0" in licence and "modified Copernicus Sentinel data" in licence


@pytest.mark.parametrize("source", demo.SOURCES)
def test_the_sample_has_the_layout_of_core(source: str) -> None:
    folder = demo.SAMPLE / f"Core-{source}"
    shard = pq.ParquetFile(folder / "images" / "part_00001.parquet")
    assert (shard.metadata.num_rows, shard.metadata.num_row_groups) == (1, 1)
    row = shard.read_row_group(0, columns=["product_id", "grid_cell"]).to_pylist()[0]
    (line,) = pq.read_table(folder / "metadata.parquet").to_pylist()
    assert (line["product_id"], line["grid_cell"]) == (row["product_id"], row["grid_cell"])
    assert line["parquet_url"].endswith("/part_00001.parquet") and line["parquet_row"] == 0


def vectors(count: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((count, 12))


def test_colours_say_what_is_alike() -> None:
    three_kinds = vectors(3)[[0, 0, 1, 2, 1]]
    colours = colours_of(three_kinds)
    assert colours.shape == (5, 3) and colours.min() >= 0 and colours.max() <= 1
    assert np.allclose(colours[0], colours[1]) and np.allclose(colours[2], colours[4])
    assert not np.allclose(colours[0], colours[2]) and not np.allclose(colours[0], colours[3])


def test_colours_do_not_depend_on_the_sign_of_a_decomposition() -> None:
    made = vectors(20)
    assert np.allclose(colours_of(made), colours_of(made[::-1])[::-1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_colours_exist_for_few_vectors(count: int) -> None:
    assert np.isfinite(colours_of(vectors(count))).all()
    assert np.ptp(colours_of(np.ones((count, 12)))) == 0
