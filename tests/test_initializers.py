"""Every initializer is a row of CASES."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jnn import initializers


class Case(NamedTuple):
    name: str
    make: Callable
    variance: Callable[[int], float]  # of fan_in


CASES = [
    Case("lecun_normal", initializers.lecun_normal, lambda fan_in: 1 / fan_in),
    Case("kaiming_normal", initializers.kaiming_normal, lambda fan_in: 2 / fan_in),
]

every_normal = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_normal
@pytest.mark.parametrize(("shape", "fan_in"), [((100, 150), 100), ((3, 3, 24, 70), 216)], ids=str)
def test_values_follow_the_truncated_normal_of_their_formula(case, shape, fan_in, key):
    values = np.ravel(case.make()(key, shape, jnp.float32))
    at_two = scipy.stats.truncnorm(-2, 2)
    scale = np.sqrt(case.variance(fan_in)) / at_two.std()
    assert scipy.stats.kstest(values / scale, at_two.cdf).pvalue > 1e-3
    np.testing.assert_allclose(values.var(), case.variance(fan_in), rtol=0.05)


@every_normal
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_dtype_and_shape_are_those_asked_for(case, dtype, key, x64):
    values = case.make()(key, (3, 4), dtype)
    assert (values.dtype, values.shape) == (dtype, (3, 4))


@every_normal
def test_same_key_gives_the_same_under_jit_and_vmap_and_another_key_others(case, key):
    keys = jax.random.split(key, 3)
    draw = lambda k: case.make()(k, (5, 7), jnp.float32)
    apart = np.stack([draw(k) for k in keys])
    np.testing.assert_array_equal(np.stack([draw(k) for k in keys]), apart)
    np.testing.assert_allclose(jax.jit(jax.vmap(draw))(keys), apart, rtol=1e-6)
    assert len(np.unique(apart)) == apart.size


def test_zeros_are_zero_in_the_dtype_asked_for(key):
    values = initializers.zeros(key, (3, 0, 2), jnp.bfloat16)
    assert (values.dtype, values.shape) == (jnp.bfloat16, (3, 0, 2))
    np.testing.assert_array_equal(initializers.zeros(key, (5,), jnp.float32), 0)
