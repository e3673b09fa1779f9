"""Features: formulas, causality to the bit, seasons, nulls with reasons, and the files."""

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely

from cryofuse.calendar import month_middle, month_range, year_fraction
from cryofuse.config import FeatureSettings, FusionSettings
from cryofuse.fusion import (
    build_features,
    data_dictionary,
    feature_columns,
    feature_group,
    read_features,
)
from cryofuse.fusion.aggregate import fuse_causal
from cryofuse.fusion.features import NODE_COLUMNS, summarise_nodes, write_features
from cryofuse.mascons.blocks import degree_box
from cryofuse.tables import FEATURES_LEDGER, check, from_pandas, read_provenance

MONTHS = month_range("2018-10", "2021-09")
IDS = np.array([3, 8, 9], dtype=np.int32)


def _mascons():
    return geopandas.GeoDataFrame(
        {
            "mascon_id": IDS,
            "selected": [True, True, False],
            "land_area_km2": [50_000.0, 80_000.0, 100.0],
            "ice_area_km2": [40_000.0, 80_000.0, 1.0],
            "ice_fraction": [0.8, 1.0, 0.01],
            "latitude": [72.0, 72.0, 72.0],
            "longitude": [-45.0, -35.0, -25.0],
        },
        geometry=[degree_box(w, 70.5, w + 10, 73.5) for w in (-50, -40, -30)],
        crs="EPSG:4326",
    )


def _static():
    return pd.DataFrame(
        {
            "mascon_id": IDS,
            "marine_margin_fraction": np.nan,
        }
    )


def _causal(seed=0):
    """Rows of every mascon × month; dh is held from month 12 on, with one gap."""
    rng = np.random.default_rng(seed)
    size = IDS.size * MONTHS.size
    number = np.tile(np.arange(MONTHS.size), IDS.size)
    held = (number >= 12) & (number != 20)
    table = pd.DataFrame(
        {"mascon_id": np.repeat(IDS, MONTHS.size), "month": np.tile(MONTHS, IDS.size)}
    )
    for name in (
        "dh_m dh_sigma_m dh_mean_m rate_m_yr amplitude_m phase_rad spread_m fraction_thinning "
        "elevation_m slope"
    ).split():
        table[name] = np.where(held, rng.normal(size=size), np.nan)
    table["sampled_fraction"] = rng.random(size)
    table["reason"] = pd.array(np.where(held, None, "no node was seen in the month"), dtype="str")
    solved = ~np.isin(number, (5, 30))
    for name in "lwe_cm lwe_sigma_cm mass_gt mass_sigma_gt".split():
        table[name] = np.where(solved, rng.normal(size=size) ** 2, np.nan)
    table["mass_change_gt"] = table.groupby("mascon_id")["mass_gt"].diff()
    table["mass_change_sigma_gt"] = np.where(table["mass_change_gt"].notna(), 0.4, np.nan)
    return table


def _build(causal, **settings):
    return build_features(causal, _mascons(), _static(), FeatureSettings(**settings))


def test_features_follow_their_formulas():
    causal = _causal()
    features, _ = _build(causal, lagged=["dh_m", "dh_change"])
    assert len(features) == 2 * MONTHS.size
    assert set(features["mascon_id"]) == {3, 8}
    dh = causal[causal["mascon_id"] == 8]["dh_m"].to_numpy()
    row = features[(features["mascon_id"] == 8) & (features["month"] == MONTHS[30])].iloc[0]
    assert row["dh_m"] == dh[30]
    assert row["dh_change_1m_m"] == dh[30] - dh[29]
    assert row["dh_change_12m_m"] == dh[30] - dh[18]
    assert row["dh_m_lag03"] == dh[27]
    assert row["dh_change_1m_m_lag12"] == dh[18] - dh[17]
    assert np.isnan(row["dh_m_lag10"])
    source = causal[(causal["mascon_id"] == 8) & (causal["month"] == MONTHS[30])].iloc[0]
    t, start = year_fraction(month_middle(MONTHS[[30, 0]]))
    phase = source["phase_rad"]
    cycle = np.cos(2 * np.pi * t - phase) - np.cos(2 * np.pi * start - phase)
    left = dh[30] - source["rate_m_yr"] * (t - start) - source["amplitude_m"] * cycle
    assert row["dh_interannual_m"] == pytest.approx(left)
    step = np.cos(2 * np.pi * t - phase) - np.cos(2 * np.pi * (t - 1 / 12) - phase)
    assert row["dh_cycle_change_1m_m"] == pytest.approx(source["amplitude_m"] * step)
    assert row["dh_cycle_sin_m"] == pytest.approx(source["amplitude_m"] * np.sin(phase))
    # April: three and a half months into the year.
    assert row["month"].month == 4
    assert row["season_cos"] == pytest.approx(np.cos(2 * np.pi * 3.5 / 12))
    assert (row["ice_fraction"], row["land_area_km2"]) == (1.0, 80_000)
    assert (row["elevation_m"], row["slope"]) == (source["elevation_m"], source["slope"])
    assert row["dh_cycle_amplitude_m"] == source["amplitude_m"]


