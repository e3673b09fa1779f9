"""A real crossover and real repeats, against plain h5py, shapely and NumPy."""

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely

from cryofuse.altimetry import beam_labels
from cryofuse.config import ElevationSettings
from cryofuse.elevation.checks import TrackSegments, check_block, summarise_checks
from cryofuse.geo import project

pytestmark = pytest.mark.real
ASCENDING = "atl06/processed_ATL06_20190416093911_02770303_002_01.h5"
DESCENDING = "atl06/processed_ATL06_20190613193602_11690305_002_01.h5"
REPEATS = "atl11/ATL11_078805_0304_02_v002.h5"
KEEP_ALL = ElevationSettings.model_validate(
    {"checks": {"max_crossovers_per_km2": None, "max_repeats_per_km2": None}}
)
NO_FITS = pd.DataFrame(
    columns=["x_m", "y_m", "rate_m_yr", "amplitude_m", "phase_rad", "slope_x", "slope_y"],
    dtype=float,
)


def to_time(seconds):
    return np.datetime64("2018-01-01", "us") + np.round(seconds * 1e6).astype("m8[us]")


def box_around(x, y):
    return x.min() - 100, y.min() - 100, x.max() + 100, y.max() + 100


def read_beams(path, rgt):
    """Good segments of each beam in order, as tuples of TrackSegments' arrays."""
    beams = {}
    with h5py.File(path) as file:
        for code, name in enumerate(beam_labels()):
            if "land_ice_segments" not in file.get(name, ()):
                continue
            group = file[name]["land_ice_segments"]
            good = (group["atl06_quality_summary"][:] == 0) & (group["h_li"][:] < 1e30)
            longitude, latitude, seconds, height, sigma, number = (
                group[dataset][:][good]
                for dataset in (
                    "longitude", "latitude", "delta_time", "h_li", "h_li_sigma", "segment_id",
                )
            )  # fmt: skip
            same = (np.full(number.size, value) for value in (rgt, 3, code))
            beams[name] = (
                *project(longitude, latitude, "EPSG:3413"),
                to_time(seconds),
                height.astype(float),
                sigma.astype(float),
                *same,
                number,
            )
    return beams


def test_the_real_crossover(real_folder):
    up, down = read_beams(real_folder / ASCENDING, 277), read_beams(real_folder / DESCENDING, 1169)
    columns = zip(*up.values(), *down.values(), strict=True)
    segments = TrackSegments(*(np.concatenate(column) for column in columns))
    table = check_block(segments, NO_FITS, box_around(segments.x_m, segments.y_m), KEEP_ALL, 1)
    pairs = table.to_pandas()
    assert set(pairs["kind"]) == {"crossover"}
    # Where lines through all good segments meet is a crossing unless a gap lies there.
    expected = {}
    for one, a in up.items():
        for two, b in down.items():
            place = shapely.LineString(np.column_stack(a[:2])).intersection(
                shapely.LineString(np.column_stack(b[:2]))
            )
            if place.is_empty:
                continue
            # Both tracks run steadily along y.
            around = [np.sort(np.argsort(np.abs(t[1] - place.y))[:2]) for t in (a, b)]
            if all(np.diff(t[8][i]) == 1 for t, i in zip((a, b), around, strict=True)):
                heights = [
                    np.interp(place.y, *(t[k][i][np.argsort(t[1][i])] for k in (1, 3)))
                    for t, i in zip((a, b), around, strict=True)
                ]
                expected[one, two] = (place.x, place.y, heights[1] - heights[0])
    assert set(expected) == {("gt1l", "gt3l"), ("gt1l", "gt3r")}
    assert len(pairs) == 2
    for row in pairs.itertuples():
        x, y, dh = expected[row.beam_first, row.beam_second]
        assert (row.x_m, row.y_m, row.dh_m) == pytest.approx((x, y, dh), abs=1e-3)
        assert (row.rgt_first, row.rgt_second) == (277, 1169)
        assert row.dt_years == pytest.approx(58.4 / 365.2425, abs=1e-3)
        assert row.angle_degrees == pytest.approx(14.3, abs=0.1)
    later_minus_earlier = pairs.set_index("beam_second")["dh_m"]
    assert later_minus_earlier["gt3l"] == pytest.approx(-0.32, abs=0.02)
    assert later_minus_earlier["gt3r"] == pytest.approx(-0.49, abs=0.02)


def test_real_repeats_of_two_cycles(real_folder):
    """ATL11's mean heights of cycles 3 and 4, on its own along- and across-track axes."""
    with h5py.File(real_folder / REPEATS) as file:
        group = file["pt2"]
        number = group["corrected_h/ref_pt"][:].astype(int)
        corrected = np.diff(group["corrected_h/h_corr"][:])[:, 0]
        time = to_time(group["corrected_h/delta_time"][:])
        along, across, height = (group[f"cycle_stats/{n}"][:] for n in ("x_atc", "y_atc", "h_mean"))
        place = group["ref_surf/x_atc"][:], group["ref_surf/y_atc"][:]
        # Coefficients of x and y of its surface, per 100 m.
        slope = group["ref_surf/poly_coeffs"][:, :2] / 100
    origin = along.min()
    along, place = along - origin, (place[0] - origin, place[1])
    count = number.size
    measured = (values.T.ravel() for values in (along, across, time, height))
    sigma, rgt, beam = (np.full(2 * count, value) for value in (0.1, 788, 2))
    cycle = np.repeat([3, 4], count)
    segments = TrackSegments(*measured, sigma, rgt, cycle, beam, np.tile(number, 2))
    fits = pd.DataFrame(
        {"x_m": place[0], "y_m": place[1], "rate_m_yr": -1.0, "amplitude_m": 0.0, "phase_rad": 0.0,
         "slope_x": slope[:, 0], "slope_y": slope[:, 1]}
    )  # fmt: skip
    table = check_block(segments, fits, box_around(along, across), KEEP_ALL, 1)
    pairs = table.to_pandas().set_index("segment_id")

    offset = np.column_stack([np.diff(along), np.diff(across)])
    apart = np.hypot(*offset.T)
    near = apart <= 50
    assert near.sum() > 1300
    assert set(pairs.index) == set(number[near])
    assert (pairs["kind"] == "repeat").all()
    node = np.argmin(
        np.hypot(along[:, :1] - place[0][None], across[:, :1] - place[1][None]), axis=1
    )
    raw = np.diff(height)[:, 0]
    expected = raw - (offset * slope[node]).sum(axis=1)
    found = pairs["dh_m"].reindex(number[near]).to_numpy()
    assert found == pytest.approx(expected[near], abs=1e-6)
    assert np.median(found) == pytest.approx(-0.86, abs=0.01)
    # Nearer to ATL11's own heights at the reference points than uncorrected differences.
    left = np.median(np.abs(found - corrected[near]))
    assert left < 0.65 * np.median(np.abs(raw - corrected)[near])
    # 91 days are too short a span for a rate; the residual is held against the nodes' rate.
    row = summarise_checks([table]).to_pandas().set_index(["kind", "span"]).loc[("repeat", "all")]
    years = (np.diff(time)[:, 0] / np.timedelta64(1, "us") / (365.2425 * 86_400e6))[near]
    assert row["n_found"] == row["n_model"] == near.sum()
    assert np.isnan(row["rate_difference_m_yr"])
    assert row["residual_m"] == pytest.approx(np.median(expected[near] + years), abs=5e-4)
