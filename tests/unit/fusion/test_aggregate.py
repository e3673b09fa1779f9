"""Estimators against closed formulas on a grid of nodes over two mascons."""

import geopandas
import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import FusionSettings
from cryofuse.fusion.aggregate import anchor, fuse_causal, fuse_retrospective, place_nodes
from cryofuse.geo import project
from cryofuse.mascons.blocks import degree_box
from cryofuse.tables import MASCON_MONTHS, check, from_pandas

CRS = "EPSG:3413"
MONTHS = month_range("2019-01", "2021-12")
REFERENCE = np.datetime64("2020-01-01", "us")


def _mascons():
    return geopandas.GeoDataFrame(
        {
            "mascon_id": np.array([3, 8], dtype=np.int32),
            "ice_area_km2": [50_000.0, 40_000.0],
            "land_area_km2": [60_000.0, 50_000.0],
            "latitude": [72.0, 72.0],
            "longitude": [-45.0, -35.0],
        },
        geometry=[degree_box(-50, 70.5, -40, 73.5), degree_box(-40, 70.5, -30, 73.5)],
        crs="EPSG:4326",
    )


def _nodes():
    """Nodes every half degree; the western half of each mascon is low, thins and cycles."""
    lon, lat = (
        g.ravel() for g in np.meshgrid(np.arange(-49.75, -30, 0.5), np.arange(70.75, 73.5, 0.5))
    )
    low = (lon % 10) < 5
    x, y = project(lon, lat, CRS)
    mascon = np.where(lon < -40, 3, 8)
    count = np.where(mascon == 3, (mascon == 3).sum(), (mascon == 8).sum())
    area = np.where(mascon == 3, 50_000.0, 40_000.0) / count
    return pd.DataFrame(
        {
            "node_id": np.arange(lon.size) * 10 + 3,
            "x_m": x,
            "y_m": y,
            "latitude": lat,
            "longitude": lon,
            "area_km2": area * np.where(low, 1.5, 0.5),
            "elevation_m": np.where(low, 500.0, 2500.0),
            "slope": np.where(low, 0.03, 0.01),
            "rate_m_yr": np.where(low, -1.0, 0.1),
            "rate_sigma_m_yr": 0.01,
            "amplitude_m": np.where(low, 0.4, 0.0),
            "phase_rad": 1.0,
            "rms_m": 0.1,
            "n_epochs": 30,
        }
    )


def _change(nodes, month, reference):
    """The nodes' own model, written out."""
    t = float(year_fraction(month_middle(np.array([month])))[0])
    t0 = float(year_fraction(np.array([reference]))[0])
    cycle = np.cos(2 * np.pi * t - 1.0) - np.cos(2 * np.pi * t0 - 1.0)
    return nodes["rate_m_yr"].to_numpy() * (t - t0) + nodes["amplitude_m"].to_numpy() * cycle


def _node_months(nodes, seen, extra=0.0, sigma=0.05):
    rows = []
    for number, month in enumerate(MONTHS):
        model = _change(nodes, month, REFERENCE)
        here = seen(number)
        rows.append(
            pd.DataFrame(
                {
                    "node_id": nodes["node_id"],
                    "month": month,
                    "dh_m": model + extra * (number == 10),
                    "dh_sigma_m": sigma,
                    "model_m": model,
                    "tracks": [[1001 + number, 2001] for _ in range(len(nodes))],
                }
            )[here]
        )
    return pd.concat(rows, ignore_index=True)


def _mass(month="2019-03-01"):
    return pd.DataFrame(
        {
            "mascon_id": np.array([3], dtype=np.int32),
            "month": np.array([month], dtype="datetime64[us]"),
            "lwe_cm": [1.0],
            "lwe_sigma_cm": [0.5],
            "mass_gt": [0.6],
            "mass_sigma_gt": [0.3],
            "mass_change_gt": [np.nan],
            "mass_change_sigma_gt": [np.nan],
        }
    )


