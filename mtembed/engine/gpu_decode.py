"""GeoTIFF blob -> pixels on a GPU, inside a device worker: nvImageCodec with nvTIFF, for LZW and deflate.

Only what passes a test is used: at the start a small file of each encoding (``encodings/``, written by GDAL) and the
first cell's bands are decoded and every bit compared.  An encoding that fails stays with the decode workers; a blob
that is refused later is decoded on the CPU by ``tiff.py`` here.  Checksums inside blobs are the library's business:
what it makes of a damaged one without refusing it is not looked at.  On a CPU the library's own CPU code takes the
GPU's place, for tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mtembed import machine
from mtembed.archive import tiff
from mtembed.engine.memory import reason
from mtembed.errors import MtembedError
from mtembed.messages import GPU_ENCODINGS, Probed, ProbeJob

FILES = Path(__file__).parent / "encodings"
PARTS = "it takes nvTIFF and libnvcomp 5 too: pip install 'mtembed[gpu]'"
TIMED_S = 1.0
STREAMS = 4  # of the decoder, so that one blob does not wait for another
FAILURES = 2  # batches in a row after which the GPU is asked no more
TROUBLE = (ImportError, OSError, RuntimeError, ValueError)
"""What the library raises where it, a part of it or the GPU is missing, or an image is none that it decodes."""

Blob = npt.NDArray[np.uint8]


class GpuDecoder:
    """One GPU's decoder.  Raises what ``TROUBLE`` lists."""

    def __init__(self, device: torch.device) -> None:
        from nvidia import nvimgcodec

        self._library: Any = nvimgcodec
        self._cuda = device.type == "cuda"
        kinds = nvimgcodec.BackendKind
        backends = (kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU) if self._cuda else (kinds.CPU_ONLY,)
        number = (device.index or 0) if self._cuda else nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY
        self._decoder = nvimgcodec.Decoder(
            device_id=number,
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(kind) for kind in backends],
            options=f":num_cuda_streams={STREAMS}" if self._cuda else "",
        )
        self._params = nvimgcodec.DecodeParams(  # its defaults turn images by tag 274 and squeeze them to 8 bits
            apply_exif_orientation=False, allow_any_depth=True, color_spec=nvimgcodec.ColorSpec.UNCHANGED
        )

    def decode(self, blobs: Sequence[Blob], buffers: list[Any] | None = None) -> list[Tensor | None]:
        """Pixels [rows, cols] on the device, in the order of torch's current stream; None where a blob is refused.

        ``buffers`` are the library's images of an earlier call, to be written over where they are enough; new ones are
        put into it.  Without them each call allocates on the device.
        """
        streams = [self._library.CodeStream(blob) for blob in blobs]
        current = torch.cuda.current_stream().cuda_stream if self._cuda else 0
        old = buffers[: len(blobs)] if buffers is not None and len(buffers) >= len(blobs) else None
        images = self._decoder.decode(streams, images=old, params=self._params, cuda_stream=current)
        if buffers is not None and old is None:
            buffers[:] = [image for image in images if image is not None]
        return [None if image is None else self._pixels(image) for image in images]

    def _pixels(self, image: Any) -> Tensor | None:
        pixels: Tensor = from_dlpack(image) if self._cuda else torch.from_numpy(np.array(image))
        return pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else None

    def exact(self, encoding: str, dtype: str) -> str:
        """Decode the file of that encoding; returns what is wrong, or nothing."""
        blob = np.fromfile(FILES / f"{dtype}-{encoding}.tif", np.uint8)
        try:
            (pixels,) = self.decode([blob])
        except TROUBLE as error:
            return reason(error)
        if pixels is None:
            return f"a file of GDAL's is refused ({PARTS})"
        return "" if _equal(pixels, blob) else "pixels differ from the CPU's"


@dataclass(frozen=True, slots=True)
class DecodedBand:
    """A band's pixels [rows, cols], on the device or on the CPU; None where they cannot be had, and why."""

    pixels: Tensor | None
    problem: str = ""


