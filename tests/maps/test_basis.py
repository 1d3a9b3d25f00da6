"""From scores to colours: equal means, what is clipped, degenerate data, and a basis read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.errors import OutputError, UsageError
from mtembed.maps.basis import Basis, Colouring, Counts, Ranges, Scale, as_json, balanced, read_basis
from mtembed.maps.moments import Accumulator


def scores(count: int, seed: int = 0) -> np.ndarray:
    """Three components, differently skewed."""
    random = np.random.default_rng(seed)
    made = [random.gamma(2.0, 3.0, count), random.normal(0.0, 2.0, count), -random.gamma(1.0, 1.0, count)]
    return np.stack(made, axis=1).astype(np.float32)


def colouring(values: np.ndarray, scale: Scale = "gain", clip: float = 0.0) -> Colouring:
    ranges = Ranges(min(3, values.shape[1]))
    ranges.add(values)
    counts = Counts(ranges.pairs())
    counts.add(values)
    if clip:
        counts = Counts(counts.within(clip))
        counts.add(values)
    return balanced(counts, scale)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(500, 3000), seed=st.integers(0, 1000), scale=st.sampled_from(["gain", "gamma"]))
def test_channels_have_equal_means_and_nothing_is_clipped(count: int, seed: int, scale: Scale) -> None:
    values = scores(count, seed)
    found = colouring(values, scale)
    colours = found.colours(values)
    assert colours.dtype == np.uint8 and np.ptp(colours.mean(axis=0)) <= 0.5
    assert found.clipped(values) == 0
    if scale == "gain":
        assert max(found.gains) == 1.0 and min(found.gains) > 0
    assert (colours.min(axis=0) == 0).all() and colours.max() == 255


@pytest.mark.parametrize("scale", ["gain", "gamma"])
def test_clipping_gives_the_range_to_the_many(scale: Scale) -> None:
    values = scores(2000)
    values[0] = (1000.0, -1000.0, 1000.0)  # one odd cell takes all the range
    assert colouring(values, scale).colours(values)[1:, 0].max() < 60 or scale == "gamma"
    found = colouring(values, scale, clip=0.5)
    colours = found.colours(values)
    assert np.ptp(colours.mean(axis=0)) <= 0.5 and colours[1:, 0].max() > 150
    assert 0 < found.clipped(values) <= 3 * 2000 * 0.0105


def test_the_scale_does_not_depend_on_the_order_of_the_rows() -> None:
    values = scores(3000)
    whole = colouring(values)
    ranges = Ranges(3)
    for part in np.array_split(values[::-1], 7):
        ranges.add(part)
    counts = Counts(ranges.pairs())
    for part in np.array_split(values[::-1], 11):
        counts.add(part)
    assert balanced(counts, "gain") == whole


@pytest.mark.parametrize(("components", "alike"), [(1, (0, 1, 2)), (2, ()), (5, ())])
def test_fewer_or_more_components_than_channels(components: int, alike: tuple[int, ...]) -> None:
    values = np.concatenate([scores(200), scores(200, 1)], axis=1)[:, :components]
    colours = colouring(values).colours(values)
    assert colours.shape == (200, 3)
    assert all((colours[:, i] == colours[:, 0]).all() for i in alike)


def test_vectors_that_are_all_alike_are_grey() -> None:
    accumulator = Accumulator(6)
    accumulator.add(np.ones((10, 6), np.float32))
    basis = Basis.of(accumulator.result(), 3)
    values = basis.scores(np.ones((10, 6), np.float32))
    assert (basis.ratio == 0).all() and np.ptp(colouring(values).colours(values)) == 0


@pytest.mark.parametrize(("rows", "components"), [(3, 3), (0, 1), (20, 7)])
def test_too_few_vectors_or_values(rows: int, components: int) -> None:
    accumulator = Accumulator(6)
    accumulator.add(np.random.default_rng(0).random((rows, 6), np.float32))
    with pytest.raises(UsageError, match=r"too few|more than the 6 values"):
        Basis.of(accumulator.result(), components)


def test_a_rotation_of_the_values_changes_no_colour() -> None:
    random = np.random.default_rng(0)
    vectors = (random.standard_normal((400, 8)) * np.geomspace(5, 0.1, 8)).astype(np.float32)
    order = random.permutation(8)
    found = []
    for made in (vectors, np.ascontiguousarray(vectors[:, order])):
        accumulator = Accumulator(8)
        accumulator.add(made)
        basis = Basis.of(accumulator.result(), 3)
        found.append(basis.scores(made))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)  # a permutation keeps the largest loading


def made_basis() -> tuple[Basis, Colouring]:
    accumulator = Accumulator(6)
    vectors = np.random.default_rng(0).random((50, 6), np.float32)
    accumulator.add(vectors)
    basis = Basis.of(accumulator.result(), 3, "rcf")
    return basis, colouring(basis.scores(vectors))


def test_a_basis_reads_back_bit_for_bit(tmp_path: Path) -> None:
    basis, colours = made_basis()
    (tmp_path / "pca.json").write_text(json.dumps(as_json(basis, colours)))
    again, same = read_basis(tmp_path / "pca.json")
    assert same == colours and again.model == "rcf" and again.n == 50
    assert np.array_equal(again.mean, basis.mean) and np.array_equal(again.components, basis.components)


@pytest.mark.parametrize(
    "change",
    [
        {"components": [[1.0]]}, {"mean": "x"}, {"mean": None}, {"gains": []}, {"ranges": [[0.0]]}, {"n": None},
        {"components": [[float("nan")] * 6] * 3},
    ],
)  # fmt: skip
def test_another_file_is_no_basis(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "pca.json"
    path.write_text(json.dumps({**as_json(*made_basis()), **change}))
    with pytest.raises(OutputError, match=r"name a pca\.json that mtembed pca wrote"):
        read_basis(path)
    path.write_text("[]")
    with pytest.raises(OutputError):
        read_basis(path)
    with pytest.raises(UsageError, match="does not exist"):
        read_basis(tmp_path / "other.json")
