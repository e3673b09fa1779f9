"""Subglacial hydrology: active-lake candidates and inventories."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Lakes": "lakes",
    "find_lakes": "lakes",
    "match_inventory": "inventory",
    "read_inventory": "inventory",
}
__all__ = ["Lakes", "find_lakes", "match_inventory", "read_inventory"]  # noqa: F822


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"cryofuse.hydrology.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
