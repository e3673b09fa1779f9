"""Readers of published series, on small files in each layout."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import ReferenceSeries
from cryofuse.logs import UserError
from cryofuse.products.reference import (
    decimal_year_to_time,
    ice_sheet_of,
    nominal_months,
    read_atl15_volume,
    read_imbie,
    read_jpl_text,
    read_mankoff,
    read_reference,
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


def test_imbie_dates_are_day_first_and_values_month_ends(tmp_path):
    path = tmp_path / "imbie.csv"
    path.write_text(
        "Date,Cumulative mass balance anomaly (Gt),"
        "Cumulative mass balance anomaly uncertainty (Gt)\n"
        "01/02/2020,10,1\n01/03/2020,30,2\n01/04/2020,20,3\n"
    )
    found = read_imbie(path)
    assert months_of(found) == ["2020-02", "2020-03", "2020-04"]
    np.testing.assert_allclose(found.frame["value"], [5, 20, 25])


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
