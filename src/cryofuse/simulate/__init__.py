"""The synthetic world: a known truth, and the granules and mascons that an observer would get."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "World": "world",
    "write_world": "world_files",
    "write_granules": "granules",
    "write_mascons": "mascons",
}
__all__ = ["World", "write_granules", "write_mascons", "write_world"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
