"""The summary page on small tables: nulls, reasons, foreign text, and what does not hold."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cryofuse.products.summary import (
    describe_checks,
    describe_comparison,
    describe_coupling,
    describe_early_warning,
    describe_explained,
    describe_filters,
    describe_lakes,
    describe_rapid_melt,
    describe_sea_level,
    describe_sensitivity,
    describe_validation,
    judge_melt_seasons,
    render_summary,
    render_table,
    report_run,
)

from .conftest import (
    centroids,
    checks,
    coupling,
    explained,
    filter_report,
    inventory_matches,
    lake_events,
    lakes,
    searched_nodes,
    stability,
)

NASTY = 'a <script>alert("x")</script> & <img src="http://elsewhere.org/x.png">'


class Reader(HTMLParser):
    """Collects a page's rows of cells, its links, and the tags that stay open."""

    void = ("meta", "br", "img", "link")

    def __init__(self):
        super().__init__()
        self.rows, self.links, self.tags, self.open = [], [], [], []
        self.cell = None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def sea_level(**changed):
    row = {
        "source": "gravity",
        "start": pd.Timestamp("2018-10-01"),
        "end": pd.Timestamp("2021-12-01"),
        "n": 38,
        "trend_gt_yr": -263.4,
        "trend_sigma_gt_yr": 12.0,
        "sea_level_mm_yr": 0.7276,
        "sea_level_sigma_mm_yr": 0.0332,
        "density_kg_m3": np.nan,
        "density_lower_kg_m3": np.nan,
        "density_upper_kg_m3": np.nan,
        "reason": None,
    }
    return pd.DataFrame([row | changed])


def case_study(**changed):
    row = {"scope": "sheet", "year": 2019, "dh_season_m": -0.25, "observed_gt": -310.0}
    row |= {"observed_sigma_gt": 40.0, "predicted_gt": -290.0, "predicted_lower_gt": -350.0}
    row |= {"predicted_upper_gt": -230.0, "reason": None, "dh_change_sigma_m": 0.03}
    row |= {"observed_late_gt": -400.0, "observed_late_sigma_gt": 40.0}
    row |= {"predicted_late_gt": -360.0, "predicted_late_lower_gt": -420.0}
    row |= {"predicted_late_upper_gt": -300.0}
    for name, low in (("dh", 8), ("observed", 10), ("predicted", 9)):
        row |= {f"{name}_minimum": low, f"{name}_minimum_first": low - 1}
        row |= {f"{name}_minimum_last": low + 1}
    only_sheet_is_shown = row | {"scope": "mascon:35", "year": 1999}
    return pd.DataFrame([row | changed, only_sheet_is_shown])


def rapid_melt():
    month = pd.date_range("2019-05-01", periods=4, freq="MS")
    row = {"scope": "sheet", "source": "dh", "month": month, "flagged": [False, None, True, False]}
    return pd.DataFrame(row).astype({"flagged": "boolean"})


def rapid_melt_rates(**changed):
    row = {"scope": "sheet", "source": "dh", "n": 74, "n_flagged": 1, "most_by_chance": 4, "p": 0.7}
    row |= {"nominal_rate": 0.02, "false_alarm_rate": 0.021, "false_alarm_lower": 0.019}
    row |= {"false_alarm_upper": 0.023, "reason": None} | changed
    single = [row | {"scope": f"mascon:{i}", "p": p} for i, p in enumerate((0.01, 0.2, np.nan))]
    return pd.DataFrame([row, *single])


def early_warning():
    row = {"scope": "sheet", "source": "dh", "statistic": "variance", "n": 72, "tau": -0.4}
    row |= {"tau_lower": -0.8, "tau_upper": 0.8, "p": 0.9, "reason": None}
    return pd.DataFrame([row, row | {"scope": "mascon:1", "p": 0.04}])


def sensitivity():
    row = {"choice": "ice_fraction_of_land >= 0.25", "configured": True, "n_mascons": 27, "n": 200}
    row |= {"source": "gravity", "start": pd.Timestamp("2002-04-01"), "trend_gt_yr": -263.4}
    row |= {"end": pd.Timestamp("2024-08-01"), "trend_sigma_gt_yr": 4.0, "difference_gt_yr": 0.0}
    row |= {"change_gt": -5000.0, "sea_level_mm_yr": 0.73, "sea_level_sigma_mm_yr": 0.01}
    row |= {"reason": None}
    other = {"choice": "product_set", "configured": False, "trend_gt_yr": -256.0}
    return pd.DataFrame([row, row | other])


