import sys

import pandas as pd

from cryofuse.config import Box, PeriodSettings, RegionSettings, WorldSettings
from cryofuse.simulate import write_world


def test_package_is_lazy():
    import subprocess

    code = "import sys, cryofuse.simulate; print('h5py' in sys.modules, 'scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_world_is_written_whole(tmp_path):
    region = RegionSettings(
        title="A box of ice",
        crs="EPSG:3413",
        outline=Box(west=-46.0, south=71.0, east=-42.0, north=71.8),
    )
    manifests = write_world(
        WorldSettings(track_step=30, segment_step=40),
        tmp_path,
        region=region,
        period=PeriodSettings(start="2020-01", end="2020-06", length="quarter"),
    )
    assert len(manifests) == 2
    for name, manifest in zip(("2020Q1", "2020Q2"), manifests, strict=True):
        files = sorted(path.name for path in (tmp_path / "atl06" / name).iterdir())
        assert files == manifest.column("granule").to_pylist() and files
    assert (tmp_path / "mascons.nc").is_file()
    assert (tmp_path / "inventory.csv").is_file()
    truth = {path.name for path in (tmp_path / "truth").iterdir()}
    tables = ("mascons", "mascon_months", "lakes", "lake_months", "lake_events", "file_ledger")
    assert truth == {f"{name}.parquet" for name in tables} | {"world.json"}
    ledger = pd.read_parquet(tmp_path / "truth" / "file_ledger.parquet")
    assert len(ledger) == 6 * sum(m.num_rows for m in manifests)
