"""Detector and early warning on worlds whose truth is known: what chance flags, what is planted."""

import numpy as np
import pytest

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.learning.treatments import build_filter
from cryofuse.products.early_warning import STATISTICS, measure_rise
from cryofuse.products.rapid_melt import detect_extremes
from cryofuse.simulate.world import REGIMES, build_histories

MONTHS = month_range("2018-10", "2024-12")
YEARS = year_fraction(month_middle(MONTHS))
CYCLE = 5 * YEARS + 3 * np.cos(2 * np.pi * YEARS) + np.sin(4 * np.pi * YEARS)
QUANTILE, DRAWS = 0.02, 300


def ar1(phi, spread=1.0, seed=0, steps=YEARS.size, rng=None):
    """A stationary AR(1) series, or one whose φ is given for every step."""
    rng = np.random.default_rng(seed) if rng is None else rng
    phi = np.broadcast_to(phi, steps)
    noise = rng.normal(size=steps)
    for t in range(1, steps):
        noise[t] = phi[t] * noise[t - 1] + np.sqrt(1 - phi[t] ** 2) * noise[t]
    return spread * noise


def whole_and_gappy():
    whole = np.ones(YEARS.size, bool)
    gappy = whole.copy()
    gappy[[3, 20, 21, 22, 40, 60]] = False
    return [build_filter("deseasonalised", YEARS, mask) for mask in (whole, gappy)]


SUMMER = np.isin(MONTHS.astype("datetime64[M]").astype(int) % 12, [5, 6, 7])


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.5])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_worlds_without_extremes_are_flagged_no_more_than_stated(phi, factor):
    """200 worlds, every other one with gaps, whose summers vary more: within the stated bound."""
    filters = whole_and_gappy()
    rng = np.random.default_rng(11)
    spread = np.where(SUMMER, factor, 1.0)
    flagged, summer, stated, below = [], [], [], []
    for world in range(200):
        treated = filters[world % 2]
        series = np.where(treated.mask, CYCLE + spread * ar1(phi, rng=rng), np.nan)
        seen = detect_extremes(
            series, YEARS, treated, QUANTILE, DRAWS, np.random.default_rng(world)
        )
        n = treated.mask.sum()
        counts = seen.false_alarms * n
        flagged.append(seen.flagged.sum() / n)
        summer.append(seen.flagged[SUMMER & treated.mask].mean())
        stated.append(counts.mean() / n)
        below.append(seen.flagged.sum() <= round(np.quantile(counts, 0.95, method="higher")))
    # docs/methods.md: 3 % of all months, 4.5 % of the melt months, where 2 % are meant.
    assert np.mean(flagged) <= 0.03
    assert np.mean(summer) <= 0.045
    assert np.mean(stated) == pytest.approx(np.mean(flagged), abs=0.006)
    # "At most by chance" holds in 95 % of such records, less three binomial σ.
    assert np.mean(below) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)


#: Spreads below the usual → share found at least (docs/methods.md, less three binomial σ).
POWER = {3: 0.55, 4: 0.77, 5: 0.88, 6: 0.94}


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("size", POWER)
def test_planted_months_are_found(size, factor):
    whole, _ = whole_and_gappy()
    rng = np.random.default_rng(12)
    spread = np.where(SUMMER, factor, 1.0)
    found = []
    for world in range(200):
        series = CYCLE + spread * ar1(0.3, rng=rng)
        planted = rng.integers(YEARS.size)
        series[planted] -= size * spread[planted]
        seen = detect_extremes(series, YEARS, whole, QUANTILE, DRAWS, np.random.default_rng(world))
        found.append(seen.flagged[planted])
    assert np.mean(found) >= POWER[size]


def test_the_melt_season_of_2019_stands_out_in_the_planted_weather():
    """Elevation of the regime that melts most, by the world's own histories, with noise."""
    days = np.arange(np.datetime64("2018-10-01"), np.datetime64("2025-01-01"))
    height = build_histories(7, days)[0]
    patterns = len(height) // len(REGIMES)
    (melting,) = [
        i for i, r in enumerate(REGIMES) if r.melt_m_yr == max(q.melt_m_yr for q in REGIMES)
    ]
    own = height[melting * patterns]
    months = days.astype("datetime64[M]")
    monthly = np.array([own[months == m].mean() for m in np.unique(months)])
    change = np.diff(monthly, prepend=np.nan)
    treated = build_filter("deseasonalised", YEARS, np.isfinite(change))
    noise = 0.02 * np.diff(np.random.default_rng(0).normal(size=YEARS.size + 1))
    seen = detect_extremes(change + noise, YEARS, treated, QUANTILE, 1000, np.random.default_rng(1))
    summer = {"2019-06", "2019-07", "2019-08"}
    # Six summers say how much summers vary, this one among them: it stands out, but is no month
    # of one in fifty.
    own = [m in summer for m in MONTHS.astype("datetime64[M]").astype(str)]
    assert np.nanmin(seen.p[own]) < 0.1
    anomaly = dict(zip(MONTHS.astype("datetime64[M]").astype(str), seen.anomaly, strict=True))
    assert min(anomaly, key=lambda m: np.nan_to_num(anomaly[m], nan=np.inf)) in summer
    years = [sum(anomaly[f"{y}-0{m}"] for m in (6, 7, 8)) for y in (2019, 2020, 2021)]
    assert years[0] < years[1] < years[2]


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_stationary_worlds_warn_about_one_time_in_twenty(phi):
    whole, gappy = whole_and_gappy()
    rng = np.random.default_rng(13)
    p = {name: [] for name in STATISTICS}
    for world in range(400):
        treated = (whole, gappy)[world % 2]
        series = np.where(treated.mask, CYCLE + ar1(phi, rng=rng), np.nan)
        found = measure_rise(series, treated, 36, 99, np.random.default_rng(world))
        for name in STATISTICS:
            p[name].append(found[name]["p"])
    for name, values in p.items():
        rejected = np.mean(np.array(values) <= 0.05)
        # 400 worlds: a binomial σ of 1.1 %.
        assert 0.015 <= rejected <= 0.085, (name, rejected)


#: Measured power, 0.33 for autocorrelation and 0.105 for variance, less two binomial σ of 200
#: worlds: of variance it is hardly more than the 5 % of chance.
SLOWING = {"autocorrelation": 0.26, "variance": 0.06}


def test_a_planted_slowing_down_is_found_more_often():
    """φ from 0.1 to 0.95 over the record, innovations the same: variance rises, too."""
    whole, _ = whole_and_gappy()
    rng = np.random.default_rng(14)
    phi = np.linspace(0.1, 0.95, YEARS.size)
    rejected = {name: [] for name in STATISTICS}
    for world in range(200):
        noise = rng.normal(size=YEARS.size)
        for t in range(1, YEARS.size):
            noise[t] += phi[t] * noise[t - 1]
        found = measure_rise(CYCLE + noise, whole, 36, 99, np.random.default_rng(world))
        for name in STATISTICS:
            rejected[name].append(found[name]["p"] <= 0.05)
    for name, found in rejected.items():
        assert np.mean(found) >= SLOWING[name], name
