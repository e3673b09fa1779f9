import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cryofuse.calendar import month_middle, year_fraction
from cryofuse.config import CouplingSettings
from cryofuse.learning.coupling import (
    choose_lag,
    control_false_discoveries,
    correlate_lags,
    correlate_mascons,
    couple_series,
)
from cryofuse.learning.density import fit_york
from cryofuse.learning.treatments import TREATMENTS, effective_sample_size
from cryofuse.tables import COUPLING, check

MONTHS = np.arange("2018-10", "2024-10", dtype="datetime64[M]").astype("datetime64[us]")
SETTINGS = CouplingSettings(bootstrap_draws=100, surrogates=200)


def red(rng: np.random.Generator, phi: float, n: int) -> np.ndarray:
    noise = rng.standard_normal(n + 100)
    for t in range(1, noise.size):
        noise[t] += phi * noise[t - 1]
    return noise[100:]


def test_york_reproduces_the_published_example() -> None:
    # Pearson's data with York's weights; York et al. 2004, table II: slope -0.480533407(58),
    # intercept 5.47991022.
    x = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
    y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
    wx = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0])
    wy = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500.0])
    fit = fit_york(x, y, wx**-0.5, wy**-0.5)
    assert fit.slope == pytest.approx(-0.480533407, abs=1e-8)
    assert fit.intercept == pytest.approx(5.47991022, abs=1e-7)
    assert fit.slope_sigma == pytest.approx(0.0579850, abs=2e-4)


def test_york_removes_the_bias_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1, 4000)
    x = true + rng.normal(0, 0.5, true.size)
    y = 600 * true + rng.normal(0, 50, true.size)
    fit = fit_york(x, y, np.full(x.size, 0.5), np.full(x.size, 50.0))
    assert np.polyfit(x, y, 1)[0] == pytest.approx(600 / 1.25, rel=0.03)
    assert fit.slope == pytest.approx(600, rel=0.03)


def test_york_counts_are_repeated_points() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=8), rng.normal(size=8)
    sx, sy = np.full(8, 0.2), np.full(8, 0.3)
    count = np.array([[2, 0, 1, 1, 1, 1, 1, 1.0]])
    index = [0, 0, 2, 3, 4, 5, 6, 7]
    drawn = fit_york(x, y, sx, sy, count=count)
    again = fit_york(x[index], y[index], sx[index], sy[index])
    assert drawn.slope[0] == pytest.approx(float(again.slope), rel=1e-9)


def test_false_discoveries_agree_with_scipy() -> None:
    p = np.random.default_rng(3).uniform(size=31) ** 2
    np.testing.assert_allclose(control_false_discoveries(p), stats.false_discovery_control(p))
    with_gap = np.insert(p, 4, np.nan)
    found = control_false_discoveries(with_gap)
    assert np.isnan(found[4])
    np.testing.assert_allclose(np.delete(found, 4), stats.false_discovery_control(p))


def test_effective_sample_size_approaches_bretherton() -> None:
    assert effective_sample_size(50, 0.0, 0.9) == 50
    product = 0.7 * 0.6
    assert effective_sample_size(20_000, 0.7, 0.6) == pytest.approx(
        20_000 * (1 - product) / (1 + product), rel=1e-3
    )


def test_lags_are_positive_where_the_second_series_follows() -> None:
    rng = np.random.default_rng(4)
    first = rng.standard_normal(60)
    second = np.roll(first, 3)
    second[:3] = np.nan
    second[20] = np.nan
    r, n = correlate_lags(first, second, [-1, 0, 3])
    assert r[2] == pytest.approx(1.0)
    assert n.tolist() == [55, 56, 56]
    known = np.isfinite(second)
    assert r[1] == pytest.approx(np.corrcoef(first[known], second[known])[0, 1])
    before = [i for i in range(1, 60) if known[i - 1]]
    assert r[0] == pytest.approx(np.corrcoef(first[before], second[[i - 1 for i in before]])[0, 1])


def test_best_lag_prefers_a_positive_correlation() -> None:
    assert choose_lag(np.array([[-0.85, 0.1, 0.8], [-0.95, 0.1, 0.8]])).tolist() == [2, 0]
    assert choose_lag(np.array([np.nan, -0.3, 0.1])) == 1


