"""Published mass and volume series: each file to one series of months.

Every reader takes a path and returns a :class:`Reference`. Signs: mass gain and thickening are
positive. What a reader leaves out it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
    """

    title: str
    quantity: str
    stamp: str
    frame: pd.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)


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
    except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(
            f"reference_series: {path} is not in the layout {series.format!r} ({error})"
        ) from None
    if not series.title:
        return found
    return Reference(series.title, found.quantity, found.stamp, found.frame, found.dropped)


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
    data = np.array(rows, dtype=float)
    if data.ndim != 2 or data.shape[1] < 3:
        raise ValueError("no rows of decimal year, mass and σ")
    time = decimal_year_to_time(data[:, 0])
    frame = pd.DataFrame(
        {"month": nominal_months(time), "time": time, "value": data[:, 1], "sigma": data[:, 2]}
    )
    return Reference("JPL", "mass", "month", frame.sort_values("month", ignore_index=True))


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

    A month's mean is half-way between the ends of the month before and of itself.
    """
    table = pd.read_csv(path)
    month = pd.to_datetime(table["Date"], format="%d/%m/%Y").dt.as_unit("us")
    if not (month.dt.day == 1).all():
        raise ValueError("dates are not firsts of months written DD/MM/YYYY")
    at_end = table["Cumulative mass balance anomaly (Gt)"].to_numpy(dtype=float)
    sigma = table["Cumulative mass balance anomaly uncertainty (Gt)"].to_numpy(dtype=float)
    at_start = np.concatenate([[0.0], at_end[:-1]])
    frame = pd.DataFrame(
        {
            "month": month.to_numpy(),
            "time": month_middle(month.to_numpy()),
            "value": (at_start + at_end) / 2,
            "sigma": sigma,
        }
    )
    if frame["month"].duplicated().any():
        raise ValueError("a month comes twice")
    return Reference("IMBIE", "mass", "month", frame.sort_values("month", ignore_index=True))


def read_mankoff(path: str | Path) -> Reference:
    """Read Mankoff's daily mass balance (Gt/day) as monthly means of the cumulative mass.

    Trailing forecast rows (surface and basal mass balance both zero), the yearly rows before the
    daily record and days of incomplete months at either end are left out and counted. σ of a
    cumulative sum needs the correlation of daily errors, which the file does not give: null.

    References
    ----------
    Mankoff, K. D. et al. 2021, doi:10.5194/essd-13-5001-2021.
    """
    table = pd.read_csv(path)
    time = pd.to_datetime(table["time"], format="%Y-%m-%d").dt.as_unit("us")
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
    table = pd.read_csv(path)
    chosen = table[table["ice_sheet"] == ice_sheet]
    if chosen.empty:
        raise ValueError(f"no rows of the ice sheet {ice_sheet!r}")
    time = pd.to_datetime(chosen["epoch_date"], format="%Y-%m-%d").dt.as_unit("us").to_numpy()
    month = to_month(time + _EPOCH_TOLERANCE)
    if (np.abs(time - month) > _EPOCH_TOLERANCE).any():
        raise ValueError("an epoch is not at the first of a month")
    frame = pd.DataFrame(
        {
            "month": month,
            "time": time,
            "value": chosen["value_km3"].to_numpy(dtype=float),
            "sigma": chosen["uncertainty_correlated_km3"].to_numpy(dtype=float),
        }
    )
    dropped = {"other_ice_sheet": int(len(table) - len(chosen))}
    frame = frame.sort_values("month", ignore_index=True)
    return Reference("ATL15 volume", "volume", "instant", frame, dropped)
