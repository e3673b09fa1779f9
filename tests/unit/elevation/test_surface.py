"""The compiled fit against a plain NumPy fit of the same model, and against known truths."""

import numpy as np
import pytest

from cryofuse.calendar import month_index, month_middle, month_range, year_fraction
from cryofuse.config import ElevationSettings
from cryofuse.elevation import fit_nodes
from cryofuse.elevation.anomalies import fit_months
from cryofuse.elevation.surface import list_blocks, sort_segments

from .conftest import timestamps, track_world

SETTINGS = ElevationSettings()
MONTHS = month_range("2018-10", "2024-12")
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


# The reference: METHODS 2 in plain NumPy, with designs, least squares and traces written out.


def upper_median(values):
    return np.sort(values)[len(values) // 2]


def cut_stretches(passes):
    """About ten neighbours of a pass at a time."""
    runs = np.split(np.arange(passes.size), np.flatnonzero(np.diff(passes)) + 1)
    for run in runs:
        pieces = max(run.size // 10, 1)
        edges = [run.size * k // pieces for k in range(pieces + 1)]
        yield from (run[a:b] for a, b in zip(edges, edges[1:], strict=False))


def huber_factors(residual, passes):
    """Weights of stretches that depart by more than two metres, each relative to its own."""
    factors = np.ones(residual.size)
    for stretch in cut_stretches(passes):
        departure = abs(upper_median(residual[stretch]))
        factors[stretch] = min(1, 2 / departure) if departure else 1
    return factors


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


def choose_degree(b, weight, max_condition, degrees):
    """The first degree whose design, its columns scaled to one length, is conditioned well."""
    for name in degrees:
        part = b[:, DEGREE_TERMS[name]] * np.sqrt(weight)[:, None]
        length = np.linalg.norm(part, axis=0)
        if length.min() * max_condition <= length[0]:
            continue
        if np.linalg.cond(part / length) <= max_condition:
            return name
    return None


def solve(b, z, weight, prior):
    """Weighted least squares with a row of its own for the prior of each coefficient."""
    scale = np.sqrt(weight)[:, None]
    rows = np.vstack([b * scale, np.diag(prior)])
    return np.linalg.lstsq(rows, np.append(z * scale[:, 0], np.zeros(prior.size)))[0]


def find_variances(b, e, w, passes, inverse):
    """Variances of segments (relative to 1/w) and of passes, from two sums of squares of e.

    The expectations are traces over the residuals e = L (noise), written out.
    """
    left = np.eye(e.size) - b @ inverse @ (b.T * w)
    same = (passes[:, None] == passes[None, :]).astype(float)
    of_means, of_all = same * np.outer(w, w) / (same @ w)[:, None], np.diag(w)
    expected = np.array(
        [
            [np.sum((left.T @ form @ left) * noise) for noise in (np.diag(1 / w), same)]
            for form in (of_means, of_all)
        ]
    )
    within, between = np.linalg.solve(expected, [e @ of_means @ e, e @ of_all @ e])
    if within <= 0 or between <= 0:
        within, between = e @ of_all @ e / expected[1, 0], 0.0
    spare = expected[0, 1] * len(set(passes)) / w.sum()
    if spare < 3:
        return within, max(between * 3 / 1.5, 0.05**2)
    return within, between * spare / (spare - 1.5)


def find_members(residual, kept, gate):
    """Segments that count in a month: those kept, or a majority that agrees on something else."""
    agreeing = abs(residual - upper_median(residual)) <= gate
    size = residual.size
    if size >= 5 and 2 * kept.sum() < size and agreeing.sum() >= 5 and 2 * agreeing.sum() > size:
        return agreeing
    return kept


def missing(t, passes, settings):
    """Why segments are too few for a fit; None if they are not."""
    if t.size < settings.min_segments:
        return "too_few_segments" if t.size else "no_segments"
    if len(set(passes)) < settings.min_epochs:
        return "too_few_epochs"
    return "short_span" if np.ptp(t) < settings.min_span_years else None


def reference_fit(x, y, time, height, sigma, passes, node, settings):
    """One node's row of fits and its months; only the reason if it has no fit."""
    radius = settings.search_radius_m
    near = np.flatnonzero(np.hypot(x - node[0], y - node[1]) <= radius)
    order = near[np.lexsort((height[near], y[near], x[near], time[near]))]
    x, y, time, h, sigma, passes = (a[order] for a in (x, y, time, height, sigma, passes))
    t = year_fraction(time)
    if reason := missing(t, passes, settings):
        return {"reason": reason}, None
    xy = np.column_stack([x - x.mean(), y - y.mean()])
    main = np.linalg.eigh(xy.T @ xy)[1][:, 1]
    side = np.array([-main[1], main[0]])

    def design(position, year):
        u, v, w = position @ main / radius, position @ side / radius, 2 * np.pi * year
        topography = [u**0, u, v, u * u, u * v, v * v]
        return np.column_stack([*topography, year - t.mean(), np.cos(w), np.sin(w)])

    # Slope 0.2, bend 0.02 over the radius, rate 5 m/yr, annual term 2 m.
    all_priors = 1 / np.array([np.inf, *[0.2 * radius] * 2, *[0.02 * radius] * 3, 5, 2, 2])
    b, z = design(xy, t), h - h.mean()
    noise = upper_median(sigma**2)

    def fit_to(weight, degree):
        terms = DEGREE_TERMS[degree]
        theta = np.zeros(9)
        theta[terms] = solve(b[:, terms], z, weight, all_priors[terms])
        return theta, z - b @ theta

    weight = 1 / sigma**2
    degree = choose_degree(b, weight, settings.max_condition, DEGREE_TERMS)
    if degree is None:
        return {"reason": "singular"}, None
    theta, residual = fit_to(weight, degree)
    for _ in range(3):
        factors = huber_factors(residual, passes)
        if (factors == 1).all():
            break
        theta, residual = fit_to(factors / sigma**2, degree)
    kept, misfit = np.ones(h.size, bool), 0.0
    for iteration in range(settings.max_iterations + 1):
        if iteration:
            weight = kept / (sigma**2 + misfit)
            theta, residual = fit_to(weight, degree)
        now, spread = edit(residual, passes, t, settings.edit_mads)
        settled = (now != kept).sum() <= 0.002 * h.size
        if iteration == settings.max_iterations or (iteration and settled):
            break
        kept, misfit = now, max(spread**2 - noise, 0)
    degrees = list(DEGREE_TERMS)
    lower = choose_degree(b, weight, settings.max_condition, degrees[degrees.index(degree) :])
    if lower is None:
        return {"reason": "singular"}, None
    if lower != degree:
        degree = lower
        theta, residual = fit_to(weight, degree)
    if reason := missing(t[kept], passes[kept], settings):
        return {"reason": reason}, None

    terms = DEGREE_TERMS[degree]
    e, w, p, bk = residual[kept], weight[kept], passes[kept], b[np.ix_(kept, terms)]
    prior = np.diag(all_priors[terms] ** 2)
    inverse = np.linalg.inv(bk.T @ (w[:, None] * bk) + prior)
    within, between = find_variances(bk, e, w, p, inverse)
    errors = within * np.diag(1 / w) + between * (p[:, None] == p[None, :])
    weighted = bk.T * w
    covariance = inverse @ (weighted @ errors @ weighted.T + prior) @ inverse

    reference = float(year_fraction(np.datetime64(settings.reference_date)))
    offset = np.array([[node[0] - x.mean(), node[1] - y.mean()]])
    height_at = lambda d: h.mean() + (design(offset + d, reference) @ theta)[0]  # noqa: E731
    rise = [height_at(np.array(d)) - height_at(-np.array(d)) for d in ([0.5, 0.0], [0.0, 0.5])]

    level = design(np.zeros((1, 2)), reference)[0, terms]
    level_variance = level @ covariance @ level
    modelled = lambda year: design(np.zeros((1, 2)), year)[0, 6:] @ theta[6:]  # noqa: E731
    months, departures = {}, []
    number = month_index(time)
    for month in MONTHS:
        rows = np.flatnonzero(number == month_index(month))
        if not rows.size:
            continue
        members = rows[find_members(residual[rows], kept[rows], settings.edit_mads * spread)]
        if not members.size:
            continue
        share = 1 / (sigma[members] ** 2 + misfit)
        share /= share.sum()
        departure = share @ residual[members]
        of_pass = [share[passes[members] == p].sum() for p in set(passes[members])]
        variance = within * share @ (share * (sigma[members] ** 2 + misfit))
        variance += between * np.sum(np.square(of_pass)) + level_variance
        change = modelled(float(year_fraction(month_middle(month)))) - modelled(reference)
        months[month] = (change + departure, np.sqrt(variance), change, members.size)
        departures.append(departure)
    return {
        "reason": None,
        "elevation_m": height_at(np.zeros(2)),
        "slope": np.hypot(*rise),
        "rate_m_yr": theta[6],
        "rate_sigma_m_yr": np.sqrt(covariance[-3, -3]),
        "amplitude_m": np.hypot(theta[7], theta[8]),
        "phase_rad": np.arctan2(theta[8], theta[7]),
        "rms_m": np.sqrt((w * e**2).sum() / w.sum()),
        "interannual_m": np.std(departures) if len(departures) >= 3 else np.nan,
        "n_segments": int(kept.sum()),
        "n_edited": int((~kept).sum()),
        "n_epochs": len(set(p)),
        "first": time[kept].min(),
        "last": time[kept].max(),
        "degree": degree,
    }, months


def beside(world):
    """Cycles one and two off their tracks, so that data hold the biquadratic."""
    off = np.random.default_rng(4).uniform(-400, 400, world.x.size)
    world.move(0.0, off * (world.passes < 2))


def outliers(world):
    """One segment in twenty tens of metres off."""
    rng = np.random.default_rng(5)
    world.height += rng.normal(0, 30, world.x.size) * (rng.random(world.x.size) < 0.05)


def small_passes(world):
    """Passes too small to judge themselves, one of them in a cloud."""
    small = np.isin(world.passes, [3, 8, 9])
    world.height += 9.0 * (world.passes == 8)
    world.keep(~small | (np.arange(world.x.size) % 8 == 0))


def clouds(world):
    """Three passes in clouds, that hide each other from least squares; half of another."""
    world.height += np.select([world.passes == k for k in (2, 7, 12)], [60.0, 35.0, 80.0], 0.0)
    east = world.x > world.node_x[world.node]
    world.height += 30.0 * (east & (world.passes == 10))


def lake(world):
    """A lake under half of the node that drains; one pass later is in a cloud."""
    inside = np.clip((world.x - world.node_x[world.node]) / 300.0, 0.0, 1.0)
    world.height -= 6.0 * inside * (world.passes >= 9) - 40.0 * (world.passes == 12)


def melt_year(world):
    world.height -= 1.5 * (world.passes >= 5)


def aside(world):
    """Segments on one side of the node."""
    world.keep(world.x > world.node_x[world.node] + 300)


def uneven(world):
    """Passes of one to forty segments."""
    rng = np.random.default_rng(6)
    share = rng.uniform(0, 1, (world.node_x.size, 100))[world.node, world.passes]
    world.keep(rng.random(world.x.size) < share)


def ripples(world):
    """Millimetres here and there, and no other noise: rounding must not edit."""
    world.height += 0.004 * (np.arange(world.x.size) % 15 == 0)


def one_pass_holds_the_bend(world):
    """Two lines but for one pass in a cloud: the degree falls after editing."""
    off = 400.0 * (world.passes == 6)
    world.move(-0.6 * off, 0.8 * off)
    world.height += 50.0 * (world.passes == 6)


def one_season(world):
    """A visit a year: nothing tells the rate from the annual cycle."""
    world.year = 19.0 + world.passes
    world.time = timestamps(world.year)


def sparse(world):
    world.keep(np.random.default_rng(7).random(world.x.size) < 0.15)


def repeats(*changes, passes=17, **options):
    def make(make_world, seed):
        world = make_world(6, passes, 12, seed=seed, **options)
        for change in changes:
            change(world)
        return world

    return make


def tracks(*changes, **options):
    def make(_, seed):
        world = track_world(8, along_m=120.0, seed=seed, **options)
        for change in changes:
            change(world)
        return world

    return make


KINDS = {
    "repeats": repeats(),
    "all_at_once": repeats(beside, outliers, small_passes, clouds, lake),
    "off_their_tracks": repeats(beside),
    "two_lines": repeats(jitter=0.0),
    "one_line": repeats(lines=1, jitter=0.0),
    "degree_falls_after_editing": repeats(one_pass_holds_the_bend, jitter=0.0),
    "outliers": repeats(outliers),
    "small_passes": repeats(small_passes),
    "clouds": repeats(clouds),
    "lake": repeats(lake),
    "melt_year": repeats(melt_year),
    "aside": repeats(aside),
    "uneven": repeats(uneven, outliers),
    "a_year_short_of_passes": repeats(passes=5),
    "six_passes": repeats(passes=6),
    "eight_passes": repeats(outliers, passes=8),
    "sparse": repeats(sparse),
    "no_pass_noise": repeats(pass_noise=0.0),
    "no_noise": repeats(ripples, noise=0.0, pass_noise=0.0),
    "rough": repeats(noise=0.3, pass_noise=0.2),
    "no_annual_cycle": repeats(amplitude=0.0),
    "one_season": repeats(one_season),
    "tracks": tracks(),
    "tracks_with_outliers": tracks(outliers),
    "tracks_in_relief": tracks(relief=5.0),
    "tracks_of_two_years": tracks(cycles=8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_plain_fit(make_world, kind):
    world = KINDS[kind](make_world, seed=len(kind))
    sigma = np.random.default_rng(8).uniform(0.03, 0.2, world.x.size)
    segments = sort_segments(
        world.x, world.y, world.time, world.height, sigma, world.passes + 1000 * world.node
    )
    radius = np.full(world.node_x.size, SETTINGS.search_radius_m)
    result = fit_months(segments, world.node_x, world.node_y, radius, SETTINGS, MONTHS)
    months = result.months.to_pandas().groupby("node_id")
    for k, row in result.fits.iterrows():
        expected, expected_months = reference_fit(
            world.x, world.y, world.time, world.height, sigma, world.passes,
            (world.node_x[k], world.node_y[k]), SETTINGS,
        )  # fmt: skip
        for name, value in expected.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), name
            else:
                assert row[name] == value or (value is None and row.isna()[name]), name
        if expected_months is None:
            assert k not in months.groups
            continue
        found = months.get_group(k)
        assert found["month"].tolist() == list(expected_months)
        columns = found[["dh_m", "dh_sigma_m", "model_m", "n_segments"]].to_numpy()
        np.testing.assert_allclose(columns, list(expected_months.values()), rtol=1e-6, atol=1e-6)


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


def test_clouds_do_not_hide_each_other(make_world):
    """Three passes of 25 far above the ground pull least squares towards themselves."""
    world = make_world(100, 25, 20, seed=19)
    high = np.random.default_rng(20).uniform(20.0, 90.0, (100, 3))
    for k, cloudy in enumerate((2, 11, 20)):
        world.height += high[world.node, k] * (world.passes == cloudy)
    found = fit(world)
    assert (found["n_epochs"] == 22).all()
    assert np.abs(found["rate_m_yr"] + 0.5).max() < 0.02
    assert np.abs(found["amplitude_m"] - 0.3).max() < 0.05


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
