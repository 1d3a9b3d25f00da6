"""Every stage of a run with every kind of trouble that comes back each time: the run must end, and say why.

    python tests/campaign.py --seed 1 --part 0 --parts 1

A stage is one of opening a shard, decoding, embedding, opening a part, appending, closing and finishing; trouble is an
exception, a kill, a limit on memory or a process that stops, either for one shard's or cell's
task or for all of them.  Each case is one real run on three small shards, and a second one without the trouble.  The
first must end by itself with a sentence and without a traceback; the second must give the bytes of a run that was
never disturbed.  Ends with one line of counts.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tools.commands import embeddings, leftovers, run
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS = 3, 2
STALL_S = 10.0  # after which a stopped worker is replaced; elsewhere the default, for machines that are busy
LONGEST_S = 600.0  # of a run whose every task stops: each cell has two workers, one after the other
STAGES = {
    "open shard": ("decode", "mtembed.archive.listing:list_shard"),
    "decode": ("decode", "mtembed.archive.cell:decode_cell"),
    "embed": ("device", "mtembed.engine.cpu:CpuDevice.embed"),
    "open part": ("write", "mtembed.dataset.part:UnfinishedPart.__init__"),
    "append": ("write", "mtembed.dataset.part:UnfinishedPart.append"),
    "close part": ("write", "mtembed.dataset.part:UnfinishedPart.close"),
    "finish": ("finish", "mtembed.dataset.part:UnfinishedPart.finish"),
}
TROUBLES = ("KeyError", "kill", "out-of-memory", "stop")
EXTENTS = ("first", "always")


@dataclass(frozen=True, slots=True)
class Case:
    """``first``: the trouble comes with the first shard only, every time; ``always``: with every shard."""

    stage: str
    trouble: str
    extent: str

    def fault(self) -> dict[str, Any]:
        kind, function = STAGES[self.stage]
        only = {} if self.extent == "always" else {"shard": "part_0.parquet"}
        return {"kind": kind, "function": function, "action": self.trouble, **only}


def every_case() -> list[Case]:
    return [Case(stage, trouble, extent) for stage in STAGES for trouble in TROUBLES for extent in EXTENTS]


def archive(folder: Path) -> Path:
    """Small shards of Sentinel-1."""
    cells = default_cells(SHARDS * CELLS)
    shards = [
        make_shard(folder / f"images/part_{i}.parquet", cells[CELLS * i : CELLS * (i + 1)], "S1RTC")
        for i in range(SHARDS)
    ]
    write_metadata(folder / "metadata.parquet", shards)
    return folder


def command(shards: Path, output: Path, *more: str) -> list[str]:
    plain = ["--model", "rcf", "--fragment-size", "32", "--max-failures", "1"]
    return [*plain, "--output", str(output), *more, str(shards)]


def problems(case: Case, shards: Path, output: Path, expected: dict[str, bytes]) -> list[str]:
    """What is wrong with how a run in trouble ended, and with the one after it."""
    found = []
    patience = ("--stall-timeout", str(STALL_S)) if case.trouble == "stop" else ()
    code, _, err = run(command(shards, output, *patience), [case.fault()], timeout=LONGEST_S)
    if code not in (1, 3):
        found.append(f"exit code {code}")
    if "Traceback" in err:
        found.append("a traceback")
    listed = output / "failures.jsonl"
    failures = [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    if code == 3 and not failures:
        found.append("no line in failures.jsonl")
    if any(not failure["error"] for failure in failures):
        found.append("a failure without a cause")
    if case.extent == "first":
        whole = [f"part_{number}.parquet" for number in range(1, SHARDS)]
        parts = embeddings(output)
        if code != 3 or any(parts.get(name) != expected[name] for name in whole):
            found.append("other shards suffered")
    again, _, err = run(command(shards, output, "--retry-failed"))
    if again or embeddings(output) != expected or leftovers(output):
        found.append(f"the next run ended otherwise ({again}): {err.strip()[-200:]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the order of the cases")
    parser.add_argument("--part", type=int, default=0, help="which share of the cases, from 0")
    parser.add_argument("--parts", type=int, default=1, help="in how many shares they are cut")
    options = parser.parse_args()
    cases = every_case()
    random.Random(options.seed).shuffle(cases)
    cases = cases[options.part :: options.parts]
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = archive(folder / "archive")
        run(command(shards, folder / "calm"))
        expected = embeddings(folder / "calm")
        for number, case in enumerate(cases):
            found = problems(case, shards, folder / f"out-{number}", expected)
            counts["wrong" if found else "right"] += 1
            if found:
                print(f"{case.stage}, {case.trouble}, {case.extent}: {'; '.join(found)}", file=sys.stderr)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(cases)} of {len(every_case())} cases ({len(STAGES)} stages x {len(TROUBLES)} troubles x "
        f"{len(EXTENTS)} extents): {counts['right']} right, {counts['wrong']} wrong, in {minutes:.0f} min"
    )
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
