"""The dashboard in a browser: alone, by mouse, by keyboard, on a phone, in print, and by axe.

What it shows is compared with the Parquet files as pandas reads them.
"""

import json
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest

from benchmarks.dashboard import write_page
from tests.planted_dashboard import tables, write_dashboard
from tests.unit.products.test_answers import scores as gains

IDS = [35, 50, 68, 90]


@pytest.fixture(scope="module")
def table(folder):
    return lambda name: pd.read_parquet(folder / f"{name}.parquet")


def shown(value, digits=2, unit=""):
    """A number as the page writes it."""
    if pd.isna(value):
        return "no value"
    text = f"{value:.{digits}f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−") + (f" {unit}" if unit else "")


def choose_layer(page, title):
    page.select_option("#layer", label=title)


def move_slider(page, month):
    months = [f"{m:%Y-%m}" for m in pd.date_range("2018-10", "2024-12", freq="MS")]
    page.fill("#month", str(months.index(month)))


def label_of(page, number):
    return page.get_attribute(f"#mascon-{number}", "aria-label")


def download(page, click):
    with page.expect_download() as waiting:
        page.click(click)
    path = waiting.value.path()
    return waiting.value.suggested_filename, pd.read_csv(path)


def same(frame, expected):
    """Whether two frames hold exactly the same numbers, texts and nulls."""
    assert list(frame) == list(expected)
    for name in frame:
        a, b = frame[name].to_numpy(dtype=object), expected[name].to_numpy(dtype=object)
        both_null = pd.isna(a) & pd.isna(b)
        assert ((a == b) | both_null).all(), name


def test_rates_are_the_tables_and_what_is_missing_says_so(page, table):
    rates = table("fusion").groupby("mascon_id")["rate_m_yr"].first()
    for number in IDS[:3]:
        assert label_of(page, number).endswith(f": {shown(rates[number], 2, 'm/yr')}")
        assert page.text_content(f"#mascon-{number} text") in (shown(rates[number]), "")
    assert label_of(page, 90).endswith(": no value (no ice of the region in the mascon)")
    fills = [page.eval_on_selector(f"#mascon-{n} .ice", "e => e.style.fill") for n in IDS]
    assert len(set(fills)) == 4 and fills[3] == 'url("#null")'


def test_every_layer_can_be_chosen_and_shows_its_table(page, table):
    scores, explained = table("scores"), table("explained")
    skill = scores[(scores["model"] == "xgboost") & (scores["split"] == "forward")]
    skill = skill[(skill["target"] == "change") & (skill["score"] == "r2")].set_index("scope")
    choose_layer(page, "Skill: forward in time")
    assert label_of(page, 50).endswith(f": R² {shown(skill.loc['mascon:50', 'value'])}")
    assert label_of(page, 90).endswith(": no value (no held-out prediction to score)")
    choose_layer(page, "Explained: interannual")
    assert label_of(page, 90).endswith(": no value (the mascon is not in the totals)")
    rows = explained[explained["target"] == "change"].set_index("mascon_id")
    assert label_of(page, 35).endswith(f": share {shown(rows.loc[35.0, 'explained_interannual'])}")
    coupling = table("coupling")
    best = coupling[coupling["best"] & (coupling["treatment"] == "detrended")]
    choose_layer(page, "Coupling: detrended")
    r = best.set_index("mascon_id").loc[35, "r"]
    assert f": r {shown(r)} (lag +0 months, significant)" in label_of(page, 35)
    assert page.locator("#dots circle").count() == 1
    choose_layer(page, "Regime of elevation change")
    assert label_of(page, 35).endswith(": 0, rapid thinning outlet")
    assert page.inner_text("#legend").split("\n")[0].strip() == "0 rapid thinning outlet"
    case = table("case_study").set_index(["scope", "year"])
    choose_layer(page, "Melt season 2020: predicted mass change")
    row = case.loc[("mascon:68", 2020)]
    bounds = f"{row['predicted_lower_gt']:.1f} to {row['predicted_upper_gt']:.1f} Gt"
    assert label_of(page, 68).endswith(f": {shown(row['predicted_gt'], 2, 'Gt')} ({bounds})")
    assert page.inner_text("#layer-title") == "Melt season 2020: predicted mass change (Gt)"


