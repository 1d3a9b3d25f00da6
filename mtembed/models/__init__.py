"""The registry: every file of this folder names its models in ``SPECS``, but those of ``_NOT_MODELS`` and networks.

Importing this package imports plain data only; torch comes with ``ModelSpec.build``.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from mtembed.errors import UsageError
from mtembed.models.base import ModelSpec

__all__ = ["ModelSpec", "get", "names"]

_NOT_MODELS = frozenset({"base", "check", "weights"})


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


def names() -> tuple[str, ...]:
    """Return the names of all models, those of one file together."""
    return tuple(_registry())


def get(name: str) -> ModelSpec:
    """Return the model of that name; raise ``UsageError`` naming the known ones if there is none."""
    try:
        return _registry()[name]
    except KeyError:
        known = ", ".join(names())
        raise UsageError(f"There is no model '{name}'; choose one of {known}.") from None
