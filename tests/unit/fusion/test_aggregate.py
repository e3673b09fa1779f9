"""Estimators against closed formulas on a grid of nodes over two mascons."""

from types import SimpleNamespace

import geopandas
import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import FusionSettings
from cryofuse.fusion.aggregate import fuse_causal, fuse_retrospective, place_nodes
from cryofuse.fusion.estimators import anchor, count_from_start
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
                    "response": 1.0,
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


def test_what_the_relief_took_of_a_departure_is_given_back():
    nodes = _nodes()
    months = _node_months(nodes, lambda n: np.ones(len(nodes), bool))
    # All ice departs by 0.3 m in month 10; where the relief gave way a third of it shows.
    month = months["month"] == MONTHS[10]
    third = np.tile(np.arange(len(nodes)) % 2 == 0, MONTHS.size) & month
    months["response"] = np.where(third, 1 / 3, 1.0)
    months["dh_m"] += np.where(month, 0.3 * months["response"], 0.0)
    table = _fuse(nodes, [months])
    got = table[table["month"] == MONTHS[10]]["dh_m"]
    assert got.tolist() == pytest.approx((np.array(_truth(nodes, MONTHS[10])) + 0.3).tolist())
    # What is given back to the mean is given to its noise: half shows, twice the σ.
    for cut in (lambda rows: rows, _one_pass):
        whole, half = (
            _fuse(nodes, [cut(months.assign(response=share))]).set_index("month")
            for share in (1.0, 0.5)
        )
        ratio = (half["dh_sigma_m"] / whole["dh_sigma_m"])[MONTHS[20]]
        assert ratio.to_numpy() == pytest.approx(2.0)


def test_ice_without_a_fit_is_filled_from_around_it():
    nodes = _nodes()
    # Thinning grows from the middle of the western mascon to its edges; most edges have no fit.
    place = nodes["longitude"].to_numpy()
    nodes["rate_m_yr"] = -((np.abs(place + 45) / 5) ** 2)
    nodes["amplitude_m"] = 0.0
    months = _node_months(nodes, lambda n: np.ones(len(nodes), bool))
    whole = _fuse(nodes, [months])
    rng = np.random.default_rng(5)
    lost = rng.random(len(nodes)) < np.abs(place + 45) / 6
    assert 0.3 < lost[place < -40].mean() < 0.7
    known = nodes.assign(rate_m_yr=nodes["rate_m_yr"].where(~lost))
    parts = _fuse(known, [months[months["node_id"].isin(nodes["node_id"][~lost])]])

    def west(table):
        return table[table["mascon_id"] == 3].set_index("month")

    last = MONTHS[-1]
    error = abs(west(parts)["dh_m"][last] - west(whole)["dh_m"][last])
    fitted = ~lost & (place < -40)
    plain = np.average(_change(nodes, last, REFERENCE)[fitted], weights=nodes["area_km2"][fitted])
    assert abs(plain - west(whole)["dh_m"][last]) > 0.15
    assert error < 0.25 * abs(plain - west(whole)["dh_m"][last])
    assert error < 2 * west(parts)["dh_sigma_m"][last]
    # Near the reference date there is little change to fill, and little error of filling.
    assert west(parts)["dh_sigma_m"][MONTHS[12]] < 0.5 * west(parts)["dh_sigma_m"][last]


def _one_pass(months):
    return months.assign(tracks=[[1001]] * len(months))


def test_sigma_of_lone_passes_counts_patches_of_the_correlation_length_not_nodes():
    nodes = _nodes()
    everything = _node_months(nodes, lambda n: np.ones(len(nodes), bool), sigma=0.2)
    frame = place_nodes(_mascons(), nodes, MONTHS, FusionSettings())
    weights = frame.nodes[frame.nodes["mascon"] == 0].groupby("patch")["area_km2"].sum().to_numpy()
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert 3 < effective < len(nodes) / 4
    west = _fuse(nodes, [_one_pass(everything)])
    west = west[west["mascon_id"] == 3]
    # No month has two passes: only the nodes' own σ is left.
    assert west["dh_sigma_m"].to_numpy() == pytest.approx(0.2 / np.sqrt(effective))
    longer = _fuse(nodes, [_one_pass(everything)], correlation_length_m=1e6)
    assert longer["dh_sigma_m"].iloc[0] == pytest.approx(0.2)
    # Two passes that agree everywhere leave what independent nodes do.
    agreeing = _fuse(nodes, [everything])
    area = nodes["area_km2"][nodes["longitude"] < -40]
    assert agreeing["dh_sigma_m"].iloc[0] == pytest.approx(
        0.2 * np.sqrt((area**2).sum()) / area.sum()
    )