class DeviceDecoder:
    """Decodes with a GPU, and on the CPU what the GPU refuses."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts = {"gpu": 0, "cpu": 0}
        self.problem = ""  # why bands were decoded on the CPU, not told yet
        self._failures = 0
        self._told = False

    def take_counts(self) -> dict[str, int]:
        """Bands decoded on either since the last call."""
        counts, self.counts = self.counts, {"gpu": 0, "cpu": 0}
        return counts

    def take_problem(self) -> str:
        """Why the CPU had to decode; once, and nothing as long as it had not."""
        problem, self.problem = self.problem, ""
        return problem

    @cached_property
    def _gpu(self) -> GpuDecoder | None:
        try:
            return GpuDecoder(self.device)
        except TROUBLE as error:
            self._note(reason(error))
            return None

    def _note(self, problem: str) -> None:
        if not self._told:
            self._told, self.problem = True, problem

    def _by_gpu(self, blobs: Sequence[Blob], buffers: list[Any]) -> list[Tensor | None]:
        """None for each blob where the GPU is missing, refuses it, or fails; after a few failures it is left alone."""
        if self._gpu is not None and self._failures < FAILURES:
            try:
                found = self._gpu.decode(blobs, buffers)
                self._failures = 0
                if any(pixels is None for pixels in found):
                    self._note("the GPU refuses some")
                return found
            except TROUBLE as error:
                self._failures += 1
                self._note(reason(error))
        return [None] * len(blobs)

    def decode(
        self, blobs: Sequence[Blob], shapes: Sequence[tuple[int, int]], dtype: str, buffers: list[Any]
    ) -> list[DecodedBand]:
        """Return the pixels of ``dtype`` of each blob, or why there are none; ``buffers``: see ``GpuDecoder``.

        They are valid until the next call with the same ``buffers``.
        """
        found = self._by_gpu(blobs, buffers)
        wanted = getattr(torch, dtype)
        result = []
        for blob, shape, pixels in zip(blobs, shapes, found, strict=True):
            fits = pixels is not None and tuple(pixels.shape) == shape and pixels.dtype == wanted
            if pixels is not None and not fits:
                self._note(f"the GPU makes {pixels.dtype} {tuple(pixels.shape)} of what is {dtype} {shape}")
            self.counts["gpu" if fits else "cpu"] += 1
            result.append(DecodedBand(pixels) if fits else _on_cpu(blob, shape, dtype))
        return result


def _tried(decoder: GpuDecoder, blobs: Sequence[Blob]) -> list[Tensor | None]:
    """Decode on the GPU; None for each blob where it fails."""
    with contextlib.suppress(*TROUBLE):
        return decoder.decode(blobs)
    return [None] * len(blobs)


def _on_cpu(blob: Blob, shape: tuple[int, int], dtype: str) -> DecodedBand:
    pixels = np.empty(shape, dtype)
    try:
        tiff.decode_into(blob, tiff.parse(blob), pixels)
    except MtembedError as error:
        return DecodedBand(None, str(error))
    return DecodedBand(torch.from_numpy(pixels))


def probe(job: ProbeJob, device: torch.device | None = None) -> Probed:
    """What a GPU can decode, by default the one that this process sees."""
    device = device or torch.device("cpu" if machine.cpu_cards() else "cuda", 0)
    try:
        decoder = GpuDecoder(device)
    except TROUBLE as error:
        return Probed(frozenset(), dict.fromkeys(GPU_ENCODINGS, reason(error)), 0.0)
    problems = {name: decoder.exact(name, job.dtype) for name in GPU_ENCODINGS}
    blobs = _sample(job, {name for name, problem in problems.items() if not problem})
    for (encoding, blob), pixels in zip(blobs, _tried(decoder, [blob for _, blob in blobs]), strict=True):
        if pixels is None or not _equal(pixels, blob):
            problems[encoding] = f"{job.path.name} comes out wrong"
    exact = tuple(name for name, problem in problems.items() if not problem)
    timed = [blob for encoding, blob in blobs if encoding in exact]
    problems = {name: problem for name, problem in problems.items() if problem}
    return Probed(frozenset(exact), problems, _seconds(decoder, timed, device))


def _sample(job: ProbeJob, exact: set[str]) -> list[tuple[str, Blob]]:
    """The sample cell's blobs, each with its encoding, where that is among ``exact``."""
    from mtembed.archive.reader import cell_blobs

    blobs = cell_blobs(job.path, job.row_group, job.bands)
    return [(info.encoding, blob) for blob in blobs if (info := tiff.parse(blob)).encoding in exact]


def _equal(pixels: Tensor, blob: Blob) -> bool:
    """Whether these are the pixels that the CPU finds in a blob, bit for bit."""
    info = tiff.parse(blob)
    expected = np.empty((info.rows, info.cols), info.dtype)
    tiff.decode_into(blob, info, expected)
    found = pixels.cpu().numpy()
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def _seconds(decoder: GpuDecoder, blobs: Sequence[Blob], device: torch.device) -> float:
    """How long the blobs take; 0 without any."""
    if not blobs:
        return 0.0
    times: list[float] = []
    buffers: list[Any] = []
    until = perf_counter() + TIMED_S
    while len(times) < 2 or perf_counter() < until:
        began = perf_counter()
        decoder.decode(blobs, buffers)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - began)
    return float(np.median(times[1:]))