def test_the_slider_changes_the_map_the_values_and_the_mark_in_the_series(page, table):
    months = table("product").set_index(["mascon_id", "month"])
    choose_layer(page, "Predicted mass change of the month")
    marks = []
    for month, number in product(("2020-05", "2023-11"), IDS[:3]):
        move_slider(page, month)
        row = months.loc[(number, pd.Timestamp(month))]
        assert label_of(page, number).endswith(shown(row["predicted_change_gt"], 2, "Gt"))
        marks.append(page.get_attribute("#series .cursor >> nth=0", "x1"))
    assert page.inner_text("#month-label") == "2023-11"
    assert page.inner_text("#layer-title").startswith("Predicted mass change of the month, 2023-11")
    assert len(set(marks)) == 2
    chosen = months.loc[(68, pd.Timestamp("2023-11"))]
    assert page.inner_text("#month-values") == (
        f"2023-11: elevation anomaly {shown(chosen['dh_m'])} (m); mass change observed "
        f"{shown(chosen['observed_change_gt'])}, predicted "
        f"{shown(chosen['predicted_change_gt'])} ({shown(chosen['predicted_change_lower_gt'])} to "
        f"{shown(chosen['predicted_change_upper_gt'])}) (Gt)."
    )


def test_a_month_without_gravity_says_so_and_still_has_a_prediction(page, table):
    months = table("product").set_index(["mascon_id", "month"])
    move_slider(page, "2019-03")
    assert page.inner_text("#month-label") == "2019-03, no GRACE solution"
    choose_layer(page, "Observed mass change of the month (GRACE)")
    assert label_of(page, 50).endswith(": no value (no GRACE solution in this month)")
    choose_layer(page, "Predicted mass change of the month")
    predicted = months.loc[(50, pd.Timestamp("2019-03")), "predicted_change_gt"]
    assert label_of(page, 50).endswith(shown(predicted, 2, "Gt"))


def test_a_click_shows_a_mascons_series_and_gaps_break_its_lines(page):
    assert page.inner_text("#h-mascon") == "Mascon 68"
    before = page.get_attribute("#series .line >> nth=0", "d")
    page.click("#mascon-35 .footprint")
    assert page.inner_text("#h-mascon") == "Mascon 35"
    assert page.get_attribute("#mascon-35", "aria-selected") == "true"
    assert page.get_attribute("#mascon-68", "aria-selected") == "false"
    assert page.get_attribute("#series .line >> nth=0", "d") != before
    charts = page.locator("#series .chart")
    assert charts.count() == 3
    # Elevation is whole; the gap of gravity breaks the observed line, not the predicted one.
    runs = [
        [len(d.split("L")) for d in charts.nth(i).locator(".line").evaluate_all(
            "all => all.map((e) => e.getAttribute('d'))")]
        for i in range(3)
    ]  # fmt: skip
    assert runs == [[75], [4, 68, 74], [5, 69, 74]]


def test_lines_are_drawn_at_the_values_of_the_table(page, table):
    """The scale is read from the ticks, the values from the line's points."""
    page.select_option("#mascon", "1")
    rows = table("product")
    values = rows.loc[rows["mascon_id"] == 50, "dh_m"].to_numpy()
    points = (
        page.get_attribute("#series .chart >> nth=0 >> .line", "d").removeprefix("M").split("L")
    )
    y = np.array([float(point.split()[1]) for point in points])
    labels = page.locator("#series .chart >> nth=0 >> text[text-anchor=end]")
    ticks = labels.evaluate_all("all => all.map((e) => [e.textContent, e.getAttribute('y')])")
    at = np.array([[float(t.replace("−", "-")), float(where) - 4] for t, where in ticks])
    slope, offset = np.polyfit(at[:, 1], at[:, 0], 1)
    assert y * slope + offset == pytest.approx(values, abs=0.06 * abs(slope))


def test_a_mascon_without_elevation_is_no_zero(page, table):
    page.select_option("#mascon", "3")
    text = page.inner_text("#series")
    assert "No value in any month." in text
    assert "elevation anomaly no value (m)" in page.inner_text("#month-values")
    # What the table says is text, whatever it holds.
    assert "<script>alert('x')" in page.inner_text("#month-values")


def test_the_keyboard_alone_reaches_and_changes_everything(page):
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "mascon-68":
            break
    assert reached[:3] == ["A", "layer", "month"] and reached[-1] == "mascon-68"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "mascon-50"
    ring = page.get_attribute("#focus-ring", "d")
    assert ring == page.get_attribute("#mascon-50 .footprint", "d")
    assert page.inner_text("#readout").startswith("Mascon 50:")
    assert page.inner_text("#h-mascon") == "Mascon 68"
    page.keyboard.press("Enter")
    assert page.inner_text("#h-mascon") == "Mascon 50"
    page.keyboard.press("End")
    page.keyboard.press(" ")
    assert page.inner_text("#h-mascon") == "Mascon 90"
    # One stop of the tab key, however many mascons there are.
    assert page.locator("#mascons [tabindex='0']").count() == 1
    page.focus("#month")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#month-label") == "2024-11"
    assert page.get_attribute("#month", "aria-valuetext") == "2024-11"


