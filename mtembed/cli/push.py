"""``mtembed push``: a finished dataset to the hub of Hugging Face."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Talk
from mtembed.cli.working import counting
from mtembed.text import plural, size


def push(
    dataset: Annotated[str, Parameter(name="DATASET", help="The output folder of a run that is finished.")],
    address: Annotated[str, Parameter(name="ADDRESS", help="hf://datasets/OWNER/NAME, or a folder in it.")],
    /,
    *,
    talk: Talk = SPEECH,
) -> int:
    """Send a finished dataset with its card to the hub of Hugging Face.

    The repository is made where there is none. Files that are there as they are here are not sent again, so the same
    command goes on where it was stopped. The token is that of hf auth login, or HF_TOKEN.
    """
    from mtembed.dataset import push as hub

    with counting(talk, "sending", "bytes") as tick:
        found = hub.push(dataset, address, tick=tick)
    sent = f"{plural(found.sent, 'file')} sent, {size(found.bytes)}" if found.sent else "all were there: nothing to do"
    talk.show(f"{found.address}: {plural(found.files, 'file')}, {sent}", [found.as_json()])
    return 0
