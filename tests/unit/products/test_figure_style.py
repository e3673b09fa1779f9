"""What every figure owes a reader: units, zero in the middle, months, nothing cut, real vectors."""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, TwoSlopeNorm, to_hex
from matplotlib.patches import Patch
from matplotlib.text import Text

from cryofuse.calendar import month_range
from cryofuse.config import (
    ApplicationSettings,
    CaseStudySettings,
    CouplingSettings,
    SkillSettings,
)
from cryofuse.products import (
    figures_altimetry,
    figures_applications,
    figures_learning,
    figures_maps,
    figures_series,
    style,
)
from cryofuse.products.case_study import study_melt_seasons
from cryofuse.products.figures_sheet import draw_sheet_coupling
from cryofuse.products.sheet import couple_sheet
from cryofuse.products.totals import compare_series, sum_totals
from tests.unit.products.test_figures import (
    MONTHS,
    SPAN,
    artists,
    lakes_figure,
    learning_curve,
    texts,
)
from tests.unit.products.test_figures_applications import early_warning, rapid_melt, sensitivity

MAPS = {
    "rate_map", "amplitude_map", "coverage", "regime_map", "skill_map", "explained_map",
    "coupling_map", "lead_lag_map", "lakes_map",
}  # fmt: skip


def shipped():
    """The names of all figures, as the workflow lists them."""
    rules = Path(__file__).parents[3] / "workflow/rules/common.smk"
    listed = re.search(r"^FIGURES = (\{.*?^\})", rules.read_text(), re.DOTALL | re.MULTILINE)
    return {name for names in ast.literal_eval(listed.group(1)).values() for name in names}


@pytest.fixture(scope="module")
def drawn(world):
    """Every figure of the small fake world, of basins in place of mascons, by its name."""
    base, unit = world["base"], "basin"
    shapes = style.cut_mascons(world["mascons"], base, unit)
    fusion, mascons = world["fusion"], world["mascons"]
    totals = sum_totals(fusion, world["mass"], mascons, ApplicationSettings())
    lakes, coupling, scores = world["lakes"], world["coupling"], world["scores"]
    predictions, title = world["predictions"], "Testland"
    altimetry, maps, learning = figures_altimetry, figures_maps, figures_learning
    mascon_stability = world["stability"].assign(
        level="mascons", why="k = 4: 27 mascons are too few to choose by."
    )
    melt, rates = rapid_melt()
    trends, windows = early_warning()
    study = study_melt_seasons(
        fusion, mascons, CaseStudySettings(), SkillSettings(trees=5), ApplicationSettings()
    )[0]
    sheet = couple_sheet(totals, [], CouplingSettings(surrogates=20))
    return {
        "rate_map": altimetry.draw_rate_map(world["nodes"], base),
        "amplitude_map": altimetry.draw_amplitude_map(world["nodes"], base),
        "coverage": altimetry.draw_coverage(world["nodes"], world["node_months"], base, shapes),
        "filter_costs": altimetry.draw_filter_costs(world["filter_report"], title),
        "regime_map": maps.draw_regime_map(
            world["regimes"], world["nodes"], world["regime_mascons"], world["centroids"], shapes,
            base,
        ),
        "skill_map": maps.draw_skill_map(scores, shapes, base, SPAN),
        "explained_map": maps.draw_explained_map(
            world["explained"].replace({0.6: -210.0}), shapes, base, SPAN
        ),
        "coupling_map": maps.draw_coupling_map(coupling, lakes, shapes, base, SPAN),
        "lead_lag_map": maps.draw_lead_lag_map(coupling, shapes, base, SPAN),
        "lakes_map": lakes_figure(world),
        "mascon_series": figures_series.draw_mascon_series(fusion, mascons, title, unit),
        "totals": figures_series.draw_totals(totals, compare_series(totals, []), [], title, unit),
        "sheet_coupling": draw_sheet_coupling(totals, [], sheet, title),
        "case_study": figures_series.draw_case_study(study, title, (6, 7, 8), unit),
        "skill_bars": learning.draw_skill_bars(scores, title, SPAN, unit),
        "learning_curve": learning.draw_learning_curve(learning_curve(), title, SPAN, unit),
        "predicted_observed": learning.draw_predicted_observed(predictions, scores, title, unit),
        "importance": learning.draw_importance(world["importance"], title, SPAN),
        "calibration": learning.draw_calibration(predictions, title, 0.9, unit),
        "regime_selection": learning.draw_regime_selection(mascon_stability, title, SPAN, unit),
        "rapid_melt": figures_applications.draw_rapid_melt(melt, rates, title, unit),
        "early_warning": figures_applications.draw_early_warning(
            trends, windows, 24, title, unit
        ),
        "sensitivity": figures_applications.draw_sensitivity(sensitivity(), title, unit),
    }  # fmt: skip


