"""What a check of a dataset finds: problems by kind, a few of each kept, all of them counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

AGAIN = "run the same command again to finish"
REMAKE = "make the part again with --repair and --shards, or delete both of its files and run the same command again"
SHOWN_PER_KIND = 5
LONGEST_TEXT = 300  # characters of a file's own words


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: its ``kind``, the ``file`` (below the dataset), ``where`` in it, and the cause.

    ``remedy`` is what to do, where the message does not say it."""

    kind: str
    file: str
    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.where, self.message)))


@dataclass(slots=True)
class Verdict:
    """The outcome of ``verify``: the first problems of each kind, the number of all, and facts worth knowing.

    ``notes`` are worth a look and no problems; ``bad_parts`` are stems of parts that must be made again.
    """

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    bad_parts: set[str] = field(default_factory=set)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.counts

    def lines(self) -> list[str]:
        """One line per problem, kinds in the order they were met; what was left out is counted."""
        lines = []
        for kind in dict.fromkeys(problem.kind for problem in self.problems):
            shown = [str(problem) for problem in self.problems if problem.kind == kind]
            lines += shown
            if self.counts[kind] > len(shown):
                lines.append(f"... and {self.counts[kind] - len(shown)} more problems of this kind ({kind})")
            remedies = {problem.remedy for problem in self.problems if problem.kind == kind and problem.remedy}
            lines += [f"    what to do: {remedy}" for remedy in sorted(remedies)]
        return lines + [f"note: {note}" for note in self.notes]

    def as_json(self) -> dict[str, Any]:
        listed = [
            {name: getattr(problem, name) for name in ("kind", "file", "where", "message", "remedy")}
            for problem in self.problems
        ]
        return {
            "ok": self.ok,
            "problems": listed,
            "counts": dict(self.counts),
            "info": self.info,
            "notes": self.notes,
            "bad_parts": sorted(self.bad_parts),
        }


class Findings:
    """Collects the problems of one verdict; ``of`` gives the collector for one file."""

    def __init__(self) -> None:
        self.verdict = Verdict()

    def add(self, kind: str, file: str, message: str, where: str = "", times: int = 1) -> None:
        """Count a problem ``times`` times; keep it if few of its kind are kept so far."""
        part = file.startswith(("embeddings/", "timings/")) and kind != "orphan"
        if part:
            self.verdict.bad_parts.add(Path(file).stem)
        kept = sum(problem.kind == kind for problem in self.verdict.problems)
        self.verdict.counts[kind] += times
        if kept < SHOWN_PER_KIND:
            remedy = REMAKE if part and kind != "missing" else ""
            self.verdict.problems.append(Problem(kind, printable(file), where, printable(message), remedy))

    def note(self, text: str) -> None:
        self.verdict.notes.append(printable(text))

    def of(self, file: str) -> FileFindings:
        return FileFindings(self, file)


def printable(text: str) -> str:
    """The text as one line of limited length: what files say may hold anything, also codes that move a cursor."""
    shown = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)


@dataclass(frozen=True, slots=True)
class FileFindings:
    """Problems of one file."""

    findings: Findings
    file: str

    def add(self, kind: str, message: str, where: str = "", times: int = 1) -> None:
        self.findings.add(kind, self.file, message, where, times)


@dataclass(frozen=True, slots=True)
class RowFindings:
    """Problems of consecutive rows of a file: those of row group ``group``, from row ``first`` of the file on."""

    file: FileFindings
    group: int
    first: int

    def add(self, kind: str, message: str) -> None:
        self.file.add(kind, message, f"row group {self.group}")

    def rows(self, kind: str, bad: npt.NDArray[np.bool_], message: str | Callable[[int], str]) -> None:
        """A problem for every row that is set in ``bad`` [n]; ``message`` may depend on the row in the group."""
        found = np.flatnonzero(bad)
        for row in found[:SHOWN_PER_KIND].tolist():
            text = message if isinstance(message, str) else message(row)
            self.file.add(kind, text, f"row {self.first + row} (row group {self.group})")
        if len(found) > SHOWN_PER_KIND:
            self.file.add(kind, "", times=len(found) - SHOWN_PER_KIND)
