"""Pictures go through the engine as cells do; words through the text tower; hits can be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio import Affine

import mtembed
from mtembed.errors import UsageError, WeightsError
from mtembed.models import get
from mtembed.similarity.sheet import draw
from tests.tools.shards import Shard, default_cells, make_shard, plane

SIDE, SIZE = 64, 32


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shard]:
    """Two cells of four fragments, and the shard they came from."""
    folder = tmp_path_factory.mktemp("radar")
    shard = make_shard(folder / "images/part_00001.parquet", default_cells(2, SIDE), "S1RTC", side=SIDE)
    mtembed.embed(shard.path, "rcf", output=folder / "out", fragment_size=SIZE, overlap=0.0, device="cpu")
    return folder / "out", shard


@pytest.fixture(scope="module")
def optical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optical")
    shard = make_shard(folder / "images/part_00001.parquet", default_cells(2, 56), "S2L2A", side=56)
    options = {"weights": "random:3", "fragment_size": 28, "precision": "fp32", "device": "cpu"}
    mtembed.embed(shard.path, "dinov2", output=folder / "out", **options)
    return folder / "out"


def write_bands(path: Path, bands: list[np.ndarray], names: list[str] | None = None) -> Path:  # type: ignore[type-arg]
    rows, cols = bands[0].shape
    profile = {"driver": "GTiff", "height": rows, "width": cols, "count": len(bands), "dtype": bands[0].dtype}
    with rasterio.open(
        path, "w", crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 10_000), **profile
    ) as file:
        for number, band in enumerate(bands, 1):
            file.write(band, number)
            if names:
                file.set_band_description(number, names[number - 1])
    return path


def test_the_image_of_a_fragment_finds_the_fragment(radar: tuple[Path, Shard], tmp_path: Path) -> None:
    out, shard = radar
    cut = {band: plane(shard.cells[1], band, "S1RTC")[SIZE:, :SIZE] for band in ("vv", "vh")}
    image = write_bands(tmp_path / "chip.tif", [cut["vv"], cut["vh"]])
    hit = mtembed.search(out, image=image, top=1).hits[0]
    assert (hit.grid_cell, hit.pixel_bbox) == (shard.cells[1].grid_cell, (0, SIZE, SIZE, 2 * SIZE))
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    named = write_bands(tmp_path / "named.tif", [cut["vh"], cut["vh"] * 0, cut["vv"]], ["VH", "mask", "VV"])
    assert mtembed.search(out, image=named, top=1).hits[0] == hit


def test_images_that_do_not_fit_are_one_sentence(radar: tuple[Path, Shard], tmp_path: Path) -> None:
    out, _ = radar
    pixels = np.ones((SIZE, SIZE), np.float32)
    small = write_bands(tmp_path / "small.tif", [pixels[:8], pixels[:8]])
    three = write_bands(tmp_path / "three.tif", [pixels] * 3)
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "text.tif").write_text("no picture")
    for path, sentence in (
        (small, "has 8 x 32 px"),
        (three, "has not the 2 bands that rcf needs"),
        (tmp_path / "photo.png", "has not the 2 bands"),
        (tmp_path / "text.tif", "has not the 2 bands"),
        (tmp_path / "missing.tif", "is not a file"),
    ):
        with pytest.raises(UsageError, match=sentence):
            mtembed.search(out, image=path)


def test_any_picture_serves_a_model_of_red_green_blue(optical: Path, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    first = mtembed.search(optical, image=tmp_path / "photo.png", top=3)
    assert len(first.hits) == 3
    assert first.hits == mtembed.search(optical, image=tmp_path / "photo.png", top=3).hits
    with pytest.raises(UsageError, match="these weights are not those of out"):
        state = get("dinov2").build(_weights(tmp_path), size=28).state_dict()
        torch.save({key.removeprefix("trunk."): value for key, value in state.items()}, tmp_path / "other.pth")
        mtembed.search(optical, image=tmp_path / "photo.png", weights=tmp_path / "other.pth")


def _weights(folder: Path):  # type: ignore[no-untyped-def]
    from mtembed.models.weights import resolve

    return resolve(get("dinov2"), "random:4")


def test_words_need_a_model_that_reads_and_weights_that_were_trained(optical: Path) -> None:
    with pytest.raises(UsageError, match="dinov2 has none: embed with siglip"):
        mtembed.search(optical, text="a harbour")
    from mtembed.engine.text import text_vector

    with pytest.raises(WeightsError, match="these are random:1"):
        text_vector(get("siglip"), "random:1", "a harbour")


def test_a_file_without_a_text_tower_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from mtembed.engine.text import text_vector

    save_file({"visual.trunk.norm.weight": torch.ones(3)}, tmp_path / "visual.safetensors")
    with pytest.raises(WeightsError, match="has no text tower"):
        text_vector(get("siglip"), str(tmp_path / "visual.safetensors"), "a harbour")


def test_the_text_tower_is_open_clip_s() -> None:
    """A small pair with the options of SigLIP: the same tokens, the same vectors."""
    import open_clip
    from open_clip.model import CustomTextCLIP

    from mtembed.engine.text import text_tower

    config = open_clip.get_model_config("ViT-SO400M-14-SigLIP-384")
    text = {**config["text_cfg"], "width": 32, "heads": 4, "layers": 2, "vocab_size": 64}
    vision = {"layers": 1, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 32}
    theirs = CustomTextCLIP(32, vision, {**text, "hf_tokenizer_name": None}).eval()
    ours = text_tower(text, 32)
    state = theirs.state_dict()
    ours.load_state_dict({k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}, assign=True)
    tokens = torch.randint(1, 64, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(tokens), theirs.encode_text(tokens))


def test_a_contact_sheet_shows_the_pixels_of_the_hits(radar: tuple[Path, Shard], tmp_path: Path) -> None:
    out, shard = radar
    row = mtembed.search(out, at=_middle(out), top=6).hits
    assert draw(row, [str(shard.path)], tmp_path / "hits.png") == 6
    with Image.open(tmp_path / "hits.png") as image:
        assert image.width > image.height > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    other = make_shard(tmp_path / "part_00009.parquet", default_cells(4, SIDE)[3:], "S1RTC", side=SIDE)
    with pytest.raises(UsageError, match="none of the hits' cells"):
        draw(row, [str(other.path)], tmp_path / "none.png")


def _middle(out: Path) -> tuple[float, float]:
    import pyarrow.parquet as pq

    table = pq.read_table(out / "embeddings/part_00001.parquet", columns=["centre_lat", "centre_lon"])
    return table["centre_lat"][0].as_py(), table["centre_lon"][0].as_py()
