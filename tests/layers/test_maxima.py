import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.layers.maxima import larger, largest


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_value_and_gradient_are_those_of_jax(axes, key):
    x = jnp.round(jax.random.normal(key, (4, 5, 3)))  # with ties
    towards = jax.random.normal(key, jnp.max(x, axes).shape)

    def value_and_gradient(maximum):
        return jax.value_and_grad(lambda x: jnp.sum(towards * maximum(x, axes)))(x)

    np.testing.assert_allclose(value_and_gradient(largest)[0], value_and_gradient(jnp.max)[0], rtol=1e-6)
    np.testing.assert_allclose(value_and_gradient(largest)[1], value_and_gradient(jnp.max)[1], rtol=1e-6)


def test_the_larger_of_two_is_that_of_jax(key):
    a, b = jnp.round(jax.random.normal(key, (2, 50)))
    for argument in (0, 1):
        found, expected = (jax.grad(lambda a, b, f=f: jnp.sum(f(a, b) ** 2), argument)(a, b) for f in (larger, jnp.maximum))
        np.testing.assert_allclose(found, expected)


def test_what_is_no_number_stays_none():
    x = jnp.array([1.0, jnp.nan, 3.0])
    assert jnp.isnan(largest(x, (0,)))
    assert jnp.isnan(jax.grad(lambda x: jnp.sum(largest(x * x, (0,))))(x)).any()


def test_a_pool_behind_a_norm_has_a_finite_gradient_in_a_compiled_run(key):
    # with XLA's passes of LLVM off, as in this suite, jax's own derivative of the maximum was 0 / 0 here
    x, y = jax.random.normal(key, (8, 8, 8, 1)), jnp.arange(8) % 3
    layers = (jnn.conv(4, 3), jax.nn.gelu, jnn.batch_norm(), jnn.max_pool(2), jnn.flatten(), jnn.dropout(0.2), jnn.dense(3))
    objective = jnn.supervised(jnn.serial(*layers), jnn.losses.softmax_cross_entropy)
    keeps_gradients = (lambda params: params), lambda g, s, params=None: (jax.tree.map(jnp.zeros_like, g), g)
    fitted = jnn.fit(jnn.training(objective, keeps_gradients), (x, y), key=key, steps=1)
    for path, gradient in jnn.tree.flatten(fitted.train_state.opt_state).items():
        assert jnp.isfinite(gradient).all() and jnp.any(gradient != 0), path