@pytest.fixture(scope="module")
def coupled() -> pd.DataFrame:
    """One mascon whose mass follows elevation by two months at 700 kg/m³."""
    rng = np.random.default_rng(5)
    t = np.arange(MONTHS.size) / 12
    dh = -0.5 * t + 0.4 * np.cos(2 * np.pi * t) + 0.15 * red(rng, 0.8, t.size)
    mass = 700 * np.concatenate([np.full(2, np.nan), dh[:-2]]) + rng.normal(0, 30, t.size)
    mass[[5, 6, 40]] = np.nan
    sigma = np.full(t.size, 0.05)
    return couple_series(
        dh + rng.normal(0, 0.05, t.size),
        mass,
        MONTHS,
        SETTINGS,
        dh_sigma=sigma,
        mass_sigma=np.full(t.size, 30.0),
    )


def test_planted_lag_and_density_are_found(coupled: pd.DataFrame) -> None:
    best = coupled[coupled["best"]].set_index("treatment")
    assert list(best.index) == list(TREATMENTS)
    assert (best["lag_months"] == 2).all()
    for treatment in ("detrended", "deseasonalised"):
        row = best.loc[treatment]
        assert row["p_best"] < 0.02
        width = row["density_upper_kg_m3"] - row["density_lower_kg_m3"]
        assert abs(row["density_kg_m3"] - 700) < width
        assert row["r_lower"] < row["r"] < row["r_upper"]
        assert row["density_ols_kg_m3"] < row["density_kg_m3"]
    assert best.loc["detrended", "density_kg_m3"] == pytest.approx(700, rel=0.05)
    assert best["flag"].isna().all()


def test_rows_hold_every_lag_and_treatment(coupled: pd.DataFrame) -> None:
    assert len(coupled) == 3 * 13
    assert coupled.groupby("treatment")["best"].sum().eq(1).all()
    assert (coupled["n_effective"] <= coupled["n"]).all()
    lag0 = coupled[(coupled["treatment"] == "raw") & (coupled["lag_months"] == 0)].iloc[0]
    assert lag0["n"] == 72 - 2 - 3


def test_every_row_is_that_of_plain_numpy_and_scipy() -> None:
    """Residuals of plain least squares, pairs picked one by one, blocks drawn in a loop."""
    rng = np.random.default_rng(11)
    t = np.arange(72) / 12
    dh = -0.5 * t + 0.4 * np.cos(2 * np.pi * t) + 0.3 * red(rng, 0.6, 72)
    mass = 700 * np.roll(dh, 1) + 200 * red(rng, 0.5, 72)
    dh[[3, 4, 30]], mass[[10, 50]] = np.nan, np.nan
    settings = CouplingSettings(bootstrap_draws=1500, surrogates=400, lags_months=2)
    table = couple_series(dh, mass, MONTHS, settings).set_index(["treatment", "lag_months"])
    years = 2018 + (9.5 + np.arange(72)) / 12
    cycle = [f(2 * np.pi * k * years) for k in (1, 2) for f in (np.cos, np.sin)]
    extra = {"raw": [], "detrended": [t], "deseasonalised": [t, *cycle]}
    for treatment, columns in extra.items():
        design = np.column_stack([np.ones(72), *columns])
        left = []
        for series in (dh, mass):
            known = np.isfinite(series)
            fit = np.linalg.lstsq(design[known], series[known], rcond=None)[0]
            left.append(series - design @ fit)
        for lag in range(-2, 3):
            row = table.loc[(treatment, lag)]
            pairs = [(left[0][i], left[1][i + lag]) for i in range(72) if 0 <= i + lag < 72]
            pairs = np.array([pair for pair in pairs if np.isfinite(pair).all()]).T
            assert row["n"] == pairs.shape[1]
            # Months are not equally long: cycles differ by a day or two.
            assert row["r"] == pytest.approx(np.corrcoef(pairs)[0, 1], abs=0.01)
            assert row["rho"] == pytest.approx(stats.spearmanr(*pairs).statistic, abs=0.02)
        row = table.loc[(treatment, 0)]
        drawn = []
        for _ in range(1500):
            first = rng.integers(0, 72, 6)
            index = (first[:, None] + np.arange(12)).ravel() % 72
            x, y = left[0][index], left[1][index]
            both = np.isfinite(x) & np.isfinite(y)
            drawn.append(np.corrcoef(x[both], y[both])[0, 1])
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert row["r_lower"] == pytest.approx(low, abs=0.04)
        assert row["r_upper"] == pytest.approx(high, abs=0.04)
    assert table["best"].groupby("treatment").sum().eq(1).all()
    assert table.loc[table["best"], "p_best"].notna().all()
    assert table.loc[~table["best"], ["p_best", "density_ols_kg_m3"]].isna().all().all()


