import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties, filled


def flax_conv(window, **options):
    def apply(params, state, x):
        layer = nn.Conv(params["b"].size, window, param_dtype=params["w"].dtype, **options)
        return layer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)

    return apply


def flax_conv_transpose(window, **options):
    def apply(params, state, x):
        layer = nn.ConvTranspose(params["b"].size, window, param_dtype=params["w"].dtype, **options)
        return layer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)

    return apply


def derivative_of_flax_conv(window, sizes, groups=1, **options):
    """conv_transpose by its definition: what a convolution of inputs of these sizes does to its gradient."""

    def apply(params, state, x):
        w, b = params["w"], params["b"]
        channels = w.shape[-2] * groups
        # of a convolution of the outputs to the inputs, mirrored; each group by itself
        flipped = jnp.flip(w, range(len(window))).reshape(*window, w.shape[-2], groups, -1)
        kernel = jnp.moveaxis(flipped, -3, -1).swapaxes(-2, -3).reshape(*window, b.size // groups, channels)
        layer = nn.Conv(channels, window, feature_group_count=groups, use_bias=False, param_dtype=w.dtype, **options)
        forward = lambda y: layer.apply({"params": {"kernel": kernel}}, y)
        y = jnp.zeros((*x.shape[: x.ndim - len(window) - 1], *sizes, b.size), x.dtype)
        return jax.vjp(forward, y)[1](x)[0] + b

    return apply


CASES = [
    Case("image", lambda: jnn.conv(2, 3), (4, 5, 3), flax_conv((3, 3)), has_params=True),
    Case(
        "strided image",
        lambda: jnn.conv(2, (3, 2), stride=(2, 1), padding=((2, 0), (1, 1)), dilation=(1, 2)),
        (4, 5, 3),
        flax_conv((3, 2), strides=(2, 1), padding=((2, 0), (1, 1)), kernel_dilation=(1, 2)),
        has_params=True,
    ),
    Case(
        "series in groups",
        lambda: jnn.conv(4, (3,), padding="VALID", dilation=2, groups=2),
        (7, 6),
        flax_conv((3,), padding="VALID", kernel_dilation=2, feature_group_count=2),
        has_params=True,
    ),
    Case(
        "volume",
        lambda: jnn.conv(2, (2, 1, 3), stride=2),
        (3, 2, 4, 2),
        flax_conv((2, 1, 3), strides=(2, 2, 2)),
        has_params=True,
    ),
    Case(
        "transpose image",
        lambda: jnn.conv_transpose(2, 3, stride=2),
        (3, 2, 3),
        flax_conv_transpose((3, 3), strides=(2, 2)),
        has_params=True,
    ),
    Case(
        "transpose series in groups",
        lambda: jnn.conv_transpose(4, (4,), stride=2, padding=((1, 2),), dilation=2, groups=2),
        (3, 6),
        derivative_of_flax_conv((4,), (8,), groups=2, strides=(2,), padding=((1, 2),), kernel_dilation=2),
        has_params=True,
    ),
]


class TestEveryConvolution(LayerProperties):
    cases = CASES


def agree(settings):
    """For each (layer, oracle, shape of x): values and gradients, all in one compiled function."""
    calls = []
    for layer, oracle, shape in settings:
        params = filled(jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))[0])
        x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        ours = lambda p, x, layer=layer: layer.apply(p, {}, x)[0]
        theirs = lambda p, x, oracle=oracle: oracle(p, {}, x)
        calls.append((ours, theirs, params, x))

    def both(arguments):
        results = []
        for (ours, theirs, *_), (params, x) in zip(calls, arguments, strict=True):
            with jax.numpy_dtype_promotion("standard"):
                y, back = jax.vjp(theirs, params, x)
            towards = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
            z, forth = jax.vjp(ours, params, x)
            results.append(((z, forth(towards)), (y, back(towards))))
        return results

    results = jax.jit(both)([(params, x) for *_, params, x in calls])
    assert len(results) == len(settings) > 0
    for mine, oracles in results:
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(oracles), strict=True):
            assert a.shape == b.shape
            scale = max(1.0, float(jnp.max(jnp.abs(b), initial=0)))
            np.testing.assert_allclose(a / scale, b / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1),)], ids=str)
