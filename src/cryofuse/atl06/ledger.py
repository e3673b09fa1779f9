"""Rows of the ledger: what every step took away, per granule and beam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cryofuse.tables import LEDGER

LedgerRow = dict[str, Any]


def ledger_row(
    granule: str,
    beam: str | None,
    stage: str,
    filter: str,  # noqa: A002  the column's name
    rows_in: int = 0,
    rows_removed: int = 0,
    *,
    rows_alone: int | None = None,
    reason: str | None = None,
) -> LedgerRow:
    """Return one row of the ledger, without its period.

    Parameters
    ----------
    granule, beam
        File name, and beam (None for a whole granule).
    stage
        ``acquire``, ``subset`` or ``filter``.
    filter
        Filter, or kind of event.
    rows_in, rows_removed, rows_alone
        Rows before, rows removed, and rows that the filter alone would remove.
    reason
        One line where something was not as expected.
    """
    return {
        "granule": granule,
        "beam": beam,
        "stage": stage,
        "filter": filter,
        "rows_in": rows_in,
        "rows_removed": rows_removed,
        "rows_alone": rows_alone,
        "reason": reason,
    }


def ledger_table(rows: Sequence[LedgerRow], period: str) -> pa.Table:
    """Return ledger rows of a period as a table of contract LEDGER."""
    columns: dict[str, list[Any]] = {"period": [period] * len(rows)}
    for name in LEDGER.columns:
        if name != "period":
            columns[name] = [row[name] for row in rows]
    return pa.table(columns, schema=LEDGER.schema)
