"""Where granules come from: a local folder or Earthdata; every source ends in a manifest."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["build_manifest", "list_local"]

_PLACES = {"build_manifest": "manifest", "list_local": "local"}


def __getattr__(name: str) -> Any:
    """Import an entry point when it is first asked for."""
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