def test_conv_of_series_equals_flax_at_every_setting(padding):
    agree(
        [
            (
                jnn.conv(4, (window,), stride=stride, padding=padding, dilation=dilation, groups=groups),
                flax_conv((window,), strides=stride, padding=padding, kernel_dilation=dilation, feature_group_count=groups),
                (2, 8, 2),
            )
            for window, stride, dilation, groups in itertools.product([1, 2, 3], [1, 2, 3], [1, 2], [1, 2])
        ]
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1), (2, 1))], ids=str)
def test_conv_of_images_equals_flax_at_every_setting(padding):
    agree(
        [
            (
                jnn.conv(2, window, stride=stride, padding=padding, dilation=dilation, groups=groups),
                flax_conv(window, strides=stride, padding=padding, kernel_dilation=dilation, feature_group_count=groups),
                (2, 6, 5, 2),
            )
            for window, (stride, dilation), groups in itertools.product(
                [(1, 1), (3, 2)], [(1, 1), ((2, 3), 1), (1, (2, 3)), (2, 2)], [1, 2]
            )
        ]
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1), (2, 1), (1, 0))], ids=str)
def test_conv_of_volumes_equals_flax(padding):
    agree(
        [
            (
                jnn.conv(2, (2, 3, 1), stride=stride, padding=padding, dilation=dilation, groups=groups),
                flax_conv((2, 3, 1), strides=stride, padding=padding, kernel_dilation=dilation, feature_group_count=groups),
                (2, 4, 6, 3, 2),
            )
            for stride, dilation, groups in [(1, 1, 1), ((2, 1, 2), (1, 2, 1), 1), (2, 1, 2)]
        ]
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_transpose_equals_flax_for_every_padding_by_name(padding):
    series = [
        (
            jnn.conv_transpose(2, (window,), stride=stride, padding=padding, dilation=dilation),
            flax_conv_transpose((window,), strides=(stride,), padding=padding, kernel_dilation=(dilation,)),
            (2, 5, 3),
        )
        for window, stride, dilation in [*itertools.product([1, 2, 3, 4], [1, 2, 3], [1]), (3, 1, 2), (3, 3, 2), (2, 4, 2)]
    ]
    images = [
        (
            jnn.conv_transpose(2, (2, 3), stride=(3, 2), padding=padding),
            flax_conv_transpose((2, 3), strides=(3, 2), padding=padding),
            (2, 3, 4, 3),
        )
    ]
    volumes = [
        (
            jnn.conv_transpose(2, (2, 1, 3), stride=(1, 3, 2), padding=padding),
            flax_conv_transpose((2, 1, 3), strides=(1, 3, 2), padding=padding),
            (2, 3, 2, 2, 3),
        )
    ]
    agree(series + images + volumes)


def test_conv_transpose_is_the_derivative_of_the_convolution_of_the_same_arguments():
    settings = []
    for window, stride, dilation, groups in [(3, 1, 1, 1), (2, 2, 1, 3), (3, 2, 1, 3), (3, 1, 2, 3), (3, 2, 2, 1)]:
        for padding in ["SAME", "VALID", ((0, 0),), ((1, 1),), ((0, 2),)]:
            layer = jnn.conv_transpose(3, (window,), stride=stride, padding=padding, dilation=dilation, groups=groups)
            extent = (window - 1) * dilation + 1
            size = 4 * stride if padding == "SAME" else 3 * stride + extent - (0 if padding == "VALID" else sum(padding[0]))
            options = {"strides": stride, "padding": padding, "kernel_dilation": dilation}
            settings.append((layer, derivative_of_flax_conv((window,), (size,), groups, **options), (2, 4, 6)))
    agree(settings)


def test_conv_equals_nested_sums_in_float64(x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 6, 4))
    w = rng.normal(size=(3, 2, 2, 6))
    b = rng.normal(size=6)
    padded = np.pad(x, ((1, 0), (2, 1), (0, 0)))
    expected = np.zeros((2, 7, 6))
    for i, j, f in np.ndindex(expected.shape):
        first = 0 if f < 3 else 2  # the features of the first group see the first two channels
        for k, m, c in np.ndindex(3, 2, 2):
            expected[i, j, f] += padded[2 * i + k, j + 2 * m, first + c] * w[k, m, c, f]
    layer = jnn.conv(6, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2)
    y, _ = layer.apply({"w": jnp.asarray(w), "b": jnp.asarray(b)}, {}, jnp.asarray(x))
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, expected + b, rtol=1e-13, atol=1e-13)


