"""Compiled loops over nodes: neighbours, robust fits, node months and causal vintages.

Everything that numba compiles is in this one file: its cache looks at the file of the function
that is called, so a helper elsewhere could change without the cache noticing. The four entry
points work on nodes ``begin`` … ``end`` without holding the interpreter's lock, so threads may
share the nodes out (half the time to compile of a parallel loop); each node is worked on by one
of them, in one order, so results do not depend on their number.

A zero among arguments is ``np.int64(0)``: for a plain 0, numba compiles the function once more.

Terms of the model, in order: 1, u, v, u², uv, v² (u and v: metres from the segments' centroid,
along and across their principal direction, over the search radius), time (years from the
segments' mean), cos 2πt, sin 2πt. ``normal`` is Σ w b bᵀ, ``shared`` is Σ g gᵀ and ``means``
is Σ g gᵀ/W over passes with g = Σ w b and W = Σ w of a pass.

Editing tells noise from signal by company. Neighbours along a pass make a stretch; a segment is
judged by its departure from its stretch's median, in units of all such departures or, where a
lake's edge tilts a stretch, of the stretch's own; so a melt year or a lake costs no segments. A
stretch is edited as a whole if it departs grossly from the model and no other pass of the same
months says the same (a cloud does not come back at the same height, a drained lake stays
drained). The few segments of a stretch that is too small to judge itself are held against the
model, within what stretches depart from it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TERMS = 9
#: Terms of each degree: biquadratic, plane, along-track.
ACTIVE = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 1, 1, 1],
        [1, 1, 0, 1, 0, 0, 1, 1, 1],
    ],
    dtype=np.uint8,
)
#: Why a node has no fit: index into surface.REASONS.
FITTED, NO_SEGMENTS, FEW_SEGMENTS, FEW_EPOCHS, SHORT_SPAN, SINGULAR = 0, 1, 2, 3, 4, 5
#: Spread of topographic and temporal coefficients that is taken for granted; it decides only
#: what the data leave open (the slope across two lines 90 m apart), so that nothing explodes.
#: Slope (m/m) and departure from a plane over the radius (m/m), rate (m/yr), annual term (m).
SLOPE_SPREAD, BEND_SPREAD, RATE_SPREAD, ANNUAL_SPREAD = 0.2, 0.02, 5.0, 2.0
#: Smallest robust spread of residuals that edits (m): below it, rounding would edit.
SPREAD_FLOOR_M = 0.01
#: Smallest uncertainty of a causal forecast that gates new segments (m).
GATE_FLOOR_M = 0.1
#: With fewer passes to spare than this, the spread between passes is hardly measurable and is
#: taken as at least so much (m).
SPARE_PASSES, PASS_SPREAD_M = 3.0, 0.05
#: Segments that have to agree with each other before a month that departs from the model is
#: taken for a signal (a lake that drains) and not for outliers.
AGREEING_SEGMENTS = 5
#: Neighbours along a pass that make a stretch: enough for a median that one outlier in five
#: does not move, few enough (about 100 m of a beam pair) to lie in or beside a lake.
STRETCH_SEGMENTS = 10
#: A stretch departs grossly beyond this many robust spreads of the stretches' medians. The
#: strong melt of 2012 or 2019 stays within five of them, clouds are at tens to hundreds.
STRETCH_MADS = 6.0
#: … and beyond this (m): single summers depart less from trend and annual cycle, anywhere.
STRETCH_FLOOR_M = 2.0
#: Fits before editing that weigh such stretches down, each by its departure from the last (Huber
#: 1964, doi:10.1214/aoms/1177703732): two clouds in 25 passes would otherwise pull the first fit
#: so far that they hide each other. More than three change nothing.
START_ITERATIONS = 3
#: Another pass bears witness if it is at most so far in time (years): two cycles of 91 days and
#: a fortnight, so that one pass may be lost to clouds.
WITNESS_YEARS = 0.54
#: Columns of the table of fits.
(
    ELEVATION,
    SLOPE_X,
    SLOPE_Y,
    RATE,
    RATE_SIGMA,
    AMPLITUDE,
    PHASE,
    RMS,
    INTERANNUAL,
    FIRST,
    LAST,
) = range(11)
FIT_COLUMNS = 11
#: Columns of the counts.
STATUS, DEGREE, N_SEGMENTS, N_EDITED, N_EPOCHS = range(5)
COUNT_COLUMNS = 5
#: Columns of the causal series.
(
    C_MODEL,
    C_SIGMA,
    C_RATE,
    C_AMPLITUDE,
    C_PHASE,
    C_ELEVATION,
    C_SLOPE,
    C_RESIDUAL,
    C_RESIDUAL_SIGMA,
    C_RESPONSE,
    C_START,
    C_START_RESPONSE,
) = range(12)
CAUSAL_COLUMNS = 12
#: First months of the period whose mean residual tells where a vintage's change begins: one pass of
#: every track.
START_MONTHS = 3
#: Cells are looked through this much beyond the radius (m): where the grid of cells begins, and
#: so how its edges round, depends on all segments; which of them a node finds must not.
CELL_ROUNDING_M = 1e-6
#: Editing has settled when no more than this share of segments would change sides.
SETTLED_SHARE = 0.002
#: Robust spreads of a fit (m, but the second, m²): of residuals, misfit variance on top of the
#: segments' own σ², of segments in their stretches, of stretches about the model.
S_ALL, S_MISFIT, S_WITHIN, S_BETWEEN = range(4)
SPREADS = 4
#: Columns of the table of stretches: median residual (m), time (years).
MEDIAN, TIME = range(2)
#: Departures of the surface from trend and cycle last about a season: so many months either side.
DEPARTURE_MONTHS = 3
#: Smallest response of a month to a departure: below it the fit says nothing of the month.
LEAST_RESPONSE = 0.05
#: Bits of an entry's flag: kept in the fit, counted in its month.
KEPT, IN_MONTH = 1, 2
_TWO_PI = 2.0 * np.pi


@njit(cache=True, nogil=True)
def count_neighbours(begin, end, x, y, order, starts, grid, node_x, node_y, node_r, counts):
    """Count the segments within each node's radius."""
    for k in range(begin, end):
        counts[k] = _neighbours(
            x, y, order, starts, grid, node_x[k], node_y[k], node_r[k], np.empty(0, np.int64)
        )


