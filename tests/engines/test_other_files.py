"""What is fetched beside granules: mascons by plain HTTPS, and masks from a collection."""

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.earthdata import CACHE, Project, asked

MONTH = {"start": "2018-10", "end": "2018-10", "length": "month"}
SELECT = {"rule": "ice_fraction_of_land", "min": 0.5, "ids": None}
#: Edge of the ice of the mask, EPSG:3413 (m).
ICE_EAST_OF_M = 50_000.0


@pytest.fixture(scope="module")
def archive(source):
    with source.serve("2018-10") as archive:
        yield archive


def plain_project(product, archive, source, folder):
    """A project of a product, and the file that is served for it."""
    served = source.write_product(product, folder / "served")
    plain = {product: archive.add_public(served)}
    if product == "csr":
        plain["csr_land_mask"] = archive.add_public(served.with_name("land_mask.nc"))
        plain["csr_mapping"] = archive.add_public(served.with_name("mapping.nc"))
    project = Project(
        folder / "project",
        archive,
        period=MONTH,
        mascons={"product": product, "select": SELECT},
        download={"plain": plain},
    )
    return project, served


@pytest.mark.parametrize("product", ["gsfc", "csr"])
def test_mascons_by_plain_address(product, archive, source, tmp_path):
    project, served = plain_project(product, archive, source, tmp_path)
    del project.environment["EARTHDATA_TOKEN"]
    archive.clear_log()
    project.run("gravimetry")
    assert not [entry for entry in archive.log if entry.had_token]
    cached = project.folder / CACHE / "mascons" / f"{product}{served.suffix}"
    assert cached.read_bytes() == served.read_bytes()
    mass = project.tables("gravimetry")["gravimetry/mass.parquet"].to_pandas()
    assert mass["mass_gt"].notna().any()
    assert project.jobs("gravimetry") == {}

    pin = project.folder / "manifests" / "plain" / f"{product}.csv"
    pinned = pin.read_bytes()
    # A run that begins anew elsewhere, with the pins: the same file, or a line.
    again = Project(tmp_path / "again", archive)
    again.configure(**project.config)
    again.share_plan(project)
    del again.environment["EARTHDATA_TOKEN"]
    with h5py.File(served, "r+") as file:
        file.attrs["edition"] = "another"
    said = again.refused("gravimetry")
    lines = {line.split("ERROR")[-1] for line in said.splitlines() if "refresh=true" in line}
    (line,) = lines
    assert "has changed" in line and f"manifests/plain/{product}.csv" in line
    assert (again.folder / "manifests" / "plain" / f"{product}.csv").read_bytes() == pinned
    assert not (again.folder / CACHE / "mascons" / f"{product}{served.suffix}").exists()
    again.run("gravimetry", "--config", "refresh=true")
    assert (again.folder / "manifests" / "plain" / f"{product}.csv").read_bytes() != pinned
    fresh = again.folder / CACHE / "mascons" / f"{product}{served.suffix}"
    assert fresh.read_bytes() == served.read_bytes()


def write_mask(path):
    """Write an ice mask of the region, in its CRS: ice east of a line, nothing west of it."""
    with netCDF4.Dataset(path, "w") as file:
        x, y = np.arange(-500e3, 500e3, 5e3) + 2.5e3, np.arange(-3200e3, -2200e3, 5e3)[::-1] - 2.5e3
        for name, values in (("x", x), ("y", y)):
            file.createDimension(name, len(values))
            axis = file.createVariable(name, "f8", (name,))
            axis.standard_name, axis.units = f"projection_{name}_coordinate", "m"
            axis[:] = values
        mask = file.createVariable("mask", "i1", ("y", "x"))
        mask[:] = np.where(x > ICE_EAST_OF_M, 2, 0)[None, :].repeat(len(y), axis=0)


def test_an_ice_mask_of_a_collection_is_fetched_and_used(archive, source, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("BedMachineGreenland-v5.nc", "BedMachineGreenland-v6.nc", "Other-v9.nc"):
        write_mask(folder / name)
    archive.add_collection("IDBMG4", "5", sorted(folder.iterdir()))
    mask = {
        "file": "earthdata:IDBMG4@5/BedMachine*.nc",
        "variable": "mask",
        "ice_values": [2],
        "crs": "EPSG:3413",
    }
    project = Project(
        tmp_path / "project", archive, period=MONTH, region_settings={"demo": {"ice_mask": mask}}
    )
    archive.clear_log()
    project.run("filter")
    names = asked(archive, "data")
    assert "BedMachineGreenland-v6.nc" in names
    assert not {"BedMachineGreenland-v5.nc", "Other-v9.nc"} & set(names)
    (raster,) = (project.folder / CACHE / "rasters").iterdir()
    assert raster.read_bytes() == (folder / "BedMachineGreenland-v6.nc").read_bytes()

    read = {
        kind: pq.read_table(
            project.folder / f"results/demo/altimetry/{kind}/2018-10.parquet"
        ).to_pandas()
        for kind in ("subset", "filtered", "ledger")
    }
    assert (read["subset"]["x_m"] < ICE_EAST_OF_M).any()
    assert (read["filtered"]["x_m"] > ICE_EAST_OF_M).all() and len(read["filtered"])
    ledger = read["ledger"].set_index("filter")
    assert isinstance(ledger, pd.DataFrame) and "ice_mask" in ledger.index
    assert project.jobs("filter") == {}
