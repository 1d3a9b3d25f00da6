"""Every backend against the definition, and the definition against torch.

``cu`` stands for the text of ``fragment.cu`` compiled as C++ and launched with the arguments that its launchers make;
``cuda`` for the numba.cuda kernel in numba's simulator, all cases in one process.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.kernels import fragment_numba
from mtembed.kernels.select import BACKENDS, backend, kernel_name
from mtembed.types import Normalisation
from tests.tools.kernel_cases import (
    C_TYPES,
    CASES,
    DECIBEL,
    DECIBEL_STANDARD,
    DTYPES,
    REFLECTANCE,
    RGB,
    STANDARD,
    STANDARD_VALID,
    Array,
    Case,
    bits_of,
    compiled,
    compute,
    cu_arguments,
    defined,
    parameters,
    simulate,
)


@pytest.fixture(scope="module")
def simulated() -> dict[str, Array]:
    return simulate()


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Array]:
    return compiled(tmp_path_factory.mktemp("cu"))


@pytest.fixture(params=["numba", "cuda", "cu"])
def run(request: pytest.FixtureRequest) -> Callable[[str], Array]:
    """Run a named case on one backend."""
    if request.param == "cuda":
        results: dict[str, Array] = request.getfixturevalue("simulated")
        return results.__getitem__
    if request.param == "cu":
        on_cpu: Callable[[Case], Array] = request.getfixturevalue("launch")
        return lambda name: on_cpu(CASES[name])
    return lambda name: compute(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_backends_equal_the_definition(run: Callable[[str], Array], name: str) -> None:
    expected, result = defined(CASES[name]), run(name)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    # A GPU's log10 may be one unit off; neither the simulator nor C++ has another one than the C library's.
    assert np.array_equal(bits_of(result), bits_of(expected))


def test_backends_have_one_signature() -> None:
    signatures = [inspect.signature(backend(name)) for name in BACKENDS]
    assert len(signatures) == 5
    assert all(signature == signatures[0] for signature in signatures)


def test_the_launcher_passes_what_the_kernel_takes() -> None:
    case = CASES["rgb-float16-nhwc"]
    types, given_values = parameters()[1], cu_arguments(case, case.out())
    assert list(types) == list(given_values)
    for name, value in given_values.items():
        if isinstance(value, np.ndarray):
            assert types[name].endswith("*"), name
            element = types[name].removeprefix("const ").removesuffix(" *")
            known = {"long long": np.int64, "int": np.int32, "double": np.float64, "float": np.float32}
            assert element == "void" or value.dtype == known[element], name
        else:
            assert value.dtype == C_TYPES[types[name]], name


def cases_of_all_values(normalisation: Normalisation) -> Case:
    bands = len(normalisation.mean) or 2
    planes = np.array([[(0, 256, 1, 1)] * bands], np.int64)
    values = np.arange(65536, dtype=np.uint16)
    zeros = np.zeros((1, 3), np.int32)
    return Case(values, planes, zeros, np.zeros(1, np.int32), np.array([math.nan]), normalisation, 256)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("subtract", [0, 1000])
@pytest.mark.parametrize("normalisation", [REFLECTANCE, RGB, STANDARD, STANDARD_VALID])
def test_all_65536_values(
    launch: Callable[[Case], Array], normalisation: Normalisation, subtract: int, dtype: Any, channels_last: bool
) -> None:
    case = cases_of_all_values(normalisation)
    case = replace(case, subtract=np.array([subtract], np.int32), dtype=dtype, channels_last=channels_last)
    expected = defined(case)
    assert np.array_equal(expected.view(f"u{expected.itemsize}"), compute(case).view(f"u{expected.itemsize}"))
    assert np.array_equal(expected.view(f"u{expected.itemsize}"), launch(case).view(f"u{expected.itemsize}"))


def by_torch(case: Case) -> torch.Tensor:
    """Upsample whole bands, stack, normalise with torch, slice: no index arithmetic in common with the definition."""
    fragments = []
    for cell, row, col in case.fragments.tolist():
        bands = []
        for first, stride, row_factor, col_factor in case.planes[cell].tolist():
            rows = (case.raw.size - first) // stride
            plane = torch.from_numpy(case.raw[first : first + rows * stride].astype(np.float32)).reshape(rows, stride)
            plane = (plane - float(case.subtract[cell])).clamp(min=0)
            whole = plane.repeat_interleave(row_factor, 0).repeat_interleave(col_factor, 1)
            bands.append(whole[row : row + case.size, col : col + case.size])
        fragments.append(torch.stack(bands))
    pixels = torch.stack(fragments)
    if case.normalisation.rule == "reflectance":
        return pixels / 10000
    mean, std = (torch.tensor(values)[:, None, None] for values in (case.normalisation.mean, case.normalisation.std))
    if case.normalisation.rule == "standard":
        return (pixels - mean) / std
    if case.normalisation.rule == "standard-valid":
        return torch.where(pixels == 0, 0, (pixels - mean) / std)
    return ((2.5 * pixels / 10000).clamp(0, 1) - mean) / std


LINEAR = [
    name for name, case in CASES.items() if "decibel" not in name and "-float-" not in name and len(case.fragments)
]


@pytest.mark.parametrize("name", LINEAR)
def test_definition_and_numba_equal_torch(name: str) -> None:
    case = CASES[name]
    kinds = {"float32": torch.float32, "float16": torch.float16, "uint16": torch.bfloat16}
    expected = by_torch(case).to(kinds[np.dtype(case.dtype).name])
    expected_bits = expected.view(torch.int32 if case.dtype == np.float32 else torch.int16).numpy()
    for out in (defined(case), compute(case)):
        assert np.array_equal(np.ascontiguousarray(out).view(expected_bits.dtype), expected_bits)


def float_case(pixels: Array, nodata: float, normalisation: Normalisation = DECIBEL) -> Case:
    """One square plane of float32 pixels seen by two bands."""
    side = math.isqrt(pixels.size)
    planes = np.array([[(0, side, 1, 1)] * 2], np.int64)
    zeros = np.zeros((1, 3), np.int32)
    return Case(pixels, planes, zeros, np.zeros(1, np.int32), np.array([nodata]), normalisation, side)


NARROW = Normalisation("decibel", (0.0, 0.0), (200.0, 1e-3))


@pytest.mark.parametrize("normalisation", [DECIBEL, NARROW, REFLECTANCE, STANDARD, STANDARD_VALID, DECIBEL_STANDARD])
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_bit_patterns(launch: Callable[[Case], Array], dtype: Any, normalisation: Normalisation) -> None:
    patterns = np.random.default_rng(1).integers(0, 2**32, 400**2, dtype=np.uint32)
    case = replace(float_case(patterns.view(np.float32), math.nan, normalisation), dtype=dtype)
    expected = defined(case)
    assert np.array_equal(bits_of(compute(case)), bits_of(expected))
    assert np.array_equal(bits_of(launch(case)), bits_of(expected))
    if normalisation.rule.startswith("decibel"):
        assert np.isfinite(expected.astype(np.float32)).all()


@pytest.mark.parametrize("value", [1.0, 1e-10, 1e-45, 3.4e38, 0.05, 0.70710677, 1.4142135])
def test_decibels_near_a_value(value: float) -> None:
    """The fast path's seams: powers of two times sqrt(2), the lowest power, 0 dB."""
    centre = int(np.float32(value).view(np.uint32))
    patterns = np.clip(np.arange(centre - 2048, centre + 2048), 0, 0x7F800000).astype(np.uint32)
    for mean in (0.0, float(10 * np.log10(max(value, 1e-10)))):
        case = float_case(patterns.view(np.float32), math.nan, Normalisation("decibel", (mean, mean), (100.0, 1e-4)))
        assert np.array_equal(compute(case).view(np.uint32), defined(case).view(np.uint32))