def _fuse(nodes, months, **settings):
    return fuse_retrospective(
        _mascons(),
        _mass(),
        nodes,
        months,
        MONTHS,
        REFERENCE,
        FusionSettings(**({"anchor_days": 0} | settings)),
    )


def _truth(nodes, month):
    values, weight = _change(nodes, month, REFERENCE), nodes["area_km2"].to_numpy()
    west = nodes["longitude"].to_numpy() < -40
    return [np.average(values[part], weights=weight[part]) for part in (west, ~west)]


def test_regression_finds_the_mean_whatever_part_is_seen():
    nodes = _nodes()
    low = nodes["elevation_m"].to_numpy() < 1000
    # Even months see the thinning half, odd months the stable half.
    table = _fuse(nodes, [_node_months(nodes, lambda n: low if n % 2 == 0 else ~low)])
    assert check(from_pandas(table), MASCON_MONTHS).num_rows == 2 * MONTHS.size
    for number in (0, 5, 20, 35):
        got = table[table["month"] == MONTHS[number]].sort_values("mascon_id")
        assert got["dh_m"].tolist() == pytest.approx(_truth(nodes, MONTHS[number]), abs=1e-12)
    # The plain mean jumps between the halves.
    west = table[table["mascon_id"] == 3].set_index("month")
    part = np.average(_change(nodes, MONTHS[30], REFERENCE)[low & (nodes["longitude"] < -40)])
    assert west["dh_mean_m"].iloc[30] == pytest.approx(part)
    assert abs(west["dh_mean_m"].iloc[30] - west["dh_m"].iloc[30]) > 0.2
    assert west["sampled_fraction"].iloc[:2].tolist() == pytest.approx([0.75, 0.25])
    assert west["rate_m_yr"].iloc[0] == pytest.approx(0.75 * -1.0 + 0.25 * 0.1)
    assert west["amplitude_m"].iloc[0] == pytest.approx(0.3)
    assert west["phase_rad"].iloc[0] == pytest.approx(1.0)
    assert west["fraction_thinning"].iloc[0] == pytest.approx(0.75)
    assert west["n_tracks"].tolist() == [2] * MONTHS.size
    assert west["lwe_cm"].notna().sum() == 1


def test_a_residual_seen_in_a_part_moves_the_whole_mascon():
    nodes = _nodes()
    some = np.arange(len(nodes)) % 4 == 0
    table = _fuse(nodes, [_node_months(nodes, lambda n: some, extra=0.3)])
    month = table[table["month"] == MONTHS[10]]
    expected = np.array(_truth(nodes, MONTHS[10])) + 0.3
    assert month["dh_m"].tolist() == pytest.approx(expected.tolist())


def test_hypsometric_weights_bands_by_their_area():
    nodes = _nodes()
    low = nodes["elevation_m"].to_numpy() < 1000
    few = np.arange(len(nodes)) % 5 == 0
    months = [_node_months(nodes, lambda n: ~low | few)]
    table = _fuse(nodes, months, estimator="hypsometric")
    assert table[table["month"] == MONTHS[30]]["dh_m"].tolist() == pytest.approx(
        _truth(nodes, MONTHS[30]), abs=1e-12
    )
    plain = _fuse(nodes, months, estimator="mean")
    assert (plain["dh_m"].dropna() == plain["dh_mean_m"].dropna()).all()
    assert abs(plain["dh_m"].iloc[30] - table["dh_m"].iloc[30]) > 0.1


def test_results_do_not_depend_on_how_nodes_are_cut_into_tiles():
    nodes = _nodes()
    months = _node_months(nodes, lambda n: np.arange(len(nodes)) % 3 == n % 3)
    whole = _fuse(nodes, [months])
    half = months["node_id"] % 20 < 10
    parts = _fuse(nodes.sample(frac=1, random_state=1), [months[half], months[~half]])
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-12)


