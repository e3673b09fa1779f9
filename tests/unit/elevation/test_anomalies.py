"""Node months against the planted truth, and vintages that know only the past."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_middle, month_range, to_month, year_fraction
from cryofuse.config import ElevationSettings
from cryofuse.elevation.anomalies import fit_months
from cryofuse.elevation.surface import list_blocks, sort_segments
from cryofuse.tables import NODE_MONTHS, NODE_MONTHS_CAUSAL, check

SETTINGS = ElevationSettings()
MONTHS = month_range("2018-10", "2024-12")


def run(world, settings=SETTINGS, keep=slice(None), height=None, years=1.0, threads=1):
    height = world.height if height is None else height
    segments = sort_segments(
        world.x[keep], world.y[keep], world.time[keep], height[keep], world.sigma()[keep],
        world.passes[keep],
    )  # fmt: skip
    radius = np.full(world.node_x.size, 1000.0)
    result = fit_months(
        segments, world.node_x, world.node_y, radius, settings, MONTHS, causal_min_years=years,
        threads=threads,
    )  # fmt: skip
    return (
        result.fits,
        check(result.months, NODE_MONTHS).to_pandas(),
        check(result.causal, NODE_MONTHS_CAUSAL).to_pandas(),
    )


def truth(month, since, rate=-0.5, amplitude=0.3, phase=1.0):
    t, t0 = year_fraction(month_middle(month)), year_fraction(np.datetime64(since, "us"))
    cycle = np.cos(2 * np.pi * t - phase) - np.cos(2 * np.pi * t0 - phase)
    return rate * (t - t0) + amplitude * cycle


def test_months_follow_the_truth(make_world):
    world = make_world(5, 24, 20, noise=0.002, pass_noise=0.0)
    _, months, _ = run(world)
    expected = truth(months["month"].to_numpy(), "2020-01-01")
    assert np.abs(months["dh_m"] - expected).max() < 0.005
    assert np.abs(months["model_m"] - expected).max() < 0.005
    assert (months["dh_sigma_m"] < 0.01).all()
    seen = pd.Series(to_month(world.time)).nunique()
    assert len(months) == 5 * seen
    assert months["n_segments"].sum() > 0.99 * world.x.size
    first = months.iloc[0]
    assert first["tracks"].tolist() == [0]


def test_months_list_their_passes(make_world):
    world = make_world(1, 24, 20)
    # A second pass ten days after every fourth one.
    again = world.passes % 4 == 0
    for name in ("x", "y", "height", "node"):
        setattr(world, name, np.append(getattr(world, name), getattr(world, name)[again]))
    world.time = np.append(world.time, world.time[again] + np.timedelta64(10, "D"))
    world.passes = np.append(world.passes, 1000 + world.passes[again])
    _, months, _ = run(world)
    for row in months.itertuples():
        here = to_month(world.time) == row.month.to_datetime64()
        assert row.tracks.tolist() == sorted(set(world.passes[here].tolist()))


def test_months_sigma_is_true(make_world):
    """Errors of node months, beyond the level they share, are as large as σ says."""
    world = make_world(400, 24, 6, amplitude=0.3, seed=4)
    _, months, _ = run(world)
    z = (months["dh_m"] - truth(months["month"].to_numpy(), "2020-01-01")) / months["dh_sigma_m"]
    # The month's mean is taken about the model at the segments' times, so it stands for the
    # middle of the month within what the model says about the days between.
    assert 0.62 < (z.abs() < 1).mean() < 0.78


def test_interannual_is_the_spread_of_the_months(make_world):
    fits, months, _ = run(make_world(10, 24, 10))
    spread = (months["dh_m"] - months["model_m"]).groupby(months["node_id"]).std(ddof=0)
    assert fits["interannual_m"].to_numpy() == pytest.approx(spread.to_numpy(), rel=1e-9)
    assert fits["interannual_m"].median() == pytest.approx(0.03, abs=0.015)


def test_a_lake_that_drains_stays_in_the_months(make_world):
    """The months fall by six metres; they share the level that the fit has at the reference."""
    world = make_world(4, 24, 20)
    drained = world.passes >= 20
    fits, months, causal = run(world, height=world.height - 6.0 * drained)
    start = pd.Timestamp(to_month(world.time[drained].min())[()])
    assert (fits["n_epochs"] == 24).all()
    for table, change in (
        (months, months["dh_m"]),
        (causal, causal["model_m"] + causal["residual_m"]),
    ):
        departure = change - truth(table["month"].to_numpy(), "2020-01-01")
        for _, mine in departure.dropna().groupby(table["node_id"]):
            later = table.loc[mine.index, "month"] >= start
            if table is months:
                level = mine[~later].median()
                assert np.abs(mine[~later] - level).max() < 0.3
                assert np.abs(mine[later] - level + 6.0).max() < 0.3
    # The first pass after the drainage has no witness yet; the later ones enter the vintages.
    seen = causal[causal["residual_m"].notna() & (causal["month"] >= start)]
    first = seen.groupby("node_id").head(1)["residual_m"]
    last = seen.groupby("node_id").tail(1)["residual_m"]
    assert np.abs(first + 6.0).max() < 0.3
    assert (last.abs() < 5.0).all()


def test_vintages_learn_a_strong_melt_year(make_world):
    """After a step of a metre in the third year, vintages go on with all passes in them."""
    world = make_world(30, 24, 20, seed=21)
    step = world.passes >= 9
    _, _, causal = run(world, height=world.height - 1.0 * step)
    last = causal[causal["month"] == causal["month"].max()]
    rates = []
    for node in range(30):
        mine = world.node == node
        t = world.year[mine]
        design = np.column_stack(
            [np.ones(t.size), t - 20, np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)]
        )
        height = world.height[mine] - 1.0 * step[mine]
        dx, dy = (world.x[mine] - world.node_x[node]) / 1e3, world.y[mine] / 1e3
        relief = np.column_stack([dx, dy, dx * dx, dx * dy, dy * dy])
        rates.append(np.linalg.lstsq(np.column_stack([design, relief]), height)[0][1])
    assert np.abs(np.median(last["rate_m_yr"] - rates)) < 0.005


def test_a_lone_outlier_makes_no_month(make_world):
    world = make_world(1, 24, 20)
    keep = np.ones(world.x.size, bool)
    keep[(world.passes == 12)] = False
    keep[np.flatnonzero(world.passes == 12)[:2]] = True
    height = world.height + 40.0 * (world.passes == 12)
    _, months, causal = run(world, keep=keep, height=height)
    bad = to_month(world.time[world.passes == 12])[0]
    assert bad not in months["month"].to_numpy()
    row = causal.loc[causal["month"] == bad]
    assert row["n_segments"].tolist() == [0]
    assert row["residual_m"].isna().all()


def test_vintages_are_fits_to_the_past(make_world):
    """Against ordinary least squares on the segments up to each month."""
    world = make_world(3, 24, 20, seed=12)
    settings = SETTINGS.model_copy(update={"edit_mads": 100.0})
    _, _, causal = run(world, settings)
    t0 = year_fraction(month_middle(MONTHS[0]))
    for node in range(3):
        mine = world.node == node
        for month in ("2020-06", "2022-01", "2024-11"):
            stop = np.datetime64(month, "M") + 1
            past = mine & (world.time < stop.astype("datetime64[us]"))
            dx, dy = (world.x[past] - world.node_x[node]) / 1e3, world.y[past] / 1e3
            t = world.year[past]
            angle = 2 * np.pi * t
            terms = [np.ones(t.size), dx, dy, dx * dx, dx * dy, dy * dy]
            design = np.column_stack([*terms, t - 20, np.cos(angle), np.sin(angle)])
            theta = np.linalg.lstsq(design, world.height[past])[0][6:]
            at = pd.Timestamp(f"{month}-01")
            row = causal[(causal["node_id"] == node) & (causal["month"] == at)].iloc[0]
            assert row["rate_m_yr"] == pytest.approx(theta[0], abs=2e-3)
            assert row["amplitude_m"] == pytest.approx(np.hypot(*theta[1:]), abs=2e-3)
            t1 = year_fraction(month_middle(at.to_datetime64()))
            cycle = [np.array([np.cos(2 * np.pi * q), np.sin(2 * np.pi * q)]) for q in (t0, t1)]
            change = theta[0] * (t1 - t0) + theta[1:] @ (cycle[1] - cycle[0])
            assert row["model_m"] == pytest.approx(change, abs=5e-3)


def test_vintages_start_after_a_year_and_go_on(make_world):
    world = make_world(2, 24, 20)
    _, _, causal = run(world)
    first = world.time.min() + np.timedelta64(365, "D")
    for _, rows in causal.groupby("node_id"):
        months = rows["month"].to_numpy()
        assert months[-1] == MONTHS[-1]
        assert (np.diff(months.astype("datetime64[M]").astype(int)) == 1).all()
        assert 0 <= (months[0] - to_month(first)) / np.timedelta64(31, "D") < 4
        silent = ~np.isin(months, to_month(world.time))
        assert rows["residual_m"].isna().to_numpy()[silent].all()
        assert rows["n_segments"].to_numpy()[silent].max() == 0
        assert all(len(tracks) == 0 for tracks in rows["tracks"].to_numpy()[silent])
    _, _, later = run(world, years=3.0)
    assert later["month"].min() >= causal["month"].min() + pd.Timedelta(days=700)


def test_vintages_resist_outliers_and_find_the_rate(make_world):
    world = make_world(200, 24, 10, outliers=0.05, seed=13)
    _, _, causal = run(world)
    last = causal[causal["month"] == causal["month"].max()]
    assert len(last) == 200
    assert abs(last["rate_m_yr"].mean() + 0.5) < 0.005
    wanted = truth(MONTHS[-1], month_middle(MONTHS[0]))
    z = (last["model_m"] - wanted) / last["model_sigma_m"]
    assert 0.58 < (z.abs() < 1).mean() < 0.8
    mid = causal[causal["month"] == pd.Timestamp("2021-06-01")]
    assert abs(mid["rate_m_yr"].median() + 0.5) < 0.02


def test_no_vintage_knows_the_future(make_world):
    world = make_world(30, 24, 10, outliers=0.03, seed=14)
    _, _, before = run(world)
    rng = np.random.default_rng(15)
    for month in ("2020-03", "2021-08", "2023-12"):
        stop = (np.datetime64(month, "M") + 1).astype("datetime64[us]")
        future = world.time >= stop
        height = world.height + future * rng.normal(0, 20, world.height.size)
        keep = ~future | (rng.random(height.size) < 0.7)
        x = world.x.copy()
        world.x = np.where(future, x + rng.uniform(-200, 200, x.size), x)
        _, _, after = run(world, keep=keep, height=height)
        world.x = x
        known = before[before["month"] < stop].reset_index(drop=True)
        assert len(known) > 30
        pd.testing.assert_frame_equal(
            known, after[after["month"] < stop].reset_index(drop=True), check_exact=True
        )
        assert not before[before["month"] >= stop].equals(after[after["month"] >= stop])


def test_threads_change_nothing(make_world):
    world = make_world(40, 24, 8, outliers=0.02)
    for one, two in zip(run(world), run(world, threads=2), strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_no_segments_and_no_nodes():
    none = sort_segments([], [], np.array([], "M8[us]"), [], [])
    for count in (0, 3):
        x = np.arange(count) * 1000.0
        result = fit_months(none, x, x, np.full(count, 1e3), SETTINGS, MONTHS, causal_min_years=1.0)
        assert result.fits["reason"].tolist() == ["no_segments"] * count
        assert check(result.months, NODE_MONTHS).num_rows == 0
        assert check(result.causal, NODE_MONTHS_CAUSAL).num_rows == 0


def test_where_the_cells_begin_decides_on_no_segment():
    """A segment on the edge of the radius is found, or not, whatever else there is."""
    rng = np.random.default_rng(6)
    for _ in range(500):
        radius = float(rng.choice([1000 / 3, 123.7, 700.1]))
        node = rng.uniform(-1e6, 1e6)
        edge = node - radius
        x = np.array([edge, np.nextafter(edge, node), np.nextafter(edge, -1e9), node])
        # One more, far away: the cells, half a radius wide, begin at it and end on the edge.
        x = np.append(x, edge - rng.integers(3, 40) * radius / 2)
        time = np.datetime64("2020-01-01", "us") + np.arange(5).astype("m8[us]")
        segments = sort_segments(x, np.zeros(5), time, np.zeros(5), np.ones(5))
        near = np.flatnonzero((x - node) ** 2 <= radius**2)
        (block,) = list_blocks(
            segments, np.array([node]), np.zeros(1), np.array([radius]), block_entries=10
        )
        assert block.entries.tolist() == near.tolist()
