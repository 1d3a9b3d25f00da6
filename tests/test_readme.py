"""The commands of the README run, its tables are those of the code.  ``python tests/test_readme.py`` renews them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from docstring_parser import parse  # noqa: E402

from mtembed import models  # noqa: E402
from mtembed.cli.app import COMMANDS  # noqa: E402
from mtembed.config import RunConfig  # noqa: E402
from mtembed.dataset import readme, rows  # noqa: E402
from mtembed.models import weights  # noqa: E402
from mtembed.models.check import check  # noqa: E402
from mtembed.text import duration, size  # noqa: E402
from tests.tools.commands import run  # noqa: E402

CELLS_IN_A_SHARD = 500
SIZED = ("batch", "workers", "slots")


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *lines))


def options_table() -> str:
    """From RunConfig: its fields, their types and defaults, the words of its docstring."""
    items = parse(RunConfig.__doc__ or "").params
    texts = {item.arg_name: " ".join((item.description or "").split()) for item in items}
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    fields = [field for field in dataclasses.fields(RunConfig) if field.name != "shards"]
    assert texts.keys() == {"shards", *(field.name for field in fields)}
    lines = []
    for field in fields:
        meaning, _, said = texts[field.name].partition(" Default: ")
        lines.append((option(field.name, hints[field.name]), meaning, said.removesuffix(".") or default(field)))
    return table(("option", "meaning", "default"), lines)


def option(name: str, hint: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if name == "border_shift":
        return "`--border-shift`, `--no-border-shift`"
    kind, *parameters = typing.get_args(hint)
    if typing.get_origin(kind) is Literal:
        return f"`{flag}` " + ", ".join(f"`{word}`" for word in typing.get_args(kind))
    value = [parameter.metavar for parameter in parameters if parameter.metavar]
    return f"`{flag} {value[-1]}`" if value else f"`{flag}`"


def default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return "sized from the machine" if field.name in SIZED else "all"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def models_table() -> str:
    lines = []
    for spec in map(models.get, models.names()):
        others = ", ".join(source for source in spec.bands if source != spec.source) or "-"
        names = spec.bands[spec.source]
        bands = " ".join(names) if len(names) < 4 else f"{len(names)}, {names[0]} to {names[-1]}"
        file = f"[`{spec.published.file}`]({spec.published.page})" if spec.published else "none needed"
        sizes = (str(spec.size), str(spec.dim))
        lines.append((f"`{spec.name}`", spec.title, spec.source, others, bands, *sizes, file, spec.licence))
    return table(("name", "network", "made for", "also runs on", "bands", "px", "D", "weights", "licence"), lines)


def columns_table() -> str:
    columns = readme.COLUMNS + readme.EXTRA_COLUMNS
    lines = [(f"`{name}`".replace(", ", "`, `"), kind, text) for name, kind, text in columns]
    return table(("column", "type", "meaning"), lines)


def figures_table() -> str:
    """From what ``bench/end_to_end.py`` wrote."""
    content = json.loads((ROOT / "bench/results/end-to-end-cpu.json").read_text())
    machine = content["machine"]
    lines = []
    for one in content["results"]:
        crew = f"{one['processes']} x {one['threads']}"
        shares = (f"{one['to_model_alone']:.2f}", f"{one['to_reference_style']:.1f} x")
        rate = one["end_to_end"]
        speed = (f"{rate:.2f}", duration(CELLS_IN_A_SHARD / rate))
        lines.append((f"`{one['model']}`", one["engine"], one["precision"], crew, *speed, *shares))
    heads = (
        "model", "engine", "precision", "processes x threads", "cells/s", "a shard of 500 cells",
        "of the network alone", "times a plain loop",
    )  # fmt: skip
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"
    return f"{where}; medians of {content['rounds']} rounds:\n\n{table(heads, lines)}"


def other_figures_table() -> str:
    """From what ``bench/end_to_end.py`` wrote of the models that the README's table leaves out."""
    content = json.loads((ROOT / "bench/results/models-cpu.json").read_text())
    machine, lines = content["machine"], []
    for name in dict.fromkeys(one["model"] for one in content["results"]):
        plain, auto = (one for one in content["results"] if one["model"] == name)
        rates = [(f"{one['end_to_end']:.3g}", f"{one['to_model_alone']:.2f}") for one in (plain, auto)]
        gain = f"{auto['end_to_end'] / plain['end_to_end']:.2f}"
        lines.append((f"`{name}`", *rates[0], *rates[1], auto["precision"], gain))
    heads = ("model", "fp32", "of the network alone", "auto", "of the network alone", "which is", "auto / fp32")
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"
    return f"Cells/s, {where}:\n\n{table(heads, lines)}"


