"""mtembed: turn Earth-observation archives in Major TOM layout into embeddings.

``embed`` runs the pipeline and returns a ``RunSummary``; ``pca`` finds the principal components of what came of it,
draws maps, and returns a ``PcaResult``; ``search`` finds rows like a query, through what ``index`` built.  Every error
they raise is an ``MtembedError``.  Importing this package imports nothing but the standard library: the public names
are fetched when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtembed.conversion.convert import ConvertResult, convert
    from mtembed.conversion.merge import MergeResult, merge
    from mtembed.dataset.joint import FinishResult, finish
    from mtembed.dataset.push import PushResult, push
    from mtembed.errors import MtembedError
    from mtembed.evaluation.evaluate import evaluate
    from mtembed.evaluation.predict import Prediction, predict
    from mtembed.evaluation.result import Evaluation
    from mtembed.maps.pca import pca
    from mtembed.maps.result import PcaResult
    from mtembed.report.status import Status, status
    from mtembed.run.embed import embed
    from mtembed.run.mirror import FetchResult, fetch
    from mtembed.similarity.index import index
    from mtembed.similarity.result import Hit, IndexResult, SearchResult
    from mtembed.similarity.search import search
    from mtembed.types import RunSummary

__version__ = "0.1.0"

# In a checkout that is not installed, `kernels/` lies beside this folder and not inside it.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "setup.cfg").is_file() and (_CHECKOUT / "kernels").is_dir():
    __path__.append(str(_CHECKOUT))

__all__ = [
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

_HOMES = {
    "ConvertResult": "mtembed.conversion.convert",
    "Evaluation": "mtembed.evaluation.result",
    "FetchResult": "mtembed.run.mirror",
    "FinishResult": "mtembed.dataset.joint",
    "Hit": "mtembed.similarity.result",
    "IndexResult": "mtembed.similarity.result",
    "MergeResult": "mtembed.conversion.merge",
    "MtembedError": "mtembed.errors",
    "PcaResult": "mtembed.maps.result",
    "Prediction": "mtembed.evaluation.predict",
    "PushResult": "mtembed.dataset.push",
    "RunSummary": "mtembed.types",
    "Status": "mtembed.report.status",
    "SearchResult": "mtembed.similarity.result",
    "convert": "mtembed.conversion.convert",
    "embed": "mtembed.run.embed",
    "evaluate": "mtembed.evaluation.evaluate",
    "fetch": "mtembed.run.mirror",
    "finish": "mtembed.dataset.joint",
    "index": "mtembed.similarity.index",
    "merge": "mtembed.conversion.merge",
    "pca": "mtembed.maps.pca",
    "predict": "mtembed.evaluation.predict",
    "push": "mtembed.dataset.push",
    "search": "mtembed.similarity.search",
    "status": "mtembed.report.status",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
