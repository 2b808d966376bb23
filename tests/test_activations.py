"""Every activation is a row of CASES."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jnn
from jnn import activations


class Case(NamedTuple):
    name: str
    function: Callable
    formula: Callable  # in numpy and scipy
    at_zero: float | None = None  # the derivative there, where there is a kink


def glu(x):
    a, b = np.split(x, 2, axis=-1)
    return a * scipy.special.expit(b)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


def approximate_gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


CASES = [
    Case("identity", activations.identity, lambda x: x),
    Case("heaviside", activations.heaviside, lambda x: np.where(x < 0, 0.0, 1.0), at_zero=0),
    Case("sigmoid", activations.sigmoid, scipy.special.expit),
    Case("tanh", activations.tanh, np.tanh),
    Case("relu", activations.relu, lambda x: np.where(x > 0, x, 0), at_zero=0),
    Case("leaky_relu", activations.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), at_zero=1),
    Case("leaky_relu(0.2)", lambda x: activations.leaky_relu(x, 0.2), lambda x: np.where(x > 0, x, 0.2 * x), at_zero=1),
    Case("elu", activations.elu, elu),
    Case("elu(0.5)", lambda x: activations.elu(x, 0.5), lambda x: np.where(x > 0, x, 0.5 * elu(x)), at_zero=0.5),
    Case("selu", activations.selu, selu, at_zero=1.0507009873554805 * 1.6732632423543772),
    Case("gelu", activations.gelu, approximate_gelu),
    Case("gelu, exact", lambda x: activations.gelu(x, approximate=False), lambda x: x * scipy.special.ndtr(x)),
    Case("silu", activations.silu, lambda x: x * scipy.special.expit(x)),
    Case("softplus", activations.softplus, lambda x: np.logaddexp(x, 0)),
    Case("softmax", activations.softmax, lambda x: scipy.special.softmax(x, axis=-1)),
    Case("log_softmax", activations.log_softmax, lambda x: scipy.special.log_softmax(x, axis=-1)),
    Case("glu", activations.glu, glu),
]

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def numbers(dtype, shape=(5, 6)):
    return jnp.asarray(np.random.default_rng(0).normal(0, 3, shape), dtype)


def test_the_table_has_every_activation():
    assert {case.name for case in CASES} >= set(activations.__all__)
    for name in set(activations.__all__) - {"gelu", "heaviside", "identity", "log_softmax", "silu", "softmax"}:
        assert getattr(activations, name) is getattr(jax.nn, name)


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_values_are_those_of_the_formula(case, dtype, x64):
    rtol = 1e-5 if dtype == jnp.float32 else 1e-12
    x = numbers(dtype)
    y = jax.jit(case.function)(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, case.formula(np.asarray(x, np.float64)), rtol=rtol, atol=rtol)


@every
def test_gradients_equal_centred_differences(case):
    if case.name == "heaviside":
        gradient = jax.grad(lambda x: jnp.sum(case.function(x)))(numbers(jnp.float32))
        np.testing.assert_array_equal(gradient, 0)
    else:
        jnn.check_gradients(case.function, (numbers(jnp.float32),))


@pytest.mark.parametrize("case", [case for case in CASES if case.at_zero is not None], ids=lambda case: case.name)
def test_the_derivative_at_a_kink(case):
    np.testing.assert_allclose(jax.grad(lambda x: case.function(x))(0.0), case.at_zero, rtol=1e-6)
    np.testing.assert_allclose(case.function(jnp.zeros(2)), case.formula(np.zeros(2)))


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
def test_large_numbers_give_finite_values_and_gradients(case, dtype):
    x = jnp.asarray([[-1e4, 1e4, 50, -50], [1e4, 1e4, -1e4, -1e4], [0, 0, 0, 0]], dtype)

    def total(x):
        y = case.function(x)
        return jnp.sum(y), y

    (_, y), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
    assert (y.dtype, gradient.dtype) == (dtype, dtype)
    assert np.all(np.isfinite(gradient.astype(jnp.float32)))
    # bfloat16 has 8 bits
    rtol = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(y.astype(jnp.float32), case.formula(np.asarray(x, np.float64)), rtol=rtol, atol=rtol)


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_narrow_dtypes_are_kept_and_near_the_formula(case, dtype):
    x = numbers(dtype)
    y = jax.jit(case.function)(x)
    assert y.dtype == dtype
    expected = case.formula(np.asarray(x, np.float64))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.02, atol=0.02)


@every
def test_jit_vmap_and_scan_give_the_same_values_with_any_leading_axes(case):
    x = numbers(jnp.float32, (2, 3, 4))
    expected = case.formula(np.asarray(x, np.float64))
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(case.function)))(x), expected, **close)
    scanned = jax.jit(lambda x: jax.lax.scan(lambda carry, row: (carry, case.function(row)), None, x)[1])(x)
    np.testing.assert_allclose(scanned, expected, **close)
    assert case.function(x[:0]).shape == (0, *expected.shape[1:])


@every
def test_every_activation_is_a_layer_as_it_is(case, key):
    x = numbers(jnp.float32, (3, 4))
    model = jnn.serial(jnn.dense(6), case.function)
    params, state = model.init(key, x)
    assert (list(params), state) == (["dense_0"], {})
    hidden, _ = jnn.dense(6).apply(params["dense_0"], {}, x)
    expected = case.formula(np.asarray(hidden, np.float64))
    np.testing.assert_allclose(model.apply(params, state, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_the_default_gelu_is_within_half_a_thousandth_of_the_exact_one():
    x = np.linspace(-10, 10, 100001)
    difference = np.abs(approximate_gelu(x) - x * scipy.special.ndtr(x))
    assert 4e-4 < difference.max() < 5e-4


def test_slopes_may_be_traced():
    x = numbers(jnp.float32)
    slopes = jnp.asarray([0.0, 0.1, 0.5])
    together = jax.jit(jax.vmap(lambda slope: activations.leaky_relu(x, slope)))(slopes)
    for slope, y in zip(slopes, together, strict=True):
        np.testing.assert_allclose(y, np.where(x > 0, x, float(slope) * np.asarray(x)), rtol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_half_precision_is_computed_in_float32_and_rounded_once(name, key):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 5, (3, 200)), jnp.float32)
    narrow = x.astype(jnp.bfloat16)
    exact = getattr(scipy.special, name)(np.asarray(narrow, np.float64), axis=-1)
    np.testing.assert_allclose(getattr(activations, name)(narrow).astype(jnp.float32), exact, rtol=2**-8)
    model = jnn.precision(jnn.serial(getattr(activations, name)))
    np.testing.assert_allclose(model.apply({}, {}, x)[0], exact, rtol=2**-8)
    assert getattr(activations, name)(jnp.arange(3)).dtype == jnp.float32


def test_heaviside_of_nan_is_nan():
    assert np.isnan(activations.heaviside(jnp.asarray([jnp.nan]))).all()


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_what_the_derivative_keeps_is_one_array(name):
    x = numbers(jnp.float32, (3, 4))
    _, derivative = jax.vjp(getattr(activations, name), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(derivative)) == x.size
    for transformed in (jax.grad, lambda f: jax.grad(jax.grad(f))):
        ours, theirs = (transformed(lambda x, m=m: getattr(m, name)(x)) for m in (activations, jax.nn))
        chex.assert_trees_all_close(jax.vmap(ours)(x[0]), jax.vmap(theirs)(x[0]), rtol=1e-5, atol=1e-6)
