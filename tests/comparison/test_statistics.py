import itertools

import numpy as np
import pytest
from scipy import stats

from jnn.comparison.statistics import (
    Paired,
    detectable_difference,
    expected_best,
    holm,
    paired_t,
    steps_to_target,
    verdict,
)


def test_paired_t_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12))
    ours, scipys = paired_t(a, b), stats.ttest_rel(a, b)
    interval = scipys.confidence_interval(0.95)
    np.testing.assert_allclose([ours.p_value, ours.low, ours.high], [scipys.pvalue, interval.low, interval.high], rtol=1e-9)
    np.testing.assert_allclose(ours.difference, (a - b).mean(), rtol=1e-12)


def test_identical_losses_differ_by_nothing_for_certain():
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == Paired(0.0, 0.0, 0.0, 1.0)


def test_a_constant_difference_is_certain():
    assert paired_t([2.0, 3.0], [1.0, 2.0]) == Paired(1.0, 1.0, 1.0, 0.0)


def test_holm_is_the_closed_test_of_bonferroni():
    # a hypothesis is rejected where every intersection that holds it is: the definition, over all subsets
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.2])
    subsets = [list(s) for n in range(1, 6) for s in itertools.combinations(range(5), n)]
    closed = [min(1.0, max(len(s) * p[s].min() for s in subsets if i in s)) for i in range(5)]
    np.testing.assert_allclose(holm(p), closed, rtol=1e-12)


def test_holm_stays_within_one():
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("studies, comparisons", [(8, 1), (32, 9)])
def test_the_detectable_difference_is_found_four_times_out_of_five(studies, comparisons):
    rng = np.random.default_rng(1)
    sample = rng.normal(size=studies)
    shift = detectable_difference(sample, np.zeros(studies), comparisons)
    draws = shift + sample.std(ddof=1) * rng.normal(size=(100_000, studies))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05 / comparisons
    np.testing.assert_allclose(found.mean(), 0.8, atol=0.005)


def test_nothing_is_too_small_to_detect_without_spread():
    assert detectable_difference([1.0, 2.0], [1.0, 2.0], 3) == 0.0


@pytest.mark.parametrize(
    "paired, p_adjusted, expected",
    [
        (Paired(-0.2, -0.3, -0.1, 0.001), 0.01, "better"),
        (Paired(0.2, 0.1, 0.3, 0.001), 0.01, "worse"),
        (Paired(0.2, 0.1, 0.3, 0.001), 0.06, "no difference shown"),
        (Paired(-0.005, -0.009, -0.001, 0.01), 0.01, "equivalent"),
        (Paired(0.005, -0.02, 0.03, 0.5), 0.5, "no difference shown"),
        (Paired(0.009, 0.006, 0.012, 0.001), 0.001, "no difference shown"),
        (Paired(0.0, 0.0, 0.0, 1.0), 1.0, "equivalent"),
    ],
)
def test_verdicts_at_a_margin_of_one_hundredth(paired, p_adjusted, expected):
    assert verdict(paired, p_adjusted, 0.01) == expected


def test_the_expected_best_is_the_mean_over_all_choices():
    losses = np.random.default_rng(2).normal(size=(3, 7))
    losses[1, :4] = losses[1, 0]  # ties
    every = [
        [np.mean([min(chosen) for chosen in itertools.combinations(row, k)]) for k in range(1, 8)] for row in losses.tolist()
    ]
    np.testing.assert_allclose(expected_best(losses), every, rtol=1e-12)


def test_the_expected_best_of_independent_trials_is_unbiased():
    # the lowest of k uniform numbers is 1 / (k + 1) on the average; the plug-in estimate of Dodge et al. 2019 is lower
    found = expected_best(np.random.default_rng(3).random((20_000, 6)))
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - 1 / np.arange(2, 8)) < 4 * error)


def test_a_target_is_reached_at_the_first_evaluation_at_or_under_it():
    curves = [[3, 2, 1], [3, 1, 2], [3, 2, 2], [np.nan, 1, np.inf], [np.nan, np.nan, np.nan]]
    reached = steps_to_target([10, 20, 30], np.float32(curves), 1.0)
    assert reached.tolist() == [30, 20, np.inf, 20, np.inf]
