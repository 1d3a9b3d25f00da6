"""``--decoder auto``: the decision from four numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.run.decoder_choice import rates

SECONDS = st.floats(1e-4, 10)


@pytest.mark.parametrize(
    ("reading_s", "decoding_s", "network_s", "gpu_decoding_s", "worth_it"),
    [
        (0.005, 0.030, 0.010, 0.004, True),  # the decode workers are the limit
        (0.005, 0.030, 0.050, 0.004, False),  # they keep up, and the GPU has enough to do
        (0.005, 0.030, 0.010, 0.040, False),  # the GPU is no faster
        (0.040, 0.005, 0.010, 0.004, True),  # some of it
        (0.040, 0.001, 0.010, 0.004, False),  # reading is the limit, whoever decodes
    ],
)
def test_the_work_moves_only_where_that_is_faster(
    reading_s: float, decoding_s: float, network_s: float, gpu_decoding_s: float, worth_it: bool
) -> None:
    found = rates(reading_s=reading_s, decoding_s=decoding_s, network_s=network_s, gpu_decoding_s=gpu_decoding_s)
    assert found.gpu_is_worth_it == worth_it


@given(reading=SECONDS, decoding=SECONDS, network=SECONDS, gpu=SECONDS)
def test_decode_workers_that_keep_up_keep_the_work(reading: float, decoding: float, network: float, gpu: float) -> None:
    found = rates(reading_s=reading, decoding_s=decoding, network_s=network, gpu_decoding_s=gpu)
    if reading + decoding <= network:
        assert not found.gpu_is_worth_it and found.on_cpu == pytest.approx(1 / network)
