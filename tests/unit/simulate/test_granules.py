import re
import zlib

import h5py
import numpy as np
import pytest
from pyproj import Transformer

from cryofuse.geo import window_bounds
from cryofuse.simulate import granules
from cryofuse.simulate.granules import (
    BEAMS,
    granule_image,
    list_granules,
    observe,
    write_granules,
)
from cryofuse.tables import MANIFEST, check

F4 = np.float32(3.4028235e38)
#: Datasets, kinds and fills as the data's description has them.
DESCRIBED = {
    "f4": [
        "h_li", "h_li_sigma", "sigma_geo_h", "fit_statistics/dh_fit_dx",
        "fit_statistics/dh_fit_dy", "fit_statistics/h_robust_sprd", "fit_statistics/h_rms_misfit",
        "fit_statistics/snr", "fit_statistics/snr_significance",
        "fit_statistics/w_surface_window_final", "ground_track/y_atc", "ground_track/ref_azimuth",
        "ground_track/sigma_geo_at", "ground_track/sigma_geo_xt", "dem/dem_h", "dem/geoid_h",
        "geophysical/bsnow_h", "geophysical/r_eff", "geophysical/tide_ocean", "geophysical/dac",
        "geophysical/tide_earth_free2mean",
    ],
    "f8": ["latitude", "longitude", "delta_time", "ground_track/x_atc"],
    "i4": ["segment_id", "fit_statistics/n_fit_photons"],
    "i1": [
        "atl06_quality_summary", "fit_statistics/signal_selection_source", "dem/dem_flag",
        "geophysical/bsnow_conf", "geophysical/cloud_flg_asr", "geophysical/msw_flag",
        "geophysical/layer_flag",
    ],
}  # fmt: skip
SPAN = np.datetime64("2020-02-01", "us"), np.datetime64("2020-04-15", "us")


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("atl06")
    manifest, ledger = write_granules(small, folder, *SPAN)
    return folder, manifest, ledger


@pytest.fixture(scope="module")
def largest(written):
    return max(written[0].glob("*.h5"), key=lambda path: path.stat().st_size)


def test_names_manifest_and_ledger_agree(written):
    folder, manifest, ledger = written
    names = {path.name for path in folder.iterdir()}
    assert len(names) >= 5
    assert all(re.fullmatch(r"ATL06_\d{14}_\d{8}_006_01\.h5", name) for name in names)
    rows = check(manifest, MANIFEST).to_pylist()
    assert {row["granule"] for row in rows} == names
    assert all(SPAN[0] <= np.datetime64(row["start_time"]) < SPAN[1] for row in rows)
    assert len(ledger) == 6 * len(names)
    for path in folder.iterdir():
        with h5py.File(path) as file:
            for row in ledger[ledger["granule"] == path.name].itertuples():
                group = file.get(f"{row.beam}/land_ice_segments")
                assert (row.missing == "no_group") == (row.beam not in file)
                assert (group is None) == (row.missing in ("no_group", "no_segments"))
                if group is not None:
                    height = group["h_li"][:]
                    assert height.size == row.rows
                    assert (height == F4).sum() == row.fill_rows
            assert file["orbit_info/rgt"][0] == int(path.name[21:25])
            assert file["orbit_info/cycle_number"][0] == int(path.name[25:27])


def test_layout_is_as_described(largest):
    with h5py.File(largest) as file:
        assert set(file) == {
            "METADATA",
            "ancillary_data",
            "orbit_info",
            "quality_assessment",
            *BEAMS,
        }
        beam = next(b for b in BEAMS if f"{b}/land_ice_segments" in file)
        assert set(file[beam]) == {"land_ice_segments", "residual_histogram", "segment_quality"}
        group = file[f"{beam}/land_ice_segments"]
        parts = {name for name, item in group.items() if isinstance(item, h5py.Group)}
        assert parts == {"bias_correction", "dem", "fit_statistics", "geophysical", "ground_track"}
        fills = {"f4": F4, "f8": 1.7976931348623157e308, "i4": 2147483647, "i1": 127}
        unfilled = {"latitude", "longitude", "delta_time", "atl06_quality_summary", "dem/dem_flag",
                    "fit_statistics/signal_selection_source"}  # fmt: skip
        for kind, names in DESCRIBED.items():
            for name in names:
                data = group[name]
                assert data.dtype == np.dtype(kind), name
                assert data.chunks == (10_000,) and data.maxshape == (None,), name
                assert data.compression == "gzip" and data.compression_opts == 6, name
                assert data.shuffle == (kind in ("i1", "i4")), name
                assert data.shape == group["h_li"].shape, name
                if name == "segment_id":
                    # Granules of every release carry 0 here.
                    assert data.attrs["_FillValue"] == 0
                elif name in unfilled:
                    assert "_FillValue" not in data.attrs, name
                else:
                    assert data.attrs["_FillValue"] == fills[kind] == data.fillvalue, name
        assert group["delta_time"].is_scale
        assert group["h_li"].dims[0][0] == group["delta_time"]
        assert file[f"{beam}/segment_quality/segment_id"].size > group["segment_id"].size
        assert file["ancillary_data/atlas_sdp_gps_epoch"][0] == 1198800018.0
        assert file["ancillary_data/release"][0] == b"006".ljust(80)
        assert file["ancillary_data/start_rgt"][0] == file["orbit_info/rgt"][0]
        assert file["quality_assessment/qa_granule_pass_fail"][0] == 0
        assert (group["geophysical/tide_ocean"][:] == F4).all()


