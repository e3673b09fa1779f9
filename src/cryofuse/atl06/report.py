"""The filter report: what each step costs a region, period by period, from its ledgers."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

#: Period of the rows that hold the whole record.
WHOLE = "all"
#: Columns of the ledger that the report is made of.
LEDGER_COLUMNS = (
    "granule",
    "beam",
    "stage",
    "filter",
    "rows_in",
    "rows_removed",
    "rows_alone",
    "reason",
)
_STAGES = ("acquire", "subset", "filter")
#: What can befall a granule before its segments meet the filters, in the order in which it does.
#: A ledger names only what happened, so its own order would change from period to period.
_BEFORE_FILTERS = (
    "superseded",
    "unreadable",
    "name_mismatch",
    "no_beam",
    "no_segments",
    "outside_period",
    "read",
    "outside_region",
    "no_height",
    "incomplete",
    "duplicate_segment",
    "all_fill",
)
_COUNTS = ["granules", "beams", "beams_not_given", "rows_in", "rows_removed", "rows_alone"]


def report_filters(ledgers: Iterable[tuple[str, pa.Table]]) -> pd.DataFrame:
    """Return what every step of every period took away, and of the whole record.

    Ledgers are summed one by one, as they are asked for. Each period keeps the order in which
    its own filters ran; the whole record takes them in order of first appearance. A period
    without a granule has the row ``read``, with no row read.

    Parameters
    ----------
    ledgers
        Name and table LEDGER (at least LEDGER_COLUMNS) of every period, in any order.

    Returns
    -------
    pandas.DataFrame
        Of contract FILTER_REPORT: by period in order of names, the whole record last.

    Raises
    ------
    ValueError
        If a filter did not take up the rows that the step before it had left.
    """
    periods = {name: _sum_steps(ledger) for name, ledger in ledgers}
    parts = [periods[name].assign(period=name) for name in sorted(periods)]
    for part in parts:
        _check_chain(part)
    parts.append(_sum_periods(parts).assign(period=WHOLE))
    return pd.concat([_add_shares(part) for part in parts], ignore_index=True)


def _sum_steps(ledger: pa.Table) -> pd.DataFrame:
    """Return the counts of each step of one ledger, in the order in which they ran."""
    not_given = pc.equal(ledger["reason"], "not_given").fill_null(False)
    sums = (
        ledger.append_column("beams_not_given", not_given.cast(pa.int64()))
        # Without threads the groups come in order of first appearance.
        .group_by(["stage", "filter"], use_threads=False)
        .aggregate(
            [
                ("granule", "count_distinct"),
                ("beam", "count"),
                ("beams_not_given", "sum"),
                ("rows_in", "sum"),
                ("rows_removed", "sum"),
                ("rows_alone", "sum", pc.ScalarAggregateOptions(skip_nulls=False)),
            ]
        )
        .rename_columns(["stage", "filter", *_COUNTS])
    )
    steps = sums.to_pylist()
    if not any(step["filter"] == "read" for step in steps):
        none = dict.fromkeys(_COUNTS, 0)
        steps.append({"stage": "subset", "filter": "read", **none, "rows_alone": None})
    return _in_order(pd.DataFrame(steps).astype({"rows_alone": "Int64"}))


def _in_order(steps: pd.DataFrame) -> pd.DataFrame:
    """Return steps by stage, those before the filters in their own order."""
    place = {name: number for number, name in enumerate(_BEFORE_FILTERS)}
    ranks = [
        (_STAGES.index(stage), place.get(name, len(place)))
        for stage, name in zip(steps["stage"], steps["filter"], strict=True)
    ]
    # Sorting is stable: the filters stay as they come.
    return steps.iloc[sorted(range(len(ranks)), key=ranks.__getitem__)].reset_index(drop=True)


def _sum_periods(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the counts of each step over all periods; a row belongs to one of them."""
    steps = pd.concat(parts).groupby(["stage", "filter"], sort=False)[_COUNTS]
    return _in_order(steps.sum(skipna=False).reset_index())


def _rows_left(steps: pd.DataFrame) -> pd.Series:
    """Return the rows left after each step, of those read."""
    return _rows_read(steps) - steps["rows_removed"].cumsum()


def _rows_read(steps: pd.DataFrame) -> int:
    return int(steps.loc[steps["filter"] == "read", "rows_in"].sum())


def _check_chain(steps: pd.DataFrame) -> None:
    """Raise unless each filter took up what the step before it had left."""
    expected = _rows_left(steps) + steps["rows_removed"]
    wrong = steps.index[(steps["stage"] == "filter") & (steps["rows_in"] != expected)]
    if len(wrong):
        name, period, found = steps.loc[wrong[0], ["filter", "period", "rows_in"]]
        raise ValueError(
            f"the ledger of {period} does not add up: {name} took up {found} rows, the steps "
            f"before it left {expected[wrong[0]]}"
        )


def _add_shares(steps: pd.DataFrame) -> pd.DataFrame:
    """Return steps with their position and shares (%), null where there is nothing to share."""
    read, left = _rows_read(steps), _rows_left(steps)
    before = steps["stage"] != "filter"
    # Before the filters only beams that lost rows have a ledger row, yet all rows were there.
    rows_in = steps["rows_in"].mask(
        before & (steps["rows_removed"] > 0), left + steps["rows_removed"]
    )
    entered = read - int(steps.loc[before, "rows_removed"].sum())
    return steps.assign(
        position=range(1, len(steps) + 1),
        rows_in=rows_in,
        removed_percent=_percent(steps["rows_removed"], rows_in),
        alone_percent=_percent(steps["rows_alone"], entered),
        kept_percent=_percent(left, read),
    )


def _percent(part: pd.Series, whole: pd.Series | int) -> pd.Series:
    whole = pd.Series(whole, part.index, dtype="Float64")
    return 100 * part.astype("Float64") / whole.mask(whole == 0)
