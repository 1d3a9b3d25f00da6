"""What this machine offers to one process: cores, memory, 16-bit units.  Fixed properties only, never the load."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
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


def gpu_environment(gpu: int) -> dict[str, str]:
    """Variables, to be set before CUDA loads, that show one of ``visible_gpus`` alone; numbered as nvidia-smi does."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return {
        "CUDA_VISIBLE_DEVICES": named[gpu] if gpu < len(named) else str(gpu),
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
    }


def visible_gpus() -> tuple[int, ...]:
    """CUDA devices this process may use, without loading CUDA: asked of the driver, limited by CUDA_VISIBLE_DEVICES."""
    if cpu_cards():
        return tuple(range(cpu_cards()))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = tuple(sorted(int(p.name) for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()))
    if named is None:
        return tuple(range(len(found)))
    return tuple(range(min(len(found), len([n for n in named.split(",") if n.strip() and n.strip() != "-1"]))))


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