def test_sigma_is_the_scatter_between_passes_over_their_number():
    nodes = _nodes()
    # Four passes share the nodes of a row out between them; two are higher, two lower.
    track = np.arange(len(nodes)) % 4
    months = _node_months(nodes, lambda n: np.ones(len(nodes), bool), sigma=0.01)
    every = np.tile(track, MONTHS.size)
    months["dh_m"] += np.where(every < 2, 0.1, -0.1)
    months["tracks"] = [[1000 + number] for number in every]
    west = (nodes["longitude"] < -40).to_numpy()
    area = np.array([nodes["area_km2"][west & (track == number)].sum() for number in range(4)])
    share = area / area.sum()
    value = np.array([0.1, 0.1, -0.1, -0.1])
    mean = share @ value
    between = (share @ (value - mean) ** 2) / (1 - (share**2).sum())
    table = _fuse(nodes, [months])
    # All ice is seen: a quarter of the scatter is left.
    expected = np.sqrt(between * (share**2).sum() / 4)
    assert table["dh_sigma_m"].iloc[0] == pytest.approx(expected)
    half = np.isin(every, [0, 2])
    parts = _fuse(nodes, [months[half]])
    part = share[[0, 2]] / share[[0, 2]].sum()
    spread = part @ (value[[0, 2]] - part @ value[[0, 2]]) ** 2 / (1 - (part**2).sum())
    unseen = 1 - area[[0, 2]].sum() / 50_000
    assert parts["dh_sigma_m"].iloc[0] == pytest.approx(np.sqrt(spread * (part**2).sum() * unseen))


def test_intervals_cover_the_truth_when_passes_err_as_a_whole():
    nodes = _nodes()
    ratio = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        months = _node_months(nodes, lambda n: np.ones(len(nodes), bool), sigma=0.02)
        # 24 passes a month, each with a departure of its own, of which a third are flown; of a
        # half to all of what they see is left by the fits.
        track = rng.integers(0, 24, (MONTHS.size, len(nodes)))
        error = rng.normal(0, 0.3, (MONTHS.size, 24))
        flown = rng.random((MONTHS.size, 24)) < 1 / 3
        month = np.repeat(np.arange(MONTHS.size), len(nodes))
        months["response"] = rng.uniform(0.5, 1.0, len(months))
        noise = rng.normal(0, 0.02, len(months))
        months["dh_m"] += error[month, track.ravel()] * months["response"] + noise
        months["tracks"] = [[number] for number in track.ravel()]
        table = _fuse(nodes, [months[flown[month, track.ravel()]]])
        for number, mascon in enumerate((3, 8)):
            got = table[table["mascon_id"] == mascon].set_index("month")
            own = (nodes["longitude"].to_numpy() < -40) == (number == 0)
            weight = nodes["area_km2"].to_numpy()[own]
            truth = [
                _truth(nodes, at)[number] + np.average(error[m, track[m, own]], weights=weight)
                for m, at in enumerate(MONTHS)
            ]
            ratio.append(((got["dh_m"] - truth) / got["dh_sigma_m"]).abs())
    ratio = pd.concat(ratio)
    assert 0.60 < (ratio < 1).mean() < 0.76
    assert 0.90 < (ratio < 2).mean() < 0.98


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
        # A fifth of the nodes were seen at first, where half of a departure shows.
        start = np.arange(len(nodes)) % 5 == 0
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
                    "response": np.where(seen, 1.0, np.nan),
                    "start_residual_m": np.where(start, 0.02, np.nan),
                    "start_response": np.where(start, 0.5, np.nan),
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
        expected = np.average(model, weights=weight[used]) + 0.05 - 0.02 / 0.5
        assert west["dh_m"].iloc[number] == pytest.approx(expected)
    assert west["n_tracks"].iloc[25] == 1
    assert check(from_pandas(table), MASCON_MONTHS).num_rows == len(table)