def test_a_downloaded_series_is_the_table(page, table):
    page.click("#mascon-35 .footprint")
    name, frame = download(page, "#save-series")
    expected = table("product")
    expected = expected[expected["mascon_id"] == 35][list(frame)].reset_index(drop=True)
    expected["month"] = expected["month"].dt.strftime("%Y-%m")
    assert name == "mascon_35.csv" and len(frame) == 75
    assert set(frame) == set(table("product"))
    same(frame, expected)


def test_a_downloaded_layer_is_the_month_shown(page, table):
    choose_layer(page, "Elevation anomaly of the month")
    move_slider(page, "2021-07")
    name, frame = download(page, "#save-layer")
    rows = table("product")
    rows = rows[rows["month"] == pd.Timestamp("2021-07")]
    assert name == "layer_dh_2021-07.csv"
    assert frame["mascon_id"].tolist() == IDS and set(frame["month"]) == {"2021-07"}
    same(frame[["mascon_id", "dh_m"]], rows[["mascon_id", "dh_m"]].reset_index(drop=True))


@pytest.mark.parametrize("name", ["totals", "sea_level", "lakes"])
def test_a_downloaded_table_is_the_table(page, table, name):
    _, frame = download(page, f"[data-table={name}]")
    expected = table(name)
    if name == "lakes":
        expected = expected[expected["status"] == "candidate"]
    expected = expected[list(frame)].reset_index(drop=True)
    for column in expected.select_dtypes("datetime"):
        expected[column] = expected[column].dt.strftime("%Y-%m")
    same(frame, expected)


def test_totals_follow_the_quantity_and_the_month(page, table):
    rows = table("totals").set_index(["source", "month"])
    move_slider(page, "2022-01")
    text = page.inner_text("#totals-values")
    gravity = rows.loc[("gravity", pd.Timestamp("2022-01"))]
    altimetry = rows.loc[("altimetry_850", pd.Timestamp("2022-01"))]
    assert text == (
        f"2022-01: gravity (GRACE) {shown(gravity['mass_gt'], 0, 'Gt')} "
        f"({shown(gravity['sea_level_mm'], 2, 'mm')}); altimetry at 850 kg/m³ "
        f"{shown(altimetry['mass_gt'], 0, 'Gt')} ({shown(altimetry['sea_level_mm'], 2, 'mm')})."
    )
    page.select_option("#quantity", "sea_level_mm")
    assert page.inner_text("#totals h3") == "Global mean sea level (mm)"
    move_slider(page, "2019-03")
    assert "gravity (GRACE) no value" in page.inner_text("#totals-values")


def test_the_series_can_be_read_as_a_table(page, table):
    page.click("#mascon-table summary")
    cells = page.locator("#mascon-table tbody tr >> nth=5").locator("td").all_inner_texts()
    rows = table("product")
    row = rows[rows["mascon_id"] == 68].iloc[5]
    assert cells[:3] == ["68", "2019-03", shown(row["dh_m"], 3)]
    assert cells[-2:] == ["false", "–"]


def test_greenlands_page_is_small_and_paints(open_page, tmp_path):
    """As many mascons and months as Greenland has; how soon it paints, the benchmark measures."""
    path = tmp_path / "greenland.html"
    written = write_page(str(path), pieces=1)
    assert (written["mascons"], written["months"]) == (31, 75)
    text = path.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert len(data["series"]) == 12
    assert {len(months) for all_ in data["series"].values() for months in all_} == {75}
    assert len(text.encode()) < 10e6
    page = open_page(path)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length === 1")
    assert page.locator(".mascon").count() == 31


def test_the_answer_holds_the_numbers_of_the_score_table(open_page, tmp_path):
    """Gains are shares in the table, whole per cents on the page."""
    given = tables()
    given["scores"] = pd.concat([given["scores"], gains()], ignore_index=True)
    page = open_page(write_dashboard(tmp_path, given))
    answer, verdict = page.inner_text("#answer"), page.inner_text("#verdict")
    written = pd.read_parquet(tmp_path / "scores.parquet")
    told = written[(written["score"] == "gain_vs_best") & (written["model"] == "ridge")]
    assert sorted(told["split"]) == ["forward", "leave_mascon_out"]
    for row in told.to_dict("records"):
        value, low, high = (round(100 * row[name]) for name in ("value", "lower", "upper"))
        said = f"squared error smaller by {value} %, 95 % range {low} to {high} %"
        assert said.replace("-", "−") in answer
        name = row["split"].replace("_", " ")
        assert f"{name} (ridge: gain {value:+d} % [{low:+d}, {high:+d}]" in verdict
    assert answer.startswith("In part.") and "but not demonstrably in later months" in answer