def test_sigma_counts_patches_of_the_correlation_length_not_nodes():
    nodes = _nodes()
    everything = [_node_months(nodes, lambda n: np.ones(len(nodes), bool), sigma=0.2)]
    frame = place_nodes(_mascons(), nodes, MONTHS, FusionSettings())
    weights = frame.nodes[frame.nodes["mascon"] == 0].groupby("patch")["area_km2"].sum().to_numpy()
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert 3 < effective < len(nodes) / 4
    west = _fuse(nodes, everything)
    west = west[west["mascon_id"] == 3]
    # All ice is seen and no residual differs: only the nodes' own σ is left.
    assert west["dh_sigma_m"].to_numpy() == pytest.approx(0.2 / np.sqrt(effective))
    longer = _fuse(nodes, everything, correlation_length_m=1e6)
    assert longer["dh_sigma_m"].iloc[0] == pytest.approx(0.2)


def test_intervals_cover_the_truth_when_residuals_are_patchy():
    nodes = _nodes()
    rng = np.random.default_rng(4)
    frame = place_nodes(_mascons(), nodes, MONTHS, FusionSettings())
    patch = frame.nodes.set_index("node_id")["patch"].reindex(nodes["node_id"]).to_numpy()
    months = _node_months(nodes, lambda n: np.ones(len(nodes), bool), sigma=0.02)
    field = rng.normal(0, 0.2, (MONTHS.size, frame.patch_mascon.size))[:, patch].ravel()
    months["dh_m"] += field
    weight = np.tile(nodes["area_km2"].to_numpy(), MONTHS.size)
    west = np.tile(nodes["longitude"].to_numpy() < -40, MONTHS.size)
    truth = (
        pd.DataFrame({"month": months["month"], "w": weight, "v": months["dh_m"] * weight})[west]
        .groupby("month")
        .sum()
    )
    months["dh_m"] += rng.normal(0, 0.02, len(months))
    blocks = rng.random((MONTHS.size, frame.patch_mascon.size)) < 0.5
    table = _fuse(nodes, [months[blocks[:, patch].ravel()]])
    got = table[table["mascon_id"] == 3].set_index("month")
    error = (got["dh_m"] - truth["v"] / truth["w"]) / got["dh_sigma_m"]
    assert 0.5 < (error.abs() < 1).mean() < 0.9
    assert (error.abs() < 3).all()


def test_too_few_fitted_nodes_give_nulls_with_a_reason():
    nodes = _nodes()
    west = nodes["longitude"] < -40
    nodes.loc[west & (np.arange(len(nodes)) % 8 != 0), "rate_m_yr"] = np.nan
    nodes.loc[nodes.index[-1], "rate_sigma_m_yr"] = 50.0
    table = _fuse(nodes, [_node_months(nodes, lambda n: np.full(len(nodes), n != 4))])
    assert table[table["mascon_id"] == 3]["dh_m"].isna().all()
    assert table["reason"].iloc[0] == "nodes with a model hold less than 0.2 of the ice"
    east = table[table["mascon_id"] == 8].set_index("month")
    assert east["dh_m"].isna().sum() == 1
    assert east["reason"].dropna().tolist() == ["no node was seen in the month"]
    assert east["n_nodes"].max() == (~west).sum() - 1
    empty = _fuse(nodes.iloc[:0], [])
    assert empty["reason"].unique().tolist() == ["no node could be fitted"]
    assert check(from_pandas(empty), MASCON_MONTHS).num_rows == 2 * MONTHS.size


def _causal(nodes, first):
    rows = []
    for number, month in enumerate(MONTHS):
        model = _change(nodes, month, month_middle(MONTHS[:1])[0])
        seen = (np.arange(len(nodes)) + number) % 2 == 0
        rows.append(
            pd.DataFrame(
                {
                    "node_id": nodes["node_id"],
                    "month": month,
                    "model_m": model,
                    "model_sigma_m": 0.1,
                    "rate_m_yr": nodes["rate_m_yr"],
                    "amplitude_m": nodes["amplitude_m"],
                    "phase_rad": 1.0,
                    "elevation_m": nodes["elevation_m"] + 0.1 * number,
                    "slope": nodes["slope"],
                    "residual_m": np.where(seen, 0.05, np.nan),
                    "residual_sigma_m": np.where(seen, 0.02, np.nan),
                    "n_segments": seen * 9,
                    "tracks": [[number] if s else [] for s in seen],
                }
            )[number >= first]
        )
    return pd.concat(rows, ignore_index=True)


