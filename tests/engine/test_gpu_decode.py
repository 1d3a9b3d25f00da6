"""GeoTIFFs decoded by the card: the library's CPU code in the GPU's place, through the code that a GPU runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtembed.archive import tiff
from mtembed.config import RunConfig
from mtembed.dataset.settings import resolve_device
from mtembed.engine import gpu_decode
from mtembed.engine.gpu_decode import FILES, DeviceDecoder, GpuDecoder, probe
from mtembed.errors import UsageError
from mtembed.machine import Gpus
from mtembed.messages import GPU_ENCODINGS, ProbeJob
from mtembed.run.decoder_choice import _installed
from tests.make_encodings import SHAPE, pattern
from tests.tools.commands import embeddings, run
from tests.tools.shards import make_shard

needs_library = pytest.mark.skipif(not _installed(), reason="nvImageCodec is not installed")
CPU = torch.device("cpu")


def blob(dtype: str, encoding: str) -> np.ndarray:
    return np.fromfile(FILES / f"{dtype}-{encoding}.tif", np.uint8)


def golden(data: np.ndarray) -> np.ndarray:
    info = tiff.parse(data)
    pixels = np.empty((info.rows, info.cols), info.dtype)
    tiff.decode_into(data, info, pixels)
    return pixels


# The decoder


@needs_library
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("encoding", GPU_ENCODINGS)
def test_the_packaged_files_are_what_their_names_say_and_decode_exactly(encoding: str, dtype: str) -> None:
    info = tiff.parse(blob(dtype, encoding))
    assert (info.encoding, info.dtype, info.rows, info.cols) == (encoding, dtype, *SHAPE)
    assert len(info.offsets) > 1 and info.rows % info.block_rows
    assert np.array_equal(golden(blob(dtype, encoding)), pattern(dtype))
    assert GpuDecoder(CPU).exact(encoding, dtype) == ""


@needs_library
def test_a_batch_keeps_its_order_and_loses_only_what_is_broken() -> None:
    blobs = [
        blob("uint16", "lzw"),
        blob("uint16", "deflate")[:6000],
        blob("uint16", "deflate+2"),
        np.zeros(90, np.uint8),
    ]
    first, second, third, fourth = GpuDecoder(CPU).decode(blobs)
    assert second is None and fourth is None
    assert first is not None and third is not None
    assert np.array_equal(first.numpy(), golden(blobs[0])) and np.array_equal(third.numpy(), golden(blobs[2]))


@needs_library
def test_wrong_pixels_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = GpuDecoder(CPU)
    right = decoder.decode

    def wrong(blobs: Any) -> list[Any]:
        return [pixels + (pixels == pixels.max()) for pixels in right(blobs)]  # type: ignore[union-attr, operator]

    monkeypatch.setattr(decoder, "decode", wrong)
    assert "differ" in decoder.exact("lzw", "float32")
    monkeypatch.setattr(decoder, "decode", lambda blobs: [None])
    assert "is refused" in decoder.exact("lzw", "uint16")
    monkeypatch.setattr(decoder, "decode", lambda blobs: [right(blobs)[0].to(torch.int32)])  # type: ignore[union-attr]
    assert "differ" in decoder.exact("lzw", "uint16")


@needs_library
def test_what_the_gpu_refuses_is_decoded_on_the_cpu_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [blob("uint16", "lzw"), blob("uint16", "deflate")]
    decoder = DeviceDecoder(CPU)
    shapes = [SHAPE, SHAPE]
    for found, data in zip(decoder.decode(blobs, shapes, "uint16", []), blobs, strict=True):
        assert found.pixels is not None and np.array_equal(found.pixels.numpy(), golden(data))
    assert decoder.take_counts() == {"gpu": 2, "cpu": 0}
    original = GpuDecoder.decode
    monkeypatch.setattr(GpuDecoder, "decode", lambda self, blobs, buffers: [None, original(self, blobs)[1]])
    for found, data in zip(decoder.decode(blobs, shapes, "uint16", []), blobs, strict=True):
        assert found.pixels is not None and np.array_equal(found.pixels.numpy(), golden(data))
    assert decoder.take_counts() == {"gpu": 1, "cpu": 1}
    assert decoder.take_problem() == "the GPU refuses some" and decoder.take_problem() == ""
    broken = decoder.decode([blobs[0][:3000], blobs[1]], shapes, "uint16", [])
    assert broken[0].pixels is None and "blob" in broken[0].problem and broken[1].pixels is not None


def fails(*args: object) -> None:
    raise RuntimeError("CUDA error: no such device\nmore lines")


def test_without_the_library_everything_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_decode.GpuDecoder, "__init__", fails)
    decoder = DeviceDecoder(CPU)
    (found,) = decoder.decode([blob("uint16", "lzw")], [SHAPE], "uint16", [])
    assert found.pixels is not None and np.array_equal(found.pixels.numpy(), golden(blob("uint16", "lzw")))
    assert decoder.take_counts() == {"gpu": 0, "cpu": 1}
    assert decoder.take_problem() == "CUDA error: no such device"
    said = probe(ProbeJob("uint16", Path("nowhere"), 0, ("B02",)), CPU)
    assert not said.exact and set(said.problems.values()) == {"CUDA error: no such device"}


@needs_library
def test_a_decoder_that_keeps_failing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(self: GpuDecoder, blobs: Any, buffers: Any) -> Any:
        calls.append(len(blobs))
        raise RuntimeError("nvtiff: internal error\nmore lines")

    monkeypatch.setattr(GpuDecoder, "decode", broken)
    decoder = DeviceDecoder(CPU)
    for _ in range(4):
        (found,) = decoder.decode([blob("uint16", "lzw")], [SHAPE], "uint16", [])
        assert found.pixels is not None
    assert calls == [1, 1] and decoder.take_problem() == "nvtiff: internal error"


@needs_library
def test_images_are_written_over_and_not_made_anew() -> None:
    blobs = [blob("uint16", "lzw"), blob("uint16", "deflate")]
    decoder, buffers = GpuDecoder(CPU), list[Any]()
    decoder.decode(blobs, buffers)
    first = list(buffers)
    assert len(first) == 2
    for data in (blobs[::-1], blobs[:1]):
        for found, one in zip(decoder.decode(data, buffers), data, strict=True):
            assert found is not None and np.array_equal(found.numpy(), golden(one))
    assert [id(one) for one in buffers] == [id(one) for one in first]
    more = blobs * 2
    assert all(found is not None for found in decoder.decode(more, buffers)) and len(buffers) == 4


# Runs


@pytest.fixture(autouse=True)
def _two_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MTEMBED_CPU_CARDS", "2")
    yield


def archive(folder: Path, source: Any = "S2L1C", damage: Any = None, **tiff: Any) -> Path:
    for number in range(2):
        hurt = damage if number == 0 else None
        make_shard(folder / f"images/part_{number}.parquet", 4, source, tiff=tiff, damage=hurt)
    return folder


def command(shards: Path, output: Path, *more: str) -> list[str]:
    plain = ["--model", "rcf", "--fragment-size", "32", "--batch", "20", "--output", str(output)]
    return [*plain, *more, str(shards)]


def decoded(output: Path) -> dict[str, int]:
    notes: dict[str, Any] = json.loads((output / "manifest.json").read_text())["notes"]
    counts: dict[str, int] = notes.get("decoded_bands", {})
    return counts


@needs_library
@pytest.mark.parametrize(
    ("source", "tiff", "bands"),
    [("S2L1C", {"compress": "deflate"}, 10), ("S1RTC", {"compress": "deflate", "predictor": 2}, 2)],
    ids=["S2 deflate", "S1 deflate+2"],
)
def test_either_decoder_gives_the_same_bytes(tmp_path: Path, source: Any, tiff: Any, bands: int) -> None:
    shards = archive(tmp_path / "in", source, **tiff)
    for decoder in ("cpu", "gpu"):
        code, _, err = run(command(shards, tmp_path / decoder, "--decoder", decoder))
        assert code == 0, err
        assert ("the GPU decodes deflate" in err) == (decoder == "gpu")
    assert embeddings(tmp_path / "cpu") == embeddings(tmp_path / "gpu")
    assert not decoded(tmp_path / "cpu")
    counts = decoded(tmp_path / "gpu")
    assert counts["gpu"] >= 8 * bands and counts["cpu"] == 0  # 10 and 20 m; twice where two batches share a cell


@needs_library
@pytest.mark.parametrize(
    "tiff",
    [
        {"compress": "zstd"},
        {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 32},
        {"compress": "lzw"},
        {},
    ],
    ids=["zstd", "tiles", "larger than its pixels", "none"],
)
def test_what_is_not_for_the_gpu_goes_to_the_decode_workers(tmp_path: Path, tiff: Any) -> None:
    code, _, err = run(command(archive(tmp_path / "in", **tiff), tmp_path / "out", "--decoder", "gpu"))
    assert code == 0, err
    assert not decoded(tmp_path / "out")


@needs_library
def test_auto_says_what_it_chose_and_why(tmp_path: Path) -> None:
    code, _, err = run(command(archive(tmp_path / "in", compress="lzw"), tmp_path / "out"))
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "decoding lzw on the" in line]
    assert "cells/s a card with" in line and "with the GPU" in line
    assert bool(decoded(tmp_path / "out")) == ("on the GPU:" in line)


def test_auto_asks_nothing_where_there_is_nothing_to_decode(tmp_path: Path) -> None:
    fault = {"kind": "probe", "function": "mtembed.engine.gpu_decode:probe", "call": 1, "action": "kill"}
    code, _, err = run(command(archive(tmp_path / "in"), tmp_path / "out"), [fault])
    assert code == 0, err
    assert "decoding" not in err


@needs_library
def test_a_gpu_that_dies_when_asked_ends_the_run_only_where_it_was_asked_for(tmp_path: Path) -> None:
    fault = {"kind": "probe", "function": "mtembed.engine.gpu_decode:probe", "call": 1, "action": "kill"}
    shards = archive(tmp_path / "in", compress="lzw")
    for decoder, expected in (("gpu", 1), ("auto", 0)):
        code, _, err = run(command(shards, tmp_path / decoder, "--decoder", decoder), [fault])
        assert code == expected and "Traceback" not in err
        assert "could not be asked what it can decode: the probe worker was killed by SIGKILL" in err
    assert "lzw stays on the CPU" in err


@needs_library
def test_a_broken_blob_fails_its_cell_alone_and_names_the_band(tmp_path: Path) -> None:
    def cut(good: bytes) -> bytes:
        return good[:-400] + b"\xff" * 400

    shards = archive(tmp_path / "in", damage={(2, "B05"): cut}, compress="deflate")
    for decoder in ("cpu", "gpu"):
        options = ("--decoder", decoder, "--max-failures", "1")
        code, _, err = run(command(shards, tmp_path / decoder, *options))
        assert code == 3, err
        (line,) = (tmp_path / decoder / "failures.jsonl").read_text().splitlines()
        failure = json.loads(line)
        assert (failure["row_group"], failure["stage"]) == (2, "decode") and failure["error"].startswith("band B05: ")
    assert embeddings(tmp_path / "cpu") == embeddings(tmp_path / "gpu")
    assert decoded(tmp_path / "gpu")["cpu"] >= 1


def test_quality_needs_pixels_on_the_cpu(tmp_path: Path) -> None:
    shards = archive(tmp_path / "in", compress="lzw")
    code, _, err = run(command(shards, tmp_path / "out", "--decoder", "gpu", "--extras"))
    assert code == 0 and "--extras" in err and not decoded(tmp_path / "out")


def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(UsageError, match="--decoder gpu needs a GPU"):
        resolve_device(RunConfig(("x",), model="rcf", device="cpu", decoder="gpu"), None, Gpus(()))


@needs_library
def test_pixels_are_never_turned(tmp_path: Path) -> None:
    """Tag 274 says how to hold a photograph; GDAL and the CPU's decoder leave it alone."""
    turned = blob("uint16", "lzw").copy()
    place = bytes(turned).index((277).to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00")
    turned[place : place + 10] = np.frombuffer(
        (274).to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00\x03\x00", np.uint8
    )
    (pixels,) = GpuDecoder(CPU).decode([turned])
    assert pixels is not None and np.array_equal(pixels.numpy(), pattern("uint16"))


@needs_library
def test_an_encoding_that_spoils_the_first_cell_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path / "part.parquet", 1, tiff={"compress": "deflate"}).path
    job = ProbeJob("uint16", shard, 0, ("B02", "B05"))
    said = probe(job, CPU)
    assert said.exact == set(GPU_ENCODINGS) and said.seconds > 0
    original = GpuDecoder.decode

    def spoilt(self: GpuDecoder, blobs: Any, buffers: Any = None) -> list[Any]:
        return [pixels.flip(0) if pixels.shape != SHAPE else pixels for pixels in original(self, blobs)]  # type: ignore[union-attr, operator]

    monkeypatch.setattr(GpuDecoder, "decode", spoilt)
    said = probe(job, CPU)
    assert said.exact == set(GPU_ENCODINGS) - {"deflate"}
    assert said.problems == {"deflate": "part.parquet comes out wrong"} and said.seconds == 0
