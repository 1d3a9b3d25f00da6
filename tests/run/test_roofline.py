"""``--roofline`` measures before the run; the report sets the run beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtembed.report.roofline import roof
from mtembed.types import DECODE_STAGES, DEVICE_STAGES, Roofline
from tests.tools.commands import embeddings, run
from tests.tools.manifests import manifest
from tests.tools.shards import make_shard

ALONE = {"read": 2.0, "decode": 8.0, "upload": 0.0, "preprocess": 20.0, "forward": 80.0, "download": 0.0}
LIMITS = {"read": 500.0, "decode": 125.0, "upload": 0.0, "preprocess": 100.0, "forward": 25.0, "download": 0.0}
MEASURED = manifest(roofline=Roofline(ALONE, LIMITS, read_bytes_per_s=1e9, best=20.0))


def test_shares_are_of_each_stages_own_limit() -> None:
    found = roof([MEASURED], 10.0)
    assert found is not None and (found.best_cells_per_s, found.share) == (20.0, 0.5)
    shares = {name: stage.share for name, stage in found.stages.items()}
    assert shares == {"read": 0.02, "decode": 0.08, "preprocess": 0.1, "forward": 0.4}


def test_processes_add_up_and_one_that_was_not_measured_spoils_it() -> None:
    both = roof([MEASURED, MEASURED], 10.0)
    assert both is not None and (both.best_cells_per_s, both.share) == (40.0, 0.25)
    assert both.stages["forward"].limit_cells_per_s == 50.0 and both.stages["forward"].alone_ms == 80.0
    assert roof([MEASURED, manifest()], 10.0) is None
    assert roof([MEASURED], None) is None


def test_a_network_that_was_measured_is_said() -> None:
    far = manifest(roofline=Roofline(ALONE, LIMITS, read_bytes_per_s=1e9, best=20.0, over_network=True))
    found, near = roof([far], 10.0), roof([MEASURED], 10.0)
    assert found is not None and "1.00 GB/s of images over the network." in found.sentence
    assert near is not None and "network" not in near.sentence


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Its first cell cannot be decoded, which does not disturb the measurement."""
    return make_shard(tmp_path / "images/part_0.parquet", 6, "S1RTC", damage={(0, "vv"): b"broken"}).path


def test_a_measured_run_gives_the_same_bytes_and_a_report_with_limits(shard: Path, tmp_path: Path) -> None:
    command = ["--model", "rcf", "--fragment-size", "32", "--max-failures", "1", str(shard), "--output"]
    code, _, err = run([*command, str(tmp_path / "out"), "--roofline"])
    assert code == 3 and "at best" in err
    assert run([*command, str(tmp_path / "plain")])[0] == 3
    assert embeddings(tmp_path / "out") == embeddings(tmp_path / "plain")
    code, out, _ = run(["report", str(tmp_path / "out"), "--json"])
    found = json.loads(out)["roofline"]
    assert code == 0 and found["best_cells_per_s"] > 0 and found["read_bytes_per_s"] > 0
    stages = found["stages"]
    assert {*DECODE_STAGES, "preprocess", "forward"} <= stages.keys() <= {*DECODE_STAGES, *DEVICE_STAGES}
    assert all(stage["alone_ms"] > 0 and stage["share"] > 0 for stage in stages.values())
    assert "Limits of this machine" in run(["report", str(tmp_path / "out")])[1]
    assert json.loads(run(["report", str(tmp_path / "plain"), "--json"])[1])["roofline"] is None
