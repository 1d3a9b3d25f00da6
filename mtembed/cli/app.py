"""Arguments in, one RunConfig out, one call.  Printing is left to ``console.py``."""

from __future__ import annotations

import os
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
from mtembed.machine import require_supported

if TYPE_CHECKING:
    from mtembed.cli.console import Mode
    from mtembed.run.embed import Plan, Run

USAGE = 2
INTERRUPTED = 130

ENVIRONMENT = Env("MTEMBED_", command=False)

app = App(
    name="mtembed",
    help="Turn Earth-observation archives in Major TOM layout into embeddings.",
    version=__version__,
    config=(ENVIRONMENT, Toml("mtembed.toml", search_parents=True)),  # the first that has an option wins
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
    from mtembed.cli import console
    from mtembed.run.embed import plan

    kind = console.mode(json, quiet)
    planned = plan(config)
    if config.dry_run:
        from mtembed.run.dryrun import estimate

        with console.counting("opening shards", kind) as tick:
            found = estimate(planned, tick)
        console.show(found.text(), [found.facts()], kind)
        return 0
    return execute(planned, kind)


def execute(planned: Plan, kind: Mode) -> int:
    """One run with its view; returns the exit code."""
    from mtembed.cli import console
    from mtembed.run.embed import Run

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
# With or without the word, the file's top-level keys are the options of a run.
app.command(run, config=(ENVIRONMENT, Toml("mtembed.toml", search_parents=True, use_commands_as_keys=False)))


@app.command
def demo(
    *,
    output: Annotated[Path, Parameter(help="Where the datasets and the picture go.")] = Path("mtembed-demo"),
    fresh: Annotated[bool, Parameter(help="Start over instead of resuming.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Embed the sample that ships with mtembed, draw the result, say what comes next.

    Needs no network, no weights and no GPU.
    """
    del verbose
    from mtembed.cli import console
    from mtembed.cli.demo import draw, next_steps, plans

    kind, worst = console.mode(json, quiet), 0
    for planned in plans(output, fresh):
        code = execute(planned, kind)
        if code == INTERRUPTED:
            return code
        worst = max(worst, code)
    picture = draw(output)
    console.show(f"{picture}: the picture\n\n{next_steps(output)}", [{"event": "picture", "path": str(picture)}], kind)
    return worst


@app.command
def models(
    *,
    check: Annotated[str | None, Parameter(help="Load this model's weights and embed known constant images.")] = None,
    weights: Annotated[str | None, Parameter(help="With --check: a weights file, or random:SEED.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """List the models, or check one."""
    del verbose
    from mtembed.cli import console
    from mtembed.cli import models as view

    kind = console.mode(json, False)
    if check is None:
        console.show(view.table(), view.facts(), kind)
        return 0
    result = view.check_model(check, weights)
    console.show(view.check_text(result), [result], kind)
    return 0 if result["behaves"] else 1


@app.command
def verify(
    directory: Dir,
    /,
    *,
    shards: Annotated[
        tuple[Path, ...], Parameter(consume_multiple=True, help="The input it was made from, to be compared.")
    ] = (),
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Read a finished dataset back and check every file and every row."""
    del verbose
    from mtembed.check import verify as checks
    from mtembed.cli import console

    kind = console.mode(json, False)
    with console.counting("checking rows", kind) as tick:
        verdict = checks.verify(directory, shards, tick)
    console.show("\n".join([*verdict.lines(), checks.sentence(verdict)]), [verdict.as_json()], kind)
    return 0 if verdict.ok else 1


@app.command
def inspect(
    files: Annotated[
        tuple[Path, ...], Parameter(name="FILE", negative=(), help="Core shards, embeddings, or an output folder.")
    ],
    /,
    *,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Say what is in a shard (encodings, nodata, models that fit) or in embeddings (type, origin, health)."""
    del verbose
    from mtembed.check import shard
    from mtembed.cli import console
    from mtembed.cli import inspect as view

    kind = console.mode(json, False)
    for path in files:
        facts = shard.inspect(path)
        console.show(view.text(facts) + "\n" * (len(files) > 1), [facts], kind)
    return 0


@app.command
def report(
    directory: Dir,
    *,
    html: Annotated[Path | None, Parameter(help="Also write a page with pictures to this file.")] = None,
    price_per_hour: Annotated[
        float | None, Parameter(help="What an hour of the machines costs, for the cost of the whole archive.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Say what a run cost, where its time went and what limited it; also of a run that is not finished."""
    del verbose
    from mtembed.cli import console
    from mtembed.cli import report as view
    from mtembed.report.summary import report as make

    result = make(directory, price_per_hour, html)
    console.show(view.text(result), [result.as_json()], console.mode(json, False))
    return 0


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
        require_supported()
        code = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"mtembed: {' '.join(str(error).split())} (see mtembed --help)", file=sys.stderr)
        code = USAGE
    except MtembedError as error:
        _explain(error, arguments)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has seen enough; Python would say so again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


def _explain(error: MtembedError, arguments: Sequence[str]) -> None:
    from mtembed.cli import console

    if "--verbose" in arguments:
        import traceback

        traceback.print_exception(error)
    console.fail(error, console.mode("--json" in arguments, "--quiet" in arguments))
