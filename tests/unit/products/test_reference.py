"""Readers of published series, on small files in each layout."""

from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.calendar import month_range
from cryofuse.config import ReferenceSeries
from cryofuse.logs import UserError
from cryofuse.products.reference import (
    Reference,
    decimal_year_to_time,
    ice_sheet_of,
    nominal_months,
    read_atl15_volume,
    read_imbie,
    read_jpl_text,
    read_mankoff,
    read_reference,
    read_references,
    sigma_since,
)


def months_of(reference):
    return [f"{month:%Y-%m}" for month in reference.frame["month"]]


def test_jpl_text_gives_every_value_a_month_of_its_own(tmp_path):
    path = tmp_path / "jpl.txt"
    years = (2011.79, 2011.83, 2012.00, 2012.04, 2015.29, 2015.32, 2017.25, 2017.31)
    rows = [f"{year} {-i} 9" for i, year in enumerate(years, 1)]
    path.write_text("HDR Mass\nHDR\n" + "\n".join(rows) + "\n")
    found = read_jpl_text(path)
    assert months_of(found) == [
        "2011-10", "2011-11", "2011-12", "2012-01", "2015-04", "2015-05", "2017-03", "2017-04",
    ]  # fmt: skip
    assert found.frame["value"].tolist() == [-float(i) for i in range(1, 9)]
    assert (found.quantity, found.stamp) == ("mass", "month")


def test_decimal_years_in_leap_and_common_years():
    time = decimal_year_to_time(np.array([2019.5, 2020.5]))
    assert str(time[0]) == "2019-07-02T12:00:00.000000"
    assert str(time[1]) == "2020-07-02T00:00:00.000000"


def test_doubled_months_without_a_free_neighbour_are_refused():
    time = np.array(
        ["2020-01-15", "2020-02-10", "2020-02-20", "2020-03-15"], dtype="datetime64[us]"
    )
    with pytest.raises(ValueError, match="two values in 2020-02"):
        nominal_months(time)


IMBIE_HEAD = (
    "Date,Mass balance (Gt/yr),Cumulative mass balance anomaly (Gt),"
    "Cumulative mass balance anomaly uncertainty (Gt)\n"
)


def test_imbie_dates_are_day_first_and_values_month_ends(tmp_path):
    path = tmp_path / "imbie.csv"
    # The file begins in the middle of a series: its first month starts at 100 Gt, not at zero.
    path.write_text(
        IMBIE_HEAD + "01/02/2020,120,110,3\n01/03/2020,240,130,4\n01/04/2020,-120,120,5\n"
    )
    found = read_imbie(path)
    assert months_of(found) == ["2020-02", "2020-03", "2020-04"]
    np.testing.assert_allclose(found.frame["value"], [105, 120, 125])
    assert found.cumulative


def test_sigma_of_a_cumulative_series_is_that_since_a_month():
    months = month_range("2019-11", "2020-03")
    sigma = np.sqrt(np.array([100.0, 116.0, 125.0, 134.0, 141.0]))
    frame = pd.DataFrame({"month": months, "time": months, "value": 0.0, "sigma": sigma})
    summed = Reference("Sum", "mass", "month", frame, cumulative=True)
    found = sigma_since(summed, months[2])["sigma"]
    np.testing.assert_allclose(found, [5, 3, 0, 3, 4])
    plain = Reference("Plain", "mass", "month", frame)
    np.testing.assert_array_equal(sigma_since(plain, months[2])["sigma"], sigma)