def test_causal_means_are_those_of_the_nodes_that_have_a_model():
    nodes = _nodes()
    # Low nodes get their model at month 12, high ones at month 20.
    low = nodes["elevation_m"].to_numpy() < 1000
    table = fuse_causal(
        _mascons(),
        _mass(),
        nodes,
        [_causal(nodes, np.where(low, 12, 20))],
        MONTHS,
        FusionSettings(),
    )
    west = table[table["mascon_id"] == 3].set_index("month")
    assert west["dh_m"].isna().tolist() == [True] * 12 + [False] * 24
    assert west["reason"].iloc[11] == "no node has a model before 1 yr of data are held"
    here = nodes["longitude"].to_numpy() < -40
    start = month_middle(MONTHS[:1])[0]
    weight = nodes["area_km2"].to_numpy()
    for number, used in ((15, here & low), (25, here)):
        model = _change(nodes, MONTHS[number], start)[used]
        expected = np.average(model, weights=weight[used]) + 0.05
        assert west["dh_m"].iloc[number] == pytest.approx(expected)
    assert west["n_tracks"].iloc[25] == 1
    assert check(from_pandas(table), MASCON_MONTHS).num_rows == len(table)


def test_gaussian_scale_pulls_neighbours_together_by_ice_area():
    from cryofuse.fusion.aggregate import smooth_gaussian

    mascons = _mascons()
    table = pd.DataFrame(
        {
            "mascon_id": [3, 3, 8, 8],
            **{
                name: [1.0, 1.0, 3.0, np.nan]
                for name in ("dh_m", "dh_mean_m", "rate_m_yr", "cycle_cos", "cycle_sin")
            },
            "dh_sigma_m": [0.1, 0.1, 0.2, np.nan],
        }
    )
    out = smooth_gaussian(table, mascons)
    # Ten degrees of longitude at 72°N on a sphere.
    angle = 2 * np.arcsin(np.cos(np.radians(72)) * np.sin(np.radians(5)))
    weight = 0.5 ** ((6383 * angle / 300) ** 2)
    west = (50_000 * 1 + weight * 40_000 * 3) / (50_000 + weight * 40_000)
    assert out["dh_m"].iloc[0] == pytest.approx(west, rel=2e-3)
    assert out["dh_m"].iloc[1] == pytest.approx(1.0)
    assert np.isnan(out["dh_m"].iloc[3])
    assert out["dh_sigma_m"].iloc[0] < 0.1
    assert out["dh_sigma_m"].iloc[1] == pytest.approx(0.1)


def test_changes_count_from_what_was_seen_around_the_reference_date():
    months = pd.to_datetime(["2019-10-01", "2019-12-01", "2020-01-01", "2020-07-01"])
    table = pd.DataFrame(
        {
            "mascon_id": [1] * 4 + [2] * 4,
            "month": list(months.astype("datetime64[us]")) * 2,
            "model_m": [0.5, 0.2, 0.0, -0.4] * 2,
            "dh_m": [0.6, 0.3, 0.3, -0.4, np.nan, np.nan, np.nan, 0.1],
            "dh_sigma_m": [0.1] * 8,
        }
    )
    anchored = anchor(table, np.datetime64("2020-01-01", "us"), 50)
    # December and January lie within 50 days: residuals 0.1 and 0.3, mean 0.2.
    assert anchored["dh_m"][:4].tolist() == pytest.approx([0.4, 0.1, 0.1, -0.6])
    assert anchored["dh_sigma_m"][0] == pytest.approx(np.sqrt(0.1**2 + 2 * 0.1**2 / 4))
    # The second was not seen then: it stays as the fits have it.
    assert anchored["dh_m"][7] == 0.1 and anchored["dh_sigma_m"][7] == 0.1
