"""Compiled functions work where no folder can be written: no home, no temporary folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import tempfile
tempfile.tempdir = "/proc/nowhere"
from mtembed import _numba

@_numba.njit
def twice(x):
    return 2 * x

assert twice(21) == 42
assert _numba._FOLDER is None
"""


def test_without_any_folder_code_is_compiled_and_not_kept() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