def test_effective_size_is_bretherton_s_for_long_red_series() -> None:
    rng = np.random.default_rng(12)
    months = np.arange("2000-01", "2020-01", dtype="datetime64[M]").astype("datetime64[us]")
    settings = CouplingSettings(bootstrap_draws=1, surrogates=2000, lags_months=1)
    x, y = red(rng, 0.7, 240), red(rng, 0.7, 240)
    first, second = (np.corrcoef(v[:-1], v[1:])[0, 1] for v in (x, y))
    expected = 240 * (1 - first * second) / (1 + first * second)
    found = couple_series(x, y, months, settings)
    found = found[found["lag_months"] == 0].set_index("treatment")
    assert found.loc["raw", "n_effective"] == pytest.approx(expected, rel=0.2)
    # p is that of a t test with so many pairs.
    r, n = found.loc["raw", "r"], expected
    p = 2 * stats.t.sf(abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2)
    assert found.loc["raw", "p"] == pytest.approx(p, abs=0.05)


def test_opposing_components_are_flagged() -> None:
    rng = np.random.default_rng(6)
    t = np.arange(MONTHS.size) / 12
    cycle = np.cos(2 * np.pi * t)
    dh = -0.5 * t + 0.3 * cycle + 0.02 * rng.standard_normal(t.size)
    table = couple_series(dh, 100 * t + 200 * cycle + rng.normal(0, 5, t.size), MONTHS, SETTINGS)
    detrended = table[table["best"] & (table["treatment"] == "detrended")].iloc[0]
    assert detrended["flag"] == "opposing_components"
    assert detrended["density_ols_kg_m3"] == pytest.approx(200 / 0.3, rel=0.05)
    assert np.isnan(detrended["density_kg_m3"])
    assert detrended["reason"] == "no density: 0 pairs with σ, fewer than 12"


def test_too_few_months_are_null_with_a_reason() -> None:
    rng = np.random.default_rng(7)
    dh, mass = rng.standard_normal((2, 72))
    mass[20:] = np.nan
    table = couple_series(dh, mass, MONTHS, SETTINGS)
    assert table[["r", "rho", "p", "p_best", "n_effective"]].isna().all().all()
    assert not table["best"].any()
    assert (table["n"] <= 20).all()
    assert table["reason"].str.contains("fewer than min_n").all()


def test_a_series_that_a_treatment_takes_whole_has_no_coupling() -> None:
    rng = np.random.default_rng(13)
    line = 4.3 - 0.1 * year_fraction(month_middle(MONTHS))
    table = couple_series(line, red(rng, 0.5, 72), MONTHS, SETTINGS, dh_sigma=np.full(72, 0.1))
    raw = table["treatment"] == "raw"
    assert table.loc[raw, "r"].notna().all()
    detrended = table[table["treatment"] == "detrended"]
    assert detrended[["r", "p", "p_best", "density_kg_m3", "density_ols_kg_m3"]].isna().all().all()
    assert (detrended["reason"] == "a series does not vary").all()
    assert not detrended["best"].any()


