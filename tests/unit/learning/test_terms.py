"""What models see, and the varying density against closed formulas and a planted law."""

import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cryofuse.config import SearchSettings, SkillSettings
from cryofuse.learning import models
from cryofuse.learning.skill import evaluate, select_samples
from cryofuse.learning.terms import VaryingDensity, WeighByIce, choose_terms, driver_columns

Maker = Callable[..., pd.DataFrame]

PHYSICAL = SkillSettings()
COMMON = {
    *("season_cos", "season_sin", "season2_cos", "season2_sin"),
    *("ice_fraction", "latitude", "elevation_m", "slope", "marine_margin_fraction"),
    *("dh_cycle_cos_m", "dh_cycle_sin_m", "dh_rate_m_yr", "dh_change_3m_m"),
}
OTHERS = {"ice_area_km2", "longitude", "dh_spread_m", "sampled_fraction", "dh_change_12m_m"}


def columns(shortest: int = 1, lags: int = 6) -> list[str]:
    levels = ["dh_m", "dh_interannual_m"]
    lagged = [*levels, f"dh_change_{shortest}m_m", "dh_change_12m_m", "dh_cycle_change_1m_m"]
    later = [
        f"{name}_lag{lag:02d}" for name in lagged for lag in range(shortest, lags + 1, shortest)
    ]
    return sorted({*COMMON, *OTHERS, *lagged, *later})


def shown(names: list[str], target: str, settings: SkillSettings = PHYSICAL) -> set[str]:
    hidden = choose_terms(names, target, settings)
    assert all(hidden.values()) and set(hidden) <= set(names)
    return set(names) - set(hidden)


def answered(name: str, lags: int) -> set[str]:
    return {name, *(f"{name}_lag{lag:02d}" for lag in range(1, lags + 1))}


def test_a_change_is_shown_recent_change_rate_season_and_place() -> None:
    expected = COMMON | answered("dh_change_1m_m", 3) | answered("dh_cycle_change_1m_m", 3)
    assert shown(columns(), "change") == expected


def test_the_cumulative_anomaly_is_shown_every_column() -> None:
    assert shown(columns(), "cumulative") == set(columns())


def test_reasons_tell_lags_from_other_columns() -> None:
    hidden = choose_terms(columns(), "change", PHYSICAL)
    assert hidden["dh_change_1m_m_lag04"] == "lag of more than 3 months"
    assert hidden["dh_m_lag01"] == hidden["longitude"] == "not among the physical terms"


@pytest.mark.parametrize("months", [0, 1, 5])
def test_lags_are_shown_up_to_the_response(months: int) -> None:
    settings = SkillSettings(response_months=months)
    found = {name for name in shown(columns(), "change", settings) if "_lag" in name}
    bases = ("dh_change_1m_m", "dh_cycle_change_1m_m")
    assert found == {f"{name}_lag{lag:02d}" for name in bases for lag in range(1, months + 1)}


def test_with_steps_of_seasons_the_shortest_change_is_answered() -> None:
    answers = ("dh_change_3m_m", "dh_cycle_change_1m_m")
    lagged = {name for base in answers for name in (base, f"{base}_lag03")}
    assert shown(columns(shortest=3), "change") == COMMON | lagged


def test_with_steps_of_a_month_longer_changes_have_no_lags() -> None:
    names = [*columns(), "dh_change_3m_m_lag01"]
    assert "dh_change_3m_m_lag01" not in shown(names, "change")


@pytest.mark.parametrize("target", ["change", "cumulative"])
def test_all_terms_hide_nothing(target: str) -> None:
    assert choose_terms(columns(), target, SkillSettings(terms="all")) == {}
    assert choose_terms([], target, PHYSICAL) == {}


def test_samples_hold_the_terms_and_say_what_they_lack(make_features: Maker) -> None:
    table = make_features(mascons=4, months=20, lags=4)
    samples = select_samples(table, "change", PHYSICAL)
    place = {"season_cos", "season_sin", "ice_fraction", "latitude"}
    assert set(samples.names) == answered("dh_change_1m_m", 3) | place
    assert set(samples.dropped) >= {"dh_m", "longitude", "ice_area_km2", "dh_change_1m_m_lag04"}
    ordered = table.sort_values(["month", "mascon_id"])
    np.testing.assert_array_equal(samples.x, ordered[samples.names])


def test_drivers_are_elevation_change_and_not_the_place() -> None:
    names = ["dh_m", "season_cos", "dh_cycle_cos_m", "dh_cycle_change_1m_m_lag02", "slope"]
    assert driver_columns(names).tolist() == [True, False, False, True, False]
    assert driver_columns([]).shape == (0,)


