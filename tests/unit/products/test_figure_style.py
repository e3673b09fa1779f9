"""What every figure owes a reader: units, zero in the middle, months, nothing cut, real vectors."""

import re

import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.colors import TwoSlopeNorm, to_hex
from matplotlib.patches import Patch
from matplotlib.text import Text

from cryofuse.calendar import month_range
from cryofuse.config import ApplicationSettings
from cryofuse.products import (
    figures_altimetry,
    figures_learning,
    figures_maps,
    figures_series,
    style,
)
from cryofuse.products.totals import compare_series, sum_totals
from tests.unit.products.test_figures import MONTHS, SPAN, artists, texts

MAPS = ("rate", "amplitude", "coverage", "regime", "skill", "explained", "coupling", "lead_lag")


@pytest.fixture(scope="module")
def drawn(world):
    """Every figure of the small fake world, of basins in place of mascons, by its name."""
    base, unit = world["base"], "basin"
    shapes = style.cut_mascons(world["mascons"], base, unit)
    totals = sum_totals(world["fusion"], world["mass"], world["mascons"], ApplicationSettings())
    lakes, coupling, scores = world["lakes"], world["coupling"], world["scores"]
    predictions, title = world["predictions"], "Testland"
    altimetry, maps, learning = figures_altimetry, figures_maps, figures_learning
    return {
        "rate": altimetry.draw_rate_map(world["nodes"], base),
        "amplitude": altimetry.draw_amplitude_map(world["nodes"], base),
        "coverage": altimetry.draw_coverage(world["nodes"], world["node_months"], base, shapes),
        "filter_costs": altimetry.draw_filter_costs(world["filter_report"], title),
        "regime": maps.draw_regime_map(
            world["regimes"], world["nodes"], world["regime_mascons"], world["centroids"], shapes,
            base,
        ),
        "skill": maps.draw_skill_map(scores, shapes, base, SPAN),
        "explained": maps.draw_explained_map(
            world["explained"].replace({0.6: -210.0}), shapes, base, SPAN
        ),
        "coupling": maps.draw_coupling_map(coupling, lakes, shapes, base, SPAN),
        "lead_lag": maps.draw_lead_lag_map(coupling, shapes, base, SPAN),
        "series": figures_series.draw_mascon_series(
            world["fusion"], world["mascons"], title, unit
        ),
        "totals": figures_series.draw_totals(totals, compare_series(totals, []), [], title, unit),
        "skill_bars": learning.draw_skill_bars(scores, title, SPAN, unit),
        "predicted": learning.draw_predicted_observed(predictions, scores, title, unit),
        "importance": learning.draw_importance(world["importance"], title, SPAN),
        "calibration": learning.draw_calibration(predictions, title, 0.9, unit),
    }  # fmt: skip


def bars(figure):
    return [a._colorbar for a in figure.axes if hasattr(a, "_colorbar")]


def test_every_colour_bar_has_a_unit_and_a_diverging_one_has_zero_in_its_middle(drawn):
    found = [(name, bar) for name, figure in drawn.items() for bar in bars(figure)]
    assert {name for name, _ in found} == set(MAPS) - {"regime"}
    for name, bar in found:
        label = bar.ax.get_xlabel() or bar.ax.get_ylabel()
        assert re.search(r"\(.+\)", label), name
        norm, diverging = bar.norm, bar.cmap.name.startswith("vik")
        assert isinstance(norm, TwoSlopeNorm) or not diverging or name == "lead_lag"
        if diverging:
            assert norm.vmin == -norm.vmax, name
            middle = np.array(bar.cmap(norm(0.0))[:3])
            assert np.ptp(middle) < 0.05, f"{name}: zero is neither red nor blue"


def test_every_figure_states_its_months_and_of_basins_none_speaks_of_mascons(drawn):
    for name, figure in drawn.items():
        said = texts(figure).replace("\n", " ")
        pattern = r"20\d\d(-\d\d)? to 20\d\d(-\d\d)?"
        assert re.search(pattern, said), name
        assert "mascon" not in said.lower().replace("baseline of the mascon file", ""), name


