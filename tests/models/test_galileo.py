"""Galileo nano with its real weights, against vectors that Galileo's own code made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch

from mtembed import embed, models
from mtembed.errors import WeightsError
from mtembed.kernels.fragment_numpy import constants
from mtembed.models.networks_galileo import normalised_difference, positions
from mtembed.models.weights import resolve
from mtembed.types import Weights
from tests.models.parity.small_networks import image
from tests.tools.chips import CHIPS, TILES, by_band, chip, chip_shard
from tests.tools.shards import BANDS

TOLERANCE = 1e-4
SIDE = 32  # px of a golden tile
GOLDEN = {"S2L2A": "s2l2a", "S2L1C": "s2l1c", "S1RTC": "s1"}
SPEC = models.get("galileo-nano")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def golden(shared: Path, source: str, name: str) -> npt.NDArray[Any]:
    """[49, 128], the tiles of a chip row by row."""
    with np.load(shared / "eval" / "golden" / "galileo_nano_terramind_tiles32.npz") as file:
        return np.asarray(file[GOLDEN[source]][CHIPS[name] * TILES :][:TILES])


def weights(shared: Path) -> Weights:
    return resolve(SPEC, str(shared / "weights" / "galileo_nano" / "encoder.pt"))


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("source", GOLDEN)
def test_vectors_equal_those_of_galileos_own_code(shared: Path, source: Any, name: str) -> None:
    network = SPEC.build(weights(shared), source, SIDE)
    bands, rule = SPEC.bands_for(source), SPEC.normalisation_for(source)
    low, scale = (one[:, None, None] for one in constants(rule, len(bands)))
    pixels = chip(shared, source, name)[[BANDS[source].index(band) for band in bands]]
    x = torch.from_numpy((pixels.astype(np.float32) - low) / scale)
    tiles = x.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).flatten(1, 2).transpose(0, 1).contiguous()
    assert np.abs(network(tiles).numpy() - golden(shared, source, name)).max() < TOLERANCE


@pytest.mark.parametrize("source", ["S2L2A", "S1RTC"])
def test_the_whole_pipeline_gives_these_vectors(shared: Path, source: str, tmp_path: Path) -> None:
    cells = {name: by_band(shared, source, name) for name in CHIPS}
    shard = chip_shard(tmp_path / "images" / "part_00001.parquet", cells)
    file = shared / "weights" / "galileo_nano" / "encoder.pt"
    options = {"fragment_size": SIDE, "overlap": 0.0, "device": "cpu", "workers": 1, "offset": "keep"}
    summary = embed(shard, model="galileo-nano", weights=str(file), output=str(tmp_path / "out"), **options)
    assert summary.embeddings == TILES * len(cells)
    table = pq.read_table(tmp_path / "out" / "embeddings" / "part_00001.parquet")
    found = np.stack(table["embedding"].to_numpy())
    assert np.abs(found - np.concatenate([golden(shared, source, name) for name in cells])).max() < TOLERANCE


def test_the_published_file_is_the_one_at_hand(shared: Path) -> None:
    assert SPEC.published and weights(shared).sha256 == SPEC.published.sha256


def test_an_encoder_that_lacks_a_part_or_has_another_one_is_refused(shared: Path, tmp_path: Path) -> None:
    state = torch.load(shared / "weights" / "galileo_nano" / "encoder.pt", map_location="cpu", weights_only=True)
    state = {key: tensor.clone() for key, tensor in state.items()}
    for change, match in (
        ({"month_embed.weight": None}, "month_embed.weight"),
        ({"head.bias": torch.ones(1)}, "head.bias"),
    ):
        changed = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
        torch.save(changed, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=match):
            SPEC.build(Weights("w.pt", "", tmp_path / "w.pt", None))


def test_pixels_of_nothing_have_no_difference() -> None:
    near, red = torch.tensor([0.0, 3.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 2.0, 0.0])
    assert normalised_difference(near, red).tolist() == [0, 0.5, -1, 0]


def test_a_place_depends_on_both_axes() -> None:
    found = positions(3, 2).reshape(3, 2, 4, 8)
    assert torch.equal(found[0, :, :2], found[2, :, :2]) and torch.equal(found[:, 0, 2:], found[:, 1, 2:])
    assert not torch.equal(found[0, 0], found[0, 1]) and not torch.equal(found[0, 0], found[1, 0])


def test_no_pixel_is_ignored() -> None:
    network = SPEC.build(Weights("random:2", "", None, 2))
    x = image(SPEC, n=1)
    for channel in range(x.shape[1]):
        changed = x.clone()
        changed[0, channel, 50, 60] += 3
        assert not torch.equal(network(changed), network(x)), SPEC.bands[SPEC.source][channel]
