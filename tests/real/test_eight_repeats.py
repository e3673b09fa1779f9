"""Eight repeats made from one real granule: the fit gives back what was added."""

import h5py
import numpy as np
import pytest

from cryofuse.config import ElevationSettings
from cryofuse.elevation import fit_nodes
from cryofuse.geo import project

pytestmark = pytest.mark.real
GRANULE = "atl06/processed_ATL06_20190613065109_11610303_002_01.h5"
RATE, AMPLITUDE, REPEATS = -0.8, 0.3, 8
DAYS_PER_YEAR = 365.2425


@pytest.fixture(scope="module")
def segments(real_folder):
    """Good segments of all beams, read without the package."""
    parts = []
    with h5py.File(real_folder / GRANULE) as file:
        for beam in ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r"):
            group = file[beam]["land_ice_segments"]
            height, sigma = group["h_li"][:], group["h_li_sigma"][:]
            good = (group["atl06_quality_summary"][:] == 0) & (height < 1e30) & (sigma < 1)
            parts.append(
                [
                    np.asarray(a, dtype=np.float64)[good]
                    for a in (
                        group["longitude"][:], group["latitude"][:], group["delta_time"][:],
                        height, sigma,
                    )
                ]
            )  # fmt: skip
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_rate_and_amplitude_come_back(segments):
    longitude, latitude, seconds, height, sigma = segments
    assert height.size > 17_000
    x, y = project(longitude, latitude, "EPSG:3413")
    start = np.datetime64("2018-01-01", "us") + np.round(seconds * 1e6).astype("m8[us]")
    years = (start - start.min()) / np.timedelta64(86_400_000_000, "us") / DAYS_PER_YEAR
    rng = np.random.default_rng(3)
    repeats = []
    for k in range(REPEATS):
        t = years + k * 91 / DAYS_PER_YEAR
        change = RATE * t + AMPLITUDE * np.sin(2 * np.pi * t)
        noise = rng.normal(0, sigma) if k else 0.0
        time = start + np.timedelta64(91 * k, "D")
        repeats.append((x, y, time, height + change + noise, np.full(x.size, 1161 * 1000 + 3 + k)))
    columns = [np.concatenate(column) for column in zip(*repeats, strict=True)]
    node = np.unique(np.floor(np.column_stack([x, y]) / 1000), axis=0) * 1000 + 500
    found = fit_nodes(
        *columns[:4], np.tile(np.hypot(sigma, 0.02), REPEATS), node[:, 0], node[:, 1],
        ElevationSettings(), pass_id=columns[4],
    )  # fmt: skip
    fitted = found[found["reason"].isna()]
    assert len(fitted) > 150
    assert fitted["rate_m_yr"].median() == pytest.approx(RATE, abs=0.003)
    assert fitted["amplitude_m"].median() == pytest.approx(AMPLITUDE, abs=0.01)
    assert np.abs(fitted["rate_m_yr"] - RATE).quantile(0.9) < 0.1
    assert (fitted["slope"] < 0.5).all()
    # A straight line through the same repeats is off by a tenth of a metre a year.
    t = np.arange(REPEATS) * 91 / DAYS_PER_YEAR
    line = np.polyfit(t, RATE * t + AMPLITUDE * np.sin(2 * np.pi * t), 1)
    assert line[0] == pytest.approx(-0.913, abs=1e-3)
