"""``mtembed verify``: a finished dataset, read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mtembed.cli.console import INTERRUPTED, Speech
from mtembed.cli.options import SPEECH, Run, Talk
from mtembed.cli.working import counting
from mtembed.errors import UsageError
from mtembed.storage.address import is_address

if TYPE_CHECKING:
    from mtembed.check.findings import Verdict


def verify(
    directory: Run,
    /,
    *,
    shards: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, help="The input it was made from, to be compared.")
    ] = (),
    repair: Annotated[bool, Parameter(help="Make bad parts again from the input (--shards), then check once more.")] = (
        False
    ),
    weights: Annotated[str | None, Parameter(help="With --repair: the file, if it is not the published one.")] = None,
    cells: Annotated[str | None, Parameter(help="With --repair: the list of cells, where there was one.")] = None,
    metadata: Annotated[str | None, Parameter(help="With --repair: Core's metadata.parquet, as in the run.")] = None,
    talk: Talk = SPEECH,
) -> int:
    """Read a finished dataset back and check every file and every row."""
    if repair and not shards:
        raise UsageError("--repair makes parts from the input: name it with --shards")
    if repair and is_address(directory):
        raise UsageError("--repair writes into the folder of a dataset: give one on this machine, not an address")
    verdict = _checked(directory, shards, talk)
    if repair and verdict.bad_parts:
        from mtembed.cli.run import execute
        from mtembed.run.repair import repairs

        for planned, stems in repairs(
            Path(directory), verdict.bad_parts, shards, weights=weights, cells=cells, metadata=metadata
        ):
            code = execute(planned, talk, stems)
            if code == INTERRUPTED:
                return code
        verdict = _checked(directory, shards, talk)
    return 0 if verdict.ok else 1


def _checked(directory: str, shards: tuple[str, ...], talk: Speech) -> Verdict:
    """The verdict, which is shown."""
    from mtembed.check import verify as checks
    from mtembed.dataset.at_hand import part_by_part

    with part_by_part(directory) as (folder, each), counting(talk, "checking", "rows") as tick:
        verdict = checks.verify(folder, shards, tick, each)
    talk.show("\n".join([*verdict.lines(), checks.sentence(verdict)]), [verdict.as_json()])
    return verdict
