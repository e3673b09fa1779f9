"""The whole chain on the real files: every granule accounted for, mascons, figures, report."""

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import copy_project, snakemake

pytestmark = pytest.mark.real

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")


def overlay(real):
    """The configuration a user would write for these files."""
    bed = str(real / "geometry" / "GRL-16KM_TOPO-M17.nc")
    reference = real / "reference"
    return {
        "regions": ["greenland"],
        "source": "local",
        "local": {
            "atl06_dir": str(real / "atl06"),
            "mascons_file": str(real / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"),
        },
        "period": {"start": "2018-10", "end": "2023-12", "length": "year"},
        "mascons": {"product": "jpl", "select": {"rule": "product_set"}},
        "region_settings": {
            "greenland": {
                "outline": str(real / "geometry" / "mouginot_gis_w_shelves.gpkg"),
                "ice_mask": {"file": bed, "variable": "mask", "ice_values": [2, 3]},
                "bed": {"file": bed, "variable": "z_bed"},
                "velocity": {
                    "file": str(real / "geometry" / "GRL-16KM_VEL-J18.nc"),
                    "variable": "uxy_srf",
                },
                "reference_series": [
                    {
                        "file": str(reference / "greenland_mass_200204_202408.txt"),
                        "format": "jpl",
                        "title": "JPL",
                    },
                    {
                        "file": str(reference / "imbie3_greenland_Gt_partitioned.csv"),
                        "format": "imbie",
                        "title": "IMBIE-3",
                    },
                    {
                        "file": str(reference / "greenland_total_mass_balance_mankoff_daily.csv"),
                        "format": "mankoff",
                        "title": "Mankoff et al.",
                    },
                    {
                        "file": str(reference / "atl15_v5_integrated_volume.csv"),
                        "format": "atl15",
                        "title": "ATL15",
                    },
                ],
            }
        },
        "elevation": {
            "node_spacing_m": 10_000,
            "search_radius_m": 5_000,
            "tile_m": 1_000_000,
            "windows": [{"name": "west", "longitude": -50.0, "latitude": 71.0, "width_m": 60_000}],
        },
        "skill": {"trees": 20, "candidates": 1, "bootstrap_draws": 100},
        "coupling": {"bootstrap_draws": 100, "surrogates": 100},
    }


@pytest.fixture(scope="module")
def run(real_folder, tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("real"))
    (folder / "real.yaml").write_text(yaml.safe_dump(overlay(real_folder)))
    snakemake(folder, config="real.yaml")
    report = "results/greenland/report.html"
    snakemake(folder, "--report", report, config="real.yaml")
    return folder / "results" / "greenland"


def read(run, pattern):
    frames = [pd.read_parquet(path) for path in sorted(run.glob(pattern))]
    return pd.concat(frames, ignore_index=True)


def test_every_real_granule_has_its_rows_in_the_ledger(run, real_folder):
    ledger = read(run, "altimetry/ledger/[0-9]*.parquet")
    files = sorted(path.name for path in (real_folder / "atl06").glob("*.h5"))
    assert set(files) <= set(ledger["granule"])
    superseded = ledger[ledger["filter"] == "superseded"]
    assert superseded["granule"].tolist() == ["ATL06_20181014001049_02350102_001_01.h5"]
    read_rows = ledger[ledger["filter"] == "read"].set_index(["granule", "beam"])["rows_in"]
    for path in sorted((real_folder / "atl06").glob("*.h5")):
        if path.name in set(superseded["granule"]):
            continue
        with h5py.File(path) as file:
            for beam in BEAMS:
                place = f"{beam}/land_ice_segments/h_li"
                if place in file:
                    assert read_rows[path.name, beam] == file[place].shape[0], (path.name, beam)


def test_granules_outside_the_region_are_opened_and_said_to_be_outside(run):
    ledger = read(run, "altimetry/ledger/[0-9]*.parquet")
    subset = read(run, "altimetry/subset/[0-9]*.parquet")
    for name in (
        "ATL06_20230816161508_08782002_006_02.h5",
        "processed_ATL06_20190222155947_08580212_001_01.h5",
        "ATL06_20181014001049_02350102_003_01.h5",
    ):
        rows = ledger[(ledger["granule"] == name) & (ledger["filter"] == "outside_region")]
        assert rows["rows_removed"].sum() > 0
        assert name not in set(subset["granule"].astype(str))


def test_rows_add_up_from_file_to_kept_segments(run):
    ledger = read(run, "altimetry/ledger/[0-9]*.parquet")
    subset = read(run, "altimetry/subset/[0-9]*.parquet")
    kept = read(run, "altimetry/filtered/[0-9]*.parquet")
    whole = ledger[ledger["filter"] == "read"]["rows_in"].sum()
    outside = ledger[ledger["filter"] == "outside_region"]["rows_removed"].sum()
    assert whole - outside == len(subset)
    filtered = ledger[ledger["stage"] == "filter"]["rows_removed"].sum()
    assert len(subset) - filtered == len(kept) > 10_000


def test_the_mascons_and_their_trend(run):
    mascons = pd.read_parquet(run / "gravimetry" / "mascons.parquet")
    mass = pd.read_parquet(run / "gravimetry" / "mass.parquet")
    assert len(mascons) == 31
    assert mascons["selected"].sum() == 27
    total = (
        mass[mass["mascon_id"].isin(mascons.loc[mascons["selected"], "mascon_id"])]
        .dropna(subset=["mass_gt"])
        .groupby("month")["mass_gt"]
        .sum()
    )
    assert len(total) == 227
    years = (total.index - pd.Timestamp("2000-01-01")).days / 365.2425
    design = np.column_stack(
        [np.ones(len(years)), years, np.cos(2 * np.pi * years), np.sin(2 * np.pi * years)]
    )
    trend = np.linalg.lstsq(design, total.to_numpy(), rcond=None)[0][1]
    assert trend == pytest.approx(-263, abs=2)


def test_stages_without_enough_data_say_so_instead_of_stopping(run):
    scores = pd.read_parquet(run / "skill" / "scores.parquet")
    coupling = pd.read_parquet(run / "coupling" / "mascons.parquet")
    for table, value in ((scores, "value"), (coupling, "r")):
        empty = table[table[value].isna()]
        assert len(empty) > 0
        assert empty["reason"].notna().all()


def test_figures_summary_and_report_are_there(run):
    figures = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"rate_map", "coverage", "filter_costs", "totals", "mascon_series"} <= figures
    assert "sheet_coupling" in figures
    for path in (run / "figures").iterdir():
        assert path.stat().st_size > 5_000, path
    comparison = pd.read_parquet(run / "applications" / "comparison.parquet")
    gravity = comparison[comparison["source"] == "gravity"].set_index("series")
    assert list(gravity.index) == ["JPL", "IMBIE-3", "Mankoff et al.", "ATL15 at 850 kg/m³"]
    assert gravity["trend_difference_upper_gt_yr"].notna().all()
    assert gravity.loc["JPL", "r"] > 0.999
    # Sixteen granules give no total of the sheet, which the table says instead of hiding it.
    assert set(comparison.loc[comparison["source"] != "gravity", "reason"]) == {
        "the total has no value"
    }
    report = (run / "report.html").read_text()
    assert "rate_map" in report and "sheet_coupling" in report
    summary = (run / "summary.html").read_text()
    assert "outside_region" in summary
    assert "real skill at mascon scale needs a multi-year archive of granules" in summary


def test_the_sheet_couples_from_published_series(run):
    coupling = pd.read_parquet(run / "applications" / "sheet_coupling.parquet")
    atl15 = coupling[(coupling["volume"] == "ATL15") & coupling["mass"].isin(["JPL", "gravity"])]
    assert len(atl15) == 6 and (atl15["n"] == 23).all()
    assert (atl15["r"] > 0.7).all() and (atl15["p"] < 0.05).all()
    assert atl15[["density_lower_kg_m3", "density_upper_kg_m3"]].notna().all(axis=None)
    assert coupling.loc[coupling["r"].isna(), "reason"].notna().all()
    summary = (run / "summary.html").read_text()
    row = atl15[(atl15["mass"] == "JPL") & (atl15["treatment"] == "detrended")].iloc[0]
    assert f"{row['density_kg_m3']:.0f} ({row['density_lower_kg_m3']:.0f} to" in summary
