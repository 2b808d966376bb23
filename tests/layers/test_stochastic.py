import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jnn

from layer_properties import Case, LayerProperties

CASES = [
    Case("dropout", lambda rate: jnn.dropout(rate), (64,), lambda p, s, x: x, (0.3,), is_random=True),
]


class TestEveryStochasticLayer(LayerProperties):
    cases = CASES


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(rate, key):
    x = jnp.full((400, 250), 3.0)
    y, _ = jnn.dropout(rate).apply({}, {}, x, key=key, train=True)
    dropped = int(np.sum(y == 0))
    assert scipy.stats.binomtest(dropped, x.size, rate).pvalue > 1e-4
    sigma = 3 * np.sqrt(rate / (1 - rate) / x.size)
    np.testing.assert_allclose(np.mean(np.asarray(y), dtype=np.float64), 3, atol=4 * sigma)
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)


def test_dropout_drops_entries_independently(key):
    dropped = np.asarray(jnn.dropout(0.5).apply({}, {}, jnp.ones((20000, 3)), key=key, train=True)[0] == 0)
    patterns = np.bincount(dropped @ np.array([1, 2, 4]), minlength=8)
    assert scipy.stats.chisquare(patterns).pvalue > 1e-4


def test_dropout_of_nothing_is_the_identity_and_of_everything_is_zero_with_finite_gradients(key):
    x = jnp.linspace(-1, 1, 50)

    def total(rate, x):
        return jnp.sum(jnn.dropout(rate).apply({}, {}, x, key=key, train=True)[0])

    np.testing.assert_array_equal(jnn.dropout(0.0).apply({}, {}, x, key=key, train=True)[0], x)
    np.testing.assert_array_equal(jnn.dropout(1.0).apply({}, {}, x, key=key, train=True)[0], 0)
    np.testing.assert_array_equal(jax.grad(total, 1)(0.0, x), 1)
    np.testing.assert_array_equal(jax.grad(total, 1)(1.0, x), 0)
    assert np.isfinite(jax.grad(total)(1.0, x))


def test_dropout_gradients_are_those_of_its_formula(key):
    x, rate = jnp.linspace(1, 2, 50), 0.3
    layer = jnn.dropout(rate)
    kept = np.asarray(layer.apply({}, {}, x, key=key, train=True)[0]) != 0
    by_x = jax.grad(lambda x: jnp.sum(layer.apply({}, {}, x, key=key, train=True)[0]))(x)
    by_rate = jax.grad(lambda r: jnp.sum(jnn.dropout(r).apply({}, {}, x, key=key, train=True)[0]))(rate)
    np.testing.assert_allclose(by_x, kept / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(by_rate, np.sum(np.asarray(x)[kept]) / (1 - rate) ** 2, rtol=1e-5)


def test_dropout_scales_float64_in_float64(key, x64):
    y, _ = jnn.dropout(0.1).apply({}, {}, jnp.ones(50, jnp.float64), key=key, train=True)
    np.testing.assert_allclose(y[y != 0], 1 / 0.9, rtol=1e-14)


@pytest.mark.parametrize("rate", [-0.1, 1.5, 50])
def test_dropout_refuses_a_rate_that_is_no_share(rate, raises):
    with raises(ValueError, f"dropout: rate is the share dropped and lies in [0, 1], got {rate}"):
        jnn.dropout(rate)


def test_dropout_without_a_key_says_so(raises):
    with raises(ValueError, "dropout: needs a key when train=True"):
        jnn.dropout(0.5).apply({}, {}, jnp.ones(3), train=True)