@njit(cache=True, nogil=True)
def list_neighbours(
    begin, end, x, y, order, starts, grid, node_x, node_y, node_r, offsets, entries
):
    """List the rows of the segments within each node's radius, ascending."""
    for k in range(begin, end):
        found = entries[offsets[k] : offsets[k + 1]]
        if found.size:
            _neighbours(x, y, order, starts, grid, node_x[k], node_y[k], node_r[k], found)
            _sort(found)


@njit(cache=True)
def _sort(values):
    """Sort integers in place by merging the runs that are sorted (one for each cell)."""
    count = values.size
    work = np.empty_like(values)
    merged = False
    while not merged:
        merged = True
        begin = 0
        while begin < count:
            middle = begin + 1
            while middle < count and values[middle] >= values[middle - 1]:
                middle += 1
            end = min(middle + 1, count)
            while end < count and values[end] >= values[end - 1]:
                end += 1
            i, j = begin, middle
            for k in range(begin, end):
                if j >= end or (i < middle and values[i] <= values[j]):
                    work[k] = values[i]
                    i += 1
                else:
                    work[k] = values[j]
                    j += 1
            if begin > 0 or end < count:
                merged = False
            begin = end
        values[:] = work


@njit(cache=True, error_model="numpy")
def _median(values, absolute):
    """Return the middle value (the upper of two), by Hoare's selection on a copy."""
    work = np.empty(values.size)
    for i in range(values.size):
        work[i] = abs(values[i]) if absolute else values[i]
    return _select(work, work.size)


@njit(cache=True, error_model="numpy")
def _select(work, count):
    """Return the middle of the first ``count`` values (the upper of two), mixing them up."""
    middle = count // 2
    low, high = 0, count - 1
    while low < high:
        pivot = work[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while work[i] < pivot:
                i += 1
            while work[j] > pivot:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
    return work[middle]


@njit(cache=True)
def _neighbours(x, y, order, starts, grid, node_x, node_y, radius, found):
    """Count the segments within a radius and, given room, list them."""
    x0, y0, cell, columns, rows = grid[0], grid[1], grid[2], int(grid[3]), int(grid[4])
    reach = radius + CELL_ROUNDING_M
    i0 = max(int(np.floor((node_x - reach - x0) / cell)), 0)
    i1 = min(int(np.floor((node_x + reach - x0) / cell)), columns - 1)
    j0 = max(int(np.floor((node_y - reach - y0) / cell)), 0)
    j1 = min(int(np.floor((node_y + reach - y0) / cell)), rows - 1)
    count = 0
    if i1 < i0:
        return count
    square = radius * radius
    for j in range(j0, j1 + 1):
        for position in range(starts[j * columns + i0], starts[j * columns + i1 + 1]):
            dx, dy = x[position] - node_x, y[position] - node_y
            if dx * dx + dy * dy <= square:
                if found.size:
                    found[count] = order[position]
                count += 1
    return count


@njit(cache=True, error_model="numpy")
def _fill_terms(u, v, t, c, s, b):
    b[0], b[1], b[2] = 1.0, u, v
    b[3], b[4], b[5] = u * u, u * v, v * v
    b[6], b[7], b[8] = t, c, s


@njit(cache=True, error_model="numpy")
def _dot(a, b):
    total = 0.0
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@njit(cache=True, error_model="numpy")
def _quadratic(a, matrix):
    total = 0.0
    for j in range(TERMS):
        for k in range(TERMS):
            total += a[j] * matrix[j, k] * a[k]
    return total


@njit(cache=True, error_model="numpy")
def _invert(matrix, prior, active, inverse):
    """Invert a symmetric matrix plus its prior over the active terms; False if impossible."""
    scale = np.zeros(TERMS)
    factor = np.zeros((TERMS, TERMS))
    for j in range(TERMS):
        diagonal = matrix[j, j] + prior[j]
        if active[j]:
            if not (diagonal > 0.0):
                return False
            scale[j] = 1.0 / np.sqrt(diagonal)
    for j in range(TERMS):
        for k in range(j + 1):
            total = matrix[j, k] * scale[j] * scale[k]
            if j == k:
                total = 1.0
            for i in range(k):
                total -= factor[j, i] * factor[k, i]
            if j > k:
                factor[j, k] = total / factor[k, k]
            elif total > 1e-15:
                factor[j, j] = np.sqrt(total)
            else:
                return False
    # The lower triangle becomes its own inverse, column by column.
    for j in range(TERMS):
        factor[j, j] = 1.0 / factor[j, j]
        for k in range(j):
            total = 0.0
            for i in range(k, j):
                total -= factor[j, i] * factor[i, k]
            factor[j, k] = total * factor[j, j]
    for j in range(TERMS):
        for k in range(j + 1):
            total = 0.0
            for i in range(j, TERMS):
                total += factor[i, j] * factor[i, k]
            inverse[j, k] = total * scale[j] * scale[k]
            inverse[k, j] = inverse[j, k]
    return True


@njit(cache=True, error_model="numpy")
def _condition(normal, active, most):
    """Return the condition number of the design whose columns are scaled to one length.

    A column that is ``most`` times shorter than the constant holds rounding: infinite.
    """
    scaled = np.eye(TERMS)
    for j in range(TERMS):
        if active[j] and not (normal[j, j] * most * most > normal[0, 0]):
            return np.inf
        for k in range(TERMS):
            if active[j] and active[k] and j != k:
                scaled[j, k] = normal[j, k] / np.sqrt(normal[j, j] * normal[k, k])
    values = np.linalg.eigvalsh(scaled)
    if not (values[0] > 0.0):
        return np.inf
    return np.sqrt(values[-1] / values[0])


@njit(cache=True, error_model="numpy")
def _choose_degree(normal, first, max_condition):
    for degree in range(first, 3):
        if _condition(normal, ACTIVE[degree], max_condition) <= max_condition:
            return degree
    return -1


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _inner(a, b):
    """Return Σ a b, in whatever order the compiler finds fast.

    The loop only reads. Were it to write as well, the compiler would test at run time whether
    arrays overlap and choose the order by where they lie: the last bit would not repeat.
    """
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, error_model="numpy")
def _accumulate(terms, z, weight, work, begin, end, normal, right):
    """Form the weighted normal equations of a range of segments."""
    # Views that start at zero: an index that could be negative is not vectorised.
    weighted, weights, heights = work[begin:end], weight[begin:end], z[begin:end]
    for j in range(TERMS):
        term = terms[j][begin:end]
        for i in range(term.size):
            weighted[i] = weights[i] * term[i]
        right[j] = _inner(weighted, heights)
        for k in range(j + 1):
            normal[j, k] = _inner(weighted, terms[k][begin:end])
            normal[k, j] = normal[j, k]


