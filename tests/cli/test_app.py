"""The command line: exit codes, one-sentence errors, where options come from, what is printed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtembed import models
from mtembed.cli import app
from mtembed.cli.demo import SAMPLE
from mtembed.config import RunConfig
from mtembed.dataset.settings import Settings
from mtembed.errors import SettingsError, UsageError, WorkerError
from mtembed.run.dryrun import Estimate, Trial, estimate
from mtembed.run.plan import Plan, plan
from mtembed.run.sizes import Sizes
from tests.tools.commands import ROOT, run
from tests.tools.shards import make_shard, write_metadata

Parsed = Callable[..., RunConfig]
SMALL = ("--model", "rcf", "--fragment-size", "32")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of two small cells each, with metadata."""
    folder = tmp_path_factory.mktemp("Core-S2L1C")
    made = [make_shard(folder / "images" / f"part_0000{i}.parquet", 2, side=48) for i in (1, 2)]
    write_metadata(folder / "metadata.parquet", made)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """``mtembed ARGUMENTS`` in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app.main([str(word) for word in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parsed:
    """The RunConfig that arguments, environment and file amount to."""
    monkeypatch.chdir(tmp_path)

    def parsed(*arguments: str) -> RunConfig:
        _, bound = app.parsed(list(arguments))
        config: RunConfig = bound.arguments["config"]
        return config

    return parsed


# -- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "rcf", "--no-such-option", "x"), "--no-such-option"),
        (("--model", "rcf"), "shards"),
        (("shard.parquet",), "--model"),
        (("--model", "rcf", "missing.parquet"), "missing.parquet"),
        (("--model", "rcf", "no/*.parquet"), "no/*.parquet"),
        (("--model", "rcf", "--overlap", "1", "x"), "--overlap"),
        (("--model", "rcf", "--batch", "many", "x"), "--batch"),
        (("--model", "rcf", "--precision", "fp8", "x"), "fp8"),
        (("--model", "rcf", "--bbox", "1,2,3", "x"), "--bbox"),
        (("--model", "rcf", "--bbox", "0,50,10,40", "x"), "--bbox"),
        (("--model", "rcf", "--shard-index", "2", "--shard-count", "2", "x"), "--shard-index"),
        (("demo", "--no-such-option"), "--no-such-option"),
        (("models", "--check", "resnet"), "resnet"),
        (("reprot", "folder"), "did you mean report?"),
        (("frobnicate",), "no command and no file"),
        (("--model", "rcf", "--device", "gpu", "x"), '"cuda"'),
        (("--model", "rcf", "--gpus", "first", "x"), "0,1, or all"),
        (("--model", "rcf", "--limit", "2.5", "x"), "2.5 is not a whole number"),
        (("--model", "rcf", "--overlap", "nan", "x"), "give a number"),
        (("--model", "rcf", "--output"), "--output has no value"),
        (("--model", "rcf", "--output", "https://host/vectors", "x"), "takes no files"),
        (("verify", "--shards", "in", "out"), "put it before the options"),
        (("shard.parquet",), "ssl4eo-s1"),
    ],
)
def test_usage_errors_are_one_sentence_with_the_subject(call: Any, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("mtembed: ")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("extra", [("--cells", "none.txt"), ("--metadata", "none.parquet"), ("--weights", "none.pth")])
def test_named_inputs_must_exist(call: Any, archive: Path, extra: tuple[str, str]) -> None:
    words: tuple[str | Path, ...] = (*SMALL, archive)
    if extra[0] == "--weights":
        words = ("--model", "ssl4eo-s2", SAMPLE / "Core-S2L1C")
    code, _, err = call(*words, *extra)
    assert code == 2
    assert extra[1] in err


def test_an_unknown_model_is_answered_with_the_known_ones(call: Any, archive: Path) -> None:
    code, _, err = call("--model", "resnet", archive)
    assert code == 2
    assert "resnet" in err and all(name in err for name in models.names())


def test_a_model_without_its_bands_is_refused_with_what_it_needs(call: Any, archive: Path) -> None:
    code, _, err = call("--model", "ssl4eo-s1", "--weights", "random:0", archive)
    assert code == 2
    assert "vv" in err and "S2L1C" in err


def test_two_inputs_of_one_stem_are_refused_by_name(call: Any, archive: Path, tmp_path: Path) -> None:
    other = make_shard(tmp_path / "elsewhere" / "part_00001.parquet", 1, side=48).path
    code, _, err = call(*SMALL, archive, other)
    assert code == 2
    assert str(other) in err and str(archive / "images" / "part_00001.parquet") in err


def test_verbose_shows_where_an_error_came_from(call: Any) -> None:
    code, _, err = call("--model", "rcf", "--verbose", "missing.parquet")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("mtembed: ")


def test_errors_are_json_on_request(call: Any) -> None:
    code, out, err = call("--model", "rcf", "--json", "missing.parquet")
    event = json.loads(out)
    assert (code, event["event"], event["exit_code"]) == (2, "error", 2)
    assert event["message"] in err


@pytest.mark.parametrize("source", ["environment", "file", "word"])
def test_how_errors_are_told_may_come_from_anywhere(
    call: Any, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", "rcf", "missing.parquet"]
    if source == "environment":
        monkeypatch.setenv("MTEMBED_JSON", "true")
    elif source == "file":
        (tmp_path / "mtembed.toml").write_text("json = true\n")
    else:
        words.append("--json")
    code, out, err = call(*words)
    assert (code, json.loads(out)["exit_code"]) == (2, 2) and "missing.parquet" in err
    code, out, err = call("--model", "rcf", "--no-such-option", *(["--json"] if source == "word" else []))
    assert json.loads(out)["event"] == "error" and "--no-such-option" in err


def test_the_bare_name_shows_how_to_begin(call: Any) -> None:
    code, out, err = call()
    assert (code, out) == (2, "") and "mtembed demo" in err and len(err.splitlines()) < 12


def test_help_is_a_command_too(call: Any) -> None:
    code, out, _ = call("help", "demo")
    assert code == 0 and "--fresh" in out
    assert call("help")[1] == call("--help")[1]


def test_help_groups_options_and_names_no_default_of_a_switch(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("--help")
    assert "[default: False]" not in out and "[default: None]" not in out
    heads = ("Where from, where to", "What is computed", "Which cells", "Speed", "What is printed")
    assert [out.index(head) for head in heads] == sorted(out.index(head) for head in heads)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_command_begins_its_help_with_its_line_in_the_list(name: str) -> None:
    function = getattr(importlib.import_module(f"mtembed.cli.{name}"), name)
    assert inspect.getdoc(function).splitlines()[0] == app.COMMANDS[name]


def test_what_nobody_thought_of_is_one_sentence(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are no MtembedError, from a command's function."""
    for error, words in (
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (RecursionError("too deep"), "fault of mtembed (RecursionError: too deep)"),
        (MemoryError(), "not enough memory"),
    ):
        monkeypatch.setattr("mtembed.check.shard.inspect", raising(error))
        code, out, err = call("inspect", "file")
        assert (code, out, len(err.splitlines())) == (1, "", 1) and words in err