def memory_table() -> str:
    """From what ``bench/large.py`` wrote."""
    content = json.loads((ROOT / "bench/results/large.json").read_text())
    lines = [
        (f"`mtembed {name}`" if " " not in name else name, size(one["anonymous_bytes"]), size(one["peak_bytes"]))
        for name, one in content["commands"].items()
    ]
    what = f"{size(content['bytes_of_vectors'])} of vectors ({content['rows']:,} x {content['dim']}, float32)"
    return f"{what}:\n\n{table(('command', 'memory of its own', 'with pages of mapped files'), lines)}"


def commands_table() -> str:
    lines = [(f"`mtembed {'[run]' if name == 'run' else name}`", sentence) for name, sentence in COMMANDS.items()]
    return table(("command", "what it does"), lines)


TABLES = {
    "commands": commands_table, "models": models_table, "options": options_table, "columns": columns_table,
    "figures": figures_table, "other-figures": other_figures_table,
    "memory": memory_table,
}  # fmt: skip
ELSEWHERE = {"other-figures": ROOT / "docs/models.md"}
"""Where tables are that the README has not."""


def section(name: str) -> tuple[Path, str, re.Match[str]]:
    """The file that has a table, its text, and where in it the table is."""
    path = ELSEWHERE.get(name, README)
    text = path.read_text()
    found = re.search(rf"(?s)(<!-- {name}: begin -->\n)(.*?)(<!-- {name}: end -->)", text)
    assert found, f"{path.name} has no place for the table of {name}"
    return path, text, found


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_fresh(name: str) -> None:
    written = section(name)[2].group(2).strip()
    assert written == TABLES[name](), "stale: run python tests/test_readme.py"


def test_the_table_of_columns_is_the_schema() -> None:
    named = {name for names, _, _ in readme.COLUMNS for name in names.split(", ")}
    extra = {name for names, _, _ in readme.EXTRA_COLUMNS for name in names.split(", ")}
    assert named == set(rows.schema(8, "float32", extras=False).names)
    assert named | extra == set(rows.schema(8, "float32", extras=True).names)


def blocks(language: str) -> list[str]:
    """The README's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def commands() -> list[str]:
    """The ``mtembed`` commands of the README that need neither a network nor an archive, in order, each once."""
    lines = [line.split("&&")[-1].strip() for block in blocks("sh") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("mtembed ") and "path/to" not in line))


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    found = commands()
    assert found[0] == "mtembed demo" and len(found) >= 5
    for command in found:
        code, out, err = run(shlex.split(command)[1:], cwd=tmp_path)
        assert code == 0, f"{command}\n{out}\n{err}"
    assert (tmp_path / "mtembed-demo" / "demo.png").is_file()
    (script,) = [block for block in blocks("python") if "mtembed-demo" in block]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "likeness" in done.stdout, done.stderr


def test_the_example_of_a_model_in_contributing_builds() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    (spec,) = names["SPECS"]
    network = spec.build(weights.resolve(spec, "random:0"))
    assert sum(tensor.numel() for tensor in network.parameters()) == spec.parameters
    images = check(spec, weights.resolve(spec, "random:0"))
    assert all(image.finite for image in images)


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README.read_text()):
        assert (ROOT / target).is_file(), target


def test_both_lines_of_setting_up_are_there() -> None:
    text = README.read_text()
    assert "pip install . && mtembed demo\n" in text
    assert "pip install '.[test]' && pytest -n 2 --dist loadfile\n" in text


def renew() -> None:
    for name, make in TABLES.items():
        path, text, found = section(name)
        path.write_text(text[: found.start(2)] + make() + "\n" + text[found.end(2) :])


if __name__ == "__main__":
    renew()
