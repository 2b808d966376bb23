import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties


def flax_max(window, stride=None, padding="VALID"):
    return lambda params, state, x: nn.max_pool(x, window, stride or window, padding)


def flax_avg(window, stride=None, padding="VALID"):
    return lambda params, state, x: nn.avg_pool(x, window, stride or window, padding, count_include_pad=False)


CASES = [
    Case("max", lambda: jnn.max_pool(2), (4, 5, 3), flax_max((2, 2))),
    Case(
        "max overlapping",
        lambda: jnn.max_pool((3, 2), stride=(2, 1), padding=((2, 0), (1, 1))),
        (5, 4, 3),
        flax_max((3, 2), (2, 1), ((2, 0), (1, 1))),
    ),
    Case("avg", lambda: jnn.avg_pool(2), (4, 5, 3), flax_avg((2, 2))),
    Case(
        "avg overlapping",
        lambda: jnn.avg_pool((3, 2), stride=(2, 1), padding=((2, 0), (1, 1))),
        (5, 4, 3),
        flax_avg((3, 2), (2, 1), ((2, 0), (1, 1))),
    ),
    Case("global avg", jnn.global_avg_pool, (4, 3, 2), lambda params, state, x: nn.avg_pool(x, (4, 3))[..., 0, 0, :]),
    Case("global max", jnn.global_max_pool, (4, 3, 2), lambda params, state, x: nn.max_pool(x, (4, 3))[..., 0, 0, :]),
]


class TestEveryPool(LayerProperties):
    cases = CASES


def pool(layer, x):
    return layer.apply({}, {}, x)[0]


