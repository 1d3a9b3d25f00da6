"""The CUDA sources under NVIDIA's own compiler, which needs no GPU: that they compile, and that they stay exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtembed.kernels import driver

pytest.importorskip("cuda.bindings", reason="cuda.bindings comes with torch's CUDA build")
GENERATIONS = ("75", "80", "86", "89", "90")


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("file", ["fragment.cu", "rectified.cu"])
def test_sources_compile_for_every_generation(file: str, generation: str) -> None:
    assert driver.compiled(file, f"sm_{generation}").startswith(b"\x7fELF")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_fragment_kernel_keeps_float32_exact(generation: str) -> None:
    """Division is rounded to nearest, no float32 product is fused into a sum, denormals are kept."""
    text = driver.compiled("fragment.cu", f"compute_{generation}").decode()
    assert ".entry fragment(" in text
    assert "div.rn.f32" in text
    assert "fma.rn.f32" not in text and "div.approx" not in text and "div.full" not in text and ".ftz.f32" not in text


def test_a_device_gets_its_own_code_or_what_it_can_translate() -> None:
    assert driver.architecture((9, 0)) == "sm_90"
    assert driver.architecture((99, 0)).startswith("compute_")
    with pytest.raises(RuntimeError, match=r"no GPU as old as compute capability 3\.5"):
        driver.architecture((3, 5))


def test_a_source_that_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.cu").write_text('extern "C" __global__ void broken(int n) { return m; }')
    monkeypatch.setattr(driver, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match=r"broken.cu for sm_80: NVRTC_ERROR_COMPILATION: .*\"m\" is undefined"):
        driver.compiled("broken.cu", "sm_80")