def test_what_has_no_decibels_is_black_and_infinity_is_white() -> None:
    pixels = np.array([-32768, math.nan, -math.inf, -1, -0.0, 0, 1e-11, 7.5, math.inf], np.float32)
    for fragment in (backend("numpy"), backend("numba")):
        case = float_case(pixels, 7.5)
        out = case.out()
        fragment(*case.inputs(), out)
        assert out[0, 0].ravel().tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_what_a_standard_rule_cannot_use_is_0() -> None:
    pixels = np.array([-32768, math.nan, -math.inf, -1, -0.0, 0, 1e-11, 7.5, math.inf], np.float32)
    mean, std = (2.0, 2.0), (4.0, 4.0)
    expected = {
        "standard": [-8192.5, 0, 0, -0.75, -0.5, -0.5, -0.5, 0, 0],
        "standard-valid": [-8192.5, 0, 0, -0.75, 0, 0, -0.5, 0, 0],
        "decibel-standard": [0, 0, 0, 0, 0, 0, -25.5, 0, 0],
    }
    for rule, values in expected.items():
        case = float_case(pixels, 7.5, Normalisation(rule, mean, std))  # type: ignore[arg-type]
        for fragment in (backend("numpy"), backend("numba")):
            out = case.out()
            fragment(*case.inputs(), out)
            assert out[0, 0].ravel().tolist() == values, rule


