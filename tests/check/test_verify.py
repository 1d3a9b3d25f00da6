"""``mtembed verify`` passes what a run wrote; folder, manifests, input and command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtembed.check.verify import sentence, verify
from mtembed.cli.app import main
from mtembed.dataset.folder import Dataset
from mtembed.dataset.manifest import totals
from mtembed.errors import UsageError
from mtembed.run.embed import embed
from mtembed.types import ShardFacts
from tests.tools.damages import edit, edit_timings, part_cut_short, part_removed
from tests.tools.datasets import OPTIONS, Made
from tests.tools.rewriting import PART, editing
from tests.tools.shards import ShardCell, make_shard


def test_a_finished_dataset_is_right(made: Made) -> None:
    verdict = verify(made.root, [made.shards[0].path.parent])
    assert verdict.lines() == []
    assert verdict.ok
    expected = {"parts": 3, "cells": 5, "failed": 2, "embeddings": 45, "inputs_checked": 3, "repeated_grid_cells": 1}
    assert expected.items() <= verdict.info.items()
    assert sentence(verdict).startswith("everything is right: 45 embeddings of 5 cells in 3 parts; 2 cells failed")


def test_progress_reaches_the_number_of_rows(made: Made) -> None:
    seen: list[tuple[int, int]] = []
    verify(made.root, tick=lambda done, total: seen.append((done, total)))
    assert seen == [(27, 45), (45, 45)]


def test_half_precision_without_border_shift_is_right(tmp_path: Path) -> None:
    cells = [ShardCell(epsg=32633, rows=101, cols=77, pixel=7.5), ShardCell(epsg=32633, rows=64, cols=32)]
    shard = make_shard(tmp_path / "images" / "s1.parquet", cells, "S1RTC")
    options = OPTIONS | {"dtype": "float16", "border_shift": False, "overlap": 0.4}
    assert embed(shard.path, **options, output=str(tmp_path / "out")).exit_code == 0
    assert verify(tmp_path / "out", [shard.path]).lines() == []


def test_a_dataset_in_work_is_said_to_be(root: Path) -> None:
    """What is finished is right; what a run is still making is no problem."""
    (root / ".mtembed").mkdir()
    (root / ".mtembed/part_00002.journal").touch()
    for name in ("failures.jsonl", "README.md"):
        (root / name).unlink()
    with editing(root / "manifest.json") as manifest:
        manifest["complete"] = False
        del manifest["shards"]["part_00001"]  # finished since the manifest was written
        manifest["totals"] = dataclasses.asdict(totals(_facts(manifest)))
    with Dataset(root).joined():
        verdict = verify(root)
        assert verdict.lines() == []
        assert sentence(verdict).startswith("a run is working here; finished parts are right: 27 embeddings of 3 cells")
        part_cut_short(root)
        assert "unreadable" in verify(root).counts
    assert "left over from an unfinished run" in "\n".join(verify(root).lines())


def _facts(manifest: dict[str, Any]) -> dict[str, ShardFacts]:
    return {stem: ShardFacts(**facts) for stem, facts in manifest["shards"].items()}


def test_a_card_with_another_text_is_a_note(root: Path) -> None:
    (root / "README.md").write_text((root / "README.md").read_text() + "\nMore of us.\n")
    verdict = verify(root)
    assert verdict.ok and len(verdict.notes) == 1
    assert verdict.lines() == [f"note: {verdict.notes[0]}"]
    assert verdict.as_json()["notes"] == verdict.notes


def test_bad_parts_are_listed_with_what_to_do(root: Path) -> None:
    edit("unique_id", dict.fromkeys(range(20), "0" * 64))(root)
    verdict = verify(root)
    assert verdict.bad_parts == {"part_00001"}
    assert verdict.lines()[-1].startswith("    what to do: make the part again with --repair and --shards")
    assert verdict.as_json()["bad_parts"] == ["part_00001"]


# -- the input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(made: Made, tmp_path: Path) -> Path:
    """A copy of the input to be changed."""
    return Path(shutil.copytree(made.shards[0].path.parent, tmp_path / "images"))


def test_a_changed_input_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00001.parquet", 3, side=102)
    verdict = verify(made.root, [images])
    assert set(verdict.counts) == {"input"}
    assert verdict.lines()[0].startswith("part_00001.parquet: its ")


def test_an_input_with_other_rows_is_named(root: Path, images: Path) -> None:
    edit_timings(lambda rows: rows[1].update(grid_cell="1U_1R"))(root)
    edit("grid_cell", dict.fromkeys(range(9, 18), "1U_1R"))(root)
    verdict = verify(root, [images])
    assert "part_00001.parquet: row group 1: holds 432D_628L of S2A_MSIL1C" in "\n".join(verdict.lines())
    assert set(verdict.counts) == {"input", "grid cell"}


def test_an_input_without_a_part_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00004.parquet", 1)
    verdict = verify(made.root, [images])
    assert verdict.lines() == [
        "part_00004.parquet: this shard has no part in the dataset: run the same command again to finish"
    ]


def test_an_input_that_can_be_opened_now_is_named(made: Made, images: Path) -> None:
    make_shard(images / "part_00003.parquet", 1)
    assert "part_00003.parquet: it could not be opened when it was embedded" in verify(made.root, [images]).lines()[0]


def test_an_input_that_is_no_file_is_a_usage_error(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shard matches"):
        verify(made.root, [tmp_path / "nowhere"])


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_work(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made together."""
    out = tmp_path_factory.mktemp("shared-work") / "out"
    images = made.shards[0].path.parent
    codes = [embed(images, **OPTIONS, output=str(out), shard_index=i, shard_count=2).exit_code for i in (0, 1)]
    assert codes == [3, 3]
    return out


