"""A small fake Greenland: tables as the stages write them, made of closed formulas."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.calendar import month_index, month_middle, month_range, year_fraction
from cryofuse.geo import project, unproject
from cryofuse.products.style import BaseMap, cut_mascons

CRS = "EPSG:3413"
MONTHS = month_range("2018-10", "2024-12")
GAPS = np.isin(MONTHS, month_range("2019-03", "2019-03"))
#: Number, west, south, east, north of four boxes; the last is not selected.
BOXES = ((35, 320, 79.5, 340, 82.5), (50, 310, 76.5, 325, 79.5), (68, 310, 70.5, 320, 73.5),
         (90, 300, 82.0, 310, 84.0))  # fmt: skip
SELECTED = (True, True, True, False)


def base():
    """An ellipse of ice inside a wider ellipse of land, roughly where Greenland is."""
    centre = shapely.Point(100e3, -1_900e3).buffer(1)
    ice = shapely.affinity.scale(centre, 500e3, 1_000e3)
    land = shapely.affinity.scale(centre, 600e3, 1_150e3)
    return BaseMap("Testland", CRS, ice, land, (-650e3, -3_150e3, 850e3, -650e3))


def mascons():
    rows = [
        {
            "mascon_id": number,
            "geometry": shapely.box(west, south, east, north),
            "area_km2": 110_000.0,
            "land_area_km2": 100_000.0 - 10_000 * i,
            "ice_area_km2": 80_000.0 - 10_000 * i,
            "ice_fraction": (80_000 - 10_000 * i) / (100_000 - 10_000 * i),
            "latitude": (south + north) / 2,
            "longitude": (west + east) / 2,
            "selected": SELECTED[i],
            "in_product_set": True,
            "whole_ice_fraction": np.nan,
        }
        for i, (number, west, south, east, north) in enumerate(BOXES)
    ]
    return geopandas.GeoDataFrame(rows, geometry="geometry", crs="EPSG:4326")


def fusion(seed=0, noise_cm=0.5):
    """Elevation falls and breathes; mass follows through 600 kg/m³; March 2019 is missing."""
    rng = np.random.default_rng(seed)
    t = year_fraction(month_middle(MONTHS))
    year = MONTHS.astype("datetime64[Y]").astype(int) + 1970
    calendar = month_index(MONTHS) % 12 + 1
    strong = np.where(year == 2019, -0.25, np.where(year == 2021, 0.1, 0.0))
    melt = np.cumsum(np.where(np.isin(calendar, (6, 7, 8)), strong / 3, 0.0))
    parts = []
    for i, number in enumerate(m[0] for m in BOXES):
        dh = (-0.2 - 0.1 * i) * t + 0.2 * np.cos(2 * np.pi * t - 2.0) + melt
        dh = dh + rng.normal(0, 0.005, t.size)
        area, land = 80_000.0 - 10_000 * i, 100_000.0 - 10_000 * i
        lwe = dh * area * 600e-6 / land * 1e5 + rng.normal(0, noise_cm, t.size)
        lwe[GAPS] = np.nan
        change = np.diff(lwe, prepend=np.nan)
        parts.append(
            pd.DataFrame(
                {
                    "mascon_id": number,
                    "month": MONTHS,
                    "dh_m": dh,
                    "dh_sigma_m": 0.02,
                    "dh_mean_m": dh,
                    "rate_m_yr": -0.2 - 0.1 * i,
                    "amplitude_m": 0.2,
                    "phase_rad": 2.0,
                    "spread_m": 0.1,
                    "fraction_thinning": 0.9,
                    "sampled_fraction": 0.5,
                    "n_nodes": 100,
                    "n_tracks": 20,
                    "reason": pd.Series([None] * t.size, dtype="str"),
                    "lwe_cm": lwe,
                    "lwe_sigma_cm": np.where(np.isnan(lwe), np.nan, 5.6),
                    "mass_gt": lwe * land * 1e-5,
                    "mass_sigma_gt": np.where(np.isnan(lwe), np.nan, 5.6 * land * 1e-5),
                    "mass_change_gt": change * land * 1e-5,
                    "mass_change_sigma_gt": np.where(np.isnan(change), np.nan, 7.9 * land * 1e-5),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def nodes(spacing=50_000.0):
    """Nodes on a coarse grid over the ellipse and one window of fine ones."""
    ice = base().ice
    x, y = np.meshgrid(np.arange(-400e3, 601e3, spacing), np.arange(-2_900e3, -899e3, spacing))
    x, y = x.ravel(), y.ravel()
    inside = shapely.contains_xy(ice, x, y)
    x, y = x[inside], y[inside]
    fine_x, fine_y = (a.ravel() for a in np.meshgrid(np.arange(8) * 1e3, np.arange(8) * 1e3))
    window = np.array([None] * x.size + ["jakobshavn"] * fine_x.size, dtype=object)
    step = np.concatenate([np.full(x.size, spacing), np.full(fine_x.size, 1e3)])
    x, y = np.concatenate([x, fine_x + 30e3]), np.concatenate([y, fine_y - 2_000e3])
    longitude, latitude = unproject(x, y, CRS)
    n = x.size
    margin = 1 - shapely.distance(ice.exterior, shapely.points(x, y)) / 500e3
    rate = -0.02 - 1.2 * np.clip(margin, 0, 1) ** 6
    rate[:3] = np.nan
    return pd.DataFrame(
        {
            "node_id": np.arange(n),
            "tile": "x0_y0",
            "window": window,
            "spacing_m": step,
            "x_m": x,
            "y_m": y,
            "latitude": latitude,
            "longitude": longitude,
            "area_km2": (step / 1e3) ** 2,
            "elevation_m": 3000 - 2500 * np.clip(margin, 0, 1),
            "slope": 0.01,
            "rate_m_yr": rate,
            "rate_sigma_m_yr": 0.02,
            "amplitude_m": np.where(np.isnan(rate), np.nan, 0.05 + 0.3 * np.clip(margin, 0, 1)),
            "phase_rad": np.linspace(-3, 3, n),
            "rms_m": 0.1,
            "interannual_m": 0.1,
            "degree": "plane",
            "n_segments": np.where(np.isnan(rate), 0, 40 + np.arange(n)),
            "n_edited": 2,
            "n_epochs": 12,
            "first": np.datetime64("2018-10-14", "us"),
            "last": np.datetime64("2024-12-20", "us"),
            "bed_m": np.nan,
            "speed_m_yr": np.nan,
            "reason": np.where(np.isnan(rate), "fewer than 12 segments", None),
        }
    )


def scores():
    rows = []
    values = {"ridge": 0.4, "xgboost": 0.5, "climatology": 0.2, "persistence": -3.0, "noise": -0.1}
    kinds = {"climatology": "baseline", "persistence": "baseline", "noise": "control"}
    offsets = {"random": 0.2, "leave_mascon_out": 0.0, "forward": -0.1}
    for model, value in values.items():
        for split, offset in offsets.items():
            for target in ("change", "cumulative"):
                head = {"model": model, "kind": kinds.get(model, "model"), "split": split}
                head |= {"target": target, "n": 300, "n_blocks": 6, "reason": None}
                r2 = {"score": "r2", "value": value + offset}
                rows.append(head | r2 | {"scope": "pooled", "lower": r2["value"] - 0.1,
                                         "upper": r2["value"] + 0.1})  # fmt: skip
                rows.append(head | {"score": "rmse_cm", "value": 5 - value, "scope": "pooled"})
                for i, box in enumerate(BOXES[:3]):
                    rows.append(head | r2 | {"scope": f"mascon:{box[0]}",
                                             "value": value + offset - 0.1 * i})  # fmt: skip
    for model in values:
        rows.append(
            {"model": model, "kind": kinds.get(model, "model"), "split": "both", "target": "change",
             "scope": "pooled", "score": "r2", "n": 0, "reason": "fewer than 24 training months"}
        )  # fmt: skip
    return pd.DataFrame(rows)


def predictions(seed=1):
    rng = np.random.default_rng(seed)
    rows = []
    for split in ("random", "leave_mascon_out", "forward"):
        for model in ("ridge", "xgboost"):
            for box in BOXES[:3]:
                observed = 5 * np.sin(np.arange(MONTHS.size) * np.pi / 6) + rng.normal(0, 2, 75)
                predicted = 0.7 * observed + rng.normal(0, 2, 75)
                rows.append(
                    pd.DataFrame(
                        {
                            "model": model,
                            "split": split,
                            "target": "change",
                            "fold": 0,
                            "mascon_id": box[0],
                            "month": MONTHS,
                            "observed_cm": observed,
                            "predicted_cm": predicted,
                            "lower_cm": predicted - 4,
                            "upper_cm": predicted + 4,
                            "land_area_km2": 100_000.0,
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)


def importance():
    groups = ("dh_change_1", "dh_change_3", "season", "latitude", "ice_fraction")
    return pd.DataFrame(
        [
            {"target": target, "method": method,
             "kind": "family" if group == "season" else "group", "group": group,
             "importance": 1.5 / (i + 1) - 0.4,
             "lower": 1.2 / (i + 1) - 0.4, "upper": 2 / (i + 1) - 0.4, "reason": None}
            for target in ("change", "cumulative")
            for method in ("permutation", "shap")
            for i, group in enumerate(groups)
        ]
    )  # fmt: skip


def explained():
    return pd.DataFrame(
        [
            {"scope": "mascon" if i < 3 else "region", "mascon_id": box[0] if i < 3 else None,
             "target": target, "split": "leave_mascon_out",
             "explained_total": None if i == 2 else 0.5 - 0.3 * i, "explained_trend": 0.8 - 0.2 * i,
             "explained_seasonal": 0.6, "explained_interannual": -0.4 + 0.1 * i, "n": 70,
             "total_lower": -0.5, "total_upper": 0.3,
             "reason": "too few months" if i == 2 else None}
            for i, box in enumerate([*BOXES[:3], None])
            for target in ("change", "cumulative")
        ]
    )  # fmt: skip


def coupling():
    rows = []
    for treatment in ("raw", "detrended", "deseasonalised"):
        for i, box in enumerate(BOXES):
            for lag in range(-6, 7):
                short = i == 3
                rows.append(
                    {
                        "mascon_id": box[0],
                        "treatment": treatment,
                        "lag_months": lag,
                        "r": None if short else 0.9 - 0.5 * i - 0.05 * abs(lag - i),
                        "n": 8 if short else 70,
                        "q_fdr": (0.01 if i < 1 else 0.3) if lag == i and not short else None,
                        "best": lag == (0 if short else i),
                        "p_best": None if short else (0.01 if i < 1 else 0.5),
                        "density_kg_m3": 600.0 + 50 * i if lag == i and not short else None,
                        "reason": "fewer than 24 common months" if short else None,
                    }
                )
    return pd.DataFrame(rows)


def regimes():
    table = nodes()[["node_id", "x_m", "y_m", "latitude", "longitude", "rate_m_yr"]]
    regime = np.where(table["rate_m_yr"] < -0.5, 0.0, np.where(table["rate_m_yr"] < -0.1, 1.0, 2.0))
    regime[np.isnan(table.pop("rate_m_yr"))] = np.nan
    names = np.array(["rapid thinning outlet", "seasonal melt", "stable interior"], dtype=object)
    label = [None if np.isnan(r) else names[int(r)] for r in regime]
    return table.assign(regime=regime, regime_name=label, silhouette=np.nan, reason=None)


def regime_mascons():
    ids = [box[0] for box in BOXES]
    regime = [0.0, 1.0] + [np.nan] * (len(ids) - 2)
    reason = [None, None] + ["too few nodes"] * (len(ids) - 2)
    return pd.DataFrame({"mascon_id": ids, "regime": regime, "reason": reason})


def centroids():
    nodes = pd.DataFrame(
        {
            "level": ["nodes"] * 3,
            "regime": [0, 1, 2],
            "regime_name": ["rapid thinning outlet", "seasonal melt", "stable interior"],
            "n_mascons": [np.nan] * 3,
            "n_nodes": [40, 80, 300],
            "area_km2": [90e3, 400e3, 1.2e6],
            "rate_m_yr": [-0.9, -0.3, -0.03],
            "amplitude_m": [0.35, 0.3, 0.1],
            "phase_rad": [0.1, 0.2, 0.3],
            "slope": [0.02, 0.01, 0.002],
            "latitude": [70.0, 71.0, 75.0],
            "elevation_m": [600.0, 1200.0, 2600.0],
            "interannual_m": [0.3, 0.2, 0.05],
            "reason": pd.Series([None] * 3, dtype="str"),
        }
    )
    coarse = nodes.iloc[:2].assign(level="mascons", n_mascons=1.0)
    return pd.concat([nodes, coarse], ignore_index=True)


def stability():
    k = np.arange(2, 9)
    return pd.DataFrame(
        {
            "level": "nodes",
            "k": k,
            "silhouette": 0.5 - 0.03 * np.abs(k - 4),
            "gap": 1.0 + 0.1 * k - 0.02 * (k - 4) ** 2,
            "gap_sigma": 0.02,
            "adjusted_rand": 0.95 - 0.04 * np.abs(k - 4),
            "chosen": k == 4,
            "why": np.where(k == 4, "k = 4: as the test wants.", None),
            "reason": pd.Series([None] * k.size, dtype="str"),
        }
    )


def lake_months():
    months = month_range("2018-10", "2024-12")[::3]
    step = np.arange(months.size)
    parts = [
        pd.DataFrame(
            {
                "lake_id": lake,
                "month": months,
                "departure_m": scale * (step % 9),
                "departure_sigma_m": 0.05,
                "volume_km3": 2.5e-3 * scale * (step % 9),
                "volume_sigma_km3": 1e-3,
                "n_nodes": 4,
            }
        )
        for lake, scale in ((1, 1.0), (2, 0.3))
    ]
    return pd.concat(parts, ignore_index=True)


def lake_events():
    return pd.DataFrame(
        {
            "lake_id": [1, 1, 2],
            "kind": ["fill", "drain", "fill"],
            "start": np.array(["2019-05", "2021-08", "2020-07"], dtype="datetime64[us]"),
            "end": np.array(["2021-05", "2021-11", "2020-09"], dtype="datetime64[us]"),
            "volume_km3": [0.018, -0.021, 0.006],
            "volume_sigma_km3": [0.002, 0.003, 0.001],
        }
    )


def searched_nodes():
    table = nodes()
    table = table[table["window"].notna() & table["rate_m_yr"].notna()]
    table = table[["node_id", "window", "spacing_m", "x_m", "y_m"]].reset_index(drop=True)
    return table.assign(
        n_months=20,
        departure_range_m=0.1 + 0.01 * np.arange(len(table)),
        noise_m=0.03,
        departing=False,
        lake_id=pd.array([pd.NA] * len(table), dtype="Int32"),
    )


def inventory_matches():
    x, y = (
        np.array([33.5e3, 120e3, -60e3, 33e3]),
        np.array([-1_997e3, -1_900e3, -2_050e3, -1_996e3]),
    )
    longitude, latitude = unproject(x, y, CRS)
    return pd.DataFrame(
        {
            "inventory_row": pd.array([1, 2, 3, None], dtype="Int32"),
            "inventory_name": pd.Series(["Old Lake", None, "Still Lake", None], dtype="str"),
            "kind": pd.Series(["Active", "Active", "Stable", None], dtype="str"),
            "candidate_id": pd.array([1, None, None, 4], dtype="Int32"),
            "outcome": ["hit", "not_searched", "miss", "new"],
            "distance_km": [0.0, 88.0, 107.0, 1.1],
            "x_m": x,
            "y_m": y,
            "latitude": latitude,
            "longitude": longitude,
            "reason": pd.Series([None, "no searched node near", None, None], dtype="str"),
        }
    )


def lakes():
    x, y = np.array([33e3, 36e3]), np.array([-1_997e3, -1_994e3])
    shapes = []
    for px, py in zip(x, y, strict=True):
        ring = shapely.get_coordinates(shapely.Point(px, py).buffer(900))
        shapes.append(shapely.Polygon(np.column_stack(unproject(ring[:, 0], ring[:, 1], CRS))))
    longitude, latitude = unproject(x, y, CRS)
    return geopandas.GeoDataFrame(
        {
            "lake_id": [1, 2],
            "status": ["candidate", "lookalike"],
            "window": ["jakobshavn"] * 2,
            "x_m": x,
            "y_m": y,
            "latitude": latitude,
            "longitude": longitude,
            "area_km2": [2.5, 2.5],
            "n_nodes": [4, 4],
            "n_tracks": [2, 1],
            "n_confirming": [3, 0],
            "n_denying": [0, 0],
            "slope": [0.01, 0.01],
            "scatter_m": [0.1, 0.1],
            "open_share": [0.5, 0.0],
            "volume_is_lower_bound": [True, False],
            "volume_range_km3": [0.021, 0.006],
            "first_fill": np.array(["2019-05", "NaT"], dtype="datetime64[us]"),
            "first_drain": np.array(["2021-08", "2020-07"], dtype="datetime64[us]"),
            "mascon_id": [68, 68],
            "inventory_name": pd.Series([None, None], dtype="str"),
            "inventory_distance_m": [np.nan, np.nan],
            "reason": pd.Series([None, "comes in summer and goes"], dtype="str"),
        },
        geometry=shapes,
        crs="EPSG:4326",
    )


def filter_report():
    """Three periods, the middle one without a segment: 1000 of 1250 rows and 500 of 500 entered.

    The ice mask meets no beam's value in the last; no filter takes a row that another would.
    """
    rows = []
    sizes = {"2018": (1250, 1000), "2019": (0, 0), "2020": (500, 500), "all": (1750, 1500)}
    costs = {
        "finite_height": {"2018": 100, "2020": 50, "all": 150},
        "quality_summary": {"2018": 200, "2020": 150, "all": 350},
        "ice_mask": {"2018": 50, "2020": 0, "all": 50},
    }
    for period, (read, entered) in sizes.items():
        steps = [("subset", "read", 0), ("subset", "outside_region", read - entered)]
        steps += [("filter", name, gone[period]) for name, gone in costs.items() if entered]
        left = read
        for position, (stage, name, gone) in enumerate(steps[: None if read else 1], 1):
            lacks = name == "ice_mask" and period in ("2020", "all")
            rows.append(
                {"period": period, "stage": stage, "position": position, "filter": name,
                 "granules": 3 if read else 0, "beams": 10 if read else 0,
                 "beams_not_given": 4 if lacks else 0, "rows_in": left, "rows_removed": gone,
                 "rows_alone": 2 * gone if stage == "filter" else None,
                 "removed_percent": 100 * gone / left if left else None,
                 "alone_percent": 200 * gone / entered if stage == "filter" else None,
                 "kept_percent": 100 * (left - gone) / read if read else None}
            )  # fmt: skip
            left -= gone
    return pd.DataFrame(rows)


def checks():
    """Crossovers that have a model, and repeats that were never flown."""
    found = {"n_found": 120, "n_kept": 110, "n_model": 100, "dh_rate_m_yr": -0.4,
             "residual_m": 0.012, "residual_spread_m": 0.2, "rate_difference_m_yr": 0.004,
             "rate_difference_sigma_m_yr": 0.003, "share_within_2_sigma": 0.8,
             "reason": None}  # fmt: skip
    none = dict.fromkeys(found) | {"n_found": 0, "n_kept": 0, "n_model": 0, "reason": "no_pairs"}
    return pd.DataFrame(
        [
            {"kind": "crossover", "span": "all", **found},
            {"kind": "repeat", "span": "under_0.5_years", **none},
        ]
    ).astype(dict.fromkeys(["residual_m", "residual_spread_m"], float))


def node_months():
    table = nodes()
    seen = [MONTHS[0], MONTHS[1], MONTHS[3]]
    return pd.concat(
        [
            pd.DataFrame({"node_id": table["node_id"].iloc[:: i + 2], "month": month,
                          "n_segments": 10 + i})
            for i, month in enumerate(seen)
        ],
        ignore_index=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def world():
    """Every table by name, with the base map and the cut mascons."""
    found = {
        "base": base(), "mascons": mascons(), "fusion": fusion(), "nodes": nodes(),
        "node_months": node_months(), "scores": scores(), "predictions": predictions(),
        "importance": importance(), "explained": explained(), "coupling": coupling(),
        "regimes": regimes(), "regime_mascons": regime_mascons(),
        "centroids": centroids(), "stability": stability(),
        "lakes": lakes(), "lake_months": lake_months(), "lake_events": lake_events(),
        "searched": searched_nodes(), "matches": inventory_matches(),
        "filter_report": filter_report(),
    }  # fmt: skip
    columns = ["mascon_id", "month", "lwe_cm", "lwe_sigma_cm", "mass_gt", "mass_sigma_gt"]
    found["mass"] = found["fusion"][[*columns, "mass_change_gt", "mass_change_sigma_gt"]]
    found["shapes"] = cut_mascons(found["mascons"], found["base"])
    return found


__all__ = ["BOXES", "GAPS", "MONTHS", "project"]
