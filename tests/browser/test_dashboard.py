"""The dashboard in a browser: alone, by mouse, by keyboard, on a phone, in print, and by axe.

What it shows is compared with the Parquet files as pandas reads them.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest

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
    choose_layer(page, "Explained: interannual")
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
    choose_layer(page, "Summer 2020: predicted mass change")
    row = case.loc[("mascon:68", 2020)]
    bounds = f"{row['predicted_lower_gt']:.1f} to {row['predicted_upper_gt']:.1f} Gt"
    assert label_of(page, 68).endswith(f": {shown(row['predicted_gt'], 2, 'Gt')} ({bounds})")
    assert page.inner_text("#layer-title") == "Summer 2020: predicted mass change (Gt)"


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
        f"2022-01: GRACE {shown(gravity['mass_gt'], 0, 'Gt')} "
        f"({shown(gravity['sea_level_mm'], 2, 'mm')}); altimetry, density 850 kg/m³ "
        f"{shown(altimetry['mass_gt'], 0, 'Gt')} ({shown(altimetry['sea_level_mm'], 2, 'mm')})."
    )
    page.select_option("#quantity", "sea_level_mm")
    assert page.inner_text("#totals h3") == "Global mean sea level (mm)"
    move_slider(page, "2019-03")
    assert "GRACE no value" in page.inner_text("#totals-values")


def test_the_series_can_be_read_as_a_table(page, table):
    page.click("#mascon-table summary")
    cells = page.locator("#mascon-table tbody tr >> nth=5").locator("td").all_inner_texts()
    rows = table("product")
    row = rows[rows["mascon_id"] == 68].iloc[5]
    assert cells[:3] == ["68", "2019-03", shown(row["dh_m"], 3)]
    assert cells[-2:] == ["false", "–"]


def test_the_page_is_small(folder):
    assert (folder / "dashboard.html").stat().st_size < 10e6


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
    for selector in ("#layer", "#month", "#mascon", "button >> nth=0", ".skip", "details >> nth=0"):
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
