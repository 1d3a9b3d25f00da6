"""Networks on CPUs and GPUs: decoded cells in, vectors out.  See ``open_device``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtembed.engine.device import Device
    from mtembed.messages import DeviceJob
    from mtembed.ring import Ring

__all__ = ["open_device"]


def open_device(job: DeviceJob, ring: Ring) -> Device:
    """Return the device that a worker was told to use; ``ring`` is its lane's.  Loads torch."""
    import torch

    from mtembed import machine
    from mtembed.engine.arithmetic import exact_fp32

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    exact_fp32()
    if job.card is None:
        from mtembed.engine.cpu import CpuDevice

        return CpuDevice(job)
    from mtembed.engine.gpu import GpuDevice

    return GpuDevice(job, ring, torch.device("cpu") if machine.cpu_cards() else torch.device("cuda", 0))