def test_decibels_in_the_plain_formula() -> None:
    pixels = np.random.default_rng(2).lognormal(-3, 1, 64**2).astype(np.float32)
    decibel = 10 * np.log10(pixels.astype(np.float64))
    mean, std = (np.array(values)[:, None] for values in (DECIBEL.mean, DECIBEL.std))
    expected = np.clip((decibel - (mean - 2 * std)) / (4 * std), 0, 1).reshape(1, 2, 64, 64)
    assert defined(float_case(pixels, math.nan)) == pytest.approx(expected, abs=3e-7)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(6, 60),
    cols=st.integers(6, 60),
    factor=st.sampled_from([1, 2, 3, 6]),
    channels_last=st.booleans(),
    data=st.data(),
)
def test_pixels_come_from_where_the_fragment_is(
    rows: int, cols: int, factor: int, channels_last: bool, data: st.DataObject
) -> None:
    """One band holds each pixel's row, the other its column; x / 10000 gives them back."""
    rows, cols = rows - rows % factor, cols - cols % factor
    size = data.draw(st.integers(1, min(rows, cols)))
    row, col = data.draw(st.integers(0, rows - size)), data.draw(st.integers(0, cols - size))
    own_rows, own_cols = np.indices((rows // factor, cols // factor), np.uint16)
    raw = np.concatenate([own_rows.ravel(), own_cols.ravel()])
    planes = np.array(
        [[(0, cols // factor, factor, factor), (own_rows.size, cols // factor, factor, factor)]], np.int64
    )
    place = np.array([(0, row, col)], np.int32)
    case = Case(raw, planes, place, np.zeros(1, np.int32), np.array([math.nan]), REFLECTANCE, size)
    for out in (compute(replace(case, channels_last=channels_last)), defined(case)):
        found = np.rint(out[0] * 10000).astype(int)
        assert np.array_equal(found[0], np.broadcast_to((row + np.arange(size)[:, None]) // factor, (size, size)))
        assert np.array_equal(found[1], np.broadcast_to((col + np.arange(size)) // factor, (size, size)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_outside_out_is_written(channels_last: bool) -> None:
    case = replace(CASES["reflectance-float32-nchw"], channels_last=channels_last)
    shape = (len(case.fragments) + 2, *((9, 9, 4) if channels_last else (4, 9, 9)))
    buffer = np.full(shape, -5, np.float32)
    out = buffer[1:-1].transpose(0, 3, 1, 2) if channels_last else buffer[1:-1]
    fragment_numba.fragment(*case.inputs(), out)
    assert (buffer[[0, -1]] == -5).all()
    assert np.array_equal(out, defined(case))


def test_raw_may_be_read_only() -> None:
    case = CASES["rgb-float32-nchw"]
    raw = case.raw.copy()
    raw.setflags(write=False)
    assert np.array_equal(compute(replace(case, raw=raw)), defined(case))


def broken() -> dict[str, dict[str, Any]]:
    case = CASES["reflectance-float32-nchw"]
    beyond, negative, factorless, narrow = (case.planes.copy() for _ in range(4))
    beyond[1, 2, 0] = case.raw.size - 5
    negative[0, 0, 0] = -1
    factorless[0, 1, 2] = 0
    narrow[0, 0, 1] = 35
    huge = case.planes.copy()
    huge[..., 1] = 2**62
    far = case.planes.copy()
    far[0, 0, 0] = 2**63 - 1
    elsewhere = {
        name: np.array([place], np.int32)
        for name, place in {"cell": (2, 0, 0), "minus": (-1, 0, 0), "row": (0, 3000, 0), "col": (0, 0, -1)}.items()
    }
    return {
        "plane beyond raw": {"planes": beyond},
        "plane before raw": {"planes": negative},
        "factor 0": {"planes": factorless},
        "row too short": {"planes": narrow},
        "stride overflows": {"planes": huge},
        "start overflows": {"planes": far},
        **{f"fragment: {name}": {"fragments": value} for name, value in elsewhere.items()},
        "raw int16": {"raw": case.raw.view(np.int16)},
        "raw 2-D": {"raw": case.raw[None]},
        "raw strided": {"raw": np.repeat(case.raw, 2)[::2]},
        "planes int32": {"planes": case.planes.astype(np.int32)},
        "planes of three numbers": {"planes": case.planes[..., :3].copy()},
        "fragments int64": {"fragments": case.fragments.astype(np.int64)},
        "one subtract": {"subtract": case.subtract[:1]},
        "negative subtract": {"subtract": -case.subtract - 1},
        "one nodata": {"nodata": case.nodata[:1]},
        "unknown rule": {"normalisation": Normalisation("sqrt")},  # type: ignore[arg-type]
        "too few means": {"normalisation": RGB},
        "zero std": {"normalisation": Normalisation("rgb", (0.0,) * 4, (1.0, 0.0, 1.0, 1.0))},
        "mean NaN": {"normalisation": Normalisation("rgb", (math.nan,) * 4, (1.0,) * 4)},
    }


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("change", broken())
def test_what_does_not_fit_is_refused_in_a_sentence(name: str, change: str) -> None:
    case = CASES["reflectance-float32-nchw"]
    changed = replace(case, **broken()[change])
    with pytest.raises(ValueError, match=r"\.$"):
        backend(name)(*changed.inputs(), np.empty((6, 4, 9, 9), np.float32)[: len(changed.fragments)])


OUTS = {
    "float64": np.empty((6, 4, 9, 9)),
    "too few": np.empty((5, 4, 9, 9), np.float32),
    "not square": np.empty((6, 4, 9, 10), np.float32),
    "3-D": np.empty((6, 4, 9), np.float32),
    "gaps": np.empty((6, 4, 9, 18), np.float32)[..., ::2],
    "transposed": np.empty((6, 4, 9, 9), np.float32).transpose(0, 1, 3, 2),
    "0-D": np.float32(0),
}


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("out", OUTS)
def test_an_out_that_does_not_fit_is_refused_in_a_sentence(name: str, out: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        backend(name)(*CASES["reflectance-float32-nchw"].inputs(), OUTS[out])


def test_out_must_be_writeable() -> None:
    out = CASES["rgb-float32-nchw"].out()
    out.setflags(write=False)
    with pytest.raises(ValueError, match=r"writeable\.$"):
        fragment_numba.fragment(*CASES["rgb-float32-nchw"].inputs(), out)


def test_numba_is_the_backend_of_cpus() -> None:
    assert backend() is backend("numba") is fragment_numba.fragment


def test_a_backend_has_the_name_of_its_file() -> None:
    assert [kernel_name(backend(name)) for name in BACKENDS] == list(BACKENDS)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="numpy, numba, nvrtc, cupy, cuda"):
        backend("fortran")


def test_cupy_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    case = CASES["rgb-float32-nchw"]
    with pytest.raises(ImportError, match=r"mtembed\[gpu\]"):
        backend("cupy")(*case.inputs(), case.out())