@njit(cache=True, error_model="numpy")
def _solve(normal, right, prior, active, inverse, theta):
    if not _invert(normal, prior, active, inverse):
        return False
    for j in range(TERMS):
        theta[j] = _dot(inverse[j], right) if active[j] else 0.0
    return True


@njit(cache=True, error_model="numpy")
def _residuals(terms, z, theta, begin, end, residual):
    rest, heights = residual[begin:end], z[begin:end]
    for i in range(rest.size):
        rest[i] = heights[i]
    for j in range(TERMS):
        factor, term = theta[j], terms[j][begin:end]
        for i in range(rest.size):
            rest[i] -= factor * term[i]


@njit(cache=True, error_model="numpy")
def _find_frame(x, y, t, h, radius, frame):
    """Fill centroid, principal direction, mean time and height, and radius."""
    frame[0], frame[1], frame[4], frame[5] = x.mean(), y.mean(), t.mean(), h.mean()
    xx, xy, yy = 0.0, 0.0, 0.0
    for i in range(x.size):
        dx, dy = x[i] - frame[0], y[i] - frame[1]
        xx += dx * dx
        xy += dx * dy
        yy += dy * dy
    angle = 0.5 * np.arctan2(2.0 * xy, xx - yy)
    frame[2], frame[3] = np.cos(angle), np.sin(angle)
    frame[6] = radius


@njit(cache=True, error_model="numpy")
def _place(x, y, t, c, s, h, frame, begin, end, terms, z):
    """Fill the terms of each segment (a column each) and its height above the frame's."""
    for i in range(begin, end):
        dx, dy = (x[i] - frame[0]) / frame[6], (y[i] - frame[1]) / frame[6]
        u, v = dx * frame[2] + dy * frame[3], dy * frame[2] - dx * frame[3]
        _fill_terms(u, v, t[i] - frame[4], c[i], s[i], terms[:, i])
        z[i] = h[i] - frame[5]


@njit(cache=True, error_model="numpy")
def _in_frame(x, y, frame):
    """Return where a point stands in a frame (over the radius)."""
    dx, dy = (x - frame[0]) / frame[6], (y - frame[1]) / frame[6]
    return dx * frame[2] + dy * frame[3], dy * frame[2] - dx * frame[3]


@njit(cache=True, error_model="numpy")
def _gradient(theta, u, v, frame):
    """Return the slope of the fitted topography along the frame's axes (m/m)."""
    along = (theta[1] + 2.0 * theta[3] * u + theta[4] * v) / frame[6]
    across = (theta[2] + theta[4] * u + 2.0 * theta[5] * v) / frame[6]
    return along, across


@njit(cache=True, error_model="numpy")
def _fill_prior(radius, prior):
    prior[0] = 0.0
    for j in range(1, 3):
        prior[j] = 1.0 / (SLOPE_SPREAD * radius) ** 2
    for j in range(3, 6):
        prior[j] = 1.0 / (BEND_SPREAD * radius) ** 2
    prior[6] = 1.0 / RATE_SPREAD**2
    prior[7] = 1.0 / ANNUAL_SPREAD**2
    prior[8] = prior[7]


