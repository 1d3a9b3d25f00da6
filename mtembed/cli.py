"""Arguments in, one RunConfig out, one call.  Printing is left to ``console.py``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.config import Env, Toml
from cyclopts.exceptions import CycloptsError

from mtembed import __version__
from mtembed.config import RunConfig
from mtembed.errors import MtembedError

if TYPE_CHECKING:
    from mtembed.run import Run

USAGE = 2
INTERRUPTED = 130

app = App(
    name="mtembed",
    help="Turn Earth-observation archives in Major TOM layout into embeddings.",
    version=__version__,
    config=(Toml("mtembed.toml", search_parents=True), Env("MTEMBED_", command=False)),
    default_parameter=Parameter(negative=(), show_env_var=False),
    help_epilogue="Options may also come from mtembed.toml and from MTEMBED_* variables.",
    result_action="return_value",
)
app.register_install_completion_command()

Json = Annotated[bool, Parameter(help="One JSON object per line instead of text.")]
Quiet = Annotated[bool, Parameter(help="Errors only.")]
Verbose = Annotated[bool, Parameter(help="Tracebacks with errors.")]
Dir = Annotated[Path, Parameter(help="The output folder of a run.")]


def run(
    config: Annotated[RunConfig, Parameter(name="*")],
    *,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Embed every fragment of every cell of Major TOM Core shards."""
    del verbose
    from mtembed import console
    from mtembed.run import Run, plan

    kind = console.mode(json, quiet)
    planned = plan(config)
    if config.dry_run:
        from mtembed.dryrun import estimate

        console.estimate(estimate(planned), kind)
        return 0
    view = console.view(kind)
    try:
        work = Run(planned, view.tick, view.note)
        with_signals(work)
        result = work.execute()
    finally:
        view.close()
    console.summary(result, kind)
    return result.exit_code


app.default(run)
app.command(run)


def with_signals(work: Run) -> None:
    """First SIGINT or SIGTERM: finish what is in flight.  Second: leave at once; what is safe stays safe."""

    def handle(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, leave)
        work.stop()

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(INTERRUPTED)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handle)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script.  Every error becomes one sentence on stderr and an exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"mtembed: {' '.join(str(error).split())} (see mtembed --help)", file=sys.stderr)
        code = USAGE
    except MtembedError as error:
        _explain(error, arguments)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code or 0)


def _explain(error: MtembedError, arguments: Sequence[str]) -> None:
    from mtembed import console

    if "--verbose" in arguments:
        import traceback

        traceback.print_exception(error)
    console.fail(error, console.mode("--json" in arguments, "--quiet" in arguments))


if __name__ == "__main__":
    main()
