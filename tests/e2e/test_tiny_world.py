"""The whole chain on the tiny world: contracts, files, and the planted truth found again.

The truth is asked of the simulator and of its tables, and compared here by other means than
``cryofuse.products.validation``, whose verdicts are read beside.
"""

import html
import json
import re
from html.parser import HTMLParser

import h5py
import netCDF4
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.spatial import cKDTree
from sklearn.metrics import adjusted_rand_score

from cryofuse.config import load_config
from cryofuse.fusion.features import feature_schema, write_features
from cryofuse.geo import project
from cryofuse.learning.models import build, fit, single_threaded
from cryofuse.learning.skill import select_samples, verdict
from cryofuse.simulate.world import World
from cryofuse.tables import CONTRACTS, check, read_provenance
from cryofuse.units import lwe_to_mass
from tests.conftest import copy_project, snakemake

pytestmark = pytest.mark.e2e

PERIODS = ["2018", "2019", "2020", "2021"]
MONTHS = pd.date_range("2018-10-01", "2021-12-01", freq="MS")
SPLITS = {"random", "leave_mascon_out", "forward", "both"}
TARGETS = {"change", "cumulative"}
MODELS = {"ridge", "varying_density", "forest", "hist_gradient_boosting", "xgboost"}
#: The mascons that hold ice of the tiny world: the selected ones.
SELECTED = {165, 166, 212, 213, 265, 266}
BASELINES = {"zero", "persistence", "climatology", "trend_season", "physics"}
FIGURES = """rate_map amplitude_map coverage filter_costs regime_map skill_map explained_map
coupling_map lead_lag_map lakes_map mascon_series totals sheet_coupling case_study skill_bars
learning_curve
predicted_observed importance calibration regime_selection
rapid_melt early_warning sensitivity""".split()
#: Contract of each folder of Parquet files; single files carry their contract's name.
FOLDERS = {
    "acquire/atl06": "acquire/manifest",
    "altimetry/subset": "altimetry/segments",
    "altimetry/filtered": "altimetry/segments",
    "altimetry/ledger": "altimetry/ledger",
    "altimetry/ledger/subset": "altimetry/ledger",
    "altimetry/nodes": "altimetry/nodes",
    "altimetry/check_pairs": "altimetry/check_pairs",
    "altimetry/node_months": "altimetry/node_months",
    "altimetry/node_months_causal": "altimetry/node_months_causal",
}
#: Contract of files whose name is another's.
NAMES = {"fusion/mascon_months_causal": "fusion/mascon_months"}


def merged(base, over):
    """Merge as an overlay does: mappings are merged, all else is replaced."""
    return {
        **base,
        **{
            key: merged(base[key], value)
            if isinstance(value, dict) and isinstance(base.get(key), dict)
            else value
            for key, value in over.items()
        },
    }


@pytest.fixture(scope="module")
def results(tiny_run):
    return tiny_run / "results" / "demo"


@pytest.fixture(scope="module")
def planted(tiny_run):
    return tiny_run / "resources" / "demo" / "synthetic"


@pytest.fixture(scope="module")
def config(tiny_run):
    """The run's configuration and region."""
    defaults = yaml.safe_load((tiny_run / "config" / "config.yaml").read_text())
    overlay = yaml.safe_load((tiny_run / "tiny.yaml").read_text())
    found, regions = load_config(merged(defaults, overlay), tiny_run / "config" / "regions")
    return found, regions["demo"]


@pytest.fixture(scope="module")
def world(config):
    settings, region = config
    return World(settings.world, region, settings.period, settings.elevation)


@pytest.fixture(scope="module")
def table(results):
    """Return a function: a result table, whatever number of files it lies in."""

    def read(name):
        path = results / name
        files = (
            [path.with_suffix(".parquet")] if not path.is_dir() else sorted(path.glob("*.parq*"))
        )
        # One file at a time: pandas would read a folder's names as columns.
        parts = [pq.ParquetFile(file).read().to_pandas() for file in files]
        return pd.concat(parts, ignore_index=True)

    return read


@pytest.fixture(scope="module")
def truth(planted):
    return {path.stem: pd.read_parquet(path) for path in (planted / "truth").glob("*.parquet")}


