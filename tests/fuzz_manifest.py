"""A long fuzz of what a run believes of its output folder: mutated manifests, before a dry run, a run and a resume.

    python tests/fuzz_manifest.py --count 300 --seed 1

Every manifest must be taken or refused in one sentence.  No worker is started.  Ends with one line; exit code 1 after
a crash or a hang (see ``fuzzing.py``).
"""

from __future__ import annotations

import functools
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.errors import MtembedError, WorkerError
from mtembed.run.dryrun import estimate
from mtembed.run.embed import Run
from mtembed.run.plan import plan
from mtembed.run.process import Worker
from tests.tools.finished import config, finished, mutated
from tests.tools.fuzzing import Target, main


@functools.cache
def folder() -> Path:
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mtembed-fuzz-")


@functools.cache
def original() -> dict[str, Any]:
    return finished(folder()).as_json()


@functools.cache
def parts() -> dict[Path, bytes]:
    original()
    return {path: path.read_bytes() for path in (folder() / "out").glob("*/*.parquet")}


def make(seed: int, number: int) -> bytes:
    return mutated(original(), random.Random(f"{seed} {number}"))


def no_worker(kind: str, name: str, job: object, inherited: Sequence[int] = (), environment: Any = None) -> Worker:
    raise WorkerError("there is work left, and no worker here")


def attempt(content: bytes) -> str:
    """A dry run, a resume and a resume that tries failed cells again, each from the mutated manifest."""
    outcome = "decoded"
    for options in ({"dry_run": True}, {}, {"retry_failed": True}):
        for path, whole in parts().items():  # a run may have taken one for damaged
            path.write_bytes(whole)
        (folder() / "out/manifest.json").write_bytes(content)
        try:
            found = plan(config(folder(), **options))
            if found.config.dry_run:
                estimate(found, trial=lambda plan, settings, sizes: 1.0)
            else:
                Run(found, start=no_worker).execute()
        except MtembedError as error:
            outcome = "refused"
            if len(str(error).splitlines()) != 1 or len(str(error)) > 2000:
                return f"differs: {error}"
    return outcome


def warm_up() -> None:
    if attempt(json.dumps(original()).encode()) != "decoded":
        raise SystemExit("the manifest as it was is refused")


if __name__ == "__main__":
    raise SystemExit(main(Target(__file__, warm_up, make, attempt), __doc__))