def comparison(**changed):
    row = {"series": "JPL", "source": "gravity", "n": 38, "r": 0.99, "rmse_gt": 55.0}
    row |= {"start": pd.Timestamp("2018-10-01"), "end": pd.Timestamp("2021-12-01")}
    row |= {"bias_gt": 12.0, "trend_gt_yr": -263.4, "reference_trend_gt_yr": -261.0}
    row |= {"trend_difference_gt_yr": -2.4, "trend_difference_lower_gt_yr": -5.04}
    row |= {"trend_difference_upper_gt_yr": 0.24, "reason": None}
    return pd.DataFrame([row | changed])


def sheet_coupling(**changed):
    row = {"volume": "ATL15", "mass": "JPL", "treatment": "raw", "n": 23, "n_effective": 7.8}
    row |= {"start": pd.Timestamp("2019-01-01"), "end": pd.Timestamp("2024-07-01"), "p": 0.002}
    row |= {"r": 0.92, "r_lower": 0.6, "r_upper": 0.99, "reason": None}
    row |= {"density_kg_m3": 766.4, "density_lower_kg_m3": 486.0, "density_upper_kg_m3": 1053.0}
    return pd.DataFrame([row | {"density_ols_kg_m3": 764.0} | changed])


def totals(seen=3, months=12):
    """A year of gravity and of altimetry that sees a mascon in its first months."""
    month = pd.date_range("2019-01-01", periods=months, freq="MS")
    n = np.where(np.arange(months) < seen, 5, 0)
    altimetry = {"source": "altimetry_850", "month": month, "n_mascons": n}
    altimetry |= {"volume_km3": np.where(np.arange(months) < seen - 1, 1.0, np.nan)}
    gravity = {"source": "gravity", "month": month, "n_mascons": 27, "volume_km3": np.nan}
    return pd.concat([pd.DataFrame(gravity), pd.DataFrame(altimetry)], ignore_index=True)


def metric(**changed):
    row = {"metric": "rate_bias_all", "value": 0.004, "tolerance": 0.01, "holds": True}
    return row | {"about": "median error of the rate", "reason": None} | changed


VALIDATION = {
    "world": {"track_step": 4, "segment_step": 20, "settings": {"seed": 1}, "windows": []},
    "metrics": [
        metric(),
        metric(metric="mascon_dh_rmse", value=0.3, tolerance=0.1, holds=False, about="RMSE of dh"),
        metric(
            metric="lakes",
            value=None,
            tolerance=None,
            holds=False,
            about=None,
            reason="tracks cross no planted lake",
        ),
    ],
}


def page(**changed):
    given = {
        "title": "Testland",
        "source": "synthetic",
        "unit": "mascon",
        "months": "2018-10 to 2021-12",
        "filter_report": filter_report(),
        "checks": checks(),
        "centroids": centroids(),
        "stability": stability(),
        "lead": "<h2>In short</h2>",
        "verdict": "Elevation change predicts mass change in this test.",
        "explained": explained(),
        "coupling": coupling(),
        "fdr": 0.1,
        "min_months": 24,
        "granules": 17,
        "totals": totals(),
        "sheet_coupling": sheet_coupling(),
        "sea_level": sea_level(),
        "comparison": comparison(),
        "case_study": case_study(),
        "season_months": [6, 7, 8],
        "coverage": 0.9,
        "rapid_melt": rapid_melt(),
        "rapid_melt_rates": rapid_melt_rates(),
        "early_warning": early_warning(),
        "sensitivity": sensitivity(),
        "lakes": lakes(),
        "lake_events": lake_events(),
        "searched_nodes": searched_nodes(),
        "inventory_matches": inventory_matches(),
        "features_ledger": pd.DataFrame(
            {
                "feature": ["dh_m", "speed_m_yr"],
                "n_null": [0, 12],
                "reason": [None, "the region names no velocity"],
            }
        ),
        "validation": VALIDATION,
    }
    return render_summary(**(given | changed))


def test_the_page_is_whole_and_links_to_nothing():
    text = page()
    found = read(text)
    assert found.links == []
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "<title>cryofuse: Testland</title>" in text
    assert "Elevation change predicts mass change in this test." in text
    assert "months 2018-10 to 2021-12, source synthetic" in text


