import os
import subprocess
import sys
import textwrap

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties, example, filled, shapes_of


def flax_batch_norm(params, state, x):
    layer = nn.BatchNorm(use_running_average=True, epsilon=1e-5, use_fast_variance=False)
    return layer.apply({"params": params, "batch_stats": state}, x)


def flax_layer_norm(params, state, x):
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False).apply({"params": params}, x)


def flax_rms_norm(params, state, x):
    return nn.RMSNorm(epsilon=1e-6, use_fast_variance=False).apply({"params": params}, x)


def flax_group_norm(groups, axes):
    def oracle(params, state, x):
        over = tuple(range(-1 - axes, 0))
        return nn.GroupNorm(groups, epsilon=1e-5, reduction_axes=over, use_fast_variance=False).apply({"params": params}, x)

    return oracle


NORM = {"has_params": True, "drawn": False}
CASES = [
    Case(
        "batch_norm",
        lambda momentum, eps: jnn.batch_norm(momentum=momentum, eps=eps),
        (4,),
        flax_batch_norm,
        (0.8, 1e-5),
        mixes_examples=True,
        **NORM,
    ),
    Case("layer_norm", lambda eps: jnn.layer_norm(eps=eps), (6,), flax_layer_norm, (1e-5,), **NORM),
    Case("rms_norm", lambda eps: jnn.rms_norm(eps=eps), (6,), flax_rms_norm, (1e-6,), **NORM),
    Case("group_norm", lambda eps: jnn.group_norm(2, eps=eps), (2, 3, 4), flax_group_norm(2, 2), (1e-5,), **NORM),
    Case("group_norm of sequences", lambda: jnn.group_norm(3, axes=1), (4, 6), flax_group_norm(3, 1), **NORM),
]

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_centred = pytest.mark.parametrize("case", [case for case in CASES if case.name != "rms_norm"], ids=lambda case: case.name)


class TestEveryNormalizationLayer(LayerProperties):
    cases = CASES


@every
def test_initial_parameters_are_ones_and_zeros_and_need_no_key(case):
    params, state = case.make(*case.reals).init(None, jax.ShapeDtypeStruct((2, *case.shape), jnp.bfloat16))
    width = case.shape[-1:]
    ones, zeros = jnp.ones(width), jnp.zeros(width)
    chex.assert_trees_all_equal(params, {"scale": ones} if case.name == "rms_norm" else {"scale": ones, "bias": zeros})
    chex.assert_trees_all_equal(state, {"mean": zeros, "var": ones} if case.name.startswith("batch_norm") else {})


@every
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("train", [False, True])
def test_narrow_input_with_float32_parameters_is_computed_in_float32_and_rounded_once(case, dtype, train):
    layer, params, state, x = example(case)
    x = (x + 100).astype(dtype)
    y, new_state = jax.jit(layer.apply, static_argnames="train")(params, state, x, train=train)
    wide, wide_state = jax.jit(layer.apply, static_argnames="train")(params, state, x.astype(jnp.float32), train=train)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_trees_all_close(new_state, wide_state, rtol=1e-6)


@every_centred
@pytest.mark.parametrize("train", [False, True])
def test_a_large_mean_costs_no_digits(case, train):
    layer, params, state, _ = example(case)
    x = jnp.asarray(np.random.default_rng(0).normal(1e4, 1, (4000, *case.shape)), jnp.float32)
    state = {"mean": jnp.full(case.shape[-1:], 1e4), "var": jnp.ones(case.shape[-1:])} if state else {}
    y, new_state = jax.jit(layer.apply, static_argnames="train")(params, state, x, train=train)
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
        exact, exact_state = jax.jit(layer.apply, static_argnames="train")(
            double(params), double(state), double(x), train=train
        )
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(new_state, exact_state, rtol=1e-5)