def test_targets_are_centimetres_over_land_from_a_baseline_of_the_period():
    causal = _causal()
    features, _ = _build(causal)
    west = causal[causal["mascon_id"] == 3].reset_index(drop=True)
    got = features[features["mascon_id"] == 3].reset_index(drop=True)
    # 1 Gt over 50 000 km² is 2 cm.
    assert got["target_change_cm"].to_numpy() == pytest.approx(
        west["mass_change_gt"].to_numpy() * 2.0, nan_ok=True
    )
    assert got["target_change_sigma_cm"].dropna().unique() == pytest.approx([0.8])
    baseline = west["lwe_cm"].dropna().iloc[:12].mean()
    assert got["target_cumulative_cm"].to_numpy() == pytest.approx(
        west["lwe_cm"].to_numpy() - baseline, nan_ok=True
    )


def test_groups_hold_a_feature_with_its_lags_and_every_column_is_in_the_dictionary():
    features, _ = _build(_causal())
    names = feature_columns(features)
    assert not set(names) & {"mascon_id", "month", "land_area_km2"}
    assert not [name for name in names if name.startswith("target")]
    assert feature_group("dh_m") == feature_group("dh_m_lag07") == "elevation"
    assert feature_group("dh_change_3m_m") == "elevation_change_3m"
    assert feature_group("latitude") == feature_group("longitude")
    with pytest.raises(KeyError):
        feature_group("target_change_cm")
    rows = {row["name"]: row for row in data_dictionary()}
    plain = {name for name in features.columns if "_lag" not in name}
    assert set(rows) == plain
    assert all(
        row["unit"] and row["formula"] and row["window"]
        for row in rows.values()
        if row["kind"] == "feature"
    )
    with_lags = {name.rsplit("_lag", 1)[0] for name in names if "_lag" in name}
    assert with_lags == {name for name, row in rows.items() if row["lags"]}
    assert sum("_lag" in name for name in names) == 12 * len(with_lags)


@pytest.mark.parametrize("step", ["month", "season"])
def test_what_comes_after_a_month_moves_no_bit_of_its_features(step):
    causal = _causal()
    before, _ = _build(causal, step=step)
    after = MONTHS[25]
    changed = causal.copy()
    late = (changed["month"] > after).to_numpy()
    other = _causal(seed=9)
    measured = [name for name in causal.columns if name not in ("mascon_id", "month", "reason")]
    changed.loc[late, measured] = other.loc[late, measured]
    again, _ = _build(changed, step=step)
    names = feature_columns(before)
    # A season ends two months after the one it is named by.
    last = after - np.timedelta64(62, "D") if step == "season" else after
    early = (before["month"] <= last).to_numpy()
    assert 0 < early.sum() < len(before)
    assert before[early][names].to_numpy().tobytes() == again[early][names].to_numpy().tobytes()
    assert before[~early][names].to_numpy().tobytes() != again[~early][names].to_numpy().tobytes()


def test_no_later_node_month_moves_a_bit_of_a_feature():
    """The same from the causal node months, through the fusion."""
    rng = np.random.default_rng(3)
    lon, lat = (g.ravel() for g in np.meshgrid(np.arange(-49.5, -20, 1.0), [71.0, 72.0, 73.0]))
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(lon.size),
            "x_m": lon * 35_000,
            "y_m": lat * 111_000,
            "latitude": lat,
            "longitude": lon,
            "area_km2": 1500.0,
            "elevation_m": 1000.0,
        }
    )

    def rows(seed):
        rng = np.random.default_rng(seed)
        index = pd.MultiIndex.from_product(
            [nodes["node_id"], MONTHS[12:]], names=["node_id", "month"]
        )
        size = len(index)
        seen = rng.random(size) < 0.5
        table = pd.DataFrame(index=index).reset_index()
        for name in ("model_m", "rate_m_yr", "phase_rad"):
            table[name] = rng.normal(size=size)
        for name in ("model_sigma_m", "amplitude_m", "elevation_m", "slope"):
            table[name] = rng.random(size)
        table["residual_m"] = np.where(seen, rng.normal(size=size), np.nan)
        table["residual_sigma_m"] = np.where(seen, 0.1, np.nan)
        table["response"] = np.where(seen, 1.0, np.nan)
        table[["start_residual_m", "start_response"]] = [0.05, 1.0]
        table["n_segments"] = seen * 5
        table["tracks"] = [[int(k)] if s else [] for k, s in enumerate(seen)]
        return table[rng.random(size) < 0.95]

    mass = _causal()[
        "mascon_id month lwe_cm lwe_sigma_cm mass_gt mass_sigma_gt mass_change_gt "
        "mass_change_sigma_gt".split()
    ]

    def features(causal):
        table = fuse_causal(_mascons(), mass, nodes, [causal], MONTHS, FusionSettings())
        return _build(table)[0]

    first, other = rows(1), rows(2)
    after = MONTHS[24]
    mixed = pd.concat([first[first["month"] <= after], other[other["month"] > after]])
    mixed = mixed.iloc[rng.permutation(len(mixed))].sort_values("node_id", kind="stable")
    one, two = features(first), features(mixed.sort_values(["node_id", "month"]))
    names = feature_columns(one)
    early = (one["month"] <= after).to_numpy()
    assert one[early]["dh_m"].notna().sum() > 10
    assert one[early][names].to_numpy().tobytes() == two[early][names].to_numpy().tobytes()
    assert not one[~early]["dh_m"].equals(two[~early]["dh_m"])