@pytest.mark.parametrize(
    "null", [None, np.nan, pd.NA, pd.NaT], ids=["None", "nan", "pd.NA", "pd.NaT"]
)
def test_every_kind_of_null_is_a_dash(null):
    frame = pd.DataFrame({"a": ["x", "y"], "b": pd.Series(["z", null], dtype=object)})
    assert read(render_table(frame, {"a": "A", "b": "B"})).rows == [
        ["A", "B"],
        ["x", "z"],
        ["y", "–"],
    ]


def test_nulls_of_typed_columns_are_dashes():
    frame = pd.DataFrame(
        {
            "number": [1.5, np.nan],
            "count": pd.array([3, None], dtype="Int64"),
            "flag": pd.array([True, None], dtype="boolean"),
            "month": pd.to_datetime(["2019-03-01", None]),
            "text": pd.array(["a", None], dtype="str"),
        }
    )
    rows = read(render_table(frame, {name: name for name in frame})).rows
    assert rows[1] == ["1.5", "3", "yes", "2019-03", "a"]
    assert rows[2] == ["–"] * 5


def test_numbers_read_as_people_write_them():
    frame = pd.DataFrame({"v": [-0.26341, 12345.6, 0.0]})
    assert [row[0] for row in read(render_table(frame, {"v": "v"})).rows[1:]] == [
        "−0.263",
        "12 346",
        "0",
    ]
    counts = pd.DataFrame({"n": [1234567]})
    assert read(render_table(counts, {"n": "n"})).rows[1] == ["1 234 567"]


def test_missing_values_of_the_page_are_dashes_and_their_reason_stands_beside():
    text = page(
        sea_level=sea_level(
            trend_gt_yr=np.nan,
            trend_sigma_gt_yr=np.nan,
            sea_level_mm_yr=np.nan,
            sea_level_sigma_mm_yr=np.nan,
            reason="fewer than 24 months",
        ),
        comparison=comparison(r=np.nan, rmse_gt=np.nan, reason="no common month"),
        case_study=case_study(
            predicted_gt=np.nan,
            predicted_lower_gt=np.nan,
            predicted_upper_gt=np.nan,
            reason="no other year to train on",
        ),
    )
    assert "nan" not in re.sub(r"<style>.*</style>", "", text).lower()
    rows = {row[0]: row for row in read(text).rows}
    assert rows["gravity (GRACE)"][-5:] == ["–", "–", "–", "–", "fewer than 24 months"]
    told = "Not compared: JPL with gravity (GRACE) (no common month)."
    assert "JPL" not in rows and told in text
    assert rows["2019"][:4] == ["2019", "−0.25 ± 0.03", "−310 ± 40", "–"]
    assert rows["2019"][-1] == "no other year to train on"
    assert "1999" not in rows, "the table of melt seasons is the sheet's"


def test_reasons_take_the_place_of_tables_without_a_value():
    few = explained().assign(explained_total=np.nan, reason="too few months")
    assert "Nothing could be explained: too few months (6)" in describe_explained(few)
    none = coupling().assign(r=np.nan, reason="fewer than 24 common months")
    said = describe_coupling(none, 0.1)
    assert "No coupling could be computed: fewer than 24 common months (156)" in said
    assert "no reason given (156)" in describe_coupling(none.assign(reason=None), 0.1)


def test_a_feature_that_is_missing_is_listed_with_its_reason_and_a_whole_one_is_not():
    rows = {row[0]: row for row in read(page()).rows}
    assert rows["speed_m_yr"] == ["speed_m_yr", "12", "the region names no velocity"]
    assert "dh_m" not in rows


def test_foreign_text_is_escaped_wherever_it_enters():
    broken = filter_report().assign(filter=NASTY)
    text = page(
        title=NASTY,
        source=NASTY,
        verdict=NASTY,
        filter_report=broken,
        checks=checks().assign(kind=NASTY, reason=NASTY),
        centroids=centroids().assign(regime_name=NASTY),
        explained=explained().assign(explained_total=np.nan, reason=NASTY),
        coupling=coupling().assign(r=np.nan, reason=NASTY),
        sea_level=sea_level(source=NASTY, reason=NASTY),
        comparison=comparison(series=NASTY, reason=NASTY),
        case_study=case_study(reason=NASTY),
        features_ledger=pd.DataFrame({"feature": [NASTY], "n_null": [1], "reason": [NASTY]}),
        validation={
            "world": {NASTY: NASTY},
            "metrics": [metric(metric=NASTY, about=NASTY, tolerance=NASTY)],
        },
    )
    found = read(text)
    assert found.links == []
    assert not {"script", "img"} & set(found.tags)
    assert text.count("&lt;script&gt;") >= 15


