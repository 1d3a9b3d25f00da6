"""``fragment.cu`` under NVIDIA's own compiler, which needs no GPU: that it compiles, and that it stays exact."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "mtembed/kernels/fragment.cu"


def nvrtc() -> ctypes.CDLL:
    """The compiler that torch's CUDA build brings along; CuPy uses the same."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    found = [path for folder in folders for path in folder.rglob("libnvrtc.so*") if "alt" not in path.name]
    if not found:
        pytest.skip("libnvrtc is not installed (it comes with torch's CUDA build)")
    return ctypes.CDLL(str(found[0]))


def ptx(architecture: str) -> str:
    """The kernel as CuPy compiles it, without options but the architecture."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"fragment.cu", 0, None, None)
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
    failed = library.nvrtcCompileProgram(program, 1, options)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert not failed and not log.value, log.value.decode()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, text)
    return text.value.decode()


@pytest.mark.parametrize("architecture", ["compute_75", "compute_80", "compute_90"])
def test_the_kernel_compiles_without_a_word_and_keeps_float32_exact(architecture: str) -> None:
    """Division is rounded to nearest, no float32 product is fused into a sum, denormals are kept."""
    text = ptx(architecture)
    assert ".entry fragment(" in text
    assert "div.rn.f32" in text
    assert "fma.rn.f32" not in text and "div.approx" not in text and "div.full" not in text and ".ftz.f32" not in text