@given(
    start=st.dates(min_value=date(1950, 1, 1), max_value=date(2090, 1, 1)),
    rates=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40),
    before=st.floats(-1e4, 1e4),
)
def test_any_imbie_series_is_read_back(tmp_path_factory, start, rates, before):
    months = [add(start, i) for i in range(len(rates))]
    ends = before + np.cumsum(rates) / 12
    rows = [
        f"{m:%d/%m/%Y},{rate!r},{float(end)!r},1\n"
        for m, rate, end in zip(months, rates, ends, strict=True)
    ]
    path = tmp_path_factory.mktemp("imbie") / "imbie.csv"
    path.write_text(IMBIE_HEAD + "".join(rows))
    found = read_imbie(path).frame
    assert [m.date() for m in found["month"]] == months
    starts = np.concatenate([[before], ends[:-1]])
    np.testing.assert_allclose(found["value"], (starts + ends) / 2, atol=1e-6)


def add(day, months):
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, 1)


@given(
    first=st.integers(0, 12 * 60),
    gaps=st.lists(st.booleans(), min_size=2, max_size=60),
    shift=st.lists(st.floats(-9, 9), min_size=60, max_size=60),
)
def test_any_jpl_series_keeps_its_months(tmp_path_factory, first, gaps, shift):
    """Midpoints up to nine days from the middles of their months, any gaps, two decimals."""
    months = [add(date(1990, 1, 1), first + i) for i, kept in enumerate(gaps) if kept]
    if not months:
        return
    lines = []
    for number, (month, days) in enumerate(zip(months, shift, strict=False)):
        middle = datetime(month.year, month.month, 15) + timedelta(days=days)
        whole = datetime(month.year + 1, 1, 1) - datetime(month.year, 1, 1)
        year = month.year + (middle - datetime(month.year, 1, 1)) / whole
        lines.append(f"{year:.2f} {-number:.2f} 20.0\n")
    path = tmp_path_factory.mktemp("jpl") / "jpl.txt"
    path.write_text("HDR a header\n" + "".join(lines))
    found = read_jpl_text(path).frame
    assert [m.date() for m in found["month"]] == months
    assert found["value"].tolist() == [-float(i) for i in range(len(months))]


def write_mankoff(path):
    days = pd.date_range("2019-12-30", "2020-03-03", freq="D")
    rows = ["time,MB,SMB,BMB", "1985-01-01,0.5,1,0.1"]
    rows += [f"{day:%Y-%m-%d},1.0,2.0,0.05" for day in days]
    rows += ["2020-03-04,-1.3,0,0", "2020-03-05,-1.3,0,0"]
    path.write_text("\n".join(rows) + "\n")


def test_mankoff_drops_and_counts_forecast_yearly_and_incomplete(tmp_path):
    path = tmp_path / "mankoff.csv"
    write_mankoff(path)
    found = read_mankoff(path)
    assert months_of(found) == ["2020-01", "2020-02"]
    # One Gt a day from 30 December: January's mean is that of 3…33, February's of 34…62.
    np.testing.assert_allclose(found.frame["value"], [18.0, 48.0])
    assert found.dropped == {"forecast": 2, "not_daily": 1, "incomplete_month": 5}
    assert found.frame["sigma"].isna().all()


def test_a_zero_inside_the_record_is_no_forecast(tmp_path):
    path = tmp_path / "mankoff.csv"
    write_mankoff(path)
    path.write_text(path.read_text().replace("2020-01-15,1.0,2.0,0.05", "2020-01-15,1.0,0,0"))
    assert read_mankoff(path).dropped["forecast"] == 2


def test_atl15_keeps_one_sheet_and_the_last_day_of_december(tmp_path):
    path = tmp_path / "atl15.csv"
    path.write_text(
        "ice_sheet,month,value_km3,uncertainty_correlated_km3,epoch_date\n"
        "antarctica,2020-01,1,1,2020-01-01\n"
        "greenland,2020-10,-360,32,2020-10-01\n"
        "greenland,2020-12,-115,32,2020-12-31\n"
    )
    found = read_atl15_volume(path)
    assert months_of(found) == ["2020-10", "2021-01"]
    assert found.frame["value"].tolist() == [-360, -115]
    assert (found.quantity, found.stamp) == ("volume", "instant")
    assert found.dropped == {"other_ice_sheet": 1}


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_reference(ReferenceSeries(file=str(tmp_path / "none.txt"), format="jpl"))
    page = tmp_path / "page.csv"
    page.write_text("<html><title>Log in</title></html>\n")
    for layout in ("jpl", "imbie", "mankoff", "atl15"):
        with pytest.raises(UserError, match="not in the layout") as caught:
            read_reference(ReferenceSeries(file=str(page), format=layout))
        assert "\n" not in str(caught.value)


