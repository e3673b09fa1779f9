"""Products: figures, totals, comparisons with published series, the melt-season case study.

Names are imported on first use, so that a script that needs one module does not load the rest.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "base_map": "style",
    "compare_series": "totals",
    "read_reference": "reference",
    "sea_level_trends": "totals",
    "study_melt_seasons": "case_study",
    "sum_totals": "totals",
}

__all__ = [  # noqa: PLE0604  (names are resolved by __getattr__)
    "base_map",
    "compare_series",
    "read_reference",
    "sea_level_trends",
    "study_melt_seasons",
    "sum_totals",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
