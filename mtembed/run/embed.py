"""One run from options to a finished dataset: resolve, lock, start the pipeline, keep the manifest."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mtembed import errors
from mtembed.archive.cell import DecodeJob
from mtembed.archive.selection import Selection, read_cell_list
from mtembed.archive.shards import fingerprint
from mtembed.config import RunConfig
from mtembed.dataset import readme
from mtembed.dataset.folder import Dataset, now, output_problem, read_json, write_atomically, write_json
from mtembed.dataset.manifest import describe, totals
from mtembed.dataset.part import WriteJob, read_facts, read_timings
from mtembed.dataset.settings import Settings, check_same, resolve
from mtembed.errors import MtembedError, OutputError, SettingsError, WorkerError
from mtembed.messages import DecodedBands, Fatal, Note, PrecisionCheck, WeightsFound, WorkerReady
from mtembed.models import weights
from mtembed.ring import Ring
from mtembed.run import process
from mtembed.run.decoder_choice import choose
from mtembed.run.pipeline import Crew, Pipeline, Work
from mtembed.run.plan import Plan, plan
from mtembed.run.process import Worker
from mtembed.run.progress import Progress
from mtembed.run.roofline import measure
from mtembed.run.sizes import Sizes, device_environment, sizes
from mtembed.run.worker import Job
from mtembed.types import RunSummary, Weights

MANIFEST_EVERY_S = 30.0
# Arrow's own allocator keeps for long what the writer needed for a moment.
WRITER_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
MOST_STARTS = 1000  # whose times the manifest keeps
Tick = Callable[[Progress], None]


class Run:
    """``execute`` embeds; ``stop`` (from a signal handler) ends it gracefully."""

    def __init__(self, plan: Plan, on_tick: Tick | None = None, on_note: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.on_tick = on_tick or (lambda progress: None)
        self.on_note = on_note or (lambda note: None)
        self.manifest: dict[str, Any] = {}
        self.shards: dict[str, dict[str, Any]] = {}
        self._pipeline: Pipeline | None = None
        self._stopping = False
        self._saved = 0.0
        self._began = 0.0
        self._seconds_before = 0.0

    def stop(self) -> None:
        self._stopping = True
        if self._pipeline:
            self._pipeline.stop()

    def execute(self) -> RunSummary:
        """Embed what is left.  Raises MtembedError; what was finished is safe whatever happens."""
        dataset = self.plan.dataset
        dataset.create()
        with dataset.locked():
            try:
                return self._locked()
            except OSError as error:
                raise OutputError(output_problem(dataset.root, error)) from error

    def _locked(self) -> RunSummary:
        plan, config = self.plan, self.plan.config
        if config.fresh:
            plan.dataset.clear([plan.shards[i].stem for i in plan.mine] if config.shard_count > 1 else None)
        started = time.monotonic()
        found = self._weights()
        settings = resolve(config, plan.spec, plan.source, found, (plan.earlier or {}).get("settings", {}))
        done = self._resume(settings)
        self.manifest |= describe(plan.spec, settings, (plan.first_cell.rows, plan.first_cell.cols))
        self.manifest["warnings"] = list(plan.warnings)
        self.manifest["complete"] = not set(plan.mine) - done.keys()
        self._began, self._seconds_before = time.monotonic(), self.manifest.get("seconds", 0.0)
        self._save()
        for warning in plan.warnings:
            self.on_note(warning)
        pipeline = None
        if set(plan.mine) - done.keys():
            pipeline = self._embed(settings, found, done)
        return self._finish(pipeline, time.monotonic() - started)

    # -- before -------------------------------------------------------------------------------------------------

    def _weights(self) -> Weights:
        """Weights are looked for in a process of their own: the publishing libraries load torch."""
        spec, option = self.plan.spec, self.plan.config.weights
        if option is not None or spec.published is None:
            return weights.resolve(spec, option)
        self.on_note(f"looking for {spec.published.file}")
        worker = process.start("fetch", "fetch-0", Job((), spec.name))
        try:
            message = worker.connection.recv()
        except EOFError:
            raise WorkerError(f"the weights could not be looked for: the process {worker.cause_of_death()}") from None
        finally:
            worker.close()
        if isinstance(message, Fatal):
            raise getattr(errors, message.error, MtembedError)(message.message)
        assert isinstance(message, WeightsFound)
        return message.weights

    def _resume(self, settings: Settings) -> dict[int, int]:
        """Shards that are done, with their number of selected cells.  Raises SettingsError if they do not fit."""
        plan, dataset = self.plan, self.plan.dataset
        folder = str(dataset.root)
        self.manifest = dict(plan.earlier or {"started": now(), "runs": 0, "devices": [], "notes": {}})
        if plan.earlier:
            check_same(settings, plan.earlier["settings"], folder)
        _check_siblings(dataset, settings, folder)
        self.manifest["runs"] += 1
        self.manifest["starts"] = [*self.manifest.get("starts", []), now()][-MOST_STARTS:]
        names = [path.name for path in plan.shards]
        if settings.limit is not None and plan.earlier and plan.earlier.get("input") != names:
            raise SettingsError(f"{folder} was made with --limit from other shards: name the same ones, or use --fresh")
        self.manifest["input"] = names if settings.limit is not None else None
        present = dataset.done_stems()
        recorded = self.manifest.get("shards", {})
        if present and not plan.earlier and dataset.count == 1:
            raise SettingsError(
                f"{folder} has parts but no manifest: choose another --output, or start over with --fresh"
            )
        self.shards = {stem: facts for stem, facts in recorded.items() if stem in present}
        done: dict[int, int] = {}
        for index, path in enumerate(plan.shards):
            if path.stem in present and (index in set(plan.mine) or settings.limit is not None):
                facts = self.shards.get(path.stem) or read_facts(dataset.timings(path.stem))
                _check_unchanged(path, facts)
                if index % dataset.count == dataset.index:
                    self.shards[path.stem] = facts
                if not (plan.config.retry_failed and facts["failed"]):
                    done[index] = facts["cells"] + facts["failed"]
        return done

    # -- the pipeline -------------------------------------------------------------------------------------------

    def _embed(self, settings: Settings, found: Weights, done: dict[int, int]) -> Pipeline:
        plan, config = self.plan, self.plan.config
        layout = sizes(plan, settings, found)
        rings = [Ring.create(layout.ring) for _ in range(layout.lanes)]
        try:
            work = Work(plan.shards, frozenset(plan.mine), done, settings.limit, config.retry_failed)
            crews = self._crews(settings, layout, rings)
            self._choose_decoder(settings, layout, rings, crews, [plan.shards[i] for i in plan.mine if i not in done])
            if config.roofline:
                self._measure_roofline(settings, layout, crews["decode"], [i for i in plan.mine if i not in done])
            self._pipeline = Pipeline(
                work,
                crews,
                [layout.ring.slots] * layout.lanes,
                check="precision_check" not in self.manifest["notes"],
                max_failures=config.max_failures,
                stall_timeout=config.stall_timeout,
                on_part=self._part_done,
                on_note=self._noted,
                on_tick=self._tick,
            )
            if self._stopping:
                self._pipeline.stop()
            self._pipeline.run()
            return self._pipeline
        finally:
            for ring in rings:
                ring.close()
            self._finish_files()

    def _choose_decoder(
        self, settings: Settings, layout: Sizes, rings: list[Ring], crews: dict[str, Crew], left: list[Path]
    ) -> None:
        """With GPUs: the decode workers leave to them what is faster decoded there."""
        choice = choose(self.plan, settings, layout, lambda: crews["decode"].start("decode-0", 0), left)
        for note in choice.notes:
            self.on_note(note)
        if choice.gpu:
            crews["decode"] = self._decode_crew(settings, rings, crews["decode"].count, choice.gpu)

    def _decode_crew(
        self, settings: Settings, rings: list[Ring], count: int, on_gpu: frozenset[str] = frozenset()
    ) -> Crew:
        plan, config = self.plan, self.plan.config
        shared = tuple((ring.fd, ring.shape) for ring in rings)
        decode = DecodeJob(
            plan.source, plan.spec.bands_for(plan.source), settings.fragment_size, settings.overlap,
            settings.border_shift, settings.offset == "remove", settings.max_nodata, settings.extras, on_gpu,
        )  # fmt: skip
        selection = Selection(config.bbox, read_cell_list(Path(config.cells)) if config.cells else None)
        metadata = Path(config.metadata) if config.metadata else None
        job = Job(shared, {"decode": decode, "metadata": metadata, "selection": selection})
        descriptors = [ring.fd for ring in rings]
        return Crew(lambda name, lane: process.start("decode", name, job, descriptors), count, 2)

    def _crews(self, settings: Settings, layout: Sizes, rings: list[Ring]) -> dict[str, Crew]:
        plan, config = self.plan, self.plan.config
        shared = tuple((ring.fd, ring.shape) for ring in rings)
        descriptors = [ring.fd for ring in rings]
        to_write = Job(
            shared,
            WriteJob(
                plan.dataset.root, plan.dataset.index, plan.dataset.count, plan.spec.dim, config.dtype, config.extras,
                settings.id,
            ),
        )  # fmt: skip

        def start_device(name: str, lane: int) -> Worker:
            job = layout.device_jobs[lane]
            return process.start("device", name, Job(shared, job), descriptors, device_environment(job))

        lock = plan.dataset.lock_fd
        counts = layout.crews
        self.manifest["workers"] = dataclasses.asdict(counts)
        return {
            "decode": self._decode_crew(settings, rings, counts.decode),
            "device": Crew(start_device, counts.device, layout.credit),
            "write": Crew(
                lambda name, lane: process.start("write", name, to_write, [*descriptors, lock], WRITER_ENVIRONMENT),
                counts.write,
                1,
            ),
        }

    def _measure_roofline(self, settings: Settings, layout: Sizes, crew: Crew, shards: list[int]) -> None:
        self.on_note("measuring what each stage can do alone")
        decoder = crew.start("decode-0", 0)
        try:
            found = measure(self.plan, settings, layout, decoder, shards)
        finally:
            decoder.close()
        self.manifest["roofline"] = found.as_json()
        self.on_note(f"at best {found.best:.3g} cells/s; mtembed report compares the run with that, stage by stage")

    def _part_done(self, facts: dict[str, Any]) -> None:
        self.shards[Path(facts["shard"]).stem] = facts

    def _noted(self, note: Note) -> None:
        """What was learnt of the run goes into the manifest, and what users should know to them."""
        notes = self.manifest["notes"]
        if isinstance(note, WorkerReady):
            self._remember("devices", note.device)
            self._remember("kernels", note.kernel)
            self.manifest["versions"] |= note.versions
        elif isinstance(note, PrecisionCheck):
            notes[note.name] = note.as_json()
        elif isinstance(note, DecodedBands):
            counts = notes.setdefault(note.name, {"gpu": 0, "cpu": 0})
            notes[note.name] = {where: counts[where] + bands for where, bands in note.as_json().items()}
        elif note.as_json() not in notes.setdefault(note.name, []) or note.name == "batch_halved":
            notes[note.name].append(note.as_json())
        if note.sentence():
            self.on_note(note.sentence())

    def _remember(self, name: str, value: str) -> None:
        """One more of a list in the manifest, each named once."""
        if value not in self.manifest.setdefault(name, []):
            self.manifest[name].append(value)

    def _tick(self, progress: Progress) -> None:
        if time.monotonic() - self._saved > MANIFEST_EVERY_S:
            self._save()
        self.on_tick(progress)

    # -- after --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.manifest["shards"] = dict(sorted(self.shards.items()))
        self.manifest["totals"] = totals(self.shards)
        if self._pipeline and self._pipeline.progress.done:
            self.manifest["seconds"] = round(self._seconds_before + time.monotonic() - self._began, 3)
            self.manifest["cells_per_s"] = round(self.manifest["totals"]["cells"] / self.manifest["seconds"], 4)
        write_json(self.plan.dataset.manifest_path, self.manifest)
        self._saved = time.monotonic()

    def _finish_files(self) -> None:
        """Manifest, failures and card as they stand; also after an error, as far as the folder still takes them."""
        try:
            self.manifest["ended"] = now()
            self.manifest["complete"] = self._pipeline is None or self._pipeline.finished
            self._save()
            write_atomically(self.plan.dataset.failures_path, _failures(self.plan.dataset, self.shards))
            write_atomically(self.plan.dataset.root / "README.md", readme.render(self.manifest))
        except OSError as error:
            if not self.plan.dataset.root.exists():
                return
            raise OutputError(output_problem(self.plan.dataset.root, error)) from error

    def _finish(self, pipeline: Pipeline | None, seconds: float) -> RunSummary:
        dataset, sums = self.plan.dataset, totals(self.shards)
        progress = pipeline.progress if pipeline else Progress()
        summary = RunSummary(
            str(dataset.root), self.plan.spec.name, self.plan.source, cells=sums["cells"], failed=sums["failed"],
            embeddings=sums["embeddings"], seconds=seconds, new_cells=progress.done, limiting_stage=progress.limiting,
        )  # fmt: skip
        if pipeline is None:
            summary.message = "nothing to do: every cell that was asked for is there already"
        if pipeline is not None and not pipeline.finished:
            summary.exit_code = 130
            summary.message = "interrupted; run the same command again to go on"
        elif sums["failed"]:
            summary.exit_code = 3
        if pipeline is None and not dataset.failures_path.exists():
            self._finish_files()
        return summary


def embed(shards: str | Path | Iterable[str | Path], model: str, **options: Any) -> RunSummary:
    """Embed Major TOM Core shards; the same as ``mtembed run``, without printing.

    ``shards`` are files, folders or globs; ``options`` are the fields of ``config.RunConfig``.  Works from notebooks
    and from scripts without a main guard.  Returns a RunSummary, also when some cells failed; raises MtembedError.
    """
    return Run(plan(RunConfig.of(shards, model=model, **options))).execute()


def _check_siblings(dataset: Dataset, settings: Settings, folder: str) -> None:
    """Other processes' manifests in a shared folder must have been made with the same settings."""
    for path in dataset.siblings():
        if path != dataset.manifest_path:
            check_same(settings, read_json(path)["settings"], folder)


def _check_unchanged(path: Path, facts: Mapping[str, Any]) -> None:
    """A finished shard by size and time stamp; only where the stamp differs is the footer read."""
    if not facts["size"]:
        return  # it could not be opened then
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (facts["size"], facts["mtime_ns"]):
        return
    if stat.st_size != facts["size"] or fingerprint(path, facts["rows"]).footer_sha256 != facts["footer_sha256"]:
        raise SettingsError(
            f"{path.name} has changed since it was embedded: choose another --output, or start over with --fresh"
        )


def _failures(dataset: Dataset, shards: Mapping[str, Mapping[str, Any]]) -> str:
    """``failures.jsonl``, derived from the timings of the shards that have any."""
    lines = []
    for stem in sorted(stem for stem, facts in shards.items() if facts["failed"]):
        for timing in read_timings(dataset.timings(stem))[0].values():
            if timing.status == "failed":
                names = ("shard", "row_group", "grid_cell", "product_id", "stage", "error")
                lines.append(json.dumps({name: getattr(timing, name) for name in names}, ensure_ascii=False) + "\n")
    return "".join(lines)