def test_no_folder_for_temporary_files_names_the_variable(
    call: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/no-such-folder"])
    code, _, err = call(*SMALL, archive)
    assert (code, len(err.splitlines())) == (1, 1) and "TMPDIR" in err


def raising(error: Exception) -> Callable[..., None]:
    def function(*arguments: object) -> None:
        raise error

    return function


# -- where options come from ----------------------------------------------------------------------------------------


def test_the_word_run_may_be_left_out(configured: Parsed) -> None:
    arguments = ("--model", "rcf", "--limit", "3", "a", "b")
    assert configured(*arguments) == configured("run", *arguments)


def test_comma_separated_values(configured: Parsed) -> None:
    config = configured("--model", "rcf", "--bbox", "-10.5,-20,30,40", "--gpus", "0,2", "./x")
    assert config.bbox == (-10.5, -20.0, 30.0, 40.0)
    assert config.gpus == (0, 2)
    assert configured("--model", "rcf", "--bbox=170,-20,-170,0", "--gpus=1", "./x").gpus == (1,)


def test_flags_and_their_opposites(configured: Parsed) -> None:
    config = configured("--model", "rcf", "--no-border-shift", "--extras", "./x")
    assert (config.border_shift, config.extras, config.fresh) == (False, True, False)


def test_options_from_the_environment(configured: Parsed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL": "siglip", "BBOX": "-1,2,3,4", "GPUS": "0,1", "EXTRAS": "1", "LIMIT": "7"}.items():
        monkeypatch.setenv(f"MTEMBED_{name}", value)
    config = configured("./x")
    assert (config.model, config.bbox, config.gpus, config.extras, config.limit) == (
        "siglip", (-1.0, 2.0, 3.0, 4.0), (0, 1), True, 7,
    )  # fmt: skip
    assert configured("--model", "rcf", "./x").model == "rcf"


def test_options_from_the_file(configured: Parsed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'model = "dinov2"\nbbox = [-1, 2.5, 3, 4]\nfragment-size = 28\n[demo]\noutput = "elsewhere"\n'
    (tmp_path / "mtembed.toml").write_text(text)
    for words in (("./x",), ("run", "./x")):
        config = configured(*words)
        assert (config.model, config.bbox, config.fragment_size) == ("dinov2", (-1.0, 2.5, 3.0, 4.0), 28)
    monkeypatch.setenv("MTEMBED_MODEL", "siglip")
    assert configured("./x").model == "siglip"
    assert configured("--model", "rcf", "./x").model == "rcf"


def test_a_misspelt_key_of_the_file_is_an_error(call: Any, tmp_path: Path) -> None:
    (tmp_path / "mtembed.toml").write_text('model = "rcf"\nlimt = 1\n')
    code, _, err = call("./x")
    assert code == 2
    assert "limt" in err


def test_the_file_may_begin_with_a_byte_order_mark(configured: Parsed, tmp_path: Path) -> None:
    (tmp_path / "mtembed.toml").write_bytes(b'\xef\xbb\xbfmodel = "dinov2"\r\nlimit = 3\r\n')
    assert configured("./x").limit == 3


def test_a_table_of_the_command_run_is_read_as_the_top_level(configured: Parsed, tmp_path: Path) -> None:
    (tmp_path / "mtembed.toml").write_text('model = "rcf"\n[run]\nlimit = 3\n')
    assert configured("./x").limit == configured("run", "./x").limit == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model = rcf\n", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("model = 'rcf'\nlimit = 2.5\n", "2.5 is not a whole number"),
        ("model = 'rcf'\n[demmo]\noutput = 'x'\n", "did you mean demo?"),
        ("demo = 3\n", "write its options under [demo]"),
        ("limt = 1\n", "limt"),
        ("model = 'nosuch'\n", "nosuch"),
        ("model = 'rcf'\noverlap = 2\n", "--overlap 2"),
    ],
)
def test_what_is_wrong_with_the_file_names_it(call: Any, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mtembed.toml").write_text(content)
    code, _, err = call("./x.parquet")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "mtembed.toml" in err and words in err


def test_a_variable_that_is_no_option_is_named(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEMBED_MODLE", "rcf")
    code, _, err = call("models")
    assert code == 0 and "MTEMBED_MODLE is not an option: did you mean MTEMBED_MODEL?" in err
    assert call("models", "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ouput": "y"}, "did you mean output?"),
        ({"limit": "3"}, "--limit '3'"),
        ({"limit": True}, "--limit True"),
        ({"bbox": (1, 2, 3)}, "--bbox (1, 2, 3)"),
        ({"precision": "float16"}, "one of auto, fp32, bf16, fp16"),
        ({"overlap": float("nan")}, "--overlap nan"),
        ({"fresh": 1}, "True or False"),
        ({"model": None}, "--model None"),
    ],
)
def test_options_of_a_wrong_type_are_usage_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunConfig.of("x", **{"model": "rcf", **options})
    assert words in str(caught.value)


