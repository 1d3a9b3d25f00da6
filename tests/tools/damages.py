"""Ways to damage a finished dataset: how each is done, what kinds of problem it makes, and a line that names it.

The dataset holds part_00001 (3 cells of 9 fragments), part_00002 (a failed cell) and part_00003 (a failed shard).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from tests.tools.rewriting import PART, TIMINGS, editing, facts, put, rehash, rewrite, timings_written


def edit(name: str, values: Mapping[int, Any], hashed: bool = False) -> Callable[[Path], None]:
    """A damage that puts values into rows of the first part."""

    def damage(root: Path) -> None:
        rewrite(root, lambda table: rehash(put(table, name, values)) if hashed else put(table, name, values))

    return damage


def edit_timings(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """A damage to the timing rows of the first part."""

    def damage(root: Path) -> None:
        table = pq.read_table(root / TIMINGS)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / TIMINGS)
        timings_written(root)

    return damage


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with editing(root / "manifest.json") as manifest:
            change(manifest)

    return damage


def edit_geo(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        geo = json.loads(pq.read_metadata(root / PART).metadata[b"geo"])
        change(geo)
        rewrite(root, keys={"geo": geo})

    return damage


def edit_cells(change: Callable[[list[list[int]]], Any], **source: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        listed = json.loads(pq.read_metadata(root / PART).metadata[b"mtembed"])
        change(listed["cells"])
        listed["source"].update(source)
        rewrite(root, keys={"mtembed": listed})

    return damage


# -- damages ----------------------------------------------------------------------------------------------------------


def part_removed(root: Path) -> None:
    (root / PART).unlink()


def timings_removed(root: Path) -> None:
    (root / TIMINGS).unlink()


def part_cut_short(root: Path) -> None:
    data = (root / PART).read_bytes()
    (root / PART).write_bytes(data[: len(data) // 2])


def page_header_overwritten(root: Path) -> None:
    path = root / PART
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + 64] = b"\xff" * 64
    path.write_bytes(data)


def timings_cut_short(root: Path) -> None:
    (root / TIMINGS).write_bytes((root / TIMINGS).read_bytes()[:-20])


def unknown_part(root: Path) -> None:
    shutil.copy(root / PART, root / "embeddings" / "part_00009.parquet")


def parts_exchanged(root: Path) -> None:
    first, second = root / PART, root / "embeddings" / "part_00002.parquet"
    first.rename(root / "kept")
    second.rename(first)
    (root / "kept").rename(second)


def journal_left(root: Path) -> None:
    (root / ".mtembed").mkdir()
    (root / ".mtembed" / "part_00003.journal").write_bytes(b"MTJ1")


def temporary_left(root: Path) -> None:
    (root / ".manifest.json.tmp").write_text("{")


def manifest_removed(root: Path) -> None:
    (root / "manifest.json").unlink()


def manifest_torn(root: Path) -> None:
    (root / "manifest.json").write_text('{"settings": ')


def manifest_of_another_number_of_processes(root: Path) -> None:
    (root / "manifest.json").rename(root / "manifest-0-of-2.json")


def readme_removed(root: Path) -> None:
    (root / "README.md").unlink()


def failures_removed(root: Path) -> None:
    (root / "failures.jsonl").unlink()


def failures_emptied(root: Path) -> None:
    (root / "failures.jsonl").write_text("")


def failure_invented(root: Path) -> None:
    with (root / "failures.jsonl").open("a") as file:
        file.write('{"shard": "part_00001.parquet", "row_group": 0}\n')


def shifted(step: float) -> Callable[[Path], None]:
    def geometry_shifted(root: Path) -> None:
        def change(table: pa.Table) -> pa.Table:
            moved = shapely.transform(shapely.from_wkb(table["geometry"][4].as_py()), lambda points: points + step)
            return rehash(put(table, "geometry", {4: shapely.to_wkb(moved)}))

        rewrite(root, change)

    return geometry_shifted


def geometry_clockwise(root: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        turned = shapely.reverse(shapely.from_wkb(table["geometry"].to_numpy()))
        utm = shapely.to_wkt(
            shapely.reverse(shapely.from_wkt(table["utm_footprint"].to_numpy())), rounding_precision=-1
        )
        table = put(table, "utm_footprint", dict(enumerate(utm.tolist())))
        return rehash(put(table, "geometry", dict(enumerate(shapely.to_wkb(turned).tolist()))))

    rewrite(root, change)


def utm_moved(root: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        moved = shapely.transform(shapely.from_wkt(table["utm_footprint"][7].as_py()), lambda points: points + 0.01)
        return put(table, "utm_footprint", {7: shapely.to_wkt(moved, rounding_precision=-1)})

    rewrite(root, change)


def utm_triangle(root: Path) -> None:
    rewrite(root, lambda table: put(table, "utm_footprint", {7: "POLYGON ((0 0, 1 0, 1 1, 0 0))"}))


def utm_not_a_number(root: Path) -> None:
    nowhere = "POLYGON ((nan nan, 1 1, 2 2, 1 2, nan nan))"
    rewrite(root, lambda table: put(table, "utm_footprint", {7: nowhere}))


def row_dropped(root: Path) -> None:
    rewrite(root, lambda table: table.slice(1))


def rows_swapped(root: Path) -> None:
    rewrite(root, lambda table: table.take([1, 0, *range(2, table.num_rows)]))


def column_retyped(root: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("centre_lat")
        return table.set_column(place, "centre_lat", table["centre_lat"].cast(pa.float64()))

    rewrite(root, change)


def column_dropped(root: Path) -> None:
    rewrite(root, lambda table: table.drop_columns(["grid_cell"]))


def column_added(root: Path) -> None:
    rewrite(root, lambda table: table.append_column("more", pa.array(range(table.num_rows))))


def column_doubled(root: Path) -> None:
    rewrite(root, lambda table: table.append_column("timestamp", table["timestamp"]))


def columns_reordered(root: Path) -> None:
    rewrite(root, lambda table: table.select(table.column_names[::-1]))


def vectors_plain(root: Path) -> None:
    rewrite(root, use_byte_stream_split=False)


def vectors_snappy(root: Path) -> None:
    rewrite(root, compression="snappy", compression_level=None)


def vectors_in_a_dictionary(root: Path) -> None:
    rewrite(root, use_byte_stream_split=False, use_dictionary=["embedding.list.element"])


def cut_inside_a_cell(root: Path) -> None:
    rewrite(root, cuts=lambda rows: [10, rows - 10])


def cell_repeated(root: Path) -> None:
    listed = json.loads(pq.read_metadata(root / PART).metadata[b"mtembed"])
    listed["cells"] = [*listed["cells"], listed["cells"][-1]]
    rewrite(root, lambda table: pa.concat_tables([table, table.slice(18)]), keys={"mtembed": listed})


VECTOR = [0.5] * 512
EMPTY = {"geo": None}
DAMAGES: list[tuple[Callable[[Path], None], set[str], str]] = [
    (part_removed, {"missing"}, f"{PART}: the file is missing"),
    (timings_removed, {"missing"}, f"{TIMINGS}: the file is missing"),
    (part_cut_short, {"unreadable"}, f"{PART}: not a readable Parquet file"),
    (page_header_overwritten, {"unreadable"}, f"{PART}: row group 0: cannot be read"),
    (timings_cut_short, {"unreadable"}, f"{TIMINGS}: not a readable Parquet file"),
    (unknown_part, {"orphan"}, "embeddings/part_00009.parquet: no manifest knows this file"),
    (parts_exchanged, {"source", "facts", "cells", "rows", "cell"}, "made from shard part_00002.parquet"),
    (journal_left, {"unfinished"}, "run the same command again to finish"),
    (temporary_left, {"unfinished"}, ".manifest.json.tmp"),
    (manifest_removed, {"manifest", "orphan"}, "there is no manifest"),
    (manifest_torn, {"manifest", "orphan"}, "manifest.json is not a manifest of mtembed"),
    (manifest_of_another_number_of_processes, {"manifest", "orphan"}, "it is named for 2 processes"),
    (edit_manifest(lambda m: m["settings"].pop("overlap")), {"manifest", "orphan"}, "field overlap at settings"),
    (edit_manifest(lambda m: m["shards"]["part_00001"].pop("size")), {"manifest", "orphan"}, "field size at shards"),
    (edit_manifest(lambda m: m["totals"].update(cells=7)), {"manifest"}, "totals give cells 7, the shards add up to 5"),
    (edit_manifest(lambda m: m["model"].update(bands=["B04"])), {"manifest"}, "the model's bands is ['B04']"),
    (edit_manifest(lambda m: m["settings"].update(model="x")), {"manifest"}, "There is no model 'x'"),
    (edit_manifest(lambda m: m["settings"].update(fragment_size=30)), {"pixel_bbox"}, "not a square of 30 px"),
    (edit_manifest(lambda m: m["settings"].update(overlap=0.8)), {"pixel_bbox"}, "lacks fragments, or has others"),
    (edit_manifest(lambda m: m["settings"].update(dtype="float16")), {"schema"}, ": halffloat>[512]"),
    (edit_manifest(lambda m: m["shards"].pop("part_00002")), {"orphan", "manifest", "failures"}, "00002.parquet: no m"),
    (readme_removed, {"missing"}, "README.md: the dataset card is missing"),
    (failures_removed, {"failures"}, "failures.jsonl: cannot be read"),
    (failures_emptied, {"failures"}, "row group 1 of part_00002.parquet failed by its timing and is not listed"),
    (failure_invented, {"failures"}, "row group 0 of part_00001.parquet is listed and did not fail"),
    (lambda root: facts(root, footer_sha256="0"), {"source"}, "the manifest says 0"),
    (lambda root: facts(root, timings=False, size=1), {"facts"}, "in the manifest"),
    (lambda root: facts(root, cells=4), {"facts", "manifest"}, "the rows give cells 3, the manifest 4"),
    (lambda root: facts(root, part_bytes=1), {"facts"}, "bytes, 1 in the manifest"),
    (edit("embedding", {3: [float("nan"), *VECTOR[1:]]}, True), {"not finite"}, f"{PART}: row 3 (row group 0): the"),
    (edit("embedding", {3: VECTOR}), {"unique_id"}, "row 3 (row group 0): unique_id is not the hash"),
    (edit("unique_id", {26: "0" * 64}), {"unique_id"}, "row 26 (row group 0): unique_id"),
    (edit("timestamp", {4: "20010101T000000"}, True), {"cell"}, "row 4 (row group 0): timestamp differs"),
    (edit("product_id", dict.fromkeys(range(9), "other"), True), {"cell"}, "row 0 (row group 0): grid_cell or prod"),
    (edit("grid_cell", dict.fromkeys(range(9), "1U_1R")), {"cell", "grid cell"}, "grid_row_u does not agree"),
    (edit("grid_col_r", {2: 629}), {"grid cell"}, "row 2 (row group 0): grid_col_r does not agree"),
    (edit("grid_row_u", {2: None}), {"grid cell"}, "row 2 (row group 0): grid_row_u does not agree"),
    (edit("timestamp", {2: None}), {"null"}, f"{PART}: row group 0: timestamp has nulls"),
    (edit("embedding", {2: None}), {"null"}, "embedding has nulls"),
    (shifted(1e-8), {"geometry", "bbox"}, "row 4 (row group 0): geometry is not utm_footprint in longitude"),
    (geometry_clockwise, {"geometry"}, "a ring that is not counter-clockwise"),
    (edit("geometry", {2: b"\x01\x03"}), {"geometry"}, "row 2 (row group 0): geometry is not readable WKB"),
    (edit("bbox", {2: dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 1.0)}), {"bbox"}, "row 2 (row group 0): bbox is"),
    (edit("centre_lat", {5: -69.0}), {"centre"}, "row 5 (row group 0): centre_lat/centre_lon is not"),
    (utm_moved, {"utm_footprint", "geometry"}, "row 7 (row group 0): utm_footprint is not at pixel_bbox"),
    (utm_not_a_number, {"utm_footprint"}, "row 7 (row group 0): utm_footprint is not the WKT of a box"),
    (utm_triangle, {"utm_footprint"}, "row 7 (row group 0): utm_footprint is not the WKT of a box"),
    (edit("utm_crs", dict.fromkeys(range(27), "EPSG:1")), {"utm_crs"}, "utm_crs 'EPSG:1' is not a known code"),
    (edit("utm_crs", dict.fromkeys(range(27), "EPSG:32718")), {"geometry"}, "geometry is not utm_footprint"),
    (edit("pixel_bbox", {0: [1, 0, 33, 32]}), {"pixel_bbox", "utm_footprint"}, "row 0 (row group 0): the cell that be"),
    (edit("pixel_bbox", {0: [0, 0, 32, 33]}), {"pixel_bbox"}, "row 0 (row group 0): pixel_bbox is not a square of"),
    (rows_swapped, {"pixel_bbox"}, "row 1 (row group 0): fragments of a cell are not row by row"),
    (row_dropped, {"rows"}, "26 rows, 27 in the manifest"),
    (cell_repeated, {"twice", "rows", "pixel_bbox"}, "row group 2 of part_00001.parquet is there 2 times"),
    (edit_cells(lambda cells: cells.reverse()), {"cells", "cell", "extras"}, "cells are not in the order"),
    (edit_cells(lambda cells: cells.pop()), {"cells", "rows"}, "row group 2 of the shard has 0 rows here, 9 in"),
    (edit_cells(lambda cells: None, rows=4), {"source"}, "made from rows 4, the manifest says 3"),
    (lambda root: rewrite(root, keys={"mtembed": None}), {"cells"}, "the list of cells in the footer"),
    (cut_inside_a_cell, {"row groups", "pixel_bbox"}, "row groups have [10, 17] rows, cut by the rule they have [27]"),
    (column_retyped, {"schema"}, "column centre_lat is double, not float"),
    (column_dropped, {"schema"}, "column grid_cell is missing"),
    (column_added, {"schema"}, "column more does not belong here"),
    (column_doubled, {"schema"}, "column timestamp is there 2 times"),
    (columns_reordered, {"schema"}, "the columns are in another order"),
    (vectors_plain, {"encoding"}, "float32 vectors are stored as ZSTD"),
    (vectors_snappy, {"encoding"}, "float32 vectors are stored as SNAPPY"),
    (vectors_in_a_dictionary, {"encoding"}, "DICTIONARY"),
    (lambda root: rewrite(root, keys=EMPTY), {"geo"}, "the geo metadata is missing"),
    (edit_geo(lambda geo: geo.update(version="1.0.0")), {"geo"}, "version is 1.0.0, not 1.1.0"),
    (edit_geo(lambda geo: geo["columns"]["geometry"].pop("covering")), {"geo"}, "covering is None"),
    (edit_geo(lambda geo: geo["columns"]["geometry"].update(bbox=[0, 0, 1, 1])), {"geo"}, "does not cover all rows"),
    (edit_geo(lambda geo: geo["columns"]["geometry"].update(geometry_types=["Point"])), {"geo"}, "the rows have"),
    (edit_geo(lambda geo: geo["columns"]["geometry"].pop("crs")), {"geo"}, "the geo metadata is missing or unreadable"),
    (edit("nodata", {1: 1.5}), {"extras"}, "row 1 (row group 0): nodata is not a share up to 1"),
    (edit("parquet_row", {1: 7}), {"extras"}, "row 1 (row group 0): parquet_row is not"),
    (edit_timings(lambda rows: rows.pop()), {"timings", "facts", "cells"}, "row group 2 of part_00001.parquet has no"),
    (edit_timings(lambda rows: rows.append(rows[-1])), {"twice", "facts"}, "row group 2 of part_00001.parquet has 2"),
    (edit_timings(lambda rows: rows.reverse()), {"timings"}, "the rows are not in the order of the row groups"),
    (edit_timings(lambda rows: rows[1].update(fragments=8)), {"facts", "cells"}, "has 9 rows here, 8 in the timings"),
    (edit_timings(lambda rows: rows[1].update(fragments=0)), {"facts", "cells", "timings"}, "is ok with 0 fragments"),
    (edit_timings(lambda rows: rows[1].update(status="?")), {"facts", "cells", "timings"}, "status is ?"),
    (edit_timings(lambda rows: rows[1].update(row_group=9)), {"timings", "cells"}, "row group 9 is not in the shard"),
    (edit_timings(lambda rows: rows[1].update(shard="x")), {"timings"}, "row 1: shard is x, not part_00001.parquet"),
    (edit_timings(lambda rows: rows[1].update(product_id="x")), {"cell"}, "is not the one in the timings"),
]  # fmt: skip