def test_every_figure_of_the_workflow_is_looked_at_here(drawn):
    assert set(drawn) == shipped()


def bars(figure):
    """The axes of a figure's colour bars."""
    return [axes for axes in figure.axes if str(axes.get_gid()).startswith("colour_bar")]


def shades(axes):
    """What a colour bar shows: its colours and norm."""
    (mesh,) = axes.findobj(QuadMesh)
    return mesh


def test_every_colour_bar_has_a_unit_and_a_diverging_one_has_zero_in_its_middle(drawn):
    found = [(name, bar) for name, figure in drawn.items() for bar in bars(figure)]
    assert {name for name, _ in found} == MAPS - {"regime_map"}
    for name, axes in found:
        label = axes.get_xlabel() or axes.get_ylabel()
        assert re.search(r"\(.+\)", label), name
        bar = shades(axes)
        norm, diverging = bar.norm, bar.cmap.name.startswith("vik")
        assert isinstance(norm, TwoSlopeNorm) or not diverging or name == "lead_lag_map"
        if diverging:
            assert norm.vmin == -norm.vmax, name
            middle = np.array(bar.cmap(norm(0.0))[:3])
            assert np.ptp(middle) < 0.05, f"{name}: zero is neither red nor blue"


#: What an axis may count or name without a unit of measure.
COUNTS = re.compile(
    r"\(.+\)|%|^m$|^m per month$|^Gt( per month)?$|^[mG]t?²$|^1$|number of|training|mm per month"
    r"|^p;|monthly change|cumulative anomaly"
)


def test_every_axis_has_a_unit(drawn):
    for name, figure in drawn.items():
        for axes in figure.findobj(Axes):
            for label in (axes.get_xlabel(), axes.get_ylabel()):
                assert not label or COUNTS.search(label), (name, label)


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
            for axes in [*figure.axes, *(c for a in figure.axes for c in a.child_axes)]
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
        (head,) = (t for t in figure.texts if t.get_text() == figure.get_suptitle())
        foot = head.get_window_extent().y0
        for text in figure.findobj(Text):
            if text.axes is not None and text.get_text() and text in text.axes.get_children():
                assert text.get_window_extent().y1 <= foot + 1, (name, text.get_text())


