"""Which GPUs torch can use here: asked in a process of its own, ``python -m mtembed.engine.usable``.

It writes one JSON object: ``numbers`` of the GPUs, and the ``problem`` where there are fewer than the machine shows.
A process of its own, because a driver may crash or hang, and because the parent of a run never loads torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch

from mtembed import machine
from mtembed.engine.memory import reason


def usable_gpus() -> machine.Gpus:
    """Numbers of the GPUs that work, in the order of CUDA_VISIBLE_DEVICES or of the PCI bus."""
    if torch.version.cuda is None:
        return machine.Gpus((), f"this build of torch ({torch.__version__}) is for CPUs only")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        return machine.Gpus((), reason(error))
    slices = machine.mig_slices()
    if slices and count:  # a process sees one slice of a GPU, so that the others cannot be asked
        problem = _problem(0)
        return machine.Gpus(() if problem else tuple(range(slices)), problem)
    problems = [_problem(number) for number in range(count)]
    numbers = tuple(number for number, problem in enumerate(problems) if not problem)
    return machine.Gpus(numbers, next(filter(None, problems), "" if count else "the driver shows no GPU"))


def _problem(number: int) -> str:
    """Why a GPU cannot be used; nothing where it can."""
    name = torch.cuda.get_device_name(number)
    capability = torch.cuda.get_device_capability(number)
    if not has_code(capability, torch.cuda.get_arch_list()):
        version = ".".join(map(str, capability))
        return f"this build of torch ({torch.__version__}) has no code for {name} (compute capability {version})"
    try:
        torch.ones(8, device=f"cuda:{number}").sum().item()
    except RuntimeError as error:
        return f"{name}: {reason(error)}"
    return ""


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether one of torch's architectures runs on a device: ``sm_86`` on 8.6 to 8.9, ``compute_80`` on all from 8.0.

    CUDA C++ Programming Guide, binary and PTX compatibility.
    """
    for one in architectures:
        kind, _, digits = one.partition("_")
        digits = digits.rstrip("af")  # sm_90a runs on 9.0 alone; it comes beside sm_90
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= tuple(capability):
            return True
    return False


def main() -> None:
    found = usable_gpus()
    sys.stdout.write(json.dumps({"numbers": found.numbers, "problem": found.problem}) + "\n")


if __name__ == "__main__":
    main()
