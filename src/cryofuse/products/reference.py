"""Published mass and volume series: each file to one series of months.

Every reader takes a path and returns a :class:`Reference`. Signs: mass gain and thickening are
positive. What a reader leaves out it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import TIME_DTYPE, add_months, month_middle, to_month
from cryofuse.logs import UserError

if TYPE_CHECKING:
    from cryofuse.config import ReferenceSeries

#: Largest distance of an ATL15 epoch from the first of the month it stands for.
_EPOCH_TOLERANCE = np.timedelta64(5, "D")


@dataclass(frozen=True)
class Reference:
    """A published series.

    Attributes
    ----------
    title
        Name in tables and legends.
    quantity
        ``mass`` (Gt) or ``volume`` (km³).
    stamp
        ``month``: values are means of calendar months (or of a solution that stands for one);
        ``instant``: values hold at ``time``.
    frame
        Columns month (first day), time (UTC), value, sigma (1σ, null where the file has none),
        sorted, one row per month.
    dropped
        Rows left out, by reason.
    cumulative
        Whether σ is that of the sum since the series' beginning, and grows with it.
    """

    title: str
    quantity: str
    stamp: str
    frame: pd.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)
    cumulative: bool = False


def ice_sheet_of(crs: str) -> str:
    """Return the ice sheet whose rows a region takes from files that hold both.

    A projected CRS that is used south of the equator is Antarctica's.
    """
    from pyproj import CRS

    use = CRS.from_user_input(crs).area_of_use
    return "antarctica" if use is not None and use.north < 0 else "greenland"


def read_reference(series: ReferenceSeries, ice_sheet: str = "greenland") -> Reference:
    """Read a reference series in the layout that the configuration names.

    Parameters
    ----------
    series
        File, format (jpl, imbie, mankoff, atl15) and optional title.
    ice_sheet
        ``greenland`` or ``antarctica``: which one to take from a file that holds both.

    Raises
    ------
    UserError
        If the file is missing or has another layout.
    """
    path = Path(series.file)
    if not path.is_file():
        raise UserError(f"reference_series: no file {path}; correct `file` or remove the series")
    readers: dict[str, Callable[[Path], Reference]] = {
        "jpl": read_jpl_text,
        "imbie": read_imbie,
        "mankoff": read_mankoff,
        "atl15": lambda p: read_atl15_volume(p, ice_sheet),
    }
    try:
        found = readers[series.format](path)
    except KeyError as error:
        raise UserError(_other_layout(path, series.format, f"no column {error}")) from None
    except (ValueError, IndexError) as error:
        raise UserError(_other_layout(path, series.format, str(error))) from None
    return replace(found, title=series.title) if series.title else found


def _other_layout(path: Path, layout: str, why: str) -> str:
    """Return one line that says why a file cannot be read."""
    why = " ".join(why.split())
    return (
        f"reference_series: {path} is not in the layout {layout!r} ({why}); "
        "correct `format` or the file"
    )


def read_references(given: Sequence[ReferenceSeries], ice_sheet: str) -> list[Reference]:
    """Read every reference series of a region; no two may share a title.

    Raises
    ------
    UserError
        If a file cannot be read, or a title comes twice.
    """
    found = [read_reference(series, ice_sheet) for series in given]
    titles = [reference.title for reference in found]
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(
                f"reference_series: {titles.count(title)} series have the title {title!r}; "
                "give each a `title` of its own"
            )
    return found


def sigma_since(reference: Reference, start: np.datetime64) -> pd.DataFrame:
    """Return a series' frame with σ as it is relative to its value at a month.

    The σ of a cumulative sum grows from the series' own beginning: between two months it is the
    root of the difference of their variances. Other series are returned as they are.

    Parameters
    ----------
    reference
        The series.
    start
        Month on which the values are set to a common zero; where the series has none, its first
        month after it, else its last before it.
    """
    frame = reference.frame
    if not reference.cumulative or frame.empty:
        return frame
    row = min(int(np.searchsorted(frame["month"].to_numpy(), start)), len(frame) - 1)
    variance = frame["sigma"] ** 2
    return frame.assign(sigma=np.sqrt(np.abs(variance - variance.iloc[row])))


def read_jpl_text(path: str | Path) -> Reference:
    """Read JPL's ice-sheet series: ``HDR`` lines, then decimal year, Gt, 1σ.

    Decimal years are solution midpoints, which can fall twice into one calendar month; every
    value gets a month of its own (:func:`nominal_months`).
    """
    rows = [
        [float(cell) for cell in line.split()]
        for line in Path(path).read_text().splitlines()
        if line.strip() and not line.startswith("HDR")
    ]
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError("rows are not decimal year, mass and σ")
    data = np.array(rows)
    _require_finite(data)
    if not ((data[:, 0] > 1900) & (data[:, 0] < 2200)).all():
        raise ValueError("the first column is not decimal years")
    data = data[np.argsort(data[:, 0], kind="stable")]
    if (np.diff(data[:, 0]) == 0).any():
        raise ValueError("a decimal year comes twice")
    time = decimal_year_to_time(data[:, 0])
    frame = pd.DataFrame(
        {"month": nominal_months(time), "time": time, "value": data[:, 1], "sigma": data[:, 2]}
    )
    return Reference("JPL", "mass", "month", frame.sort_values("month", ignore_index=True))


def _read_csv(path: str | Path, date: str) -> pd.DataFrame:
    """Return a CSV file whose rows all have the header's columns, its dates as they are written."""
    from pyarrow import csv

    options = csv.ConvertOptions(column_types={date: "string"})
    return csv.read_csv(path, convert_options=options).to_pandas()


