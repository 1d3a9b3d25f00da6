"""What is said of a selection that matches nothing, or less than was named."""

from __future__ import annotations

from collections.abc import Collection

from mtembed.errors import UsageError
from mtembed.run.plan import Plan


def require_selected(plan: Plan) -> None:
    """To be called when no cell was selected.  Raises UsageError, but where other processes may have found some."""
    config = plan.config
    if plan.selection.everything or config.shard_count > 1:
        return
    if config.bbox is None:
        raise UsageError(f"no cell of the shards is named in --cells {config.cells}: nothing matches")
    box = ",".join(f"{value:g}" for value in config.bbox)
    named = f" and is named in --cells {config.cells}" if config.cells else ""
    raise UsageError(f"no cell lies in {box} (W,S,E,N){named}: is it lat/lon swapped?")


def names_missing(plan: Plan, met: Collection[str]) -> tuple[str, ...]:
    """A sentence on the names of ``--cells`` that are in no shard, where there are any."""
    wanted = plan.selection.cells
    missing = len(wanted - set(met)) if wanted else 0
    if not wanted or not missing:
        return ()
    where = "no shard" if plan.config.shard_count == 1 else "no shard of this process"
    verb = "is" if missing == 1 else "are"
    return (f"{missing} of {len(wanted)} names of --cells {verb} in {where}",)