@every_centred
def test_constant_input_gives_the_bias_and_finite_gradients(case):
    layer, params, state, x = example(case)
    x = jnp.full_like(x, 3.7)

    def total(params, x):
        y, _ = layer.apply(params, state, x, train=True)
        return jnp.sum(y), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x)
    np.testing.assert_allclose(y, jnp.broadcast_to(params["bias"], x.shape), atol=1e-5)
    for leaf in jax.tree.leaves(gradients):
        assert np.all(np.isfinite(leaf))


# batch norm while training


def batch(shape=(6, 3), seed=5):
    params = filled({"scale": jnp.ones(shape[-1]), "bias": jnp.ones(shape[-1])}, seed=seed)
    state = filled({"mean": jnp.ones(shape[-1]), "var": jnp.ones(shape[-1])}, seed=seed + 1, positive=True)
    x = jnp.asarray(np.random.default_rng(seed).normal(2, 3, shape), jnp.float32)
    return params, state, x


def train(layer):
    return lambda params, state, x: layer.apply(params, state, x, train=True)


def assert_equal_with_gradients(ours, theirs, params, state, x, rtol=1e-5):
    towards = filled(x, seed=9)

    def values_and_gradients(f):
        def value(params, x):
            y, new_state = f(params, state, x)
            return jnp.sum(towards * y), (y, new_state)

        (_, outputs), gradients = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params, x)
        return outputs, gradients

    chex.assert_trees_all_close(values_and_gradients(ours), values_and_gradients(theirs), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 2, 4)], ids=str)
def test_batch_norm_trains_as_flax_does_but_for_the_unbiased_running_variance(shape):
    n = int(np.prod(shape[:-1]))

    def theirs(params, state, x):
        layer = nn.BatchNorm(use_running_average=False, momentum=0.8, epsilon=1e-3, use_fast_variance=False)
        with jax.numpy_dtype_promotion("standard"):
            variables = {"params": params, "batch_stats": state}
            y, new = layer.apply(variables, x, mutable="batch_stats")
        mean, var = new["batch_stats"]["mean"], new["batch_stats"]["var"]
        batch_var = (var - 0.8 * state["var"]) / 0.2
        return y, {"mean": mean, "var": 0.8 * state["var"] + 0.2 * batch_var * n / (n - 1)}

    assert_equal_with_gradients(train(jnn.batch_norm(momentum=0.8, eps=1e-3)), theirs, *batch(shape))


def test_batch_norm_trains_and_evaluates_as_torch_does():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params, state, x = batch((4, 3, 2, 5))
    theirs = torch.nn.BatchNorm2d(5, eps=1e-5, momentum=0.1)
    tensor = lambda a: torch.tensor(np.asarray(a))
    with torch.no_grad():
        tensors = {
            "weight": params["scale"],
            "bias": params["bias"],
            "running_mean": state["mean"],
            "running_var": state["var"],
        }
        for name, values in tensors.items():
            getattr(theirs, name).copy_(tensor(values))
    their_x = tensor(x).permute(0, 3, 1, 2).clone().requires_grad_()
    expected = theirs(their_x)
    towards = filled(x, seed=9)
    (expected * tensor(towards).permute(0, 3, 1, 2)).sum().backward()

    layer = jnn.batch_norm(momentum=0.9)
    y, new_state = layer.apply(params, state, x, train=True)
    by_params, by_x = jax.grad(lambda p, x: jnp.sum(towards * layer.apply(p, state, x, train=True)[0]), (0, 1))(params, x)
    last = lambda t: t.detach().permute(0, 2, 3, 1).numpy()
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(y, last(expected), **close)
    np.testing.assert_allclose(by_x, last(their_x.grad), **close)
    np.testing.assert_allclose(by_params["scale"], theirs.weight.grad.numpy(), **close)
    np.testing.assert_allclose(by_params["bias"], theirs.bias.grad.numpy(), **close)
    np.testing.assert_allclose(new_state["mean"], theirs.running_mean.numpy(), **close)
    np.testing.assert_allclose(new_state["var"], theirs.running_var.numpy(), **close)
    theirs.eval()
    np.testing.assert_allclose(layer.apply(params, new_state, x)[0], last(theirs(their_x)), **close)