def heard(page, selector):
    return page.locator(selector).evaluate_all("all => all.map((e) => e.textContent)")


def test_a_short_record_has_its_months_on_the_axis(open_page, tmp_path):
    given = tables()
    months = ("2019-02", "2019-06")
    for name in ("product", "fusion", "totals"):
        rows = given[name]
        given[name] = rows[rows["month"].between(*map(pd.Timestamp, months))]
    period = {"start": months[0], "end": months[1], "length": "year"}
    path = write_dashboard(tmp_path, given, period)
    for width in (1280, 360):
        page = open_page(path, viewport={"width": width, "height": 900})
        for chart in ("#series .chart >> nth=0", "#totals .chart"):
            said = heard(page, f"{chart} >> svg >> nth=0 >> text[text-anchor=middle]")
            assert 2 <= len(said) and said == sorted(set(said))
            assert set(said) <= {f"2019-0{m}" for m in range(2, 7)}
            boxes = page.locator(f"{chart} >> svg >> nth=0 >> text[text-anchor=middle]")
            spans = [boxes.nth(i).bounding_box() for i in range(len(said))]
            ends = [(box["x"], box["x"] + box["width"]) for box in spans]
            assert all(a[1] < b[0] for a, b in zip(ends, ends[1:], strict=False))
            frame = page.locator(f"{chart} >> svg >> nth=0").bounding_box()
            assert ends[-1][1] <= frame["x"] + frame["width"]


def test_a_change_that_is_missing_after_a_gap_names_the_month_before(page):
    choose_layer(page, "Observed mass change of the month (GRACE)")
    move_slider(page, "2018-10")
    assert label_of(page, 50).endswith(": no value (no GRACE solution in the month before)")
    move_slider(page, "2019-04")
    assert label_of(page, 50).endswith(": no value (no GRACE solution in the month before)")
    move_slider(page, "2019-05")
    assert "no value" not in label_of(page, 50)


def test_one_mascons_gap_is_its_own_and_earlier_altimetry_is_named(open_page, tmp_path):
    given = tables()
    rows = given["product"]
    gap = (rows["mascon_id"] == 35) & (rows["month"] == pd.Timestamp("2021-05"))
    given["product"] = rows.assign(
        has_gravimetry=rows["has_gravimetry"] & ~gap,
        observed_change_gt=rows["observed_change_gt"].mask(gap),
        dh_m=rows["dh_m"].mask(gap),
    )
    page = open_page(write_dashboard(tmp_path, given))
    page.select_option("#mascon", "0")
    move_slider(page, "2021-05")
    choose_layer(page, "Observed mass change of the month (GRACE)")
    assert label_of(page, 35).endswith(": no value (no GRACE solution in this month)")
    assert "no value" not in label_of(page, 50)
    choose_layer(page, "Elevation anomaly of the month")
    assert label_of(page, 35).endswith(": no value (no elevation in this month)")
    choose_layer(page, "Predicted mass change of the month")
    assert label_of(page, 35).endswith(" Gt (predicted from earlier altimetry alone)")
    assert "earlier" not in label_of(page, 50)
    assert page.inner_text("#month-values").endswith(
        "Note: predicted from earlier altimetry alone."
    )


def test_a_map_that_no_month_changes_says_so_and_the_slider_still_moves_the_marks(page):
    assert "same for all months" in page.inner_text("#month-scope")
    assert page.inner_text("#layer-note").endswith("The same for all months.")
    dimmed = "e => getComputedStyle(e).accentColor"
    grey = page.eval_on_selector("#month", dimmed)
    before = [page.get_attribute(f"{box} .cursor >> nth=0", "x1") for box in ("#series", "#totals")]
    move_slider(page, "2020-05")
    after = [page.get_attribute(f"{box} .cursor >> nth=0", "x1") for box in ("#series", "#totals")]
    assert before[0] != after[0] and before[1] != after[1]
    choose_layer(page, "Elevation anomaly of the month")
    assert "same for all" not in page.inner_text("#month-scope") + page.inner_text("#layer-note")
    assert page.eval_on_selector("#month", dimmed) != grey


