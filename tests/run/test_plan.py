"""What is refused before anything is written, and what is done already."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.errors import MtembedError, OutputError, SettingsError, UsageError, WorkerError
from mtembed.models import weights
from mtembed.run.dryrun import Estimate, estimate
from mtembed.run.embed import Run
from mtembed.run.plan import Plan, plan
from mtembed.run.process import Worker
from mtembed.run.resume import Remaining, remaining
from mtembed.run.sizes import sizes
from tests.tools.finished import config, finished, settings_of
from tests.tools.shards import make_shard, write_metadata


def dry(folder: Path, **options: Any) -> Estimate:
    return estimate(plan(config(folder, **options)), trial=lambda plan, settings, sizes: 1.0)


def no_worker(kind: str, name: str, job: object, inherited: Sequence[int] = (), environment: Any = None) -> Worker:
    raise WorkerError("a worker would start")


def left(found: Plan) -> Remaining:
    return remaining(found, settings_of(found))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of two cells."""
    shards = [make_shard(tmp_path / "images" / f"part_{i}.parquet", 2, "S1RTC", side=64) for i in range(3)]
    write_metadata(tmp_path / "metadata.parquet", shards)
    return tmp_path


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_tables_that_lie_beside_shards_are_refused_by_what_they_are(folder: Path) -> None:
    finished(folder)
    for name, words in {
        "metadata.parquet": "metadata.parquet is a table of Core's metadata",
        "out/timings/part_0.parquet": "part_0.parquet is a file of timings",
    }.items():
        found = dataclasses.replace(config(folder, output=str(folder / "new")), shards=(str(folder / name),))
        with pytest.raises(UsageError, match=words):
            plan(found)
    pq.write_table(pa.table({"unique_id": ["a"], "embedding": [[1.0]]}), folder / "mine.parquet")
    with pytest.raises(UsageError, match=r"mine\.parquet is a file of embeddings, not a shard of images"):
        plan(dataclasses.replace(config(folder), shards=(str(folder / "mine.parquet"),)))
    assert not (folder / "new").exists()


def test_a_foreign_file_that_sorts_first_does_not_decide_the_source(folder: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), folder / "images/a_foreign.parquet")
    assert plan(config(folder)).source == "S1RTC"
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "images/a_foreign.parquet")
    with pytest.raises(UsageError, match=r"a_foreign\.parquet has no band of Major TOM Core"):
        plan(config(folder))


@pytest.mark.parametrize("size", [65, 5000])
def test_a_fragment_larger_than_the_cell_is_one_sentence(folder: Path, size: int) -> None:
    with pytest.raises(UsageError, match=f"a fragment of {size} px does not fit into a cell of 64 x 64 px: choose"):
        plan(config(folder, fragment_size=size))


@pytest.mark.parametrize("option", ["shards", "cells", "metadata", "output"])
def test_a_name_that_no_file_can_have_is_one_sentence(folder: Path, option: str) -> None:
    name = str(folder / ("x" * 300))
    found = config(folder, **{} if option == "shards" else {option: name})
    if option == "shards":
        found = dataclasses.replace(found, shards=(name,))
    with pytest.raises(MtembedError) as caught:
        Run(plan(found), start=no_worker).execute()
    assert len(str(caught.value).splitlines()) == 1 and "part_0" not in str(caught.value)


# -- output -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_others_is_left_alone(folder: Path, fresh: bool) -> None:
    mine = folder / "out/embeddings/my_years_of_work.parquet"
    mine.parent.mkdir(parents=True)
    for path in (mine, folder / "out/README.md"):
        path.write_text("mine")
    for tried in (lambda: Run(plan(config(folder, fresh=fresh))).execute(), lambda: dry(folder, fresh=fresh)):
        with pytest.raises(OutputError, match="no manifest of mtembed lists"):
            tried()
    assert mine.read_text() == (folder / "out/README.md").read_text() == "mine"
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["README.md", "embeddings"]


def test_nothing_is_left_where_a_run_cannot_begin(folder: Path) -> None:
    for options in ({"device": "cuda"}, {"model": "ssl4eo-s1", "weights": "missing.pth"}):
        with pytest.raises(MtembedError):
            Run(plan(config(folder, **options)), start=no_worker).execute()
        assert not (folder / "out").exists()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    found = dry(folder)
    assert (found.cells, found.shards, found.left) == (6, 3, 6) and not (folder / "out").exists()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.cells = 1  # type: ignore[misc]


# -- selections -------------------------------------------------------------------------------------------------------


def test_a_selection_that_matches_nothing_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no cell lies in -50,-80,10,-70 \(W,S,E,N\): is it lat/lon swapped\?"):
        dry(folder, bbox=(-50.0, -80.0, 10.0, -70.0))
    (folder / "cells.txt").write_text("1U_1R\n2U_2R\n")
    with pytest.raises(UsageError, match=r"no cell of the shards is named in --cells .*cells\.txt"):
        dry(folder, cells=str(folder / "cells.txt"))
    dry(folder, bbox=(-50.0, -80.0, 10.0, -70.0), shard_count=2)  # the other process may have some


