"""No bit of a feature at or before a month moves by what is measured after it.

From filtered segments through the node fits, the fusion and the features, with segments after
the month moved wildly, taken away and added, with none after it, and with a period that ends
with it.
"""

import importlib.util
import logging
from functools import cache
from types import SimpleNamespace

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cryofuse.atl06.tiles import write_by_tile
from cryofuse.calendar import TIME_DTYPE, add_months, month_middle, month_range, year_fraction
from cryofuse.config import (
    ElevationSettings,
    FeatureSettings,
    FusionSettings,
    PeriodSettings,
    RegionSettings,
)
from cryofuse.elevation import scatter
from cryofuse.elevation.tiles import fit_tile
from cryofuse.fusion import build_features, feature_columns, fuse_causal, fuse_retrospective
from cryofuse.fusion.aggregate import Frame
from cryofuse.fusion.estimators import Models, smooth_gaussian
from cryofuse.fusion.features import read_features, summarise_nodes
from cryofuse.geo import list_tiles, load_outline, project, tile_name, unproject
from cryofuse.mascons.blocks import degree_box
from cryofuse.tables import (
    MANIFEST,
    MASCON_MONTHS,
    MASCONS,
    MASS,
    SEGMENTS,
    check,
    from_pandas,
    write_geo_table,
    write_table,
)
from tests.conftest import ROOT

TILE_M = 30_000.0
REGION = RegionSettings.model_validate(
    {
        "title": "test",
        "crs": "EPSG:3413",
        "outline": {"west": -45.6, "south": 69.85, "east": -44.4, "north": 70.15},
    }
)
ELEVATION = ElevationSettings.model_validate(
    {
        "node_spacing_m": 5000,
        "search_radius_m": 3500,
        "tile_m": TILE_M,
        "max_segments_per_node": 80,
        "checks": {"max_repeats_per_km2": None},
    }
)
FUSION = FusionSettings(correlation_length_m=5000, elevation_band_m=20)
FIRST, LAST = "2018-10", "2021-08"
MONTHS = month_range(FIRST, LAST)
#: In the first months with a model, in a year and a half of models, near the end.
AFTER = ("2020-02", "2020-08", "2021-05")
X0, Y0 = (float(value) for value in project(-45, 70, "EPSG:3413"))
IDS = np.array([4, 7, 9], dtype=np.int32)
ESTIMATORS = ("regression", "mean", "hypsometric")
SCALES = ("mascon", "gaussian_300km")
#: The squares of a tile are cut by how many segments it has over all years.
SQUARE_ROWS = 4000


def mascons():
    return geopandas.GeoDataFrame(
        {
            "mascon_id": IDS,
            "selected": True,
            "area_km2": 4000.0,
            "land_area_km2": [700.0, 600.0, 800.0],
            "ice_area_km2": [500.0, 500.0, 550.0],
            "ice_fraction": [0.71, 0.83, 0.69],
            "latitude": 70.0,
            "longitude": [-45.4, -45.0, -44.6],
        },
        geometry=[degree_box(*box) for box in zip(
            (-46, -45.2, -44.8), (69,) * 3, (-45.2, -44.8, -44), (71,) * 3, strict=True
        )],
        crs="EPSG:4326",
    )  # fmt: skip


def mass():
    rng = np.random.default_rng(5)
    size = IDS.size * MONTHS.size
    columns = {name: rng.normal(size=size) ** 2 for name in MASS.columns if name.endswith("_gt")}
    return pd.DataFrame(
        {
            "mascon_id": np.repeat(IDS, MONTHS.size),
            "month": np.tile(MONTHS, IDS.size),
            "lwe_cm": rng.normal(size=size),
            "lwe_sigma_cm": 1.0,
            **columns,
        }
    )


