"""What ``import mtembed`` offers, and how little it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mtembed
from tests.tools.commands import ROOT
from tests.tools.shards import make_shard


def test_the_public_names() -> None:
    assert mtembed.__all__ == [
        "ConvertResult",
        "Evaluation",
        "FetchResult",
        "FinishResult",
        "Hit",
        "IndexResult",
        "MergeResult",
        "MtembedError",
        "PcaResult",
        "Prediction",
        "PushResult",
        "RunSummary",
        "SearchResult",
        "Status",
        "__version__",
        "convert",
        "embed",
        "evaluate",
        "fetch",
        "finish",
        "index",
        "merge",
        "pca",
        "predict",
        "push",
        "search",
        "status",
    ]
    assert set(mtembed.__all__) <= set(dir(mtembed))
    assert issubclass(mtembed.MtembedError, Exception)
    assert callable(mtembed.embed) and mtembed.RunSummary.__name__ == "RunSummary"
    with pytest.raises(AttributeError, match="no_such_name"):
        mtembed.no_such_name  # noqa: B018


def test_importing_the_package_loads_the_standard_library_only() -> None:
    script = (
        "import sys\nbefore = set(sys.modules)\nimport mtembed\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - {'mtembed'}\n"
        "assert new <= sys.stdlib_module_names, new - sys.stdlib_module_names"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_embed_works_in_a_script_without_a_main_guard(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "part_00001.parquet", 1, side=48).path
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport mtembed\n"
        "seen = []\ntell = lambda progress: seen.append((progress.done, progress.total))\n"
        f"summary = mtembed.embed({str(shard)!r}, model='rcf', fragment_size=32, output='out', on_progress=tell)\n"
        "assert seen and all(done <= total for done, total in seen), seen\n"
        "assert isinstance(summary, mtembed.RunSummary)\n"
        "assert (summary.cells, summary.failed, summary.embeddings, summary.exit_code) == (1, 0, 4, 0)\n"
        f"planned = mtembed.embed({str(shard)!r}, model='rcf', fragment_size=32, output='no', dry_run=True)\n"
        "assert planned.cells == 1 and not __import__('os').path.exists('no'), planned\n"
        "try:\n    mtembed.embed('missing.parquet', model='rcf')\n"
        "except mtembed.MtembedError as error:\n    assert 'missing.parquet' in str(error)\n"
        "else:\n    raise AssertionError('no error')\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out" / "embeddings" / "part_00001.parquet").is_file()
