"""mtembed: turn Earth-observation archives in Major TOM layout into embeddings."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# In a checkout that is not installed, `kernels/` lies beside this folder and not inside it.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "setup.cfg").is_file() and (_CHECKOUT / "kernels").is_dir():
    __path__.append(str(_CHECKOUT))

__all__ = ["__version__"]
