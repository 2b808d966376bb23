"""A search along a line that is given one value and slope a call and says where it wants the next. Numbers are scalars of one
dtype, and every branch is a `where`: searches under `vmap` do not wait for each other."""

from typing import Any, NamedTuple

import jax.numpy as jnp

DECREASE, CURVATURE, PRECISION = 1e-3, 0.9, 0.1  # ftol, gtol and xtol of L-BFGS-B
LONGEST, TRIALS = 1e10, 20


class LineSearch(NamedTuple):
    step: Any  # [], the trial: a multiple of the direction
    trials: Any  # int32 [], evaluated so far
    value: Any  # [], at the line's origin
    slope: Any  # [], at the line's origin
    best: Any  # [], the step of the least value so far
    best_value: Any  # []
    best_slope: Any  # []
    other: Any  # [], with `best` the ends of an interval, once a minimizer is bracketed by it
    other_value: Any  # []
    other_slope: Any  # []
    bracketed: Any  # bool []
    descended: Any  # bool [], a step has shown a sufficient decrease and no negative slope
    low: Any  # [], where the next trial may lie
    high: Any  # []
    width: Any  # [], of the interval
    width_before: Any  # []


def begin(value, slope, step) -> LineSearch:
    """A search from the origin of a line, given its value, its slope < 0, and the first trial step > 0."""
    zero, longest = jnp.zeros_like(value), jnp.full_like(value, LONGEST)
    no = jnp.zeros([], bool)
    ends = (zero, value, slope, zero, value, slope)
    return LineSearch(step, jnp.int32(0), value, slope, *ends, no, no, zero, 5 * step, longest, 2 * longest)


def advance(search: LineSearch, value, slope):
    """-> (search, accepted, failed), given value and slope at the trial `search.step`.

    accepted: the trial is good: it meets the strong Wolfe conditions, value <= value_0 + 1e-3 step slope_0 and
        |slope| <= 0.9 |slope_0|, or it is a decrease where the interval is too short to go on.
    failed: there is nothing to gain on this line, or 20 trials were not enough; `search.best` is the best of them.
    Else `search.step` is the next trial. A value or slope that is not finite counts as a value too high.

    More & Thuente 1994, as in MINPACK-2's dcsrch, with the tolerances of L-BFGS-B."""
    finite = jnp.isfinite(value) & jnp.isfinite(slope)
    value, slope = jnp.where(finite, value, jnp.inf), jnp.where(finite, slope, jnp.zeros_like(slope))
    step, test_slope = search.step, DECREASE * search.slope
    test_value = search.value + step * test_slope
    descended = search.descended | ((value <= test_value) & (slope >= 0))

    trials = search.trials + 1
    stuck = _is_stuck(search, step) | ((step >= LONGEST) & (value <= test_value) & (slope <= test_slope))
    wolfe = (value <= test_value) & (jnp.abs(slope) <= CURVATURE * jnp.abs(search.slope))
    accepted = wolfe | (stuck & (value < search.value))
    failed = ~accepted & (stuck | (trials >= TRIALS))

    # until a step has descended, a lower value without sufficient decrease is compared by value - step * test_slope
    tilted = ~descended & (value <= search.best_value) & (value > test_value)
    tilt = jnp.where(tilted, test_slope, jnp.zeros_like(test_slope))
    best = (search.best, search.best_value - search.best * tilt, search.best_slope - tilt)
    other = (search.other, search.other_value - search.other * tilt, search.other_slope - tilt)
    trial = (step, value - step * tilt, slope - tilt)
    higher, flips = trial[1] > best[1], jnp.sign(trial[2]) * jnp.sign(best[2]) < 0
    following = _interpolate(best, other, trial, higher, flips, search)
    bracketed = search.bracketed | higher | flips

    old = search.best, search.best_value, search.best_slope
    kept = search.other, search.other_value, search.other_slope
    new = step, value, slope
    best = tuple(jnp.where(higher, a, b) for a, b in zip(old, new, strict=True))
    other = tuple(jnp.where(higher, b, jnp.where(flips, a, c)) for a, b, c in zip(old, new, kept, strict=True))
    length = other[0] - best[0]

    # no number comes of a value that was not finite
    following = jnp.where(jnp.isfinite(following), following, best[0] + 0.1 * length)
    halve = bracketed & (jnp.abs(length) >= 0.66 * search.width_before)
    following = jnp.where(halve, best[0] + 0.5 * length, following)
    ahead = following - best[0]
    after = LineSearch(
        step=following,
        trials=trials,
        value=search.value,
        slope=search.slope,
        best=best[0],
        best_value=best[1],
        best_slope=best[2],
        other=other[0],
        other_value=other[1],
        other_slope=other[2],
        bracketed=bracketed,
        descended=descended,
        low=jnp.where(bracketed, jnp.minimum(best[0], other[0]), following + 1.1 * ahead),
        high=jnp.where(bracketed, jnp.maximum(best[0], other[0]), following + 4.0 * ahead),
        width=jnp.where(bracketed, jnp.abs(length), search.width),
        width_before=jnp.where(bracketed, search.width, search.width_before),
    )
    following = jnp.clip(following, 0, LONGEST)
    return after._replace(step=jnp.where(_is_stuck(after, following), after.best, following)), accepted, failed


