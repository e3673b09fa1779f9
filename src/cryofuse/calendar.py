"""Months, periods and decimal years: the one calendar of the project.

A month is the timestamp of its first day (UTC, without a zone). A period is a month
(``2019-07``), a quarter (``2019Q3``) or a year (``2019``). All functions are pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from cryofuse.units import DAYS_PER_YEAR

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MONTH = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])$")
PERIOD = re.compile(r"^(\d{4})(?:-(0[1-9]|1[0-2])|Q([1-4]))?$")
#: Regular expression of the workflow's ``{period}`` wildcard.
PERIOD_PATTERN = r"\d{4}(?:-\d{2}|Q[1-4])?"
#: Time unit of every stored timestamp: Spark refuses nanoseconds.
TIME_DTYPE = "datetime64[us]"
_EPOCH = np.datetime64("2000-01-01", "us")
_US_PER_YEAR = DAYS_PER_YEAR * 86_400e6


def parse_month(text: str) -> np.datetime64:
    """Return the first day of a month written ``YYYY-MM``.

    Raises
    ------
    ValueError
        If the text is not a month.
    """
    if not MONTH.match(str(text)):
        raise ValueError(f"{text!r} is not a month written YYYY-MM")
    return np.datetime64(f"{text}-01", "us")


def month_range(start: str, end: str) -> np.ndarray:
    """Return every month from ``start`` to ``end`` (both ``YYYY-MM``, inclusive)."""
    first = parse_month(start).astype("datetime64[M]")
    last = parse_month(end).astype("datetime64[M]")
    return np.arange(first, last + 1).astype(TIME_DTYPE)


def to_month(time: ArrayLike) -> np.ndarray:
    """Return the first day of the month of each timestamp."""
    return np.asarray(time, dtype=TIME_DTYPE).astype("datetime64[M]").astype(TIME_DTYPE)


def month_index(month: ArrayLike) -> np.ndarray:
    """Return months counted from January 1970 as integers, for differences and lags."""
    return np.asarray(month, dtype=TIME_DTYPE).astype("datetime64[M]").astype(np.int64)


def add_months(month: ArrayLike, count: int | np.ndarray) -> np.ndarray:
    """Return months shifted by a number of calendar months."""
    shifted = month_index(month) + count
    return np.asarray(shifted).astype("datetime64[M]").astype(TIME_DTYPE)


def month_middle(month: ArrayLike) -> np.ndarray:
    """Return the middle of each month, the instant a monthly mean stands for."""
    first = to_month(month)
    return first + (add_months(first, 1) - first) // 2


def year_fraction(time: ArrayLike) -> np.ndarray:
    """Return time in years of 365.2425 days since 2000-01-01 (float64).

    The annual cycle of every fit in the project uses this axis, so that phases compare.
    """
    return (np.asarray(time, dtype=TIME_DTYPE) - _EPOCH).astype(np.float64) / _US_PER_YEAR


def period_of(month: np.datetime64, length: str) -> str:
    """Return the period of the given length (month, quarter or year) that holds a month."""
    text = str(month.astype("datetime64[M]"))
    if length == "month":
        return text
    if length == "quarter":
        return f"{text[:4]}Q{(int(text[5:]) - 1) // 3 + 1}"
    return text[:4]


def list_periods(start: str, end: str, length: str) -> list[str]:
    """Return the periods that cover the months from ``start`` to ``end``, in order."""
    return list(dict.fromkeys(period_of(month, length) for month in month_range(start, end)))


def period_bounds(period: str) -> tuple[np.datetime64, np.datetime64]:
    """Return the first instant of a period and the first instant after it.

    Raises
    ------
    ValueError
        If the text is not a period.
    """
    match = PERIOD.match(period)
    if not match:
        raise ValueError(f"{period!r} is not a period (2019-07, 2019Q3 or 2019)")
    year, month, quarter = match.groups()
    if month:
        first, count = np.datetime64(f"{year}-{month}", "M"), 1
    elif quarter:
        first, count = np.datetime64(f"{year}-{3 * int(quarter) - 2:02d}", "M"), 3
    else:
        first, count = np.datetime64(f"{year}-01", "M"), 12
    return first.astype(TIME_DTYPE), (first + count).astype(TIME_DTYPE)


def clip_period(period: str, start: str, end: str) -> tuple[np.datetime64, np.datetime64]:
    """Return a period's bounds limited to the configured months ``start`` … ``end``."""
    first, stop = period_bounds(period)
    after_last = np.datetime64(str(add_months(parse_month(end), 1)), "us")
    return max(first, parse_month(start)), min(stop, after_last)