@pytest.mark.filterwarnings("error")
def test_unrelated_red_noise_is_rejected_at_the_nominal_rate() -> None:
    # Independent pairs, φ = 0.7, n = 72. tests/statistics measures on 2 000.
    settings = CouplingSettings(bootstrap_draws=1, surrogates=199, lags_months=2)
    rng = np.random.default_rng(8)
    filters: dict = {}
    tables = [
        couple_series(
            red(rng, 0.7, 72), red(rng, 0.7, 72), MONTHS, settings, stream=i, filters=filters
        )
        for i in range(120)
    ]
    table = pd.concat(tables)
    best = table[table["best"]].groupby("treatment")["p_best"].apply(lambda p: (p <= 0.05).mean())
    at_zero = table[table["lag_months"] == 0].groupby("treatment")["p"]
    zero = at_zero.apply(lambda p: (p <= 0.05).mean())
    # Treatments share the pairs; the bound is three standard errors of 120 pairs.
    for rate in [*best, *zero]:
        assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)
    assert best.mean() > 0.005


def test_mascons_table_keeps_its_contract() -> None:
    rng = np.random.default_rng(9)
    frames = []
    for mascon in (11, 12, 13):
        dh = np.cumsum(0.05 * rng.standard_normal(72))
        mass = 5e-3 * 1000 * dh + 0.01 * rng.standard_normal(72)
        frame = pd.DataFrame({"mascon_id": mascon, "month": MONTHS, "dh_m": dh, "mass_gt": mass})
        frame["dh_sigma_m"], frame["mass_sigma_gt"] = 0.01, 0.01
        frames.append(frame)
    frames[1].loc[:, "dh_m"] = np.nan
    mascons = pd.DataFrame(
        {"mascon_id": [13, 12, 11], "selected": [False, True, True], "ice_area_km2": [1e4] * 3}
    )
    fusion = pd.concat(frames, ignore_index=True)
    table = correlate_mascons(fusion, mascons, SETTINGS)
    check(table, COUPLING)
    frame = table.to_pandas()
    assert sorted(frame["mascon_id"].unique()) == [11, 12]
    best = frame[frame["best"]]
    assert (best["q_fdr"] == best["p_best"]).all()  # one mascon with data a treatment
    # 5 Gt/m over 10 000 km² of ice are 500 kg/m³.
    raw = best[best["treatment"] == "raw"].iloc[0]
    assert raw["density_kg_m3"] == pytest.approx(500, rel=0.05)
    shuffled = correlate_mascons(fusion.sample(frac=1, random_state=1), mascons, SETTINGS)
    assert shuffled.equals(table)


def test_the_maps_q_is_benjamini_and_hochberg_s_of_the_best_lags() -> None:
    rng = np.random.default_rng(10)
    frames = []
    for mascon in range(1, 6):
        dh = red(rng, 0.5, 72)
        mass = 0.3 * mascon * dh + red(rng, 0.5, 72)
        frames.append(pd.DataFrame({"mascon_id": mascon, "month": MONTHS, "dh_m": dh}))
        frames[-1] = frames[-1].assign(mass_gt=mass, dh_sigma_m=0.1, mass_sigma_gt=0.1)
    mascons = pd.DataFrame({"mascon_id": range(1, 6), "selected": True, "ice_area_km2": 1e4})
    settings = CouplingSettings(bootstrap_draws=1, surrogates=100, lags_months=1)
    frame = correlate_mascons(pd.concat(frames), mascons, settings).to_pandas()
    for _, rows in frame.groupby("treatment"):
        best = rows[rows["best"]]
        assert len(best) == 5 and rows.loc[~rows["best"], "q_fdr"].isna().all()
        np.testing.assert_allclose(best["q_fdr"], stats.false_discovery_control(best["p_best"]))


def test_no_selected_mascon_gives_an_empty_table() -> None:
    mascons = pd.DataFrame({"mascon_id": [1], "selected": [False], "ice_area_km2": [1.0]})
    fusion = pd.DataFrame({"mascon_id": [], "month": []})
    assert correlate_mascons(fusion, mascons, SETTINGS).num_rows == 0


def test_a_lag_without_a_correlation_is_never_the_best() -> None:
    r = np.array([[np.nan, -0.1, -0.3, np.nan], [np.nan, 0.2, -0.25, np.nan]])
    assert choose_lag(r).tolist() == [2, 1]