@njit(cache=True, error_model="numpy")
def _cut_stretches(passes, t, first, last, starts, stretches, known):
    """Cut the passes of a range of segments into stretches; return their number so far.

    ``known`` stretches are there already. Stretch ``g`` is ``starts[g]`` … ``starts[g + 1]``.
    """
    begin = first
    for end in range(first + 1, last + 1):
        if end < last and passes[end] == passes[begin]:
            continue
        count = end - begin
        pieces = max(count // STRETCH_SEGMENTS, 1)
        for piece in range(pieces):
            starts[known] = begin + count * piece // pieces
            stretches[known, TIME] = t[starts[known]]
            known += 1
        begin = end
    starts[known] = last
    return known


@njit(cache=True, error_model="numpy")
def _level_stretches(residual, starts, stretches, first, last, work):
    """Fill the median residual of a range of stretches."""
    for g in range(first, last):
        begin, count = starts[g], starts[g + 1] - starts[g]
        for i in range(count):
            work[i] = residual[begin + i]
        stretches[g, MEDIAN] = _select(work, count)


@njit(cache=True, error_model="numpy")
def _has_witness(value, limit, g, passes, starts, stretches, known):
    """Return whether a stretch of another pass, near in time, departs from the model alike."""
    for other in range(known):
        if (
            starts[other + 1] - starts[other] >= AGREEING_SEGMENTS
            and abs(stretches[other, MEDIAN] - value) <= limit
            and abs(stretches[other, TIME] - stretches[g, TIME]) <= WITNESS_YEARS
            and passes[starts[other]] != passes[starts[g]]
        ):
            return True
    return False


@njit(cache=True, error_model="numpy")
def _measure_spreads(residual, starts, stretches, known, work, spread):
    """Fill the robust spreads of segments within stretches, of stretches, and of both."""
    judged = 0
    for g in range(known):
        if starts[g + 1] - starts[g] >= AGREEING_SEGMENTS:
            for i in range(starts[g], starts[g + 1]):
                work[judged] = abs(residual[i] - stretches[g, MEDIAN])
                judged += 1
    if judged == 0:
        for i in range(starts[known]):
            work[i] = abs(residual[i])
        judged = starts[known]
    spread[S_WITHIN] = max(1.4826 * _select(work, judged), SPREAD_FLOOR_M)
    for g in range(known):
        work[g] = abs(stretches[g, MEDIAN])
    spread[S_BETWEEN] = 1.4826 * _select(work, known)
    spread[S_ALL] = np.hypot(spread[S_WITHIN], spread[S_BETWEEN])


@njit(cache=True, error_model="numpy")
def _weigh_gross_down(variance, starts, stretches, known, weight):
    """Give stretches that depart grossly Huber's weight; return whether there is any."""
    gross = False
    for g in range(known):
        departure = abs(stretches[g, MEDIAN])
        factor = 1.0
        if departure > STRETCH_FLOOR_M:
            factor = STRETCH_FLOOR_M / departure
            gross = True
        for i in range(starts[g], starts[g + 1]):
            weight[i] = factor / variance[i]
    return gross


@njit(cache=True, error_model="numpy")
def _own_gate(residual, begin, end, middle, gate, edit_mads, work):
    """Return the gate of one stretch: the common one or, on a lake's edge, the stretch's own."""
    beyond = False
    for i in range(begin, end):
        work[i - begin] = abs(residual[i] - middle)
        beyond = beyond or work[i - begin] > gate
    if beyond:
        gate = max(gate, edit_mads * 1.4826 * _select(work, end - begin))
    return gate


@njit(cache=True, error_model="numpy")
def _edit(residual, passes, starts, stretches, known, edit_mads, spread, work, kept, now):
    """Flag the segments that are no outliers in ``now``; return how many are not as in ``kept``."""
    changed = 0
    between = STRETCH_MADS * spread[S_BETWEEN]
    gate = edit_mads * spread[S_WITHIN]
    for g in range(known):
        begin, end, middle = starts[g], starts[g + 1], stretches[g, MEDIAN]
        if end - begin >= AGREEING_SEGMENTS:
            limit = max(between, STRETCH_FLOOR_M)
            whole = abs(middle) <= limit or _has_witness(
                middle, limit, g, passes, starts, stretches, known
            )
            own = _own_gate(residual, begin, end, middle, gate, edit_mads, work)
            for i in range(begin, end):
                keep = 1 if whole and abs(residual[i] - middle) <= own else 0
                changed += keep != kept[i]
                now[i] = keep
        else:
            limit = np.hypot(between, gate)
            for i in range(begin, end):
                good = abs(residual[i]) <= limit or _has_witness(
                    residual[i], limit, g, passes, starts, stretches, known
                )
                keep = 1 if good else 0
                changed += keep != kept[i]
                now[i] = keep
    return changed


@njit(cache=True, error_model="numpy")
def _robust_fit(
    terms, z, t, passes, variance, count, starts, stretches, kept, residual, options,
    max_condition, prior, normal, inverse, theta, spread,
):  # fmt: skip
    """Fit the first ``count`` segments with iterated editing; return the degree (−1: singular).

    ``starts``, ``stretches`` and ``spread`` receive the stretches and the robust spreads.
    """
    edit_mads, max_iterations = options[0], int(options[1])
    right, weight, work = np.empty(TERMS), np.empty(count), np.empty(count)
    now = np.empty(count, np.uint8)
    noise = _median(variance[:count], False)
    misfit = 0.0
    degree = starting = iteration = 0
    known = _cut_stretches(passes, t, np.int64(0), count, starts, stretches, np.int64(0))
    for i in range(count):
        kept[i] = 1
        weight[i] = 1.0 / variance[i]
    while True:
        _accumulate(terms, z, weight, work, np.int64(0), count, normal, right)
        if starting == 0:
            degree = _choose_degree(normal, np.int64(0), max_condition)
        if degree < 0 or not _solve(normal, right, prior, ACTIVE[degree], inverse, theta):
            return -1
        _residuals(terms, z, theta, np.int64(0), count, residual)
        _level_stretches(residual, starts, stretches, np.int64(0), known, work)
        if starting < START_ITERATIONS:
            starting += 1
            if _weigh_gross_down(variance, starts, stretches, known, weight):
                continue
            starting = START_ITERATIONS
        spread[S_MISFIT] = misfit
        _measure_spreads(residual, starts, stretches, known, work, spread)
        if iteration == max_iterations:
            break
        changed = _edit(
            residual, passes, starts, stretches, known, edit_mads, spread, work, kept, now
        )
        if iteration > 0 and changed <= SETTLED_SHARE * count:
            break
        misfit = max(spread[S_ALL] ** 2 - noise, 0.0)
        for i in range(count):
            kept[i] = now[i]
            weight[i] = 1.0 / (variance[i] + misfit) if kept[i] else 0.0
        iteration += 1
    lower = _choose_degree(normal, degree, max_condition)
    if lower != degree:
        degree = lower
        if degree < 0 or not _solve(normal, right, prior, ACTIVE[degree], inverse, theta):
            return -1
        _residuals(terms, z, theta, np.int64(0), count, residual)
    return degree


@njit(cache=True, error_model="numpy")
def _add_passes(
    terms, z, variance, first, last, misfit, used, passes, normal, means, shared, right,
    right_means, sums,
):  # fmt: skip
    """Add the used segments of a range pass by pass to the accumulators.

    ``sums``: segments, passes, Σw, Σ w z², Σ (Σ w z)²/W.
    """
    g = np.empty(TERMS)
    weight, work, heights = np.empty(last), np.empty(last), np.empty(TERMS)
    part = np.empty((TERMS, TERMS))
    begin = first
    for end in range(first + 1, last + 1):
        if end < last and passes[end] == passes[begin]:
            continue
        total = gz = 0.0
        for i in range(begin, end):
            weight[i] = 1.0 / (variance[i] + misfit) if used[i] else 0.0
            total += weight[i]
            gz += weight[i] * z[i]
            sums[0] += used[i]
            sums[3] += weight[i] * z[i] * z[i]
        if total > 0.0:
            _accumulate(terms, z, weight, work, begin, end, part, heights)
            sums[1] += 1
            sums[2] += total
            sums[4] += gz * gz / total
            for j in range(TERMS):
                g[j] = part[j, 0]
                right[j] += heights[j]
                right_means[j] += g[j] * gz / total
                for k in range(TERMS):
                    normal[j, k] += part[j, k]
            for j in range(TERMS):
                for k in range(TERMS):
                    shared[j, k] += g[j] * g[k]
                    means[j, k] += g[j] * g[k] / total
        begin = end


@njit(cache=True, error_model="numpy")
def _multiply(a, b, out):
    for j in range(TERMS):
        for k in range(TERMS):
            total = 0.0
            for i in range(TERMS):
                total += a[j, i] * b[i, k]
            out[j, k] = total


@njit(cache=True, error_model="numpy")
def _trace(a, b):
    total = 0.0
    for j in range(TERMS):
        for k in range(TERMS):
            total += a[j, k] * b[k, j]
    return total


@njit(cache=True, error_model="numpy")
def _variances(normal, means, shared, inverse, sums, within_all, within_means, parts):
    """Solve for the variance of segments (relative to 1/w) and of passes (m²).

    The residual e of a fit has E[Σ w e²] and E[Σ (Σ w e)²/W] linear in the two variances;
    the coefficients are traces of 9 × 9 products (Henderson 1953, method 3).
    """
    n_inv, h_inv, k_inv = (
        np.empty((TERMS, TERMS)),
        np.empty((TERMS, TERMS)),
        np.empty((TERMS, TERMS)),
    )
    _multiply(normal, inverse, n_inv)
    _multiply(shared, inverse, h_inv)
    _multiply(means, inverse, k_inv)
    trace_n = trace_h = trace_k = 0.0
    for j in range(TERMS):
        trace_n += n_inv[j, j]
        trace_h += h_inv[j, j]
        trace_k += k_inv[j, j]
    a11 = sums[1] - 2.0 * trace_k + _trace(k_inv, n_inv)
    a12 = sums[2] - 2.0 * trace_h + _trace(k_inv, h_inv)
    a21 = sums[0] - 2.0 * trace_n + _trace(n_inv, n_inv)
    a22 = sums[2] - 2.0 * trace_h + _trace(n_inv, h_inv)
    alone = within_all / a21 if a21 > 0.5 else 1.0
    parts[0], parts[1] = alone, 0.0
    determinant = a11 * a22 - a12 * a21
    if abs(determinant) > 1e-9 * abs(a12 * a21) and a21 > 0.5:
        segment = (within_means * a22 - within_all * a12) / determinant
        between = (a11 * within_all - a21 * within_means) / determinant
        if segment > 0.0 and between > 0.0:
            parts[0], parts[1] = segment, between
    spare = a12 * sums[1] / sums[2]
    least = PASS_SPREAD_M**2 if spare < SPARE_PASSES else 0.0
    spare = max(spare, SPARE_PASSES)
    # A variance known from so few passes makes the estimate's error a t, not a normal variable.
    # Its own variance would ask for −2: an interval of 1 σ would then hold 82 % for three passes
    # to spare. −1.5 keeps 1 σ at 69-75 % and 1.96 σ at 93-95 % of Student's t for three and more.
    parts[1] = max(parts[1] * spare / (spare - 1.5), least)
    parts[0] = max(parts[0], 1e-12)


@njit(cache=True, error_model="numpy")
def _covariance(inverse, normal, shared, prior, active, parts, covariance):
    """Fill the covariance of the coefficients under segment and pass noise and the prior."""
    meat, half = np.empty((TERMS, TERMS)), np.empty((TERMS, TERMS))
    for j in range(TERMS):
        for k in range(TERMS):
            meat[j, k] = parts[0] * normal[j, k] + parts[1] * shared[j, k]
        if active[j]:
            meat[j, j] += prior[j]
    _multiply(inverse, meat, half)
    _multiply(half, inverse, covariance)


@njit(cache=True, error_model="numpy")
def _sigma(direction, covariance):
    """Return σ of a linear combination of the coefficients."""
    return np.sqrt(max(_quadratic(direction, covariance), 0.0))


@njit(cache=True, error_model="numpy")
def _choose_members(residual, accepted, gate, member):
    """Flag the segments of one month that count in its mean.

    Segments that the model accepts, unless most of the month's segments agree with each other
    on something else: that is the surface, not noise.
    """
    count = residual.size
    members = 0
    for i in range(count):
        member[i] = accepted[i]
        members += accepted[i]
    if count >= AGREEING_SEGMENTS and 2 * members < count:
        middle = _median(residual, False)
        agreeing = 0
        for i in range(count):
            agreeing += abs(residual[i] - middle) <= gate
        if agreeing >= AGREEING_SEGMENTS and 2 * agreeing > count:
            members = agreeing
            for i in range(count):
                member[i] = 1 if abs(residual[i] - middle) <= gate else 0
    return members


@njit(cache=True, error_model="numpy")
def _month_mean(variance, residual, member, passes, misfit, parts):
    """Return the weighted mean of a month's residuals and its σ."""
    total = weighted = noise = weight_of_pass = 0.0
    count = passes.size
    for i in range(count):
        if member[i]:
            weight = 1.0 / (variance[i] + misfit)
            weight_of_pass += weight
            weighted += weight * residual[i]
        if (i + 1 == count or passes[i + 1] != passes[i]) and weight_of_pass > 0.0:
            total += weight_of_pass
            noise += parts[0] * weight_of_pass + parts[1] * weight_of_pass**2
            weight_of_pass = 0.0
    return weighted / total, np.sqrt(noise) / total


@njit(cache=True, error_model="numpy")
def _weighted_mean(residual, variance, kept, misfit, end):
    """Return the weighted mean residual of the first segments that are kept, NaN without any."""
    total = weighted = 0.0
    for i in range(end):
        if kept[i]:
            weight = 1.0 / (variance[i] + misfit)
            total += weight
            weighted += weight * residual[i]
    return weighted / total if total > 0.0 else np.nan


@njit(cache=True, error_model="numpy")
def _add_pulls(terms, variance, kept, month, misfit, begin, end, pulls):
    """Add what a surface 1 m higher in a month would add to the normal equations, by month."""
    for i in range(begin, end):
        if kept[i] and 0 <= month[i] < pulls.shape[0]:
            weight = 1.0 / (variance[i] + misfit)
            for j in range(TERMS):
                pulls[month[i], j] += weight * terms[j, i]


@njit(cache=True, error_model="numpy")
def _response(terms, variance, member, misfit, begin, end, pulls, first, last, inverse):
    """Return how much of a departure in months ``first`` … ``last`` a fit leaves visible.

    Were the surface 1 m higher in those months, the fit would follow by some part: what goes into
    rate and cycle is in the modelled change, what goes into the relief (passes at places of their
    own across the track) is lost to the segments ``begin`` … ``end``. The share of the rest that
    is not lost is returned, in (0, 1].
    """
    pull, centre = np.zeros(TERMS), np.zeros(TERMS)
    for m in range(max(first, 0), min(last + 1, pulls.shape[0])):
        for j in range(TERMS):
            pull[j] += pulls[m, j]
    total = 0.0
    for i in range(begin, end):
        if member[i - begin]:
            weight = 1.0 / (variance[i] + misfit)
            total += weight
            for j in range(TERMS):
                centre[j] += weight * terms[j, i]
    followed = relief = 0.0
    for j in range(TERMS):
        part = centre[j] / total * _dot(inverse[j], pull)
        followed += part
        if 1 <= j <= 5:
            relief += part
    left = max(1.0 - followed, 0.0)
    return max(left / (left + max(relief, 1e-12)), LEAST_RESPONSE)


@njit(cache=True, error_model="numpy")
def _change(theta, time, since):
    """Return the modelled change between two times (years)."""
    return (
        theta[6] * (time - since)
        + theta[7] * (np.cos(_TWO_PI * time) - np.cos(_TWO_PI * since))
        + theta[8] * (np.sin(_TWO_PI * time) - np.sin(_TWO_PI * since))
    )


@njit(cache=True, error_model="numpy")
def _enough(kept, t, passes, least_segments, least_epochs, least_years, counts):
    """Return the status of a sample and fill its numbers of segments and passes."""
    segments, epochs, last = 0, 0, -1
    first_time, last_time = np.inf, -np.inf
    for i in range(kept.size):
        if kept[i]:
            segments += 1
            if passes[i] != last:
                epochs += 1
                last = passes[i]
            first_time, last_time = min(first_time, t[i]), max(last_time, t[i])
    counts[0], counts[1] = segments, epochs
    if segments == 0:
        return NO_SEGMENTS
    if segments < least_segments:
        return FEW_SEGMENTS
    if epochs < least_epochs:
        return FEW_EPOCHS
    if last_time - first_time < least_years:
        return SHORT_SPAN
    return FITTED


@njit(cache=True, error_model="numpy")
def _fit_node(
    columns, all_passes, all_month, rows, node_x, node_y, radius, options, reference, middles,
    fit, counts, flags, month_values, month_counts,
):  # fmt: skip
    """Fit one node and average its months; see :func:`fit_block`."""
    count = rows.size
    t, passes, month = columns[2][rows], all_passes[rows], all_month[rows]
    kept, residual = np.ones(count, np.uint8), np.empty(count)
    numbers = np.zeros(2, np.int64)
    counts[DEGREE] = -1
    status = _enough(kept, t, passes, options[3], options[4], options[5], numbers)
    counts[N_SEGMENTS], counts[N_EPOCHS], counts[STATUS] = numbers[0], numbers[1], status
    if status != FITTED:
        return
    x, y, c, s = columns[0][rows], columns[1][rows], columns[3][rows], columns[4][rows]
    h, variance = columns[5][rows], columns[6][rows]
    frame, terms, z = np.empty(7), np.empty((TERMS, count)), np.empty(count)
    prior, theta, spread = np.empty(TERMS), np.zeros(TERMS), np.zeros(SPREADS)
    parts, starts, stretches = np.zeros(2), np.empty(count + 1, np.int64), np.empty((count, 2))
    normal, inverse = np.zeros((TERMS, TERMS)), np.zeros((TERMS, TERMS))
    _find_frame(x, y, t, h, radius, frame)
    _place(x, y, t, c, s, h, frame, np.int64(0), count, terms, z)
    _fill_prior(radius, prior)
    degree = _robust_fit(
        terms, z, t, passes, variance, count, starts, stretches, kept, residual, options,
        options[2], prior, normal, inverse, theta, spread,
    )  # fmt: skip
    status = _enough(kept, t, passes, options[3], options[4], options[5], numbers)
    counts[N_SEGMENTS], counts[N_EPOCHS] = numbers[0], numbers[1]
    counts[N_EDITED] = count - numbers[0]
    counts[STATUS] = SINGULAR if degree < 0 else status
    if counts[STATUS] != FITTED:
        return
    counts[DEGREE] = degree
    misfit = spread[S_MISFIT]
    means, shared = np.zeros((TERMS, TERMS)), np.zeros((TERMS, TERMS))
    right, right_means, sums = np.zeros(TERMS), np.zeros(TERMS), np.zeros(5)
    covariance = np.empty((TERMS, TERMS))
    normal[:] = 0.0
    _add_passes(
        terms, residual, variance, np.int64(0), count, misfit, kept, passes, normal, means, shared,
        right, right_means, sums,
    )  # fmt: skip
    _variances(normal, means, shared, inverse, sums, sums[3], sums[4], parts)
    _covariance(inverse, normal, shared, prior, ACTIVE[degree], parts, covariance)

    b = np.zeros(TERMS)
    fit[RATE], fit[RATE_SIGMA] = theta[6], np.sqrt(covariance[6, 6])
    fit[AMPLITUDE], fit[PHASE] = np.hypot(theta[7], theta[8]), np.arctan2(theta[8], theta[7])
    fit[RMS] = np.sqrt(sums[3] / sums[2])
    u, v = _in_frame(node_x, node_y, frame)
    cosine, sine = np.cos(_TWO_PI * reference), np.sin(_TWO_PI * reference)
    _fill_terms(u, v, reference - frame[4], cosine, sine, b)
    fit[ELEVATION] = frame[5] + _dot(b, theta)
    along, across = _gradient(theta, u, v, frame)
    fit[SLOPE_X] = along * frame[2] - across * frame[3]
    fit[SLOPE_Y] = along * frame[3] + across * frame[2]
    fit[FIRST], fit[LAST] = np.inf, -np.inf
    for i in range(count):
        if kept[i]:
            flags[i] |= KEPT
            fit[FIRST], fit[LAST] = min(fit[FIRST], i), max(fit[LAST], i)

    # The level at the reference date is in error by the same amount in every month.
    _fill_terms(0.0, 0.0, reference - frame[4], cosine, sine, b)
    level = _sigma(b, covariance)
    member = np.zeros(count, np.uint8)
    gate = options[0] * spread[S_ALL]
    pulls = np.zeros((middles.size, TERMS))
    _add_pulls(terms, variance, kept, month, misfit, 0, count, pulls)
    months = begin = 0
    mean = square = 0.0
    for end in range(1, count + 1):
        if end < count and month[end] == month[begin]:
            continue
        m = month[begin]
        if 0 <= m < middles.size:
            part = slice(begin, end)
            month_counts[m] = _choose_members(residual[part], kept[part], gate, member[part])
            if month_counts[m]:
                departure, sigma = _month_mean(
                    variance[part], residual[part], member[part], passes[part], misfit, parts
                )
                month_values[m, 1] = _change(theta, middles[m], reference)
                month_values[m, 0] = month_values[m, 1] + departure
                month_values[m, 2] = np.hypot(sigma, level)
                month_values[m, 3] = _response(
                    terms, variance, member[part], misfit, begin, end, pulls,
                    m - DEPARTURE_MONTHS, m + DEPARTURE_MONTHS, inverse,
                )  # fmt: skip
                for i in range(begin, end):
                    if member[i]:
                        flags[i] |= IN_MONTH
                months += 1
                mean += departure
                square += departure * departure
        begin = end
    if months >= 3:
        mean /= months
        fit[INTERANNUAL] = np.sqrt(max(square / months - mean * mean, 0.0))


@njit(cache=True, nogil=True, error_model="numpy")
def fit_block(
    begin, end, columns, passes, month, entries, offsets, node_x, node_y, node_r, options,
    reference, middles, fit, counts, flags, month_values, month_counts,
):  # fmt: skip
    """Fit the nodes of a block and average their months.

    ``columns``: x, y, t (years), cos 2πt, sin 2πt, height, σ² of all segments. ``options``:
    edit_mads, max_iterations, max_condition, fewest segments, fewest passes, shortest span
    (years). ``fit``, ``counts``, ``flags``, ``month_values`` (change, model, σ,
    response) and
    ``month_counts`` are filled.
    """
    for k in range(begin, end):
        part = slice(offsets[k], offsets[k + 1])
        _fit_node(
            columns, passes, month, entries[part], node_x[k], node_y[k], node_r[k], options,
            reference, middles, fit[k], counts[k], flags[part], month_values[k], month_counts[k],
        )  # fmt: skip


@njit(cache=True, error_model="numpy")
def _gate(
    terms, residual, passes, t, first, last, starts, stretches, known, edit_mads, spread,
    pass_variance, covariance, work, kept,
):  # fmt: skip
    """Flag the new segments that enter a vintage, as :func:`_edit` does; return the stretches.

    The limits of stretches hold what the forecast does not know. Witnesses are passes up to now.
    """
    begin_new = known
    known = _cut_stretches(passes, t, first, last, starts, stretches, known)
    _level_stretches(residual, starts, stretches, begin_new, known, work)
    centre = np.empty(TERMS)
    gate = edit_mads * np.sqrt(spread[S_WITHIN] ** 2 + GATE_FLOOR_M**2)
    for g in range(begin_new, known):
        begin, end, middle = starts[g], starts[g + 1], stretches[g, MEDIAN]
        for j in range(TERMS):
            centre[j] = terms[j, (begin + end) // 2]
        between = STRETCH_MADS * np.sqrt(
            spread[S_BETWEEN] ** 2 + pass_variance + max(_quadratic(centre, covariance), 0.0)
        )
        if end - begin >= AGREEING_SEGMENTS:
            limit = max(between, STRETCH_FLOOR_M)
            whole = abs(middle) <= limit or _has_witness(
                middle, limit, g, passes, starts, stretches, known
            )
            own = _own_gate(residual, begin, end, middle, gate, edit_mads, work)
            for i in range(begin, end):
                kept[i] = 1 if whole and abs(residual[i] - middle) <= own else 0
        else:
            limit = np.hypot(between, gate)
            for i in range(begin, end):
                good = abs(residual[i]) <= limit or _has_witness(
                    residual[i], limit, g, passes, starts, stretches, known
                )
                kept[i] = 1 if good else 0
    return known


@njit(cache=True, error_model="numpy")
def _causal_node(
    columns, all_passes, all_month, rows, node_x, node_y, radius, options, middles, values, counts,
    flags,
):  # fmt: skip
    """Run one node's vintages; see :func:`causal_block`."""
    total = rows.size
    if total == 0:
        return
    x, y, t, c, s = (
        columns[0][rows], columns[1][rows], columns[2][rows], columns[3][rows], columns[4][rows]
    )  # fmt: skip
    h, variance = columns[5][rows], columns[6][rows]
    passes, month = all_passes[rows], all_month[rows]
    kept, residual = np.ones(total, np.uint8), np.empty(total)
    member = np.zeros(total, np.uint8)
    numbers = np.zeros(2, np.int64)
    frame, terms, z = np.empty(7), np.empty((TERMS, total)), np.empty(total)
    prior, spread, parts = np.empty(TERMS), np.zeros(SPREADS), np.zeros(2)
    starts, stretches = np.empty(total + 1, np.int64), np.empty((total, 2))
    gaps = np.empty(total)
    known = 0
    theta, start, shift = np.zeros(TERMS), np.zeros(TERMS), np.zeros(TERMS)
    normal, inverse = np.zeros((TERMS, TERMS)), np.zeros((TERMS, TERMS))
    means, shared = np.zeros((TERMS, TERMS)), np.zeros((TERMS, TERMS))
    covariance = np.zeros((TERMS, TERMS))
    right, right_means, sums = np.zeros(TERMS), np.zeros(TERMS), np.zeros(5)
    full, b = np.zeros(TERMS), np.zeros(TERMS)
    pulls = np.zeros((middles.size, TERMS))
    cosine, sine = np.cos(_TWO_PI * middles[0]), np.sin(_TWO_PI * middles[0])
    elevation = slope = u = v = 0.0
    departure = visible = np.nan
    early = np.int64(0)
    while early < total and month[early] < START_MONTHS:
        early += 1
    started = False
    begin = end = 0
    _fill_prior(radius, prior)
    for m in range(middles.size):
        begin = end
        while end < total and month[end] <= m:
            end += 1
        new = end > begin
        if not started:
            if not new:
                continue
            past = slice(0, end)
            for i in range(end):
                kept[i] = 1
            status = _enough(
                kept[past], t[past], passes[past], options[3], options[4], options[5], numbers
            )
            if status != FITTED:
                continue
            _find_frame(x[past], y[past], t[past], h[past], radius, frame)
            _place(x, y, t, c, s, h, frame, np.int64(0), end, terms, z)
            # All terms from the first vintage on: what the past leaves open the prior holds,
            # and a track that comes later finds its slope term waiting.
            degree = _robust_fit(
                terms, z, t, passes, variance, end, starts, stretches, kept, residual, options,
                np.inf, prior, normal, inverse, start, spread,
            )  # fmt: skip
            status = _enough(
                kept[past], t[past], passes[past], options[3], options[4], options[5], numbers
            )
            if degree < 0 or status != FITTED:
                continue
            started = True
            u, v = _in_frame(node_x, node_y, frame)
            first = np.int64(0)
            while starts[known] < end:
                known += 1
            normal[:] = 0.0
        else:
            first = np.int64(begin)
        if new:
            if first > 0:
                # From the first vintage on its frame stands and only accumulators grow.
                _place(x, y, t, c, s, h, frame, first, end, terms, z)
                _residuals(terms, z, theta, first, end, residual)
                known = _gate(
                    terms, residual, passes, t, first, end, starts, stretches, known, options[0],
                    spread, parts[1], covariance, gaps, kept,
                )  # fmt: skip
            # Sums of departures from the first vintage lose no digits to the relief.
            _residuals(terms, z, start, first, end, residual)
            _add_passes(
                terms, residual, variance, first, end, spread[S_MISFIT], kept, passes, normal,
                means, shared, right, right_means, sums,
            )  # fmt: skip
            _add_pulls(terms, variance, kept, month, spread[S_MISFIT], first, np.int64(end), pulls)
            for j in range(TERMS):
                full[j] = right[j] + _dot(normal[j], start)
            if not _solve(normal, full, prior, ACTIVE[0], inverse, theta):
                return
            for j in range(TERMS):
                shift[j] = theta[j] - start[j]
            everything = sums[3] - 2.0 * _dot(shift, right) + _quadratic(shift, normal)
            between = sums[4] - 2.0 * _dot(shift, right_means) + _quadratic(shift, means)
            _variances(
                normal, means, shared, inverse, sums, max(everything, 0.0), max(between, 0.0),
                parts,
            )  # fmt: skip
            _covariance(inverse, normal, shared, prior, ACTIVE[0], parts, covariance)
            _fill_terms(u, v, middles[0] - frame[4], cosine, sine, b)
            elevation = frame[5] + _dot(b, theta)
            along, across = _gradient(theta, u, v, frame)
            slope = np.hypot(along, across)
            if early:
                _residuals(terms, z, theta, np.int64(0), early, residual)
                departure = _weighted_mean(residual, variance, kept, spread[S_MISFIT], early)
                if np.isfinite(departure):
                    visible = _response(
                        terms, variance, kept[:early], spread[S_MISFIT], np.int64(0), early, pulls,
                        0, START_MONTHS - 1, inverse,
                    )  # fmt: skip
        values[m, C_ELEVATION], values[m, C_SLOPE] = elevation, slope
        values[m, C_START], values[m, C_START_RESPONSE] = departure, visible
        values[m, C_MODEL] = _change(theta, middles[m], middles[0])
        for j in range(6):
            b[j] = 0.0
        b[6] = middles[m] - middles[0]
        b[7] = np.cos(_TWO_PI * middles[m]) - cosine
        b[8] = np.sin(_TWO_PI * middles[m]) - sine
        values[m, C_SIGMA] = _sigma(b, covariance)
        values[m, C_RATE] = theta[6]
        values[m, C_AMPLITUDE] = np.hypot(theta[7], theta[8])
        values[m, C_PHASE] = np.arctan2(theta[8], theta[7])
        counts[m] = 0
        if new and month[end - 1] == m:
            while month[begin] < m:
                begin += 1
            part = slice(begin, end)
            _residuals(terms, z, theta, begin, end, residual)
            gate = options[0] * np.sqrt(spread[S_ALL] ** 2 + parts[1] + GATE_FLOOR_M**2)
            counts[m] = _choose_members(residual[part], kept[part], gate, member[part])
            if counts[m]:
                values[m, C_RESIDUAL], values[m, C_RESIDUAL_SIGMA] = _month_mean(
                    variance[part], residual[part], member[part], passes[part], spread[S_MISFIT],
                    parts,
                )  # fmt: skip
                values[m, C_RESPONSE] = _response(
                    terms, variance, member[part], spread[S_MISFIT], begin, end, pulls,
                    m - DEPARTURE_MONTHS, m, inverse,
                )  # fmt: skip
                for i in range(begin, end):
                    flags[i] = IN_MONTH if member[i] else 0


@njit(cache=True, nogil=True, error_model="numpy")
def causal_block(
    begin, end, columns, passes, month, entries, offsets, node_x, node_y, node_r, options, middles,
    values, counts, flags,
):  # fmt: skip
    """Run the vintages of the nodes of a block, month by month, on the past alone.

    ``columns`` and ``options`` as for :func:`fit_block`, the span being that of the first
    vintage. ``values`` and ``counts`` (−1: no vintage yet) are filled for every node and month,
    ``flags`` for every entry.
    """
    for k in range(begin, end):
        part = slice(offsets[k], offsets[k + 1])
        _causal_node(
            columns, passes, month, entries[part], node_x[k], node_y[k], node_r[k], options,
            middles, values[k], counts[k], flags[part],
        )  # fmt: skip
