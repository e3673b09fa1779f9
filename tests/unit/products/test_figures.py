"""Figures draw the tables' own numbers: read back from the artists, never from pixels."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.dates import num2date

from cryofuse.calendar import month_middle, month_range
from cryofuse.config import (
    ApplicationSettings,
    CaseStudySettings,
    CouplingSettings,
    SkillSettings,
)
from cryofuse.products import (
    figures_altimetry,
    figures_learning,
    figures_maps,
    figures_series,
    style,
)
from cryofuse.products.case_study import COLUMNS, study_melt_seasons
from cryofuse.products.figures_sheet import draw_sheet_coupling
from cryofuse.products.reference import Reference
from cryofuse.products.sheet import couple_sheet
from cryofuse.products.totals import compare_series, sum_totals

MONTHS = month_range("2018-10", "2024-12")
#: The months, as figures state them.
SPAN = "2018-10 to 2024-12"


def artists(figure, gid):
    """Every artist of a figure with a gid."""
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def texts(figure):
    return " | ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def drawn_cells(images):
    return np.sort(np.concatenate([np.ma.compressed(i.get_array()) for i in images]))


def test_rate_map_draws_every_fitted_node_where_it_is(world):
    figure = figures_altimetry.draw_rate_map(world["nodes"], world["base"])
    axes = figure.axes[0]
    images = [i for i in artists(figure, "nodes") if i.axes is axes]
    np.testing.assert_allclose(drawn_cells(images), np.sort(world["nodes"]["rate_m_yr"].dropna()))
    fine = [i for i in images if i.get_array().shape == (8, 8)]
    # Nodes at 30…37 km east: cells of 1 km about them.
    assert fine[0].get_extent() == pytest.approx([29.5, 37.5, -2000.5, -1992.5])
    assert all(i.norm.vcenter == 0 and i.norm.vmin == -i.norm.vmax for i in images)
    assert "2018-10 to 2024-12" in texts(figure)
    assert "(m/yr" in texts(figure)


def test_node_cells_keep_rows_and_columns(world):
    nodes = world["nodes"]
    figure = figures_altimetry.draw_rate_map(nodes, world["base"])
    coarse = next(i for i in artists(figure, "nodes") if i.get_array().shape != (8, 8))
    left, right, bottom, top = coarse.get_extent()
    for row in nodes[nodes["window"].isna() & nodes["rate_m_yr"].notna()].iloc[::37].itertuples():
        column_index = int((row.x_m / 1e3 - left) // 50)
        row_index = int((row.y_m / 1e3 - bottom) // 50)
        assert coarse.get_array()[row_index, column_index] == pytest.approx(row.rate_m_yr)


def test_amplitude_map_puts_the_peak_in_its_month(world):
    nodes = world["nodes"].iloc[[10, 11]].copy()
    nodes["phase_rad"] = [0.0, 2 * np.pi * 7.5 / 12]
    figure = figures_altimetry.draw_amplitude_map(nodes, world["base"])
    month = [i for i in artists(figure, "nodes") if i.norm.vmax == 12]
    np.testing.assert_allclose(drawn_cells(month), [0.0, 7.5], atol=1e-9)


def test_coverage_bars_are_the_months_sums(world):
    table = world["node_months"]
    figure = figures_altimetry.draw_coverage(world["nodes"], table, world["base"], world["shapes"])
    heights = [b.get_height() for b in artists(figure, "segments_month")]
    expected = [
        table["n_segments"].to_numpy()[(table["month"] == m).to_numpy()].sum() / 1e3
        for m in np.unique(table["month"])
    ]
    np.testing.assert_allclose(heights, expected)
    area = world["nodes"].set_index("node_id")["area_km2"]
    first = table.loc[table["month"] == table["month"].min(), "node_id"]
    share = artists(figure, "share_month")[0].get_height()
    assert share == pytest.approx(100 * area.loc[first].sum() / area.sum())


def test_filter_costs_are_the_reports(world):
    figure = figures_altimetry.draw_filter_costs(world["filter_report"], "Testland")
    # Of the 1500 segments that entered the filters in both periods.
    removed, alone = (artists(figure, gid) for gid in ("removed", "alone"))
    np.testing.assert_allclose([b.get_width() for b in removed], [10, 350 / 15, 50 / 15])
    np.testing.assert_allclose([b.get_width() for b in alone], [20, 700 / 15, 100 / 15])
    # From top to bottom as they run.
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["finite height", "quality summary", "ice mask"]
    heights = [bar.get_y() for bar in removed]
    assert heights == sorted(heights, reverse=True)
    said = texts(figure).replace("\n", " ")
    assert "1,500 segments of 3 granules" in said and "950 kept (63.3 %)" in said
    assert "(2018 to 2020)" in said
    assert said.count("not given in 40 % of the beams") == 1


def test_filter_costs_of_every_period_stand_on_each_other_up_to_all(world):
    figure = figures_altimetry.draw_filter_costs(world["filter_report"], "Testland")
    expected = {
        "period_kept": ([65, 0, 60], [0, 0, 0]),
        "period_finite_height": ([10, 0, 10], [65, 0, 60]),
        "period_quality_summary": ([20, 0, 30], [75, 0, 70]),
        "period_ice_mask": ([5, 0, 0], [95, 0, 100]),
    }
    for gid, (heights, feet) in expected.items():
        bars = artists(figure, gid)
        np.testing.assert_allclose([bar.get_height() for bar in bars], heights, err_msg=gid)
        np.testing.assert_allclose([bar.get_y() for bar in bars], feet, err_msg=gid)
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["2018", "2019", "2020"]
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert legend == ["ice mask", "quality summary", "finite height", "kept"]
    # One colour is one filter in both panels.
    for bar, name in zip(artists(figure, "removed"), list(expected)[1:], strict=True):
        assert bar.get_facecolor() == artists(figure, name)[0].get_facecolor()


def test_filters_that_cost_least_are_drawn_as_one_and_filters_that_cost_nothing_are_not():
    # Seven filters take 1, 2, … 7 of 100 segments, an eighth none; the five costliest are named.
    rows = [("subset", "read", 0), *(("filter", f"f{n}", n) for n in (4, 1, 7, 2, 6, 3, 5, 0))]
    report = pd.DataFrame(
        [
            {"period": period, "stage": stage, "position": i, "filter": name, "granules": 1,
             "beams": 1, "beams_not_given": 0, "rows_in": 100, "rows_removed": gone,
             "alone_percent": float(gone)}
            for period in ("2020-01", "all")
            for i, (stage, name, gone) in enumerate(rows, 1)
        ]
    )  # fmt: skip
    figure = figures_altimetry.draw_filter_costs(report, "Testland")
    shown = {
        name: bar.get_height()
        for name in ("kept", *(f"f{n}" for n in range(8)), "other_filters")
        for bar in artists(figure, f"period_{name}")
    }
    assert shown == {
        "kept": 72, "f3": 3, "f4": 4, "f5": 5, "f6": 6, "f7": 7, "other_filters": 3,
    }  # fmt: skip
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    # As they are stacked, which is as they run, from the top.
    assert legend == ["other filters", "f5", "f3", "f6", "f7", "f4", "kept"]


@pytest.mark.parametrize(
    ("periods", "labels"),
    [
        (["2020"], {0: "2020"}),
        ([f"{y}" for y in range(2018, 2025)], {i: str(2018 + i) for i in range(7)}),
        ([str(m)[:7] for m in MONTHS], {3 + 12 * i: str(2019 + i) for i in range(6)}),
        ([f"{y}Q{q}" for y in range(2018, 2022) for q in range(1, 5)], {4 * i: str(2018 + i)
                                                                        for i in range(4)}),
    ],
)  # fmt: skip
def test_periods_are_labelled_one_by_one_where_they_are_few_else_by_years(periods, labels):
    report = pd.DataFrame(
        [
            {"period": period, "stage": stage, "position": i, "filter": name, "granules": 1,
             "beams": 1, "beams_not_given": 0, "rows_in": 100, "rows_removed": 40 * i,
             "alone_percent": 40.0}
            for period in [*periods, "all"]
            for i, (stage, name) in enumerate((("subset", "read"), ("filter", "ice_mask")))
        ]
    )  # fmt: skip
    figure = figures_altimetry.draw_filter_costs(report, "Testland")
    axes = figure.axes[1]
    shown = {t: label.get_text() for t, label in zip(axes.get_xticks(), axes.get_xticklabels(),
                                                     strict=True)}  # fmt: skip
    assert shown == labels
    assert [bar.get_height() for bar in artists(figure, "period_kept")] == [60] * len(periods)


def test_mascon_values_are_drawn_in_order_and_nulls_hatched(world):
    figure = figures_maps.draw_skill_map(world["scores"], world["shapes"], world["base"], SPAN)
    collections = artists(figure, "mascons")
    assert len(collections) == 2
    # The best model by RMSE is xgboost; mascons 35, 50, 68 have r2 0.5, 0.4, 0.3, less 0.1 forward.
    np.testing.assert_allclose(collections[0].get_array(), [0.5, 0.4, 0.3])
    np.testing.assert_allclose(collections[1].get_array(), [0.4, 0.3, 0.2])
    hatched = artists(figure, "null_mascon")
    assert hatched and all(patch.get_hatch() for patch in hatched)
    assert "no value" in texts(figure)


def test_mascons_are_cut_to_the_ice(world):
    shapes, base = world["shapes"], world["base"]
    for footprint, ice in zip(shapes.footprint, shapes.ice, strict=True):
        assert ice.is_empty or base.ice.buffer(1).contains(ice)
        assert ice.area == pytest.approx(footprint.intersection(base.ice).area, rel=1e-6)


def test_explained_map_and_heat(world):
    figure = figures_maps.draw_explained_map(
        world["explained"], world["shapes"], world["base"], SPAN
    )
    np.testing.assert_allclose(artists(figure, "mascons")[0].get_array(), [0.5, 0.2])
    heat = artists(figure, "heat")[0].get_array()
    assert heat.shape == (4, 8)
    np.testing.assert_allclose(heat[3, :2], [-0.4, 0.2])
    assert heat.mask[2, 0] and not heat.mask[2, 1]
    np.testing.assert_allclose(heat[0], [0.5, 0.8, 0.6, -0.4] * 2)


def test_coupling_map_stipples_what_is_significant(world):
    figure = figures_maps.draw_coupling_map(
        world["coupling"], world["lakes"], world["shapes"], world["base"], SPAN
    )
    first = artists(figure, "mascons")[0]
    # Each mascon at its best lag: 0, 1 and 2 months.
    np.testing.assert_allclose(first.get_array(), [0.9, 0.4, -0.1])
    assert len(artists(figure, "significant_35")) == 3
    assert not artists(figure, "significant_50")
    marks = artists(figure, "lake_candidates")[0]
    np.testing.assert_allclose(marks.get_xydata(), [[33.0, -1997.0]])


def test_lead_lag_map_draws_the_best_lag_and_density(world):
    figure = figures_maps.draw_lead_lag_map(world["coupling"], world["shapes"], world["base"], SPAN)
    lags = artists(figure, "mascons")
    np.testing.assert_allclose(lags[0].get_array(), [0, 1, 2])
    np.testing.assert_allclose(lags[2].get_array(), [600, 650, 700])
    assert len(artists(figure, "significant_35")) == 3
    assert not artists(figure, "significant_50")
    assert "positive: mass lags elevation" in texts(figure)
    assert "positive: mass follows elevation" in texts(figure).replace("\n", " ")


def test_regime_map_names_every_regime(world):
    figure = figures_maps.draw_regime_map(
        world["regimes"], world["nodes"], world["regime_mascons"], world["centroids"],
        world["shapes"], world["base"],
    )  # fmt: skip
    images = [i for i in artists(figure, "nodes") if i.axes is figure.axes[0]]
    counts = np.unique(drawn_cells(images), return_counts=True)
    expected = world["regimes"]["regime"].dropna().value_counts().sort_index()
    np.testing.assert_array_equal(counts[1], expected.to_numpy())
    labels = [t.get_text().split(":")[0] for t in figure.legends[0].get_texts()]
    assert labels[:3] == ["0  rapid thinning outlet", "1  seasonal melt", "2  stable interior"]
    # Two legends in one: the nodes' and the mascons', each with what is not classified.
    assert labels[3:] == ["a", "0  rapid thinning outlet", "1  seasonal melt", "", "b"]
    (patches,) = artists(figure, "mascons")
    np.testing.assert_array_equal(patches.get_array(), [0, 1])


def lakes_figure(world, **changed):
    names = ("lakes", "lake_months", "lake_events", "searched", "matches", "base")
    return figures_maps.draw_lakes_map(*((world | changed)[name] for name in names))


def test_lakes_stand_where_they_are(world):
    figure = lakes_figure(world)
    np.testing.assert_allclose(
        artists(figure, "lakes_candidate")[0].get_xydata(), [[33.0, -1997.0]]
    )
    np.testing.assert_allclose(
        artists(figure, "lakes_lookalike")[0].get_xydata(), [[36.0, -1994.0]]
    )
    closer = next(axes for axes in figure.findobj(Axes) if "Jakobshavn" in axes.get_title("left"))
    outlines = [p for p in artists(figure, "lake") if p.axes is closer]
    ring = outlines[0].get_path().vertices
    assert np.hypot(ring[:, 0] - 33, ring[:, 1] + 1997).max() == pytest.approx(0.9, abs=0.01)
    (image,) = [i for i in artists(figure, "nodes") if i.axes is closer]
    shown = np.sort(np.ma.compressed(image.get_array()))
    mine = world["searched"][world["searched"]["window"] == "jakobshavn"]
    assert set(np.sort(mine["departure_range_m"])) <= set(shown)
    assert "range of departure from the ring (m)" in texts(figure).replace("\n", " ")


def test_inventory_lakes_are_marked_by_outcome(world):
    figure = lakes_figure(world)
    for outcome, place in (("hit", [33.5, -1997]), ("not_searched", [120, -1900])):
        marks = artists(figure, f"inventory_{outcome}")
        np.testing.assert_allclose(marks[0].get_xydata(), [place])
    said = texts(figure)
    assert "inventory lake with a candidate (1)" in said
    assert "inventory lake, not searched (1)" in said


def test_volumes_are_the_tables_with_sigma_and_dated_events(world):
    figure = lakes_figure(world)
    (line,) = artists(figure, "volume_1")
    mine = world["lake_months"][world["lake_months"]["lake_id"] == 1]
    np.testing.assert_array_equal(line.get_ydata(), mine["volume_km3"])
    np.testing.assert_array_equal(line.get_xdata(), mine["month"].to_numpy())
    (bars,) = [c for c in line.axes.collections if hasattr(c, "get_segments")]
    spread = np.array([np.ptp(part[:, 1]) for part in bars.get_segments()])
    np.testing.assert_allclose(spread, 2 * mine["volume_sigma_km3"])
    (band,) = artists(figure, "event_drain_1")
    first, last = (num2date(x) for x in (band.get_x(), band.get_x() + band.get_width()))
    assert (f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}") == ("2021-08-01", "2021-12-01")
    assert "drains 2021-08 to 2021-11: −0.021 ± 0.003 km³" in texts(figure)
    assert line.axes.get_title("left").startswith("1  ≥ 0.021 km³")
    assert "cut by unsearched ice" in texts(figure).replace("\n", " ")
    # A look-alike has no series.
    assert not artists(figure, "volume_2")
    whole = world["lakes"].assign(volume_is_lower_bound=False)
    assert "≥" not in texts(lakes_figure(world, lakes=whole))


def test_lakes_without_windows_are_enlarged_where_they_lie(world):
    searched = world["searched"].assign(
        window=pd.Series([None] * len(world["searched"]), dtype="str")
    )
    figure = lakes_figure(world, searched=searched)
    closer = next(axes for axes in figure.findobj(Axes) if "Lake 1" in axes.get_title("left"))
    assert closer.get_xlim() == pytest.approx((23.0, 43.0))
    # The look-alike lies in the same frame.
    assert not any("lake 2" in axes.get_title("left") for axes in figure.findobj(Axes))


def test_mascon_series_break_at_gaps(world):
    figure = figures_series.draw_mascon_series(world["fusion"], world["mascons"], "Testland")
    lines = artists(figure, "lwe_cm")
    assert len(lines) == 3
    one = world["fusion"][world["fusion"]["mascon_id"] == 35]
    expected = one["lwe_cm"].to_numpy() - np.nanmean(one["lwe_cm"].to_numpy())
    drawn = next(
        y for y in (np.asarray(li.get_ydata(), float) for li in lines)
        if np.allclose(y, expected, equal_nan=True)
    )  # fmt: skip
    assert np.isnan(drawn[5])
    assert np.isfinite(drawn).sum() == 74


def test_absent_months_break_lines_too(world):
    table = pd.DataFrame(
        {"month": np.array(["2020-01-01", "2020-04-01"], dtype="datetime64[us]"), "v": [1.0, 2.0]}
    )
    whole = style.with_gaps(table, ["v"])
    np.testing.assert_array_equal(whole["v"], [1.0, np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(style.lone_points(whole["v"].to_numpy()), [0, 3])


def test_totals_draw_every_source_on_the_common_mean(world):
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    quarters = MONTHS[3::3]
    frame = pd.DataFrame(
        {"month": quarters, "time": quarters, "value": np.arange(24.0), "sigma": np.nan}
    )
    other = Reference("Other", "volume", "instant", frame)
    comparison = compare_series(totals, [other])
    figure = figures_series.draw_totals(totals, comparison, [other], "Testland")
    gravity = totals[totals["source"] == "gravity"]["mass_gt"].to_numpy()
    whole, recent = artists(figure, "gravity (GRACE)")
    np.testing.assert_allclose(whole.get_ydata(), gravity)
    np.testing.assert_allclose(recent.get_ydata(), gravity - np.nanmean(gravity))
    wide = totals[totals["source"] == "altimetry_917"]["mass_gt"].to_numpy()
    drawn = artists(figure, "altimetry at 917 kg/m³")[0].get_ydata()
    np.testing.assert_allclose(drawn, wide - wide[np.isfinite(gravity)].mean())
    marks = artists(figure, "reference Other at 850 kg/m³")
    np.testing.assert_allclose(np.diff(marks[0].get_ydata()), 0.85)
    change = artists(figure, "change gravity")[0].get_ydata()
    np.testing.assert_allclose(change[1:5], np.diff(gravity[:5]))
    assert np.isnan(change[[5, 6]]).all()


def test_totals_without_altimetry_still_draw_gravity(world):
    fusion = world["fusion"].assign(dh_m=np.nan, dh_sigma_m=np.nan)
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    figure = figures_series.draw_totals(totals, compare_series(totals, []), [], "Testland")
    assert len(artists(figure, "gravity (GRACE)")) == 2
    assert "at most 0 of the selected" in texts(figure)


def published():
    """A monthly mass with a gap, and a quarterly volume with one."""
    value = -200.0 * np.arange(75) / 12
    mass = pd.DataFrame({"month": MONTHS, "time": month_middle(MONTHS), "value": value})
    mass["sigma"] = np.sqrt(np.arange(75.0))
    quarters = MONTHS[3::3]
    volume = pd.DataFrame({"month": quarters, "time": quarters, "value": np.arange(24.0)})
    volume["sigma"] = 30.0
    return [
        Reference("Summed", "mass", "month", mass.drop(index=[30, 31]), cumulative=True),
        Reference("Volume", "volume", "instant", volume.drop(index=10)),
    ]


def test_few_months_of_altimetry_keep_the_common_record_of_gravity_and_published_series(world):
    fusion = world["fusion"]
    fusion = fusion[fusion["month"].between("2020-01-01", "2020-03-01")]
    references = published()
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    comparison = compare_series(totals, references)
    figure = figures_series.draw_totals(totals, comparison, references, "Testland")
    middle = figure.axes[1]
    recent = artists(figure, "gravity (GRACE)")[1]
    # The window is the published volume's, January 2019 to October 2024.
    assert np.isfinite(recent.get_ydata()).sum() == 69
    line = next(a for a in artists(figure, "reference Summed") if a.axes is middle)
    assert np.isnan(line.get_ydata()).sum() == 2, "no line across the gap"
    # A zero of its own for each would hide a level: all stand on gravity's common mean.
    gravity = totals[totals["source"] == "gravity"].set_index("month")["mass_gt"]
    mass = references[0].frame.set_index("month")["value"]
    window = gravity.loc["2019-01-01":"2024-10-01"]
    zero = gravity.loc["2020-01-01":"2020-03-01"].mean()
    shift = (window - mass).mean()
    drawn = pd.Series(line.get_ydata(), pd.date_range("2019-01-01", "2024-10-01", freq="MS"))
    expected = (mass + shift - zero).reindex(drawn.index)
    np.testing.assert_allclose(drawn, expected)
    for axes in figure.axes[:2]:
        shade = next(a for a in artists(figure, "period") if a.axes is axes)
        days = shade.get_extents().transformed(axes.transData.inverted())
        assert [f"{d:%Y-%m-%d}" for d in num2date([days.x0 + 0.01, days.x1 + 0.01])] == [
            "2020-01-01", "2020-04-01"
        ]  # fmt: skip
    marks = artists(figure, "months of altimetry")[0]
    assert len(marks.get_xdata()) == 3
    labels = {t.get_text() for t in figure.legends[0].get_texts()}
    assert {"gravity (GRACE)", "Summed", "Volume at 850 kg/m³"} <= labels


def test_bands_of_a_cumulative_series_start_with_the_panel(world):
    references = published()
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    figure = figures_series.draw_totals(totals, compare_series(totals, []), references, "T")
    bands = [
        c for c in figure.axes[1].collections
        if c.get_alpha() == 0.13 and isinstance(c, PolyCollection)
    ]  # fmt: skip
    heights = np.concatenate([p.vertices for p in bands[0].get_paths()])
    first = heights[heights[:, 0] == heights[:, 0].min()][:, 1]
    assert np.ptp(first) == pytest.approx(0, abs=1e-6)


def test_the_sheets_coupling_draws_pairs_line_and_numbers(world):
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    coupling = couple_sheet(totals, published()[1:], CouplingSettings(surrogates=50))
    figure = draw_sheet_coupling(totals, published()[1:], coupling, "Testland")
    raw = artists(figure, "pairs")[0].get_offsets()
    assert raw.shape == (74, 2)
    volume = totals[totals["source"] == "altimetry_850"]["volume_km3"].to_numpy()
    mass = totals[totals["source"] == "gravity"]["mass_gt"].to_numpy()
    both = np.isfinite(mass)
    np.testing.assert_allclose(raw[:, 0], volume[both] - volume[both].mean(), atol=1e-9)
    np.testing.assert_allclose(raw[:, 1], mass[both] - mass[both].mean(), atol=1e-9)
    line = artists(figure, "line")[0].get_xydata()
    row = coupling.iloc[0]
    assert np.diff(line[:, 1]) / np.diff(line[:, 0]) * 1e3 == pytest.approx(row["density_kg_m3"])
    numbers = artists(figure, "numbers")[0].get_text()
    assert f"n 74, nₑ {row['n_effective']:.1f}" in numbers
    assert f"{row['density_kg_m3']:.0f} (" in numbers
    assert len(artists(figure, "pairs")) == 6, "two pairs of series, three treatments"


def test_no_coupling_of_the_sheet_states_why(world):
    fusion = world["fusion"].assign(dh_m=np.nan, dh_sigma_m=np.nan)
    totals = sum_totals(fusion, world["mass"], world["mascons"], ApplicationSettings())
    coupling = couple_sheet(totals, [], CouplingSettings(surrogates=50))
    figure = draw_sheet_coupling(totals, [], coupling, "Testland")
    assert "a coupling needs 12" in texts(figure).replace("\n", " ")


def test_case_study_draws_the_tables_seasons(world):
    study = study_melt_seasons(
        world["fusion"],
        world["mascons"],
        CaseStudySettings(),
        SkillSettings(trees=10),
        ApplicationSettings(),
    )[0]
    figure = figures_series.draw_case_study(study, "Testland", (6, 7, 8))
    sheet = study[study["scope"] == "sheet"]
    for gid, column in (
        ("sheet predicted", "predicted_gt"),
        ("sheet observed", "observed_gt"),
        ("sheet late_predicted", "predicted_late_gt"),
        ("sheet late_observed", "observed_late_gt"),
        ("sheet dh", "dh_season_m"),
    ):
        np.testing.assert_allclose(artists(figure, gid)[0].get_ydata(), sheet[column])
    one = study[(study["year"] == 2020) & (study["scope"] != "sheet")]
    pairs = artists(figure, "mascons 2020")[0].get_xydata()
    np.testing.assert_allclose(pairs, one[["observed_gt", "predicted_gt"]].to_numpy(float))
    # Months count from June, the first of the season.
    for name in ("dh", "observed", "predicted"):
        low = sheet.set_index("year").loc[2020, f"{name}_minimum"]
        assert artists(figure, f"minimum {name} 2020")[0].get_xdata()[0] == (low - 6) % 12
        dots = artists(figure, f"minima {name} 2020")[0]
        places = np.sort(np.unique((one[f"{name}_minimum"] - 6) % 12))
        np.testing.assert_array_equal(dots.get_offsets()[:, 0], places)
    assert "mass, May to Aug" in texts(figure) and "mass, May to Feb" in texts(figure)


def test_skill_bars_draw_values_intervals_and_reasons(world):
    figure = figures_learning.draw_skill_bars(world["scores"], "Testland", SPAN)
    # Panel order: targets down, splits across; the first is change under random folds.
    point = next(a for a in artists(figure, "score xgboost") if a.axes is figure.axes[0])
    assert point.get_xdata()[0] == pytest.approx(0.7)
    bar = next(a for a in artists(figure, "interval xgboost") if a.axes is figure.axes[0])
    np.testing.assert_allclose(bar.get_xdata(), [0.6, 0.8])
    assert artists(figure, "below persistence")
    assert "−2.8" in texts(figure)
    assert "fewer than 24" in texts(figure).replace("\n", " ")


def learning_curve():
    """A curve forward in time with its blind twin; with mascons left out there is none."""
    rows = [
        ("ridge", 0.25, 8.0, -0.9, -1.5, -0.1), ("ridge", 0.5, 16.0, 0.2, 0.1, 0.3),
        ("ridge", 1.0, 32.0, 0.4, np.nan, np.nan), ("ridge_blind", 0.25, 8.0, 0.05, 0.0, 0.1),
        ("ridge_blind", 0.5, 16.0, 0.1, 0.05, 0.15),
        ("ridge_blind", 1.0, 32.0, 0.1, np.nan, np.nan),
    ]  # fmt: skip
    curve = pd.DataFrame(rows, columns=["model", "share", "n_units", "r2", "lower", "upper"])
    curve = curve.assign(split="forward", target="change", n_draws=3, reason=None)
    without = curve.assign(split="leave_mascon_out", r2=np.nan, reason="only one to leave out")
    return pd.concat([curve, without])


def test_learning_curves_draw_means_ranges_and_what_falls_below():
    figure = figures_learning.draw_learning_curve(learning_curve(), "Testland", SPAN)
    line = artists(figure, "curve ridge")[0]
    np.testing.assert_allclose(line.get_xdata(), [8, 16, 32])
    np.testing.assert_allclose(line.get_ydata(), [-0.9, 0.2, 0.4])
    assert artists(figure, "curve ridge_blind")[0].get_linestyle() == "--"
    ranges = [path.vertices[:, 1] for path in artists(figure, "range ridge")[0].get_paths()]
    np.testing.assert_allclose(ranges[:2], [[-1.5, -0.1], [0.1, 0.3]])
    assert line.axes.get_ylim()[0] > -0.9
    np.testing.assert_allclose(artists(figure, "below ridge")[0].get_xdata(), [8])
    assert len(artists(figure, "below ridge_blind")[0].get_xdata()) == 0
    assert "only one to leave out" in texts(figure).replace("\n", " ")


def test_a_blind_twin_stands_on_the_line_of_its_model(world):
    scores = world["scores"]
    twins = scores[scores["model"] == "xgboost"].assign(model="xgboost_blind", kind="control")
    figure = figures_learning.draw_skill_bars(pd.concat([scores, twins]), "Testland", SPAN)
    own, twin = (artists(figure, f"score {name}")[0] for name in ("xgboost", "xgboost_blind"))
    assert own.get_xdata()[0] == twin.get_xdata()[0]
    assert 0 < own.get_ydata()[0] - twin.get_ydata()[0] < 0.5
    assert twin.get_markerfacecolor() == "white" != own.get_markerfacecolor()
    assert "xgboost blind" not in texts(figure)


def test_predicted_observed_draws_the_best_models_pairs(world):
    table, scores = world["predictions"], world["scores"]
    figure = figures_learning.draw_predicted_observed(table, scores, "Testland")
    drawn = artists(figure, "pairs")
    part = table[(table["model"] == "xgboost") & (table["split"] == "random")]
    np.testing.assert_allclose(drawn[0].get_xdata(), part["observed_cm"])
    np.testing.assert_allclose(drawn[0].get_ydata(), part["predicted_cm"])
    assert len(drawn) == 3
    assert len(artists(figure, "reason")) == 1


def test_importance_bars(world):
    figure = figures_learning.draw_importance(world["importance"], "Testland", SPAN)
    widths = [b.get_width() for b in artists(figure, "group permutation change")]
    np.testing.assert_allclose(widths, np.sort([1.5 / (i + 1) - 0.4 for i in (0, 1, 3, 4)]))
    (family,) = artists(figure, "family permutation change")
    assert family.get_width() == pytest.approx(0.1)
    assert "all of the season" in texts(figure)


def test_calibration_is_the_measured_share(world):
    table = world["predictions"]
    figure = figures_learning.draw_calibration(table, "Testland", nominal=0.9)
    line = artists(figure, "coverage change ridge")[0]
    part = table[(table["model"] == "ridge") & (table["split"] == "random")]
    inside = np.abs(part["observed_cm"] - part["predicted_cm"]).to_numpy() <= 4
    assert line.get_ydata()[0] == pytest.approx(100 * inside.sum() / inside.size)


def test_regime_selection_marks_the_chosen(world):
    figure = figures_learning.draw_regime_selection(world["stability"], "Testland", SPAN)
    assert {line.get_xdata()[0] for line in artists(figure, "chosen")} == {4}


def test_all_null_tables_state_the_reason_on_the_frame(world):
    base, shapes = world["base"], world["shapes"]
    nodes = world["nodes"].assign(
        rate_m_yr=np.nan, amplitude_m=np.nan, phase_rad=np.nan, n_segments=0,
        reason="fewer than 12 segments",
    )  # fmt: skip
    scores = world["scores"].assign(value=np.nan, reason="fewer than 24 training months")
    coupling = world["coupling"].assign(
        r=np.nan, q_fdr=np.nan, p_best=np.nan, density_kg_m3=np.nan, reason="no common month"
    )
    parts = ["explained_total", "explained_trend", "explained_seasonal", "explained_interannual"]
    explained = world["explained"].assign(**dict.fromkeys(parts, np.nan), reason="no prediction")
    regimes = world["regimes"].assign(regime=np.nan, reason="12 nodes are too few")
    fusion = world["fusion"].assign(dh_m=np.nan, lwe_cm=np.nan, reason="no node seen")
    predictions = world["predictions"].iloc[:0]
    importance = world["importance"].assign(importance=np.nan, reason="no prediction")
    stability = world["stability"].assign(
        silhouette=np.nan, gap=np.nan, adjusted_rand=np.nan, chosen=False, reason="12 nodes"
    )
    months = world["node_months"].iloc[:0]
    lakes = world["lakes"].iloc[:0]
    study = pd.DataFrame(
        [{"scope": "sheet", "year": 2019, "n_months": 0, "reason": "no gravity"}], columns=COLUMNS
    )
    figures = {
        "fewer than 12 segments": figures_altimetry.draw_rate_map(nodes, base),
        "fewer than 24 training months": figures_maps.draw_skill_map(scores, shapes, base, SPAN),
        "no common month": figures_maps.draw_coupling_map(coupling, lakes, shapes, base, SPAN),
        "no prediction": figures_maps.draw_explained_map(explained, shapes, base, SPAN),
        "12 nodes are too few": figures_maps.draw_regime_map(
            regimes, nodes, world["regime_mascons"], world["centroids"].iloc[:0], shapes, base
        ),
        "no lake candidate found": lakes_figure(
            world, lakes=lakes, lake_months=world["lake_months"].iloc[:0]
        ),
        "no node seen": figures_series.draw_mascon_series(fusion, world["mascons"], "Testland"),
        "no gravity": figures_series.draw_case_study(study, "Testland", (6, 7, 8)),
    }
    for reason, figure in figures.items():
        found = [
            t for t in artists(figure, "reason") if t.get_text().replace("\n", " ").endswith(reason)
        ]
        assert found, reason
        if reason not in ("no gravity", "no node seen"):
            assert artists(figure, "scale_bar"), reason
    for figure in (
        figures_altimetry.draw_amplitude_map(nodes, base),
        figures_altimetry.draw_coverage(nodes, months, base, shapes),
        figures_altimetry.draw_filter_costs(world["filter_report"].iloc[:0], "Testland"),
        figures_altimetry.draw_filter_costs(
            world["filter_report"].query("stage != 'filter'"), "Testland"
        ),
        figures_maps.draw_lead_lag_map(coupling, shapes, base, SPAN),
        figures_learning.draw_skill_bars(scores, "Testland", SPAN),
        figures_learning.draw_predicted_observed(predictions, scores, "Testland"),
        figures_learning.draw_importance(importance, "Testland", SPAN),
        figures_learning.draw_calibration(predictions, "Testland"),
        figures_learning.draw_regime_selection(stability, "Testland", SPAN),
    ):
        assert artists(figure, "reason")


def test_files_are_the_same_twice_and_carry_no_date(world, tmp_path):
    digests = []
    for turn in ("a", "b"):
        figure = figures_maps.draw_skill_map(world["scores"], world["shapes"], world["base"], SPAN)
        png, pdf = tmp_path / f"{turn}.png", tmp_path / f"{turn}.pdf"
        style.save(figure, png, pdf)
        content = pdf.read_bytes()
        assert b"CreationDate" not in content
        # TrueType, and vectors but for the colour bar.
        assert b"/FontFile2" in content and b"/Subtype /Type3" not in content
        assert content.count(b"/Subtype /Image") <= 2
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in (png, pdf)])
    assert digests[0] == digests[1]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("value", "expected"), [(0.61, 0.7), (1.0, 1.0), (230, 250), (9.0, 10.0)])
def test_nice_ceiling(value, expected):
    assert style.nice_ceiling(value) == pytest.approx(expected)


def test_paths_keep_holes():
    ring = shapely.Polygon(
        shapely.box(0, 0, 4000, 4000).exterior, [shapely.box(1000, 1000, 2000, 2000).exterior]
    )
    path = style.outline_path(ring)
    assert (path.codes == path.MOVETO).sum() == 2
    assert path.vertices.max() == 4.0
