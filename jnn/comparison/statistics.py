"""From paired losses of studies to verdicts; what tuning and time to a target cost."""

from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.05
POWER = 0.8


class Paired(NamedTuple):
    """The paired t over studies of one optimizer against the reference."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_t(losses, reference) -> Paired:
    """(studies,), (studies,) -> the mean of losses - reference, its 95 % interval and two-sided p value (Student 1908).

    Losses that agree in every study give 0, (0, 0) and p = 1."""
    from scipy import stats

    differences = np.asarray(losses, float) - np.asarray(reference, float)
    mean, error = float(differences.mean()), float(stats.sem(differences))
    if error == 0:
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = len(differences) - 1
    half = float(stats.t.isf(LEVEL / 2, freedom)) * error
    return Paired(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def holm(p_values) -> np.ndarray:
    """(n,) -> (n,):  p values adjusted so that the chance of any false rejection stays under the level. Holm 1979."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def detectable_difference(losses, reference, comparisons: int) -> float:
    """The true mean difference that a paired t tells from zero with 80 % power, given the spread of these studies.

    At the level 0.05 / comparisons, which Holm's procedure asks of its smallest p value: an upper bound for the others."""
    from scipy import optimize, stats

    studies, error = _spread(losses, reference)
    if error == 0:
        return 0.0
    high = stats.t.isf(LEVEL / comparisons / 2, studies - 1) + 2
    while _power(high, studies, comparisons) < POWER:
        high *= 2
    shift: Any = optimize.brentq(lambda shift: _power(shift, studies, comparisons) - POWER, 0.0, high)
    return float(shift * error)


def power(difference: float, losses, reference, comparisons: int) -> float:
    """The chance that a paired t tells a true mean difference from zero, given the spread of these studies."""
    studies, error = _spread(losses, reference)
    if error == 0:
        return float(difference != 0)
    return float(_power(difference / error, studies, comparisons))


def exact_interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, from so many of so many. Clopper & Pearson 1934."""
    from scipy import stats

    interval = stats.binomtest(int(count), of).proportion_ci(1 - LEVEL, "exact")
    return float(interval.low), float(interval.high)


def _spread(losses, reference) -> tuple[int, float]:
    from scipy import stats

    differences = np.asarray(losses, float) - np.asarray(reference, float)
    return len(differences), float(stats.sem(differences))


def _power(shift, studies: int, comparisons: int):
    """From the noncentral t distribution, both tails counted (Cohen 1988, section 2.3); shift in standard errors."""
    from scipy import stats

    freedom = studies - 1
    critical = stats.t.isf(LEVEL / comparisons / 2, freedom)
    # the far tail of scipy's noncentral t can be NaN where it is 0
    upper, lower = stats.nct.sf(critical, freedom, abs(shift)), stats.nct.cdf(-critical, freedom, abs(shift))
    return np.nan_to_num(upper, nan=1.0) + np.nan_to_num(lower)


def verdict(paired: Paired, p_adjusted: float, margin: float) -> str:
    """margin: in units of the loss, not a share.

    `better` or `worse` where the adjusted p value is under 0.05 and the difference exceeds the margin; `equivalent` where
    the 95 % interval lies within the margin; else `no difference shown`."""
    if p_adjusted < LEVEL and abs(paired.difference) > margin:
        return "better" if paired.difference < 0 else "worse"
    if -margin <= paired.low and paired.high <= margin:
        return "equivalent"
    return "no difference shown"


def expected_best(losses) -> np.ndarray:
    """(..., trials) -> (..., trials):  the mean of the lowest of k losses, over all choices of k of the trials, k = 1, 2, ...

        sum_i C(trials - i, k - 1) / C(trials, k) * loss_(i),    loss_(1) <= loss_(2) <= ...

    Tang et al. 2020 (arXiv:2004.13705), without replacement: unbiased for the best of k independent trials, where these
    trials are independent. Those of one study are a Latin hypercube: exact for k = 1 and for all of them, between these a
    little under what independent points give, since points that are left over lie evenly."""
    from scipy import special

    ordered = np.sort(np.asarray(losses, float), axis=-1)
    trials = ordered.shape[-1]
    rank, k = np.arange(1, trials + 1), np.arange(1, trials + 1)[:, None]
    weights = special.comb(trials - rank, k - 1) / special.comb(trials, k)
    return ordered @ weights.T


def steps_to_target(step, validation, target: float) -> np.ndarray:
    """(points,), (studies, points) -> (studies,):  the step of the first evaluation at or under the target, inf where none is.

    A loss that is not finite is above every target."""
    reached = np.asarray(validation) <= target  # NaN is not
    return np.where(reached.any(axis=1), np.asarray(step, float)[reached.argmax(axis=1)], np.inf)