def test_the_report_tells_what_each_filter_cost_and_what_was_left_out():
    text = describe_filters(filter_report())
    assert "1 500 segments in the region" in text
    rows = {row[0]: row for row in read(text).rows if row[0] != "subset"}
    # Of the whole record, not of its periods on top.
    assert rows["finite_height"] == ["finite_height", "1 500", "150", "300"]
    assert rows["quality_summary"] == ["quality_summary", "1 350", "350", "700"]
    assert rows["ice_mask"] == ["ice_mask", "1 000", "50", "100"]
    assert "950 kept" in text
    assert ["subset", "outside_region", "3", "10", "250"] in read(text).rows


def test_the_checks_say_how_far_the_fits_are_off():
    rows = read(describe_checks(checks())).rows
    assert ["crossover", "all", "120", "100", "0.012", "0.2", "0.004", "0.003", "–"] in rows
    assert ["repeat", "under 0.5 years", "0", "0", "–", "–", "–", "–", "no_pairs"] in rows


def test_the_comparison_with_the_truth_marks_what_does_not_hold():
    text = describe_validation(VALIDATION)
    rows = {row[0]: row for row in read(text).rows}
    assert rows["rate_bias_all"][1:] == ["0.004", "0.01", "holds", "median error of the rate"]
    assert rows["mascon_dh_rmse"][3] == "does not hold"
    assert rows["lakes"][1] == "–" and rows["lakes"][3] == "does not hold"
    assert rows["lakes"][4] == "tracks cross no planted lake"
    assert text.count('class="no"') == 2 and text.count('class="yes"') == 1
    assert "track_step 4; segment_step 20" in text
    assert "seed" not in text, "the nested settings are left to validation.json"


def test_what_could_not_be_computed_says_why_although_it_says_what_it_is_about():
    lost = metric(value=None, holds=False, about="could not be computed", reason="no table lakes")
    row = read(describe_validation({"metrics": [lost]})).rows[1]
    assert "no table lakes" in row[-1]


def test_a_metric_without_a_tolerance_shows_a_dash_not_none():
    lost = metric(value=None, tolerance=None, holds=False)
    assert read(describe_validation({"metrics": [lost]})).rows[1][1:3] == ["–", "–"]


def test_a_run_without_truth_has_no_section_on_it():
    assert "planted truth" not in page(validation=None)


def test_the_page_says_how_many_months_of_granules_it_had():
    few = page(source="local")
    assert "This run read 17 granules. Of 12 months asked for" in few
    assert "some mascon in 3, and a total of the region in 2" in few
    assert "real skill at mascon scale needs a multi-year archive" in few
    many = page(totals=totals(36, 40), source="local")
    assert "fewer than the 24" not in many
    assert "Real skill at mascon scale needs a multi-year archive" in many
    synthetic = page(totals=totals(36, 40))
    assert "17 synthetic granules" in synthetic and "proves the method, not nature" in synthetic


def test_the_sheets_coupling_is_read_with_its_intervals():
    rows = [row for row in read(page()).rows if row and row[0] == "ATL15"]
    assert rows == [
        ["ATL15", "JPL", "raw", "2019-01", "2024-07", "23", "7.8", "0.92 (0.60 to 0.99)", "0.002",
         "766 (486 to 1053)", "764", "–"]
    ]  # fmt: skip
    none = dict.fromkeys(("r", "density_kg_m3", "p"), np.nan) | {"reason": "3 pairs over 9 months"}
    text = page(sheet_coupling=sheet_coupling(**none))
    assert "Not coupled: ATL15 with JPL (3 pairs over 9 months)." in text


def test_the_comparison_shows_the_difference_of_trends_with_its_interval():
    row = next(row for row in read(page()).rows if row and row[0] == "JPL")
    assert row[-1] == "−2.4 (−5.0 to 0.2)"
    assert "0.9900" in row


def test_empty_tables_leave_a_sentence():
    text = page(
        centroids=pd.DataFrame(
            {
                "level": ["nodes", "mascons"],
                "regime": [np.nan] * 2,
                "reason": ["12 nodes", "1 mascon"],
            }
        ),
        stability=stability().iloc[:0],
        comparison=comparison().iloc[:0],
        lakes=lakes().iloc[:0],
        lake_events=lake_events().iloc[:0],
        searched_nodes=searched_nodes().iloc[:0],
        inventory_matches=inventory_matches().iloc[:0],
        features_ledger=pd.DataFrame({"feature": [], "n_null": [], "reason": []}),
        filter_report=filter_report().iloc[:0],
    )
    read(text)
    assert "No regimes of nodes: 12 nodes." in text
    assert "No regimes of mascons: 1 mascon." in text
    assert "Not searched: no finely spaced node" in text


