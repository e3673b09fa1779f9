import numpy as np
import pytest

from cryofuse.config import ElevationSettings, PeriodSettings, WorldSettings
from cryofuse.geo import window_bounds
from cryofuse.simulate.world import HISTORY_START, REGIMES, World, build_histories

MONTHS = np.arange("2019-01", "2024-01", dtype="M8[M]").astype("M8[us]")


def points_on_ice(world, count=200, seed=1):
    rng = np.random.default_rng(seed)
    x_min, y_min, x_max, y_max = world.outline.bounds
    x, y = rng.uniform(x_min, x_max, 20 * count), rng.uniform(y_min, y_max, 20 * count)
    inside = world.outline_contains(x, y)
    return x[inside][:count], y[inside][:count]


def test_change_is_zero_at_the_reference_date(small):
    x, y = points_on_ice(small)
    assert np.allclose(
        small.elevation_change(x, y, np.datetime64("2020-01-01", "us")), 0, atol=1e-9
    )


def test_all_ways_to_ask_agree(small):
    x, y = points_on_ice(small, 50)
    table = small.elevation_change(x[:, None], y[:, None], MONTHS)
    assert table.shape == (50, 60)
    assert np.allclose(table[:, 7], small.elevation_change(x, y, MONTHS[7]), atol=2e-5)
    scattered = small.elevation_change(x, y, MONTHS[:50])
    assert np.allclose(scattered, table[np.arange(50), np.arange(50)], atol=1e-9)


def test_rate_and_season_are_those_of_a_fit_to_the_daily_truth(small):
    x, y = points_on_ice(small, 6)
    lake = small.lake_list[0]
    x, y = np.append(x, lake.x_m), np.append(y, lake.y_m)
    days = np.arange("2019-01-01", "2024-01-01", dtype="M8[D]").astype("M8[us]")
    t = (days - np.datetime64("2000-01-01", "us")) / np.timedelta64(1, "D") / 365.2425
    design = np.column_stack([np.ones(t.size), t, np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)])
    daily = small.elevation_change(x[:, None], y[:, None], days)
    fit = np.linalg.lstsq(design, daily.T, rcond=None)[0]
    assert np.allclose(small.rate(x, y), fit[1], atol=1e-6)
    assert np.allclose(small.amplitude(x, y), np.hypot(fit[2], fit[3]), atol=1e-6)
    cosine = small.amplitude(x, y) * np.cos(small.phase(x, y))
    assert np.allclose(cosine, fit[2], atol=1e-6)


def test_shares_are_a_partition_and_labels_the_largest(greenland):
    assert np.allclose(greenland.shares.sum(axis=0), 1)
    assert greenland.shares.min() >= 0
    x, y = points_on_ice(greenland, 4000)
    label = greenland.regime(x, y)
    counts = np.bincount(label, minlength=len(REGIMES)) / label.size
    assert counts.min() > 0.02
    # Transitions are sharp: nearly everywhere one regime has most of the share.
    largest = np.stack([greenland.sample_grid(s, x, y, 1) for s in greenland.shares]).max(axis=0)
    assert (largest > 0.8).mean() > 0.8


def test_regimes_differ_in_rate_and_season(greenland):
    x, y = points_on_ice(greenland, 4000)
    label = greenland.regime(x, y)
    rate = [float(np.median(greenland.rate(x, y)[label == r])) for r in range(len(REGIMES))]
    assert rate == sorted(rate)
    assert rate[0] < -1.5 and abs(rate[3]) < 0.05 and rate[4] > 0.2
    season = [float(np.median(greenland.amplitude(x, y)[label == r])) for r in range(len(REGIMES))]
    assert min(season[:3]) > 0.3 and season[3] < 0.1


def test_topography_is_a_biquadratic_within_five_kilometres(greenland):
    x, y = points_on_ice(greenland, 60)
    u, v = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    near = np.hypot(u, v) <= 1
    u, v = u[near], v[near]
    design = np.column_stack([np.ones(u.size), u, v, u * u, u * v, v * v])
    misfit = []
    for x0, y0 in zip(x, y, strict=True):
        height = greenland.topography(x0 + 5000 * u, y0 + 5000 * v)
        misfit.append(np.std(height - design @ np.linalg.lstsq(design, height, rcond=None)[0]))
    assert np.median(misfit) < 0.05
    assert np.max(misfit) < 0.5
    assert 2500 < greenland.topography(*points_on_ice(greenland, 2000)).max() < 3500


