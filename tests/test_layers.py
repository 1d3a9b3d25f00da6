"""The house: which file may import which, who prints, who loads torch; held for every file, also for new ones.

``python tests/test_layers.py`` renews the map of the house in docs/design.md, which is drawn from the files themselves.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mtembed"
KERNELS = ROOT / "kernels"
HEAVY = ("torch", "torchgeo", "torchvision", "open_clip", "timm", "transformers", "cupy", "openvino")
LOADS_TORCH = ("engine", "kernels")
NETWORKS = "mtembed.models.networks"
"""The files of ``models`` that are made of torch begin with this."""
LONGEST = 350
FLOORS = (
    ("errors", "types", "text", "notes", "_numba"),
    ("storage",),
    ("sources", "machine", "config", "ring", "messages", "parquet", "geo", "kernels"),
    ("archive", "models"),
    ("engine", "dataset"),
    ("run", "report", "check", "maps"),
    ("evaluation", "similarity", "conversion", "cluster"),
    ("cli",),
)
"""From the ground up.  A file imports its own room, or a lower floor; rooms of one floor never import each other.

A name is a room (a folder) or a file of ``mtembed`` itself; files of one floor are rooms of their own.  ``evaluation``
and ``similarity`` stand above ``run``: baselines are vectors that a run makes from the shards, and
a picture that is looked for goes through the engine as a cell does.
"""
FREE = ("__init__", "__main__")  # the public names and the start of the program look into every room


def sources() -> list[Path]:
    found = [path for path in PACKAGE.rglob("*.py") if "kernels" not in path.relative_to(PACKAGE).parts]
    return sorted([*found, *KERNELS.glob("*.py")])


def module(path: Path) -> str:
    """``mtembed.run.embed`` for its file; the package of a folder for its ``__init__``."""
    inside = path.relative_to(ROOT).with_suffix("")
    names = ["mtembed", *inside.parts] if inside.parts[0] == "kernels" else list(inside.parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {module(path): path for path in sources()}


def room(name: str) -> str:
    """The room of a module of the package."""
    return name.split(".")[1] if "." in name else "__init__"


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import in a file, also inside functions and under TYPE_CHECKING; name is empty for a
    module as a whole."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (node.module or "", alias.name)


def own(path: Path) -> Iterator[tuple[str, str]]:
    """Those imports that are of this package; each resolved to a module that exists."""
    for name, what in imported(path):
        if name.split(".")[0] == "mtembed":
            assert name in MODULES, f"{path.name} imports {name}, which does not exist"
            yield name, what


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_file_has_a_floor() -> None:
    known = {name for rooms in FLOORS for name in rooms} | set(FREE)
    unknown = {room(name) for name in MODULES} - known
    assert not unknown, f"rooms without a floor: {sorted(unknown)}"


def test_rooms_have_one_level() -> None:
    deep = [name for name in MODULES if name.count(".") > 2]
    assert not deep


def test_imports_point_down() -> None:
    wrong = [
        f"{name} -> {other}"
        for name, path in MODULES.items()
        if room(name) not in FREE
        for other, _ in own(path)
        if room(other) != room(name) and room(other) != "__init__" and floor(other) >= floor(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_between_files() -> None:
    arrows = {name: {other for other, _ in own(path)} - {name, "mtembed"} for name, path in MODULES.items()}
    arrows = {name: found for name, found in arrows.items() if room(name) not in FREE}
    while True:
        ends = {name for name, found in arrows.items() if not found & arrows.keys()}
        if not ends:
            break
        arrows = {name: found for name, found in arrows.items() if name not in ends}
    assert not arrows, f"files that import each other: {sorted(arrows)}"


def test_no_private_name_crosses_a_file() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}.{what}"
        for path in sources()
        for name, what in own(path)
        if what.startswith("_") and not what.startswith("__")
    ]
    assert not wrong, "\n".join(wrong)


def test_files_stay_short() -> None:
    files = [*sources(), *(ROOT / "bench").glob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(ROOT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert all(path.startswith("mtembed/cli/") for path in printing), printing


def runtime(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    """Top-level packages that code imports when it runs: what stands under TYPE_CHECKING is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from runtime(node, everywhere)


def heavy(path: Path, everywhere: bool) -> set[str]:
    """Heavy packages that a file imports: anywhere in it, or outside its functions only."""
    return set(runtime(ast.parse(path.read_text()), everywhere)) & set(HEAVY)


