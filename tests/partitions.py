"""A folder of feature files of two regions, written as a run writes them, and what is in it."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from cryofuse.calendar import month_range
from cryofuse.fusion.card import READERS
from cryofuse.fusion.features import write_features

MONTHS = month_range("2018-11", "2020-02")
MASCONS = {"antarctica": (900, 901), "greenland": (3, 8, 9)}
#: Null in all of one region, in all of one year, here and there, nowhere.
COLUMNS = ("marine_margin_fraction", "dh_m", "target_change_cm", "ice_fraction")


def make_features(region: str) -> pd.DataFrame:
    """Return the feature table of a region, missing values as NaN."""
    rng = np.random.default_rng(len(region))
    ids = np.array(MASCONS[region], dtype=np.int32)
    table = pd.DataFrame(
        {"mascon_id": np.repeat(ids, MONTHS.size), "month": np.tile(MONTHS, ids.size)}
    )
    for name in COLUMNS:
        table[name] = rng.normal(size=len(table))
    if region == "greenland":
        table["marine_margin_fraction"] = np.nan
    table.loc[table["month"].dt.year == 2018, "dh_m"] = np.nan
    table.loc[rng.random(len(table)) < 0.3, "target_change_cm"] = np.nan
    return table


def write_regions(folder: Path) -> pd.DataFrame:
    """Write both regions below one folder, as two runs would, and return all rows."""
    parts = []
    for region in MASCONS:
        table = make_features(region)
        write_features(table, folder / "apart" / region, region)
        shutil.move(folder / "apart" / region / f"region={region}", folder / "features")
        parts.append(table.assign(region=region, year=table["month"].dt.year))
    rows = pd.concat(parts, ignore_index=True)
    return rows.sort_values(["region", "mascon_id", "month"], ignore_index=True)


def read_with(engine: str, folder: Path):
    """Return what an engine makes of the folder by the words of the documentation."""
    names: dict = {}
    exec(READERS[engine].format(folder=folder), names)
    return names["features"]