def _require_finite(values: np.ndarray) -> None:
    """Refuse a series with a hole in it, which a sum or a mean would close silently."""
    if not np.isfinite(values).all():
        raise ValueError("a value is missing or no number")


def decimal_year_to_time(year: np.ndarray) -> np.ndarray:
    """Return timestamps of decimal years (share of the calendar year gone)."""
    whole = np.floor(year).astype(int)
    first = (whole - 1970).astype("datetime64[Y]").astype(TIME_DTYPE)
    after = (whole - 1969).astype("datetime64[Y]").astype(TIME_DTYPE)
    length = (after - first).astype(np.float64)
    return first + np.rint((year - whole) * length).astype("timedelta64[us]")


def nominal_months(time: np.ndarray) -> np.ndarray:
    """Return a month for each solution midpoint, no month twice.

    Where two midpoints share a calendar month, one moves to the free month beside it: the
    choice with the smallest distance of the midpoints from the middles of their months.

    Raises
    ------
    ValueError
        If no free month lies beside a doubled one.
    """
    order = np.argsort(time, kind="stable")
    month = to_month(time)
    taken = set(month.tolist())
    for first, second in zip(order[:-1], order[1:], strict=True):
        if month[first] != month[second]:
            continue
        before, after = add_months(month[first], -1), add_months(month[first], 1)
        choices = []
        if before.item() not in taken:
            choices.append((_distance(time[first], before), first, before))
        if after.item() not in taken:
            choices.append((_distance(time[second], after), second, after))
        if not choices:
            raise ValueError(f"two values in {str(month[first])[:7]} and no free month beside it")
        _, index, free = min(choices, key=lambda choice: choice[0])
        month[index] = free
        taken.add(free.item())
    return month


def _distance(time: np.datetime64, month: np.ndarray) -> float:
    return abs(float((time - month_middle(month)).astype(np.float64))) / 86_400e6


def read_imbie(path: str | Path) -> Reference:
    """Read an IMBIE CSV: dates DD/MM/YYYY, cumulative anomaly in Gt at the END of each month.

    A month's mean is half-way between its two ends; its beginning is its end less a twelfth of
    its rate (Gt/yr), so that a file may begin anywhere. σ is the file's, of the sum since the
    series' beginning.
    """
    table = _read_csv(path, "Date")
    month = pd.to_datetime(table["Date"], format="%d/%m/%Y").dt.as_unit("us")
    if not (month.dt.day == 1).all():
        raise ValueError("dates are not firsts of months written DD/MM/YYYY")
    if month.duplicated().any():
        raise ValueError("a month comes twice")
    names = ("Mass balance (Gt/yr)", "Cumulative mass balance anomaly (Gt)")
    rate, at_end = (table[name].to_numpy(dtype=float) for name in names)
    sigma = table["Cumulative mass balance anomaly uncertainty (Gt)"].to_numpy(dtype=float)
    _require_finite(np.column_stack([rate, at_end]))
    frame = pd.DataFrame(
        {
            "month": month.to_numpy(),
            "time": month_middle(month.to_numpy()),
            "value": at_end - rate / 24,
            "sigma": sigma,
        }
    )
    frame = frame.sort_values("month", ignore_index=True)
    return Reference("IMBIE", "mass", "month", frame, cumulative=True)


