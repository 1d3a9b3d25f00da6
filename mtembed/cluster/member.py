"""What one task of a cluster does: one process of the run, on the share of a machine that the task was given."""

from __future__ import annotations

import dataclasses
import socket
import threading
from typing import Any, Literal

from mtembed import __version__
from mtembed.config import RunConfig
from mtembed.errors import MtembedError, UsageError
from mtembed.run.embed import Run
from mtembed.run.plan import plan
from mtembed.types import RunSummary

ASK_EVERY_S = 1.0


class Bell:
    """An actor that all processes ask: ``over`` when nothing is left to begin with, ``stop`` when they are to end."""

    def __init__(self) -> None:
        self._state = ""

    def ring(self, state: Literal["over", "stop"]) -> None:
        self._state = state

    def state(self) -> str:
        return self._state


def work(config: RunConfig, version: str, gpus: float, cpus: float, bell: Any) -> RunSummary | None:
    """Take shards of the dataset until none is left, or until the bell says stop; None where it has rung before.

    ``gpus`` and ``cpus`` are what the task was promised; on a machine that has more, the process takes that share of
    it.  Raises MtembedError, with the machine's name before the sentence.
    """
    host = socket.gethostname()
    if _heard(bell):
        return None
    try:
        if version != __version__:
            raise UsageError(f"mtembed {__version__} is installed here, and {version} began the run: install the same")
        share = share_of_machine(gpus, cpus)
        own = dataclasses.replace(config, share_of_machine=share, device=config.device if gpus else "cpu")
        return _execute(own, bell)
    except MtembedError as error:
        raise type(error)(f"{host}: {error}") from None


def _execute(config: RunConfig, bell: Any) -> RunSummary:
    run, ended = Run(plan(config)), threading.Event()
    threading.Thread(target=_listen, args=(run, bell, ended), daemon=True).start()
    try:
        return run.execute()
    finally:
        ended.set()


def _listen(run: Run, bell: Any, ended: threading.Event) -> None:
    """End the run gracefully when the bell says so, or is gone with the program that began the run.

    One that cannot be reached, on a machine with much to do, is asked again.
    """
    import ray

    while not ended.wait(ASK_EVERY_S):
        try:
            state = _heard(bell)
        except ray.exceptions.ActorUnavailableError:
            continue
        except ray.exceptions.RayError:
            state = "stop"
        if state == "stop":
            run.stop()
            return


def _heard(bell: Any) -> str:
    """What the bell says.  Not with ray.get, which gives the cores of a task that waits to another one."""
    said: str = bell.state.remote().future().result()
    return said


def share_of_machine(gpus: float, cpus: float) -> float:
    """The task's share of this machine's GPUs, or of its cores where it has none of them."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    found: dict[str, float] = next((node["Resources"] for node in nodes if node["NodeID"] == here), {})
    wanted, there = (gpus, found.get("GPU", 0.0)) if gpus else (cpus, found.get("CPU", 0.0))
    return min(1.0, wanted / there) if there else 1.0
