"""The output folder: files that become whole, links in their way, and what of it is mtembed's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from mtembed.dataset.atomic import is_file_name, open_own, read_regular, write_atomically
from mtembed.dataset.folder import Dataset
from mtembed.dataset.ours import clear, require_ours
from mtembed.errors import LockedError, OutputError
from tests.tools.finished import finished


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    finished(tmp_path)
    return Dataset(tmp_path / "out")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


OURS = {
    "README.md", "failures.jsonl", "manifest.json",
    *(f"{folder}/part_{number}.parquet" for folder in ("embeddings", "timings") for number in range(2)),
}  # fmt: skip


# -- joining and leaving ----------------------------------------------------------------------------------------------


def test_a_folder_into_which_nothing_came_is_not_left(tmp_path: Path) -> None:
    with Dataset(tmp_path / "deeper" / "out").joined():
        assert len(files(tmp_path / "deeper/out/.mtembed")) == 1
    assert not list(tmp_path.iterdir())


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Dataset(tmp_path / "out").joined():
        pass
    assert (tmp_path / "out").is_dir() and not list((tmp_path / "out").iterdir())


def test_what_a_process_was_writing_goes_with_it(tmp_path: Path) -> None:
    one, two = Dataset(tmp_path), Dataset(tmp_path, 1, 2)
    with one.joined():
        left = one.unfinished()
        with two.joined():
            gone = two.unfinished()
            assert len(one.others) == len(two.others) == 1
        assert left.exists() and not gone.exists() and one.others == []
    assert not left.exists()


# -- files ------------------------------------------------------------------------------------------------------------


def test_no_link_is_followed_to_write(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    for name in ("lock", "x.journal"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            open_own(tmp_path / name)
    (tmp_path / "page.html").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "page.html", "new")
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "page.html").read_text() == "new"


def test_a_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.mtembed").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="a link stands in the way"), Dataset(tmp_path / "out").joined():
        pass
    assert not list((tmp_path / "victim").iterdir())


def test_scratch_files_are_new_and_never_the_same(tmp_path: Path) -> None:
    with Dataset(tmp_path).joined():
        made = {Dataset(tmp_path).unfinished() for _ in range(20)}
        assert len(made) == 20 and all(path.is_file() and path.stat().st_size == 0 for path in made)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular|directory"):
            read_regular(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0", "x" * 256])
def test_names_that_are_no_files_in_a_folder(name: str) -> None:
    assert not is_file_name(name) and is_file_name("a..b")


# -- what is ours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "embeddings/my_years_of_work.parquet", "timings/x"])
def test_a_folder_with_files_of_others_and_no_manifest_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(OutputError, match="no manifest of mtembed"):
        require_ours(Dataset(tmp_path / "out"), ["part_0"])


def test_nothing_hidden_and_no_empty_folder_of_ours_stands_in_the_way(tmp_path: Path) -> None:
    for name in ("embeddings", "timings", ".mtembed"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").write_text("")
    require_ours(Dataset(tmp_path), ["part_0"])
    require_ours(Dataset(tmp_path / "new"), ["part_0"])


def test_a_file_of_others_in_the_place_of_a_part_is_refused(dataset: Dataset) -> None:
    require_ours(dataset, ["part_0", "part_1", "part_2"])
    dataset.part("part_2").write_text("mine")
    require_ours(dataset, ["part_0", "part_1"])
    with pytest.raises(OutputError, match=r"embeddings/part_2\.parquet"):
        require_ours(dataset, ["part_0", "part_1", "part_2"])


def test_fresh_removes_what_manifests_list_and_nothing_else(dataset: Dataset) -> None:
    assert files(dataset.root) == OURS
    for name in ("embeddings/mine.parquet", "timings/mine.parquet", "notes.txt"):
        (dataset.root / name).write_text("mine")
    with dataset.joined():
        dataset.journal("part_9").write_text("of an unfinished run")
        clear(dataset)
    assert files(dataset.root) == {"embeddings/mine.parquet", "timings/mine.parquet", "notes.txt"}


def test_fresh_removes_nothing_through_a_link(dataset: Dataset, tmp_path: Path) -> None:
    (dataset.root / "embeddings").rename(tmp_path / "elsewhere")
    (dataset.root / "embeddings").symlink_to(tmp_path / "elsewhere")
    with dataset.joined(), pytest.raises(OSError, match="symbolic links"):
        clear(dataset)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2 and dataset.manifest_path.exists()


@pytest.mark.parametrize(("mine", "other"), [((0, 1), (0, 2)), ((0, 2), (0, 1)), ((0, 2), (1, 2)), ((0, 1), (2, 3))])
def test_fresh_removes_nothing_beside_a_running_process(
    dataset: Dataset, mine: tuple[int, int], other: tuple[int, int]
) -> None:
    with Dataset(dataset.root, *other).joined():
        fresh = Dataset(dataset.root, *mine)
        with fresh.joined(), pytest.raises(LockedError, match="--fresh removes nothing beside it"):
            clear(fresh)
    assert files(dataset.root) == OURS


def test_a_process_that_was_killed_stops_nobody(dataset: Dataset) -> None:
    killed = Dataset(dataset.root)
    with contextlib.ExitStack() as stack:
        stack.enter_context(killed.joined())
        os.close(killed.members.fd)
        with dataset.joined():
            clear(dataset)
        killed.members.fd = os.open(dataset.root, os.O_RDONLY)
    assert not files(dataset.root)


def test_one_of_several_processes_removes_its_own(tmp_path: Path) -> None:
    finished(tmp_path)
    root = tmp_path / "out"
    (root / "manifest.json").rename(root / "manifest-0-of-2.json")
    (root / "manifest-1-of-2.json").write_text((root / "manifest-0-of-2.json").read_text())
    (root / "timings/mine.parquet").write_text("mine")
    first = Dataset(root, 0, 2)
    with first.joined():
        clear(first)
    assert files(root) == {"README.md", "failures.jsonl", "manifest-1-of-2.json", "timings/mine.parquet"}


def test_a_manifest_that_cannot_be_read_says_nothing_of_what_may_be_removed(dataset: Dataset) -> None:
    dataset.manifest_path.write_text("{")
    with dataset.joined(), pytest.raises(OutputError, match="is not a manifest"):
        clear(dataset)
    assert files(dataset.root) == OURS