def test_the_mean_of_all_mascons_stands_with_its_interval():
    assert "Of the mean of all mascons (change): −40 % [−50 %, 30 %]." in page()


def test_the_number_of_regimes_is_explained():
    assert "Regimes of nodes: k = 4: as the test wants." in page()


def test_candidates_are_listed_and_lookalikes_counted():
    text = page()
    assert "1 candidate of active subglacial lakes, 1 look-alike." in text
    row = next(r for r in read(text).rows if r[0] == "1")
    assert row[3:] == ["2.5", "0.021", "2021-08", "2021-11", "−0.021", "0.003", "–", "–"]


def test_make_demo_ends_with_what_holds_and_where_to_look(tmp_path):
    assert report_run(tmp_path) == [
        f"report:     {tmp_path / 'report.html'}",
        f"summary:    {tmp_path / 'summary.html'}",
        f"dashboard:  {tmp_path / 'dashboard.html'}",
    ]
    (tmp_path / "validation.json").write_text(json.dumps(VALIDATION))
    lines = report_run(tmp_path)
    assert "1 of 3 metrics hold" in lines[3]
    assert any("mascon_dh_rmse 0.3, tolerance 0.1" in line for line in lines[4:])
    assert len(lines) == 6


def test_the_verdict_is_of_the_table_whichever_way_it_falls():
    study = case_study()
    said = judge_melt_seasons(study, [6, 7, 8], 0.9)
    assert "the model of elevation agrees with GRACE" in said
    assert "in 1 of 1 mascons and seasons (100 %, meant 90 %)" in said
    # −310 + 290 over 60 / 1.645, and −400 + 360.
    assert "2019 −0.5 σ season, −1.1 σ until it has run off, minima 1 month apart" in said
    for changed in (
        {"observed_gt": -351.0},
        {"observed_late_gt": -299.0},
        {"observed_minimum": 11},
        {"predicted_minimum": 1},
    ):
        said = judge_melt_seasons(case_study(**changed), [6, 7, 8], 0.9)
        assert "does not agree with GRACE" in said, changed
    outside = pd.concat([study.iloc[:1], *[study.iloc[1:].assign(observed_gt=-351.0)] * 3])
    said = judge_melt_seasons(outside, [6, 7, 8], 0.9)
    assert "does not agree" in said and "in 0 of 3 mascons and seasons (0 %" in said
    none = study.assign(predicted_lower_gt=np.nan, reason="no other year")
    assert "cannot be said: no other year." in judge_melt_seasons(none, [6, 7, 8], 0.9)


def test_a_verdict_names_the_years_and_criteria_that_it_cannot_judge():
    rows = [case_study(year=2020, predicted_minimum=np.nan)]
    rows += [
        case_study(year=year, observed_gt=np.nan, reason="no gravity in May").iloc[:1]
        for year in (2019, 2021)
    ]
    said = judge_melt_seasons(pd.concat(rows, ignore_index=True), [6, 7, 8], 0.9)
    assert "agrees with GRACE on the melt seasons of 2020; it cannot be said for" in said
    assert "2019 (no gravity in May) and 2021 (no gravity in May)" in said
    assert "(cannot be said: minima)" in said
    assert "Strongest season first" not in said


def test_minima_over_the_turn_of_the_year_are_a_month_apart():
    study = case_study(observed_minimum=1, predicted_minimum=12)
    assert "minima 1 month apart" in judge_melt_seasons(study, [6, 7, 8], 0.9)


def test_the_order_of_seasons_is_told_strongest_first():
    years = pd.concat(
        [case_study(year=y, observed_gt=g).iloc[:1] for y, g in ((2019, -9), (2020, -50))]
    )
    said = judge_melt_seasons(pd.concat([years, case_study().iloc[1:]]), [6, 7, 8], 0.9)
    assert "GRACE 2020 > 2019" in said


def test_flagged_months_stand_beside_what_chance_flags():
    rows = {row[0]: row for row in read(describe_rapid_melt(rapid_melt(), rapid_melt_rates())).rows}
    assert rows["dh"] == ["dh", "74", "2019-07", "1", "4", "2.1 % (1.9 to 2.3)", "–"]
    said = describe_rapid_melt(rapid_melt(), rapid_melt_rates())
    assert "Of 2 series of mascons, 1 have more flags" in said and "2 % quantile" in said
    short = rapid_melt_rates(false_alarm_rate=np.nan, n_flagged=None, reason="9 monthly changes")
    rows = {row[0]: row for row in read(describe_rapid_melt(rapid_melt(), short)).rows}
    assert rows["dh"][-2:] == ["–", "9 monthly changes"]