def test_weighing_by_ice_is_a_product_that_keeps_nulls() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5))
    x[::4, 1] = np.nan
    x[3, 2] = np.nan
    before = x.copy()
    found = WeighByIce([0, 1], 2).fit(x).transform(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(found[:, 2:], before[:, 2:])
    for k in (0, 1):
        expected = [a * b for a, b in zip(before[:, k], before[:, 2], strict=True)]
        np.testing.assert_array_equal(found[:, k], expected)
    assert np.isnan(found[3, :3]).all() and np.isnan(found[::4, 1]).all()


@pytest.mark.parametrize("model", SearchSettings.model_fields)
def test_every_model_meets_elevation_times_ice(model: str) -> None:
    """Elevation of a mascon half ice is that of a full one at half the size."""
    rng = np.random.default_rng(1)
    names = ("dh_change_1m_m", "ice_fraction", "season_cos", "latitude")
    x = rng.normal(size=(80, 4))
    x[:, 1] = rng.uniform(0.2, 1.0, 80)
    y = 5 * x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=80)
    (parameters,) = models.list_candidates(SearchSettings().space(model), 1)
    with models.single_threaded():
        found = models.build(model, parameters, 10, 0, names).fit(x, y).predict(x)
        weighed = x.copy()
        weighed[:, 0] *= x[:, 1]
        plain = models.build(model, parameters, 10, 0, names)
        plain.steps.pop(0)
        expected = plain.fit(weighed, y).predict(weighed)
    np.testing.assert_array_equal(found, expected)


def test_without_ice_or_elevation_nothing_is_weighed() -> None:
    for names in (("dh_change_1m_m", "latitude"), ("ice_fraction", "latitude"), ()):
        steps = models.build("ridge", {"alpha": 1.0}, 1, 0, names).steps
        assert not any(isinstance(step, WeighByIce) for _, step in steps)


def test_a_varying_density_has_to_know_the_names() -> None:
    with pytest.raises(ValueError, match="names of the features"):
        models.build("varying_density", {}, 1, 0)


def test_densities_that_do_not_vary_are_ridge_regression_on_the_drivers() -> None:
    rng = np.random.default_rng(2)
    x, new = rng.normal(size=(60, 6)), rng.normal(size=(9, 6))
    y = 7 + x @ [3.0, 0, -1, 2, 5, 0] + rng.normal(size=60)
    model = VaryingDensity([0, 3, 5], [1], [2, 4], alpha=4.0, varying=0.0)
    a = x[:, [0, 3, 5]]
    # The drivers share one unit of variance, so each has a third.
    weights = np.linalg.solve(a.T @ a + 3 * 4.0 * np.eye(3), a.T @ (y - y.mean()))
    expected = y.mean() + new[:, [0, 3, 5]] @ weights
    np.testing.assert_allclose(model.fit(x, y).predict(new), expected, rtol=1e-9)
    ridge = Ridge(alpha=12.0, fit_intercept=False).fit(a, y - y.mean())
    np.testing.assert_allclose(ridge.predict(new[:, [0, 3, 5]]) + y.mean(), expected)


def test_the_posterior_mean_is_that_of_the_kernel_written_out() -> None:
    rng = np.random.default_rng(3)
    x, new = rng.normal(size=(25, 5)), rng.normal(size=(4, 5))
    y = rng.normal(size=25)
    drivers, season, place = [0, 1], [2], [3, 4]
    share, alpha, length, width = 0.7, 2.0, 1.2, 2.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        s = np.exp(-np.sum((a[season] - b[season]) ** 2) / (2 * length**2))
        p = np.exp(-np.sum((a[place] - b[place]) ** 2) / (2 * width**2))
        density = (1 + share * s) * (1 + share * p)
        return density * np.sum(a[drivers] * b[drivers]) / 2 + share * s * (1 + p)

    inner = np.array([[kernel(a, b) for b in x] for a in x])
    outer = np.array([[kernel(a, b) for b in x] for a in new])
    expected = y.mean() + outer @ np.linalg.inv(inner + alpha * np.eye(25)) @ (y - y.mean())
    model = VaryingDensity(drivers, season, place, alpha, 0.4, length, width, share).fit(x, y)
    np.testing.assert_allclose(model.predict(new), expected, rtol=1e-9)


