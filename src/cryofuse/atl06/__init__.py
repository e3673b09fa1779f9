"""ICESat-2 ATL06: the granule reader, the segment filters and their ledger."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Area", "apply_filters", "read_granule"]

_PLACES = {"Area": "granule", "apply_filters": "quality", "read_granule": "granule"}


def __getattr__(name: str) -> Any:
    """Import an entry point when it is first asked for."""
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