def test_conv_transpose_equals_nested_sums_in_float64(x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 2))
    w = rng.normal(size=(3, 4, 2, 3))
    b = rng.normal(size=3)
    full = np.zeros((3 * 2 + 1, 3 + 4, 3))  # (size - 1) * stride + window
    for i, j, k, m in np.ndindex(3, 2, 3, 4):
        full[2 * i + k, 3 * j + m] += x[i, j] @ w[2 - k, 3 - m]
    layer = jnn.conv_transpose(3, (3, 4), stride=(2, 3), padding=((1, 0), (2, 1)))
    y, _ = layer.apply({"w": jnp.asarray(w), "b": jnp.asarray(b)}, {}, jnp.asarray(x))
    np.testing.assert_allclose(y, full[1:, 2:-1] + b, rtol=1e-13, atol=1e-13)


def with_torch(ours, theirs, shape, to_torch, axes):
    """Values and gradients of a layer and a torch function of (x, weight, bias), channels first."""
    torch = pytest.importorskip("torch", reason="an oracle that is large, and optional")
    params = filled(jax.eval_shape(ours.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))[0])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    first, last = [0, axes + 1, *range(1, axes + 1)], [0, *range(2, axes + 2), 1]
    xt = torch.tensor(np.ascontiguousarray(x.transpose(first)), requires_grad=True)
    wt = torch.tensor(np.ascontiguousarray(to_torch(np.asarray(params["w"]))), requires_grad=True)
    bt = torch.tensor(np.asarray(params["b"]), requires_grad=True)
    yt = theirs(torch.nn.functional, xt, wt, bt)
    y, back = jax.vjp(lambda p, x: ours.apply(p, {}, x)[0], params, jnp.asarray(x))
    np.testing.assert_allclose(y, yt.detach().numpy().transpose(last), rtol=1e-5, atol=1e-5)
    towards = np.random.default_rng(2).normal(size=y.shape).astype(np.float32)
    yt.backward(torch.tensor(np.ascontiguousarray(towards.transpose(first))))
    p, dx = back(jnp.asarray(towards))
    np.testing.assert_allclose(dx, xt.grad.numpy().transpose(last), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_torch(np.asarray(p["w"])), wt.grad.numpy(), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(p["b"], bt.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_conv_equals_torch():
    with_torch(
        jnn.conv(4, (3, 2), stride=2, padding=((1, 1), (2, 2)), dilation=(2, 1), groups=2),
        lambda f, x, w, b: f.conv2d(x, w, b, stride=2, padding=(1, 2), dilation=(2, 1), groups=2),
        (2, 7, 6, 4),
        lambda w: w.transpose(3, 2, 0, 1),
        2,
    )


def test_conv_transpose_equals_torch_with_output_padding_and_groups():
    def to_torch(w):
        # (window, in / groups, groups * features of one) -> (in, features of one, window), mirrored
        w = w[::-1].reshape(*w.shape[:2], 2, -1)
        return w.transpose(2, 1, 3, 0).reshape(-1, w.shape[-1], w.shape[0])

    with_torch(
        jnn.conv_transpose(6, (3,), stride=2, padding=((1, 0),), dilation=2, groups=2),
        lambda f, x, w, b: f.conv_transpose1d(x, w, b, stride=2, padding=1, output_padding=1, dilation=2, groups=2),
        (2, 5, 4),
        to_torch,
        1,
    )


def shape_after(layer, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    return jax.eval_shape(layer.apply, params, state, x)[0].shape


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_output_size_is_size_less_window_plus_twice_the_padding_over_stride_plus_one(padding):
    for size, window, stride in itertools.product([5, 6, 28], [1, 2, 5], [1, 2, 3]):
        expected = (size - window + 2 * padding) // stride + 1
        assert shape_after(jnn.conv(1, window, stride=stride, padding=padding), (size, size, 1)) == (expected, expected, 1)
        dilated = (size - (2 * (window - 1) + 1) + 2 * padding) // stride + 1
        if dilated > 0:
            assert shape_after(jnn.conv(1, (window,), stride=stride, padding=padding, dilation=2), (size, 1)) == (dilated, 1)


def test_same_padding_gives_size_over_stride_rounded_up():
    for size, window, stride, dilation in itertools.product([1, 5, 6], [1, 2, 5], [1, 2, 3], [1, 2]):
        assert shape_after(jnn.conv(1, (window,), stride=stride, dilation=dilation), (size, 1)) == (-(-size // stride), 1)


def test_output_sizes_of_conv_transpose():
    for size, window, stride, dilation in itertools.product([1, 4], [1, 2, 5], [1, 2, 3], [1, 2]):
        spanned = (window - 1) * dilation + 1

        def outputs(padding, size=size, window=window, stride=stride, dilation=dilation):
            layer = jnn.conv_transpose(1, (window,), stride=stride, padding=padding, dilation=dilation)
            return shape_after(layer, (size, 1))[0]

        assert outputs("SAME") == size * stride
        assert outputs("VALID") == size * stride + max(spanned - stride, 0)
        assert outputs(0) == (size - 1) * stride + spanned
        if spanned >= 5:
            assert outputs(((1, 3),)) == (size - 1) * stride + spanned - 4


@pytest.mark.parametrize(("window", "layers"), [(2, 3), (3, 1), (3, 4), (5, 2)])
def test_receptive_field_of_stacked_convolutions(window, layers, key):
    """L convolutions of window K see 1 + L (K - 1) entries."""
    model = jnn.serial(*[jnn.conv(1, (window,), padding="VALID", w_init=jax.nn.initializers.ones) for _ in range(layers)])
    x = jnp.ones((30, 1))
    params, state = model.init(key, x)
    gradient = jax.grad(lambda x: model.apply(params, state, x)[0][5, 0])(x)[:, 0]
    seen = np.flatnonzero(gradient)
    np.testing.assert_array_equal(seen, np.arange(5, 5 + 1 + layers * (window - 1)))


def test_receptive_field_grows_with_dilation(key):
    model = jnn.serial(*[jnn.conv(1, (2,), padding=((d, 0),), dilation=d, w_init=jax.nn.initializers.ones) for d in (1, 2, 4)])
    x = jnp.ones((20, 1))
    params, state = model.init(key, x)
    gradient = jax.jit(jax.jacobian(lambda x: model.apply(params, state, x)[0][:, 0]))(x)[:, :, 0]
    for t in range(20):
        np.testing.assert_array_equal(np.flatnonzero(gradient[t]), np.arange(max(0, t - 7), t + 1))  # causal, 8 wide


def test_conv_of_a_shifted_image_is_the_shifted_output(key):
    layer = jnn.conv(3, 3, padding="VALID")
    x = jax.random.normal(key, (9, 9, 2))
    params, _ = layer.init(key, x)
    y, _ = layer.apply(params, {}, x)
    shifted, _ = layer.apply(params, {}, jnp.roll(x, (1, 2), (0, 1)))
    np.testing.assert_allclose(shifted[1:, 2:], y[:-1, :-2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [jnn.conv, jnn.conv_transpose], ids=lambda f: f.__name__)
def test_without_b_it_is_as_with_zeros(make, key):
    x = jax.random.normal(key, (4, 5, 3))
    params, _ = make(2, 3, b_init=None).init(key, x)
    assert list(params) == ["w"]
    expected, _ = make(2, 3).apply({**params, "b": jnp.zeros(2)}, {}, x)
    np.testing.assert_array_equal(make(2, 3, b_init=None).apply(params, {}, x)[0], expected)


def test_conv_of_a_one_by_one_window_is_dense():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    params = {"w": jnp.asarray(rng.normal(size=(1, 1, 5, 6)), jnp.float32), "b": jnp.arange(6.0)}
    dense, _ = jnn.dense(6).apply({"w": params["w"][0, 0], "b": params["b"]}, {}, x)
    np.testing.assert_allclose(jnn.conv(6, 1).apply(params, {}, x)[0], dense, rtol=1e-5, atol=1e-6)


def test_groups_do_not_see_each_other(key):
    layer = jnn.conv(4, 3, groups=2)
    x = jax.random.normal(key, (5, 5, 6))
    params, _ = layer.init(key, x)
    seen = jax.jit(jax.jacobian(lambda x: jnp.sum(layer.apply(params, {}, x)[0], (0, 1))))(
        x
    )  # (features, height, width, channel)
    seen = np.any(seen != 0, (1, 2))
    np.testing.assert_array_equal(seen, [[True] * 3 + [False] * 3] * 2 + [[False] * 3 + [True] * 3] * 2)


@pytest.mark.parametrize("make", [jnn.conv, jnn.conv_transpose], ids=lambda f: f.__name__)
def test_parameters_have_the_variance_of_the_window_area_times_the_channels_of_a_group(make, key):
    params, state = make(80, (4, 3), groups=2).init(key, jnp.ones((5, 5, 20)))
    assert state == {}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in params.items()} == {
        "w": ((4, 3, 10, 80), jnp.float32),
        "b": ((80,), jnp.float32),
    }
    w = np.ravel(params["w"])
    variance = 1 / (4 * 3 * 10)
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    np.testing.assert_allclose(w.var(), variance, rtol=5 * np.sqrt(2 / w.size))
    np.testing.assert_array_equal(params["b"], 0)


@pytest.mark.parametrize("make", [jnn.conv, jnn.conv_transpose], ids=lambda f: f.__name__)
def test_initializers_get_different_keys_and_the_shapes(make, key):
    seen = []

    def spy(key, shape, dtype):
        seen.append((jax.random.key_data(key), shape, dtype))
        return jnp.full(shape, len(seen), dtype)

    params, _ = make(4, (3,), groups=2, w_init=spy, b_init=spy).init(key, jnp.ones((5, 6)))
    assert [(shape, dtype) for _, shape, dtype in seen] == [((3, 3, 4), jnp.float32), ((4,), jnp.float32)]
    assert np.any(seen[0][0] != seen[1][0])
    np.testing.assert_array_equal(params["w"], 1)
    np.testing.assert_array_equal(params["b"], 2)


PADDINGS = 'padding must be "SAME", "VALID", a whole number, or a pair (low, high) for each of 2 spatial axes, got '


@pytest.mark.parametrize("make", [jnn.conv, jnn.conv_transpose], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("features", "window", "options", "problem"),
    [
        (0, 3, {}, "features must be at least 1, got 0"),
        (4, 0, {}, "window must be at least 1, got 0"),
        (4, (3, 0), {}, "window must be at least 1, got 0"),
        (4, (), {}, "window must have 1, 2 or 3 entries, one per spatial axis, got ()"),
        (4, (3, 3, 3, 3), {}, "window must have 1, 2 or 3 entries, one per spatial axis, got (3, 3, 3, 3)"),
        (4, 3, {"stride": 0}, "stride must be at least 1, got 0"),
        (4, 3, {"stride": (1, 2, 3)}, "stride must be a whole number or 2 of them, one per spatial axis, got (1, 2, 3)"),
        (4, 3, {"dilation": 0}, "dilation must be at least 1, got 0"),
        (4, (3,), {"dilation": (1, 2)}, "dilation must be a whole number or 1 of them, one per spatial axis, got (1, 2)"),
        (4, 3, {"groups": 3}, "3 groups do not divide 4 features"),
        (4, 3, {"padding": "same"}, PADDINGS + "'same'"),
        (4, 3, {"padding": (1, 1)}, PADDINGS + "(1, 1)"),
        (4, 3, {"padding": ((1, 1),)}, PADDINGS + "((1, 1),)"),
        (4, 3, {"padding": ((1, 1), (1, 1, 1))}, PADDINGS + "((1, 1), (1, 1, 1))"),
        (4, 3, {"padding": -1}, "padding must be at least 0, got -1"),
        (4, 3, {"padding": ((0, 0), (0, -1))}, "padding must be at least 0, got -1"),
    ],
    ids=str,
)
def test_construction_refuses(make, features, window, options, problem, raises):
    with raises(ValueError, f"{make.__name__}: {problem}"):
        make(features, window, **options)


@pytest.mark.parametrize("options", [{"stride": 1.5}, {"padding": 1.5}, {"padding": None}, {"dilation": None}], ids=str)
def test_construction_takes_whole_numbers_only(options, raises):
    ((name, value),) = options.items()
    with raises(TypeError, f"conv: {name} must be a whole number, got {value}"):
        jnn.conv(4, 3, **options)


IMAGES = "(..., height, width, channel)"


@pytest.mark.parametrize(
    ("make", "window", "options", "x", "problem"),
    [
        (jnn.conv, (3, 3), {}, jnp.ones((5, 5)), f"conv: expected an array {IMAGES}, got float32 (5, 5)"),
        (jnn.conv, (3,), {}, jnp.ones(5), "conv: expected an array (..., time, channel), got float32 (5,)"),
        (jnn.conv, (3, 3), {}, {"x": jnp.ones((5, 5, 2))}, f"conv: expected an array {IMAGES}, got a dict"),
        (
            jnn.conv,
            (3, 3),
            {},
            np.ones((2, 28, 28, 2), np.uint8),
            f"conv: expected floating-point input {IMAGES}, got uint8 (2, 28, 28, 2): cast it, as in x.astype(jnp.float32)",
        ),
        (
            jnn.conv,
            (5, 5),
            {"padding": "VALID"},
            jnp.ones((2, 5, 4, 2)),
            "conv: expected at least 5 x 5 in height and width, got (2, 5, 4, 2)",
        ),
        (
            jnn.conv,
            (5, 1, 2),
            {"padding": 1, "dilation": 2},
            jnp.ones((6, 5, 5, 2)),
            "conv: expected at least 7 x 1 x 1 in depth, height and width, got (6, 5, 5, 2)",
        ),
        (jnn.conv, (3,), {}, jnp.ones((2, 0, 2)), "conv: expected at least 1 in time, got (2, 0, 2)"),
        (
            jnn.conv_transpose,
            (3,),
            {"stride": 2, "padding": 4},
            jnp.ones((3, 2)),
            "conv_transpose: expected at least 4 in time, got (3, 2)",
        ),
        (
            jnn.conv_transpose,
            (3, 3),
            {},
            jnp.ones((5, 5, 2), jnp.int32),
            f"conv_transpose: expected floating-point input {IMAGES}, got int32 (5, 5, 2): "
            "cast it, as in x.astype(jnp.float32)",
        ),
    ],
    ids=["image rank", "series rank", "dict", "uint8", "small", "small volume", "empty", "all cut", "int32"],
)
def test_wrong_input_is_refused_at_init_and_when_traced(make, window, options, x, problem, key, raises):
    layer = make(4, window, **options)
    with raises(ValueError, problem):
        layer.init(key, x)
    params = {"w": jnp.ones((*window, 2, 4)), "b": jnp.ones(4)}
    with raises(ValueError, problem):
        jax.jit(layer.apply)(params, {}, x)


def test_groups_must_divide_the_channels(key, raises):
    with raises(ValueError, "conv: 2 groups do not divide the 3 channels of (2, 5, 5, 3)"):
        jnn.conv(4, 3, groups=2).init(key, jnp.ones((2, 5, 5, 3)))


@pytest.mark.parametrize("make", [jnn.conv, jnn.conv_transpose], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (jnp.ones((2, 5, 5, 3)), "expected 4 features in the last axis, got (2, 5, 5, 3)"),
        (jnp.ones((5, 5, 4), jnp.bfloat16), "expected float32 input, as the parameters are, got bfloat16: cast one of them"),
    ],
    ids=["channels", "bfloat16"],
)
def test_input_that_does_not_fit_the_parameters_is_refused_with_its_path(make, x, problem, key, raises):
    model = jnn.serial(jnn.serial(jax.nn.relu, make(2, 3, groups=2)))
    params, state = model.init(key, jnp.ones((5, 5, 4)))
    with raises(ValueError, f"serial_0/{make.__name__}_1: {problem}"):
        jax.jit(model.apply)(params, state, x)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, "expected parameters w and b, got none"),
        ({"kernel": jnp.ones((3, 3, 1, 2))}, "expected parameters w and b, got ['kernel']"),
        ({"w": jnp.ones((5, 5, 4, 2)), "b": jnp.ones(2)}, "expected w (3, 3, in, 2), got (5, 5, 4, 2)"),
        ({"w": jnp.ones((3, 3, 4, 8)), "b": jnp.ones(8)}, "expected w (3, 3, in, 2), got (3, 3, 4, 8)"),
        ({"w": jnp.ones((6, 3, 3, 4, 2)), "b": jnp.ones((6, 2))}, "expected w (3, 3, in, 2), got (6, 3, 3, 4, 2)"),
        ({"w": jnp.ones((3, 3, 4, 2)), "b": jnp.ones(1)}, "expected b (2,), got (1,)"),
    ],
    ids=["empty", "foreign", "window", "features", "stacked", "b"],
)
def test_conv_refuses_foreign_parameters(params, problem, raises):
    with raises(ValueError, f"conv: {problem}"):
        jnn.conv(2, 3).apply(params, {}, jnp.ones((5, 5, 4)))