def test_maps_have_ice_and_coast_graticule_and_scale_bar(drawn, world):
    edges = {to_hex(style.EDGE), "#a39d92"}
    for name in MAPS:
        figure = drawn[name]
        assert len(artists(figure, "scale_bar")) == texts(figure).count(" km |") > 0, name
        outlines = {to_hex(p.get_edgecolor()) for p in figure.findobj(Patch)}
        assert edges <= outlines, name
        assert "70°N" in texts(figure) and "30°W" in texts(figure), name


def test_no_text_is_cut_by_the_edge_of_a_figure_and_no_axis_lies_on_the_title(drawn):
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        frame = figure.bbox.padded(1)
        # Labels of ticks beyond the limits exist, but are not drawn.
        ticks = {
            label
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for which in (False, True)
            for label in axis.get_ticklabels(minor=which)
        }
        for text in figure.findobj(Text):
            axes = text.axes
            if not text.get_text().strip() or not text.get_visible():
                continue
            if axes is not None and not (axes.get_visible() and axes.axison):
                continue
            box = text.get_window_extent()
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            assert inside or text in ticks, (name, text.get_text(), box)
        foot = figure._suptitle.get_window_extent().y0
        for axes in figure.axes:
            assert axes.title.get_window_extent().y1 <= foot + 1, name
            assert axes._left_title.get_window_extent().y1 <= foot + 1, name


