"""What a measurement on a GPU was made on, and how the card fared meanwhile; from NVML where that is installed."""

from __future__ import annotations

import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch

from mtembed import machine

PACKAGES = ("torch", "timm", "numpy", "numba", "cuda-bindings", "cupy-cuda13x", "nvidia-cudnn-cu13", "nvidia-cublas")


def facts(cpu: bool) -> dict[str, Any] | None:
    """Device, driver, versions, processor.  None where no GPU can be used."""
    if not cpu and not torch.cuda.is_available():
        return None
    name = machine.cpu_name() if cpu else torch.cuda.get_device_name()
    versions = {"python": sys.version.split()[0], "cuda": str(torch.version.cuda)}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": name,
        "processor": machine.cpu_name(),
        "cores": machine.cores(),
        "memory_bytes": machine.memory_bytes(),
        "versions": versions,
        **({} if cpu else {"gpu": _card()}),
    }


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _card() -> dict[str, Any]:
    major, minor = torch.cuda.get_device_capability()
    found: dict[str, Any] = {
        "capability": f"{major}.{minor}",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
    }
    nvml = _nvml()
    if nvml is not None:
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        found["driver"] = str(nvml.nvmlSystemGetDriverVersion())
        found["pcie_generation"] = nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)
        found["pcie_width"] = nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)
        found["power_limit_w"] = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
        found["max_sm_mhz"] = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    return found


class Watch:
    """Once a second, while inside: power, clocks, temperature, why the card throttles."""

    def __init__(self) -> None:
        self._nvml = _nvml() if torch.cuda.is_available() else None
        self._seen: list[tuple[float, float, float]] = []
        self._throttled = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        if self._nvml is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._nvml is not None:
            self._thread.join()

    def _watch(self) -> None:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        while not self._stop.wait(1.0):
            power = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
            heat = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            self._seen.append((power, clock, heat))
            self._throttled |= int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def as_json(self) -> dict[str, Any]:
        """Medians; ``throttle_reasons`` is the union of NVML's bits."""
        if not self._seen:
            return {}
        power, clock, heat = (median(values) for values in zip(*self._seen, strict=True))
        return {"power_w": power, "sm_mhz": clock, "celsius": heat, "throttle_reasons": self._throttled}