def test_beams_say_what_they_are(largest):
    with h5py.File(largest) as file:
        forward = file["orbit_info/sc_orient"][0]
        for beam in set(BEAMS) & set(file):
            strong = beam.endswith("r") == (forward == 1)
            assert file[beam].attrs["atlas_beam_type"] == (b"strong" if strong else b"weak")
            assert file[beam].attrs["groundtrack_id"] == beam.encode()
        left = file["gt1l/land_ice_segments"]
        y = left["ground_track/y_atc"][:]
        assert np.array_equal(y == F4, left["h_li"][:] == F4)
        assert abs(np.median(y[y < F4]) - 3345) < 60


def test_shares_of_fills_outliers_and_problems(written):
    folder, _, _ = written
    rows = fills = flagged = wild = good = 0
    for path in folder.iterdir():
        with h5py.File(path) as file:
            for beam in BEAMS:
                group = file.get(f"{beam}/land_ice_segments")
                if group is None:
                    continue
                height, flag = group["h_li"][:], group["atl06_quality_summary"][:]
                missing = height == F4
                assert (flag[missing] == 1).all()
                dem = group["dem/dem_h"][:]
                known = ~missing & (flag == 0) & (dem < F4)
                rows, fills = rows + height.size, fills + missing.sum()
                flagged, good = flagged + (flag == 1).sum(), good + known.sum()
                wild += (np.abs(height[known] - dem[known]) > 20).sum()
                kept = ~missing & (flag == 0)
                assert (group["fit_statistics/n_fit_photons"][:][kept] > 10).all()
                assert (group["fit_statistics/h_robust_sprd"][:][kept] < 1).mean() > 0.97
                assert (group["fit_statistics/snr_significance"][:][kept] < 0.02).all()
    assert rows > 10_000
    assert fills / rows == pytest.approx(0.09, abs=0.02)
    assert flagged / rows == pytest.approx(0.09 + 0.91 * 0.08, abs=0.03)
    assert wild / good == pytest.approx(0.01, abs=0.005)


def test_heights_are_the_truth_with_its_noise(small, largest):
    with h5py.File(largest) as file:
        group = file["gt2l/land_ice_segments"]
        height, sigma = group["h_li"][:].astype(float), group["h_li_sigma"][:]
        keep = group["atl06_quality_summary"][:] == 0
        x, y = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(
            group["longitude"][:], group["latitude"][:]
        )
        time = np.datetime64("2018-01-01", "us") + (group["delta_time"][:] * 1e6).astype("m8[us]")
        slope = group["fit_statistics/dh_fit_dx"][:]
        ids = group["segment_id"][:]
    misfit = height - small.topography(x, y) - small.elevation_change(x, y, time)
    usual = keep & (np.abs(misfit) < 5)
    assert usual.sum() > 0.97 * keep.sum()
    z = misfit[usual] / sigma[usual]
    assert 0.7 < np.std(z) < 2.5
    assert abs(np.median(misfit[usual])) < 0.1
    # The slope along the track is that of the surface between neighbours.
    near = usual[:-1] & usual[1:] & (np.diff(ids) <= 10) & (np.abs(np.diff(misfit)) < 0.5)
    run = (small.topography(x, y)[1:] - small.topography(x, y)[:-1]) / (20.04 * np.diff(ids))
    assert np.median(np.abs(run - slope[:-1])[near]) < 0.002