def test_python_callers_may_give_paths_and_lists() -> None:
    made = RunConfig.of([Path("a"), "b"], model="rcf", output=Path("o"), bbox=[1, 2, 3, 4], gpus=[0])
    assert made == RunConfig(("a", "b"), model="rcf", output="o", bbox=(1, 2, 3, 4), gpus=(0,))


# -- what is printed ------------------------------------------------------------------------------------------------


def test_help_imports_no_heavy_library() -> None:
    script = (
        "import sys\nfrom mtembed.cli.app import main\n"
        "try: main(['--help'])\nexcept SystemExit as ended: assert not ended.code\n"
        "heavy = {'numpy', 'torch', 'pyarrow', 'rasterio', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout and "--model" in done.stdout


def test_a_run_prints_json_events(archive: Path, tmp_path: Path) -> None:
    code, out, err = run([*SMALL, "--json", "--output", str(tmp_path / "out"), str(archive)])
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "end"
    assert (events[-1]["cells"], events[-1]["failed"], events[-1]["exit_code"]) == (4, 0, 0)


def test_models_are_listed(call: Any) -> None:
    code, out, _ = call("models")
    assert code == 0
    assert all(name in out for name in models.names())
    code, out, _ = call("models", "--json")
    facts = [json.loads(line) for line in out.splitlines()]
    assert [fact["name"] for fact in facts] == list(models.names())
    assert all({"bands", "size", "dim", "weights", "licence"} <= fact.keys() for fact in facts)


def test_a_model_can_be_checked(call: Any) -> None:
    code, out, _ = call("models", "--check", "rcf")
    assert code == 0
    assert "It behaves." in out
    code, out, _ = call("models", "--check", "ssl4eo-s1", "--weights", "random:3", "--json")
    result = json.loads(out)
    assert (code, result["behaves"], result["random"], result["weights"]) == (0, True, True, "random:3")
    assert [image["image"] for image in result["images"]] == ["black", "grey", "white"]


def test_weights_that_cannot_be_had_stop_with_1(call: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    code, _, err = call("models", "--check", "ssl4eo-s2", "--weights", tmp_path / "broken.pth")
    assert code == 1
    assert "broken.pth" in err and len(err.splitlines()) == 1


def test_a_reader_that_leaves_early_is_no_error_message() -> None:
    script = f"{sys.executable} -m mtembed models --json | head -c 1"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


# -- a dry run ------------------------------------------------------------------------------------------------------


def dry(*shards: str | Path, trial: Trial = lambda plan, settings, sizes: 1.0, **options: Any) -> Estimate:
    """The estimate of a dry run; unless named, the trial takes a second a cell."""
    options = {"model": "rcf", "fragment_size": 32, **options}
    return estimate(plan(RunConfig(tuple(map(str, shards)), **options)), trial=trial)


def test_a_dry_run_counts_times_and_writes_nothing(call: Any, archive: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(*SMALL, "--dry-run", "--json", "--output", "out", archive)
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["shards"], facts["cells"], facts["done"], facts["fragments_per_cell"]) == (2, 4, 0, 4)
    assert facts["fits"] and 0 < facts["output_bytes"] < facts["free_bytes"]
    assert facts["cells_per_s"] > 0 and facts["seconds"] == pytest.approx(4 / facts["cells_per_s"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_selects_as_a_run_does(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("433D_629L\n")
    assert dry(archive, cells=str(tmp_path / "wanted.txt")).cells == 2
    assert dry(archive, limit=3).cells == 3
    assert dry(archive, limit=3, shard_count=2, shard_index=1).cells == 1
    with pytest.raises(UsageError, match="no cell lies in 0,0,1,1"):
        dry(archive, bbox=(0.0, 0.0, 1.0, 1.0))


def test_a_dry_run_tells_how_far_it_is(archive: Path) -> None:
    told: list[tuple[int, int]] = []
    config = RunConfig((str(archive),), model="rcf", fragment_size=32)
    estimate(plan(config), lambda done, total: told.append((done, total)), lambda plan, settings, sizes: 1.0)
    assert told == [(1, 2), (2, 2)]


def test_a_dry_run_names_shards_that_cannot_be_used(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    make_shard(tmp_path / "q_narrow.parquet", 1, side=48, bands=("B10", "B04"))
    found = dry(archive, tmp_path / "torn.parquet", tmp_path / "q_narrow.parquet")
    assert found.cells == 4
    assert found.unusable.keys() == {"torn.parquet", "q_narrow.parquet"}
    assert "B01" in found.unusable["q_narrow.parquet"]
    assert all(reason in found.text() for reason in found.unusable.values())


def test_a_dry_run_without_a_trial_says_so(archive: Path) -> None:
    def broken(plan: Plan, settings: Settings, sizes: Sizes) -> float:
        raise WorkerError("the device worker was killed by SIGKILL")

    found = dry(archive, trial=broken)
    assert found.seconds is None
    assert "killed by SIGKILL" in found.text()


def test_the_estimate_says_whether_the_disk_has_room(archive: Path) -> None:
    found = dataclasses.replace(dry(archive), cells=10, done=4, output_bytes=600, working_bytes=500, free_bytes=1100)
    assert (found.left, found.fits) == (6, True)
    found = dataclasses.replace(found, free_bytes=1099)
    assert not found.fits
    assert "DOES NOT FIT" in found.text()


def test_a_dry_run_knows_what_is_done_and_what_would_be_refused(archive: Path, tmp_path: Path) -> None:
    output, first = str(tmp_path / "out"), str(archive / "images" / "part_00001.parquet")
    assert run([*SMALL, "--output", output, first])[0] == 0
    found = dry(archive, output=output)
    assert (found.cells, found.done, found.left) == (4, 2, 2)
    with pytest.raises(SettingsError, match="overlap"):
        dry(archive, output=output, overlap=0.5)
