"""The arrows of import: workers that are many stay light, travelling types stand alone, only the edge prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mtembed"
HEAVY = ("torch", "torchgeo", "torchvision", "open_clip", "timm", "transformers", "cupy")
LIGHT = ("decode", "writer", "worker", "cli", "run", "source", "tiff", "rows", "ring", "demo", "dryrun", "models")
PRINTING = ("cli.py", "console.py", "live.py")


@pytest.mark.parametrize("module", LIGHT)
def test_only_the_device_stage_loads_torch(module: str) -> None:
    script = f"import sys, mtembed.{module}\nfound = set({HEAVY!r}) & set(sys.modules)\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("name", ["types.py", "errors.py"])
def test_types_and_errors_import_nothing_of_the_package(name: str) -> None:
    assert not [module for module in imports(PACKAGE / name) if module.startswith((".", "mtembed"))]


def sources() -> list[Path]:
    return sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("models/*.py"), *(ROOT / "kernels").glob("*.py")])


def test_only_the_edge_prints() -> None:
    printing = {
        path.name
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= set(PRINTING)


def test_kernels_are_never_imported_by_their_folder() -> None:
    """A top-level ``kernels`` would shadow, or be shadowed by, a package of that name."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    offenders = [path.name for path in sources() for module in imports(path) if module.split(".")[0] == "kernels"]
    assert not offenders


def test_the_package_imports_nothing_of_the_command_line() -> None:
    for path in sources():
        assert path.name == "cli.py" or "mtembed.cli" not in set(imports(path)), path.name