def test_ice_without_a_fit_is_no_colour_of_the_map(world, drawn):
    grey = to_hex(style.UNSEEN)
    faces = [to_hex(p.get_facecolor()) for p in drawn["rate"].axes[0].patches]
    assert grey in faces
    shades = style.DIVERGING(np.linspace(0, 1, 256))[:, :3]
    own = np.array([int(grey[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert np.abs(shades - own).max(axis=1).min() > 0.03
    assert "ice without a fit" in texts(drawn["rate"])


def test_small_amplitudes_are_drawn_as_fitted_but_without_a_month(world):
    nodes = world["nodes"].iloc[[10, 11, 12]].assign(amplitude_m=[0.019, 0.02, np.nan])
    figure = figures_altimetry.draw_amplitude_map(nodes, world["base"])
    (small,) = artists(figure, "small")
    assert small.get_array().count() == 1
    month = [i for i in artists(figure, "nodes") if i.norm.vmax == 12]
    assert sum(i.get_array().count() for i in month) == 1
    assert "amplitude below 0.02 m" in texts(figure)


def test_coverage_draws_passes_too(world, drawn):
    left, right = (
        np.concatenate([i.get_array().compressed() for i in artists(drawn["coverage"], "nodes")
                        if i.axes is drawn["coverage"].axes[k]])
        for k in (0, 2)
    )  # fmt: skip
    here = world["nodes"]["n_segments"] > 0
    np.testing.assert_array_equal(np.sort(left), np.sort(world["nodes"].loc[here, "n_segments"]))
    np.testing.assert_array_equal(np.unique(right), [12])
    assert drawn["coverage"].axes[2].get_title("left") == "b  passes behind the node's fit"


def test_regimes_that_thin_stand_on_one_side_of_those_that_thicken():
    rates = pd.Series({"up": 0.4, "fast": -2.0, "slow": -0.3, "even": 0.01, "even too": -0.04})
    colours = figures_maps.regime_colours(rates)
    shades = style.DIVERGING_CLASSES(np.linspace(0, 1, 256))
    place = {n: int(np.abs(shades - c).sum(axis=1).argmin()) for n, c in colours.items()}
    assert place["fast"] < place["slow"] < 100 < place["even too"] < place["even"] < 150
    assert place["up"] > 180


def test_values_beyond_the_colour_bar_are_counted_and_said(drawn):
    said = texts(drawn["explained"]).replace("\n", " ")
    # Three mascons and the region, two targets, one of four parts set to −210; two are null.
    assert "Of 30 values the colour bar leaves out 8 below −1, down to −210." in said
    assert bars(drawn["explained"])[0].extend == "min"
    assert style.beyond_text([0.5, np.nan, -1.0], TwoSlopeNorm(0, -1, 1)) == ""


def test_the_heat_map_says_where_each_row_lies(drawn):
    heat = artists(drawn["explained"], "heat")[0].axes
    labels = [t.get_text() for t in heat.get_yticklabels()]
    # Boxes of 320 to 340°E and 79.5 to 82.5°N and so on, best first, and the region.
    assert labels == ["35: 81°N 30°W", "50: 78°N 42°W", "68: 72°N 45°W", "region"]


def test_hatching_stands_exactly_where_q_is_small(world):
    rng = np.random.default_rng(3)
    coupling = world["coupling"].copy()
    here = coupling["best"] & coupling["r"].notna()
    coupling.loc[here, "q_fdr"] = rng.uniform(0, 0.2, int(here.sum()))
    fdr = float(coupling.loc[here, "q_fdr"].median())
    for figure, treatments in (
        (figures_maps.draw_coupling_map(
            coupling, world["lakes"], world["shapes"], world["base"], SPAN, fdr
        ), ["raw", "detrended", "deseasonalised"]),
        (figures_maps.draw_lead_lag_map(coupling, world["shapes"], world["base"], SPAN, fdr),
         ["detrended", "deseasonalised", "detrended"]),
    ):  # fmt: skip
        for axes, treatment in zip(figure.axes[:3], treatments, strict=True):
            rows = coupling[here & (coupling["treatment"] == treatment)]
            expected = {f"significant_{i}" for i in rows.loc[rows["q_fdr"] <= fdr, "mascon_id"]}
            found = {
                p.get_gid() for p in axes.patches
                if str(p.get_gid()).startswith("significant") and p.get_hatch()
            }  # fmt: skip
            assert found == expected, treatment
        assert f"q ≤ {fdr:g}" in texts(figure)


def test_numbers_keep_off_the_lakes(world):
    shapes, base = world["shapes"], world["base"]
    draw = figures_maps.draw_coupling_map
    without = draw(world["coupling"], world["lakes"].iloc[:0], shapes, base, SPAN)
    number = artists(without, "number")[0]
    x, y = number.get_position()
    lakes = world["lakes"].iloc[:1].assign(x_m=1e3 * x, y_m=1e3 * y)
    figure = draw(world["coupling"], lakes, shapes, base, SPAN)
    moved = artists(figure, "number")[0]
    assert moved.get_text() == number.get_text()
    span = np.ptp(figure.axes[0].get_xlim())
    assert np.hypot(*np.subtract(moved.get_position(), (x, y))) > 0.02 * span
    place = shapely.Point(1e3 * np.array(moved.get_position()))
    assert any(shape.contains(place) for shape in shapes.ice)
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "candidate of an active lake" in labels
    assert "Mascons with lake candidates: 68." in texts(figure).replace("\n", " ")


def test_a_reason_stays_in_its_panel(world):
    explained = world["explained"].assign(
        explained_trend=np.nan, reason="no parts: 11 months, or not every calendar month; no more"
    )
    figure = figures_maps.draw_explained_map(explained, world["shapes"], world["base"], SPAN)
    figure.draw_without_rendering()
    (reason,) = artists(figure, "reason")
    panel, box = reason.axes.get_window_extent(), reason.get_window_extent()
    assert panel.x0 <= box.x0 and box.x1 <= panel.x1


def test_each_row_of_skill_has_its_own_axis_and_says_what_lies_below(world):
    scores = world["scores"].copy()
    change = (scores["target"] == "change") & (scores["score"] == "r2")
    scores.loc[change, ["value", "lower", "upper"]] *= 0.25
    figure = figures_learning.draw_skill_bars(scores, "Testland", SPAN)
    above, below = figure.axes[0], figure.axes[-1]
    # The best change is 0.25 × 0.7, its interval ends at 0.2; persistence has 0.25 × −2.8.
    assert -0.3 < above.get_xlim()[0] < -0.2 and 0.2 < above.get_xlim()[1] < 0.3
    # The best cumulative anomaly ends at 0.8.
    assert below.get_xlim()[0] == pytest.approx(-0.8 * 1.08)
    low = next(a for a in artists(figure, "below persistence") if a.axes is above)
    assert low.get_xdata()[0] == pytest.approx(-0.2) and "−0.7" in texts(figure)


def test_calibration_by_calendar_month_is_drawn_and_its_ends_are_said(world):
    table = world["predictions"]
    figure = figures_learning.draw_calibration(table, "Testland", nominal=0.9)
    part = table[table["split"] == "forward"]
    inside = (part["observed_cm"] - part["predicted_cm"]).abs().to_numpy() <= 4
    calendar = part["month"].dt.month.to_numpy()
    expected = [100 * inside[calendar == m].mean() for m in range(1, 13)]
    (line,) = artists(figure, "month forward")
    np.testing.assert_allclose(line.get_ydata(), expected)
    said = texts(figure).replace("\n", " ")
    low, high = (f"{v:.0f} % in {style.MONTH_NAMES[expected.index(v)]}"
                 for v in (min(expected), max(expected)))  # fmt: skip
    assert f"forward in time {low}, {high}" in said
    assert line.axes.get_ylim()[0] <= min(expected)
    assert line.axes.get_ylim()[0] > min(expected) - 15, "the axis is for what differs"


def test_months_without_a_value_are_marked_on_the_edge_and_break_the_line(world):
    fusion = world["fusion"].copy()
    one = (fusion["mascon_id"] == 35).to_numpy()
    lost = one & fusion["month"].isin(month_range("2020-04", "2020-06")).to_numpy()
    fusion.loc[lost, "dh_m"] = np.nan
    figure = figures_series.draw_mascon_series(fusion, world["mascons"], "Testland")
    (marks,) = artists(figure, "gaps dh_m")
    days = [p.vertices[:, 0] for p in marks.get_paths()]
    first = np.array([d.min() for d in days]).astype("datetime64[D]")
    last = np.array([d.max() for d in days]).astype("datetime64[D]")
    np.testing.assert_array_equal(first.astype(str), ["2020-04-01", "2020-05-01", "2020-06-01"])
    np.testing.assert_array_equal(last.astype(str), ["2020-05-01", "2020-06-01", "2020-07-01"])
    line = next(a for a in artists(figure, "dh_m") if a.axes is marks.axes)
    gap = np.flatnonzero(np.isnan(np.asarray(line.get_ydata(), float)))
    np.testing.assert_array_equal(MONTHS[gap], month_range("2020-04", "2020-06"))
    # GRACE's gap of March 2019 in each of the three.
    assert len(artists(figure, "gaps lwe_cm")) == 3


def test_mascon_series_run_from_north_to_south_and_west_to_east(world):
    mascons = world["mascons"].assign(selected=True, latitude=[75.2, 75.3, 78.1, 75.1])
    mascons = mascons.assign(longitude=[340.0, 300.0, 320.0, 310.0])
    figure = figures_series.draw_mascon_series(world["fusion"], mascons, "Testland")
    titles = [a.get_title("left") for a in figure.axes if a.get_title("left")]
    assert titles == ["68", "50", "90", "35"]


@pytest.mark.parametrize(
    ("digits", "sign", "value", "text"),
    [(1, "", -0.04, "0.0"), (1, "", -209.6, "-210"), (2, "", 0.256, "0.26"), (0, "+", 3.0, "+3"),
     (0, "+", 0.2, "0"), (2, "+", -0.001, "0.00")],
)  # fmt: skip
def test_numbers_in_maps(digits, sign, value, text):
    assert style.decimals(digits, sign)(value) == text


def test_groups_of_months_are_no_metres():
    assert figures_learning._group_name("elevation_change_1m") == "elevation change, 1 month"
    assert figures_learning._group_name("elevation_change_12m") == "elevation change, 12 months"


def test_places_in_words():
    assert style.place_text(66.4, 319.2) == "66°N 41°W"
    assert style.place_text(-75.0, 105.0) == "75°S 105°E"