def test_names_that_are_in_no_shard_are_counted(folder: Path) -> None:
    name = pq.read_table(folder / "images/part_0.parquet", columns=["grid_cell"]).column(0)[0].as_py()
    (folder / "cells.txt").write_text(f"{name}\n1U_1R\n2U_2R\n")
    found = dry(folder, cells=str(folder / "cells.txt"))
    assert found.cells == 3 and "2 of 3 names of --cells are in no shard" in found.warnings
    assert "warning: 2 of 3 names of --cells are in no shard" in found.text()


# -- resume -----------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_done_and_nothing_is_written_to_know_it(tmp_path: Path) -> None:
    whole = finished(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    found = left(plan(config(tmp_path)))
    assert (dict(found.done), found.shards, found.kept) == ({0: 2, 1: 2}, (), whole.shards)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_a_part_that_no_manifest_lists_yet_tells_its_own_facts(tmp_path: Path) -> None:
    whole = finished(tmp_path)
    content = plan(config(tmp_path))
    assert content.earlier is not None
    unlisted = dataclasses.replace(content, earlier=dataclasses.replace(content.earlier, shards={}))
    kept = {stem: dataclasses.replace(facts, timings_sha256="") for stem, facts in left(unlisted).kept.items()}
    assert kept == whole.shards


def test_a_part_that_is_not_as_it_was_written_is_made_again(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "out/timings/part_0.parquet").write_bytes(b"PAR1")
    (tmp_path / "out/embeddings/part_1.parquet").write_bytes(b"shorter")
    found = plan(config(tmp_path))
    assert found.earlier is not None
    unlisted = {"part_1": found.earlier.shards["part_1"]}
    again = left(dataclasses.replace(found, earlier=dataclasses.replace(found.earlier, shards=unlisted)))
    assert (again.damaged, again.shards) == (("part_0", "part_1"), (0, 1))


def test_a_shard_that_is_gone_or_changed_is_named_and_not_the_folder(tmp_path: Path) -> None:
    finished(tmp_path)
    found = plan(config(tmp_path))
    shard = tmp_path / "images/part_1.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data + b"more")
    with pytest.raises(SettingsError, match=r"part_1\.parquet has changed since it was embedded"):
        left(found)
    shard.write_bytes(b"x" * len(data))
    with pytest.raises(SettingsError, match=r"part_1\.parquet"):
        left(found)
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    with pytest.raises(SettingsError, match=r"part_1\.parquet was embedded and cannot be read any more"):
        left(found)


def test_other_settings_of_another_process_are_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    out = tmp_path / "out"
    (out / "manifest.json").rename(out / "manifest-1-of-3.json")
    left(plan(config(tmp_path, shard_count=2)))  # how shards are dealt decides no byte
    with pytest.raises(SettingsError, match=r"overlap was 0\.1, is now 0\.2"):
        left(plan(config(tmp_path, shard_count=2, overlap=0.2)))


def test_files_named_like_manifests_are_none(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "out/manifest-notes.json").write_text("{}")
    assert not left(plan(config(tmp_path))).shards


def test_a_start_with_nothing_left_to_do_starts_no_worker(tmp_path: Path) -> None:
    finished(tmp_path)
    summary = Run(plan(config(tmp_path)), start=no_worker).execute()
    assert (summary.exit_code, summary.cells, summary.new_cells) == (0, 4, 0) and "nothing to do" in summary.message


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_hold_together(folder: Path) -> None:
    found = plan(config(folder, slots=7, workers=3))
    layout = sizes(found, settings_of(found), weights.resolve(found.spec, None))
    assert (layout.lanes, layout.ring.slots, layout.crews.decode, layout.on_gpu) == (1, 7, 3, False)
    assert len(layout.device_jobs) == layout.lanes and layout.device_jobs[0].size == 32
    assert layout.ring.plane_bytes >= 2 * 64 * 64 * 4 and layout.ring.vector_bytes >= 9 * 512 * 4


def test_one_lane_for_each_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEMBED_CPU_CARDS", "3")
    found = plan(config(folder, device="cuda"))
    layout = sizes(found, settings_of(found), weights.resolve(found.spec, None))
    assert layout.on_gpu and layout.lanes == layout.crews.device == 3
    assert [job.lane for job in layout.device_jobs] == [0, 1, 2] and layout.credit > 2


def test_a_folder_without_permission_is_named(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (folder / "images").chmod(0)
    try:
        with pytest.raises(UsageError, match=r"images cannot be read \(Permission denied\)"):
            plan(config(folder))
    finally:
        (folder / "images").chmod(0o755)


# -- metadata -------------------------------------------------------------------------------------------------------


def test_metadata_that_cannot_be_read_is_a_warning_that_names_it(folder: Path) -> None:
    assert not plan(config(folder)).warnings
    (folder / "metadata.parquet").write_bytes(b"PAR1 no more PAR1")
    (warning,) = plan(config(folder)).warnings
    assert "metadata.parquet cannot be read and is left aside" in warning
    with pytest.raises(UsageError, match="--metadata"):
        plan(config(folder, metadata=str(folder / "metadata.parquet")))


def test_metadata_without_a_line_about_the_input_is_a_warning(folder: Path) -> None:
    for path in sorted((folder / "images").glob("*.parquet")):
        path.rename(path.with_name(f"renamed_{path.name}"))
    assert plan(config(folder)).warnings == ("metadata.parquet has no line about some of the shards",)