def test_seasons_are_means_of_their_months():
    causal = _causal()
    features, _ = _build(causal, step="season", lagged=["dh_m"])
    names = feature_columns(features)
    west = causal[causal["mascon_id"] == 3].set_index("month")
    got = features[features["mascon_id"] == 3].set_index("month")
    # 2018-10 and 2018-11 are no whole season; neither is 2021-09.
    assert got.index[0] == pd.Timestamp("2018-12-01")
    assert got.index[-1] == pd.Timestamp("2021-06-01")
    summer = west.loc["2021-06-01":"2021-08-01"]
    assert got.loc["2021-06-01", "dh_m"] == pytest.approx(summer["dh_m"].mean())
    spring = west.loc["2021-03-01":"2021-05-01"]
    assert np.isnan(got.loc["2021-03-01", "target_cumulative_cm"])
    assert spring["lwe_cm"].isna().sum() == 1
    winter, autumn = west.loc["2020-12-01":"2021-02-01"], west.loc["2020-09-01":"2020-11-01"]
    assert got.loc["2020-12-01", "target_change_cm"] == pytest.approx(
        winter["lwe_cm"].mean() - autumn["lwe_cm"].mean()
    )
    assert got.loc["2020-12-01", "dh_m_lag03"] == got.loc["2020-09-01", "dh_m"]
    assert "dh_change_1m_m" not in names
    assert got.loc["2021-06-01", "dh_change_12m_m"] == pytest.approx(
        got.loc["2021-06-01", "dh_m"] - got.loc["2020-06-01", "dh_m"]
    )
    assert got.loc["2020-12-01", "season_cos"] == pytest.approx(np.cos(np.pi / 12))


def test_a_season_needs_two_months_of_a_feature_and_three_of_a_target():
    causal = _causal()
    west = causal["mascon_id"] == 3
    causal.loc[west & causal["month"].isin(MONTHS[[26, 28]]), "dh_m"] = np.nan
    features, _ = _build(causal, step="season", lagged=["dh_m", "sampled_fraction"])
    rows = causal[west].set_index("month")
    got = features[features["mascon_id"] == 3].set_index("month")
    # June 2020 is a gap of dh; December 2020 and February 2021 are two.
    summer = rows.loc["2020-07-01":"2020-08-01", "dh_m"]
    assert got.loc["2020-06-01", "dh_m"] == pytest.approx(summer.mean())
    assert np.isnan(got.loc["2020-12-01", "dh_m"])
    assert np.isnan(got.loc["2021-03-01", "dh_change_3m_m"])
    assert np.isnan(got.loc["2021-03-01", "dh_m_lag03"])
    assert got.loc["2021-03-01", "dh_m_lag09"] == got.loc["2020-06-01", "dh_m"]
    winter = rows.loc["2020-12-01":"2021-02-01", "sampled_fraction"]
    assert got.loc["2021-03-01", "sampled_fraction_lag03"] == pytest.approx(winter.mean())
    # April 2021 has no solution: neither that spring nor the change to the summer after it.
    assert np.isnan(got.loc["2021-03-01", "target_cumulative_sigma_cm"])
    assert got.loc["2021-03-01":"2021-06-01", "target_change_cm"].isna().all()
    assert np.isfinite(got.loc["2021-06-01", "target_cumulative_cm"])
    sigma = rows["lwe_sigma_cm"]
    level = [np.sqrt((sigma[a:b] ** 2).sum()) / 3 for a, b in
             (("2020-09-01", "2020-11-01"), ("2020-12-01", "2021-02-01"))]  # fmt: skip
    assert got.loc["2020-12-01", "target_cumulative_sigma_cm"] == pytest.approx(level[1])
    assert got.loc["2020-12-01", "target_change_sigma_cm"] == pytest.approx(np.hypot(*level))


