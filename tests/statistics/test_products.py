"""The whole chain on the mascons of CSR and GSFC: another key, the same truth found again."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.conftest import choose_product, copy_project, snakemake


@pytest.mark.parametrize("product", ["csr", "gsfc"])
def test_the_whole_chain_runs_on_another_product_and_finds_its_truth(product, tmp_path):
    folder = copy_project(tmp_path)
    choose_product(folder, product)
    snakemake(folder)
    results = folder / "results" / "demo"
    assert (results / "summary.html").is_file()
    assert len(list((results / "figures").glob("*.png"))) > 15
    metrics = {
        metric["metric"]: metric
        for metric in json.loads((results / "validation.json").read_text())["metrics"]
    }
    for name in ("mascon_dh_bias", "mascon_dh_rmse_share", "gravity_trend_error"):
        assert metrics[name]["holds"], metrics[name]
    features = pd.read_parquet(results / "features")
    mascons = pd.read_parquet(results / "gravimetry" / "mascons.parquet")
    chosen = set(mascons.loc[mascons["selected"], "mascon_id"])
    assert set(features["mascon_id"]) == chosen and len(chosen) > 20
    # The gravity total's trend against that of its own planted mass, by a plain line.
    totals = pd.read_parquet(results / "applications" / "totals.parquet")
    gravity = totals[totals["source"] == "gravity"].dropna(subset=["mass_gt"])
    truth = folder / "resources" / "demo" / "synthetic" / "truth"
    planted = pd.read_parquet(truth / "mascon_months.parquet").dropna(subset=["lwe_planted_cm"])
    land = mascons.set_index("mascon_id")["land_area_km2"]
    planted = planted[planted["mascon_id"].isin(chosen)]
    mass = planted["lwe_planted_cm"] * land.reindex(planted["mascon_id"]).to_numpy() * 1e-5
    noise = planted["lwe_noise_cm"] * land.reindex(planted["mascon_id"]).to_numpy() * 1e-5
    month = planted["month"]
    both = pd.DataFrame({"true": mass.groupby(month).sum(), "noise": noise.groupby(month).sum()})
    both["found"] = gravity.set_index("month")["mass_gt"].reindex(both.index)
    both = both.dropna()
    years = np.arange(len(both)) / 12
    trend = {name: np.polyfit(years, both[name], 1)[0] for name in both}
    # σ of a line's slope through independent noise of that spread.
    sigma = both["noise"].std() / np.sqrt(((years - years.mean()) ** 2).sum())
    assert abs(trend["found"] - trend["true"]) < 3 * sigma
    assert trend["found"] - trend["true"] == pytest.approx(trend["noise"], abs=0.05 * sigma + 0.5)