def test_thinning_holds_outside_the_windows_only(small, written):
    bounds = window_bounds(small.elevation.windows[0], small.crs)
    inside, outside, alone = [], [], 0
    to_metres = Transformer.from_crs("EPSG:4326", small.crs, always_xy=True)
    for path in written[0].iterdir():
        with h5py.File(path) as file:
            for beam in BEAMS:
                group = file.get(f"{beam}/land_ice_segments")
                if group is None or not group["segment_id"].size:
                    continue
                x, y = to_metres.transform(group["longitude"][:], group["latitude"][:])
                ids = group["segment_id"][:]
                here = (x > bounds[0]) & (x < bounds[2]) & (y > bounds[1]) & (y < bounds[3])
                far = (np.abs(x - (bounds[0] + bounds[2]) / 2) > 11_100) | (
                    np.abs(y - (bounds[1] + bounds[3]) / 2) > 11_100
                )
                inside += np.diff(ids)[here[:-1] & here[1:]].tolist()
                outside += ids[far].tolist()
                place = (int(path.name[21:25]) - 1) * 91 % 1387  # in order of longitude
                flown = place % small.settings.track_step == 0
                alone += not flown
                assert flown or not far.any()
    assert alone and outside
    assert np.median(inside) == 1
    assert (np.array(outside) % small.settings.segment_step == 0).all()


def test_same_seed_same_bytes_in_any_order(small, make_small):
    listed = list_granules(small, *SPAN)
    chosen = [g for g in listed if (s := observe(small, g)) is not None and s.keep.any()][:3]
    first = [granule_image(observe(small, granule)) for granule in chosen]
    again = make_small()
    second = [granule_image(observe(again, granule)) for granule in reversed(chosen)]
    assert first == second[::-1] and len(set(first)) == 3
    other = make_small(seed=8)
    assert granule_image(observe(other, chosen[0])) != first[0]


def test_spans_cut_anywhere_hold_the_same_granules(small):
    whole = [g.name for g in list_granules(small, *SPAN)]
    edges = [*np.arange(SPAN[0], SPAN[1], np.timedelta64(37, "h")), SPAN[1]]
    parts = [
        g.name
        for a, b in zip(edges[:-1], edges[1:], strict=True)
        for g in list_granules(small, a, b)
    ]
    assert parts == whole


def test_no_granule_before_the_first_data_or_in_safe_hold(small):
    start = np.datetime64("2018-09-01", "us")
    early = list_granules(small, start, np.datetime64("2019-03-01", "us"))
    assert min(g.start for g in early) >= np.datetime64("2018-10-13", "us")
    assert {g.cycle for g in early} == {1, 2}
    for first, stop in (("2019-06-26", "2019-07-27"), ("2022-04-04", "2022-04-17")):
        assert not list_granules(small, np.datetime64(first, "us"), np.datetime64(stop, "us"))


def test_first_cycles_are_pointed_elsewhere(small):
    start, stop = np.datetime64("2018-10-13", "us"), np.datetime64("2019-10-01", "us")
    offsets = {1: [], 2: [], 3: [], 4: []}
    for granule in list_granules(small, start, stop):
        seen = observe(small, granule)
        if seen is not None and granule.cycle in offsets:
            y = seen.columns["ground_track/y_atc"][2]
            offsets[granule.cycle].append(float(y[y < F4][0]) - 45 if (y < F4).any() else 0.0)
    early, late = np.array(offsets[1] + offsets[2]), np.array(offsets[3] + offsets[4])
    assert np.abs(early).max() < 3600 and early.std() > 1000
    assert 4 < late.std() < 20


@pytest.mark.parametrize("state", ["no_group", "no_segments", "all_fill"])
def test_beams_go_missing_in_three_ways(make_small, state, tmp_path):
    world = make_small(missing_beam_fraction=1.0, track_step=1387)
    folder = tmp_path / "atl06"
    folder.mkdir()
    (folder / "stale.h5").write_bytes(b"from before")
    _, ledger = write_granules(world, folder, SPAN[0], np.datetime64("2020-02-15", "us"))
    assert not (folder / "stale.h5").exists()
    row = ledger[ledger["missing"] == state].iloc[0]
    with h5py.File(folder / row["granule"]) as file:
        if state == "no_group":
            assert row["beam"] not in file
        elif state == "no_segments":
            assert set(file[row["beam"]]) == {"residual_histogram", "segment_quality"}
        else:
            group = file[f"{row['beam']}/land_ice_segments"]
            assert group["h_li"].size == row["rows"] > 0
            assert (group["h_li"][:] == F4).all()
            assert (group["atl06_quality_summary"][:] == 1).all()


@pytest.mark.parametrize("size", [0, 1, 137, 39_999, 40_000])
def test_chunks_are_plain_zlib_streams(size):
    head = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert zlib.decompress(granules._deflate(head, 40_000)) == head.ljust(40_000, b"\0")
