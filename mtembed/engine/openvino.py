"""The network on the CPU through OpenVINO: converted from torch in memory, for any batch; see ``--engine``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mtembed.messages import DeviceJob
from mtembed.models import ModelSpec
from mtembed.types import FloatArray

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names for what its CPU plugin computes in."""


class OpenVinoNetwork:
    """Up to ``batch`` fragments at a time."""

    def __init__(self, job: DeviceJob, spec: ModelSpec) -> None:
        import openvino

        shape = (job.batch, len(spec.bands_for(job.source)), job.size, job.size)
        network: Any = spec.build(job.weights, job.source, job.size)
        network.fold()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing remarks on shapes that are constant here
            model = openvino.convert_model(network, example_input=torch.zeros(shape), input=[(-1, *shape[1:])])
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[job.precision],
            "INFERENCE_NUM_THREADS": job.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # several workers would pin themselves to the same cores
        }
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self.input = np.zeros(shape, np.float32)
        self._tensor = openvino.Tensor
        self.versions: Mapping[str, str] = {"torch": str(torch.__version__), "openvino": openvino.__version__}

    def __call__(self, count: int) -> FloatArray:
        self._request.set_input_tensor(self._tensor(self.input[:count], shared_memory=True))
        self._request.infer()
        vectors: FloatArray = self._request.get_output_tensor().data
        return vectors
