"""Gravimetry: mascon solutions of three centres as two tables, and their footprints on ice.

Public entry points, loaded when they are asked for: :func:`read_mascons` (file to tables),
:func:`measure_ice`, :func:`select_mascons` and :func:`neighbours` (footprints).
"""

from importlib import import_module
from typing import Any

_ENTRY_POINTS = {
    "read_mascons": "cryofuse.mascons.read",
    "load_footprints": "cryofuse.mascons.footprints",
    "measure_ice": "cryofuse.mascons.footprints",
    "select_mascons": "cryofuse.mascons.footprints",
    "neighbours": "cryofuse.mascons.footprints",
}
__all__ = list(_ENTRY_POINTS)


def __getattr__(name: str) -> Any:
    if name not in _ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ENTRY_POINTS[name]), name)
