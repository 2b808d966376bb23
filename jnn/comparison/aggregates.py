"""From the runs of many tasks to one figure and its interval: scores, their interquartile mean, performance profiles."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jnn.comparison.statistics import LEVEL

DRAWS = 2000


class Estimate(NamedTuple):
    """A statistic and its 95 % interval, number by number."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def normalised_scores(losses, initial: float, reference: float) -> np.ndarray:
    """(studies,) -> (studies,):  (initial - loss) / (initial - reference):  0 has learned nothing, 1 as much as the reference.

    `initial` and `reference` are means over the studies, so that a score is the loss on another scale, the same for every
    run of the task: a ratio within each study would hide the reference's own luck, and blow up where it is bad. NaN where the
    reference learned nothing."""
    learned = initial - reference
    return (initial - np.asarray(losses, float)) / learned if learned > 0 else np.full(np.shape(losses), np.nan)


def interquartile_mean(scores) -> np.ndarray:
    """(..., runs) -> (...):  the mean of the middle half. Agarwal et al. 2021, arXiv:2108.13264."""
    from scipy import stats

    return stats.trim_mean(scores, 0.25, axis=-1)


def bootstrapped(scores, statistic: Callable, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """(tasks, studies) -> the statistic of all runs and its 95 % percentile interval, studies drawn anew within each task.

    statistic: (draws, runs) -> (draws, ...). Agarwal et al. 2021, section 4. With few studies a percentile interval is a
    little too narrow: of the interquartile mean of normal scores it covered 91 to 94 % at 8, 94 to 95 % at 32. It holds for
    these tasks, not for others."""
    scores = np.asarray(scores, float)
    tasks, studies = scores.shape
    chosen = np.random.default_rng(seed).integers(studies, size=(draws, tasks, studies))
    drawn = scores[np.arange(tasks)[:, None], chosen].reshape(draws, -1)
    low, high = np.quantile(statistic(drawn), [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return Estimate(statistic(scores.reshape(1, -1))[0], low, high)


def score_profile(thresholds) -> Callable:
    """(thresholds,) -> the statistic (draws, runs) -> (draws, thresholds):  the share of runs that score at least as much.

    The performance profile of Agarwal et al. 2021, section 4.2."""

    def shares(scores):
        ordered = np.sort(scores, axis=-1)
        below = np.stack([np.searchsorted(row, thresholds, side="left") for row in ordered])
        return 1 - below / scores.shape[-1]

    return shares


def time_profile(times, ratios) -> np.ndarray:
    """(optimizers, problems), (ratios,) -> (optimizers, ratios):  the share of problems solved within so many times the
    shortest time that any optimizer took. Dolan & More 2002.

    Times of inf are not solved; a problem that nobody solves counts for nobody."""
    times = np.asarray(times, float)
    best = times.min(axis=0)
    # where nobody solves, inf / inf is no number and no ratio
    relative = np.divide(times, best, out=np.full_like(times, np.inf), where=np.isfinite(best))
    return (relative[:, :, None] <= np.asarray(ratios, float)).mean(axis=1)
