"""The compiled fit against a plain NumPy fit of the same model, and against known truths."""

import numpy as np
import pytest

from cryofuse.calendar import year_fraction
from cryofuse.config import ElevationSettings
from cryofuse.elevation import fit_nodes
from cryofuse.elevation.surface import list_blocks, sort_segments

SETTINGS = ElevationSettings()
DEGREE_TERMS = {
    "biquadratic": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "plane": [0, 1, 2, 6, 7, 8],
    "along_track": [0, 1, 3, 6, 7, 8],
}


def fit(world, settings=SETTINGS, **options):
    return fit_nodes(
        world.x, world.y, world.time, world.height, options.pop("sigma", world.sigma()),
        world.node_x, world.node_y, settings, pass_id=world.passes, **options,
    )  # fmt: skip


def upper_median(values):
    return np.sort(values)[len(values) // 2]


def cut_stretches(passes):
    """About ten neighbours of a pass at a time."""
    runs = np.split(np.arange(passes.size), np.flatnonzero(np.diff(passes)) + 1)
    for run in runs:
        pieces = max(run.size // 10, 1)
        edges = [run.size * k // pieces for k in range(pieces + 1)]
        yield from (run[a:b] for a, b in zip(edges, edges[1:], strict=False))


def edit(residual, passes, t, edit_mads):
    """Kept segments and robust spread: departures from company, not from the model."""
    stretches = list(cut_stretches(passes))
    middles = [upper_median(residual[s]) for s in stretches]
    inner = [abs(residual[s] - m) for s, m in zip(stretches, middles, strict=True) if s.size >= 5]
    within = max(1.4826 * upper_median(np.concatenate(inner or [abs(residual)])), 0.01)
    between = 1.4826 * upper_median(np.abs(middles))

    def confirmed(value, limit, stretch):
        return any(
            s.size >= 5
            and passes[s[0]] != passes[stretch[0]]
            and abs(t[s[0]] - t[stretch[0]]) <= 0.54
            and abs(m - value) <= limit
            for s, m in zip(stretches, middles, strict=True)
        )

    kept = np.zeros(residual.size, bool)
    for stretch, middle in zip(stretches, middles, strict=True):
        if stretch.size >= 5:
            limit = max(2.0, 6 * between)
            whole = abs(middle) <= limit or confirmed(middle, limit, stretch)
            departure = abs(residual[stretch] - middle)
            gate = edit_mads * max(within, 1.4826 * upper_median(departure))
            kept[stretch] = whole & (departure <= gate)
        else:
            limit = np.hypot(6 * between, edit_mads * within)
            for i in stretch:
                kept[i] = abs(residual[i]) <= limit or confirmed(residual[i], limit, stretch)
    return kept, np.hypot(within, between)


def reference_fit(x, y, time, height, sigma, passes, node, settings):
    """The model of METHODS 2 in plain NumPy: designs, least squares and traces written out."""
    radius = settings.search_radius_m
    near = np.hypot(x - node[0], y - node[1]) <= radius
    order = np.flatnonzero(near)
    order = order[np.lexsort((height[order], y[order], x[order], time[order]))]
    x, y, h, sigma, passes = (a[order] for a in (x, y, height, sigma, passes))
    t = year_fraction(time[order])
    xy = np.column_stack([x - x.mean(), y - y.mean()])
    main = np.linalg.eigh(xy.T @ xy)[1][:, 1]
    side = np.array([-main[1], main[0]])

    def design(position, year):
        u, v = position @ main / radius, position @ side / radius
        w = 2 * np.pi * year
        return np.column_stack(
            [u**0, u, v, u * u, u * v, v * v, year - t.mean(), np.cos(w), np.sin(w)]
        )

    prior = np.array([0, 5 * radius**-1, 5 * radius**-1, *[50 / radius] * 3, 1 / 5, 1 / 2, 1 / 2])
    b, z = design(xy, t), h - h.mean()
    noise = np.sort(sigma**2)[h.size // 2]
    kept, misfit = np.ones(h.size, bool), 0.0

    def degree_of(rows, weight):
        for name, terms in DEGREE_TERMS.items():
            part = b[np.ix_(rows, terms)] * np.sqrt(weight[rows])[:, None]
            length = np.linalg.norm(part, axis=0)
            if length.min() * settings.max_condition <= length[0]:
                continue
            if np.linalg.cond(part / length) <= settings.max_condition:
                return name
        raise ValueError("singular")

    def solve(rows, weight, terms):
        scale = np.sqrt(weight[rows])[:, None]
        big = np.vstack([b[np.ix_(rows, terms)] * scale, np.diag(prior)[terms][:, terms]])
        return np.linalg.lstsq(big, np.append(z[rows] * scale[:, 0], np.zeros(len(terms))))[0]

    degree = None
    for iteration in range(settings.max_iterations + 1):
        weight = 1 / (sigma**2 + misfit)
        degree = degree or degree_of(np.flatnonzero(kept), weight)
        terms = DEGREE_TERMS[degree]
        theta = solve(np.flatnonzero(kept), weight, terms)
        residual = z - b[:, terms] @ theta
        now, spread = edit(residual, passes, t, settings.edit_mads)
        settled = (now != kept).sum() <= 0.002 * h.size
        if iteration == settings.max_iterations or (iteration and settled):
            break
        kept, misfit = now, max(spread**2 - noise, 0)

    # Variances of segments and passes: expectations of two sums of squares, written out.
    e, w, p = residual[kept], weight[kept], passes[kept]
    bk = b[np.ix_(np.flatnonzero(kept), terms)]
    inverse = np.linalg.inv(bk.T @ (w[:, None] * bk) + np.diag(prior[terms] ** 2))
    left = np.eye(e.size) - bk @ inverse @ (bk.T * w)
    same = (p[:, None] == p[None, :]).astype(float)
    totals = same @ w
    z_means = same * w[:, None] * w[None, :] / totals[:, None]
    parts = [np.diag(1 / w), same]
    expected = np.array(
        [[np.trace(q @ left @ v @ left.T) for v in parts] for q in (z_means, np.diag(w))]
    )
    within, between = np.linalg.solve(expected, [e @ z_means @ e, e @ (w * e)])
    if within <= 0 or between <= 0:
        within, between = e @ (w * e) / expected[1, 0], 0.0
    spare = expected[0, 1] * len(set(p)) / w.sum()
    assert spare > 3
    between *= spare / (spare - 2)
    inner = within * np.diag(1 / w) + between * same
    meat = (bk.T * w) @ inner @ (bk.T * w).T + np.diag(prior[terms] ** 2)
    covariance = inverse @ meat @ inverse

    reference = float(year_fraction(np.datetime64(settings.reference_date)))
    offset = np.array([[node[0] - x.mean(), node[1] - y.mean()]])
    height_at = lambda d: h.mean() + (design(offset + d, reference)[:, terms] @ theta)[0]  # noqa: E731
    rise = [height_at(np.array(d)) - height_at(-np.array(d)) for d in ([0.5, 0.0], [0.0, 0.5])]
    annual = theta[-2:]
    return {
        "elevation_m": height_at(np.zeros(2)),
        "slope": np.hypot(*rise),
        "rate_m_yr": theta[-3],
        "rate_sigma_m_yr": np.sqrt(covariance[-3, -3]),
        "amplitude_m": np.hypot(*annual),
        "phase_rad": np.arctan2(annual[1], annual[0]),
        "rms_m": np.sqrt((w * e**2).sum() / w.sum()),
        "n_segments": int(kept.sum()),
        "n_epochs": len(set(p)),
        "degree": degree,
    }


def test_agrees_with_the_plain_fit(make_world):
    world = make_world(12, 17, 12, outliers=0.05, seed=3)
    rng = np.random.default_rng(4)
    sigma = rng.uniform(0.03, 0.2, world.x.size)
    # Cycles one and two off their tracks, so that the biquadratic is held by data.
    world.y += (world.passes < 2) * rng.uniform(-400, 400, world.x.size)
    # Passes too small to judge themselves, one pass in a cloud, and a lake that drains.
    world.height += 50.0 * (world.passes == 5) - 4.0 * ((world.passes > 12) & (world.node % 2))
    small = np.isin(world.passes, [3, 8, 9]) & (np.arange(world.x.size) % 8 > 0)
    for name in ("x", "y", "year", "time", "height", "passes", "node"):
        setattr(world, name, getattr(world, name)[~small])
    sigma = sigma[~small]
    found = fit(world, sigma=sigma)
    for k, row in found.iterrows():
        expected = reference_fit(
            world.x, world.y, world.time, world.height, sigma, world.passes,
            (world.node_x[k], world.node_y[k]), SETTINGS,
        )  # fmt: skip
        for name, value in expected.items():
            if isinstance(value, str):
                assert row[name] == value
            else:
                assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_annual_term_frees_the_rate(make_world):
    """METHODS 2: eight quarterly repeats of −0.800 m/yr with 0.3 m annual."""
    first = 19.449
    phase = np.angle(np.exp(1j * (2 * np.pi * first + np.pi / 2)))
    world = make_world(
        1, 8, 40, rate=-0.8, amplitude=0.3, phase=phase, start=first, noise=0.0, pass_noise=0.0,
        jitter=0.0, curvature=0.0,
    )  # fmt: skip
    row = fit(world).iloc[0]
    assert row["rate_m_yr"] == pytest.approx(-0.8, abs=1e-4)
    assert row["amplitude_m"] == pytest.approx(0.3, abs=1e-4)
    assert row["phase_rad"] == pytest.approx(phase, abs=1e-3)
    # Why it is not optional: a straight line through the same repeats.
    t = np.arange(8) * 91 / 365.2425
    line = np.polyfit(t, -0.8 * t + 0.3 * np.sin(2 * np.pi * t), 1)
    assert line[0] == pytest.approx(-0.913, abs=5e-4)


def test_rate_is_unbiased_and_sigma_true(make_world):
    found = fit(make_world(3000, 20, 6, seed=5))
    error = found["rate_m_yr"] + 0.5
    assert abs(error.mean()) < 3e-4
    assert abs((found["amplitude_m"] - 0.3).mean()) < 2e-3
    inside = np.abs(error) / found["rate_sigma_m_yr"]
    assert 0.62 < (inside < 1).mean() < 0.74
    assert 0.92 < (inside < 1.96).mean() < 0.98


def test_sigma_stays_true_with_few_and_uneven_passes(make_world):
    world = make_world(2000, 12, 8, seed=6, pass_noise=0.05, noise=0.1)
    few = np.random.default_rng(7).random((2000, 12)) < 0.4
    thin = few[world.node, world.passes] & (np.arange(world.x.size) % 8 > 1)
    for name in ("x", "y", "year", "time", "height", "passes", "node"):
        setattr(world, name, getattr(world, name)[~thin])
    found = fit(world)
    inside = np.abs(found["rate_m_yr"] + 0.5) / found["rate_sigma_m_yr"]
    assert 0.62 < (inside < 1).mean() < 0.74


def test_gross_outliers_are_edited(make_world):
    found = fit(make_world(500, 20, 10, outliers=0.05, seed=8))
    assert abs(found["rate_m_yr"].median() + 0.5) < 0.003
    assert abs(found["rate_m_yr"].mean() + 0.5) < 0.01
    assert abs(found["amplitude_m"].mean() - 0.3) < 0.01
    share = found["n_edited"] / (found["n_edited"] + found["n_segments"])
    assert 0.03 < share.mean() < 0.08


def plain_rates(world):
    """Rate of each node by ordinary least squares, without editing."""
    rates = []
    for node, x in enumerate(world.node_x):
        mine = world.node == node
        dx, dy, t = (world.x[mine] - x) / 1e3, world.y[mine] / 1e3, world.year[mine]
        terms = [np.ones(t.size), dx, dy, dx * dx, dx * dy, dy * dy, t - 21.0]
        design = np.column_stack([*terms, np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)])
        rates.append(np.linalg.lstsq(design, world.height[mine])[0][6])
    return np.array(rates)


@pytest.mark.parametrize("per_line", [20, 2])
def test_a_strong_melt_year_is_kept(make_world, per_line):
    """A metre lost after the second of 24 passes: neither pass before it is an outlier."""
    world = make_world(40, 24, per_line, rate=-0.3, seed=16)
    world.height -= 1.0 * (world.passes >= 2)
    expected = plain_rates(world)
    found = fit(world)
    assert abs(np.median(found["rate_m_yr"] - expected)) < 0.005
    assert (found["n_epochs"] == 24).all()
    assert (found["n_edited"] / (found["n_edited"] + found["n_segments"])).mean() < 0.05


def test_a_lake_under_part_of_the_node_is_kept(make_world):
    world = make_world(20, 24, 40, seed=17)
    inside = np.clip((world.x - world.node_x[world.node]) / 500.0, 0.0, 1.0)
    world.height -= 6.0 * inside * (world.passes >= 16)
    found = fit(world)
    assert abs(np.median(found["rate_m_yr"] - plain_rates(world))) < 0.01
    assert (found["n_edited"] < 0.1 * found["n_segments"]).all()


@pytest.mark.parametrize("cloudy", [7, 23])
def test_a_pass_in_a_cloud_is_edited(make_world, cloudy):
    world = make_world(40, 24, 20, outliers=0.05, seed=18)
    clear = world.passes != cloudy
    clean = fit(world)
    # Fifty metres up, and half of another pass.
    half = (world.passes == 12) & (world.x > world.node_x[world.node])
    world.height += 50.0 * ~clear + 30.0 * half
    found = fit(world)
    assert (found["n_epochs"] == 23).all()
    assert abs(found["rate_m_yr"].median() + 0.5) < 0.005
    assert np.abs(found["rate_m_yr"] - clean["rate_m_yr"]).max() < 0.03


@pytest.mark.parametrize("jitter", [0.0, 1e-4, 0.1, 1.0, 10.0])
def test_two_lines_do_not_explode(make_world, jitter):
    """Two lines 90 m apart, 500 m beside the node: the slope across is held, the rate is right."""
    world = make_world(20, 10, 20, jitter=jitter, curvature=0.0, seed=9)
    world.node_x = world.node_x - 0.6 * 500
    world.node_y = world.node_y + 0.8 * 500
    found = fit(world)
    truth = np.hypot(0.01, 0.02)
    assert (np.abs(found["slope"] - truth) < 0.05).all()
    height = 1500 - 0.01 * 300 - 0.02 * 400 - 0.5 * 20.0 + 0.3 * np.cos(1.0)
    assert (np.abs(found["elevation_m"] - height) < 15).all()
    assert (np.abs(found["rate_m_yr"] + 0.5) < 4 * found["rate_sigma_m_yr"]).all()


def test_degree_falls_back_by_conditioning(make_world):
    jittered = fit(make_world(1, 12, 20))
    two_lines = fit(make_world(1, 12, 20, jitter=0.0))
    one_line = fit(make_world(1, 12, 20, jitter=0.0, lines=1))
    assert jittered["degree"].tolist() == ["biquadratic"]
    assert two_lines["degree"].tolist() == ["plane"]
    assert one_line["degree"].tolist() == ["along_track"]
    strict = SETTINGS.model_copy(update={"max_condition": 3.0})
    assert fit(make_world(1, 12, 20), strict)["degree"].tolist() != ["biquadratic"]


def test_reference_date_moves_the_elevation_alone(make_world):
    world = make_world(20, 15, 8)
    early, late = (
        fit(world, ElevationSettings.model_validate({"reference_date": date}))
        for date in ("2019-03-01", "2024-03-01")
    )
    same = [name for name in early.columns if name != "elevation_m"]
    assert early[same].equals(late[same])
    assert (late["elevation_m"] - early["elevation_m"]).mean() == pytest.approx(-2.5, abs=0.1)


def test_threads_and_order_change_nothing(make_world):
    world = make_world(60, 15, 8, outliers=0.02)
    one = fit(world)
    assert one.equals(fit(world, threads=2))
    mixed = np.random.default_rng(1).permutation(world.x.size)
    for name in ("x", "y", "time", "height", "passes"):
        setattr(world, name, getattr(world, name)[mixed])
    assert one.equals(fit(world))


def test_reasons(make_world):
    world = make_world(5, 10, 20)
    kept = np.ones(world.x.size, bool)
    kept[world.node == 0] = False
    kept[(world.node == 1) & (np.arange(world.x.size) % 40 > 0)] = False
    kept[(world.node == 2) & (world.passes > 2)] = False
    kept[(world.node == 3) & (world.passes > 3)] = False
    for name in ("x", "y", "time", "height", "passes"):
        setattr(world, name, getattr(world, name)[kept])
    world.node_x = world.node_x.astype(float)
    found = fit(world)
    assert found["reason"].tolist()[:4] == [
        "no_segments", "too_few_segments", "too_few_epochs", "short_span",
    ]  # fmt: skip
    assert found["reason"].isna().tolist() == [False] * 4 + [True]
    assert found.loc[:3, ["rate_m_yr", "elevation_m", "degree", "first"]].isna().all(axis=None)
    assert found["n_segments"].tolist()[:4] == [0, 10, 120, 160]


def test_one_season_a_year_is_singular(make_world):
    world = make_world(1, 8, 20, start=19.0)
    world.year = 19.0 + world.passes
    world.time = timestamps(world.year)
    found = fit(world)
    assert found["reason"].tolist() == ["singular"]
    assert found["rate_m_yr"].isna().all()


def timestamps(year):
    passed = np.round(year * 365.2425 * 86_400e6).astype("timedelta64[us]")
    return np.datetime64("2000-01-01", "us") + passed


def test_passes_are_told_by_time(make_world):
    world = make_world(10, 12, 10)
    told = fit_nodes(
        world.x, world.y, world.time, world.height, world.sigma(), world.node_x, world.node_y,
        SETTINGS,
    )  # fmt: skip
    assert told.equals(fit(world))


def test_radius_of_each_node(make_world):
    world = make_world(2, 12, 20)
    found = fit(world, node_radius_m=np.array([1000.0, 300.0]))
    distance = np.hypot(world.x - world.node_x[1], world.y)
    total = found["n_segments"] + found["n_edited"]
    assert total.tolist() == [480, int((distance <= 300).sum())]


def test_neighbours_are_those_within_the_radius():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-3000, 4000, 500), rng.uniform(1e6, 1e6 + 5000, 500)
    time = np.datetime64("2020-01-01", "us") + rng.integers(0, 10**13, 500).astype("m8[us]")
    segments = sort_segments(x, y, time, np.zeros(500), np.ones(500))
    node_x, node_y = rng.uniform(-5000, 6000, 40), rng.uniform(1e6 - 2000, 1e6 + 7000, 40)
    radius = rng.uniform(200, 1500, 40)
    seen = 0
    for block in list_blocks(segments, node_x, node_y, radius, block_entries=100):
        for k, node in enumerate(range(block.nodes.start, block.nodes.stop)):
            found = block.entries[block.offsets[k] : block.offsets[k + 1]]
            near = np.hypot(segments.x_m - node_x[node], segments.y_m - node_y[node])
            assert found.tolist() == np.flatnonzero(near <= radius[node]).tolist()
            seen += 1
    assert seen == 40


def test_thinning_keeps_so_many(make_world):
    world = make_world(3, 12, 20)
    settings = SETTINGS.model_copy(update={"max_segments_per_node": 100})
    found = fit(world, settings)
    assert (found["n_segments"] + found["n_edited"]).tolist() == [100] * 3
    assert (found["n_epochs"] == 12).all()
