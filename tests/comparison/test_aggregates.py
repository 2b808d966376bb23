import itertools

import numpy as np
import pytest
from scipy import stats

from jnn.comparison.aggregates import bootstrapped, interquartile_mean, normalised_scores, score_profile, time_profile


def test_a_score_is_0_before_training_and_1_at_the_references_mean():
    np.testing.assert_allclose(normalised_scores([2.0, 0.5, 0.25, 2.75], 2.0, 0.5), [0, 1, 7 / 6, -0.5], rtol=1e-12)


@pytest.mark.parametrize("reference", [2.0, 2.5, np.nan])
def test_there_is_no_score_where_the_reference_learned_nothing(reference):
    assert np.isnan(normalised_scores([1.0, 2.0], 2.0, reference)).all()


@pytest.mark.parametrize("runs", [1, 3, 4, 8, 10, 33])
def test_the_interquartile_mean_leaves_out_a_quarter_on_each_side(runs):
    scores = np.random.default_rng(0).normal(size=(5, runs))
    cut = runs // 4
    expected = [sum(sorted(row)[cut : runs - cut]) / (runs - 2 * cut) for row in scores.tolist()]
    np.testing.assert_allclose(interquartile_mean(scores), expected, rtol=1e-12)
    np.testing.assert_allclose(interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=1), rtol=1e-12)


def test_the_bootstrap_draws_within_each_task():
    # every run of a task scores the same: whatever is drawn, the mean is the same, which it is not where tasks are mixed
    value, low, high = bootstrapped(np.repeat([[0.0], [1.0], [5.0]], 6, axis=1), lambda scores: scores.mean(axis=-1))
    assert value == pytest.approx(2.0)
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(2.0)


def test_the_bootstrap_of_a_mean_is_scipys():
    scores = np.random.default_rng(1).gamma(2.0, size=(1, 25))
    ours = bootstrapped(scores, lambda drawn: drawn.mean(axis=-1), draws=20_000)
    scipys = stats.bootstrap(
        scores, np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # two Monte Carlo quantiles: each has a standard error of about 1 % of the width
    np.testing.assert_allclose([ours.low, ours.high], scipys, atol=0.05 * (scipys.high - scipys.low))


def test_the_interval_of_the_interquartile_mean_covers_it():
    rng = np.random.default_rng(3)
    place, size = np.array([[0.9], [1.0], [1.2]]), np.array([[0.05], [0.2], [0.1]])

    def draw(studies):
        return place + size * rng.standard_normal((3, studies))

    truth = interquartile_mean(draw(400_000).ravel())
    intervals = [bootstrapped(draw(32), interquartile_mean, draws=400, seed=seed)[1:] for seed in range(400)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    # nominally 95 %; a percentile bootstrap of 32 is a little narrow, and 400 intervals have a standard error of 1.1 %
    assert 0.91 <= covered <= 0.985


def test_a_score_profile_counts_runs_that_score_at_least_as_much():
    scores = np.array([[0.5, 1.0, 1.0, 1.5], [0.0, 0.0, 0.0, 2.0]])
    thresholds = [0.0, 0.5, 1.0, 1.25, 2.0, 3.0]
    expected = [[np.mean(row >= threshold) for threshold in thresholds] for row in scores]
    np.testing.assert_array_equal(score_profile(thresholds)(scores), expected)


def test_a_time_profile_is_dolan_and_mores():
    times = np.array([[1.0, 4.0, np.inf, np.inf, 2.0], [2.0, 2.0, 6.0, np.inf, np.inf], [3.0, np.inf, 3.0, np.inf, 2.0]])
    ratios = [1.0, 1.5, 2.0, 10.0]
    expected = np.zeros((3, 4))
    for (i, solver), (j, ratio) in itertools.product(enumerate(times), enumerate(ratios)):
        solved = [t <= ratio * min(times[:, p]) and np.isfinite(t) for p, t in enumerate(solver)]
        expected[i, j] = sum(solved) / len(solved)
    np.testing.assert_array_equal(time_profile(times, ratios), expected)