def make_segments(seed=1):
    """Repeats of crossing tracks over relief, with missed passes, clouds and outliers."""
    rng = np.random.default_rng(seed)
    parts = []
    for track in range(12):
        across = 4500.0 * (track % 6 - 2.5)
        for cycle in range(1, 13):
            if rng.random() < 0.15:
                continue
            along = np.arange(-27e3, 27e3, 150.0)
            along = along[np.abs(along - rng.uniform(-27e3, 27e3)) > rng.uniform(0, 4e3)]
            line = np.repeat([-45.0, 45.0], along.size) + rng.normal(0, 10)
            along = np.tile(along, 2) + rng.uniform(0, 20, 2 * along.size)
            u, v = (along, across + line) if track < 6 else (across * 1.6 + line, along)
            year = 18.79 + (cycle - 1) * 91 / 365.2425 + track * 0.02
            height = 900 + 0.012 * u + 0.004 * v + 3 * np.sin(u / 3000) * np.cos(v / 4000)
            height += (-0.6 + u / 60e3) * (year - 20) + 0.4 * np.cos(2 * np.pi * year - 1 - v / 3e4)
            height += rng.normal(0, 0.05, u.size) + rng.normal(0, 0.04)
            height += (rng.random(u.size) < 0.02) * rng.normal(0, 40, u.size)
            # A cloud lifts a stretch of one pass in five.
            lifted = np.abs(along - rng.uniform(-27e3, 27e3)) < 2500
            height += 30.0 * lifted * (rng.random() < 0.2)
            parts.append(
                pd.DataFrame(
                    {
                        "x_m": X0 + u,
                        "y_m": Y0 + v,
                        "height_m": height,
                        "year": year + along / 7000 / 86400 / 365,
                        "rgt": track + 1,
                        "cycle": cycle,
                        "beam": np.repeat(["gt1l", "gt1r"], along.size // 2),
                        "segment_id": np.round(along / 20).astype(np.int32),
                    }
                )
            )
    frame = pd.concat(parts, ignore_index=True)
    year = frame.pop("year").to_numpy()
    time = np.datetime64("2000-01-01", "us") + (year * 365.2425 * 86_400e6).astype("m8[us]")
    return frame.assign(time=time.astype(TIME_DTYPE), height_sigma_m=0.05, slope_along=0.01)


def perturb(frame, after, how):
    """Return the segments with others after the month; those up to its end are as they were."""
    rng = np.random.default_rng(8)
    late = (frame["time"] >= add_months(np.datetime64(after), 1)[()]).to_numpy()
    assert 0.05 < late.mean() < 0.8
    if how == "none":
        return frame[~late]
    if how == "moved":
        moved = frame.copy()
        moved["height_m"] += late * rng.normal(0, 30, len(frame))
        moved["x_m"] += late * rng.uniform(-300, 300, len(frame))
        return moved
    kept = frame[~late | (rng.random(len(frame)) < 0.6)]
    new = frame[late].sample(frac=0.7, random_state=3).assign(rgt=500)
    new = new.assign(height_m=new["height_m"] - 200, y_m=new["y_m"] + 1500)
    return pd.concat([new, kept], ignore_index=True)


def write_segments(frame, folder):
    """Filtered segments, a file a year, as the workflow writes them."""
    longitude, latitude = unproject(frame["x_m"].to_numpy(), frame["y_m"].to_numpy(), REGION.crs)
    frame = frame.assign(
        latitude=latitude,
        longitude=longitude,
        granule="made_here",
        tile=[tile_name(x, y, TILE_M) for x, y in zip(frame["x_m"], frame["y_m"], strict=True)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for year, mine in frame.groupby(frame["time"].dt.year):
        columns = {}
        for name, column in SEGMENTS.columns.items():
            if name not in mine:
                columns[name] = pa.nulls(len(mine), column.kind)
                continue
            text = pa.types.is_dictionary(column.kind)
            values = mine[name].to_list() if text else mine[name].to_numpy()
            columns[name] = pa.array(values, pa.string() if text else None).cast(column.kind)
        paths.append(folder / f"{year}.parquet")
        write_by_tile([pa.table(columns)], paths[-1], TILE_M)
    return paths


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Node tables of the world and of the world with other segments after a month."""
    tiles = list_tiles(load_outline(REGION), TILE_M)
    assert len(tiles) >= 4
    plain = make_segments()
    folder = tmp_path_factory.mktemp("causality")

    @cache
    def run(after=None, how=None):
        short = how == "period"
        frame = perturb(plain, after, how) if how and not short else plain
        paths = write_segments(frame, folder / f"{after}-{how}")
        period = PeriodSettings(start=FIRST, end=after if short else LAST)
        patch = pytest.MonkeyPatch()
        with patch.context() as context:
            context.setattr(scatter, "SQUARE_ROWS", SQUARE_ROWS)
            results = [fit_tile(paths, tile, REGION, ELEVATION, FUSION, period) for tile in tiles]
        nodes = pd.concat([result.fits for result in results], ignore_index=True)
        return (
            nodes,
            [result.months.to_pandas() for result in results],
            [result.causal.to_pandas() for result in results],
            month_range(period.start, period.end),
        )

    return run


def features(tables, estimator, scale, step, *, causal=True):
    nodes, node_months, vintages, months = tables
    settings = FUSION.model_copy(update={"estimator": estimator, "scale": scale})
    if causal:
        table = fuse_causal(mascons(), mass(), nodes, vintages, months, settings)
    else:
        reference = np.datetime64("2020-01-01", "us")
        table = fuse_retrospective(
            mascons(), mass(), nodes, node_months, months, reference, settings
        )
    assert check(from_pandas(table), MASCON_MONTHS).num_rows == IDS.size * months.size
    dynamic = ["dh_m", "dh_change", "dh_fraction_thinning", "dh_spread_m", "sampled_fraction"]
    chosen = FeatureSettings(step=step, lagged=dynamic)
    static, reasons = summarise_nodes(mascons(), nodes, chosen)
    return build_features(table, mascons(), static, chosen, reasons)[0]


def up_to(table, after, step):
    """Return the features known at the end of a month, and their bits."""
    last = add_months(table["month"].to_numpy(), 2 if step == "season" else 0)
    early = table[last <= np.datetime64(after, "us")].reset_index(drop=True)
    early = early[feature_columns(table)]
    return early, early.to_numpy(dtype=np.float64).tobytes()


@pytest.mark.parametrize("step", ["month", "season"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_bit_of_a_feature_knows_a_later_segment(fitted, estimator, scale, step):
    plain = features(fitted(), estimator, scale, step)
    for after in AFTER:
        early, bits = up_to(plain, after, step)
        assert early["dh_m"].notna().sum() >= IDS.size * (1 if step == "season" else 2)
        assert early[["elevation_m", "slope", "dh_cycle_amplitude_m"]].notna().any().all()
        for how in ("moved", "mixed", "none", "period"):
            other = features(fitted(after, how), estimator, scale, step)
            again, other_bits = up_to(other, after, step)
            pd.testing.assert_frame_equal(again, early, check_exact=True, obj=f"{after} {how}")
            assert other_bits == bits, (after, how)
            if how in ("moved", "mixed"):
                assert not plain["dh_m"].equals(other["dh_m"]), "nothing was disturbed"


@pytest.mark.parametrize("how", ["moved", "mixed", "none"])
def test_the_retrospective_table_does_know(fitted, how):
    """So the test above can fail: the same features of the fits to the whole record move."""
    for after in AFTER:
        early, bits = up_to(features(fitted(), *("regression", "mascon", "month"), causal=False),
                            after, "month")  # fmt: skip
        other = features(fitted(after, how), "regression", "mascon", "month", causal=False)
        again, other_bits = up_to(other, after, "month")
        assert other_bits != bits
        for name in ("dh_m", "dh_rate_m_yr", "dh_interannual_m", "elevation_m", "slope"):
            assert (early[name].to_numpy() != again[name].to_numpy()).any(), name


def test_smoothing_rounds_a_month_alike_however_many_there_are():
    """A matrix product of BLAS does not: it takes the columns at an end another way."""
    rng = np.random.default_rng(4)
    ids = np.arange(31)
    patches = np.sort(np.concatenate([ids, rng.integers(0, 31, 60)]))
    place = rng.uniform(0, 1e6, (patches.size, 2))
    area = rng.uniform(1e3, 1e5, patches.size)
    names = ["dh_m", "dh_mean_m", "model_m", "rate_m_yr", "cycle_cos", "cycle_sin", "dh_sigma_m"]
    values = {name: rng.normal(size=(31, 40)) ** 2 for name in names}
    local = rng.normal(size=(patches.size, 40))

    def smooth(months):
        number = np.arange(patches.size)
        frame = Frame(
            mascon_id=ids,
            ice_area_km2=np.bincount(patches, area),
            months=MONTHS[:1].repeat(months),
            nodes=pd.DataFrame(),
            cell_mascon=patches,
            cell_patch=number,
            cell_m=place,
            cell_area_km2=area,
            patch_mascon=patches,
            band_mascon=np.empty(0, dtype=np.int64),
            band_height_m=np.empty(0),
            band_m=200.0,
        )
        models = Models(*np.zeros((5, 31, months)), patch_model_m=local[:, :months])
        table = {name: value[:, :months].ravel() for name, value in values.items()}
        table = pd.DataFrame({"mascon_id": np.repeat(ids, months), **table})
        out = smooth_gaussian(table, frame, models, FUSION, causal=True)
        return out[names].to_numpy().reshape(31, months, len(names))

    whole = smooth(40)
    for months in range(1, 40):
        assert smooth(months).tobytes() == whole[:, :months].tobytes(), months


def test_height_and_slope_are_the_planted_ones(fitted):
    """Means of the tilted relief at the nodes, in the middle of the first month."""
    nodes, _, vintages, _ = fitted()
    table = fuse_causal(mascons(), mass(), nodes, vintages, MONTHS, FUSION)
    start = float(year_fraction(month_middle(MONTHS[:1]))[0])
    last = pd.concat(vintages)
    sure = last["model_sigma_m"] <= FUSION.max_model_sigma_m
    last = last[sure & (last["month"] == MONTHS[-1])].set_index("node_id")
    held = nodes.set_index("node_id").loc[last.index]
    u, v = held["x_m"] - X0, held["y_m"] - Y0
    truth = 900 + 0.012 * u + 0.004 * v + 3 * np.sin(u / 3000) * np.cos(v / 4000)
    truth += (-0.6 + u / 60e3) * (start - 20) + 0.4 * np.cos(2 * np.pi * start - 1 - v / 3e4)
    gradient = np.hypot(
        0.012 + np.cos(u / 3000) * np.cos(v / 4000) / 1000,
        0.004 - 0.75 * np.sin(u / 3000) * np.sin(v / 4000) / 1000,
    )
    # What a biquadratic surface leaves of the relief within 3.5 km.
    assert np.abs(last["elevation_m"] - truth).median() < 1.0
    # Slopes are per metre of ground; the relief is planted per metre of the projection.
    ground = gradient / np.sqrt(held["area_km2"] / 25)
    assert np.abs(last["slope"] - ground).median() < 0.0015
    owner = np.searchsorted([-45.2, -44.8], held["longitude"])
    for number, mascon in enumerate(IDS):
        row = table[(table["mascon_id"] == mascon) & (table["month"] == MONTHS[-1])].iloc[0]
        mine, area = last[owner == number], held["area_km2"][owner == number]
        assert row["elevation_m"] == pytest.approx(np.average(mine["elevation_m"], weights=area))
        assert row["slope"] == pytest.approx(np.average(mine["slope"], weights=area))
    early = table[table["month"] == MONTHS[0]]
    assert early[["elevation_m", "slope"]].isna().all().all()


def run_script(name, folder, inputs, outputs, params, wildcards):
    """Run a rule's script on files, as Snakemake does."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "workflow" / "scripts" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Named(SimpleNamespace):
        def __iter__(self):
            return iter(vars(self).values())

        def get(self, key, default=None):
            return getattr(self, key, default)

        def items(self):
            return vars(self).items()

    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        module.main(
            SimpleNamespace(
                input=Named(**inputs),
                output=Named(**{key: str(path) for key, path in outputs.items()}),
                params=Named(**{key: s.model_dump(mode="json") for key, s in params.items()}),
                wildcards=Named(**wildcards),
                log=[str(folder / f"{name}.log")],
                config={},
                rule=name,
                threads=1,
                resources=SimpleNamespace(mem_mb=2000, runtime=60),
            )
        )
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)


def run_files(frame, folder):
    """Run the rules fit_nodes, fuse_mascons and build_features from file to file."""
    paths = [str(path) for path in write_segments(frame, folder / "filtered")]
    common = {"region": REGION, "elevation": ELEVATION, "fusion": FUSION}
    common["period"] = PeriodSettings(start=FIRST, end=LAST)
    tables = {name: [] for name in ("nodes", "node_months", "causal", "checks")}
    for tile in list_tiles(load_outline(REGION), TILE_M):
        outputs = {name: folder / name / f"{tile}.parquet" for name in tables}
        run_script("fit_nodes.py", folder, {"segments": paths}, outputs, common, {"tile": tile})
        for name, path in outputs.items():
            tables[name].append(str(path))
    ground = mascons().assign(in_product_set=True, whole_ice_fraction=np.nan)[
        [*MASCONS.columns, "geometry"]
    ]
    files = {"mascons": folder / "mascons.parquet", "mass": folder / "mass.parquet"}
    write_geo_table(ground, files["mascons"], MASCONS)
    solved = pa.nulls(IDS.size * MONTHS.size, pa.timestamp("us")).to_pandas()
    write_table(mass().assign(solution_start=solved, solution_end=solved), files["mass"], MASS)
    fused = {name: folder / f"{name}.parquet" for name in ("retrospective", "causal")}
    inputs = {name: str(path) for name, path in files.items()} | tables
    run_script("fuse_mascons.py", folder, inputs, fused, common, {"region": "test"})
    manifest = folder / "manifest.parquet"
    write_table(MANIFEST.empty(), manifest, MANIFEST)
    inputs = {"fusion": str(fused["causal"]), "manifests": str(manifest)} | inputs
    outputs = {
        "features": folder / "features",
        "ledger": folder / "ledger.parquet",
        "card": folder / "features_card.md",
        "card_json": folder / "features_card.json",
    }
    params = {"features": FeatureSettings(), "region": REGION}
    run_script("build_features.py", folder, inputs, outputs, params, {"region": "test"})
    return read_features(outputs["features"])


def test_no_bit_in_the_files_of_a_run_knows_a_later_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(scatter, "SQUARE_ROWS", SQUARE_ROWS)
    frame, after = make_segments(), AFTER[1]
    plain = run_files(frame, tmp_path / "plain")
    early, bits = up_to(plain, after, "month")
    assert early["dh_m"].notna().sum() > 10
    again, other_bits = up_to(run_files(perturb(frame, after, "mixed"), tmp_path / "other"), after,
                              "month")  # fmt: skip
    pd.testing.assert_frame_equal(again, early, check_exact=True)
    assert other_bits == bits
