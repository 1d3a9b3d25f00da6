"""Single bit flips over a finished dataset: verify notices each, or nobody who reads the dataset gets anything else.

    python tests/flip_output.py --count 1000 --seed 1

Flips fall on parts, timings, manifest, failures and card in proportion to nothing but chance: a fifth each.  A flip is
``noticed`` where verify reports a problem, ``noted`` where it has a note, ``harmless`` where the file's content is as
before for whoever reads it.  Every flip of a part or of timings is then left to a start with --retry-failed, as far as
``resume`` looks at it: it must not be ``copied``.  Ends with a table; exit code 1 after a flip of another kind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtembed.check.verify import verify
from mtembed.dataset.atomic import sha256_of
from mtembed.dataset.manifest import read
from mtembed.errors import MtembedError
from tests.tools.datasets import make_dataset

FILES = (
    "embeddings/part_00001.parquet",
    "timings/part_00001.parquet",
    "manifest.json",
    "failures.jsonl",
    "README.md",
)


def flipped(data: bytes, bit: int) -> bytes:
    content = bytearray(data)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def outcome(root: Path, name: str, before: bytes) -> str:
    """What becomes of the flip that is in the file ``name``."""
    verdict = verify(root)
    if not verdict.ok:
        return "noticed"
    if verdict.notes:
        return "noted"
    return "harmless" if same_values(name, before, (root / name).read_bytes()) else "unnoticed"


def same_values(name: str, before: bytes, after: bytes) -> bool:
    """Whether a JSON text says the same; of other files every byte counts."""
    if name.endswith(".json"):
        one, other = json.loads(before), json.loads(after)
        return {k: v for k, v in one.items() if k != "digest"} == {k: other[k] for k in one if k in other}
    if name.endswith(".jsonl"):
        return list(map(json.loads, before.splitlines())) == list(map(json.loads, after.splitlines()))
    return before == after


def refused(root: Path, name: str) -> bool:
    """Whether a start that reads the flipped file would not believe it: its digest, or the manifest's own."""
    try:
        facts = read(root / "manifest.json").shards["part_00001"]
    except MtembedError:
        return True
    wanted = {FILES[0]: facts.part_sha256, FILES[1]: facts.timings_sha256}.get(name)
    return wanted is not None and sha256_of(root / name) != wanted


def campaign(root: Path, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Flip ``count`` bits, one at a time; (file, outcome) -> number."""
    tally: Counter[tuple[str, str]] = Counter()
    random = np.random.default_rng(seed)
    for number in range(count):
        name = FILES[number % len(FILES)]
        path = root / name
        before = path.read_bytes()
        path.write_bytes(flipped(before, int(random.integers(0, 8 * len(before)))))
        found = outcome(root, name, before)
        tally[name, found] += 1
        if name in FILES[:3] and found == "noticed" and not refused(root, name):
            tally[name, "copied"] += 1
        path.write_bytes(before)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mtembed-flip-") as folder:
        root = make_dataset(Path(folder)).root
        shutil.rmtree(root / ".mtembed", ignore_errors=True)
        tally = campaign(root, options.count, options.seed)
    for name in FILES:
        print(f"{name}: " + ", ".join(f"{n} {what}" for (file, what), n in sorted(tally.items()) if file == name))
    return int(any(what in ("unnoticed", "copied") for _, what in tally))


if __name__ == "__main__":
    raise SystemExit(main())