def test_batch_norm_training_gradients_equal_centred_differences():
    params, state, x = batch()
    jnn.check_gradients(lambda p, x: jnn.batch_norm().apply(p, state, x, train=True)[0], (params, x))


def test_batch_norm_output_has_mean_bias_and_standard_deviation_scale():
    params, state, x = batch((50, 3))
    y, _ = jnn.batch_norm().apply(params, state, x, train=True)
    np.testing.assert_allclose(np.mean(y, 0), params["bias"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.std(y, 0), np.abs(params["scale"]), rtol=1e-5)


def test_batch_norm_running_statistics_converge_to_those_of_the_data(key):
    layer = jnn.batch_norm(momentum=0.999)
    mean, sd = jnp.asarray([3.0, -50.0]), jnp.asarray([2.0, 0.1])
    # batches of 4: with the biased variance the running one would end a quarter too low
    x = mean + sd * jax.random.normal(key, (12000, 4, 2))
    params, state = layer.init(key, x[0])
    step = lambda state, x: (layer.apply(params, state, x, train=True)[1], None)
    state, _ = jax.jit(lambda state, x: jax.lax.scan(step, state, x))(state, x)
    # as an average over 2000 batches: standard errors 1 / 2 and sqrt(2 / 3) of one batch, by sqrt(2000); five of them
    np.testing.assert_allclose((state["mean"] - mean) / sd, 0, atol=0.056)
    np.testing.assert_allclose(state["var"], sd**2, rtol=0.09)
    y, _ = layer.apply(params, state, x.reshape(-1, 2))
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=0.06)
    np.testing.assert_allclose(np.var(y, 0), 1, atol=0.1)


def test_batch_norm_running_statistics_follow_the_momentum():
    params, state, x = batch((5, 3))
    values = np.asarray(x, np.float64)
    for momentum in (0.0, 0.7, 1.0):
        _, new = jnn.batch_norm(momentum=momentum).apply(params, state, x, train=True)
        np.testing.assert_allclose(new["mean"], momentum * state["mean"] + (1 - momentum) * values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(new["var"], momentum * state["var"] + (1 - momentum) * values.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_under_vmap_keeps_statistics_of_each_lane():
    params, state, x = batch((4, 6, 3))
    layer = jnn.batch_norm()
    y, new_state = jax.vmap(train(layer), (None, None, 0))(params, state, x)
    assert shapes_of(new_state)["mean"].shape == (4, 3)
    for lane in range(4):
        expected, expected_state = layer.apply(params, state, x[lane], train=True)
        np.testing.assert_allclose(y[lane], expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=lane: a[i], new_state), expected_state, rtol=1e-6)


@pytest.mark.parametrize("lanes", [8, 4])
def test_batch_norm_over_a_named_axis_equals_the_full_batch(lanes):
    params, state, x = batch((8, 3), seed=7)

    def over_lanes(params, state, x):
        layer = jnn.batch_norm(axis_name="batch")
        split = x.reshape(lanes, -1, 3)
        y, state = jax.vmap(train(layer), (None, None, 0), (0, None), axis_name="batch")(params, state, split)
        return y.reshape(x.shape), state

    assert_equal_with_gradients(over_lanes, train(jnn.batch_norm()), params, state, x)


def test_batch_norm_over_two_named_axes_equals_the_full_batch():
    params, state, x = batch((2, 3, 4, 3), seed=8)
    layer = jnn.batch_norm(axis_name=("rows", "columns"))
    inner = jax.vmap(train(layer), (None, None, 0), (0, None), axis_name="columns")
    y, new_state = jax.vmap(inner, (None, None, 0), (0, None), axis_name="rows")(params, state, x)
    expected, expected_state = jnn.batch_norm().apply(params, state, x, train=True)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(new_state, expected_state, rtol=1e-5)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
import jnn

assert jax.device_count() == 4
x = jnp.asarray(np.random.default_rng(0).normal(1e3, 2, (8, 3, 2)), jnp.float32)
params = {"scale": jnp.asarray([0.5, 2.0]), "bias": jnp.asarray([-1.0, 3.0])}
state = {"mean": jnp.asarray([10.0, -1.0]), "var": jnp.asarray([4.0, 0.5])}
towards = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)