@pytest.fixture
def two(shared_work: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_work, tmp_path / "out"))


def test_processes_that_share_a_folder_make_one_dataset(two: Path, made: Made) -> None:
    verdict = verify(two, [made.shards[0].path.parent])
    assert verdict.lines() == []
    assert {"manifests": 2, "parts": 3, "embeddings": 45, "failed": 2}.items() <= verdict.info.items()


def test_a_missing_process_is_named(two: Path) -> None:
    (two / "manifest-1-of-2.json").unlink()
    verdict = verify(two)
    assert "manifest-1-of-2.json: this process's manifest is missing: start it with --shard-index 1" in verdict.lines()
    assert set(verdict.counts) == {"manifest", "orphan"}


def test_processes_with_other_settings_or_the_same_shard_are_named(two: Path) -> None:
    with editing(two / "manifest-0-of-2.json") as first, editing(two / "manifest-1-of-2.json") as second:
        second["settings"]["offset"] = "remove"
        second["shards"]["part_00001"] = {**first["shards"]["part_00001"], "cells": 2}
    text = "\n".join(verify(two).lines())
    assert "manifest-1-of-2.json: offset is remove, in manifest-0-of-2.json keep" in text
    assert "part_00001 is in another manifest too" in text


def test_a_part_in_two_manifests_is_one_part(two: Path) -> None:
    """So after a shard was added that sorts first, when other processes take over parts."""
    with editing(two / "manifest-0-of-2.json") as first, editing(two / "manifest-1-of-2.json") as second:
        second["shards"]["part_00001"] = first["shards"]["part_00001"]
        second["totals"] = dataclasses.asdict(totals(_facts(second)))
    verdict = verify(two)
    assert verdict.ok
    assert {"parts": 3, "cells": 5, "embeddings": 45}.items() <= verdict.info.items()


def test_another_number_of_processes_is_named(two: Path) -> None:
    with editing(two / "manifest-1-of-2.json") as manifest:
        manifest["settings"]["shard_count"] = 3
    (two / "manifest-1-of-2.json").rename(two / "manifest-1-of-3.json")
    words = "manifests of runs with --shard-count 2 and 3 are mixed: join them with mtembed finish"
    assert words in verify(two).lines()


# -- command ----------------------------------------------------------------------------------------------------------


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_command_says_that_all_is_right(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(made.root), "--shards", *(str(shard.path) for shard in made.shards)) == 0
    assert capsys.readouterr().out.startswith("everything is right: 45 embeddings")


def test_command_lists_problems(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part_removed(root)
    assert command("verify", str(root)) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{PART}: the file is missing")


def test_command_speaks_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit("centre_lon", {5: 0.0})(root)
    assert command("verify", str(root), "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is False
    assert content["counts"] == {"centre": 1}
    assert content["problems"][0]["file"] == PART
    assert content["problems"][0]["where"] == "row 5 (row group 0)"
    assert content["info"]["embeddings"] == 45


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_command_needs_a_dataset(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", str(tmp_path / name)) == 2
    assert "name the output folder of a run" in capsys.readouterr().err
