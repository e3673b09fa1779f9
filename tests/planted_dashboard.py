"""Tables behind a dashboard, of closed formulas, and the page that the rule's script makes of them.

Four mascons: 35, 50 and 68 have all; 90 has no elevation. March 2019 has no gravity.
"""

import runpy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml

from tests.conftest import ROOT
from tests.unit.products import conftest as planted

#: What an honest page must not take for markup.
HOSTILE = "</script><script>alert('x')</script><!-- & \"quoted\""
PERIOD = {"start": "2018-10", "end": "2024-12", "length": "year"}
WITHOUT_ELEVATION = 90


def product():
    """Predictions follow the months by formula; their first month and all of mascon 90 are null."""
    table = planted.fusion()[["mascon_id", "month", "dh_m", "dh_sigma_m"]]
    fusion = planted.fusion()
    for kind in ("change", "mass"):
        table[f"observed_{kind}_gt"] = fusion[f"mass_{kind}_gt" if kind == "change" else "mass_gt"]
        name = "mass_change_sigma_gt" if kind == "change" else "mass_sigma_gt"
        table[f"observed_{kind}_sigma_gt"] = fusion[name]
    number = table.groupby("mascon_id").cumcount()
    change = np.sin(number / 3.0) * table["mascon_id"] / 10
    mass = -number * table["mascon_id"] / 100
    for kind, values, half in (("change", change, 2.5), ("mass", mass, 8.125)):
        table[f"predicted_{kind}_gt"] = values
        table[f"predicted_{kind}_lower_gt"] = values - half
        table[f"predicted_{kind}_upper_gt"] = values + half
    blind = table["mascon_id"] == WITHOUT_ELEVATION
    table.loc[blind, ["dh_m", "dh_sigma_m"]] = np.nan
    predicted = [name for name in table if name.startswith("predicted_")]
    table.loc[blind | (number == 0), predicted] = np.nan
    table["has_gravimetry"] = table["observed_mass_gt"].notna()
    table["reason"] = pd.Series([None] * len(table), dtype="str")
    table.loc[number == 0, "reason"] = "no month before"
    table.loc[blind, "reason"] = HOSTILE
    return table


def fusion():
    table = planted.fusion()
    blind = table["mascon_id"] == WITHOUT_ELEVATION
    table.loc[blind, ["dh_m", "rate_m_yr"]] = np.nan
    table.loc[blind, "reason"] = "no ice of the region in the mascon"
    return table


def case_study():
    rows = []
    for year in (2019, 2020, 2021):
        for number in (35, 50, 68, None):
            scale = (number or 150) / 10 * (2022 - year)
            rows.append(
                {"scope": f"mascon:{number}" if number else "sheet", "mascon_id": number,
                 "year": year, "dh_season_m": -scale / 40, "observed_gt": -scale,
                 "observed_sigma_gt": 2.0, "predicted_gt": -0.9 * scale,
                 "predicted_lower_gt": -0.9 * scale - 3, "predicted_upper_gt": -0.9 * scale + 3,
                 "observed_minimum": 8, "predicted_minimum": 8, "n_months": 3, "reason": None}
            )  # fmt: skip
    return pd.DataFrame(rows)


def totals():
    parts = []
    months = planted.MONTHS
    for source, density, rate in (("gravity", None, -20.0), ("altimetry_850", 850.0, -18.5)):
        mass = rate * np.arange(months.size) / 7
        if source == "gravity":
            mass[planted.GAPS] = np.nan
        part = pd.DataFrame({"source": source, "density_kg_m3": density, "month": months,
                             "mass_gt": mass, "mass_sigma_gt": 50.0})  # fmt: skip
        part["mass_change_gt"] = part["mass_gt"].diff()
        part["mass_change_sigma_gt"] = 70.0
        part["sea_level_mm"] = part["mass_gt"] / -361.8
        part["sea_level_sigma_mm"] = 50 / 361.8
        part["n_mascons"] = 3
        parts.append(part)
    return pd.concat(parts, ignore_index=True).astype({"density_kg_m3": float})


def sea_level():
    return pd.DataFrame(
        {
            "source": ["gravity", "altimetry_850"],
            "density_kg_m3": [np.nan, 850.0],
            "density_lower_kg_m3": np.nan,
            "density_upper_kg_m3": np.nan,
            "start": np.datetime64("2018-10", "us"),
            "end": np.datetime64("2024-12", "us"),
            "trend_gt_yr": [-34.3, -31.7],
            "trend_sigma_gt_yr": [1.2, 2.3],
            "sea_level_mm_yr": [0.0948, 0.0876],
            "sea_level_sigma_mm_yr": [0.003, 0.006],
            "sea_level_total_mm": [0.59, 0.55],
            "n": [74, 75],
            "reason": [None, HOSTILE],
        }
    )


def tables():
    """Return every table that the rule reads, by the name of its input."""
    return {
        "product": product(),
        "fusion": fusion(),
        "mascons": planted.mascons(),
        "regimes": planted.regime_mascons().assign(regime_name=["outlet", "melt", None, None]),
        "centroids": planted.centroids(),
        "scores": planted.scores(),
        "explained": planted.explained(),
        "coupling": planted.coupling(),
        "case_study": case_study(),
        "totals": totals(),
        "sea_level": sea_level(),
        "lakes": planted.lakes(),
    }


def write_dashboard(folder, given, period=PERIOD, unit="mascon"):
    """Write tables and let the rule's script make the page of them; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, table in given.items():
        paths[name] = str(folder / f"{name}.parquet")
        table.to_parquet(paths[name])
    region = yaml.safe_load((ROOT / "config" / "regions" / "demo.yaml").read_text())
    region |= {name: str(ROOT / region[name]) for name in ("outline", "coast")}
    snakemake = SimpleNamespace(
        input=_Files(paths),
        output=SimpleNamespace(dashboard=str(folder / "dashboard.html")),
        log=[str(folder / "log.txt")],
        params=SimpleNamespace(
            region=region | {"title": "Test <land>"},
            period=period,
            coupling={"fdr": 0.05},
            skill={"coverage": 0.9},
            source="synthetic",
            unit=unit,
        ),
        config={"source": "synthetic"},
        rule="write_dashboard",
        wildcards={"region": "demo"},
    )
    runpy.run_path(str(ROOT / "workflow" / "scripts" / "write_dashboard.py"))["main"](snakemake)
    return folder / "dashboard.html"


class _Files(list):
    """Inputs as a script sees them: a list, and each by its name."""

    def __init__(self, named):
        super().__init__(named.values())
        vars(self).update(named)