def test_slope_is_the_gradient_of_the_topography(small):
    x, y = points_on_ice(small, 30)
    slope_x, slope_y = small.slope(x, y)
    step = 50.0
    along_x = (small.topography(x + step, y) - small.topography(x - step, y)) / (2 * step)
    along_y = (small.topography(x, y + step) - small.topography(x, y - step)) / (2 * step)
    assert np.allclose(slope_x, along_x, atol=1e-3)
    assert np.allclose(slope_y, along_y, atol=1e-3)


def test_melt_seasons_rank_2019_2020_2021():
    days = np.arange(HISTORY_START, np.datetime64("2025-01-01"))
    height, _ = build_histories(7, days)
    melt = height.reshape(len(REGIMES), -1, days.size)[2, 0]

    def summer(year):
        first, last = (
            np.flatnonzero(days == np.datetime64(f"{year}-{d}"))[0] for d in ("06-01", "09-01")
        )
        return melt[first] - melt[last]

    assert summer(2019) > 1.2 * summer(2020) > 1.2 * 1.2 * summer(2021) > 0.3


def test_mass_follows_height_late_and_with_many_densities():
    days = np.arange(HISTORY_START, np.datetime64("2025-01-01"))
    height, mass = (h.reshape(len(REGIMES), -1, days.size)[:, 0] for h in build_histories(7, days))
    for r, regime in enumerate(REGIMES[:3]):
        lag = round(regime.lag_months * 365.2425 / 12)
        dh = np.diff(height[r])[5000:-100]
        # Daily changes of mass match those of height best after the planted lag.
        best = max(
            range(0, 92, 1),
            key=lambda k, r=r, dh=dh: np.corrcoef(
                dh, np.diff(mass[r])[5000 + k : 5000 + k + dh.size]
            )[0, 1],
        )
        assert abs(best - lag) <= 12
    years = (mass[:, -1] - mass[:, 0]) / (height[:, -1] - height[:, 0])
    assert years[0] > 850 and years[4] < 350
    # Without melt and beyond compaction, what mass is gained is snow's or ice's, never heavier.
    assert np.all(
        np.abs(mass[:, -1] - mass[:, 0]) < 917 * 1.3 * np.abs(height[:, -1] - height[:, 0]) + 400
    )


def test_lakes_are_where_and_what_they_should_be(greenland_region):
    windows = [
        {"name": "a", "longitude": -48.3, "latitude": 69.2, "width_m": 20_000},
        {"name": "b", "longitude": -26.0, "latitude": 78.9, "width_m": 20_000},
        {"name": "c", "longitude": -47.5, "latitude": 66.5, "width_m": 20_000},
    ]
    elevation = ElevationSettings(windows=windows)
    world = World(WorldSettings(), greenland_region, None, elevation)
    assert [lake.window for lake in world.lake_list] == ["a", "a", "b", "b", "c", "c"]
    for lake in world.lake_list:
        window = next(w for w in elevation.windows if w.name == lake.window)
        x_min, y_min, x_max, y_max = window_bounds(window, world.crs)
        assert x_min + lake.radius_m <= lake.x_m <= x_max - lake.radius_m
        assert y_min + lake.radius_m <= lake.y_m <= y_max - lake.radius_m
        assert 2000 <= lake.radius_m <= 3000
        days = np.arange("2018-10-01", "2025-01-01", dtype="M8[D]").astype("M8[us]")
        level = world.lake_level(lake, days)
        assert 2 <= np.ptp(level) <= 10
        top = int(level.argmax())
        drained = top + int(np.flatnonzero(level[top:] < level.max() - 0.95 * lake.depth_m)[0])
        assert 20 <= drained - top <= 62
        assert lake.profile(lake.x_m + lake.radius_m, lake.y_m) == pytest.approx(0, abs=1e-9)
        assert lake.profile(lake.x_m, lake.y_m) == 1
    for a, b in zip(world.lake_list[::2], world.lake_list[1::2], strict=True):
        assert np.hypot(a.x_m - b.x_m, a.y_m - b.y_m) >= 8000
    table = world.lakes
    assert len(table) == 6 and table["volume_range_km3"].between(0.01, 0.3).all()


