"""What elevation change says about mass: regimes, skill, explained variance, coupling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryofuse.learning.skill import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """Import the entry point when it is asked for (PEP 562)."""
    if name == "evaluate":
        from cryofuse.learning.skill import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
