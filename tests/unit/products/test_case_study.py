"""The melt seasons: never trained on, right by hand, null with a reason where data are few."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import ApplicationSettings, CaseStudySettings, SkillSettings
from cryofuse.products.case_study import (
    conformal_sum,
    error_runs,
    find_minimum,
    minimum_interval,
    season_of,
    study_melt_seasons,
    train_and_predict,
)
from cryofuse.tables import CASE_STUDY, check, from_pandas

SETTINGS = CaseStudySettings()
SKILL = SkillSettings(trees=30)
APPLICATIONS = ApplicationSettings()
LAND = {35: 100_000.0, 50: 90_000.0, 68: 80_000.0}
ICE = {35: 80_000.0, 50: 70_000.0, 68: 60_000.0}


@pytest.fixture(scope="module")
def study(world):
    return study_melt_seasons(world["fusion"], world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]


def at(table, scope, year):
    return table[(table["scope"] == scope) & (table["year"] == year)].iloc[0]


def value(fusion, mascon, month, column):
    hit = (fusion["mascon_id"] == mascon) & (fusion["month"] == pd.Timestamp(f"{month}-01"))
    return float(fusion.loc[hit, column].iloc[0])


def test_table_keeps_its_contract(study):
    checked = check(from_pandas(study), CASE_STUDY)
    assert checked.num_rows == 3 * 4
    assert "mascon:90" not in set(study["scope"])


def test_observed_change_runs_from_may_to_august(world, study):
    fusion = world["fusion"]
    for mascon in LAND:
        row = at(study, f"mascon:{mascon}", 2020)
        expected = value(fusion, mascon, "2020-08", "mass_gt") - value(
            fusion, mascon, "2020-05", "mass_gt"
        )
        assert row["observed_gt"] == pytest.approx(expected)
        assert row["observed_sigma_gt"] == pytest.approx(np.sqrt(2) * 5.6 * LAND[mascon] * 1e-5)
        assert row["n_months"] == 3
    parts = [at(study, f"mascon:{m}", 2020)["observed_gt"] for m in LAND]
    assert at(study, "sheet", 2020)["observed_gt"] == pytest.approx(sum(parts))
    predicted = [at(study, f"mascon:{m}", 2020)["predicted_gt"] for m in LAND]
    assert at(study, "sheet", 2020)["predicted_gt"] == pytest.approx(sum(predicted))


def test_elevation_anomaly_is_against_the_years_not_studied(world, study):
    fusion = world["fusion"]

    def change(mascon, year):
        ends = (value(fusion, mascon, f"{year}-{m}", "dh_m") for m in ("05", "08"))
        first, last = ends
        return last - first

    # 2018 has no May: the climatology is 2022 to 2024.
    anomalies = {
        m: change(m, 2019) - np.mean([change(m, y) for y in (2022, 2023, 2024)]) for m in LAND
    }
    for mascon, expected in anomalies.items():
        assert at(study, f"mascon:{mascon}", 2019)["dh_season_m"] == pytest.approx(expected)
    sheet = sum(anomalies[m] * ICE[m] for m in ICE) / sum(ICE.values())
    assert at(study, "sheet", 2019)["dh_season_m"] == pytest.approx(sheet)


def test_strong_moderate_and_weak_season_keep_their_order(study):
    rows = [at(study, "sheet", year) for year in (2019, 2020, 2021)]
    for column in ("observed_gt", "predicted_gt", "dh_season_m"):
        assert rows[0][column] < rows[1][column] < rows[2][column]
    for row in rows:
        assert row["predicted_lower_gt"] < row["predicted_gt"] < row["predicted_upper_gt"]
        assert row["predicted_gt"] == pytest.approx(row["observed_gt"], abs=40)


@pytest.mark.parametrize("poison", [1e9, -1e9, np.nan], ids=str)
def test_gravity_of_the_studied_years_is_never_trained_on(world, study, poison):
    fusion = world["fusion"].copy()
    studied = fusion["month"].dt.year.isin(SETTINGS.years).to_numpy()
    for column in ("lwe_cm", "lwe_sigma_cm", "mass_gt", "mass_sigma_gt", "mass_change_gt"):
        fusion.loc[studied, column] = abs(poison) if "sigma" in column else poison
    again = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    same = [name for name in study if name.startswith(("predicted", "dh", "elevation"))]
    assert study[same].notna().to_numpy().all()
    pd.testing.assert_frame_equal(study[same], again[same], check_exact=True)
    assert not np.allclose(study["observed_anomaly_gt"], again["observed_anomaly_gt"])


def test_the_sheet_has_an_interval_though_no_month_saw_every_mascon(world):
    fusion = world["fusion"].copy()
    # A month without a track takes four months of changes over one to three months.
    for mascon, month in zip(LAND, (1, 5, 9), strict=True):
        away = (fusion["month"].dt.month == month) & (fusion["mascon_id"] == mascon)
        fusion.loc[away, ["dh_m", "dh_sigma_m"]] = np.nan
    table = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    sheet = table[table["scope"] == "sheet"]
    assert (sheet["predicted_upper_gt"] > sheet["predicted_lower_gt"]).all()
    own = table[table["mascon_id"] == 50]
    assert own["predicted_gt"].isna().all(), "no track in May: nothing of its own until August"


def test_errors_of_mascons_that_are_correlated_add_up_in_the_sheet(world, study):
    one = ApplicationSettings(mass_correlation_km=1e9)
    table = study_melt_seasons(world["fusion"], world["mascons"], SETTINGS, SKILL, one)[0]
    sigma = 5.6e-5 * np.array(list(LAND.values()))
    assert at(table, "sheet", 2020)["observed_sigma_gt"] == pytest.approx(np.sqrt(2) * sigma.sum())
    apart = np.sqrt(2) * np.sqrt((sigma**2).sum())
    assert at(study, "sheet", 2020)["observed_sigma_gt"] == pytest.approx(apart)


def test_elevation_has_a_mass_at_850_and_both_their_sigma(world, study):
    row = at(study, "mascon:50", 2020)
    ends = [value(world["fusion"], 50, f"2020-{m}", "dh_m") for m in ("05", "08")]
    assert row["dh_change_m"] == pytest.approx(ends[1] - ends[0])
    assert row["elevation_gt"] == pytest.approx(row["dh_change_m"] * ICE[50] * 850e-6)
    assert row["dh_change_sigma_m"] == pytest.approx(np.sqrt(2) * 0.02)
    assert row["elevation_sigma_gt"] == pytest.approx(np.sqrt(2) * 0.02 * ICE[50] * 850e-6)
    weight = np.array(list(ICE.values())) / sum(ICE.values())
    sheet = np.sqrt(2) * 0.02 * np.sqrt((weight**2).sum())
    assert at(study, "sheet", 2020)["dh_change_sigma_m"] == pytest.approx(sheet)


def test_gravity_within_the_longest_lag_is_not_trained_on_either(world, study):
    fusion = world["fusion"].copy()
    near = fusion["month"].isin(pd.to_datetime(["2022-01-01", "2022-02-01", "2022-03-01"]))
    fusion.loc[near, "lwe_cm"] += 300 * np.sin(np.arange(near.sum()))
    # The change of April 2022 uses March's value: leave it out by a gap.
    april = fusion["month"] == pd.Timestamp("2022-04-01")
    before = world["fusion"].copy()
    for table in (fusion, before):
        table.loc[april, "lwe_cm"] = np.nan
    first = study_melt_seasons(before, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    again = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    first, again = (t[t["year"] == 2021]["predicted_gt"].to_numpy() for t in (first, again))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("year", [2022, 2023])
def test_gravity_of_a_year_that_is_trained_on_is_not_behind_its_own_months(world, year):
    fusion = world["fusion"].copy()
    own = (fusion["month"].dt.year == year).to_numpy()
    fusion.loc[own, "lwe_cm"] = 1e6 * np.sin(7.0 * np.arange(own.sum()))
    rows = []
    for table in (world["fusion"], fusion):
        months = study_melt_seasons(table, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[1]
        inside = (months["month"].dt.year == year) & ~months["all_other_years"]
        rows.append(months[inside].reset_index(drop=True))
    assert len(rows[0]) >= 7 * len(LAND)
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def test_training_gravity_does_matter(world, study):
    fusion = world["fusion"].copy()
    later = (fusion["month"] >= pd.Timestamp("2022-06-01")).to_numpy()
    fusion.loc[later, "lwe_cm"] *= 1.3
    again = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    assert not np.allclose(study["predicted_gt"], again["predicted_gt"])


def test_a_missing_month_makes_nulls_with_a_reason(world):
    fusion = world["fusion"].copy()
    august = (fusion["month"] == pd.Timestamp("2020-08-01")) & (fusion["mascon_id"] == 50)
    for column in ("lwe_cm", "mass_gt", "mass_sigma_gt", "dh_m"):
        fusion.loc[august, column] = np.nan
    table = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    own, sheet = at(table, "mascon:50", 2020), at(table, "sheet", 2020)
    columns = ["observed_gt", "predicted_gt", "predicted_lower_gt", "dh_season_m"]
    assert own[columns].isna().all()
    assert "a month of the season has no elevation change" in own["reason"]
    for row in (own, sheet):
        assert "no gravity in the month before the season or in its last month" in row["reason"]
    # The sheet's elevation follows the mascon's fit; its gravity is missing all the same.
    assert np.isnan(sheet["observed_gt"])
    assert np.isfinite(sheet[["predicted_gt", "dh_season_m"]].astype(float)).all()
    assert np.isfinite(at(table, "mascon:35", 2020)["predicted_gt"])
    assert at(table, "mascon:50", 2020)["n_months"] == 2


def test_too_few_training_months_give_no_prediction(world):
    fusion = world["fusion"][world["fusion"]["month"] < pd.Timestamp("2023-01-01")]
    table = study_melt_seasons(fusion, world["mascons"], SETTINGS, SKILL, APPLICATIONS)[0]
    assert table["predicted_gt"].isna().all()
    assert table["reason"].str.contains("24 are needed to train").all()
    assert table["observed_gt"].notna().all()


def test_a_region_without_selected_mascons_gives_an_empty_table(world):
    mascons = world["mascons"].assign(selected=False)
    table = study_melt_seasons(world["fusion"], mascons, SETTINGS, SKILL, APPLICATIONS)[0]
    assert check(from_pandas(table), CASE_STUDY).num_rows == 0


def test_seasons_run_over_the_turn_of_the_year():
    season = season_of(2019, (12, 1, 2))
    assert [str(m)[:7] for m in season.months] == ["2019-12", "2020-01", "2020-02"]
    assert str(season.before)[:7] == "2019-11"
    assert str(season.window[-1])[:7] == "2020-08"


def test_minimum_needs_a_rise_and_every_month():
    months = season_of(2019, (6, 7, 8)).window
    assert find_minimum(months, np.array([0, -2, -5, -6, -4, -3, -2.0]), "mass") == (9, None)
    why = find_minimum(months, -np.arange(7.0), "elevation")[1]
    assert str(why).startswith("elevation does not rise again by")
    gap = np.array([0, -2, np.nan, -6, -4, -3, -2.0])
    assert find_minimum(months, gap, "mass") == (None, "a month of the window is missing")


def test_the_interval_of_the_minimum_is_where_drawn_minima_fall():
    months = season_of(2019, (6, 7, 8)).window
    mass = np.array([0, -2, -5, -9, -8.5, -4, -3, -2, -1.0])
    rng = np.random.default_rng(5)
    errors = rng.normal(0, 0.5, (4000, 9))
    # September against October: lower with probability Φ(0.5 / (0.5 √2)) = 0.76.
    drawn = (mass - errors).argmin(axis=1)
    assert np.mean(drawn == 3) == pytest.approx(0.76, abs=0.02)
    assert minimum_interval(months, mass, errors, 0.9) == (9, 10)
    assert minimum_interval(months, mass, 0.1 * errors, 0.9) == (9, 9)
    assert minimum_interval(months, mass, errors[:8], 0.9) == (None, None)
    errors[0, 0] = np.nan
    assert minimum_interval(months, mass, errors, 0.9) == (None, None)


def test_runs_of_errors_are_summed_from_their_beginning():
    error = pd.DataFrame({"a": [1.0, 2, np.nan, 3, 4, 5], "b": [0.0, 1, 0, 1, 0, 1]})
    runs = error_runs(error, 3)
    expected = [[3, 7, 12], [0, 1, 1], [1, 1, 2], [0, 1, 1], [1, 1, 2]]
    assert sorted(runs.tolist()) == sorted(map(list, np.array(expected, dtype=float)))
    assert error_runs(error.iloc[:2], 3).shape == (0, 3)


def test_interval_is_the_conformal_quantile_of_season_sums():
    rng = np.random.default_rng(2)
    months = pd.date_range("2022-01-01", "2024-12-01", freq="MS")
    error = pd.DataFrame(rng.normal(0, 1, (36, 10)), index=months)
    sums = [
        abs(error[c].iloc[12 * y + 5 : 12 * y + 8].sum()) for y in range(3) for c in error.columns
    ]
    # Thirty sums: the ⌈31 × 0.9⌉ = 28th smallest.
    assert conformal_sum(error, (6, 7, 8), 0.9) == pytest.approx(np.sort(sums)[27])
    one = error[[0]]
    runs = [abs(one[0].iloc[i : i + 3].sum()) for i in range(34)]
    assert conformal_sum(one, (6, 7, 8), 0.9) == pytest.approx(np.sort(runs)[31])
    assert np.isnan(conformal_sum(one.iloc[:4], (6, 7, 8), 0.9))


def test_elevation_change_is_spread_over_land_once():
    """A density the same everywhere comes back exactly, however much of the land is ice."""
    rng = np.random.default_rng(7)
    months = pd.date_range("2019-01-01", "2024-12-01", freq="MS")
    samples = pd.DataFrame(
        {
            "month": np.repeat(months, 6),
            "mascon_id": np.tile(np.arange(6), len(months)),
            "dh_1": rng.normal(0, 20, 6 * len(months)),
            "ice_fraction": np.tile(np.linspace(0.2, 1.0, 6), len(months)),
            "seen": True,
        }
    )
    samples["change_cm"] = 0.9 * samples["dh_1"]
    skill = SkillSettings(trees=5, search={"ridge": {"alpha": [1e-9]}})
    found = train_and_predict(samples, SETTINGS, skill).change_cm.loc["2021-07-01"]
    expected = samples[samples["month"] == "2021-07-01"]["change_cm"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