def test_ice_without_a_fit_is_no_colour_of_the_map(world, drawn):
    grey = to_hex(style.UNSEEN)
    faces = [to_hex(p.get_facecolor()) for p in drawn["rate_map"].axes[0].patches]
    assert grey in faces
    shades = style.DIVERGING(np.linspace(0, 1, 256))[:, :3]
    own = np.array([int(grey[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert np.abs(shades - own).max(axis=1).min() > 0.03
    assert "ice without a fit" in texts(drawn["rate_map"])


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
    said = texts(drawn["explained_map"]).replace("\n", " ")
    # Three mascons and the region, two targets, one of four parts set to −210; two are null.
    assert "Of 30 values the colour bar leaves out 8 below −1, down to −210." in said
    assert bars(drawn["explained_map"])[0].get_gid() == "colour_bar min"
    assert style.beyond_text([0.5, np.nan, -1.0], TwoSlopeNorm(0, -1, 1)) == ""
    many = style.beyond_text([65_600.0, 0.25, 9.0], Normalize(1, 7000))
    assert many.endswith("1 below 1, down to 0.25 and 1 above 7,000, up to 65,600.")


def test_the_heat_map_says_where_each_row_lies(drawn):
    heat = artists(drawn["explained_map"], "heat")[0].axes
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


def test_lags_told_from_chance_alone_are_coloured(world):
    figure = figures_maps.draw_lead_lag_map(
        world["coupling"], world["shapes"], world["base"], SPAN, 0.05
    )
    # Of mascons 35, 50 and 68 only the first is told from chance; the fourth has no value.
    for patches in artists(figure, "mascons"):
        np.testing.assert_array_equal(patches.get_alpha(), [1, 0, 0])
    for axes in figure.axes[:3]:
        inks = [to_hex(t.get_color()) for t in artists(figure, "number") if t.axes is axes]
        assert inks.count(style.FAINT) == 2 and len(inks) == 3
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert "white: not significant" in labels


def test_what_each_bar_leaves_out_is_said(world, drawn):
    for name, pattern in (
        ("rate_map", r"Of 678 values the colour bar leaves out \d+ below"),
        ("amplitude_map", r"a: of 678 values"),
        ("coverage", r"a: of 678 values the colour bar leaves out \d+ below"),
        ("lakes_map", r"Of 64 values the colour bar leaves out"),
    ):
        arrows = [bar for bar in bars(drawn[name]) if not bar.get_gid().endswith("neither")]
        said = texts(drawn[name]).replace("\n", " ")
        assert bool(arrows) == bool(re.search(pattern, said)), name
        assert said.count("the colour bar leaves out") == len(arrows), name


def test_lakes_under_one_mark_are_counted(world):
    lakes = world["lakes"]
    both = pd.concat([lakes, lakes.iloc[:1].assign(lake_id=3)], ignore_index=True)
    for table, window, note in (
        (lakes, "A\n1 candidate\n1 look-alike", "1 candidate; 1 look-alike; 64 nodes"),
        (both, "A\n2 candidates\n1 look-alike", "2 candidates; 1 look-alike; 64 nodes"),
    ):
        figure = lakes_figure(world, lakes=table)
        assert window in [t.get_text() for t in figure.findobj(Text)]
        assert note in texts(figure).replace("\n", " ")


def test_a_long_bar_is_cut_by_an_axis_that_holds_the_volumes(world):
    months = world["lake_months"].copy()
    months.loc[0, "volume_sigma_km3"] = 5.0
    figure = lakes_figure(world, lake_months=months)
    (line,) = artists(figure, "volume_1")
    low, high = line.axes.get_ylim()
    assert low <= line.get_ydata().min() and line.get_ydata().max() <= high < 0.1
    assert "cut where a bar outreaches the panel" in texts(figure).replace("\n", " ")


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
    (line,) = artists(figure, "month change forward")
    np.testing.assert_allclose(line.get_ydata(), expected)
    said = texts(figure).replace("\n", " ")
    low, high = (f"{v:.0f} % in {style.MONTH_NAMES[expected.index(v)]}"
                 for v in (min(expected), max(expected)))  # fmt: skip
    assert f"forward in time {low}, {high}" in said
    assert line.axes.get_ylim()[0] <= min(expected)
    assert line.axes.get_ylim()[0] > min(expected) - 15, "the axis is for what differs"


def test_calibration_of_the_cumulative_anomaly_has_its_own_row(world):
    table = world["predictions"]
    wide = table["predicted_cm"] + 100
    cumulative = table.assign(target="cumulative", upper_cm=wide, lower_cm=wide - 200)
    figure = figures_learning.draw_calibration(pd.concat([table, cumulative]), "Testland", 0.9)
    (points,) = artists(figure, "coverage cumulative ridge")
    np.testing.assert_allclose(points.get_ydata(), 100)
    assert points.axes.get_title("left") == "c  cumulative anomaly, by split and model"
    said = texts(figure).replace("\n", " ")
    assert "Furthest from nominal in c: ridge regression, random (it leaks), 100 %" in said


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
    [(1, "", -0.04, "-0.04"), (1, "", -0.06, "-0.1"), (1, "", -0.004, "0.00"),
     (1, "", -209.6, "-210"), (2, "", 0.256, "0.26"), (0, "+", 3.0, "+3"),
     (0, "+", 0.2, "0"), (2, "+", -0.001, "0.00")],
)  # fmt: skip
def test_numbers_in_maps(digits, sign, value, text):
    assert style.decimals(digits, sign)(value) == text


def test_features_and_models_are_named_in_words(world):
    named = {
        "elevation_change_1m": "elevation change, 1 month",
        "elevation_change_12m": "elevation change, 12 months",
        "spread": "unevenness of the change",
        "new_feature": "new feature",
    }
    rows = (
        world["importance"]
        .iloc[:4]
        .assign(target="change", method="permutation", kind="group", group=list(named))
    )
    rows = pd.concat([rows, rows.iloc[:1].assign(kind="family", group="sampling")])
    figure = figures_learning.draw_importance(rows, "Testland", SPAN)
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert labels == {*named.values(), "all of the sampling"}
    scores = world["scores"].replace({"ridge": "hist_gradient_boosting", "noise": "control_noise"})
    figure = figures_learning.draw_skill_bars(scores, "Testland", SPAN)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [
        "gradient boosting", "XGBoost", "calendar month's mean", "last month's value",
        "noise control, forest",
    ]  # fmt: skip
    titles = [axes.get_title("left")[:3] for axes in figure.axes]
    assert titles == [f"{letter}  " for letter in "abcdefgh"]


def test_places_in_words():
    assert style.place_text(66.4, 319.2) == "66°N 41°W"
    assert style.place_text(-75.0, 105.0) == "75°S 105°E"
