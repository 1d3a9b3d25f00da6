"""Networks that look at a fragment's place, or at its neighbours, are found out."""

from __future__ import annotations

import pytest
import torch

from mtembed.engine.independence import position_independent


def own(x: torch.Tensor) -> torch.Tensor:
    return x.double().sum((1, 2, 3))[:, None].float()


def by_place(x: torch.Tensor) -> torch.Tensor:
    vectors = own(x)
    vectors[-2:] = torch.nextafter(vectors[-2:], torch.tensor(torch.inf))
    return vectors


def by_neighbours(x: torch.Tensor) -> torch.Tensor:
    return own(x) + 0.01 * x.mean()


@pytest.mark.parametrize(
    ("network", "expected"),
    [(own, True), (by_place, False), (by_neighbours, False)],
    ids=["own", "by place", "by neighbours"],
)
def test_dependence_is_found(network: object, expected: bool) -> None:
    batch = torch.empty((40, 3, 8, 8))
    assert position_independent(lambda: network(batch), batch) is expected  # type: ignore[operator]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_batches_can_be_tried(count: int) -> None:
    batch = torch.empty((count, 2, 4, 4), dtype=torch.bfloat16)
    assert position_independent(lambda: own(batch), batch)
