"""The input that a dataset was made from, compared with what the dataset says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtembed.archive.shards import fingerprint, open_shard
from mtembed.check.findings import Findings
from mtembed.check.part import PartContent
from mtembed.errors import ShardError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.storage.address import Place
from mtembed.storage.remote import RemoteParquet

NAMES = ["grid_cell", "product_id"]
AHEAD = 8  # rows of a shard behind an address that are asked for at a time


def check_input(path: Place, facts: Mapping[str, Any], content: PartContent, findings: Findings) -> None:
    """The shard is the one that was embedded, and its rows are the cells that the dataset names."""
    found = findings.of(path.name)
    try:
        with open_shard(path) as file:
            mark = dataclasses.asdict(fingerprint(path, file.metadata.num_row_groups))
            for name in ("size", "rows", "footer_sha256"):
                if facts["footer_sha256"] and mark[name] != facts[name]:
                    changed = f"its {name} is {mark[name]}, and was {facts[name]} when it was embedded"
                    found.add("input", f"{changed}: bring the old file back, or start over with --fresh")
                    return
            if not facts["footer_sha256"]:
                found.add("input", "it could not be opened when it was embedded, and can now: use --retry-failed")
                return
            rows = [*content.names]
            for at, (row, names) in enumerate(content.names.items()):
                for coming in rows[at : at + AHEAD] if isinstance(file, RemoteParquet) else ():
                    file.read_ahead(coming, NAMES)
                stored = file.read_row_group(row, columns=NAMES, use_threads=False).to_pylist()[0]
                if names != (stored["grid_cell"] or "", stored["product_id"] or ""):
                    found.add("input", f"holds {stored['grid_cell']} of {stored['product_id']}", f"row group {row}")
    except (ShardError, *UNREADABLE, LookupError) as error:
        if facts["footer_sha256"]:
            found.add("input", first_line(error))
