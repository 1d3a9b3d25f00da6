"""``mtembed pca``: principal components of a dataset, found in one pass, and the colours they give to the map.

The steps: choose the central fragments, add up moments file by file, find the components, project file by file, fix
the scale of the colours, write table, map and picture.  Each file that was added up or projected stays done when the
command is started again.  Files are taken in the order of their names, in whatever order they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event, Lock
from time import monotonic

from mtembed import __version__
from mtembed.dataset.atomic import output_problem, read_json
from mtembed.dataset.finding import Name, default_output
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.errors import OutputError, UsageError
from mtembed.maps import basis as bases
from mtembed.maps import result as records
from mtembed.maps import table as tables
from mtembed.maps.basis import CHANNELS, Basis, Colouring, Counts, Ranges, Scale
from mtembed.maps.central import cell_of_key, central_rows
from mtembed.maps.dense import DensePca
from mtembed.maps.map import Panel, draw
from mtembed.maps.moments import EXACT_ROWS, Accumulator, Moments
from mtembed.maps.parallel import in_order
from mtembed.maps.raster import CellColours, Integers, read_geotiff, write_geotiff
from mtembed.maps.result import Fragments, PcaResult, PcaSettings
from mtembed.types import Tick

RECORD, TABLE, RASTER, PICTURE = "pca.json", "components.parquet", "map.tif", "map.png"
STATE = "moments.npz"
SAVE_EVERY_S = 15.0
SMALL_STATE = 8 << 20  # bytes of moments that are saved after every file


def pca(
    dataset: Name | Sequence[Name],
    output: Name | None = None,
    *,
    components: int | None = None,
    fragments: Fragments = "central",
    basis: Name | None = None,
    scale: Scale | None = None,
    clip: float | None = None,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> PcaResult:
    """Find the principal components of a dataset of embeddings, colour its cells by them, write table and maps.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, or several of these that are one dataset.  Of maps of vectors
        (``--dense``) all vectors are used, and each map becomes a GeoTIFF of its own.
    output
        Folder of the result. Default: ``DATASET/pca`` for a folder here, ``NAME-pca`` for anything else.
    components
        How many; default 3.
    fragments
        ``central``: the fragment in the middle of each cell; ``all``: every row.
    basis
        The ``pca.json`` of an earlier result: its components and scale are used, and nothing is fitted.
    scale
        How the channels come to equal means: ``gain`` (default) dims the brighter ones, ``gamma`` bends each.
    clip
        Percent of a component's values at either end that may saturate; default 0.
    fresh
        Start over instead of resuming.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what cannot be done, OutputError for files that cannot be read or written, SettingsError where
    something else lies in the output folder.
    """
    wanted = records.settings(components, fragments, scale, clip, basis)
    opened = open_dataset(dataset, maps=None, tick=tick)
    folder = default_output(dataset, "pca") if output is None else Path(output)
    if opened.maps:
        given = None if basis is None else bases.read_basis(Path(basis))
        return DensePca(opened, folder, wanted, given, tick).run(fresh)
    opened.require(["grid_cell", "geometry"], "a map of cells")
    given = None if basis is None else records.basis_for(Path(basis), opened)
    return _Work(opened, folder, wanted, given, tick).run(fresh)


class _Work:
    """One start of the command."""

    def __init__(
        self,
        dataset: EmbeddingDataset,
        output: Path,
        settings: PcaSettings,
        given: tuple[Basis, Colouring] | None,
        tick: Tick,
    ) -> None:
        self.dataset, self.settings, self.given, self._tick = dataset, settings, given, tick
        files = dataset.files
        self.order = sorted(range(len(files)), key=lambda i: (files[i].name, files[i].mark.footer_sha256))
        sources = [files[number].source() for number in self.order]
        self.folder = ResultFolder(output, RECORD, (TABLE, RASTER, PICTURE), asdict(settings), sources)

    def run(self, fresh: bool) -> PcaResult:
        with self.folder.held(fresh) as folder:
            nothing_to_do = folder.finished
            if not nothing_to_do:
                self._make()
        return PcaResult.of(folder.root, folder.content(), nothing_to_do)

    def _make(self) -> None:
        central = central_rows(self.dataset, self.order, self._counting("choosing central fragments"))
        chosen: list[Integers | None] = [*central]
        if self.settings.fragments == "all":
            chosen = [None] * len(central)
        expected = self.dataset.rows if self.settings.fragments == "all" else sum(map(len, central))
        basis = self.given[0] if self.given else self._fit(chosen, expected)
        scores = self._project(basis, chosen)
        colouring = self.given[1] if self.given else self._colouring(scores)
        self._write(scores, basis, colouring, central, expected)

    def _counting(self, what: str, done: int = 0) -> Callable[[int], None]:
        """To be told of rows as they are read, by any thread; no two tell ``tick`` at once."""
        total, one_at_a_time = self.dataset.rows, Lock()

        def count(rows: int) -> None:
            nonlocal done
            with one_at_a_time:
                done += rows
                self._tick(what, done, total)

        self._tick(what, done, total)
        return count

    def _fit(self, chosen: Sequence[Integers | None], expected: int) -> Basis:
        """The components of the chosen rows, from where an earlier start came to."""
        done, moments = self._earlier()
        files = self.dataset.files
        count = self._counting("adding up", sum(files[number].rows for number in self.order[:done]))

        def add_up(i: int, stopped: Event) -> Moments:
            return self._moments(self.order[i], chosen[i], expected <= EXACT_ROWS, count, stopped)

        saved, last = monotonic(), len(self.order)
        for i, found in enumerate(in_order(add_up, range(done, last), together=last > 1), done + 1):
            moments = moments.merged(found)
            if moments.scatter.nbytes <= SMALL_STATE or monotonic() - saved > SAVE_EVERY_S or i == last:
                self._save(moments, i)
                saved = monotonic()
        return Basis.of(moments, self.settings.components, self.dataset.model)

    def _moments(
        self, number: int, rows: Integers | None, exact: bool, count: Callable[[int], None], stopped: Event
    ) -> Moments:
        """Of the chosen rows of a file."""
        found = Accumulator(self.dataset.dim, exact)
        if rows is None or len(rows):
            for batch in self.dataset.batches((), tables.batch_rows(self.dataset.dim), [number]):
                if stopped.is_set():
                    break
                if batch.vectors is not None:
                    inside = tables.selected(rows, batch.first_row, batch.rows)
                    found.add(batch.vectors if len(inside) == batch.rows else batch.vectors[inside])
                count(batch.rows)
        return found.result()

    def _earlier(self) -> tuple[int, Moments]:
        """How many files were added up already, and their moments."""
        path = self.folder.work / STATE
        try:
            moments, more = Moments.load(path)
            return int(more["done"]), moments
        except (OSError, ValueError, KeyError):  # none, or half a file of an earlier version
            return 0, Moments.empty(self.dataset.dim)

    def _save(self, moments: Moments, done: int) -> None:
        scratch = self.folder.work / f"{STATE}.tmp"
        with scratch.open("wb") as file:
            moments.save(file, done=done)
        scratch.replace(self.folder.work / STATE)

    def _project(self, basis: Basis, chosen: Sequence[Integers | None]) -> list[Path]:
        """A file of scores for each file, in order; what an earlier start wrote is kept."""
        paths = [self.folder.work / f"scores-{i:05d}.parquet" for i in range(len(self.order))]
        files = self.dataset.files
        count = self._counting("projecting")

        def project(i: int, stopped: Event) -> None:
            if paths[i].exists():
                count(files[self.order[i]].rows)
            else:
                tables.project(self.dataset, self.order[i], basis, chosen[i], paths[i], count, stopped)

        for _ in in_order(project, range(len(paths)), together=len(paths) > 1):
            pass
        return paths

    def _colouring(self, scores: Sequence[Path]) -> Colouring:
        """The scale that gives the channels equal means over all scores."""
        ranges = Ranges(min(CHANNELS, self.settings.components))
        for _, _, values in tables.parts(scores):
            ranges.add(values)
        counts = self._counts(scores, ranges.pairs())
        if self.settings.clip:
            counts = self._counts(scores, counts.within(self.settings.clip))
        return bases.balanced(counts, self.settings.scale or "gain")

    def _counts(self, scores: Sequence[Path], ranges: tuple[tuple[float, float], ...]) -> Counts:
        counts = Counts(ranges)
        for _, _, values in tables.parts(scores):
            counts.add(values)
        return counts

    def _write(
        self, scores: Sequence[Path], basis: Basis, colouring: Colouring, central: Sequence[Integers], expected: int
    ) -> None:
        """Table, map, picture, and last the record."""
        folder = self.folder
        self._tick("drawing", 0, 1)
        written = tables.write(scores, colouring, central, folder.work / TABLE)
        if not written.rows:
            raise UsageError(f"no vector of {self.dataset.name} is finite: nothing can be drawn")
        on_grid = written.keys >= 0
        rows, cols = cell_of_key(written.keys[on_grid])
        cells, outside = CellColours.of(rows, cols, written.colours[on_grid])
        content = {
            "mtembed": __version__,
            **bases.as_json(basis, colouring),
            "channel_means": [total / written.rows for total in written.sums],
            "clipped_fraction": written.clipped / (written.rows * colouring.channels),
            "fragments": self.settings.fragments,
            "rows": written.rows,
            "cells": len(cells),
            "off_grid": int((~on_grid).sum()) + outside,
            "not_finite": expected - written.rows,
        }
        if not len(cells):
            raise UsageError(
                f"no cell of {self.dataset.name} has a name of the Major TOM grid (454U_120R): nothing can be drawn"
            )
        tags = {"explained_variance_ratio": basis.ratio.tolist(), "fragments": self.settings.fragments}
        write_geotiff(folder.work / RASTER, cells, tags)
        draw([Panel.of(self.dataset.name, content, cells)], folder.work / PICTURE)
        for name in (TABLE, RASTER, PICTURE):
            folder.publish(folder.work / name)
        folder.record(content)
        self._tick("drawing", 1, 1)


def side_by_side(results: Sequence[tuple[str, PcaResult]], path: Path) -> None:
    """Write a PNG with the maps of several results, all of the same part of the earth.  Raises OutputError, and
    UsageError for results of maps of vectors.

    ``results`` are names of datasets with what came of them.
    """
    for name, result in results:
        if result.maps:
            raise UsageError(f"{name} holds maps, which have a picture each: leave --picture out")
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        contents = [(name, read_json(result.output / RECORD), result.output / RASTER) for name, result in results]
        panels = [Panel.of(name, content, read_geotiff(raster)) for name, content, raster in contents]
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(panels, scratch)
        scratch.replace(path)
    except OSError as error:
        raise OutputError(output_problem(path, error)) from error