def _is_stuck(search: LineSearch, step):
    outside = (step <= search.low) | (step >= search.high)
    return search.bracketed & (outside | (search.high - search.low <= PRECISION * search.high))


def _interpolate(best, other, trial, higher, flips, search: LineSearch):
    """The next trial, by the cubic or the parabola through two points (step, value, slope): MINPACK-2's dcstep."""
    (x, fx, dx), (y, fy, dy), (p, fp, dp) = best, other, trial
    theta, root = _cubic(x, fx, dx, p, fp, dp)

    # a higher value: the cubic's minimizer if it is the nearer to the best, else the mean of both
    gamma = jnp.where(p < x, -root, root)
    cubic = x + ((gamma - dx) + theta) / (((gamma - dx) + gamma) + dp) * (p - x)
    parabola = x + dx / ((fx - fp) / (p - x) + dx) / 2 * (p - x)
    if_higher = jnp.where(jnp.abs(cubic - x) <= jnp.abs(parabola - x), cubic, cubic + (parabola - cubic) / 2)

    # a slope of the other sign: the one of both that is the farther from the trial
    gamma = jnp.where(p > x, -root, root)
    cubic = p + ((gamma - dp) + theta) / (((gamma - dp) + gamma) + dx) * (x - p)
    secant = p + dp / (dp - dx) * (x - p)
    if_flips = jnp.where(jnp.abs(cubic - p) > jnp.abs(secant - p), cubic, secant)

    # a smaller slope: as far as the cubic has a minimizer beyond the trial, and not too near the other end
    ratio = ((gamma - dp) + theta) / ((gamma + (dx - dp)) + gamma)
    end = jnp.where(p > x, search.high, search.low)
    cubic = jnp.where((ratio < 0) & (gamma != 0), p + ratio * (x - p), end)
    nearer = jnp.abs(cubic - p) < jnp.abs(secant - p)
    within, bound = jnp.where(nearer, cubic, secant), p + 0.66 * (y - p)
    within = jnp.where(p > x, jnp.minimum(bound, within), jnp.maximum(bound, within))
    beyond = jnp.clip(jnp.where(nearer, secant, cubic), search.low, search.high)
    if_flatter = jnp.where(search.bracketed, within, beyond)

    # a steeper slope
    theta, root = _cubic(y, fy, dy, p, fp, dp)
    gamma = jnp.where(p > y, -root, root)
    cubic = p + ((gamma - dp) + theta) / (((gamma - dp) + gamma) + dy) * (y - p)
    if_steeper = jnp.where(search.bracketed, cubic, end)

    lower = jnp.where(flips, if_flips, jnp.where(jnp.abs(dp) < jnp.abs(dx), if_flatter, if_steeper))
    return jnp.where(higher, if_higher, lower)


def _cubic(x, fx, dx, p, fp, dp):
    theta = 3 * (fx - fp) / (p - x) + dx + dp
    scale = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(dx), jnp.abs(dp)))
    square = (theta / scale) ** 2 - (dx / scale) * (dp / scale)
    return theta, scale * jnp.sqrt(jnp.maximum(square, 0))
