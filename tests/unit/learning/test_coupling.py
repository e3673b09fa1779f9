import numpy as np
import pandas as pd
import pytest
from scipy import stats

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


@pytest.mark.filterwarnings("error")
def test_unrelated_red_noise_is_rejected_at_the_nominal_rate() -> None:
    # Independent pairs, φ = 0.7, n = 72. Measured on 2 000 pairs: 4.4–5.0 % for the best lag,
    # 5.7–6.1 % at lag 0.
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


def test_no_selected_mascon_gives_an_empty_table() -> None:
    mascons = pd.DataFrame({"mascon_id": [1], "selected": [False], "ice_area_km2": [1.0]})
    fusion = pd.DataFrame({"mascon_id": [], "month": []})
    assert correlate_mascons(fusion, mascons, SETTINGS).num_rows == 0
