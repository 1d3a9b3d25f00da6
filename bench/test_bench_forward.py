"""CPU time of the network on one batch, per engine and precision, next to the network as its library builds it."""

from __future__ import annotations

import importlib.util
import time

import pytest
import torch

from bench.conftest import Paired
from mtembed import machine, models
from mtembed.engine.arithmetic import TORCH_DTYPE, exact_fp32
from mtembed.engine.cpu import CpuDevice
from mtembed.engine.packed import pack
from mtembed.messages import DeviceJob
from mtembed.models import weights
from mtembed.models.networks import optimise

FRAGMENTS = 25
BATCH = {"rcf": 8, "ssl4eo-s2": 8, "ssl4eo-s1": 8, "dinov2": 5}
ENGINES = [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]


@pytest.mark.benchmark(group="forward", timer=time.process_time)
@pytest.mark.parametrize(("engine", "precision"), ENGINES, ids=["-".join(one) for one in ENGINES])
@pytest.mark.parametrize("model", BATCH)
def test_forward(paired: Paired, model: str, engine: str, precision: str) -> None:
    """One thread, as device workers on a CPU have where the model fits often enough."""
    if engine == "openvino" and (model == "rcf" or importlib.util.find_spec("openvino") is None):
        pytest.skip("not with this engine here")
    if precision == "bf16" and (model == "rcf" or not machine.fast_bf16()):
        pytest.skip("no fast bfloat16 here")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    exact_fp32()
    spec, batch = models.get(model), BATCH[model]
    found = weights.resolve(spec, None if model == "rcf" else "random:1")
    network = CpuDevice(DeviceJob(model, spec.source, found, spec.size, precision, batch, 1, engine)).network
    network.input[...] = 0
    plain = spec.build(found, spec.source)
    images = torch.rand(batch, len(spec.bands_for(spec.source)), spec.size, spec.size)
    paired(lambda: network(batch), lambda: plain(images), "plain network, fp32, NCHW", 4, batch / FRAGMENTS)


@pytest.mark.benchmark(group="forward", timer=time.process_time)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["ssl4eo-s2", "dinov2"])
def test_packed(paired: Paired, model: str, precision: str) -> None:
    """What packing gains over the same network, folded and in the same type, in torch's own modules."""
    if precision == "bf16" and not machine.fast_bf16():
        pytest.skip("no fast bfloat16 here")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    exact_fp32()
    spec, batch, dtype = models.get(model), BATCH[model], TORCH_DTYPE[precision]
    found = weights.resolve(spec, "random:1")
    plain, packed = (optimise(spec.build(found), dtype, True) for _ in range(2))
    images = torch.rand(batch, len(spec.bands_for(spec.source)), spec.size, spec.size).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    packed = pack(packed, images[:1])
    paired(lambda: packed(images), lambda: plain(images), "torch's modules, folded, same type", 4, batch / FRAGMENTS)