def values(apply):
    def loss(params, x):
        y, new_state = apply(params, state, x)
        return jnp.sum(towards * y), (y, new_state)

    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    return outputs, gradients


def compare(name, got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=name)


one = values(lambda p, s, x: jnn.batch_norm().apply(p, s, x, train=True))
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
layer = jnn.batch_norm(axis_name="data")
sharded = jax.shard_map(
    lambda p, s, x: layer.apply(p, s, x, train=True), mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=(P("data"), P())
)
compare("shard_map", values(sharded), one)

x = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data")))
compare("jit", values(lambda p, s, x: jnn.batch_norm().apply(p, s, x, train=True)), one)
print("equal on", jax.device_count())
"""


def test_batch_norm_over_devices_equals_one_device():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = textwrap.dedent(ON_DEVICES)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "equal on 4\n"), done.stderr


# what is refused


@pytest.mark.parametrize(
    ("shape", "axis_name", "counted"),
    [
        ((1, 8), None, "a single value for each channel, got (1, 8)"),
        ((8,), None, "a single value for each channel, got (8,)"),
        ((1, 1, 1, 8), "one", "a single value for each channel, got (1, 1, 1, 8), with the axis 'one' counted"),
        ((0, 8), None, "no value for each channel, got (0, 8)"),
    ],
    ids=["one row", "no leading axis", "one row on one lane", "none"],
)
def test_batch_norm_refuses_to_train_on_a_single_example(shape, axis_name, counted, key, raises):
    model = jnn.serial(jnn.batch_norm(axis_name=axis_name))
    params, state = model.init(key, jnp.ones(shape))
    run = lambda x: model.apply(params, state, x, train=True)
    with raises(
        ValueError,
        f"batch_norm_0: cannot be trained on {counted}: a variance needs two; give more examples, "
        "or axis_name= where they lie along the axis of a vmap or of devices",
    ):
        jax.jit(jax.vmap(run, axis_name="one"))(jnp.ones((1, *shape)))
    # a lane with one example is enough where the other lanes count
    if axis_name:
        jax.vmap(run, axis_name="one")(jnp.ones((2, *shape)))


def test_batch_norm_trained_outside_its_axis_says_so(raises):
    params, state, x = batch()
    layer = jnn.batch_norm(axis_name="data")
    layer.apply(params, state, x)
    with raises(
        ValueError,
        "batch_norm: axis_name='data' names no axis: train it inside a vmap, pmap or shard_map over an axis called so",
    ):
        layer.apply(params, state, x, train=True)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, np.float32(1.5)])
def test_batch_norm_refuses_a_momentum_that_is_no_share(momentum, raises):
    with raises(ValueError, f"batch_norm: momentum is the share kept and lies in [0, 1], got {momentum}"):
        jnn.batch_norm(momentum=momentum)


@every
@pytest.mark.parametrize(
    ("x", "got"),
    [(jnp.ones((2, 3, 4, 6), jnp.int32), "int32 (2, 3, 4, 6)"), (jnp.ones(()), "float32 ()")],
    ids=["int", "scalar"],
)
def test_integers_and_scalars_are_refused(case, x, got, raises):
    kind = case.name.partition(" ")[0]
    form = {
        "group_norm": "(..., height, width, features)",
        "group_norm of sequences": "(..., size, features)",
    }.get(case.name, "(..., features)")
    with raises(ValueError, f"{kind}: expected floating-point input {form}, got {got}"):
        case.make(*case.reals).init(None, x)
    layer, params, state, _ = example(case)
    with pytest.raises(ValueError, match=f"{kind}: expected floating-point input"):
        layer.apply(params, state, x)


@every
def test_another_width_is_refused_with_both_numbers(case, raises):
    layer, params, state, x = example(case)
    kind, width = case.name.partition(" ")[0], case.shape[-1]
    wider = jnp.concatenate([x, x], -1)
    with raises(ValueError, f"{kind}: expected {width} features in the last axis, got {wider.shape}"):
        layer.apply(params, state, wider)


@every
@pytest.mark.parametrize(
    ("params_dtype", "x_dtype"), [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.bfloat16), (jnp.float32, jnp.float64)], ids=str
)
def test_parameters_narrower_than_the_input_are_refused(case, params_dtype, x_dtype, x64, raises):
    layer, params, state, x = example(case)
    params = jax.tree.map(lambda a: a.astype(params_dtype), params)
    kind, given, got = case.name.partition(" ")[0], jnp.dtype(params_dtype), jnp.dtype(x_dtype)
    with raises(ValueError, f"{kind}: expected {given} input, as the parameters are, got {got}: cast one of them"):
        layer.apply(params, state, x.astype(x_dtype))


@every
def test_foreign_parameters_and_state_are_refused(case, raises):
    layer, params, state, x = example(case)
    kind = case.name.partition(" ")[0]
    wanted = "scale" if case.name == "rms_norm" else "scale and bias"
    with raises(ValueError, f"{kind}: expected parameters {wanted}, got none"):
        layer.apply({}, state, x)
    stacked = jnp.ones((2, *params["scale"].shape))
    with raises(ValueError, f"{kind}: expected scale (features,), got {stacked.shape}"):
        layer.apply({**params, "scale": stacked}, state, x)
    if state:
        with raises(ValueError, f"{kind}: expected var (4,), got (1,)"):
            layer.apply(params, {**state, "var": jnp.ones(1)}, x)
        with raises(ValueError, f"{kind}: expected state mean and var, got ['mean']"):
            layer.apply(params, {"mean": state["mean"]}, x)


def test_group_norm_refuses_groups_that_do_not_divide_the_features(raises):
    with raises(ValueError, "group_norm: 4 groups do not divide the 6 features of (1, 2, 2, 6)"):
        jnn.group_norm(4).init(None, jnp.ones((1, 2, 2, 6)))
    with raises(ValueError, "group_norm: groups must be at least 1, got 0"):
        jnn.group_norm(0)
    with raises(ValueError, "group_norm: axes must be at least 0, got -1"):
        jnn.group_norm(2, axes=-1)


def test_group_norm_of_features_is_that_of_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 6)), jnp.float32)
    params = filled({"scale": jnp.ones(6), "bias": jnp.ones(6)})
    with jax.numpy_dtype_promotion("standard"):
        expected = flax_group_norm(2, 0)(params, {}, x)
    np.testing.assert_allclose(jnn.group_norm(2, axes=0).apply(params, {}, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_group_norm_of_one_group_is_layer_norm_of_images_and_of_single_features_is_instance_norm():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 4, 3, 6)), jnp.float32)
    values = np.asarray(x, np.float64)
    for groups, axes in [(1, (1, 2, 3)), (6, (1, 2))]:
        layer = jnn.group_norm(groups)
        y, _ = jax.jit(layer.apply)(*layer.init(None, x), x)
        expected = (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [jnn.layer_norm, jnn.rms_norm, lambda: jnn.group_norm(2, axes=0)])
def test_scaled_examples_give_the_same_values(make):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    layer = make()
    params, state = layer.init(None, x)
    y, _ = layer.apply(params, state, x)
    # what eps adds to a variance near 1
    np.testing.assert_allclose(layer.apply(params, state, 1000 * x)[0], y, rtol=2e-4)
