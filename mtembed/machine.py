"""What this machine offers to one process: cores, memory, 16-bit units.  Fixed properties only, never the load."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from mtembed.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")


def cores(share: float = 1.0) -> int:
    """Usable cores, of which a process may take ``share``: at least 1."""
    return max(1, int(_cores() * share + 0.5))


def memory_bytes(share: float = 1.0) -> int:
    """Usable memory in bytes, of which a process may take ``share``."""
    return int(_memory_bytes() * share)


@cache
def _cores() -> int:
    """The smaller of CPU affinity and the cgroup's quota, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(CGROUP)
    return max(1, count if quota is None else min(count, int(quota + 0.5)))


@cache
def _memory_bytes() -> int:
    """The smaller of the machine's memory and the cgroup's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _memory_limit(CGROUP)
    return total if limit is None else min(total, limit)


@cache
def fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's bf16)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@cache
def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_cards() -> int:
    """``MTEMBED_CPU_CARDS``: so many GPUs are pretended and computed on the CPU, to try several cards without one."""
    word = os.environ.get("MTEMBED_CPU_CARDS", "")
    return int(word) if word.isascii() and word.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs by number; ``problem`` says why there are fewer than the machine shows."""

    numbers: tuple[int, ...]
    problem: str = ""


def gpu_environment(gpu: int) -> dict[str, str]:
    """Variables, to be set before CUDA loads, that show one of ``visible_gpus`` alone; numbered as nvidia-smi does."""
    named = _named_gpus() or ()
    return {
        "CUDA_VISIBLE_DEVICES": named[gpu] if gpu < len(named) else str(gpu),
        "CUDA_DEVICE_ORDER": device_order(),
    }


def device_order() -> str:
    """CUDA_DEVICE_ORDER for every process of ours, so that numbers mean the same GPUs in all."""
    return os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def visible_gpus() -> tuple[int, ...]:
    """GPUs that this process may use as the system shows them, without loading CUDA: whether torch can is not asked.

    Those that CUDA_VISIBLE_DEVICES names (numbers, UUIDs, slices of a GPU), else the driver's device files.
    """
    if cpu_cards():
        return tuple(range(cpu_cards()))
    named = _named_gpus()
    if named is not None:
        return tuple(range(len(named)))
    return tuple(range(len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])))


def shows_gpus() -> bool:
    """Whether there are signs of a GPU: device files or names, or the one device of Windows' Linux (WSL 2)."""
    return bool(visible_gpus()) or (_named_gpus() is None and Path("/dev/dxg").exists())


def mig_slices() -> int:
    """How many slices of GPUs (multi-instance GPU) CUDA_VISIBLE_DEVICES names; 0 where it names none."""
    named = _named_gpus() or ()
    return len(named) if any(name.startswith("MIG-") for name in named) else 0


def _named_gpus() -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES names; None where it is not set.

    CUDA stops at the first name that is none, such as -1; ``NoDevFiles`` is what Slurm sets for a job without GPUs.
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    return tuple(takewhile(lambda name: name.isdecimal() or name.startswith(("GPU-", "MIG-")), names))


def require_supported() -> None:
    """Raises UsageError on systems without the processes and shared memory that a run is made of."""
    if sys.platform not in ("linux", "darwin"):
        raise UsageError(f"mtembed runs on Linux and macOS, not on {sys.platform}: use one of them, or WSL on Windows")


def _cpu_quota(root: Path) -> float | None:
    """cgroup v2 ``cpu.max`` or v1 ``cpu.cfs_quota_us``, in cores, the smallest on the way up; None without a limit."""
    quotas = []
    for folder in _cgroup_folders(root, ""):
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
    for folder in _cgroup_folders(root / "cpu", "cpu"):
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            quotas.append(int(quota[0]) / int(period[0]))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    """cgroup v2 ``memory.max`` or v1 ``memory.limit_in_bytes``, the smallest on the way up; None without a limit."""
    files = [folder / "memory.max" for folder in _cgroup_folders(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroup_folders(root / "memory", "memory")]
    limits = [int(words[0]) for file in files if (words := _words(file)) and words[0] != "max"]
    return min((limit for limit in limits if limit < 1 << 60), default=None)


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """The process's own group, its parents, and the mount itself (which is the own group inside a container)."""
    own = ""
    for line in _lines(Path("/proc/self/cgroup")):
        _, names, path = line.split(":", 2)
        if names == controller or controller in names.split(","):
            own = path.lstrip("/")
    folder = root / own
    return [folder, *[p for p in folder.parents if p.is_relative_to(root)]]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []
