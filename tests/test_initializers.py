"""Every initializer is a row of CASES."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jnn
from jnn import initializers

AT_TWO = scipy.stats.truncnorm(-2, 2)
TRUNCATED = scipy.stats.truncnorm(-2, 2, scale=1 / AT_TWO.std())  # variance 1
UNIFORM = scipy.stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))  # variance 1


class Case(NamedTuple):
    name: str
    make: Callable[..., Callable]  # of its real argument
    real: float
    distribution: Any  # of the values divided by the standard deviation
    variance: Callable[..., float]  # of the real argument, n_in and n_out
    theirs: Callable | None = None  # jax's own with the same numbers in float32, where the real argument is 1


CASES = [
    Case("normal", initializers.normal, 0.02, scipy.stats.norm, lambda std, i, o: std**2),
    Case("truncated_normal", initializers.truncated_normal, 0.02, AT_TWO, lambda std, i, o: std**2),
    Case("uniform", lambda high: initializers.uniform(-high, high), 0.1, UNIFORM, lambda high, i, o: high**2 / 3),
    Case(
        "lecun_normal",
        lambda s: initializers.lecun_normal(scale=s),
        1.0,
        TRUNCATED,
        lambda s, i, o: s**2 / i,
        jax.nn.initializers.lecun_normal(),
    ),
    Case(
        "lecun_uniform",
        lambda s: initializers.lecun_uniform(scale=s),
        1.0,
        UNIFORM,
        lambda s, i, o: s**2 / i,
        jax.nn.initializers.lecun_uniform(),
    ),
    Case(
        "xavier_normal",
        lambda s: initializers.xavier_normal(scale=s),
        1.0,
        TRUNCATED,
        lambda s, i, o: 2 * s**2 / (i + o),
        jax.nn.initializers.glorot_normal(),
    ),
    Case(
        "xavier_uniform",
        lambda s: initializers.xavier_uniform(scale=s),
        1.0,
        UNIFORM,
        lambda s, i, o: 2 * s**2 / (i + o),
        jax.nn.initializers.glorot_uniform(),
    ),
    Case(
        "xavier_normal by fan in",
        lambda s: initializers.xavier_normal(fan="in", scale=s),
        0.5,
        TRUNCATED,
        lambda s, i, o: s**2 / i,
    ),
    Case(
        "xavier_uniform by fan in",
        lambda s: initializers.xavier_uniform(fan="in", scale=s),
        0.5,
        UNIFORM,
        lambda s, i, o: s**2 / i,
    ),
    Case(
        "kaiming_normal",
        lambda s: initializers.kaiming_normal(scale=s),
        1.0,
        TRUNCATED,
        lambda s, i, o: 2 * s**2 / i,
        jax.nn.initializers.he_normal(),
    ),
    Case(
        "kaiming_uniform",
        lambda s: initializers.kaiming_uniform(scale=s),
        1.0,
        UNIFORM,
        lambda s, i, o: 2 * s**2 / i,
        jax.nn.initializers.he_uniform(),
    ),
]

# dense, convolution of images (in two groups of 48 channels)
SHAPES = [
    ((100, 150), 100, 150),
    ((3, 3, 24, 70), 9 * 24, 9 * 70),
]

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_dtype = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)


def test_the_tables_have_every_initializer():
    names = {case.name.partition(" ")[0] for case in CASES}
    assert names | {"zeros", "ones", "constant", "orthogonal"} == set(initializers.__all__)


@every
def test_values_follow_the_distribution_and_the_variance_of_their_formula(case, key):
    for shape, n_in, n_out in SHAPES:
        values = np.ravel(case.make(case.real)(key, shape, jnp.float32)).astype(np.float64)
        sd = np.sqrt(case.variance(case.real, n_in, n_out))
        assert scipy.stats.kstest(values / sd, case.distribution.cdf).pvalue > 1e-3
        # standard errors of mean and variance, the latter from the fourth moment, five times over
        fourth, second = float(case.distribution.moment(4)), float(case.distribution.moment(2))
        assert abs(values.mean()) < 5 * sd * np.sqrt(second / values.size)
        error = np.sqrt((fourth - second**2) / values.size)
        np.testing.assert_allclose(np.mean(values**2) / sd**2, second, atol=5 * error)
        if case.name != "truncated_normal":
            np.testing.assert_allclose(second, 1, rtol=1e-9)
        low, high = case.distribution.support()
        assert sd * low * (1 + 1e-6) <= values.min()
        assert values.max() <= sd * high * (1 + 1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.theirs], ids=lambda case: case.name)
def test_float32_values_are_those_of_jax(case, key):
    np.testing.assert_array_equal(case.make(1.0)(key, (3, 4, 5), jnp.float32), case.theirs(key, (3, 4, 5), jnp.float32))


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64], ids=lambda d: d.__name__)
def test_dtype_and_shape_are_those_asked_for_and_the_variance_that_of_the_formula(case, dtype, key, x64):
    values = case.make(case.real)(key, (200, 300), dtype)
    assert (values.dtype, values.shape) == (dtype, (200, 300))
    values = np.asarray(values, np.float64)
    variance = case.variance(case.real, 200, 300)
    np.testing.assert_allclose(np.mean(values**2), variance * float(case.distribution.moment(2)), rtol=0.03)
    # drawn in 8 bits, normal numbers would end at 2.5
    assert np.abs(values).max() > np.sqrt(variance) * min(3.5, 0.98 * case.distribution.support()[1])


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[-2]], ids=lambda case: case.name)
def test_same_key_gives_the_same_under_jit_and_vmap_and_another_key_others(case, key):
    keys = jax.random.split(key, 3)
    draw = lambda k: case.make(case.real)(k, (5, 7), jnp.float32)
    apart = np.stack([draw(k) for k in keys])
    np.testing.assert_array_equal(draw(keys[0]), apart[0])
    np.testing.assert_allclose(jax.jit(jax.vmap(draw))(keys), apart, rtol=1e-6)
    # two of a hundred random float32 may be equal, but hardly more
    assert len(np.unique(apart)) >= apart.size - 1


@every
def test_the_real_argument_may_be_traced(case, key):
    factors = (0.5 * case.real, case.real, 3.0 * case.real)
    draw = lambda real: [case.make(real)(key, (5, 7), dtype).astype(jnp.float32) for dtype in (jnp.float32, jnp.bfloat16)]
    traced = jax.jit(jax.vmap(draw))(jnp.asarray(factors))
    # bfloat16 may be rounded the other way where the product before it is another by one bit
    for together, apart, rtol in zip(traced, zip(*map(draw, factors), strict=True), (1e-5, 0.01), strict=True):
        np.testing.assert_allclose(together, np.stack(apart), rtol=rtol)


@every
def test_shapes_without_entries_give_no_values(case, key):
    for shape in [(0, 3), (3, 0), (2, 0, 3)]:
        assert case.make(case.real)(key, shape, jnp.float32).shape == shape


@pytest.mark.parametrize(
    "name",
    ["lecun_normal", "lecun_uniform", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal"],
)
def test_a_shape_without_inputs_is_refused(name, key, raises):
    with raises(ValueError, f"{name}: expected a shape (..., in, features), got (5,)"):
        getattr(initializers, name)()(key, (5,), jnp.float32)


@pytest.mark.parametrize("name", ["xavier_normal", "xavier_uniform"])
def test_another_fan_is_refused(name, raises):
    with raises(ValueError, f'{name}: fan must be "mean" or "in", got \'out\''):
        getattr(initializers, name)(fan="out")


# constants


@every_dtype
def test_zeros_ones_and_constants(dtype, key, x64):
    for initializer, value in [(initializers.zeros, 0), (initializers.ones, 1), (initializers.constant(0.25), 0.25)]:
        for shape in [(3, 0, 2), (5,), ()]:
            values = initializer(key, shape, dtype)
            assert (values.dtype, values.shape) == (dtype, shape)
            np.testing.assert_array_equal(values.astype(jnp.float32), value)
        assert initializer(key, (2,)).dtype == jnp.float32


def test_a_constant_may_be_an_array_or_traced(key):
    row = jnp.asarray([1.0, 2.0])
    np.testing.assert_array_equal(initializers.constant(row)(key, (3, 2), jnp.float32), [[1, 2]] * 3)
    traced = jax.jit(jax.vmap(lambda value: initializers.constant(value)(key, (2,), jnp.bfloat16)))(row)
    assert traced.dtype == jnp.bfloat16
    np.testing.assert_array_equal(traced.astype(jnp.float32), [[1, 1], [2, 2]])


def test_uniform_lies_between_its_ends(key, raises):
    with raises(ValueError, "uniform: low must not be above high, got 1 and -1"):
        initializers.uniform(1, -1)
    values = initializers.uniform(3.0, 5.0)(key, (10000,), jnp.float32)
    assert scipy.stats.kstest(np.asarray(values), scipy.stats.uniform(3, 2).cdf).pvalue > 1e-3
    assert 3 <= values.min() < 3.01
    assert 4.99 < values.max() < 5


# orthogonal


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (3, 3, 2, 30), (1, 6)], ids=str)
def test_orthogonal_has_orthonormal_columns_or_rows(shape, key):
    scale = 2.5
    q = np.asarray(initializers.orthogonal(scale)(key, shape, jnp.float32), np.float64)
    assert q.shape == shape
    q = q.reshape(-1, shape[-1])
    product = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(product, scale**2 * np.eye(min(q.shape)), atol=1e-5 * scale**2)


@every_dtype
def test_orthogonal_in_every_dtype(dtype, key, x64):
    q = initializers.orthogonal()(key, (8, 5), dtype)
    assert q.dtype == dtype
    q = np.asarray(q, np.float64)
    # rounded to 8, 11, 24 or 53 bits
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=8 * float(jnp.finfo(dtype).eps))


def test_orthogonal_is_uniformly_distributed(key):
    # an entry of a uniform 3 x 3 rotation or reflection is a coordinate of a uniform point on the sphere: uniform in [-1, 1]
    draw = jax.jit(jax.vmap(lambda key: initializers.orthogonal()(key, (3, 3), jnp.float32)))
    q = np.asarray(draw(jax.random.split(key, 3000)))
    for i, j in [(0, 0), (1, 2), (2, 2)]:
        assert scipy.stats.kstest(q[:, i, j], scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-4
    positive = int(np.sum(np.linalg.det(q) > 0))
    assert scipy.stats.binomtest(positive, 3000, 0.5).pvalue > 1e-4


def test_orthogonal_scale_may_be_traced_and_no_entries_give_no_values(key):
    scales = jnp.asarray([0.5, 2.0])
    together = jax.jit(jax.vmap(lambda scale: initializers.orthogonal(scale)(key, (4, 3), jnp.float32)))(scales)
    for scale, q in zip(scales, together, strict=True):
        np.testing.assert_allclose(q, initializers.orthogonal(float(scale))(key, (4, 3), jnp.float32), rtol=1e-5, atol=1e-6)
    assert initializers.orthogonal()(key, (0, 3), jnp.float32).shape == (0, 3)


# in a layer


@pytest.mark.parametrize("name", initializers.__all__)
def test_every_initializer_starts_a_dense_layer(name, key):
    function = getattr(initializers, name)
    given = {"constant": (0.3,), "normal": (0.1,), "truncated_normal": (0.1,), "uniform": (-0.1, 0.1)}
    made = function if "key" in inspect.signature(function).parameters else function(*given.get(name, ()))
    params, _ = jnn.dense(3, w_init=made).init(key, jnp.ones((2, 4)))
    assert (params["w"].shape, params["w"].dtype) == ((4, 3), jnp.float32)