WRONG = {
    "empty": ("jpl", ""),
    "header_only": ("jpl", "HDR nothing\n"),
    "a_hole": ("jpl", "2019.04 1 1\n2019.12 nan 1\n"),
    "one_year_twice": ("jpl", "2019.04 1 1\n2019.04 2 1\n"),
    "not_years": ("jpl", "17.5 1 1\n"),
    "four_columns": ("jpl", "2019.04 1 1 5\n"),
    "month_first": ("imbie", IMBIE_HEAD + "02/13/2020,1,1,1\n"),
    "iso_dates": ("imbie", IMBIE_HEAD + "2020-02-01,1,1,1\n"),
    "mid_month": ("imbie", IMBIE_HEAD + "15/02/2020,1,1,1\n"),
    "month_twice": ("imbie", IMBIE_HEAD + "01/02/2020,1,1,1\n01/02/2020,1,1,1\n"),
    "no_number": ("imbie", IMBIE_HEAD + "01/02/2020,1,,1\n"),
    "ragged": ("imbie", IMBIE_HEAD + "01/02/2020,1,1,1,9,9\n"),
    "day_missing": ("mankoff", "time,MB,SMB,BMB\n2020-01-01,1,1,1\n2020-01-02,,1,1\n"),
    "days_fall": ("mankoff", "time,MB,SMB,BMB\n2020-01-02,1,1,1\n2020-01-01,1,1,1\n"),
    "forecast_only": ("mankoff", "time,MB,SMB,BMB\n2020-01-02,1,0,0\n"),
    "mid_quarter": (
        "atl15",
        "ice_sheet,value_km3,uncertainty_correlated_km3,epoch_date\ngreenland,1,1,2020-01-15\n",
    ),
    "other_sheet": (
        "atl15",
        "ice_sheet,value_km3,uncertainty_correlated_km3,epoch_date\nantarctica,1,1,2020-01-01\n",
    ),
    "binary": ("mankoff", "\x00\x01\x02"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layout_is_one_clear_line(tmp_path, name):
    layout, text = WRONG[name]
    path = tmp_path / "series.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_reference(ReferenceSeries(file=str(path), format=layout))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert f"not in the layout {layout!r}" in message and "correct `format`" in message


def test_two_series_of_one_title_are_refused(tmp_path):
    path = tmp_path / "jpl.txt"
    path.write_text("2019.04 1 1\n2019.12 2 1\n")
    one = ReferenceSeries(file=str(path), format="jpl")
    other = one.model_copy(update={"title": "Other"})
    assert [r.title for r in read_references([one, other], "greenland")] == ["JPL", "Other"]
    with pytest.raises(UserError, match="2 series have the title 'JPL'"):
        read_references([one, one], "greenland")


def test_the_title_of_the_configuration_is_used(tmp_path):
    path = tmp_path / "mankoff.csv"
    write_mankoff(path)
    found = read_reference(ReferenceSeries(file=str(path), format="mankoff", title="M21"))
    assert found.title == "M21" and found.dropped["forecast"] == 2


@pytest.mark.parametrize(
    ("crs", "sheet"),
    [("EPSG:3413", "greenland"), ("EPSG:3031", "antarctica"), ("EPSG:32627", "greenland")],
)
def test_ice_sheet_follows_the_crs(crs, sheet):
    assert ice_sheet_of(crs) == sheet
