"""GeoTIFF decoding: equal to GDAL on every encoding, and hostile blobs end in one DecodeError."""

from __future__ import annotations

import itertools
import mmap
import resource
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from mtembed.archive import tiff
from mtembed.errors import DecodeError
from tests import fuzz_against_gdal
from tests.fuzz_tiff import CORNER, Blob, attempt, encode, entries, mutate, rewrite, seeds
from tests.tools.tiffs import ASCII, LONG, SHORT, geokeys
from tests.tools.tiffs import tiff as tag_by_tag

CODECS: list[tuple[str, int]] = [("none", 1), *itertools.product(("lzw", "deflate", "zstd"), (1, 2, 3))]
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {},
    "one-strip": {"blockysize": 301},
    "tiles": {"tiled": True, "blockxsize": 256, "blockysize": 256},
}
FRAMES: dict[str, dict[str, Any]] = {
    "classic": {},
    "bigtiff": {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "big-endian-bigtiff": {"ENDIANNESS": "BIG", "BIGTIFF": "YES"},
    "sparse": {"SPARSE_OK": True, "nodata": 7},
    "sparse-zero": {"SPARSE_OK": True},
    "best": {"ZLEVEL": 9, "ZSTD_LEVEL": 15},
}
ROUTES = {"none": "copy", "lzw": "lzw", "deflate": "imagecodecs", "zstd": "imagecodecs"}


def pixels(dtype: str, rows: int = 301, cols: int = 277) -> np.ndarray[Any, Any]:
    """Smooth texture with noise and a constant stretch, so that both short and long LZW strings occur."""
    rng = np.random.default_rng(7)
    values = rng.integers(-5, 6, (rows, cols)).cumsum(1).cumsum(0) / 9
    values[rows // 3 : rows // 2] = 99
    return np.clip(values + 90, 0, 250).astype(dtype) if dtype == "uint8" else (np.abs(values) + 1000).astype(dtype)


def by_rasterio(blob: Blob) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    with MemoryFile(blob.tobytes()) as memory, memory.open(driver="GTiff") as dataset:
        return dataset.read(1), dataset.profile


def decode(blob: Blob) -> tuple[tiff.TiffInfo, np.ndarray[Any, Any], str]:
    info = tiff.parse(blob)
    out = np.full((info.rows, info.cols), 111, info.dtype)
    return info, out, tiff.decode_into(blob, info, out)


def assert_as_rasterio(blob: Blob) -> tuple[tiff.TiffInfo, str]:
    expected, profile = by_rasterio(blob)
    info, out, route = decode(blob)
    assert out.dtype == expected.dtype and np.array_equal(
        out.view(f"u{out.itemsize}"), expected.view(f"u{out.itemsize}")
    )
    assert Affine(info.pixel_width, 0, info.left, 0, -info.pixel_height, info.top) == profile["transform"]
    assert info.epsg == (profile["crs"].to_epsg() if profile["crs"] else None)
    np.testing.assert_equal(info.nodata, profile["nodata"])
    assert (info.rows, info.cols, info.tiled) == (profile["height"], profile["width"], profile["tiled"])
    return info, route


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec[0]}+{codec[1]}")
@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
def test_equals_rasterio(dtype: str, codec: tuple[str, int], layout: str, frame: str) -> None:
    name, predictor = codec
    if predictor == 3 and dtype != "float32":
        with pytest.raises(Exception, match="PREDICTOR"):
            encode(pixels(dtype), compress=name, predictor=predictor)
        return
    options = LAYOUTS[layout] | FRAMES[frame]
    if name != "none":
        options |= {"compress": name, "predictor": predictor}
    plane = pixels(dtype)
    if "SPARSE_OK" in options:
        plane[:270] = options.get("nodata", 0)
    blob = encode(plane, **options)
    info, route = assert_as_rasterio(blob)
    sparse = bool((info.counts == 0).any())
    assert sparse == ("SPARSE_OK" in options and layout != "one-strip")
    alone = sparse and (name == "zstd" or predictor == 3)
    assert route == ("rasterio" if alone else "imagecodecs" if predictor == 3 else ROUTES[name])
    tile = "/256x256" if layout == "tiles" else ""
    assert info.encoding == name + (f"+{predictor}" if predictor > 1 else "") + tile


@pytest.mark.parametrize(
    "options", [{"compress": "packbits"}, {"compress": "lzma"}, {"compress": "lerc"}, {"nbits": 12}]
)
def test_encodings_beyond_the_fast_ones(options: dict[str, Any]) -> None:
    assert_as_rasterio(encode(pixels("uint16"), **options))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_first_of_several_bands(interleave: str) -> None:
    stack = np.stack([pixels("uint16"), pixels("uint16")[::-1]])
    assert_as_rasterio(encode(stack, interleave=interleave, compress="lzw", tiled=True, blockxsize=64, blockysize=64))


def test_first_page_of_a_file_with_overviews() -> None:
    plane = pixels("uint16")
    profile = {"count": 1, "height": plane.shape[0], "width": plane.shape[1], "dtype": "uint16", "crs": "EPSG:32718"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=CORNER, compress="lzw", **profile) as dataset:
            dataset.write(plane, 1)
            dataset.build_overviews([2, 4])
        assert_as_rasterio(np.frombuffer(bytes(memory.getbuffer()), np.uint8))


@pytest.mark.parametrize("side", [1, 2, 7, 854, 1069])
@pytest.mark.parametrize("compress", ["none", "lzw", "deflate"])
def test_any_size(side: int, compress: str) -> None:
    assert_as_rasterio(encode(pixels("uint16", side, 3 * side // 2), compress=compress))


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32718", "EPSG:4326", "EPSG:3857", "EPSG:3035", None])
@pytest.mark.parametrize("point", [False, True])
def test_georeference_equals_rasterio(crs: str | None, point: bool) -> None:
    with MemoryFile() as memory:
        shape = {"count": 1, "height": 5, "width": 4, "dtype": "uint8"}
        with memory.open(driver="GTiff", crs=crs, transform=CORNER, **shape) as dataset:
            dataset.update_tags(AREA_OR_POINT="Point" if point else "Area")
        blob = np.frombuffer(bytes(memory.getbuffer()), np.uint8)
    assert_as_rasterio(blob)


@pytest.mark.parametrize("point", [False, True])
def test_model_transformation_equals_rasterio(point: bool) -> None:
    blob = encode(pixels("uint16"), transform=Affine(10, 1e-3, 5e5, 0, -10, 6e6))
    doubles = tiff.Directory(blob).values(34264, (12,))
    assert doubles is not None
    at = doubles.__array_interface__["data"][0] - blob.__array_interface__["data"][0]
    straight = blob.copy()
    straight[at : at + 128].view("<f8")[1] = 0
    keys = struct.unpack_from("<I", straight, entries(straight)[34735] + 8)[0]
    table = straight[keys : keys + 32].view("<u2").reshape(-1, 4)
    table[table[:, 0] == 1025, 3] = 2 if point else 1
    assert_as_rasterio(straight)
    with pytest.raises(DecodeError, match="rotated"):
        tiff.parse(blob)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, 7, 65535, -32768, float("nan"), 0.5, -3.4028234663852886e38])
def test_nodata_equals_rasterio(dtype: str, nodata: float | None) -> None:
    if dtype == "uint16" and nodata is not None and not 0 <= nodata <= 65535:
        blob = rewrite(encode(pixels(dtype), nodata=7), 42113, value=int.from_bytes(b"-9\0\0", "little"), count=3)
        assert tiff.parse(blob).nodata is None
        assert_as_rasterio(blob)
    else:
        assert_as_rasterio(encode(pixels(dtype), nodata=nodata, SPARSE_OK=True))


def test_real_cells(shared: Path) -> None:
    names = ("Core-S2L1C", "Core-S1RTC")
    for file in (shared / "data" / name / "images" / "part_00001.parquet" for name in names):
        row = pq.ParquetFile(file).read_row_group(0).to_pylist()[0]
        for value in row.values():
            if isinstance(value, bytes) and value[:2] == b"II":
                assert assert_as_rasterio(np.frombuffer(value, np.uint8))[1] == "copy"


def test_decodes_in_place_into_shared_memory() -> None:
    plane = pixels("uint16", 1068, 1068)
    blob = encode(plane)
    info = tiff.parse(blob)
    with mmap.mmap(-1, plane.nbytes + 8192) as memory:
        slot = np.frombuffer(memory, np.uint8)
        slot[:] = 0xAB
        view = slot[4096 : 4096 + plane.nbytes].view(np.uint16).reshape(plane.shape)
        tracemalloc.start()
        route = tiff.decode_into(blob, info, view)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert route == "copy" and np.array_equal(view, plane)
        assert (slot[:4096] == 0xAB).all() and (slot[-4096:] == 0xAB).all()
        assert peak < 100_000, "uncompressed pixels go through no buffer"
        del view, slot


GOOD = encode(pixels("uint16", 64, 64), compress="lzw")
RAW = encode(pixels("uint16", 64, 64))
STRIPS = encode(pixels("uint16", 64, 64), blockysize=8)
SMALL = pixels("uint16", 12, 16)
BIG = encode(pixels("uint16", 64, 64), BIGTIFF="YES")
TILED = encode(pixels("uint16", 64, 64), compress="deflate", tiled=True, blockxsize=32, blockysize=32)
HOSTILE: dict[str, tuple[Blob, str]] = {
    "empty": (GOOD[:0], "not a TIFF"),
    "header only": (GOOD[:6], "outside the blob"),
    "a PNG": (np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(99), np.uint8), "not a TIFF"),
    "unknown version": (np.frombuffer(b"II\x2c\0" + bytes(99), np.uint8), "version 44"),
    "odd BigTIFF": (np.frombuffer(b"II\x2b\0\x04\0" + bytes(99), np.uint8), "version 43"),
    "directory beyond the end": (np.frombuffer(b"II\x2a\0\xff\xff\xff\xff" + bytes(99), np.uint8), "outside the blob"),
    "2**64 - 1 entries": (np.frombuffer(b"II\x2b\0\x08\0\0\0" + b"\x10" + bytes(7) + b"\xff" * 8, np.uint8), "outside"),
    "cut in the directory": (GOOD[:80], "outside the blob"),
    "cut in the pixels": (RAW[: RAW.size // 2], "block .* lies outside the blob"),
    "zero rows": (rewrite(GOOD, 257, value=0), "0 x 64 px"),
    "zero columns": (rewrite(GOOD, 256, value=0), "64 x 0 px"),
    "4 billion columns": (rewrite(GOOD, 256, kind=4, value=2**32 - 1), "4294967295 px"),
    "gigapixels": (
        rewrite(rewrite(GOOD, 256, kind=4, value=100_000), 257, kind=4, value=100_000),
        "of its [0-9]+ blocks",
    ),
    "zero rows per strip": (rewrite(GOOD, 278, value=0), "blocks of 0 x 64"),
    "zero tile width": (rewrite(TILED, 322, value=0), "blocks of 32 x 0"),
    "huge tiles": (rewrite(TILED, 322, kind=4, value=2**31), "blocks of 32 x 2147483648"),
    "2**32 - 1 strips": (rewrite(GOOD, 273, count=2**32 - 1), "tag 273 lie outside"),
    "2**64 - 1 strips": (rewrite(BIG, 273, count=2**64 - 1), "tag 273 lie outside"),
    "no strips": (rewrite(GOOD, 273, count=0), "lists 0 of its"),
    "offsets missing": (rewrite(GOOD, 273, name=40000), "lists 0 of its"),
    "counts missing": (rewrite(STRIPS, 279, name=40000), "lists 0 of its"),
    "tiles under the tags of strips": (tag_by_tag(SMALL, {322: (LONG, [16]), 323: (LONG, [16])}), "strip tags"),
    "strips and tiles": (tag_by_tag(SMALL, {324: (LONG, [8]), 325: (LONG, [8])}), "tile tags"),
    "width as text": (rewrite(GOOD, 256, kind=2), "tag 256 has the wrong type"),
    "width as double": (rewrite(GOOD, 256, kind=12), "tag 256 has the wrong type"),
    "unknown type": (rewrite(GOOD, 259, kind=99), "tag 259 has the wrong type"),
    "offsets as double": (rewrite(GOOD, 273, kind=12), "tag 273 has the wrong type"),
    "width missing": (rewrite(GOOD, 256, name=40000), "tag 256 is missing"),
    "no bands": (rewrite(GOOD, 277, value=0), "claims 0 bands"),
    "65535 bands": (rewrite(GOOD, 277, value=65535), "claims 65535 bands"),
    "complex samples": (rewrite(GOOD, 339, value=6), "format 6"),
    "65535 bits": (rewrite(GOOD, 258, value=65535), "65535 bits"),
    "0 bits": (rewrite(GOOD, 258, value=0), "0 bits"),
    "unknown predictor": (
        rewrite(encode(pixels("uint16", 64, 64), compress="lzw", predictor=2), 317, value=9),
        "unknown predictor",
    ),
    "user-defined CRS": (encode(pixels("uint8", 8, 8), crs="+proj=laea +lat_0=12 +lon_0=34"), "no EPSG code"),
    "no georeference": (rewrite(GOOD, 33550, name=40000), "no georeference"),
    "NaN corner": (encode(pixels("uint8", 8, 8), transform=Affine(10, 0, float("nan"), 0, -10, 1)), "finite|no georef"),
    "infinite pixel": (
        encode(pixels("uint8", 8, 8), transform=Affine(float("inf"), 0, 0, 0, -10, 1)),
        "finite|no georef",
    ),
    "mirrored": (encode(pixels("uint8", 8, 8), transform=Affine(-10, 0, 0, 0, -10, 1)), "north-up"),
    "short strip": (rewrite(RAW, 256, value=128), "shorter than its pixels"),
    "short code": (rewrite(GOOD, 256, value=128), "LZW code of block 0"),
    "corrupt code": (np.where(np.arange(GOOD.size) > GOOD.size - 900, 0xFF, GOOD).astype(np.uint8), "LZW code"),
    "unknown codec": (rewrite(RAW, 259, value=65000), "compression-65000"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blob_is_refused(name: str) -> None:
    blob, message = HOSTILE[name]
    with pytest.raises(DecodeError, match=message) as error:
        decode(blob)
    assert error.value.stage == "decode" and "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["itself", "header"])
@pytest.mark.parametrize("compress", ["lzw", "zstd"])
def test_circle_of_directories_ends(target: str, compress: str) -> None:
    blob = encode(pixels("uint16"), compress=compress, SPARSE_OK=True).copy()
    directory = struct.unpack_from("<I", blob, 4)[0]
    struct.pack_into("<I", blob, entries(blob)[0], directory if target == "itself" else 4)
    assert attempt(blob) in ("decoded", "refused")


@pytest.mark.parametrize("predictor", [1, 2])
def test_deflate_bomb_takes_no_memory(predictor: int) -> None:
    bomb = zlib.compress(bytes(200 << 20), 9)
    blob = encode(pixels("uint16", 64, 64), compress="deflate", predictor=predictor, blockysize=64)
    blob = rewrite(np.concatenate([blob, np.frombuffer(bomb, np.uint8)]), 273, value=blob.size)
    blob = rewrite(blob, 279, kind=4, value=len(bomb))
    before = _peak_mib()
    attempt(blob)
    assert _peak_mib() - before < 50


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


def test_claimed_gigapixels_take_no_memory() -> None:
    """A sparse file of 100,000 x 100,000 px in one strip is valid; what it needs is the caller's to judge."""
    blob = rewrite(rewrite(GOOD, 256, kind=4, value=100_000), 257, kind=4, value=100_000)
    blob = rewrite(blob, 278, kind=4, value=100_000)
    tracemalloc.start()
    info = tiff.parse(blob)
    with pytest.raises(DecodeError, match="do not go into"):
        tiff.decode_into(blob, info, np.empty((64, 64), np.uint16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (info.rows, info.cols) == (100_000, 100_000) and peak < 200_000


def test_out_must_fit() -> None:
    info = tiff.parse(GOOD)
    frozen = np.empty((64, 64), np.uint16)
    frozen.flags.writeable = False
    wrong = [
        np.empty((64, 63), np.uint16),
        np.empty((64, 64), np.int16),
        np.empty((64, 64), ">u2"),
        np.empty(4096, np.uint16),
    ]
    for out in (*wrong, np.empty((64, 64), np.uint16).T, frozen, np.empty((64, 128), np.uint16)[:, ::2]):
        with pytest.raises(DecodeError):
            tiff.decode_into(GOOD, info, out)
    with pytest.raises(DecodeError, match="shorter than its directory"):
        tiff.decode_into(GOOD[:-600], info, np.empty((64, 64), np.uint16))


def test_failing_decoders_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for blob in (rewrite(RAW, 259, value=65000), rewrite(TILED, 256, value=63), rewrite(GOOD, 256, value=128)):
        attempt(blob)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=400, deadline=2000)
@given(st.integers(0, 2**32 - 1))
def test_mutated_blobs_decode_or_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert attempt(mutate(seeds()[rng.integers(0, len(seeds()))], rng)) in ("decoded", "refused")


PROJECTED, POINT = (1024, 0, 1, 1), (1025, 0, 1, 2)
UTM = (3072, 0, 1, 32719)


def epsg(*keys: tuple[int, int, int, int], doubles: tuple[float, ...] = (), text: str = "") -> int | None:
    return tiff.parse(tag_by_tag(SMALL, dict(geokeys(keys, doubles, text)))).epsg


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (((1024, 0, 1, 32767), (2048, 0, 1, 4326), UTM), 32719),
        (((1024, 0, 1, 0), (2048, 0, 1, 4326), UTM), None),
        (((1024, 0, 1, 32767), (2048, 0, 1, 4326)), None),
        (((1024, 0, 1, 2), (2048, 0, 1, 4326)), 4326),
        ((UTM,), 32719),
        ((PROJECTED, UTM, (3076, 0, 1, 9001)), 32719),
        # a zone by its parts, 16119 is UTM 19 south: GDAL finds its code
        ((PROJECTED, (2048, 0, 1, 4326), (3072, 0, 1, 32767), (3074, 0, 1, 16119)), 32719),
    ],
)
def test_the_crs_is_the_one_that_gdal_reads(keys: tuple[tuple[int, int, int, int], ...], code: int | None) -> None:
    assert epsg(*keys) == code


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((PROJECTED, UTM, (3076, 0, 1, 9002)), "no EPSG code"),  # feet
        ((PROJECTED, (2048, 0, 1, 4267), UTM), "no EPSG code"),  # another datum
        (((1024, 0, 1, 3), (2048, 0, 1, 4326)), "Geocentric"),
        ((PROJECTED, (3072, 0, 1, 5609)), "Vertical"),
        ((PROJECTED, (3072, 34735, 1, 6)), "none of theirs"),
        (((1024, 0, 1, 2), (2048, 0, 1, 4979)), "3D"),
        ((PROJECTED, (3072, 0, 1, 32767), (3074, 0, 1, 16119)), "no EPSG code"),  # no datum
    ],
)
def test_a_crs_that_cells_cannot_be_in_is_refused(keys: tuple[tuple[int, int, int, int], ...], message: str) -> None:
    with pytest.raises(DecodeError, match=message) as error:
        epsg(*keys)
    assert "\n" not in str(error.value)


def test_a_citation_may_change_the_unit() -> None:
    words = "IMAGINE GeoTIFF Support|LUnits = feet|"
    with pytest.raises(DecodeError, match="no EPSG code"):
        epsg(PROJECTED, (1026, 34737, len(words), 0), UTM, text=words)


def test_a_pixel_may_be_a_point() -> None:
    area, point = (tiff.parse(tag_by_tag(SMALL, dict(geokeys((PROJECTED, *keys, UTM))))) for keys in ((), (POINT,)))
    assert (area.left - point.left, point.top - area.top) == (5.0, 5.0)


@pytest.mark.parametrize(
    "text", ["-1.797e308", "1e400", "abc", "1,5", "NAN", "-nan", "0x10", " 7", "", "-3.4028235e+38"]
)
def test_nodata_texts_are_read_as_gdal_reads_them(text: str, recwarn: pytest.WarningsRecorder) -> None:
    blob = tag_by_tag(pixels("float32", 3, 4), {42113: (ASCII, text.encode() + b"\0")})
    assert fuzz_against_gdal.attempt(blob) == "decoded"
    assert not recwarn.list


@pytest.mark.parametrize("changes", [{279: (LONG, [0])}, {279: None}])
@pytest.mark.parametrize("codec", ["none", "deflate"])
def test_an_only_strip_whose_size_is_not_told_is_read(changes: dict[int, Any], codec: str) -> None:
    codes, strips = {}, None
    if codec == "deflate":
        codes, strips = {259: (SHORT, [8])}, [zlib.compress(SMALL.tobytes())]
    blob = tag_by_tag(SMALL, {**codes, **changes}, strips=strips)
    assert np.array_equal(decode(blob)[1], SMALL)
    assert_as_rasterio(blob)


def test_a_strip_that_holds_more_than_its_rows_leaves_nothing_of_what_was_there_before() -> None:
    """libtiff passes over such a last strip without an error."""
    plane = pixels("float32", 50, 34)
    strips = [zlib.compress(np.zeros(14 * 34, np.float32).tobytes())] * 7
    blob = tag_by_tag(plane, {259: (SHORT, [8])}, strips=[*strips, zlib.compress(bytes(272))],
                      rows_per_strip=7)  # fmt: skip
    info = tiff.parse(blob)
    found = []
    for before in (0, 111):
        out = np.full((50, 34), before, np.float32)
        tiff.decode_into(blob, info, out)
        found.append(out)
    assert np.array_equal(*found)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_large_strip_that_libtiff_cuts_is_read(samples: int) -> None:
    """Uncompressed and of more than 8 kB, with odd bits or several bands: GDAL decodes it, and sees other strips."""
    plane = pixels("uint16", 96, 96) % 4096
    stack = np.stack([plane] * samples)
    options: dict[str, Any] = {"nbits": 12} if samples == 1 else {"interleave": "pixel"}
    assert assert_as_rasterio(encode(stack, blockysize=96, **options))[1] == "rasterio"


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 4), (40, 50)])
def test_old_lzw_is_read(shape: tuple[int, int]) -> None:
    plane = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    blob = tag_by_tag(plane, {259: (SHORT, [5])}, strips=[fuzz_against_gdal.old_lzw(plane.tobytes())])
    assert decode(blob)[2] == "rasterio" and np.array_equal(decode(blob)[1], plane)


@pytest.mark.parametrize("kind", fuzz_against_gdal.KINDS)
def test_tags_mean_what_they_mean_to_gdal(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A small share of ``fuzz_against_gdal.py``."""
    outcomes = [fuzz_against_gdal.attempt(fuzz_against_gdal.one_input(kind, 7, number)) for number in range(150)]
    assert {outcome.partition(":")[0] for outcome in outcomes} == {"decoded", "refused"}, outcomes
    assert capfd.readouterr().out == ""