def world(seed: int = 4, mascons: int = 20, months: int = 48) -> tuple[np.ndarray, ...]:
    """Return standardised features and mass whose density varies with season and place."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.tile(np.arange(months), mascons) / 12
    along = np.linspace(-1, 1, mascons)
    where = np.repeat(np.column_stack([along, rng.normal(size=mascons)]), months, axis=0)
    driver = rng.normal(size=len(angle))
    density = 1 + 0.8 * np.cos(angle) + 0.8 * where[:, 0]
    y = 5 * density * driver + rng.normal(size=len(angle))
    x = np.column_stack([driver, np.cos(angle), np.sin(angle), where])
    return StandardScaler().fit_transform(x), y, np.repeat(np.arange(mascons), months)


def test_a_density_of_season_and_place_is_learned_for_places_not_seen() -> None:
    x, y, mascon = world()
    test = mascon % 4 == 0
    rest = {}
    for name, model in (
        ("varying", VaryingDensity([0], [1, 2], [3, 4], alpha=1.0)),
        ("season", VaryingDensity([0], [1, 2], [], alpha=1.0)),
        ("place", VaryingDensity([0], [], [3, 4], alpha=1.0)),
        ("ridge", Ridge(alpha=1.0)),
    ):
        predicted = model.fit(x[~test], y[~test]).predict(x[test])
        rest[name] = np.var(y[test] - predicted) / np.var(y[test])
    assert rest["varying"] < 0.3 * min(rest["season"], rest["place"])
    assert max(rest["season"], rest["place"]) < rest["ridge"]


def test_the_order_of_rows_does_not_matter() -> None:
    x, y, mascon = world(mascons=10)
    train = mascon < 8
    order = np.random.default_rng(5).permutation(train.sum())
    model = VaryingDensity([0], [1, 2], [3, 4])
    first = model.fit(x[train], y[train]).predict(x[~train])
    second = model.fit(x[train][order], y[train][order]).predict(x[~train])
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-9)


def test_with_a_small_alpha_the_training_samples_come_back() -> None:
    x, y, _ = world(mascons=3, months=12)
    found = VaryingDensity([0], [1, 2], [3, 4], alpha=1e-9, season_length=0.3).fit(x, y)
    np.testing.assert_allclose(found.predict(x), y, atol=1e-3)


@pytest.mark.parametrize(
    "names",
    [
        ("season_cos", "season_sin", "latitude", "slope", "ice_fraction"),
        ("dh_change_1m_m", "dh_rate_m_yr", "dh_change_3m_m", "dh_m", "dh_m_lag01"),
        ("dh_change_1m_m", "season_cos", "season_sin", "season2_cos", "season2_sin"),
        ("dh_change_1m_m", "dh_rate_m_yr", "latitude", "slope", "ice_fraction"),
    ],
    ids=["blind", "no season or place", "no place", "no season"],
)
def test_a_table_without_columns_of_a_kind_is_fitted(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(120, 5))
    y = 4 * x[:, 0] + 0.1 * rng.normal(size=120)
    x[::7, 1] = np.nan
    x[:, 4] = np.nan if names[4] != "ice_fraction" else 0.5
    (parameters,) = models.list_candidates(SearchSettings().space("varying_density"), 1)
    parameters["alpha"] = 3.0  # the noise is small against a climatology of 120 samples
    fitted = models.build("varying_density", parameters, 1, 0, names).fit(x[:90], y[:90])
    rest = y[90:] - fitted.predict(x[90:])
    assert np.var(rest) < 0.3 * np.var(y[90:])


def test_the_blind_twin_knows_no_elevation(
    make_features: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """A twin without drivers is a climatology: it does not see what drives the mass."""
    settings = SkillSettings(
        models=["varying_density"],
        targets=["change"],
        splits=["forward"],
        folds=2,
        inner_folds=2,
        candidates=1,
        trees=5,
        min_train_months=18,
        embargo_months=3,
        bootstrap_draws=20,
        label_permutations=1,
    )
    caplog.set_level(logging.INFO)
    table = make_features(mascons=6, months=48, lags=1)
    scores, _ = evaluate(table, settings)
    r2 = scores[(scores["score"] == "r2") & (scores["scope"] == "pooled")]
    r2 = r2.set_index("model")["value"]
    assert r2["varying_density"] > 0.8 > r2["varying_density_blind"] + 0.2
    assert "feature dh_m left out: not among the physical terms" in caplog.text


def test_changes_next_to_each_other_share_an_error() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    # two mascons; step 2 of the second one is missing, so its steps 1 and 3 share nothing
    keys = np.array([[1, 1], [1, 2], [1, 3], [2, 1], [2, 3], [2, 4]])
    error = np.eye(6)
    for i, j in ((0, 1), (1, 2), (4, 5)):
        error[i, j] = error[j, i] = -0.4
    model = VaryingDensity([0, 1, 2], [], [], alpha=2.0, varying=0.0)
    kernel = x @ x.T / 3
    expected = y.mean() + kernel @ np.linalg.solve(kernel + 2 * error, y - y.mean())
    np.testing.assert_allclose(model.fit(x, y, keys).predict(x), expected, rtol=1e-9)
    alone = y.mean() + kernel @ np.linalg.solve(kernel + 2 * np.eye(6), y - y.mean())
    np.testing.assert_allclose(model.fit(x, y).predict(x), alone, rtol=1e-9)
