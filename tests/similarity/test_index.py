"""The index: FAISS reads it, it goes on where it was stopped, a stale or damaged one is noticed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from mtembed import index, search
from mtembed.errors import OutputError, SettingsError, UsageError
from mtembed.similarity.index_file import Trained, open_index
from tests.tools import similar
from tests.tools.commands import run, start
from tests.tools.embeddings import grid_table, random_vectors, write


def vectors_of(path: Path) -> tuple[faiss.Index, faiss.Index]:
    whole = faiss.read_index(str(path))
    return whole, faiss.downcast_index(whole.refine_index)


def test_an_exact_index_has_the_bytes_that_faiss_would_write(tmp_path: Path) -> None:
    root = similar.make(tmp_path / "set")
    made = index(root)
    assert (made.kind, made.metric, made.rows, made.left_out, made.recall_at_10) == ("exact", "cosine", 1080, 0, 1.0)
    flat = faiss.IndexFlatIP(24)
    flat.add(similar.units(root).astype(np.float32))
    assert (root / "index" / "index.faiss").read_bytes() == faiss.serialize_index(flat).tobytes()
    assert sorted(path.name for path in (root / "index").iterdir()) == ["index.faiss", "index.json", "rows.parquet"]


def test_lists_written_from_files_are_those_of_faiss(tmp_path: Path) -> None:
    """The same trained index, filled by FAISS in memory, answers alike."""
    root = similar.make(tmp_path / "set", cells=240, files=4)
    made = index(root, kind="ivf")
    assert made.kind == "ivf" and made.lists == 32 and made.nprobe and made.recall_at_10 >= 0.95
    units = similar.units(root).astype(np.float32)
    whole, refine = vectors_of(root / "index" / "index.faiss")
    assert whole.ntotal == refine.ntotal == len(units)
    base = faiss.downcast_index(whole.base_index)
    assert sum(base.invlists.list_size(i) for i in range(base.nlist)) == len(units)
    assert abs(refine.reconstruct_n(0, len(units)) - units).max() < 0.01
    trained = Trained.of(units, units.min(axis=0), units.max(axis=0), 16)
    lists, bits, codes = trained.encode(units)
    pieces = []
    for number, rows in enumerate(np.array_split(np.arange(len(units)), 3)):
        piece = tuple(tmp_path / f"{number}.{kind}" for kind in ("lists", "bits", "codes"))
        for path, values in zip(piece, (lists, bits, codes), strict=True):
            values[rows].tofile(path)
        pieces.append(piece)
    trained.write(tmp_path / "ours.faiss", pieces)
    trained.save(tmp_path / "theirs.faiss")
    theirs = faiss.read_index(str(tmp_path / "theirs.faiss"))
    theirs.add(units)
    assert (tmp_path / "ours.faiss").read_bytes() == faiss.serialize_index(theirs).tobytes()


def test_what_the_index_keeps_is_off_by_less_than_it_says(tmp_path: Path) -> None:
    root = similar.make(tmp_path / "set")
    units = similar.units(root)
    for kind in ("exact", "ivf"):
        made = index(root, kind=kind, fresh=True)
        opened = open_index(root / "index" / "index.faiss", kind, 24, made.rows)
        for row in range(0, 1080, 100):
            off = abs(opened.approximate(units[row], None) - units @ units[row])
            assert off.max() <= opened.bound and (kind == "ivf" or off.max() < 1e-6)
        some = np.array([900, 3, 77])
        assert np.allclose(opened.approximate(units[5], some), opened.approximate(units[5], None)[some], atol=1e-6)


def test_rows_of_the_table_are_those_of_the_vectors(tmp_path: Path) -> None:
    root = similar.make(tmp_path / "set")
    index(root)
    table = pq.read_table(root / "index" / "rows.parquet")
    assert table.column_names == [
        "unique_id", "grid_cell", "product_id", "timestamp", "centre_lat", "centre_lon", "pixel_bbox", "file", "row",
    ]  # fmt: skip
    for name in ("unique_id", "grid_cell", "product_id", "timestamp", "pixel_bbox"):
        assert table[name].to_pylist() == similar.column(root, name)
    assert table["row"].to_pylist()[358:362] == [358, 359, 0, 1] and table["file"][360].as_py() == "part_00001.parquet"
    content = json.loads((root / "index" / "index.json").read_text())
    assert {"kind", "metric", "dim", "rows", "recall_at_10", "sources"} <= set(content)
    assert str(tmp_path) not in json.dumps(content)


def test_the_same_command_twice_and_others(tmp_path: Path) -> None:
    root = similar.make(tmp_path / "set")
    first = index(root)
    assert not first.nothing_to_do and index(root).nothing_to_do
    with pytest.raises(SettingsError, match="--kind exact and not ivf"):
        index(root, kind="ivf")
    again = index(list(reversed(similar.parts(root))), tmp_path / "again")
    assert again.rows == first.rows
    for name in ("index.faiss", "rows.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (root / "index" / name).read_bytes()


def test_two_lists_of_equal_input_are_the_same_bytes(tmp_path: Path) -> None:
    made = [similar.make(tmp_path / name) for name in ("a", "b")]
    for root in made:
        index(root, kind="ivf")
    for name in ("index.faiss", "rows.parquet"):
        assert (made[0] / "index" / name).read_bytes() == (made[1] / "index" / name).read_bytes()


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_what_was_encoded_stays_done(tmp_path: Path, kind: str) -> None:
    """Stopped after two of three files; the third is encoded, the others are not touched again, the bytes are equal."""

    class Stop(Exception):
        pass

    root = similar.make(tmp_path / "set")
    index(root, tmp_path / "whole", kind=kind)

    def tick(what: str, done: int, total: int) -> None:
        if what == "encoding" and done > 720:
            raise Stop

    with pytest.raises(Stop):
        index(root, kind=kind, tick=tick)
    work = root / "index" / ".mtembed"
    kept = {path: path.stat().st_mtime_ns for path in sorted(work.glob("0000[01].*"))}
    assert len(kept) >= 8 and not (root / "index" / "index.json").exists()
    seen: list[str] = []

    def look(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what == "writing":
            assert {path: path.stat().st_mtime_ns for path in kept} == kept

    index(root, kind=kind, tick=look)
    assert "reading" not in seen and "writing" in seen and not work.exists()
    for name in ("index.faiss", "rows.parquet"):
        assert (root / "index" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    root = similar.make(tmp_path / "set", cells=900, files=30)
    process = start(["index", str(root), "--kind", "ivf", "--json"])
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("doing") == "reading":
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, err = run(["index", str(root), "--kind", "ivf", "--json"])
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["rows"] == 8100
    assert sorted(path.name for path in (root / "index").iterdir()) == ["index.faiss", "index.json", "rows.parquet"]


def test_a_stale_index_is_noticed(tmp_path: Path) -> None:
    """Named through its dataset the files are read as they are, with a note; named itself it is refused."""
    root = similar.make(tmp_path / "set")
    index(root)
    name = similar.column(root, "unique_id")[0]
    assert search(root, row=name).notes == ()
    write(similar.parts(root)[1], grid_table(random_vectors(9, 24, seed=5), ["1U_1R"], 9))
    result = search(root, row="1U_1R-0-0")
    assert result.hits[0].grid_cell == "1U_1R" and result.rows == 729
    assert len(result.notes) == 1 and "the index in index is left aside" in result.notes[0]
    with pytest.raises(OutputError, match="was made from other files than set has now: make it again"):
        search(root / "index", row=name)
    with pytest.raises(SettingsError, match="--fresh"):
        index(root)
    assert index(root, fresh=True).rows == 729 and search(root, row="1U_1R-0-0").notes == ()


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_an_index_alone_is_searched_too(tmp_path: Path, kind: str) -> None:
    root = similar.make(tmp_path / "set")
    names, units = similar.column(root, "unique_id"), similar.units(root)
    index(root, kind=kind)
    shutil.move(root / "index", tmp_path / "alone")
    for query in ({"row": names[50]}, {"vector": units[50]}):
        result = search(tmp_path / "alone", **query, top=5)
        off = abs(result.hits[0].score - 1)
        assert result.hits[0].unique_id == names[50] and off < (1e-6 if kind == "exact" else 0.01)
        assert any("8-bit codes" in note for note in result.notes) == (kind == "ivf")
    result = search(tmp_path / "alone", row=names[50], exclude_same_cell=True)
    assert len(result.hits) == 10 and result.hits[0].grid_cell != "451U_125R"


@pytest.mark.parametrize("damage", ["cut", "longer", "swapped", "json", "table", "kind", "rows"])
def test_a_damaged_index_is_one_sentence(tmp_path: Path, damage: str) -> None:
    root = similar.make(tmp_path / "set")
    index(root, kind="ivf")
    folder = root / "index"
    record, vectors, table = folder / "index.json", folder / "index.faiss", folder / "rows.parquet"
    whole = vectors.read_bytes()
    if damage in ("cut", "longer"):
        vectors.write_bytes(whole[:-500] if damage == "cut" else whole + b"more")
    elif damage == "swapped":
        vectors.write_bytes(b"IxXX" + whole[4:])
    elif damage == "table":
        table.write_bytes(table.read_bytes()[:-20])
    elif damage == "json":
        record.write_text("{")
    else:
        content = json.loads(record.read_text())
        content[damage] = {"kind": "magic", "rows": 3}[damage]
        record.write_text(json.dumps(content))
    with pytest.raises(OutputError) as raised:
        search(folder, row="450U_120R-0-0")
    assert "\n" not in str(raised.value) and "again" in str(raised.value)
    result = search(root, row="450U_120R-0-0")
    assert len(result.hits) == 10 and "left aside" in result.notes[0]


def test_nothing_to_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", grid_table(np.zeros((5, 4), np.float32), similar.cell_names(5)))
    for kind in ("exact", "ivf"):
        with pytest.raises(UsageError, match="has a direction"):
            index(path, tmp_path / kind, kind=kind)
    with pytest.raises(UsageError, match="--kind magic"):
        index(path, tmp_path / "x", kind="magic")  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_full_disk_is_one_sentence_and_goes_on_later(tmp_path: Path, kind: str) -> None:
    """The index's file stands on a full device; with room the same command finishes."""
    root = similar.make(tmp_path / "set")
    work = root / "index" / ".mtembed"
    work.mkdir(parents=True)
    (work / "index.faiss").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"[Nn]o space") as raised:
        index(root, kind=kind)
    assert "\n" not in str(raised.value)
    (work / "index.faiss").unlink()
    assert index(root, kind=kind).rows == 1080
