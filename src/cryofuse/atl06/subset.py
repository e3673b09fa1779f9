"""All granules of a period cut to a region, in order of their names, and their ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cryofuse.altimetry import Span, load_product
from cryofuse.atl06.granule import Area
from cryofuse.atl06.ledger import LedgerRow, ledger_row
from cryofuse.compute import Run, run_serially
from cryofuse.logs import UserError
from cryofuse.tables import SEGMENTS

#: Unreadable files named in the error that stops a run.
_NAMED = 20


@dataclass(frozen=True)
class _Granule:
    """The files of one granule, best first: rows of its manifest."""

    files: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Return the name of the best file."""
        return str(self.files[0]["granule"])


def cut_granules(
    manifest: pa.Table,
    region: Area,
    max_unreadable_share: float = 1.0,
    product: str = "atl06",
    period: Span | None = None,
    run: Run = run_serially,
) -> Iterator[tuple[pa.Table, list[LedgerRow]]]:
    """Yield the segments of each granule of a manifest inside a region, and its ledger rows.

    Granules come in order of their names whatever the manifest's order, each sorted by beam,
    cycle and segment number. Where the file of the latest release cannot be read, the next one of
    the same granule is.

    Parameters
    ----------
    manifest
        Of contract MANIFEST.
    region
        Outline, CRS and tile size.
    max_unreadable_share
        Share of the granules that may be unreadable.
    product
        Altimetry product.
    period
        First instant, and first instant after it: of files that span more than one period the
        rows of this one are taken.
    run
        Who reads the granules; results do not depend on it.

    Raises
    ------
    UserError
        After the last granule, if more than that share could not be read: with their names.
    """
    source = load_product(product)
    granules: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in manifest.to_pylist():
        identity = source.parse_name(row["granule"]).identity
        granules.setdefault(identity, []).append(row)
    for files in granules.values():
        files.sort(key=lambda row: row["path"])
        files.sort(key=lambda row: source.parse_name(row["granule"]).rank, reverse=True)
        files.sort(key=lambda row: row["superseded_by"] is not None)
    tasks = sorted(map(_Granule, granules.values()), key=lambda granule: granule.name)
    cut = partial(_cut_first_readable, product=product, region=region, period=period)
    lost = []
    for granule, (table, ledger, readable) in zip(tasks, run(cut, tasks), strict=True):
        if not readable:
            lost.append(f"{granule.files[0]['path']}: {ledger[0]['reason']}")
        yield table, ledger
    if len(lost) > max_unreadable_share * len(granules):
        more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        raise UserError(
            f"{len(lost)} of {len(granules)} granules cannot be read, more than filters: "
            f"max_unreadable_share ({max_unreadable_share:g}); fetch them again or remove them: "
            + "; ".join(lost[:_NAMED])
            + more
        )


def _cut_first_readable(
    granule: _Granule, product: str, region: Area, period: Span | None
) -> tuple[pa.Table, list[LedgerRow], bool]:
    """Read the files of one granule, best first, until one can be read."""
    source = load_product(product)
    table, ledger, readable = SEGMENTS.empty(), [], False
    for row in granule.files:
        name = row["granule"]
        if readable:
            ledger.append(ledger_row(name, None, "acquire", "superseded", reason=row["reason"]))
        elif row["reason"] is not None and row["superseded_by"] is None:
            ledger.append(ledger_row(name, None, "acquire", "unreadable", reason=row["reason"]))
        else:
            table, found = source.read_granule(row["path"], region=region, period=period)
            readable = any(
                entry["filter"] != "unreadable" for entry in found if entry["beam"] is not None
            )
            ledger += found
    return _in_order(table), ledger, readable


def _in_order(table: pa.Table) -> pa.Table:
    """Return a granule's rows by beam, cycle and segment number; most files already are."""
    if table.num_rows == 0:
        return table
    beam = table["beam"].combine_chunks().indices.to_numpy().astype(np.int64)
    passes = (beam << 16) + table["cycle"].to_numpy()
    key = (passes << 32) + table["segment_id"].to_numpy()
    return table if (np.diff(key) > 0).all() else table.take(np.argsort(key, kind="stable"))