def test_numbers_dots_and_lakes_do_not_lie_over_each_other(page):
    choose_layer(page, "Coupling: raw")
    boxes = page.locator("#mascons text:not(:empty), #dots circle, .lake").evaluate_all(
        "all => all.map((e) => e.getBoundingClientRect()).map((r) => [r.x, r.y, r.right, r.bottom])"
    )
    assert len(boxes) >= 4
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            across = min(one[2], other[2]) - max(one[0], other[0])
            along = min(one[3], other[3]) - max(one[1], other[1])
            # Boxes of letters hold the room of accents, too.
            assert min(across, along) <= 2


def test_intervals_say_what_they_hold(page, table):
    rows = table("product").dropna(subset=["observed_mass_gt", "predicted_mass_lower_gt"])
    held = rows["observed_mass_gt"].between(
        rows["predicted_mass_lower_gt"], rows["predicted_mass_upper_gt"]
    )
    legend = page.inner_text("#series .chart >> nth=2")
    assert f"90 % interval (holds {100 * held.mean():.0f} %)" in legend
    said = page.inner_text("#inside")
    assert said.startswith("Intervals are meant to hold 90 % of GRACE's values.")
    assert f"{held.sum()} of {len(held)} anomalies" in said


def test_totals_state_their_zero_and_span_the_years_that_are_asked_for(open_page, tmp_path):
    given = tables()
    early = given["totals"][given["totals"]["source"] == "gravity"].copy()
    early["month"] = early["month"] - pd.DateOffset(years=10)
    early["mass_gt"] += 5000.0
    given["totals"] = pd.concat([early, given["totals"]], ignore_index=True)
    page = open_page(write_dashboard(tmp_path, given))
    assert "mean of 2004 to 2009" in page.inner_text("section[aria-labelledby=h-totals]")

    def axes():
        said = heard(page, "#totals svg >> nth=0 >> text")
        years = [int(text) for text in said if re.fullmatch(r"20\d\d", text)]
        heights = [
            float(t.replace("−", "-")) for t in said if int(t.replace("−", "-")) not in years
        ]
        return min(years), max(heights)

    assert axes()[0] == 2019 and axes()[1] < 1000
    page.select_option("#span", "whole")
    assert axes()[0] <= 2010 and axes()[1] >= 5000


def test_the_trends_bear_the_names_of_the_figures(page, table):
    rows = page.locator("[aria-label='Trends as mass and sea level'] tbody tr")
    cells = [rows.nth(i).locator("td").all_inner_texts() for i in range(rows.count())]
    assert [row[0] for row in cells] == ["gravity (GRACE)", "altimetry at 850 kg/m³"]
    trends = table("sea_level")["trend_gt_yr"]
    assert [row[5] for row in cells] == [shown(value, 1) for value in trends]


def test_a_phone_needs_no_sideways_scrolling(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.tap("#mascon-50 .footprint")
    assert page.inner_text("#h-mascon") == "Mascon 50"
    small = page.evaluate(
        "[...document.querySelectorAll('text')].filter((e) => e.textContent && e.checkVisibility())"
        ".map((e) => e.getBoundingClientRect().height).filter((h) => h < 10)"
    )
    assert small == []


def test_print_keeps_what_is_to_read_and_drops_what_is_to_press(page):
    page.emulate_media(media="print")
    for selector in ("#verdict", "#map", "#legend", "#layer-title", "#series", "#totals", "footer"):
        assert page.is_visible(selector), selector
    for selector in (
        "#layer",
        "#month",
        "#month-scope",
        "#mascon",
        "button >> nth=0",
        ".skip",
        "details >> nth=0",
    ):
        assert not page.is_visible(selector), selector
    assert len(page.pdf(format="A4")) > 10_000


def test_without_scripts_the_page_says_so(open_page):
    page = open_page(java_script_enabled=False)
    assert "need JavaScript" in page.inner_text("noscript")
    assert page.is_visible("#verdict") and page.is_visible("#map")


def test_motion_is_only_for_those_who_want_it(open_page):
    for wish, seconds in (("reduce", "0s"), ("no-preference", "0.15s")):
        page = open_page(reduced_motion=wish)
        path = "e => getComputedStyle(e).transitionDuration"
        assert page.eval_on_selector("#mascon-35 .ice", path) == seconds


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious(open_page, width):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(viewport={"width": width, "height": 900})
    states = [
        lambda: None,
        lambda: choose_layer(page, "Observed mass change of the month (GRACE)"),
        lambda: choose_layer(page, "Regime of elevation change"),
        lambda: page.select_option("#mascon", "3"),
        lambda: [box.click() for box in page.locator("summary").all()],
    ]
    for state in states:
        state()
        # The transition of a colour would be measured half-way.
        page.wait_for_timeout(200)
        found = Axe().run(page).response["violations"]
        assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found] == []