@pytest.fixture(scope="module")
def written(planted):
    """What the simulator says it wrote, one row per granule and beam."""
    return pd.concat(
        [pd.read_parquet(planted / "atl06" / p / "file_ledger.parquet") for p in PERIODS],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def metrics(results):
    listed = json.loads((results / "validation.json").read_text())["metrics"]
    assert len({metric["metric"] for metric in listed}) == len(listed)
    return {metric["metric"]: metric for metric in listed}


# ------------------------------------------------------------------ contracts and files


def contract_of(path, results):
    name = path.relative_to(results)
    if name.parts[0] == "features":
        return None
    folder, stem = str(name.parent), str(name.with_suffix(""))
    return CONTRACTS[FOLDERS.get(folder) or NAMES.get(stem, stem)]


def test_every_table_of_every_contract_is_there(results):
    made = {
        contract.name
        for path in results.rglob("*.parquet")
        if (contract := contract_of(path, results))
    }
    assert made == set(CONTRACTS)
    for period in PERIODS:
        for folder in ("acquire/atl06", "altimetry/subset", "altimetry/filtered"):
            assert (results / folder / f"{period}.parquet").is_file()


def test_every_table_keeps_its_contract(results):
    for path in sorted(results.rglob("*.parquet")):
        stored = pq.ParquetFile(path).read()
        contract = contract_of(path, results)
        if contract is None:
            columns = [c for c in stored.column_names if c not in ("region", "year")]
            assert stored.schema.equals(feature_schema(columns))
            continue
        assert ("geometry" in stored.column_names) == contract.geometry, path
        plain = stored.drop_columns(["geometry"]) if contract.geometry else stored
        for i, column in enumerate(plain.schema if contract.geometry else ()):
            if pa.types.is_large_string(column.type):  # the writer of GeoParquet's own text
                plain = plain.set_column(i, column.name, plain[column.name].cast(pa.string()))
        checked = check(plain, contract)
        # As stored, not merely castable.
        assert [(f.name, f.type) for f in plain.schema] == [
            (f.name, f.type) for f in checked.schema
        ], path


def test_every_table_says_where_it_came_from(results, tiny_run):
    digests = {"code": set(), "version": set()}
    for path in sorted(results.rglob("*.parquet")):
        origin = read_provenance(path)
        assert {"version", "code", "config", "rule", "inputs", "source", "citations"} <= set(origin)
        for name in digests:
            digests[name].add(origin[name])
        assert re.fullmatch(r"[0-9a-f]{8,}", origin["config"]), path
        assert origin["source"] == "synthetic" and origin["wildcards"]["region"] == "demo"
        assert origin["inputs"] or origin["rule"].startswith(("simulate", "list")), path
        for name in origin["inputs"]:
            assert (tiny_run / name).exists(), (path, name)
    assert all(len(values) == 1 for values in digests.values()), digests


def test_every_figure_is_drawn_in_both_forms(results):
    made = {path.name for path in (results / "figures").iterdir()}
    assert made == {f"{name}.{form}" for name in FIGURES for form in ("png", "pdf")}
    for name in FIGURES:
        png = (results / "figures" / f"{name}.png").read_bytes()
        pdf = (results / "figures" / f"{name}.pdf").read_bytes()
        assert png.startswith(b"\x89PNG") and pdf.startswith(b"%PDF") and len(pdf) > 5_000, name
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        assert min(width, height) > 400 and len(png) > 30_000, name


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_dashboard_shows_every_number_of_the_product(results, table):
    page = (results / "dashboard.html").read_text()
    embedded = re.search(r'<script type="application/json" id="data">(.*)</script>', page)[1]
    data = json.loads(embedded)
    months = table("product/months")
    for name, rows in data["series"].items():
        shown = sum(value is not None for row in rows for value in row)
        assert shown == months[name].notna().sum() > 0, name


def test_the_summary_holds_the_verdict_and_no_link_outside(results, table, metrics, config):
    page = (results / "summary.html").read_text()
    links = Links()
    links.feed(page)
    assert not [link for link in links.found if "//" in link]
    assert "http" not in page and "url(" not in page
    words = re.sub(r"<[^>]*>", " ", page)
    assert verdict(table("skill/scores")) in html.unescape(words)
    for name in metrics:
        assert f">{name}<" in page
    assert "Synthetic south Greenland" in page
    # The factors by which the world is thinned.
    thinned = config[0].world
    assert thinned.track_step > 1
    assert f"track_step {thinned.track_step}; segment_step {thinned.segment_step}" in page
    assert not re.search(r">\s*(nan|NaN|NaT|None|&lt;NA&gt;)\s*<", page)


def test_validation_states_metric_value_tolerance_and_whether_it_holds(results, metrics, config):
    content = json.loads((results / "validation.json").read_text())
    verdicts = [metric["holds"] for metric in content["metrics"]]
    assert content["holds"] == verdicts.count(True) > 5
    assert content["does_not_hold"] == verdicts.count(False)
    assert (
        content["world"]["track_step"] == config[0].world.track_step
        and content["provenance"]["code"]
    )
    families = {re.match(r"[a-z]+", name).group() for name in metrics}
    assert {"rate", "mascon", "volume", "lag", "regime", "lakes", "skill", "gravity"} <= families
    for name, metric in metrics.items():
        assert {"value", "tolerance", "rule", "holds", "n", "about", "reason"} <= set(metric)
        if metric["value"] is None:
            assert metric["reason"] and metric["holds"] is False, name
            continue
        assert metric["about"] and metric["n"] > 0, name
        if metric["tolerance"] is None:  # a figure to read
            assert metric["holds"] is None, name
            continue
        size, limit = metric["value"], metric["tolerance"]
        held = size >= limit if metric["rule"] == "at least" else abs(size) <= limit
        assert metric["holds"] is held, name


# ------------------------------------------------------------------ reading and filtering


def test_every_granule_written_is_in_the_manifest_and_on_disk(table, written, planted):
    manifest = table("acquire/atl06")
    assert set(manifest["granule"]) == set(written["granule"])
    assert manifest["superseded_by"].isna().all() and manifest["reason"].isna().all()
    on_disk = {path.name for path in planted.rglob("ATL06_*.h5")}
    assert on_disk == set(manifest["granule"])
    stated = manifest["start_time"].dt.strftime("%Y%m%d%H%M%S")
    assert (manifest["granule"].str[6:20] == stated).all()


def test_the_simulators_ledger_says_what_is_in_the_files(written, planted):
    """Three granules opened with h5py alone: what the other tests lean on is itself true."""
    rng = np.random.default_rng(5)
    files = sorted(planted.rglob("ATL06_*.h5"))
    for path in rng.choice(files, 3, replace=False):
        rows = written[written["granule"] == path.name].set_index("beam")
        with h5py.File(path) as file:
            for beam in rows.index:
                group = file.get(f"{beam}/land_ice_segments")
                assert (group is None) == (rows.loc[beam, "missing"] in ("no_group", "no_segments"))
                if group is not None:
                    height = group["h_li"][:]
                    assert height.size == rows.loc[beam, "rows"]
                    assert (height > 1e30).sum() == rows.loc[beam, "fill_rows"]


def test_the_ledger_has_read_every_row_that_was_written(table, written):
    ledger = table("altimetry/ledger")
    read = ledger[ledger["filter"] == "read"].set_index(["granule", "beam"])["rows_in"]
    assert read.index.is_unique
    wrote = written[~written["missing"].isin(["no_group", "no_segments"])]
    wrote = wrote.set_index(["granule", "beam"])["rows"]
    pd.testing.assert_series_equal(
        read.sort_index(), wrote.sort_index(), check_names=False, check_dtype=False
    )


def test_the_ledger_has_a_row_for_every_beam_that_is_missing(table, written):
    ledger = table("altimetry/ledger")
    for planted_as, event in (
        ("no_group", "no_beam"),
        ("no_segments", "no_segments"),
        ("all_fill", "all_fill"),
    ):
        wanted = written[written["missing"] == planted_as]
        assert len(wanted), f"the tiny world plants no {planted_as}"
        found = ledger[ledger["filter"] == event]
        assert set(zip(found["granule"], found["beam"], strict=True)) == set(
            zip(wanted["granule"], wanted["beam"], strict=True)
        )
        assert found["reason"].notna().all()
    assert set(ledger.loc[ledger["stage"] == "subset", "filter"]) <= {
        "read", "outside_region", "no_beam", "no_segments", "all_fill",
    }  # fmt: skip


@pytest.mark.parametrize("period", PERIODS)
def test_rows_before_minus_rows_removed_are_rows_after(results, period):
    ledger = pd.read_parquet(results / "altimetry" / "ledger" / f"{period}.parquet")
    assert (ledger["period"] == period).all()
    counts = {
        stage: pq.ParquetFile(results / "altimetry" / stage / f"{period}.parquet")
        .read(["granule", "beam"])
        .to_pandas()
        .astype(str)
        .value_counts()
        for stage in ("subset", "filtered")
    }
    for (granule, beam), rows in ledger[ledger["rows_in"] > 0].groupby(["granule", "beam"]):
        left = None
        for row in rows.itertuples():
            assert row.rows_removed <= row.rows_in
            # Each step takes up what the step before it has left.
            assert left is None or row.rows_in == left, (granule, beam, row.filter)
            left = row.rows_in - row.rows_removed
        steps = rows[rows["filter"] != "all_fill"]
        subset = steps[steps["stage"] == "subset"]
        inside = subset["rows_in"].iloc[0] - subset["rows_removed"].sum()
        assert inside == counts["subset"].get((granule, beam), 0)
        kept = inside - steps.loc[steps["stage"] == "filter", "rows_removed"].sum()
        assert kept == counts["filtered"].get((granule, beam), 0), (granule, beam)


def test_crossovers_and_repeats_agree_with_the_fits(table, results):
    pairs = pd.concat(
        [pd.read_parquet(path) for path in sorted((results / "altimetry/check_pairs").glob("*"))]
    )
    # The fits that the pairs were held against, computed again from the nodes' table.
    nodes = pd.concat(
        [pd.read_parquet(path) for path in sorted((results / "altimetry/nodes").glob("*"))]
    ).dropna(subset=["rate_m_yr"])
    held = pairs.dropna(subset=["residual_m"]).reset_index(drop=True)
    assert set(held["kind"]) == {"crossover", "repeat"} and len(held) > 100
    tree = cKDTree(nodes[["x_m", "y_m"]])
    near = nodes.iloc[tree.query(held[["x_m", "y_m"]])[1]].reset_index(drop=True)
    times = [
        (held[name] - pd.Timestamp("2000-01-01")) / pd.Timedelta(days=365.2425)
        for name in ("time_first", "time_second")
    ]
    waves = [near["amplitude_m"] * np.cos(2 * np.pi * t - near["phase_rad"]) for t in times]
    change = near["rate_m_yr"] * (times[1] - times[0]) + waves[1] - waves[0]
    same = np.abs(held["dh_m"] - change - held["residual_m"]) < 1e-3
    # At the border of a square the nearest node may be the neighbour's.
    assert same.mean() > 0.9
    summary = table("altimetry/checks").set_index(["kind", "span"])
    for kind in ("crossover", "repeat"):
        mine = held[held["kind"] == kind]["residual_m"]
        row = summary.loc[kind, "all"]
        assert row["n_model"] == len(mine)
        assert row["residual_m"] == pytest.approx(mine.median(), abs=2e-4)
        assert abs(row["residual_m"]) < 0.1


@pytest.mark.parametrize("period", [*PERIODS, "all"])
def test_the_filter_report_adds_up_to_the_files(table, written, results, period):
    report = table("altimetry/filter_report")
    steps = report[report["period"] == period].set_index("filter")
    names = PERIODS if period == "all" else [period]
    stored = {
        stage: sum(
            pq.ParquetFile(results / "altimetry" / stage / f"{name}.parquet").metadata.num_rows
            for name in names
        )
        for stage in ("subset", "filtered")
    }
    wrote = written[written["granule"].str[6:10].isin(names)]
    beams = wrote[~wrote["missing"].isin(["no_group", "no_segments"])]
    assert steps.loc["read", ["rows_in", "beams"]].tolist() == [beams["rows"].sum(), len(beams)]
    assert steps.loc["read", "granules"] == wrote["granule"].nunique()
    inside = steps[steps["stage"] == "filter"]
    assert inside["rows_in"].iloc[0] == stored["subset"]
    assert steps.loc["read", "rows_in"] - steps["rows_removed"].sum() == stored["filtered"]
    kept = 100 * stored["filtered"] / beams["rows"].sum()
    assert inside["kept_percent"].iloc[-1] == pytest.approx(kept)
    for planted_as, event in (("no_group", "no_beam"), ("all_fill", "all_fill")):
        count = (wrote["missing"] == planted_as).sum()
        assert (steps["beams"].get(event, 0)) == count, event
    # Fill is removed by the first filter alone, and the rows that carry it by no other.
    assert inside["rows_alone"].iloc[0] == inside["rows_removed"].iloc[0] > 0


def test_fill_rows_are_removed_by_the_first_filter_alone(table, written):
    """Fills outside the outline are cut before; none inside it stays."""
    ledger = table("altimetry/ledger")
    removed = ledger[ledger["filter"] == "finite_height"].groupby("granule")["rows_removed"].sum()
    outside = ledger[ledger["filter"] == "outside_region"].groupby("granule")["rows_removed"].sum()
    fills = written.groupby("granule")["fill_rows"].sum()
    removed, outside = (
        removed.reindex(fills.index).fillna(0),
        outside.reindex(fills.index).fillna(0),
    )
    assert (removed <= fills).all() and (removed + outside >= fills).all()
    whole = outside == 0
    assert removed[whole].equals(fills[whole].astype(removed.dtype))
    assert removed.sum() > 0.9 * fills.sum()
    segments = table("altimetry/filtered")
    assert segments["height_m"].notna().all() and (segments["height_m"].abs() < 1e4).all()


def test_outliers_that_carry_flag_zero_do_not_survive_the_filters(world, table, written, config):
    """Outliers are planted 20 m and more off.

    Where every segment is kept (the window) its neighbours give each one away. Where one in
    twenty is, the elevation model alone does, within its tolerance.
    """
    settings, _ = config
    segments = table("altimetry/filtered")
    x, y = (segments[name].to_numpy() for name in ("x_m", "y_m"))
    (window,) = settings.elevation.windows
    centre = project(window.longitude, window.latitude, world.crs)
    inside = np.maximum(np.abs(x - centre[0]), np.abs(y - centre[1])) < window.width_m / 2
    voids = segments["dem_m"].isna().to_numpy()
    assert written["outliers"].sum() / written["rows"].sum() > 0.005

    def off(rows):
        part = segments.iloc[rows]
        time = part["time"].to_numpy()
        planted = world.topography(x[rows], y[rows]) + world.elevation_change(
            x[rows], y[rows], time
        )
        return np.abs(part["height_m"].to_numpy() - planted)

    fine = off(np.flatnonzero(inside))
    assert fine.size > 50_000 and fine.max() < 2
    thinned = off(np.flatnonzero(~inside & ~voids)[::10])
    limit = settings.filters.dem_difference_max_m
    assert np.median(thinned) < 0.2 and (thinned > 1.3 * limit).sum() == 0
    assert (thinned > 20).mean() < 0.5 * written["outliers"].sum() / written["rows"].sum()


# ------------------------------------------------------------------ elevation


@pytest.fixture(scope="module")
def nodes(table):
    return table("altimetry/nodes")


def test_rates_of_coarse_nodes_are_the_planted_ones(world, nodes, metrics):
    fitted = nodes[nodes["rate_m_yr"].notna() & nodes["window"].isna()]
    assert len(fitted) > 400
    planted = world.rate(fitted["x_m"].to_numpy(), fitted["y_m"].to_numpy())
    error = fitted["rate_m_yr"].to_numpy() - planted
    assert abs(np.median(error)) < 0.01
    # The rates are told apart, and not all of one size.
    inner = np.abs(error) < np.quantile(np.abs(error), 0.9)
    assert np.ptp(planted) > 0.5
    assert np.corrcoef(planted[inner], fitted["rate_m_yr"].to_numpy()[inner])[0, 1] > 0.9
    assert np.mean(np.abs(error) <= 2 * fitted["rate_sigma_m_yr"]) > 0.8
    assert metrics["rate_bias_coarse"]["value"] == pytest.approx(np.median(error))
    assert metrics["rate_bias_coarse"]["holds"]


def test_annual_cycles_of_coarse_nodes_are_the_planted_ones(world, nodes):
    fitted = nodes[nodes["rate_m_yr"].notna() & nodes["window"].isna()]
    x, y = fitted["x_m"].to_numpy(), fitted["y_m"].to_numpy()
    planted = world.amplitude(x, y) * np.exp(1j * world.phase(x, y))
    found = fitted["amplitude_m"].to_numpy() * np.exp(1j * fitted["phase_rad"].to_numpy())
    assert np.median(np.abs(found - planted)) < 0.05
    strong = np.abs(planted) > np.quantile(np.abs(planted), 0.75)
    turn = np.angle(np.sum(found[strong] * planted[strong].conj()))
    assert abs(turn) < 2 * np.pi / 24, "half a month"


def test_a_node_without_a_fit_says_why_and_one_with_a_fit_does_not(nodes):
    empty = nodes["rate_m_yr"].isna()
    assert empty.any() and not empty.all()
    assert nodes.loc[empty, "reason"].notna().all()
    assert nodes.loc[~empty, "reason"].isna().all()
    assert nodes["node_id"].is_unique
    assert (nodes["window"] == "south").sum() > 100


def test_causal_node_months_hold_nothing_before_a_year_of_data(table, nodes):
    causal = table("altimetry/node_months_causal").merge(nodes[["node_id", "first"]], on="node_id")
    assert len(causal)
    # The month is included to its end.
    held = (causal["month"] + pd.offsets.MonthBegin(1) - causal["first"]) / pd.Timedelta(days=1)
    assert held.min() >= 365


# ------------------------------------------------------------------ mascons


def test_mascons_are_the_31_of_greenland_and_their_ice_is_the_planted(table, truth):
    mascons = table("gravimetry/mascons").set_index("mascon_id")
    planted = truth["mascons"].set_index("mascon_id")
    assert len(mascons) == 31 and set(mascons.index) == set(planted.index)
    ice = planted[planted["ice_area_km2"] > 0].index
    assert len(ice) >= 6
    np.testing.assert_allclose(
        mascons.loc[ice, "ice_area_km2"], planted.loc[ice, "ice_area_km2"], rtol=0.01
    )
    rest = mascons.drop(index=ice)
    assert (rest["ice_area_km2"] < 1e-6).all()
    both = mascons["land_area_km2"] > 0
    np.testing.assert_allclose(
        mascons.loc[both, "land_area_km2"],
        planted.reindex(mascons.index[both])["land_area_km2"],
        rtol=0.01,
    )


def test_mass_is_the_planted_and_missing_months_are_nulls_never_zeros(table, truth, config):
    mass = table("gravimetry/mass")
    settings, _ = config
    count = mass.groupby("month")["lwe_cm"].agg(["size", "count"])
    first, last = pd.Timestamp(settings.world.mass_start), pd.Timestamp(MONTHS[-1])
    assert list(count.index) == list(pd.date_range(first, last, freq="MS")), "no month left out"
    assert (count["size"] == 31).all() and set(count["count"]) <= {0, 31}
    missing = set(count.index[count["count"] == 0].strftime("%Y-%m"))
    gap = set(pd.date_range("2017-07-01", "2018-05-01", freq="MS").strftime("%Y-%m"))
    assert gap | {"2018-08", "2018-09", "2002-06", "2011-01", "2016-09"} <= missing
    assert "2018-06" not in missing and len(missing) < 40
    values = ["lwe_cm", "lwe_sigma_cm", "mass_gt", "mass_sigma_gt", "mass_change_gt"]
    absent = mass["month"].dt.strftime("%Y-%m").isin(missing)
    assert mass.loc[absent, values].isna().all().all()
    after = mass.loc[mass["month"] == "2018-10-01", "mass_change_gt"]
    assert after.isna().all(), "a change is null next to a gap"
    both = mass.merge(truth["mascon_months"], on=["mascon_id", "month"], suffixes=("", "_true"))
    assert len(both) == 31 * len(MONTHS)
    # The record's own baseline (2004–2009) is taken off, mascon by mascon.
    shift = (both["lwe_cm"] - both["lwe_cm_true"]).groupby(both["mascon_id"])
    assert shift.std().max() < 1e-3
    land = table("gravimetry/mascons").set_index("mascon_id")["land_area_km2"]
    np.testing.assert_allclose(
        mass["mass_gt"],
        lwe_to_mass(mass["lwe_cm"].to_numpy(), land.reindex(mass["mascon_id"]).to_numpy()),
        atol=1e-9,
    )


@pytest.fixture(scope="module")
def months(table, truth):
    """Months of mascons with ice, found and planted side by side."""
    ice = truth["mascons"].loc[truth["mascons"]["ice_area_km2"] > 0, "mascon_id"]
    found = table("fusion/mascon_months")
    both = found.merge(truth["mascon_months"], on=["mascon_id", "month"], suffixes=("", "_true"))
    return both[both["mascon_id"].isin(ice)]


def test_elevation_change_of_mascons_is_the_planted(months, truth, metrics):
    known = months.dropna(subset=["dh_m"])
    assert known["mascon_id"].nunique() >= 6 and len(known) > 200
    error = known["dh_m"] - known["dh_m_true"]
    ice = truth["mascons"].set_index("mascon_id")["ice_area_km2"].reindex(known["mascon_id"])
    assert abs(np.average(error, weights=ice)) < 0.01
    assert np.sqrt(np.average(error**2, weights=ice)) < 0.10
    # Better than to say that nothing changes.
    still = np.sqrt(np.average(known["dh_m_true"] ** 2, weights=ice))
    assert np.sqrt(np.average(error**2, weights=ice)) < 0.5 * still
    assert (np.abs(error) <= 2 * known["dh_sigma_m"]).mean() > 0.8
    for name in (
        "mascon_dh_bias",
        "mascon_dh_rmse",
        "mascon_dh_rmse_share",
        "mascon_dh_within_1_sigma",
        "mascon_dh_within_2_sigma",
        "volume_within_2_sigma",
    ):
        assert metrics[name]["holds"], metrics[name]


def test_every_mascon_month_is_there_and_a_null_says_why(table):
    for name in ("fusion/mascon_months", "fusion/mascon_months_causal"):
        found = table(name)
        assert len(found) == 31 * len(MONTHS)
        assert set(found["month"]) == set(MONTHS)
        empty = found["dh_m"].isna()
        assert found.loc[empty, "reason"].notna().all()
        assert not (found.loc[~empty, "dh_sigma_m"] <= 0).any()


def test_the_causal_table_is_null_before_a_year_is_held(table):
    causal = table("fusion/mascon_months_causal")
    known = causal[causal["dh_m"].notna()]
    assert known["mascon_id"].nunique() >= 6
    # The first segments are of October 2018: a year is held at the end of September 2019.
    assert known["month"].min() >= pd.Timestamp("2019-09-01")
    early = causal[(causal["month"] < "2019-09-01") & causal["n_nodes"].gt(0)]
    assert early["rate_m_yr"].isna().all() and early["amplitude_m"].isna().all()


# ------------------------------------------------------------------ features


@pytest.fixture(scope="module")
def features(results):
    """Features as anyone reads them."""
    return pd.read_parquet(results / "features")


def test_partitions_are_read_by_plain_pandas(results, features):
    assert len(features) == len(SELECTED) * len(MONTHS)
    assert set(features["mascon_id"]) == SELECTED
    assert not features.duplicated(["mascon_id", "month"]).any()
    assert set(features["region"].astype(str)) == {"demo"}
    assert (features["year"].astype(int) == features["month"].dt.year).all()
    one = pd.read_parquet(results / "features", filters=[("year", "==", 2020)])
    assert len(one) == len(SELECTED) * 12
    assert {p.parent.name for p in (results / "features" / "region=demo").rglob("*.parquet")} == {
        f"year={year}" for year in (2018, 2019, 2020, 2021)
    }


def test_features_come_from_their_month_and_before(features, table):
    """Each lag is the value of that many months ago; the value is the causal table's."""
    grid = features.pivot(index="month", columns="mascon_id")  # noqa: PD010
    causal = table("fusion/mascon_months_causal")
    causal = causal[causal["mascon_id"].isin(SELECTED)].pivot(index="month", columns="mascon_id")  # noqa: PD010
    seen = 0
    for column in features.columns:
        name, found, lag = column.partition("_lag")
        if not found:
            continue
        expected = grid[name].shift(int(lag))
        now = grid[column]
        assert not (now.notna() & expected.isna()).any().any(), column
        np.testing.assert_allclose(now, expected.where(now.notna()), err_msg=column)
        seen += int(now.notna().sum().sum())
    assert seen > 1000
    shared = grid["dh_m"].notna()
    assert shared.sum().sum() > 100
    np.testing.assert_allclose(grid["dh_m"].where(shared), causal["dh_m"].where(shared))
    known = grid["dh_change_1m_m"].notna()
    step = (grid["dh_m"] - grid["dh_m"].shift(1)).where(known)
    # A step of the causal series is taken within one fit, or from month to month.
    assert np.isfinite(step.to_numpy()[known.to_numpy()]).all()


def test_features_do_not_change_when_the_months_after_are_taken_away(results, table, config):
    """Built again without the last year, the months that stay are the same."""
    from cryofuse.fusion.features import build_features, summarise_nodes
    from cryofuse.tables import read_geo_table

    settings, _ = config
    mascons = read_geo_table(results / "gravimetry" / "mascons.parquet")
    static, reasons = summarise_nodes(mascons, table("altimetry/nodes"), settings.features, None)
    causal = table("fusion/mascon_months_causal")
    parts = [
        build_features(rows, mascons, static, settings.features, reasons)[0]
        for rows in (causal, causal[causal["month"] < "2021-01-01"])
    ]
    whole, short = (part.sort_values(["mascon_id", "month"]) for part in parts)
    whole = whole[whole["month"] < "2021-01-01"].reset_index(drop=True)
    dynamic = [name for name in short if name.startswith("dh_")] + ["elevation_m", "slope"]
    assert short["dh_m"].notna().sum() > 30
    pd.testing.assert_frame_equal(whole[dynamic], short[dynamic].reset_index(drop=True))


def test_the_data_card_counts_what_is_in_the_files(results, features):
    card = json.loads((results / "features_card.json").read_text())
    assert card["rows"] == len(features)
    assert {column["name"]: column["null"] for column in card["columns"]} == {
        name: features[name].isna().sum() for name in features if name not in ("region", "year")
    }
    assert all(column["reason"] for column in card["columns"] if column["null"])
    granules = sum(card["products"]["altimetry"]["by release"].values())
    assert granules == card["products"]["altimetry"]["granules"] > 0
    assert card["products"]["gravimetry"]["release"] == "synthetic"
    assert f"{len(features)} rows" in (results / "features_card.md").read_text()


def test_the_target_is_the_planted_change_of_the_month(features, truth):
    planted = truth["mascon_months"].sort_values(["mascon_id", "month"])
    step = planted.groupby("mascon_id")["lwe_cm"].diff()
    both = features.merge(
        planted.assign(step=step)[["mascon_id", "month", "step"]], on=["mascon_id", "month"]
    )
    known = both["target_change_cm"].notna()
    assert known.sum() == len(SELECTED) * (len(MONTHS) - 1)
    np.testing.assert_allclose(both["target_change_cm"][known], both["step"][known], atol=1e-3)


def test_every_feature_that_is_null_somewhere_is_in_the_ledger(features, table):
    ledger = table("features_ledger").set_index("feature")
    for name in ledger.index:
        assert features[name].isna().sum() == ledger.loc[name, "n_null"], name
    assert ledger.loc[ledger["n_null"] > 0, "reason"].notna().all()
    targets = [name for name in features if name.startswith("target_")]
    null = {name for name in features if features[name].isna().any()} - set(targets)
    assert null <= set(ledger.index)
    assert ledger.loc["marine_margin_fraction", "n_null"] == len(features), "no bed is named"


# ------------------------------------------------------------------ regimes, skill, coupling


def test_regimes_are_the_planted_ones(world, table, metrics):
    found = table("regimes/nodes").dropna(subset=["regime"])
    planted = world.regime(found["x_m"].to_numpy(), found["y_m"].to_numpy())
    agreement = adjusted_rand_score(planted, found["regime"].astype(int))
    assert agreement >= 0.7
    assert metrics["regime_adjusted_rand"]["value"] == pytest.approx(agreement)
    centroids = table("regimes/centroids").query("level == 'nodes'")
    assert len(centroids) >= 3 and centroids["rate_m_yr"].is_monotonic_increasing
    assert centroids["n_nodes"].sum() == len(found)
    stability = table("regimes/stability").query("level == 'nodes'")
    assert stability["chosen"].sum() == 1
    assert stability.loc[stability["chosen"], "k"].item() == len(centroids)


def test_every_split_model_and_baseline_is_scored_and_a_null_says_why(table):
    scores = table("skill/scores")
    pooled = scores[scores["scope"] == "pooled"]
    for split in SPLITS:
        for target in TARGETS:
            rows = pooled[(pooled["split"] == split) & (pooled["target"] == target)]
            for kind, wanted in (("model", MODELS), ("baseline", BASELINES)):
                part = rows[rows["kind"] == kind]
                assert set(part["model"]) == wanted, (split, target, kind)
                assert set(part.loc[part["score"] == "r2", "model"]) == wanted
            assert (rows["kind"] == "control").any()
    assert set(scores["split"]) == SPLITS and set(scores["target"]) == TARGETS
    assert scores.loc[scores["value"].isna(), "reason"].notna().all()
    no_interval = scores["value"].notna() & scores["lower"].isna() & (scores["scope"] == "pooled")
    explained = scores["reason"].notna() | scores["score"].isin(["coverage", "interval_width_cm"])
    assert (explained | scores["score"].str.contains("jackknife"))[no_interval].all()


def test_predictions_are_out_of_fold_and_give_the_scores(table, features):
    predictions, scores = table("skill/predictions"), table("skill/scores")
    columns = {"change": "target_change_cm", "cumulative": "target_cumulative_cm"}
    for target, column in columns.items():
        rows = predictions[predictions["target"] == target]
        own = features[["mascon_id", "month", column]]
        both = rows.merge(own, on=["mascon_id", "month"], how="left")
        np.testing.assert_allclose(both["observed_cm"], both[column])
    compared = 0
    keys = ["model", "split", "target"]
    pooled = scores[(scores["scope"] == "pooled") & (scores["score"] == "rmse_cm")].set_index(keys)
    for key, rows in predictions.groupby(keys):
        error = rows["predicted_cm"] - rows["observed_cm"]
        assert pooled.loc[key, "value"] == pytest.approx(np.sqrt((error**2).mean())), key
        compared += 1
    # and every model's blind twin, and the two controls of noise
    assert compared == (len(MODELS | BASELINES) + len(MODELS) + 2) * 8


def test_a_split_in_time_predicts_only_after_its_embargo(table, config):
    settings, _ = config
    predictions = table("skill/predictions")
    late = predictions[predictions["split"].isin(["forward", "both"])]
    assert len(late)
    shortest = settings.skill.min_train_months + settings.skill.embargo_months
    # Features begin with the causal table, a year after the first month.
    assert late["month"].min() >= MONTHS[0] + pd.DateOffset(months=shortest)


# ------------------------------------------------------------------ saved models


def test_a_saved_model_predicts_what_refitting_gives(results, table, features, config):
    predicted, settings = table("predicted/mass_change"), config[0].skill
    (name,) = predicted["model"].unique()
    card = json.loads((results / "models" / "change" / f"{name}.json").read_text())
    assert {path.stem for path in (results / "models").glob("*/*.skops")} == MODELS
    names = [feature["name"] for feature in card["features"]]
    rows = features[features["dh_m"].notna()].sort_values(["month", "mascon_id"])
    train = rows[rows["target_change_cm"].notna()]
    assert len(train) == card["n_samples"] > 100
    with single_threaded():
        model = build(name, card["parameters"], settings.trees, settings.seed, names)
        x = np.ascontiguousarray(train[names])
        keys = select_samples(features, "change", settings).keys
        fit(model, x, train["target_change_cm"].to_numpy(), keys)
        expected = model.predict(np.ascontiguousarray(rows[names]))
    got = predicted[predicted["predicted_cm"].notna()].sort_values(["month", "mascon_id"])
    assert np.array_equal(got["predicted_cm"], expected.astype(float))
    assert (predicted["reason"].isna() == predicted["predicted_cm"].notna()).all()
    keys = got.set_index(["mascon_id", "month"]).index
    known = train.set_index(["mascon_id", "month"]).index
    assert (got["trained_on"] == keys.isin(known)).all()
    both = table("skill/scores").merge(pd.DataFrame(card["scores"]), on=["split", "score"])
    both = both[(both["model"] == name) & (both["scope"] == "pooled")]
    both = both[both["target"] == "change"]
    assert len(both) == len(card["scores"]) >= 6
    assert np.allclose(both["value_x"], both["value_y"].astype(float), equal_nan=True)


def test_a_saved_model_is_applied_to_another_region_without_gravimetry(
    results, table, features, tmp_path
):
    folder = copy_project(tmp_path)
    (folder / "config" / "regions" / "demo.yaml").rename(
        folder / "config" / "regions" / "other.yaml"
    )
    settings = yaml.safe_load((folder / "tiny.yaml").read_text())
    settings["regions"] = ["other"]
    settings["region_settings"] = {"other": settings["region_settings"]["demo"]}
    own = table("predicted/mass_change")
    name = own["model"].iloc[0]
    settings["predict"] = {"models": str(results / "models"), "model": name}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    blind = features.drop(columns=["region", "year"], errors="ignore").copy()
    blind.loc[:, [name for name in blind if name.startswith("target_")]] = np.nan
    write_features(blind, folder / "results" / "other" / "features", "other", {})
    snakemake(folder, "predict", "--allowed-rules", "predict_mass", "predict")
    path = folder / "results" / "other" / "predicted" / "mass_change.parquet"
    found = pd.read_parquet(path)
    seen = found["predicted_cm"].notna()
    assert seen.sum() == features["dh_m"].notna().sum() and not found["trained_on"].any()
    origin = read_provenance(path)
    assert "trained with region demo, applied with region other" in origin["warnings"]
    assert origin["model"]["model"] == name
    assert found["predicted_cm"].equals(own["predicted_cm"])


def test_coupling_covers_every_mascon_treatment_and_lag(table, config):
    coupling = table("coupling/mascons")
    settings, _ = config
    lags = settings.coupling.lags_months
    assert len(coupling) == len(SELECTED) * 3 * (2 * lags + 1)
    assert coupling.loc[coupling["r"].isna(), "reason"].notna().all()
    known = coupling[coupling["r"].notna()]
    assert set(known["mascon_id"]) == SELECTED
    best = known[known["best"]]
    assert (best.groupby(["mascon_id", "treatment"]).size() == 1).all()
    groups = known.groupby(["mascon_id", "treatment"])["r"]
    chosen = best.set_index(["mascon_id", "treatment"])["r"].sort_index()
    # The largest positive one, unless a negative one is clearly larger.
    assert (chosen[chosen > 0] == groups.max()[chosen > 0]).all()
    assert (chosen[chosen < 0] == groups.min()[chosen < 0]).all()
    assert (-groups.min()[chosen < 0] > groups.max()[chosen < 0]).all()
    assert (chosen > 0).sum() > len(chosen) / 2
    assert (known["n_effective"] <= known["n"] + 1e-9).all()


def test_a_lag_that_no_mascon_can_show_is_said_so(metrics):
    """Two of mass's noise to one of signal: whether a lag can be compared is told, not guessed."""
    told = [metric for name, metric in metrics.items() if name.startswith("lag")]
    assert told
    for metric in told:
        assert metric["value"] is not None or "signal-to-noise" in metric["reason"]


def test_explained_variance_covers_every_mascon_and_says_why_not(table):
    explained = table("explained/mascons")
    assert set(explained["target"]) == TARGETS
    assert explained["explained_total"].notna().sum() >= 10
    assert (explained["scope"] == "region").sum() == len(TARGETS)
    assert explained.loc[explained["explained_total"].isna(), "reason"].notna().all()
    importance = table("explained/importance")
    assert {"permutation", "shap"} <= set(importance["method"])
    assert importance.loc[importance["importance"].isna(), "reason"].notna().all()


# ------------------------------------------------------------------ the product


def test_the_product_says_what_the_held_out_predictions_say(results, table):
    months, land = table("product/months"), table("gravimetry/mascons").set_index("mascon_id")
    predictions = table("skill/predictions")
    told = read_provenance(results / "product" / "months.parquet")["models"]
    for target, column in (("change", "change"), ("cumulative", "mass")):
        rows = predictions[
            (predictions["model"] == told[target]["model"])
            & (predictions["split"] == "leave_mascon_out")
            & (predictions["target"] == target)
        ]
        both = rows.merge(months, on=["mascon_id", "month"])
        assert len(both) == len(rows) > 50
        cm_to_gt = land["land_area_km2"].reindex(both["mascon_id"]).to_numpy() * 1e-5
        for cm, gt in (("predicted_cm", ""), ("lower_cm", "_lower"), ("upper_cm", "_upper")):
            np.testing.assert_allclose(both[f"predicted_{column}{gt}_gt"], both[cm] * cm_to_gt)
    held = months.sort_values(["mascon_id", "month"])
    with netCDF4.Dataset(results / "product" / "mass_change.nc") as file:
        assert "SYNTHETIC" in file.summary and list(file["mascon_id"][:]) == sorted(SELECTED)
        found = file["predicted_mass"][:].filled(np.nan).ravel()
    np.testing.assert_array_equal(found, held["predicted_mass_gt"])
    assert (results / "product" / "mass_change.gpkg").read_bytes().startswith(b"SQLite format 3")


# ------------------------------------------------------------------ lakes and applications


def test_the_planted_lake_is_found_or_the_tracks_do_not_cross_it(table, nodes, truth, metrics):
    (lake,) = truth["lakes"].itertuples()
    fitted = nodes[nodes["rate_m_yr"].notna()]
    inside = np.hypot(fitted["x_m"] - lake.x_m, fitted["y_m"] - lake.y_m) <= lake.radius_m
    found = table("hydrology/lakes")
    candidates = found[found["status"] == "candidate"]
    if inside.sum() < 3:
        reason = metrics["lakes"]["reason"]
        assert "cross no planted lake" in reason and candidates.empty
        return
    apart = np.hypot(candidates["x_m"] - lake.x_m, candidates["y_m"] - lake.y_m)
    assert (apart <= lake.radius_m).sum() == 1
    own = candidates[apart <= lake.radius_m].iloc[0]
    # Where tracks cross a part of it, the part is outlined.
    assert lake.area_km2 / 5 < own["area_km2"] < lake.area_km2 * 2
    assert lake.volume_range_km3 / 5 < own["volume_range_km3"] < lake.volume_range_km3 * 2
    events = table("hydrology/lake_events")
    drains = events[(events["lake_id"] == own["lake_id"]) & (events["kind"] == "drain")]
    largest = drains.loc[drains["volume_km3"].idxmin()]
    slack = pd.Timedelta(days=91)
    assert largest["start"] - slack <= lake.drain_start <= largest["end"] + slack
    assert metrics["lakes_found"]["value"] == 1.0 and metrics["lakes_false"]["value"] == 0.0


def test_candidates_are_compared_with_the_inventory_of_the_world(table, truth, planted):
    """Four outcomes, as the truth and the places searched have them."""
    known = pd.read_csv(planted / "inventory.csv")
    assert known["kind"].tolist() == ["Active", "Stable", "Active"]
    x, y = project(known["longitude"].to_numpy(), known["latitude"].to_numpy(), "EPSG:3413")
    searched = table("hydrology/searched_nodes")
    near = [bool((np.hypot(searched["x_m"] - a, searched["y_m"] - b) < 1500).any())
            for a, b in zip(x, y, strict=True)]  # fmt: skip
    lakes, found = truth["lakes"], table("hydrology/lakes")
    found = found[found["status"] == "candidate"]
    of_lake = [
        found.loc[np.hypot(found["x_m"] - lake.x_m, found["y_m"] - lake.y_m) <= lake.radius_m]
        for lake in lakes.itertuples()
    ]
    hits = pd.concat(of_lake)["lake_id"]
    expected = ["hit" if len(hits) else "miss" if near[0] else "not_searched"]
    expected += ["miss" if near[1] else "not_searched", "not_searched"]
    matches = table("hydrology/inventory_matches")
    rows = matches[matches["inventory_row"].notna()]
    assert rows["inventory_name"].tolist() == known["name"].tolist()
    assert rows["outcome"].tolist() == expected
    assert rows["candidate_id"].dropna().tolist() == hits.tolist()
    new = matches[matches["outcome"] == "new"]["candidate_id"]
    assert set(new) == set(found["lake_id"]) - set(hits)
    assert len(rows) + len(new) == len(matches)


def test_totals_are_the_sums_of_the_selected_mascons(table, metrics):
    mascons, mass, totals = (
        table(name) for name in ("gravimetry/mascons", "gravimetry/mass", "applications/totals")
    )
    chosen = mascons.loc[mascons["selected"], "mascon_id"]
    assert set(chosen) == SELECTED
    own = mass[mass["mascon_id"].isin(chosen)].groupby("month")["mass_gt"]
    whole = own.sum(min_count=len(chosen))
    gravity = totals[totals["source"] == "gravity"].set_index("month")["mass_gt"]
    pd.testing.assert_series_equal(gravity.sort_index(), whole, check_names=False)
    assert gravity.isna().any(), "gaps are nulls"
    assert metrics["gravity_trend_error"]["holds"]


def test_sea_level_rises_by_what_the_ice_loses(table):
    trends = table("applications/sea_level")
    assert trends.loc[trends["trend_gt_yr"].isna(), "reason"].notna().all()
    known = trends.dropna(subset=["trend_gt_yr"])
    assert "gravity" in set(known["source"])
    np.testing.assert_allclose(-known["trend_gt_yr"] / known["sea_level_mm_yr"], 361.8, rtol=0.005)


def test_the_case_study_covers_its_years_and_says_what_it_cannot(table):
    study = table("applications/case_study")
    assert set(study["year"]) == {2019, 2020, 2021}
    sheet = study[study["scope"] == "sheet"]
    assert len(sheet) == 3 and sheet["observed_gt"].notna().all()
    assert study.loc[study["predicted_gt"].isna(), "reason"].notna().all()
