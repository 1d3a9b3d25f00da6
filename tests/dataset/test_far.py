"""Claims and leases in a store: exclusive whoever asks, free after a lease; and what a dataset there looks like."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtembed.dataset.board import FolderBoard, StoreBoard
from mtembed.dataset.claims import Claims, forget, owners
from mtembed.dataset.far import FarDataset, dataset_of
from mtembed.dataset.folder import WORK, Dataset
from mtembed.dataset.home import Home
from mtembed.dataset.members import Members, State, at_work
from mtembed.errors import LockedError, OutputError, PartTaken, StorageError
from mtembed.storage import writing
from mtembed.storage.address import Address
from mtembed.storage.copies import local
from mtembed.storage.filesystem import Filesystem
from mtembed.storage.store import Head, Listed, TryAgain
from tests.tools.bucket import writable
from tests.tools.remote import PLACE, bucket_served, here, there
from tests.tools.web import Fault, Handler, Server

LEASE_S, SINCE = 60.0, "2026-01-01T00:00:00Z"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with bucket_served(tmp_path / "store", monkeypatch) as found:
        yield found


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """A process on a machine of its own."""

    def __init__(self, work: Path, clock: Clock) -> None:
        work.mkdir()
        self.board = StoreBoard(Home(Address.of(PLACE)), WORK, every_s=-1.0, clock=clock)
        self.members = Members.enter(work, SINCE, LEASE_S, clock, self.board)
        self.claims = Claims(self.board, "claim", self.members)


@pytest.fixture
def machines(tmp_path: Path, server: Server) -> tuple[Clock, Machine, Machine]:
    clock = Clock()
    one, two = (Machine(tmp_path / name, clock) for name in ("one", "two"))
    clock.now += 0.001
    return clock, one, two


def test_of_many_who_want_a_shard_one_gets_it(tmp_path: Path, server: Server) -> None:
    several = [Machine(tmp_path / str(number), Clock()) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for name in ("a", "part_1", "ü ? #"):
            assert sum(pool.map(lambda one, name=name: one.claims.take(name), several)) == 1  # type: ignore[misc]
    assert len(owners(several[0].board, "claim")) == 3


def test_a_silent_machine_loses_its_shards_after_a_lease(machines: tuple[Clock, Machine, Machine]) -> None:
    clock, one, two = machines
    assert one.claims.take("a") and one.claims.take("b") and not two.claims.take("a")
    clock.now += LEASE_S - 1
    assert not two.claims.take("a")
    clock.now += 2
    assert two.claims.take("a")
    one.members.beat()
    assert one.claims.superseded() == ["a"] and one.claims.mine == {"b"}
    clock.now += 1
    assert not two.claims.take("b") and two.members.state(one.members.name) is State.LIVING
    forget(two.board, one.members.name)
    two.members.bury(one.members.name)
    assert two.members.others() == [] and two.claims.take("b")


def test_somebody_who_looks_sees_every_machine(tmp_path: Path, machines: tuple[Clock, Machine, Machine]) -> None:
    _, one, two = machines
    one.members.beat(cells=7)
    board = StoreBoard(Home(Address.of(PLACE)), WORK)
    found = at_work(tmp_path / "nowhere", far=board)
    assert set(found) == {one.members.name, two.members.name} and found[one.members.name].cells == 7
    one.members.leave()
    board.look()
    assert set(at_work(tmp_path / "nowhere", far=board)) == {two.members.name}


def test_what_was_done_though_the_answer_was_lost_is_ours(server: Server) -> None:
    answers = iter(["lost", ""])

    def lossy(handler: Handler) -> bool:
        if handler.command == "PUT" and next(answers) == "lost":
            handler.server.answer = writable
            handler.wfile = (handler.server.folder / "nowhere").open("wb")
            writable(handler)
            handler.reset()
            return True
        return writable(handler)

    server.answer = lossy
    home = Home(Address.of(PLACE))
    assert home.create("claim", b"me") and not home.create("claim", b"another")


def test_a_store_that_ignores_the_condition_is_found_out(server: Server) -> None:
    assert Home(Address.of(PLACE)).is_exclusive("trial")

    def careless(handler: Handler) -> bool:
        del handler.headers["If-None-Match"]
        return writable(handler)

    server.answer = careless
    assert not Home(Address.of(PLACE)).is_exclusive("trial")
    dataset = FarDataset(Address.of(PLACE))
    with dataset.joined():
        assert isinstance(dataset.board, FolderBoard) and "--shard-index" in dataset.advice
        assert dataset.claims.take("a") and dataset.holds("a")


def test_a_store_that_is_lost_is_not_waited_for_twice(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WRITING", replace(writing.WRITING, deadline=0.3))
    server.fail_next([Fault("500")] * 100)
    home = Home(Address.of(PLACE))
    with pytest.raises(OutputError, match=r"s3://bucket/vectors/a cannot be written \(status 500"):
        home.put("a", b"")
    asked = len(server.requests)
    with pytest.raises(OutputError):
        home.put("a", b"")
    assert len(server.requests) == asked + 1


def test_credentials_that_have_expired_are_named(server: Server) -> None:
    """S3 answers them like a request that it does not understand."""

    def expired(handler: Handler) -> bool:
        return handler.say(
            b"<Error><Code>ExpiredToken</Code><Message>old</Message></Error>", "application/xml", code=400
        )

    server.answer = expired
    with pytest.raises(OutputError, match=r"cannot be written \(the credentials have expired\): renew them"):
        Home(Address.of(PLACE)).put("manifest.json", b"{}")
    assert len(server.requests) == 1


def test_a_part_is_done_when_both_files_are_there(server: Server, tmp_path: Path) -> None:
    dataset = FarDataset(Address.of(PLACE))
    with dataset.joined():
        for stem, kinds in {"a": ("embeddings", "timings"), "b": ("embeddings",), "c": ("timings",)}.items():
            for kind in kinds:
                scratch = dataset.unfinished()
                scratch.write_text(stem)
                dataset.publish(scratch, dataset.root / kind / f"{stem}.parquet")
        dataset.look()
        assert dataset.done_stems() == {"a"} and dataset.is_done("a") and dataset.size_of("a") == 1
        assert not dataset.is_done("b") and dataset.version_of("b") is None and dataset.visible() != []
        dataset.bring("a")
        assert dataset.part("a").read_text() == dataset.timings("a").read_text() == "a"
        before = dataset.version_of("a")
        dataset.look_at("a")
        assert dataset.version_of("a") == before
        dataset.discard("a")
        assert dataset.done_stems() == set() and not dataset.part("a").exists()
        assert not (there(server) / "embeddings/a.parquet").exists()
    assert here(tmp_path / "cache") == [] and not list((there(server) / WORK).glob("*"))


def test_an_empty_file_and_an_empty_folder(server: Server) -> None:
    assert writing.listed(Address.of("s3://bucket/nothing")) == {}
    home = Home(Address.of(PLACE))
    home.put("failures.jsonl", b"")
    assert home.read("failures.jsonl", 10) == b"" and home.head("failures.jsonl") is not None
    assert home.head("nothing") is None and home.read("nothing", 10) == b""
    with pytest.raises(StorageError, match="no such bucket"):
        writing.put(Address.of("s3://nowhere/a"), b"x")


def test_a_file_is_put_whole_however_large(server: Server, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(12 << 20)  # more than one piece
    (tmp_path / "large").write_bytes(content)
    home = Home(Address.of(PLACE))
    home.put("embeddings/large", tmp_path / "large")
    assert (there(server) / "embeddings/large").read_bytes() == content
    assert home.fetch("embeddings/large", tmp_path / "copy") and (tmp_path / "copy").read_bytes() == content


def test_places_on_this_machine_are_folders(tmp_path: Path) -> None:
    assert isinstance(dataset_of(f"file://{tmp_path}"), Dataset) and dataset_of(f"file://{tmp_path}").root == tmp_path
    assert not isinstance(dataset_of(str(tmp_path)), FarDataset)


def test_an_overtaken_machine_does_not_try_again(server: Server) -> None:
    """It may have slept between two tries, and another one has made the part meanwhile."""
    server.fail_next([Fault("reset")])
    asked: list[int] = []

    def require() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise PartTaken("another process has taken it over")

    home = Home(Address.of(PLACE))
    with pytest.raises(PartTaken):
        home.put("embeddings/a.parquet", b"mine", require)
    assert home.head("embeddings/a.parquet") is None


def test_a_file_that_is_replaced_while_it_is_copied_is_copied_again(server: Server, tmp_path: Path) -> None:
    """As a manifest is, every few seconds, by each machine at work."""
    there(server).mkdir(parents=True)
    manifest = there(server) / "manifest.json"
    manifest.write_text("old")
    replaced = iter(["newer", "newest"])

    def busy(handler: Handler) -> bool:
        whole = not handler.headers["Range"].startswith("bytes=-")
        if whole and (content := next(replaced, "")):
            manifest.write_text(content)
        return writable(handler)

    server.answer = busy
    assert Home(Address.of(PLACE)).fetch("manifest.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "newest" == local(Address.of(f"{PLACE}/manifest.json")).read_text()


def test_who_is_alone_sees_what_others_left_until_now(server: Server) -> None:
    dataset = FarDataset(Address.of(PLACE))
    with dataset.joined():
        dataset.look()
        for kind in ("embeddings", "timings"):
            dataset.home.put(f"{kind}/a.parquet", b"another process made it")
        dataset.require_alone()
        assert dataset.done_stems() == {"a"}


def test_who_came_just_now_is_not_overlooked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Members, "living", lambda self: iter([None] * len(self.others())))
    dataset = FarDataset(Address.of(PLACE))
    with dataset.joined():
        assert dataset.members.others() == []
        dataset.home.put(f"{WORK}/process.0a0b0c0d", b"{}")
        with pytest.raises(LockedError):
            dataset.require_alone()


def test_a_list_is_as_old_as_by_the_clock_of_the_leases(server: Server) -> None:
    """Also after this machine slept: others are not silent because the list is of yesterday."""
    dataset = FarDataset(Address.of(PLACE))
    with dataset.joined():
        assert isinstance(dataset.board, StoreBoard) and dataset.board.clock is dataset.members.clock


def test_a_connection_that_was_idle_is_tried_again(server: Server) -> None:
    """S3 says so with a status of requests that are wrong."""
    slow = iter([b"<Error><Code>RequestTimeout</Code><Message>not read from or written to</Message></Error>"])

    def idle(handler: Handler) -> bool:
        content = next(slow, None)
        return writable(handler) if content is None else handler.say(content, "application/xml", code=400)

    server.answer = idle
    home = Home(Address.of(PLACE))
    home.put("a", b"x")
    assert home.read("a", 1) == b"x"


@pytest.mark.parametrize("status", [409, 412])
def test_a_commit_that_met_another_one_is_tried_again(status: int) -> None:
    def call() -> None:
        error = OSError("conflict")
        error.response = SimpleNamespace(status_code=status, headers={})  # type: ignore[attr-defined]
        raise error

    with pytest.raises(TryAgain):
        Filesystem("local")._told(Address.of("local:///a"), call, "written")


@pytest.mark.parametrize("key", ["vectors/", "vectors//a", "vectors/../a"])
def test_keys_that_no_path_can_have(server: Server, key: str) -> None:
    """A mark of a folder, as the console of S3 leaves one, is no file; any other is told at once."""

    def marked(handler: Handler) -> bool:
        known = "<Size>0</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>"
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key>{known}</Contents>"
        return handler.say(f"{text}</ListBucketResult>".encode(), "application/xml")

    server.answer = marked
    if key == "vectors/":
        assert FarDataset(Address.of(PLACE)).visible() == []
        return
    with pytest.raises(OutputError, match="a name there has an empty part"):
        FarDataset(Address.of(PLACE)).look()
    assert len(server.requests) == 1


def test_names_that_lead_elsewhere_are_no_files(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {f"{kind}/../../../../x.parquet": Listed(Head(1, "a"), 0.0) for kind in ("embeddings", "timings")}
    monkeypatch.setattr(writing, "listed", lambda *_: found)
    assert FarDataset(Address.of(PLACE)).done_stems() == set()
    assert FarDataset(Address.of("local:///a/..")).root.name == "dataset"


def test_a_manifest_that_is_far_too_large_is_not_fetched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "listed", lambda *_: {"manifest.json": Listed(Head(1 << 40, "a"), 0.0)})
    with pytest.raises(OutputError, match=r"manifest.json of s3://bucket/vectors has more than"):
        FarDataset(Address.of(PLACE)).look()
    assert not server.requests


def test_who_only_looks_takes_nothing_away_from_others(server: Server) -> None:
    Home(Address.of(PLACE)).put("manifest.json", b"{}")
    one, two = FarDataset(Address.of(PLACE)), FarDataset(Address.of(PLACE))
    one.look()
    two.look()
    two.put_away()
    assert [path.read_text() for path in one.manifests()] == ["{}"]
