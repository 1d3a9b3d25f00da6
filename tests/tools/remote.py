"""A bucket to which runs write their datasets, on a server of this machine."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtembed.storage import stores
from tests.tools.bucket import writable
from tests.tools.web import Server, serving

BUCKET, NAME = "bucket", "vectors"
PLACE = f"s3://{BUCKET}/{NAME}"
SECRET = "s3cr3t"


@contextlib.contextmanager
def bucket_served(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of one empty bucket, with what the environment must say of it."""
    (folder / BUCKET).mkdir(parents=True)
    with serving(folder) as server:
        server.answer = writable
        known = {"ENDPOINT_URL": server.url(), "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
        for name, value in known.items():
            patch.setenv(f"AWS_{name}", value)
        stores._store.cache_clear()  # they are kept with the endpoint of their time
        yield server


def there(server: Server) -> Path:
    """The dataset as the store has it."""
    return server.folder / BUCKET / NAME


def here(cache: Path) -> list[Path]:
    """What a machine keeps of outputs."""
    return [path for path in (cache / "mtembed/outputs").rglob("*") if path.is_file()]


def times_put(server: Server, folder: str = "embeddings") -> Counter[str]:
    """How often each file of a folder was put."""
    paths = [request.path for request in server.requests if request.method == "PUT"]
    return Counter(Path(path).name for path in paths if Path(path).parent.name == folder)
