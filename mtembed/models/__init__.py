"""The registry: every file of this folder names its models in ``SPECS``, but those of ``_NOT_MODELS`` and networks.

Other packages add theirs by entry points of the group ``mtembed.models``, each a module with ``SPECS``; cards add
networks of timm and open_clip.  Importing this package imports plain data only; torch comes with ``ModelSpec.build``.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from mtembed.errors import UsageError
from mtembed.models.base import ModelSpec, is_custom
from mtembed.models.dense import mapped

__all__ = ["ModelSpec", "get", "mapped", "names", "origin"]

GROUP = "mtembed.models"
_NOT_MODELS = frozenset({"base", "card", "check", "custom", "dense", "weights"})
log = logging.getLogger(__name__)


@cache
def _registry() -> dict[str, ModelSpec]:
    found: dict[str, ModelSpec] = {}
    for module in sorted(entry.name for entry in iter_modules(__path__)):
        if module in _NOT_MODELS or module.startswith("networks"):
            continue
        for spec in import_module(f"{__name__}.{module}").SPECS:
            if spec.name in found:
                raise ValueError(f"two models are named '{spec.name}'; the second is in models/{module}.py")
            found[spec.name] = spec
    return found


@cache
def _plugins() -> dict[str, tuple[ModelSpec, str]]:
    """Models of other packages, each with its package and version; what cannot be used is left out with a warning."""
    found: dict[str, tuple[ModelSpec, str]] = {}
    for entry in entry_points(group=GROUP):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            specs = tuple(entry.load().SPECS)
        except Exception as error:  # code of others
            log.warning("the models of %s cannot be used (%s: %s)", package, type(error).__name__, error)
            continue
        for spec in specs:
            if isinstance(spec, ModelSpec) and spec.name not in (*_registry(), *found) and not is_custom(spec.name):
                found[spec.name] = spec, package
            else:
                log.warning("%s names the model %r, which is no ModelSpec or whose name is taken", package, spec)
    return found


def names() -> tuple[str, ...]:
    """Return the names of all models, those of one file together, those of other packages last."""
    return (*_registry(), *_plugins())


def get(name: str, card: str | None = None) -> ModelSpec:
    """Return the model of that name, or that of a card (a TOML file, or its JSON as a manifest keeps it).

    Raises ``UsageError`` naming the known ones if there is none, and for a card that cannot be used.
    """
    if is_custom(name) or card is not None:
        return _of_card(name, card)
    if name in _registry():
        return _registry()[name]
    if name in _plugins():
        return _plugins()[name][0]
    known = ", ".join(names())
    raise UsageError(
        f"There is no model '{name}'; choose one of {known}, or describe a network of timm or open_clip in a file "
        "(timm:NAME with --model-card FILE.toml)."
    )


def _of_card(name: str, card: str | None) -> ModelSpec:
    if name in _registry():
        raise UsageError(f"{name} is a model with a record of its own: leave --model-card out.")
    from mtembed.models.custom import model  # the library that reads cards is not on a bare machine (bench.gpu)

    found = model(name, card)
    if found.name in names():
        raise UsageError(f"The card's name '{found.name}' is that of another model: give the card another name.")
    return found


def origin(spec: ModelSpec) -> str:
    """Where a model comes from: ``mtembed``, another package and its version, or a card."""
    if spec.card:
        return "card"
    return _plugins()[spec.name][1] if spec.name in _plugins() else "mtembed"
