from itertools import combinations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import adjusted_rand_score

from cryofuse.config import RegimeSettings
from cryofuse.learning.regimes import (
    METRICS,
    choose_count,
    cluster_regimes,
    explain_choice,
    fit_scaler,
    mascon_metrics,
    name_regimes,
    node_metrics,
    sample_evenly,
    score_counts,
)
from cryofuse.tables import (
    REGIME_CENTROIDS,
    REGIME_MASCONS,
    REGIME_NODES,
    REGIME_STABILITY,
    check,
)

SETTINGS = RegimeSettings(k_max=5, bootstraps=4)
#: rate, amplitude, slope, elevation, interannual of three planted regimes.
PLANTED = {
    0: (-2.0, 0.7, 0.02, 500, 0.4),
    1: (-0.3, 0.5, 0.01, 1100, 0.3),
    2: (0.0, 0.05, 0.003, 2500, 0.05),
}
MASCONS = gpd.GeoDataFrame(
    {"mascon_id": [5, 9]},
    geometry=[shapely.box(310, 64, 316, 72), shapely.box(0, 0, 3, 3)],
    crs="EPSG:4326",
)


def make_nodes(count: int = 400, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    planted = rng.choice(3, count, p=[0.2, 0.3, 0.5])
    values = np.array([PLANTED[j] for j in planted]) * rng.normal(1, 0.1, (count, 5))
    return pd.DataFrame(
        {
            "node_id": np.arange(count) + 1000,
            "x_m": rng.uniform(0, 1e5, count),
            "y_m": rng.uniform(0, 1e5, count),
            "latitude": rng.uniform(65, 71, count),
            "longitude": rng.uniform(-49, -45, count),
            "area_km2": 100.0,
            "rate_m_yr": values[:, 0] + rng.normal(0, 0.02, count),
            "rate_sigma_m_yr": 0.02,
            "amplitude_m": np.abs(values[:, 1]),
            "phase_rad": rng.normal(3.0, 0.1, count),
            "slope": np.abs(values[:, 2]),
            "elevation_m": values[:, 3],
            "interannual_m": np.abs(values[:, 4]),
            "bed_m": np.nan,
            "planted": planted,
        }
    )


@pytest.fixture(scope="module")
def nodes() -> pd.DataFrame:
    return make_nodes()


@pytest.fixture(scope="module")
def regimes(nodes: pd.DataFrame):  # noqa: ANN201
    return cluster_regimes(nodes, MASCONS, SETTINGS)


def test_planted_regimes_are_found_in_order_of_rate(nodes: pd.DataFrame, regimes) -> None:
    found = regimes.nodes.to_pandas()
    assert adjusted_rand_score(nodes["planted"], found["regime"]) > 0.95
    rates = regimes.centroids.to_pandas()["rate_m_yr"].to_numpy()[:-1]
    assert (np.diff(rates) > 0).all()
    # Labels are ordered by rate, so they equal the planted ones.
    assert np.mean(found["regime"] == nodes["planted"]) > 0.97
    assert set(found["regime_name"]) == {
        "rapid thinning outlet",
        "seasonal melt",
        "stable interior",
    }


def test_tables_keep_their_contracts(regimes) -> None:
    check(regimes.nodes, REGIME_NODES)
    check(regimes.mascons, REGIME_MASCONS)
    check(regimes.centroids, REGIME_CENTROIDS)
    check(regimes.stability, REGIME_STABILITY)
    stability = regimes.stability.to_pandas()
    assert stability["level"].tolist() == ["nodes"] * 4 + ["mascons"] * 4
    stability = stability[stability["level"] == "nodes"]
    assert stability["k"].tolist() == [2, 3, 4, 5]
    assert stability.loc[stability["chosen"], "k"].tolist() == [3]
    assert stability.loc[stability["k"] == 3, "adjusted_rand"].item() > 0.95


def test_centroids_are_plain_means_of_their_nodes(nodes: pd.DataFrame, regimes) -> None:
    found = nodes.assign(regime=regimes.nodes.to_pandas()["regime"].to_numpy())
    member = found[found["regime"] == 1]
    row = regimes.centroids.to_pandas().iloc[1]
    assert row["n_nodes"] == len(member)
    assert row["area_km2"] == pytest.approx(100.0 * len(member))
    for name in ("rate_m_yr", "amplitude_m", "slope", "latitude", "elevation_m"):
        assert row[name] == pytest.approx(member[name].mean())
    cycle = np.mean(member["amplitude_m"] * np.exp(1j * member["phase_rad"]))
    assert row["phase_rad"] == pytest.approx(np.angle(cycle))


def test_mascon_takes_the_regime_of_most_area(nodes: pd.DataFrame, regimes) -> None:
    table = regimes.mascons.to_pandas().set_index("mascon_id")
    assert table.loc[5, "node_regime"] == 2
    assert table.loc[5, "node_regime_name"] == "stable interior"
    assert table.loc[5, "n_nodes"] == len(nodes)
    found = regimes.nodes.to_pandas()["regime"]
    assert table.loc[5, "share"] == pytest.approx((found == 2).mean())
    assert table.loc[9, ["node_regime", "regime"]].isna().all()
    assert table.loc[9, "reason"] == "0 usable nodes, fewer than 10"
    assert table.loc[5, "reason"] == "1 usable mascons, fewer than 8"


def test_order_and_seed_do_not_change_labels(nodes: pd.DataFrame, regimes) -> None:
    again = cluster_regimes(nodes.sample(frac=1, random_state=3), MASCONS, SETTINGS)
    assert again.nodes.equals(regimes.nodes)
    other = cluster_regimes(nodes, MASCONS, RegimeSettings(k_max=5, bootstraps=4, seed=99))
    first, second = (r.nodes.to_pandas()["regime"] for r in (regimes, other))
    assert adjusted_rand_score(first, second) > 0.99


def test_unusable_nodes_are_null_with_a_reason(nodes: pd.DataFrame) -> None:
    broken = nodes.copy()
    broken.loc[0, "rate_m_yr"] = np.nan
    broken.loc[1, "rate_sigma_m_yr"] = 2.0
    broken.loc[2, "interannual_m"] = np.nan
    broken.loc[3, "area_km2"] = 0.0
    settings = RegimeSettings(k=3, k_min=2, k_max=2, bootstraps=1)
    found = cluster_regimes(broken, MASCONS, settings).nodes.to_pandas()
    assert found["regime"].isna().sum() == 4
    assert found["reason"][:4].tolist() == [
        "no fit",
        "rate σ above 0.5 m/yr",
        "interannual_m is unknown",
        "stands for no ice",
    ]


def test_too_few_nodes_give_nulls_and_a_reason() -> None:
    result = cluster_regimes(make_nodes(15), MASCONS, SETTINGS)
    found = result.nodes.to_pandas()
    assert found["regime"].isna().all()
    assert found["reason"].str.startswith("15 usable nodes").all()
    centroids = check(result.centroids, REGIME_CENTROIDS).to_pandas()
    assert centroids["level"].tolist() == ["nodes", "mascons"]
    assert centroids["regime"].isna().all()
    assert centroids["reason"][0] == "15 usable nodes, fewer than 20"
    stability = check(result.stability, REGIME_STABILITY).to_pandas()
    assert not stability["chosen"].any()
    assert stability["reason"].notna().all()


def test_fine_nodes_do_not_outweigh_area() -> None:
    area = np.concatenate([np.full(1000, 1.0), np.full(100, 100.0)])
    drawn = sample_evenly(area, 55)
    # The hundred coarse nodes hold 10/11 of the area: a node every 200 km².
    np.testing.assert_array_equal(drawn, [*range(99, 1000, 200), *range(1000, 1100, 2)])
    np.testing.assert_array_equal(sample_evenly(area, 2000), np.arange(1100))
    metrics = np.concatenate([np.full((1000, 1), 5.0), np.linspace(0, 1, 100)[:, None]])
    assert fit_scaler(np.tile(metrics, len(METRICS)), area).centre[0] < 1.0


def test_outliers_are_cut() -> None:
    nodes = make_nodes(200)
    nodes.loc[0, "rate_m_yr"] = -500.0
    metrics = node_metrics(nodes)
    scaled = fit_scaler(metrics, np.ones(200)).apply(metrics)
    assert np.abs(scaled).max() <= 3.0 * 2.0
    assert metrics[0, METRICS.index("rate_m_yr")] == -500.0


def test_names_follow_the_rule_and_are_unique() -> None:
    rows = pd.DataFrame(
        {
            "rate_m_yr": [-2.0, -0.8, -0.3, -0.2, -0.2, 0.0, 0.2],
            "amplitude_m": [0.5, 0.5, 0.5, 0.6, 0.1, 0.1, 0.1],
            "elevation_m": [300, 600, 400, 900, 1800, 2500, 2000],
            "bed_m": [np.nan, np.nan, -200.0, 100.0, 100.0, 50.0, np.nan],
        }
    )
    assert name_regimes(rows) == [
        "rapid thinning outlet 1",
        "rapid thinning outlet 2",
        "marine-terminating margin",
        "seasonal melt",
        "moderate thinning",
        "stable interior",
        "thickening",
    ]


def test_k_must_come_back_under_bootstrap() -> None:
    table = pd.DataFrame(
        {
            "k": [2, 3, 4, 5],
            "silhouette": [0.5, 0.6, 0.7, np.nan],
            "gap": [0.1, 0.5, 0.6, np.nan],
            "adjusted_rand": [0.99, 0.97, 0.5, np.nan],
        }
    )
    score = score_counts(table)
    np.testing.assert_allclose(score, [0.0, 0.5 + 0.8, 2.0, np.nan])
    table["score"] = score
    assert choose_count(table) == 3
    assert explain_choice(table) == (
        "the largest silhouette + gap, each scaled to 0…1 (1.30; next 0.00 at k = 2), among the "
        "2 of 3 partitions that come back under bootstrap (adjusted Rand at least 0.9; here 0.970)"
    )
    loose = table.assign(adjusted_rand=[0.5, 0.6, 0.4, np.nan])
    assert choose_count(loose) == 3
    assert "this one most nearly (0.60)" in explain_choice(loose)


#: Mascons of 12 nodes each, of three kinds: rates (m/yr), amplitudes (m) and phases of the nodes.
KINDS = ((-1.5, 0.6, 2.0), (-0.3, 0.5, 1.5), (0.0, 0.05, 0.0))


@pytest.fixture(scope="module")
def patchwork() -> tuple[pd.DataFrame, gpd.GeoDataFrame, np.ndarray]:
    """Return 15 mascons of one kind each, one with two nodes, one with none, and the kinds."""
    rng = np.random.default_rng(4)
    kinds = np.arange(15) % 3
    west = 305.0 + 2.0 * np.arange(17)
    parts = []
    for number, kind in enumerate([*kinds, 0]):
        count = 12 if number < 15 else 2
        part = make_nodes(count, seed=number)
        rate, amplitude, phase = KINDS[kind]
        part["node_id"] = 100 * number + np.arange(count)
        part["longitude"] = west[number] - 360 + rng.uniform(0.1, 1.9, count)
        part["latitude"] = rng.uniform(69.1, 69.9, count)
        part["area_km2"] = rng.uniform(50, 150, count)
        part["rate_m_yr"] = rate + rng.normal(0, 0.05, count)
        part["slope"], part["elevation_m"], part["interannual_m"] = PLANTED[kind][2:]
        part["amplitude_m"] = amplitude * rng.uniform(0.9, 1.1, count)
        part["phase_rad"] = phase + rng.normal(0, 0.1, count)
        parts.append(part)
    mascons = gpd.GeoDataFrame(
        {"mascon_id": np.arange(17) + 50},
        geometry=[shapely.box(x, 69, x + 2, 70) for x in west],
        crs="EPSG:4326",
    )
    return pd.concat(parts, ignore_index=True), mascons, kinds


def test_mascons_are_clustered_on_their_own_metrics(patchwork) -> None:  # noqa: ANN001
    nodes, mascons, kinds = patchwork
    result = cluster_regimes(nodes, mascons, RegimeSettings(k=3, k_max=4, bootstraps=2))
    table = check(result.mascons, REGIME_MASCONS).to_pandas()
    chosen = result.stability.to_pandas().query("chosen").set_index("level")
    assert chosen["k"].to_dict() == {"nodes": 3, "mascons": 3}
    assert chosen.loc["mascons", "why"].startswith("k = 3: as many as of nodes")
    assert table["regime"][:15].tolist() == kinds.tolist()
    assert table["node_regime"][:16].tolist() == [*kinds, 0]
    assert table["regime_name"][0] == "rapid thinning outlet"
    assert table["reason"][15:].tolist() == [
        "2 usable nodes, fewer than 10",
        "0 usable nodes, fewer than 10",
    ]
    centroids = check(result.centroids, REGIME_CENTROIDS).to_pandas()
    centroids = centroids[centroids["level"] == "mascons"]
    assert centroids["n_mascons"].tolist() == [5, 5, 5]
    assert centroids["n_nodes"].tolist() == [60, 60, 60]
    member = nodes[nodes["node_id"].between(0, 1499) & (nodes["node_id"] // 100 % 3 == 1)]
    rate = np.average(member["rate_m_yr"], weights=member["area_km2"])
    assert centroids["rate_m_yr"].iloc[1] == pytest.approx(rate)


def test_metrics_of_mascons_are_means_by_area(patchwork) -> None:  # noqa: ANN001
    nodes, mascons, _ = patchwork
    row = mascon_metrics(nodes, mascons).iloc[3]
    inside = nodes[nodes["node_id"] // 100 == 3]
    weights = inside["area_km2"] / inside["area_km2"].sum()
    assert row["mascon_id"] == 53
    assert row["area_km2"] == pytest.approx(inside["area_km2"].sum())
    for name in ("rate_m_yr", "slope", "elevation_m", "interannual_m", "latitude"):
        assert row[name] == pytest.approx((weights * inside[name]).sum())
    cycle = (weights * inside["amplitude_m"] * np.exp(1j * inside["phase_rad"])).sum()
    assert row["amplitude_m"] == pytest.approx(abs(cycle))
    assert row["phase_rad"] == pytest.approx(np.angle(cycle))


def test_seeds_agree_where_clusters_run_into_each_other() -> None:
    rng = np.random.default_rng(8)
    nodes = make_nodes(400, seed=2)
    for name in ("rate_m_yr", "amplitude_m", "slope", "interannual_m", "elevation_m"):
        nodes[name] *= rng.lognormal(0, 0.5, len(nodes))
    found = []
    for seed in range(3):
        settings = RegimeSettings(k_max=5, bootstraps=5, max_nodes=200, seed=seed)
        found.append(cluster_regimes(nodes, MASCONS, settings).nodes.to_pandas()["regime"])
    for one, other in combinations(found, 2):
        assert adjusted_rand_score(one, other) >= 0.99
