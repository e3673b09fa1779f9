"""Elevation change at nodes: robust surface fits, node months, tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryofuse.elevation.surface import fit_nodes

__all__ = ["fit_nodes"]


def __getattr__(name: str) -> Any:
    """Import a public entry point when it is first asked for."""
    if name == "fit_nodes":
        from cryofuse.elevation.surface import fit_nodes

        return fit_nodes
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
