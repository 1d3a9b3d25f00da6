"""The lines of the tutorial run, in order, and its pictures are what they draw.

``python tests/test_tutorial.py`` runs them and puts the pictures into ``docs``.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from tests.tools.commands import run  # noqa: E402

PAGE = ROOT / "docs/tutorial.md"
PICTURES = {"vectors/pca/map.png": "tutorial-map.png", "hits.png": "tutorial-hits.png"}
WIDTH = 640  # of the pictures in docs
FIFTH_HIT = "{fifth hit}"


def blocks() -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    yield from re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def follow(folder: Path) -> str:
    """Run every line in a folder that looks like a clone; returns all that was said."""
    (folder / "mtembed").mkdir()
    (folder / "mtembed/sample").symlink_to(ROOT / "mtembed/sample")
    said, fifth_hit = "", ""
    for language, text in blocks():
        if language == "python":
            done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            said += done.stdout
            continue
        for line in text.splitlines():
            words = shlex.split(line.replace(FIFTH_HIT, fifth_hit))[1:]
            code, out, err = run([*words, *(["--json"] if "--picture" in words else [])], cwd=folder)
            assert code == 0, f"{line}\n{out}\n{err}"
            if "--picture" in words:
                fifth_hit = json.loads(out.splitlines()[-1])["hits"][4]["unique_id"][:12]
            said += out
    return said


def test_every_line_runs(tmp_path: Path) -> None:
    said = follow(tmp_path)
    assert "867 vectors of 512 values" in said
    for made, shown in PICTURES.items():
        with Image.open(tmp_path / made) as fresh, Image.open(PAGE.parent / shown) as stored:
            assert abs(fresh.width / fresh.height - stored.width / stored.height) < 0.02
    fields = json.loads((tmp_path / "fields.geojson").read_text())
    assert len(fields["features"]) == 10


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", PAGE.read_text()):
        assert (PAGE.parent / target).is_file(), target


def draw() -> None:
    with tempfile.TemporaryDirectory() as name:
        print(follow(Path(name)))
        for made, shown in PICTURES.items():
            with Image.open(Path(name) / made) as picture:
                small = picture.convert("RGB")
                small.thumbnail((WIDTH, 2 * WIDTH))
                small.quantize(200).save(PAGE.parent / shown, optimize=True)


if __name__ == "__main__":
    draw()
