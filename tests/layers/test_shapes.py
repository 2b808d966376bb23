import jax.numpy as jnp
import numpy as np

import jnn

from layer_properties import Case, LayerProperties

CASES = [
    Case("flatten", lambda: jnn.flatten(), (2, 3, 2), lambda p, s, x: x.reshape(*x.shape[:-3], 12)),
]


class TestEveryShapeLayer(LayerProperties):
    cases = CASES


def test_flatten_puts_the_last_axis_fastest():
    y, _ = jnn.flatten(2).apply({}, {}, jnp.arange(12).reshape(2, 2, 3))
    np.testing.assert_array_equal(y, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])
    np.testing.assert_array_equal(jnn.flatten(1).apply({}, {}, y)[0], y)


def test_flatten_says_how_many_axes_it_wants(raises):
    with raises(ValueError, "flatten: expected an array of at least 3 axes, got float32 (2, 5)"):
        jnn.flatten().apply({}, {}, jnp.ones((2, 5)))
    with raises(ValueError, "flatten: expected an array of at least 3 axes, got a tuple of 2"):
        jnn.flatten().apply({}, {}, (jnp.ones(2), jnp.ones(2)))
    with raises(ValueError, "flatten: axes must be at least 1, got 0"):
        jnn.flatten(0)