def test_early_warning_is_labelled_exploratory_and_claims_nothing():
    said = describe_early_warning(early_warning())
    assert "Exploratory: 6 years support no tipping claim." in said
    assert "Of 1 statistics of mascons, 1 have p of at most 0.05; chance alone" in said
    assert "<h2>Early warning (exploratory)</h2>" in page()


def test_choices_are_told_with_their_range():
    said = describe_sensitivity(sensitivity())
    assert "between −263 and −256 Gt/yr (2 mascon rules, 2002-04 to 2024-08)." in said
    rows = {row[0]: row for row in read(said).rows}
    assert "ice_fraction_of_land >= 0.25 (this run)" in rows and "product_set" in rows
    assert rows["product_set"][2] == "gravity (GRACE)"


def test_sources_have_the_names_of_the_figures_and_numbers_a_true_minus():
    given = [
        ("gravity", np.nan, np.nan, np.nan),
        ("altimetry_850", 850.0, np.nan, np.nan),
        ("altimetry_fitted", 777.4, 394.8, 1160.0),
    ]
    table = pd.concat(
        [
            sea_level(source=s, density_kg_m3=d, density_lower_kg_m3=a, density_upper_kg_m3=b)
            for s, d, a, b in given
        ]
    )
    said = describe_sea_level(table)
    rows = read(said).rows[1:]
    assert [row[:4] for row in rows] == [
        ["gravity (GRACE)", "–", "2018-10", "2021-12"],
        ["altimetry at 850 kg/m³", "850", "2018-10", "2021-12"],
        ["altimetry at 777 kg/m³ (fitted)", "777 (395 to 1160)", "2018-10", "2021-12"],
    ]
    assert {row[5] for row in rows} == {"−263"}
    # Without a density of its own the key says which it is.
    rows = read(describe_comparison(comparison(source="altimetry_917"))).rows
    assert rows[1][1] == "altimetry at 917 kg/m³"


def test_dates_and_numbers_stay_on_one_line_and_words_may_break():
    said = describe_sea_level(
        sea_level(density_kg_m3=777.4, density_lower_kg_m3=394.8, density_upper_kg_m3=1160.0)
    )
    kinds = {text: kind for kind, text in re.findall(r'<td class="(\w+)">([^<]*)', said)}
    assert kinds["2018-10"] == kinds["777 (395 to 1160)"] == "figures"
    assert kinds["−263"] == "number" and kinds["gravity (GRACE)"] == "text"
    style = re.search(r"<style>(.*?)</style>", page(), re.DOTALL)[1]
    assert "td.number, td.figures { white-space: nowrap }" in style


def test_basins_are_not_called_mascons():
    text = re.sub(r"<[^>]*>", " ", page(unit="basin", lead="", verdict="", validation=None))
    kept = text.replace("mascon rules", "").replace("mascon:", "")
    assert "mascon" not in kept and "basins" in kept


def test_lakes_and_inventory_are_told_in_sentences():
    text = describe_lakes(lakes(), lake_events(), searched_nodes(), inventory_matches())
    assert "1 candidate of active subglacial lakes, 1 look-alike" in text
    assert "comes in summer and goes (1)" in text
    rows = read(text).rows
    assert rows[1][0] == "1" and rows[1][5:9] == ["2021-08", "2021-11", "−0.021", "0.003"]
    assert "has 3 lakes here, 2 of them known to be active" in text
    assert "1 lie where no node was searched" in text
    assert "1 have a candidate (hits) and 1 have none (misses" in text
    assert "among active ones, 1 of 1" in text
    assert "Candidates in no inventory (new): 1." in text


def test_no_search_and_no_inventory_say_why():
    matches = (
        inventory_matches()
        .iloc[3:]
        .assign(outcome="not_compared", reason="the region names no inventory")
    )
    text = describe_lakes(lakes(), lake_events(), searched_nodes(), matches)
    assert "Not compared with an inventory: the region names no inventory." in text
    text = describe_lakes(
        lakes().iloc[:0], lake_events().iloc[:0], searched_nodes().iloc[:0], matches.iloc[:0]
    )
    assert "Not searched: no finely spaced node" in text
    assert "Not compared with an inventory" in text