def test_lake_lifts_the_ice_by_its_depth(small):
    lake = small.lake_list[0]
    before, after = lake.drain_start, lake.drain_start + np.timedelta64(int(lake.drain_days), "D")
    ring = lake.x_m + 1.2 * lake.radius_m

    def drop(x):
        early, late = (small.elevation_change(x, lake.y_m, t) for t in (before, after))
        return float(late - early)

    assert drop(lake.x_m) - drop(ring) == pytest.approx(-lake.depth_m, abs=0.15)


def test_seed_decides_everything_and_the_period_nothing(
    make_small, small, small_region, small_elevation
):
    x, y = points_on_ice(small, 20)
    again, other = make_small(), make_small(seed=8)
    when = MONTHS[40]
    assert np.array_equal(again.elevation_change(x, y, when), small.elevation_change(x, y, when))
    assert not np.allclose(other.elevation_change(x, y, when), small.elevation_change(x, y, when))
    longer = World(
        small.settings,
        small_region,
        PeriodSettings(start="2019-01", end="2026-12"),
        small_elevation,
    )
    assert np.array_equal(longer.elevation_change(x, y, when), small.elevation_change(x, y, when))
    assert np.array_equal(longer.topography(x, y), small.topography(x, y))


def write_raster(path, value, bounds):
    import rasterio
    from rasterio.transform import from_bounds

    data = np.full((60, 60), value, np.float32)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=60,
        width=60,
        count=1,
        dtype="float32",
        crs="EPSG:3413",
        transform=from_bounds(*bounds, 60, 60),
    ) as file:
        file.write(data, 1)


def test_raster_takes_the_place_of_the_planted_rate(make_small, small, tmp_path):
    x_min, y_min, x_max, y_max = small.outline.bounds
    write_raster(tmp_path / "rate.tif", -1.5, (x_min - 2e4, y_min - 2e4, x_max + 2e4, y_max + 2e4))
    world = make_small(rate_raster=str(tmp_path / "rate.tif"), lakes=0)
    x, y = points_on_ice(world, 100)
    # The raster's rate is that of 2018-10 to 2024-12; the years of a shorter run differ from it
    # by what was planted.
    plain = make_small(lakes=0)
    whole = World(plain.settings, plain.region, PeriodSettings(), plain.elevation)
    expected = -1.5 + plain.rate(x, y) - whole.rate(x, y)
    assert np.allclose(world.rate(x, y), expected, atol=0.02)
    # The season stays the planted one, and so do the granules of a longer run.
    longer = World(world.settings, world.region, PeriodSettings(), world.elevation)
    assert np.array_equal(
        world.elevation_change(x, y, MONTHS[50]), longer.elevation_change(x, y, MONTHS[50])
    )
    assert np.allclose(longer.rate(x, y), -1.5, atol=0.02)
    assert np.allclose(world.amplitude(x, y), plain.amplitude(x, y), atol=1e-6)
    when = MONTHS[50]
    grid = world.change_grid(when).at(x, y)
    assert np.allclose(grid, world.elevation_change(x, y, when), atol=2e-5)
    table = world.elevation_change(x[:, None], y[:, None], MONTHS)
    assert np.allclose(table[:, 50], grid, atol=2e-5)


def test_raster_beside_the_region_is_refused(make_small, tmp_path):
    write_raster(tmp_path / "rate.tif", -1.5, (0, 0, 1e5, 1e5))
    with pytest.raises(ValueError, match="no value over the region"):
        make_small(rate_raster=str(tmp_path / "rate.tif"))


def test_months_outside_the_history_are_refused(small_region):
    with pytest.raises(ValueError, match="lasts from"):
        World(WorldSettings(), small_region, PeriodSettings(start="2019-01", end="2045-01"))
