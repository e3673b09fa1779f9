import calendar as stdlib
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse import calendar

MONTHS = st.dates(date(1980, 1, 1), date(2099, 12, 31))


@given(MONTHS, st.integers(-400, 400))
def test_adding_months_agrees_with_counting_on_the_calendar(day, count):
    total = day.year * 12 + day.month - 1 + count
    expected = np.datetime64(f"{total // 12:04d}-{total % 12 + 1:02d}-01", "us")
    assert calendar.add_months(np.datetime64(day, "us"), count) == expected


@given(MONTHS)
def test_a_month_lies_in_its_own_period_of_every_length(day):
    month = np.datetime64(f"{day.year}-{day.month:02d}-01", "us")
    for length in ("month", "quarter", "year"):
        first, stop = calendar.period_bounds(calendar.period_of(month, length))
        assert first <= month < stop


@given(MONTHS)
def test_the_middle_of_a_month_is_half_its_length_after_its_first_instant(day):
    month = np.datetime64(f"{day.year}-{day.month:02d}-01", "us")
    length = stdlib.monthrange(day.year, day.month)[1]
    assert calendar.month_middle(month) - month == np.timedelta64(length * 12, "h")


def test_periods_cover_the_months_once_and_in_order():
    periods = calendar.list_periods("2018-10", "2020-02", "quarter")
    assert periods == ["2018Q4", "2019Q1", "2019Q2", "2019Q3", "2019Q4", "2020Q1"]
    assert calendar.list_periods("2018-10", "2020-02", "year") == ["2018", "2019", "2020"]


def test_a_period_is_cut_to_the_configured_months():
    first, stop = calendar.clip_period("2018", "2018-10", "2024-12")
    assert (str(first)[:10], str(stop)[:10]) == ("2018-10-01", "2019-01-01")


@pytest.mark.parametrize("text", ["2019-13", "2019-7", "19-07", "2019", ""])
def test_what_is_no_month_is_refused(text):
    with pytest.raises(ValueError, match="not a month"):
        calendar.parse_month(text)


@pytest.mark.parametrize("text", ["2019Q5", "2019-00x", "Q1", ""])
def test_what_is_no_period_is_refused(text):
    with pytest.raises(ValueError, match="not a period"):
        calendar.period_bounds(text)


def test_year_fraction_counts_years_of_365_2425_days():
    assert calendar.year_fraction(np.datetime64("2000-01-01")) == 0
    days = (date(2020, 1, 1) - date(2000, 1, 1)).days
    assert calendar.year_fraction(np.datetime64("2020-01-01")) == pytest.approx(days / 365.2425)