def test_gaussian_scale_smooths_the_field_before_it_is_averaged():
    nodes = _nodes()
    months = [_node_months(nodes, lambda n: np.full(len(nodes), n != 4), extra=0.2)]
    plain = _fuse(nodes, months, correlation_length_m=15_000.0)
    smooth = _fuse(nodes, months, correlation_length_m=15_000.0, scale="gaussian_300km")
    # By hand, node by node: a Gaussian that has half its weight at 300 km.
    place = nodes[["x_m", "y_m"]].to_numpy() / 1e3
    area = nodes["area_km2"].to_numpy()
    distance = np.hypot(*(place[:, np.newaxis] - place).transpose(2, 0, 1))
    weight = 0.5 ** ((distance / 300) ** 2) * area
    west = nodes["longitude"].to_numpy() < -40
    for number in (10, 30):
        field = _change(nodes, MONTHS[number], REFERENCE) + 0.2 * (number == 10)
        # What is smoothed is averaged over the mascon, numerator and weights alike.
        expected = [
            (area[own] @ (weight @ field)[own]) / (area[own] @ weight.sum(axis=1)[own])
            for own in (west, ~west)
        ]
        got = smooth[smooth["month"] == MONTHS[number]]["dh_m"]
        assert got.tolist() == pytest.approx(expected, rel=0.01)
    same = ["mascon_id", "month", "sampled_fraction", "n_nodes", "reason"]
    pd.testing.assert_frame_equal(plain[same], smooth[same])
    assert smooth["dh_m"].isna().tolist() == plain["dh_m"].isna().tolist()
    ratio = (smooth["dh_sigma_m"] / plain["dh_sigma_m"]).dropna()
    assert (ratio < 1).all()
    # A neighbour that is seen every second month takes part by its model in the others.
    even = [_node_months(nodes, lambda n: ~west | (n % 2 == 0))]
    fine = {"correlation_length_m": 15_000.0, "scale": "gaussian_300km"}
    now_and_then = _fuse(nodes, even, **fine).set_index("mascon_id")
    always = [_node_months(nodes, lambda n: np.ones(len(nodes), bool))]
    ever = _fuse(nodes, always, **fine).set_index("mascon_id")
    assert now_and_then.loc[3, "dh_m"].isna().tolist() == [False, True] * 18
    assert now_and_then.loc[8, "dh_m"].to_numpy() == pytest.approx(
        ever.loc[8, "dh_m"].to_numpy(), abs=1e-9
    )
    # Never seen, it has no part.
    lone = _fuse(nodes, [_node_months(nodes, lambda n: ~west)], **fine).set_index("mascon_id")
    assert lone.loc[3, "dh_m"].isna().all()
    assert abs(lone.loc[8, "dh_m"].iloc[-1] - ever.loc[8, "dh_m"].iloc[-1]) > 0.05


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


def test_causal_changes_count_from_the_first_months_or_admit_not_to_know():
    table = pd.DataFrame(
        {
            "mascon_id": [1, 1, 1, 2, 2, 2],
            "model_m": np.zeros(6),
            "dh_m": [0.3, np.nan, -0.1] * 2,
            "dh_sigma_m": [0.4, np.nan, 0.1] * 2,
            "pass_variance_m2": [0.12, np.nan, 0.0075] * 2,
        }
    )
    sums = SimpleNamespace(
        start_area=np.full((2, 3), 40.0),
        start_residual=np.array([[3.0, 3.0, 6.0], [0.0, 0.0, 0.0]]),
        start_response=np.array([[20.0, 20.0, 20.0], [0.0, 0.0, 0.0]]),
    )
    counted = count_from_start(table, sums)
    assert counted["dh_m"][[0, 2]].tolist() == pytest.approx([0.3 - 0.15, -0.1 - 0.3])
    # Half of a departure showed then: four times a third of the passes' variance.
    sigma = [np.sqrt(0.4**2 + 4 * 0.12 / 3), np.sqrt(0.1**2 + 4 * 0.0075 / 3)]
    assert counted["dh_sigma_m"][[0, 2]].tolist() == pytest.approx(sigma)
    # The second was not seen at first: mean square of 0.3 and −0.1 is 0.05.
    assert counted["dh_m"][[3, 5]].tolist() == [0.3, -0.1]
    assert counted["dh_sigma_m"][[3, 5]].tolist() == pytest.approx([0.5, np.sqrt(0.01 + 0.05)])
    assert counted["dh_sigma_m"].isna().tolist() == [False, True, False] * 2
