import jax
import numpy as np
import pytest

from experiments import cross_validation, hyperparameters, searches

pytestmark = pytest.mark.slow


def test_searches_find_what_learns_and_the_learning_rate_matters_most(quick):
    results = quick("hyperparameters", ["searches"])
    for name in hyperparameters.SPACES:
        for method in searches.METHODS:
            test = results[name][method]["test"]
            assert len(test) == 4
            assert np.mean(test) < 1.0  # equal scores have log 10
        rate, penalty = results[name]["effects"]
        assert rate > 0.5 > penalty
    assert results["the penalty hardly matters"]["effects"][1] < 0.02


def test_points_of_a_grid_are_on_few_values_and_random_ones_are_not(key):
    points = np.asarray(searches.grid(key, 4))
    assert points.shape == (16, 2)
    assert len(np.unique(points, axis=0)) == 16
    for column in points.T:
        values = np.unique(column)
        assert len(values) == 4
        np.testing.assert_allclose(np.diff(values), 0.25, rtol=1e-5)
        assert 0 <= values[0] < 0.25
    close = np.asarray(searches.near(key, np.array([0.95, 0.5]), 100))
    assert np.all((close[:, 0] >= 0.75) & (close[:, 0] <= 1) & (close[:, 1] >= 0.375) & (close[:, 1] <= 0.625))


def test_random_beats_the_grid_where_one_number_matters_and_not_where_both_do():
    """On |x - 0.3| the grid's error is uniform to an eighth, that of the best of 16 at random about 1 / 34."""
    keys = jax.random.split(jax.random.key(0), 400)
    one = searches.searched(lambda p: [np.abs(np.asarray(p)[..., 0] - 0.3)] * 2, keys, 4)
    error = {name: searches.winners(*found[1:]).mean() for name, found in one.items()}
    np.testing.assert_allclose(error["grid"], 1 / 16, rtol=0.1)
    np.testing.assert_allclose(error["random"], 1 / 34, rtol=0.25)
    assert error["coarse to fine"] < error["random"]
    shares = searches.effects(*one["grid"][:2])
    np.testing.assert_allclose(shares, [1, 0], atol=1e-6)

    both = searches.searched(lambda p: [np.max(np.abs(np.asarray(p) - 0.5), axis=-1)] * 2, keys, 4)
    error = {name: searches.winners(*found[1:]).mean() for name, found in both.items()}
    assert error["grid"] < error["random"]


def test_what_is_held_out_is_not_trained_on(key):
    found = cross_validation.splits(key, 1797, hyperparameters.POOL, hyperparameters.FOLDS, 2, 50)
    assert found["order"].shape == (2, hyperparameters.FOLDS + 1, 50, 32)
    for order, held, test in zip(found["order"], found["held"], found["test"], strict=True):
        pool = set(range(1797)) - set(test)
        assert len(pool) == hyperparameters.POOL
        assert set(held.ravel()) == pool == set(order[-1].ravel())
        for trained, outside in zip(order, held, strict=False):
            assert set(trained.ravel()) == pool - set(outside)