@pytest.mark.parametrize(("make", "oracle"), [(jnn.max_pool, flax_max), (jnn.avg_pool, flax_avg)], ids=["max", "avg"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools_equal_flax_at_every_setting(make, oracle, axes):
    """Values and gradients, in one compiled function."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *[7, 6, 5][:axes], 2)), jnp.float32)
    windows = {1: [(1,), (3,), (6,)], 2: [(2, 3), (3, 1)], 3: [(2, 2, 3)]}[axes]
    strides = {1: [None, 1, 2], 2: [None, (1, 2)], 3: [(2, 3, 1)]}[axes]
    settings = list(itertools.product(windows, strides, ["SAME", "VALID", 1]))
    settings = [s for s in settings if s[2] != 1 or 1 not in s[0]]

    def both(x):
        results = []
        for window, stride, padding in settings:
            each = window if stride is None else (stride,) * axes if isinstance(stride, int) else stride
            pads = ((1, 1),) * axes if padding == 1 else padding
            layer = make(window, stride=stride, padding=padding)
            with jax.numpy_dtype_promotion("standard"):
                y, back = jax.vjp(lambda x, p=pads, e=each, w=window: oracle(w, e, p)({}, {}, x), x)
            towards = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
            z, forth = jax.vjp(lambda x, layer=layer: pool(layer, x), x)
            results.append(((z, forth(towards)), (y, back(towards))))
        return results

    results = jax.jit(both)(x)
    assert len(results) == len(settings) > 2
    for mine, theirs in results:
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [jnn.max_pool, jnn.avg_pool], ids=lambda f: f.__name__)
def test_output_size_is_size_less_window_plus_twice_the_padding_over_stride_plus_one(make):
    for size, window, stride, padding in itertools.product([5, 6, 28], [2, 3, 5], [1, 2, 3], [0, 1]):
        expected = (size - window + 2 * padding) // stride + 1
        layer = make(window, stride=stride, padding=padding)
        y = jax.eval_shape(lambda x, layer=layer: pool(layer, x), jax.ShapeDtypeStruct((size, size, 1), jnp.float32))
        assert y.shape == (expected, expected, 1)


@pytest.mark.parametrize("size", [5, 7, 12, 100])
def test_windows_of_any_size_take_few_operations(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(130, 1)), jnp.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float64)[:, 0], size)[::3]
    for make, expected in [(jnn.max_pool, windows.max(-1)), (jnn.avg_pool, windows.mean(-1))]:
        run = lambda x, make=make: pool(make((size,), stride=3), x)[:, 0]
        np.testing.assert_allclose(run(x), expected, rtol=1e-5, atol=1e-6)
        assert len(jax.make_jaxpr(run)(x).eqns) < 50


def test_pools_step_by_their_window_unless_told_and_drop_what_is_left_over():
    x = jnp.asarray([1.0, 5.0, 2.0, 4.0, 9.0])[:, None]
    np.testing.assert_array_equal(pool(jnn.max_pool((2,)), x)[:, 0], [5, 4])
    np.testing.assert_array_equal(pool(jnn.avg_pool((2,)), x)[:, 0], [3, 3])
    np.testing.assert_array_equal(pool(jnn.max_pool((2,), stride=1), x)[:, 0], [5, 5, 4, 9])


def test_padding_never_counts_in_the_average():
    x = jnp.full((4, 4, 1), 7.0)
    for padding in ("SAME", 1, 2):
        np.testing.assert_allclose(pool(jnn.avg_pool(3, stride=1, padding=padding), x), 7, rtol=1e-6)
    series = jnp.asarray([1.0, 2.0, 6.0])[:, None]
    np.testing.assert_allclose(pool(jnn.avg_pool((3,), stride=1, padding=1), series)[:, 0], [1.5, 3, 4], rtol=1e-6)


def test_padding_is_never_the_largest_entry_and_gradients_stay_finite():
    x = -jnp.arange(1.0, 17.0).reshape(4, 4, 1)
    for layer in (jnn.max_pool(3, stride=1, padding="SAME"), jnn.max_pool(3, stride=2, padding=2)):
        y, back = jax.vjp(lambda x, layer=layer: pool(layer, x), x)
        assert np.all(y <= -1) and np.all(np.isfinite(y))
        gradient = back(jnp.ones_like(y))[0]
        np.testing.assert_allclose(jnp.sum(gradient), y.size, rtol=1e-6)
        assert np.all(gradient >= 0)
    masked = jnp.full((4, 4, 1), -jnp.inf)  # as after a mask
    gradient = jax.grad(lambda x: jnp.sum(pool(jnn.max_pool(3, stride=1, padding="SAME"), x)))(masked)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "layer",
    [jnn.max_pool(2), jnn.max_pool(3, stride=1), jnn.max_pool(3, stride=2, padding="SAME"), jnn.global_max_pool()],
    ids=["tiles", "overlapping", "padded", "global"],
)
def test_entries_that_tie_share_the_gradient(layer):
    """A valid subgradient: only the largest have a part, and the parts of each window sum to one."""
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (6, 6, 1)), jnp.float32)
    y = pool(layer, x)
    parts = jax.jit(jax.jacobian(lambda x: pool(layer, x)))(x).reshape(y.size, x.size)
    assert np.all(parts >= 0)
    np.testing.assert_allclose(parts.sum(1), 1, rtol=1e-6)
    value = np.broadcast_to(np.ravel(x), parts.shape)
    assert np.all(value[parts > 0] == np.broadcast_to(np.ravel(y)[:, None], parts.shape)[parts > 0])
    assert np.any((parts > 0) & (parts < 1))


def test_max_pool_has_a_second_derivative():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5, 1)), jnp.float32)
    layer = jnn.max_pool(3, stride=1)
    hessian = jax.jit(jax.hessian(lambda x: jnp.sum(jnp.square(pool(layer, x)))))(x).reshape(25, 25)
    gradient = jax.grad(lambda x: jnp.sum(pool(layer, x)))(x).reshape(25)
    np.testing.assert_allclose(hessian, 2 * np.diag(gradient), atol=1e-6)


def test_not_a_number_stays_one():
    x = jnp.zeros((4, 4, 1)).at[0, 0, 0].set(jnp.nan)
    for layer in (jnn.max_pool(2), jnn.max_pool(3, stride=1), jnn.avg_pool(2), jnn.avg_pool(3, stride=1)):
        y = pool(layer, x)
        np.testing.assert_array_equal(np.argwhere(np.isnan(y)), [[0, 0, 0]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_averages_of_half_precision_are_summed_in_float32(dtype):
    x = jnp.full((64, 64, 1), 3, dtype)  # summed in bfloat16 it would stop at 512, in float16 at 6144
    for layer in (jnn.global_avg_pool(), jnn.avg_pool(64), jnn.avg_pool((63, 4), stride=1)):
        y = jax.jit(lambda x, layer=layer: pool(layer, x))(x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y.astype(jnp.float32), 3)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_global_pools_reduce_as_many_axes_as_asked(axes):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    over = (1, 2, 3)[3 - axes :]
    np.testing.assert_allclose(pool(jnn.global_avg_pool(axes), jnp.asarray(x)), x.mean(over), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pool(jnn.global_max_pool(axes), jnp.asarray(x)), x.max(over))


def test_global_average_does_not_depend_on_where_things_are():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6, 2)), jnp.float32)
    for layer in (jnn.global_avg_pool(), jnn.global_max_pool()):
        np.testing.assert_allclose(pool(layer, jnp.roll(x, (2, 3), (0, 1))), pool(layer, x), rtol=1e-5, atol=1e-6)


IMAGES = "(..., height, width, channel)"
PADDINGS = 'padding must be "SAME", "VALID", a whole number, or a pair (low, high) for each of 2 spatial axes, got '


@pytest.mark.parametrize("make", [jnn.max_pool, jnn.avg_pool], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("window", "options", "problem"),
    [
        (0, {}, "window must be at least 1, got 0"),
        ((2,) * 4, {}, "window must have 1, 2 or 3 entries, one per spatial axis, got (2, 2, 2, 2)"),
        (2, {"stride": 0}, "stride must be at least 1, got 0"),
        ((2, 2), {"stride": (1,)}, "stride must be a whole number or 2 of them, one per spatial axis, got (1,)"),
        (2, {"padding": "FULL"}, PADDINGS + "'FULL'"),
        (2, {"padding": ((1, 1), 1)}, PADDINGS + "((1, 1), 1)"),
        (2, {"padding": 2}, "padding must be smaller than the window (2, 2), got ((2, 2), (2, 2))"),
        ((2,), {"padding": ((0, 3),)}, "padding must be smaller than the window (2,), got ((0, 3),)"),
    ],
    ids=str,
)
def test_construction_refuses(make, window, options, problem, raises):
    with raises(ValueError, f"{make.__name__}: {problem}"):
        make(window, **options)


@pytest.mark.parametrize("make", [jnn.global_avg_pool, jnn.global_max_pool], ids=lambda f: f.__name__)
def test_global_pools_have_one_to_three_axes(make, raises):
    with raises(ValueError, f"{make.__name__}: axes must be 1, 2 or 3, got 4"):
        make(4)
    with raises(ValueError, f"{make.__name__}: axes must be at least 1, got 0"):
        make(0)


def test_a_pool_that_was_not_called_is_told(raises):
    with raises(TypeError, "max_pool is a factory that returns a Layer: call it, as in max_pool(...)"):
        jnn.serial(jnn.max_pool)


@pytest.mark.parametrize(
    ("layer", "name", "x", "problem"),
    [
        (jnn.max_pool(2), "max_pool", (4, 4), f"expected an array {IMAGES}, got float32 (4, 4)"),
        (
            jnn.avg_pool((2, 2, 2)),
            "avg_pool",
            (4, 4, 4),
            "expected an array (..., depth, height, width, channel), got float32 (4, 4, 4)",
        ),
        (jnn.max_pool(5), "max_pool", (2, 4, 6, 1), "expected at least 5 x 5 in height and width, got (2, 4, 6, 1)"),
        (jnn.avg_pool((5,), padding=1), "avg_pool", (2, 1), "expected at least 3 in time, got (2, 1)"),
        (
            jnn.global_avg_pool(),
            "global_avg_pool",
            (2, 0, 4, 1),
            "expected at least 1 x 1 in height and width, got (2, 0, 4, 1)",
        ),
        (jnn.global_max_pool(1), "global_max_pool", (3,), "expected an array (..., time, channel), got float32 (3,)"),
    ],
    ids=["image rank", "volume rank", "small", "small series", "empty", "series rank"],
)
def test_wrong_input_is_refused_at_init_and_when_traced_with_its_path(layer, name, x, problem, key, raises):
    with raises(ValueError, f"{name}: {problem}"):
        layer.init(key, jax.ShapeDtypeStruct(x, jnp.float32))
    model = jnn.serial(jnn.serial(jax.nn.relu, layer))
    with raises(ValueError, f"serial_0/{name}_1: {problem}"):
        jax.jit(model.apply)({}, {}, jnp.ones(x))


@pytest.mark.parametrize(
    "layer", [jnn.max_pool(2), jnn.avg_pool(2), jnn.global_avg_pool(), jnn.global_max_pool()], ids=range(4)
)
def test_integers_are_to_be_cast_first(layer, key):
    x = jnp.ones((2, 4, 4, 1), jnp.uint8)
    problem = f"expected floating-point input {IMAGES}, got uint8 (2, 4, 4, 1): cast it, as in x.astype(jnp.float32)"
    for attempt in (lambda: layer.init(key, x), lambda: jax.jit(layer.apply)({}, {}, x)):
        with pytest.raises(ValueError) as error:
            attempt()
        assert str(error.value).partition(": ")[2] == problem
