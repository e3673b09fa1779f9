"""Figures of the applications draw their tables' numbers: read back from the artists."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.dates import date2num

from cryofuse.products.figures_applications import (
    FLAG,
    draw_early_warning,
    draw_rapid_melt,
    draw_sensitivity,
)

from .test_figures import artists, texts

MONTHS = pd.date_range("2019-01-01", periods=48, freq="MS")


def rapid_melt():
    """Six series; the sheet's July to September 2019 and March 2021 are flagged in elevation."""
    rng = np.random.default_rng(0)
    months, rates = [], []
    for scope in ("sheet", "mascon:1"):
        for source in ("dh", "gravimetry", "model"):
            anomaly = rng.normal(0, 1, 48)
            anomaly[5] = np.nan
            flagged = np.zeros(48, bool)
            if (scope, source) == ("sheet", "dh"):
                anomaly[[6, 7, 8, 26]] = [-4, -5, -4.5, -6]
                flagged[[6, 7, 8, 26]] = True
            if (scope, source) == ("mascon:1", "model"):
                anomaly[12], flagged[12] = -9, True
            named = {"scope": scope, "source": source}
            level = np.where(MONTHS.month == 7, -3.5, -1.5)
            frame = pd.DataFrame({"month": MONTHS, "anomaly": anomaly, "threshold": level})
            frame["flagged"] = pd.array(
                [None if np.isnan(a) else f for a, f in zip(anomaly, flagged, strict=True)],
                dtype="boolean",
            )
            months.append(frame.assign(**named))
            rates.append(
                named
                | {"start": MONTHS[0], "n": 47, "n_flagged": flagged.sum(), "most_by_chance": 3}
                | {"nominal_rate": 0.02, "false_alarm_rate": 0.021, "false_alarm_lower": 0.018}
                | {"false_alarm_upper": 0.024, "reason": None}
            )
    return pd.concat(months, ignore_index=True), pd.DataFrame(rates)


def test_rapid_melt_draws_anomalies_threshold_and_flags():
    months, rates = rapid_melt()
    figure = draw_rapid_melt(months, rates, "Testland")
    sheet = months[(months["scope"] == "sheet") & (months["source"] == "dh")].dropna()
    bars = artists(figure, "anomaly dh")
    np.testing.assert_allclose([b.get_height() for b in bars], sheet["anomaly"])
    red = [b for b in bars if to_hex(b.get_facecolor()) == FLAG]
    np.testing.assert_allclose([b.get_height() for b in red], [-4, -5, -4.5, -6])
    np.testing.assert_array_equal(
        artists(figure, "threshold dh")[0].get_ydata(), sheet["threshold"]
    )
    flags = artists(figure, "flag dh")
    assert [f.get_text() for f in flags] == ["2019-07 to 2019-09", "2021-03"]
    # At the lowest of the run.
    assert [f.xy[1] for f in flags] == [-5, -6]
    assert not artists(figure, "flag gravimetry")
    assert "4 of 47 months flagged; by chance at most 3 (95 %)" in texts(figure)
    assert "false alarms 2.1 % (1.8 to 2.4)" in texts(figure)
    share = artists(figure, "share model")
    heights = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in share}
    assert heights[round(date2num(MONTHS[12])) + 9] == 100
    assert sum(heights.values()) == 100
    assert {round(b.get_width()) for b in share} == {9}, "nine days: wide enough to be seen"
    assert artists(figure, "nominal")[0].get_ydata()[0] == pytest.approx(2)


def test_rapid_melt_of_fewer_sources_shows_those():
    months, rates = rapid_melt()
    single = (months["scope"] != "sheet") & (months["source"] == "dh")
    figure = draw_rapid_melt(months[~single], rates, "Testland")
    assert not artists(figure, "share dh") and artists(figure, "share model")


def test_rapid_melt_without_a_series_says_why():
    months, rates = rapid_melt()
    months = months.assign(anomaly=np.nan, threshold=np.nan, flagged=pd.NA)
    rates = rates.assign(reason="9 monthly changes: 24 are needed", n_flagged=np.nan)
    figure = draw_rapid_melt(months, rates, "Testland")
    assert len(artists(figure, "reason")) == 4
    assert "24 are needed" in texts(figure).replace("\n", " ")


