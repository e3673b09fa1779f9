"""Fusion: nodes to mascons, and the causal features of mascon × month.

Public entry points, loaded when they are asked for.
"""

from importlib import import_module
from typing import Any

_ENTRY_POINTS = {
    "fuse_retrospective": "cryofuse.fusion.aggregate",
    "fuse_causal": "cryofuse.fusion.aggregate",
    "build_features": "cryofuse.fusion.features",
    "data_dictionary": "cryofuse.fusion.features",
    "feature_columns": "cryofuse.fusion.features",
    "feature_group": "cryofuse.fusion.features",
    "read_features": "cryofuse.fusion.features",
}
__all__ = list(_ENTRY_POINTS)


def __getattr__(name: str) -> Any:
    if name not in _ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ENTRY_POINTS[name]), name)
