"""ATL11 files in a folder of the user's, as far as the nodes."""

import numpy as np
import pandas as pd
import pytest
import yaml

from cryofuse.atl11.product import pass_time
from cryofuse.geo import project, unproject
from cryofuse.tables import read_provenance, read_table
from tests.atl11_files import make_pair, write_atl11
from tests.conftest import copy_project, snakemake

pytestmark = pytest.mark.e2e

EPOCH = np.datetime64("2018-01-01", "us")


def write_files(folder):
    """Two tracks that cross at 44° W, 70° N, eight cycles each; return rows with a height."""
    folder.mkdir()
    x0, y0 = (float(v) for v in project(-44, 70, "EPSG:3413"))
    along = np.arange(-6000, 6000, 60.0)
    rows = 0
    for rgt, turn in ((100, 0.3), (700, 2.6)):
        x_m, y_m = x0 + along * np.cos(turn), y0 + along * np.sin(turn)
        longitude, latitude = unproject(x_m, y_m, "EPSG:3413")
        passes = [(pass_time(rgt, c) - EPOCH) / np.timedelta64(1, "s") for c in range(3, 11)]
        pair = make_pair(along.size, passes, latitude=latitude, longitude=longitude)
        pair["h_corr"][::7, 3] = np.nan
        pair["ref_surf/dem_h"] = pair["h_corr"][:, 0]
        rows += np.isfinite(pair["h_corr"]).sum()
        write_atl11(folder, {"pt2": pair}, name=f"ATL11_{rgt:04d}03_0310_006_02.h5")
    return rows


def test_the_elevation_of_a_folder_of_atl11(tmp_path):
    (tmp_path / "project").mkdir()
    project_folder = copy_project(tmp_path / "project")
    rows = write_files(tmp_path / "atl11")
    settings = {
        "regions": ["greenland"],
        "source": "local",
        "altimetry": {"product": "atl11"},
        "local": {"atl11_dir": str(tmp_path / "atl11"), "mascons_file": "none.nc"},
        "period": {"start": "2019-01", "end": "2021-12", "length": "year"},
        "elevation": {"tile_m": 200_000},
        "region_settings": {
            "greenland": {"outline": {"west": -44.3, "south": 69.9, "east": -43.7, "north": 70.1}}
        },
    }
    (project_folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    snakemake(project_folder, "elevation", config="mine.yaml")
    results = project_folder / "results" / "greenland"
    manifests = sorted((results / "acquire" / "atl11").glob("*.parquet"))
    listed = {path.stem: len(read_table(path)) for path in manifests}
    assert listed == {"2019": 2, "2020": 2, "2021": 2}
    cut = [
        read_table(path) for path in sorted((results / "altimetry" / "subset").glob("*.parquet"))
    ]
    assert sum(map(len, cut)) == rows
    assert all(len(set(part["time"].dt.year)) <= 1 for part in cut)
    nodes = pd.concat(
        read_table(path) for path in (results / "altimetry" / "nodes").glob("*.parquet")
    )
    # Half a metre from cycle to cycle.
    rates = nodes["rate_m_yr"].dropna()
    assert len(rates) > 20
    assert rates.median() == pytest.approx(-0.5 / 90.82 * 365.2425, abs=0.02)
    told = read_provenance(manifests[0])
    assert any("ATL11" in text for text in told["citations"])
