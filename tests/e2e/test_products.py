"""The tiny world through the mascons of CSR and GSFC: the same chain, another key."""

import geopandas
import numpy as np
import pandas as pd
import pytest

from cryofuse.tables import read_provenance
from tests.conftest import choose_product, copy_project, snakemake

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("product", ["csr", "gsfc"])
def test_gravimetry_of_another_product_is_what_was_planted(product, tmp_path):
    folder = copy_project(tmp_path)
    choose_product(folder, product)
    snakemake(folder, "gravimetry")
    results = folder / "results" / "demo" / "gravimetry"
    mascons = geopandas.read_parquet(results / "mascons.parquet")
    mass = pd.read_parquet(results / "mass.parquet")
    said = read_provenance(results / "mass.parquet")["gravimetry"]
    assert said["product"] == product and said["unit"] == "native"
    assert "ynthetic" in said["release"] and said["sigma"] and said["footprints"]
    # Mascons of about an arc degree squared (12 364 km²), and no quarter-degree cell.
    assert len(mascons) > 25 and mascons["area_km2"].between(9_000, 16_000).all()
    truth = folder / "resources" / "demo" / "synthetic" / "truth"
    planted = pd.read_parquet(truth / "mascons.parquet").set_index("mascon_id")
    found = mascons.set_index("mascon_id")
    both = planted.loc[found.index]
    assert found["ice_area_km2"].sum() == pytest.approx(planted["ice_area_km2"].sum(), rel=5e-3)
    assert np.abs(found["ice_area_km2"] - both["ice_area_km2"]).max() < 300
    assert np.allclose(found["land_area_km2"], both["land_area_km2"], rtol=1e-6)
    months = pd.read_parquet(truth / "mascon_months.parquet").dropna(subset="lwe_cm")
    joined = mass.merge(months, on=["mascon_id", "month"], suffixes=("", "_planted"))
    # October 2018 to December 2021 has every month.
    assert len(joined) == 39 * len(mascons)
    assert np.allclose(joined["lwe_cm"], joined["lwe_cm_planted"], atol=1e-4)
    if product == "csr":
        assert "mapping.nc" in said["footprints"]