def test_lags_are_those_that_are_asked_for():
    features, _ = _build(_causal(), lagged=["dh_change", "dh_spread_m"], lags_months=2)
    lagged = [name for name in features.columns if "_lag" in name]
    assert lagged == [
        "dh_change_1m_m_lag01",
        "dh_change_1m_m_lag02",
        "dh_spread_m_lag01",
        "dh_spread_m_lag02",
    ]
    west = features[features["mascon_id"] == 3]
    assert west["dh_spread_m_lag02"].iloc[2:].tolist() == pytest.approx(
        west["dh_spread_m"].iloc[:-2].tolist(), nan_ok=True
    )
    assert feature_group("dh_spread_m_lag02") == "spread"
    none, _ = _build(_causal(), lagged=[])
    assert not [name for name in none.columns if "_lag" in name]


def test_nulls_are_counted_with_their_reason():
    reason = {"marine_margin_fraction": "the region names no bed (region: bed)"}
    features, ledger = build_features(_causal(), _mascons(), _static(), FeatureSettings(), reason)
    assert check(from_pandas(ledger), FEATURES_LEDGER).num_rows == len(ledger)
    found = ledger.set_index("feature")
    assert found.loc["marine_margin_fraction", "reason"] == reason["marine_margin_fraction"]
    assert found.loc["marine_margin_fraction", "n_null"] == len(features)
    assert found.loc["dh_m", "n_null"] == 2 * 13
    assert found.loc["dh_m", "reason"] == "no node was seen in the month (26)"
    assert found.loc["dh_change_1m_m", "reason"].startswith("dh_m is null at an end of the span")
    _, ledger = _build(_causal(), step="season")
    told = ledger.set_index("feature")["reason"]
    assert told["dh_m"] == "two months or more: no node was seen in the month"
    assert "sampled_fraction" not in found.index
    assert found["n_null"].sum() == features[feature_columns(features)].isna().sum().sum()


def test_marine_ice_lies_near_the_sea_and_is_weighted_by_area():
    nodes = pd.DataFrame(
        {
            "node_id": [1, 2, 3, 4],
            "x_m": [0.0, 30_000.0, 90_000.0, 0.0],
            "y_m": [0.0, 0.0, 0.0, 0.0],
            "latitude": [72.0, 72.0, 72.0, 50.0],
            "longitude": [-45.0, -45.1, -45.2, 0.0],
            "area_km2": [1.0, 2.0, 5.0, 9.0],
            "bed_m": [-10.0, -20.0, -30.0, -1.0],
        }
    )
    # The sea begins 10 km west of the first node.
    land = shapely.box(-10_000, -500_000, 900_000, 500_000)
    settings = FeatureSettings(marine_distance_m=50_000)
    static, reasons = summarise_nodes(_mascons(), nodes, settings, land)
    row = static.set_index("mascon_id").loc[3]
    assert row["marine_margin_fraction"] == pytest.approx(3 / 8)
    assert reasons == {}
    assert static.set_index("mascon_id").loc[8].isna().all()
    # What is static may not know what was measured.
    assert not set(NODE_COLUMNS) & {"elevation_m", "slope", "rate_m_yr", "n_segments"}
    nodes["bed_m"] = np.nan
    static, reasons = summarise_nodes(_mascons(), nodes, settings, land)
    assert static["marine_margin_fraction"].isna().all()
    assert "names no bed" in reasons["marine_margin_fraction"]


def test_files_are_partitioned_and_come_back_as_they_were(tmp_path):
    features, _ = _build(_causal())
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "old.parquet").write_text("stale")
    write_features(features, folder, "greenland", {"rule": "build_features"})
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [f"region=greenland/year={y}/part-0.parquet" for y in range(2018, 2022)]
    assert not list(tmp_path.glob(".features*"))
    schemas = [pq.read_schema(folder / name) for name in files]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert str(schemas[0].field("month").type) == "timestamp[us]"
    assert b"pandas" not in schemas[0].metadata
    assert read_provenance(folder / files[0]) == {"rule": "build_features"}
    back = read_features(folder)
    assert back["region"].unique().tolist() == ["greenland"]
    assert (back["year"] == back["month"].dt.year).all()
    pd.testing.assert_frame_equal(back[features.columns], features)
    # As an engine reads it: partitions become columns.
    engine = pd.read_parquet(folder)
    assert len(engine) == len(features)
    assert {"region", "year"} <= set(engine.columns)
