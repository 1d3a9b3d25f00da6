"""``mtembed pca``: the components of datasets, and maps coloured by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from mtembed.cli.options import SPEECH, Fresh, Talk
from mtembed.cli.working import working

if TYPE_CHECKING:
    from mtembed.maps.result import PcaResult

FACTS = (
    "model", "dim", "n", "rows", "cells", "off_grid", "not_finite", "fragments", "gains", "channel_means",
    "clipped_fraction", "maps", "nothing_to_do",
)  # fmt: skip


def pca(
    datasets: Annotated[
        tuple[str, ...],
        Parameter(
            name="DATASET",
            negative=(),
            help="Folders of embeddings, or addresses; a glob or files are one dataset.",
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            help="Folder of the result (of several: one in it for each). Default: DATASET/pca; NAME-pca in the current "
            "folder where DATASET is no folder of this machine."
        ),
    ] = None,
    components: Annotated[int | None, Parameter(help="How many components to keep. Default: 3.")] = None,
    fragments: Annotated[
        Literal["central", "all"], Parameter(help="The fragment in the middle of each cell, or every row.")
    ] = "central",
    basis: Annotated[
        Path | None, Parameter(help="The pca.json of an earlier result: the same components and colours.")
    ] = None,
    scale: Annotated[
        Literal["gain", "gamma"] | None,
        Parameter(help="Equal channel means by dimming the brighter channels, or by a gamma of each. Default: gain."),
    ] = None,
    clip: Annotated[
        float | None,
        Parameter(help="Percent of a component's values that may saturate at either end. Default: 0."),
    ] = None,
    picture: Annotated[Path | None, Parameter(help="A PNG with the maps of all datasets side by side.")] = None,
    fresh: Fresh = False,
    talk: Talk = SPEECH,
) -> int:
    """Find the principal components of embeddings and draw maps coloured by them.

    Writes pca.json, components.parquet, map.tif and map.png, one colour for each cell of the grid; of maps of vectors
    (--dense) a GeoTIFF for each. The same command started again goes on where it was stopped.
    """
    from mtembed.dataset.finding import title_of
    from mtembed.maps.pca import pca as find
    from mtembed.maps.pca import side_by_side

    found: list[tuple[str, PcaResult]] = []
    for dataset, folder in _each(datasets, output):
        with working(talk) as tick:
            result = find(
                dataset, folder, components=components, fragments=fragments, basis=basis, scale=scale, clip=clip,
                fresh=fresh, tick=tick,
            )  # fmt: skip
        found.append((title_of(dataset if isinstance(dataset, str) else dataset[0]), result))
    if picture is not None:
        side_by_side(found, picture)
    facts = [_facts(result) for _, result in found]
    drawn = {} if picture is None else {"picture": str(picture)}
    only = facts[0] if len(facts) == 1 else {"datasets": facts}
    text = "\n".join(_text(name, result) for name, result in found)
    talk.show(text + (f"\n{picture}: the maps side by side" if drawn else ""), [{"event": "result", **only, **drawn}])
    return 0


def _each(datasets: Sequence[str], output: Path | None) -> list[tuple[str | list[str], Path | None]]:
    """The datasets that are meant, with the folder for each: folders are one each, files together are one."""
    from mtembed.dataset.finding import is_folder, title_of

    folders = [name for name in datasets if is_folder(name)]
    files = [name for name in datasets if name not in folders]
    meant: list[str | list[str]] = [*folders, *([files if len(files) > 1 else files[0]] if files else [])]
    if len(meant) == 1 or output is None:
        return [(name, output) for name in meant]
    names = [title_of(name if isinstance(name, str) else name[0]) for name in meant]
    unique = [name if names.count(name) == 1 else f"{name}-{i + 1}" for i, name in enumerate(names)]
    return [(name, output / last) for name, last in zip(meant, unique, strict=True)]


def _facts(result: PcaResult) -> dict[str, Any]:
    ratio = [float(share) for share in result.explained_variance_ratio]
    facts = {name: getattr(result, name) for name in FACTS}
    return {"output": str(result.output), "explained_variance_ratio": ratio, **facts}


def _text(name: str, result: PcaResult) -> str:
    """A few lines about a result."""
    from mtembed.text import counted, plural

    ratio = result.explained_variance_ratio
    shares = ", ".join(f"{share:.1%}" for share in ratio[:8])
    means = " ".join(f"{mean:.1f}" for mean in result.channel_means)
    drawn = f"{plural(result.maps, 'map')} drawn" if result.maps else f"{counted(result.cells)} drawn"
    files = "pca.json, a GeoTIFF of each map" if result.maps else "pca.json, components.parquet, map.tif, map.png"
    left = [
        *([f"{plural(result.not_finite, 'vector')} left out (NaN or infinite)"] if result.not_finite else []),
        *([f"{counted(result.off_grid)} left out (no names of the grid)"] if result.off_grid else []),
    ]
    lines = [
        f"{name}: {plural(len(ratio), 'component')} of {plural(result.n, 'vector')} of {result.dim} values "
        f"hold {ratio.sum():.1%} of the variance ({shares})",
        f"  {'; '.join([drawn, *left])}; channel means {means}; {result.clipped_fraction:.2%} clipped",
        f"  {result.output}: {files}" + (" were there: nothing to do" if result.nothing_to_do else ""),
    ]
    return "\n".join(lines)
