"""``mtembed finish``: one manifest, one list of failures and one card for a dataset of many processes."""

from __future__ import annotations

from mtembed.cli.options import SPEECH, Dir, Talk
from mtembed.text import counted, plural

NAMED = 5


def finish(directory: Dir, /, *, talk: Talk = SPEECH) -> int:
    """Make one manifest, one list of failures and one card of what many processes left in a dataset.

    The last process of a run does this by itself; it is for runs whose processes had a --shard-index each, or were
    killed.  Nothing is computed: where shards have no part yet they are named, and the exit code is 1.
    """
    from mtembed.dataset import joint

    found = joint.finish(directory)
    lines = [f"{found.dataset}: {plural(found.embeddings, 'embedding')} of {counted(found.cells)} in one manifest"]
    if found.failed:
        lines.append(f"{found.failed:,} failed: see failures.jsonl")
    if not found.complete:
        more = " ..." if len(found.missing) > NAMED else ""
        named = f": {', '.join(found.missing[:NAMED])}{more}" if found.missing else ""
        lines.append(f"{plural(len(found.missing), 'shard')} without a part{named}; run the same command again")
    talk.show("\n".join(lines), [found.as_json()])
    return 0 if found.complete else 1
