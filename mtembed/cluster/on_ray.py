"""``--cluster ray``: as many processes of one run as a Ray cluster has room for, today and while it grows.

A task is a process that joins the dataset's folder and takes shards by its claims; so any machine may come or go at any
time, what a lost one had half done is taken over, and paths travel, never pixels.  Some tasks more than there is room
for are waiting, so that an autoscaler sees what is wanted; when the first comes back, nothing is left to begin with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtembed import __version__
from mtembed.cluster.member import Bell, work
from mtembed.config import RunConfig
from mtembed.dataset.far import FarDataset
from mtembed.dataset.ours import clear
from mtembed.errors import MtembedError, UsageError, WorkerError
from mtembed.report.status import Status, status_of
from mtembed.run.embed import INTERRUPTED
from mtembed.run.plan import Plan
from mtembed.storage.address import is_address
from mtembed.types import RunSummary

if TYPE_CHECKING:
    from ray import ObjectRef

TURN_S = 1.0
MOST_WAITING = 32  # tasks that there is no room for yet
RETRIES = 10  # of a task whose machine was lost; others have taken over what it had
GRACE_S = 60.0  # from the bell to the end of the last process
STOPPED = 130  # exit code of a process that left work undone when it was told to stop
AGAIN = "run the same command again to go on"
ELSEWHERE = "with --cluster give a folder that all machines see, or s3://BUCKET/FOLDER"
NO_RAY = "--cluster ray needs ray: pip install 'mtembed[ray]'"


class ClusterRun:
    """``execute`` embeds on a cluster; ``stop`` (from a signal handler) lets every process finish what is in flight."""

    def __init__(
        self, planned: Plan, on_status: Callable[[Status], None], on_note: Callable[[str], None] = lambda note: None
    ) -> None:
        """``on_status`` is told about once a second how far the dataset is, over all processes."""
        self._plan, self._on_status, self._on_note = planned, on_status, on_note
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    def execute(self) -> RunSummary:
        """Raises MtembedError: the first that a process named, or WorkerError where machines were lost and lost."""
        began, config, dataset = time.monotonic(), self._plan.config, self._plan.dataset
        if isinstance(dataset, FarDataset) and not dataset.is_exclusive():
            raise UsageError(f"{dataset.place} does not tell processes apart that take the same shard: {ELSEWHERE}")
        if config.fresh:
            with dataset.joined(config.lease):
                dataset.require_alone()
                clear(dataset)
        with _connected(config.cluster or "ray") as ray:
            gpus = self._gpus(ray)
            cpus = 1.0 if gpus else _cores_of_the_smallest(ray)
            bell = _bell(ray)
            member = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(work)
            begin = partial(member.remote, absolute(config), __version__, gpus, cpus, bell)
            last = self._watch(Tasks(ray, begin, partial(_room, ray, gpus, cpus)), bell)
        return self._summary(last, time.monotonic() - began)

    def _gpus(self, ray: Any) -> float:
        """The share of a GPU for each process."""
        wanted = self._plan.config.nodes_gpus
        there = ray.cluster_resources().get("GPU", 0.0)
        if wanted is None:
            return 1.0 if there else 0.0
        if wanted > there:
            self._on_note("no machine of the cluster has such GPUs yet: the run waits for one (--nodes-gpus 0: CPUs)")
        return float(wanted)

    def _watch(self, tasks: Tasks, bell: Any) -> RunSummary | None:
        """Until every task has come back.  Returns what one of them said at its end."""
        rung, since = "", 0.0
        while tasks.left or not rung:
            if not rung:
                tasks.begin(len(self._plan.mine))
            tasks.wait()
            state = "stop" if self._stopping or tasks.error else "over" if tasks.last else ""
            if state and rung != "stop" and state != rung:
                rung, since = state, time.monotonic()
            if rung:  # each turn: a bell that was begun again has forgotten it
                bell.ring.remote(rung)
            if rung and time.monotonic() - since > GRACE_S:
                tasks.cancel()
            self._tell()
        if tasks.error is not None:
            raise tasks.error
        return tasks.last

    def _tell(self) -> None:
        with contextlib.suppress(UsageError):  # nobody has begun yet
            self._on_status(status_of(self._plan.dataset))

    def _summary(self, last: RunSummary | None, seconds: float) -> RunSummary:
        """Of the whole run; the exit code is that of the dataset."""
        dataset = self._plan.dataset
        base = last or RunSummary(str(dataset.place), self._plan.spec.name, self._plan.source)
        if last is None and self._stopping:
            return dataclasses.replace(base, seconds=seconds, exit_code=STOPPED, message=INTERRUPTED)
        found = status_of(dataset)
        failed = found.failed_cells + found.failed_shards
        interrupted = not found.complete and self._stopping
        return dataclasses.replace(
            base,
            cells=found.cells,
            failed=failed,
            failed_shards=found.failed_shards,
            seconds=seconds,
            exit_code=STOPPED if interrupted else 3 if failed else 0 if found.complete else 1,
            message=INTERRUPTED if interrupted else "",
        )


class Tasks:
    """Tasks that were begun: ``left`` have not come back; ``last`` is what one said at its end, ``error`` why one could
    not go on.  One that was told to stop has not come to the end, and another is begun in its place."""

    def __init__(self, ray: Any, begin: Callable[[], ObjectRef[Any]], room: Callable[[], int]) -> None:
        self._ray, self._begin, self._room = ray, begin, room
        self._lost: Exception | None = None
        self.left: list[ObjectRef[Any]] = []
        self.last: RunSummary | None = None
        self._error: Exception | None = None

    @property
    def error(self) -> Exception | None:
        """Machines that were lost are an error only where no task is left and none came to an end."""
        return self._error or (None if self.last or self.left else self._lost)

    def begin(self, most: int) -> None:
        """As many as there is room for, and some that wait."""
        for _ in range(min(most, self._room() + MOST_WAITING) - len(self.left)):
            self.left.append(self._begin())

    def wait(self) -> None:
        """For a second, or until one comes back."""
        done, self.left = self._ray.wait(self.left, timeout=TURN_S)
        for task in done:
            try:
                found = self._ray.get(task)
            except self._ray.exceptions.TaskCancelledError:
                continue
            except self._ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, MtembedError):
                    self._error = self._error or cause
                else:
                    first = str(error).strip().splitlines()[0]
                    self._lost = WorkerError(f"a process on the cluster was lost ({first}): {AGAIN}")
                continue
            if found is not None and found.exit_code != STOPPED:
                self.last = found

    def cancel(self) -> None:
        """Those that find no room, or do not end."""
        for task in self.left:
            self._ray.cancel(task, force=True)


def absolute(config: RunConfig) -> RunConfig:
    """The options for processes in other folders: paths are whole, and nobody starts a cluster of its own."""
    paths = {name: getattr(config, name) for name in ("metadata", "cells")}
    paths["output"] = config.output or f"embeddings-{config.model}"
    if config.weights is not None and Path(config.weights).exists():
        paths["weights"] = config.weights
    whole: dict[str, Any] = {name: _whole(path) for name, path in paths.items() if path is not None}
    shards = tuple(map(_whole, config.shards))
    return dataclasses.replace(config, shards=shards, cluster=None, nodes_gpus=None, fresh=False, **whole)


def _whole(path: str) -> str:
    return path if is_address(path) else str(Path(path).absolute())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster: that of RAY_ADDRESS, or this machine alone.  Raises UsageError."""
    try:
        import ray
    except ImportError:
        raise UsageError(NO_RAY) from None
    where = address if address.startswith("ray://") else os.environ.get("RAY_ADDRESS")
    try:
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        which = where or "of this machine"
        raise UsageError(f"the cluster {which} cannot be reached ({first}): check its address") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _bell(ray: Any) -> Any:
    """On this machine, which the run needs anyhow."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Bell).remote()


def _alive(ray: Any) -> list[dict[str, float]]:
    """What each machine has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _cores_of_the_smallest(ray: Any) -> float:
    """So that on CPUs each machine gets a process."""
    return min((float(has.get("CPU", 1.0)) for has in _alive(ray)), default=1.0)


def _room(ray: Any, gpus: float, cpus: float) -> int:
    """How many processes the machines hold that are there now."""
    name, each = ("GPU", gpus) if gpus else ("CPU", cpus)
    return sum(int(has.get(name, 0.0) / each) for has in _alive(ray))