def read_mankoff(path: str | Path) -> Reference:
    """Read Mankoff's daily mass balance (Gt/day) as monthly means of the cumulative mass.

    Trailing forecast rows (surface and basal mass balance both zero), the yearly rows before the
    daily record and days of incomplete months at either end are left out and counted. σ of a
    cumulative sum needs the correlation of daily errors, which the file does not give: null.

    References
    ----------
    Mankoff, K. D. et al. 2021, doi:10.5194/essd-13-5001-2021.
    """
    table = _read_csv(path, "time")
    time = pd.to_datetime(table["time"], format="%Y-%m-%d").dt.as_unit("us")
    if not time.is_monotonic_increasing or time.duplicated().any():
        raise ValueError("dates do not rise")
    _require_finite(table[["MB", "SMB", "BMB"]].to_numpy(dtype=float))
    known = ((table["SMB"] != 0) | (table["BMB"] != 0)).to_numpy()
    if not known.any():
        raise ValueError("no row with a surface or basal mass balance")
    last = np.flatnonzero(known).max() + 1
    dropped = {"forecast": int(len(table) - last)}
    table, time = table.iloc[:last], time.iloc[:last]
    step = time.diff().shift(-1).dt.days.to_numpy(dtype=float, copy=True)
    step[-1] = 1
    long = np.flatnonzero(step != 1)
    start = int(long.max()) + 1 if long.size else 0
    dropped["not_daily"] = start
    daily = pd.DataFrame(
        {
            "time": time.iloc[start:].to_numpy(),
            "mass": table["MB"].iloc[start:].cumsum().to_numpy(dtype=float),
        }
    )
    daily["month"] = to_month(daily["time"].to_numpy())
    months = daily.groupby("month", as_index=False).agg(
        value=("mass", "mean"), days=("mass", "size")
    )
    whole = months["days"].to_numpy() == months["month"].dt.days_in_month.to_numpy()
    dropped["incomplete_month"] = int(months.loc[~whole, "days"].sum())
    months = months[whole].reset_index(drop=True)
    frame = pd.DataFrame(
        {
            "month": months["month"],
            "time": month_middle(months["month"].to_numpy()),
            "value": months["value"],
            "sigma": np.nan,
        }
    )
    return Reference("Mankoff et al.", "mass", "month", frame, dropped)


def read_atl15_volume(path: str | Path, ice_sheet: str = "greenland") -> Reference:
    """Read the integrated volume anomaly of ICESat-2 ATL15: km³ at quarterly epochs.

    σ is the file's correlated uncertainty. An epoch within five days of the first of a month
    (2020-12-31 among them) stands for that instant.

    Parameters
    ----------
    path
        CSV with columns ice_sheet, value_km3, uncertainty_correlated_km3, epoch_date.
    ice_sheet
        ``greenland`` or ``antarctica``.
    """
    table = _read_csv(path, "epoch_date")
    chosen = table[table["ice_sheet"] == ice_sheet]
    if chosen.empty:
        raise ValueError(f"no rows of the ice sheet {ice_sheet!r}")
    time = pd.to_datetime(chosen["epoch_date"], format="%Y-%m-%d").dt.as_unit("us").to_numpy()
    month = to_month(time + _EPOCH_TOLERANCE)
    if (np.abs(time - month) > _EPOCH_TOLERANCE).any():
        raise ValueError("an epoch is not at the first of a month")
    if np.unique(month).size < month.size:
        raise ValueError("an epoch comes twice")
    frame = pd.DataFrame(
        {
            "month": month,
            "time": time,
            "value": chosen["value_km3"].to_numpy(dtype=float),
            "sigma": chosen["uncertainty_correlated_km3"].to_numpy(dtype=float),
        }
    )
    _require_finite(frame["value"].to_numpy())
    dropped = {"other_ice_sheet": int(len(table) - len(chosen))}
    frame = frame.sort_values("month", ignore_index=True)
    return Reference("ATL15 volume", "volume", "instant", frame, dropped)
