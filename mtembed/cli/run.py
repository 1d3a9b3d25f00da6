"""``mtembed run``, also without the word: shards in, a dataset of embeddings out."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Collection
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.console import INTERRUPTED, Speech
from mtembed.cli.options import SPEECH, Talk
from mtembed.config import RunConfig

if TYPE_CHECKING:
    from mtembed.cluster.on_ray import ClusterRun
    from mtembed.report.status import Status
    from mtembed.run.embed import Run
    from mtembed.run.plan import Plan

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def run(config: Annotated[RunConfig, Parameter(name="*")], *, talk: Talk = SPEECH) -> int:
    """Embed every fragment of every cell of Major TOM Core shards."""
    from mtembed.run.plan import plan

    planned = plan(config)
    if config.dry_run:
        from mtembed.cli.working import counting
        from mtembed.run.dryrun import estimate

        with counting(talk, "opening", "shards") as tick:
            found = estimate(planned, tick)
        talk.show(found.text(), [found.facts()])
        return 0
    return on_cluster(planned, talk) if config.cluster else execute(planned, talk)


def execute(planned: Plan, talk: Speech, remake: Collection[str] = ()) -> int:
    """One run with its view; returns the exit code.  ``remake``: stems of finished parts that are made again."""
    from mtembed.cli.views import view
    from mtembed.run.embed import Run

    tempfile.gettempdir()  # raises what `main` explains, before anything is started or written
    shown = view(talk)
    try:
        work = Run(planned, shown.tick, shown.note, remake=remake)
        _handle_signals(work)
        result = work.execute()
    finally:
        shown.close()
    shown.end(result)
    return result.exit_code


def on_cluster(planned: Plan, talk: Speech) -> int:
    """One run of many processes with one view; returns the exit code."""
    from mtembed.cli.views import JsonView, PlainView, QuietView
    from mtembed.cli.working import working
    from mtembed.cluster.on_ray import ClusterRun

    shown = JsonView() if talk.json else QuietView() if talk.quiet else PlainView()
    with working(talk, unit="cells") as tick:

        def tell(found: Status) -> None:
            if found.cells_total:
                tick(f"embedding, {found.processes:,} at work", found.cells, found.cells_total)

        work = ClusterRun(planned, tell, shown.note)
        _handle_signals(work)
        result = work.execute()
    shown.end(result)
    return result.exit_code


def _handle_signals(work: Run | ClusterRun) -> None:
    """First SIGINT, SIGTERM or SIGUSR1: finish what is in flight.  Second: leave at once; what is safe stays safe."""

    def stop(number: int, frame: FrameType | None) -> None:
        for name in SIGNALS:
            signal.signal(name, leave)
        work.stop()

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(INTERRUPTED)

    for name in SIGNALS:
        signal.signal(name, stop)