def early_warning():
    rows, windows = [], []
    for source in ("dh", "gravimetry"):
        for statistic in ("variance", "autocorrelation"):
            for i, scope in enumerate(("sheet", "mascon:1", "mascon:2")):
                rows.append(
                    {"scope": scope, "source": source, "statistic": statistic, "tau": -0.5,
                     "p": 0.2 + 0.3 * i, "start": MONTHS[0], "end": MONTHS[-1], "reason": None}
                )  # fmt: skip
                part = {"month": MONTHS[23:], "value": np.arange(25.0) + i}
                part |= {"lower": -1.0, "upper": 20.0}
                windows.append(
                    pd.DataFrame(part).assign(scope=scope, source=source, statistic=statistic)
                )
    return pd.DataFrame(rows), pd.concat(windows, ignore_index=True)


def test_early_warning_draws_the_sheets_windows_in_their_band():
    trends, windows = early_warning()
    figure = draw_early_warning(trends, windows, 24, "Testland")
    for source in ("dh", "gravimetry"):
        for statistic in ("variance", "autocorrelation"):
            line = artists(figure, f"{source} {statistic}")[0]
            np.testing.assert_allclose(line.get_ydata(), np.arange(25.0))
            band = artists(figure, f"surrogates {source} {statistic}")[0]
            ends = band.get_paths()[0].get_extents()
            assert (ends.y0, ends.y1) == (-1.0, 20.0)
            ticks = artists(figure, f"p {source} {statistic}")[0]
            np.testing.assert_allclose(ticks.get_xdata(), [0.5, 0.8])
    said = texts(figure).replace("\n", " ")
    assert "early-warning statistics (exploratory)" in said and "no tipping claim" in said
    assert "τ = −0.50, p = 0.20" in said and "running windows of 24 months" in said


def test_early_warning_without_windows_says_why():
    trends, windows = early_warning()
    trends = trends.assign(tau=np.nan, p=np.nan, reason="20 months: 2 windows of 24 are needed")
    figure = draw_early_warning(trends, windows.iloc[:0], 24, "Testland")
    assert len(artists(figure, "reason")) == 4
    assert "2 windows of 24" in texts(figure).replace("\n", " ")


def sensitivity():
    rows = []
    for i, choice in enumerate(("ice_fraction_of_land >= 0.25", "product_set")):
        row = {"choice": choice, "configured": i == 0, "n_mascons": 27 - i, "reason": None}
        row |= {"end": MONTHS[-1], "trend_sigma_gt_yr": 4.0 + i}
        whole = {"source": "gravity", "start": pd.Timestamp("2002-04-01"), "n": 200}
        rows.append(row | whole | {"trend_gt_yr": -250.0 - i})
        for j, source in enumerate(("gravity", "altimetry_850")):
            common = {"source": source, "start": MONTHS[0], "n": 48}
            rows.append(row | common | {"trend_gt_yr": -200.0 - i - 10 * j})
    told = {"choice": "bedrock rises by 1 mm/yr under all the ice", "source": "altimetry", "n": 0}
    return pd.DataFrame([*rows, told | {"difference_gt_yr": 1.49, "configured": True}])


def test_sensitivity_draws_a_trend_for_each_choice_and_source():
    figure = draw_sensitivity(sensitivity(), "Testland")
    # An error bar is a line of marks, one of each cap, and the bars.
    lines = [a for a in artists(figure, "trend gravity") if getattr(a, "get_marker", str)() == "o"]
    drawn = {line.get_xdata()[0]: line.get_xdata().astype(float) for line in lines}
    np.testing.assert_allclose(drawn[-250.0], [-250, -251])
    np.testing.assert_allclose(drawn[-200.0], [-200, -201])
    altimetry = artists(figure, "trend altimetry_850")
    assert altimetry[0].get_xdata().tolist() == [-210, -211]
    (bars,) = [a for a in altimetry if hasattr(a, "get_segments")]
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[-214, -206], [-216, -206]])
    said = texts(figure).replace("\n", " ")
    assert "ice on land ≥ 0.25 27 mascons, this run" in said and "product set 26 mascons" in said
    assert "reads as +1.5 Gt/yr" in said


def test_sensitivity_without_common_months_says_why():
    table = sensitivity()
    common = table["start"] == MONTHS[0]
    table["trend_gt_yr"] = table["trend_gt_yr"].mask(common)
    table["reason"] = np.where(common, "7 values", None)
    figure = draw_sensitivity(table, "Testland")
    assert [t.get_text() for t in artists(figure, "reason")] == ["7 values"]
