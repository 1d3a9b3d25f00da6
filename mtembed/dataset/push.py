"""``mtembed push``: a finished dataset to the hub of Hugging Face, in batches; what is there already is not sent."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtembed.dataset.atomic import sha256_of
from mtembed.dataset.folder import FOLDERS, Dataset
from mtembed.dataset.manifest import read
from mtembed.errors import MtembedError, StorageError, UsageError
from mtembed.storage.address import Address, is_address

BATCH_FILES, BATCH_BYTES = 50, 4 << 30  # of one commit: what a killed push repeats at most
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PushResult:
    """``files`` of the dataset, of which ``sent`` were sent now with ``bytes`` bytes; the others were there."""

    dataset: str
    address: str
    files: int
    sent: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"event": "result", **dataclasses.asdict(self)}


def push(dataset: str | Path, address: str, *, tick: Tick = lambda done, total: None) -> PushResult:
    """Send parts, timings, failures, card and manifest to ``hf://datasets/OWNER/NAME[/FOLDER]``, the manifest last.

    ``tick`` is told bytes sent and all that are to be sent.  Killed, the same call goes on after the last commit.
    Raises UsageError where the dataset is not finished or the address is none of the hub, StorageError.
    """
    files, (repository, below) = files_of(Path(dataset)), _repository(address)
    place = f"hf://datasets/{repository}{'/' * bool(below)}{below}"
    with _explained(place):
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        api = HfApi()
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        there = _there(api, repository)
        names = {name: f"{below}/{name}".lstrip("/") for name in files}
        wanted = {name: path for name, path in files.items() if not _same(path, there.get(names[name]))}
        total, done = sum(path.stat().st_size for path in wanted.values()), 0
        tick(done, total)
        for batch in batches(wanted):
            operations = [CommitOperationAdd(names[name], path) for name, path in batch.items()]
            message = f"{len(batch)} files of {Path(dataset).absolute().name}"
            api.create_commit(repository, operations, commit_message=message, repo_type="dataset")
            done += sum(path.stat().st_size for path in batch.values())
            tick(done, total)
    return PushResult(str(dataset), place, len(files), len(wanted), total)


def files_of(root: Path) -> dict[str, Path]:
    """Every file of a finished dataset by its name, the manifest last.  Raises UsageError where it is not finished."""
    if is_address(str(root)):
        raise UsageError(f"{root} is no folder of this machine: push sends a dataset that lies here")
    folder = Dataset(root)
    if not folder.manifests():
        raise UsageError(f"{root} is not a dataset made by mtembed: name the --output folder of a run")
    stems = folder.done_stems()
    manifest = read(folder.manifest_path) if folder.manifests() == [folder.manifest_path] else None
    if manifest is None or not manifest.complete or folder.work.exists() or set(manifest.shards) - stems:
        raise UsageError(f"{root} is not finished: run the same command again, or mtembed finish, and push it then")
    names = [f"{kind}/{stem}.parquet" for stem in sorted(manifest.shards) for kind in FOLDERS]
    names += [path.name for path in (folder.failures_path, folder.card_path, folder.manifest_path) if path.exists()]
    return {name: root / name for name in names}


def _repository(name: str) -> tuple[str, str]:
    """OWNER/NAME and the folder in it.  Raises UsageError."""
    address = Address.of(name)
    parts = address.key.strip("/").split("/")
    if address.scheme != "hf" or not address.url.startswith("hf://datasets/") or len(parts) < 2 or "@" in address.key:
        raise UsageError(f"{address} is no place to push to: give hf://datasets/OWNER/NAME")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _there(api: Any, repository: str) -> dict[str, Any]:
    """What the hub says of each file of a repository."""
    listed = api.list_repo_tree(repository, recursive=True, repo_type="dataset")
    return {one.path: one for one in listed if getattr(one, "size", None) is not None}


def _same(path: Path, known: Any) -> bool:
    """Whether the hub has a file as it is: by its sha256 where it is large, by its git blob where it is not."""
    if known is None or known.size != path.stat().st_size:
        return False
    if known.lfs is not None:
        return bool(known.lfs.sha256 == sha256_of(path))
    content = path.read_bytes()
    return bool(known.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def batches(files: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """In their order, each with files for one commit."""
    batch: dict[str, Path] = {}
    total = 0
    for name, path in files.items():
        length = path.stat().st_size
        if batch and (len(batch) == BATCH_FILES or total + length > BATCH_BYTES):
            yield batch
            batch, total = {}, 0
        batch[name] = path
        total += length
    if batch:
        yield batch


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """What goes wrong with the hub, as one sentence without a credential."""
    try:
        yield
    except MtembedError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        why, advice = f"status {status}" if status else type(error).__name__, "run the same command again"
        if status in (401, 403):
            why, advice = "access is refused", "log in with hf auth login, or set HF_TOKEN to a token that may write"
        raise StorageError(f"{place} cannot be written ({why}): {advice}") from None