def test_only_the_device_stage_imports_torch() -> None:
    """In ``models`` the loaders do, which a device worker calls; there nothing may at import, but networks."""
    wrong = {
        str(path.relative_to(ROOT)): found
        for name, path in MODULES.items()
        if room(name) not in LOADS_TORCH and not name.startswith(NETWORKS)
        if (found := heavy(path, everywhere=room(name) != "models"))
    }
    assert not wrong


@pytest.mark.parametrize(
    "light", ["archive", "check", "cli", "dataset", "evaluation", "geo", "maps", "models", "report", "run", "storage"]
)
def test_light_rooms_load_no_torch(light: str) -> None:
    """Every file of the room is imported in a fresh process, but those in ``models`` that are made of torch."""
    names = [name for name in MODULES if room(name) == light and not name.startswith(NETWORKS)]
    script = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"found = set({(*HEAVY, 'obstore')!r}) & set(sys.modules)\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["types", "errors"])
def test_types_and_errors_import_nothing_of_the_package(name: str) -> None:
    assert not list(own(PACKAGE / f"{name}.py"))


def test_kernels_are_never_imported_by_their_folder() -> None:
    """A top-level ``kernels`` would shadow, or be shadowed by, a package of that name."""
    assert not (KERNELS / "__init__.py").exists()
    offenders = [path.name for path in sources() for name, _ in imported(path) if name.split(".")[0] == "kernels"]
    assert not offenders


def test_every_room_is_installed() -> None:
    listed = (ROOT / "setup.cfg").read_text().split()
    rooms = {f"mtembed.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert not {"mtembed", "mtembed.kernels", *rooms} - set(listed)


# -- the map of the house in docs/design.md -----------------------------------------------------------------------

DESIGN = ROOT / "docs" / "design.md"
MARKS = ("<!-- house -->", "<!-- /house -->")


def first_sentence(path: Path) -> str:
    """What a file says of itself: the first sentence of its docstring, as one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    end = text.find(".  ")
    return (text if end < 0 else text[: end + 1]).replace("``", "`").replace("|", "\\|")


def arrows() -> dict[str, dict[str, int]]:
    """room -> room -> number of files of the first that import the second."""
    found: dict[str, dict[str, int]] = {}
    for name, path in MODULES.items():
        others = {room(other) for other, _ in own(path)} - {room(name), "__init__"}
        for other in others if room(name) not in FREE else ():
            row = found.setdefault(room(name), {})
            row[other] = row.get(other, 0) + 1
    return found


def house() -> str:
    """Floors from the roof down, a line for each room and each file, and who imports whom."""
    imports, lines = arrows(), []
    for number, rooms in reversed(list(enumerate(FLOORS))):
        lines += [f"**Floor {number}**", ""]
        for name in rooms:
            files = {module: path for module, path in MODULES.items() if room(module) == name}
            folder = f"mtembed.{name}" in MODULES and MODULES[f"mtembed.{name}"].name == "__init__.py"
            whole = f": {first_sentence(MODULES[f'mtembed.{name}'])}" if f"mtembed.{name}" in MODULES else ""
            needs = ", ".join(
                f"`{other}`" for other in sorted(imports.get(name, {}), key=lambda one: (floor(f"mtembed.{one}"), one))
            )
            lines.append(
                f"* `{name}{'/' if folder or name == 'kernels' else '.py'}`{whole} Imports: {needs or 'nothing'}."
            )
            for module, path in sorted(files.items()):
                if path.name != "__init__.py" and module.count(".") == 2:
                    lines.append(f"  * `{path.name}`: {first_sentence(path)}")
        lines.append("")
    return "\n".join(lines).rstrip()


def test_the_map_of_the_house_is_up_to_date() -> None:
    text = DESIGN.read_text()
    written = text[text.index(MARKS[0]) + len(MARKS[0]) : text.index(MARKS[1])].strip()
    assert written == house(), "stale: run python tests/test_layers.py"


if __name__ == "__main__":
    text = DESIGN.read_text()
    before, after = text[: text.index(MARKS[0])], text[text.index(MARKS[1]) :]
    DESIGN.write_text(f"{before}{MARKS[0]}\n\n{house()}\n\n{after}")
