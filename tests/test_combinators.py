import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jnn

from layer_properties import Case, LayerProperties


def running_mean() -> jnn.Layer:
    """A user's own layer with state: takes away a running mean of the last axis."""

    def init(key, x):
        return {}, {"mean": jnp.zeros(x.shape[-1:], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        if train:
            mean = jnp.mean(x, axis=range(x.ndim - 1)).astype(state["mean"].dtype)
            state = {"mean": 0.5 * state["mean"] + 0.5 * mean}
        return x - state["mean"].astype(x.dtype), state

    return jnn.Layer(init, apply)


def flax_dense(params, x):
    return nn.Dense(params["b"].size).apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)


def flax_network(params, state, x):
    x = jax.lax.collapse(x, x.ndim - 2)
    x = nn.relu(flax_dense(params["dense_1"], x))
    return flax_dense(params["head"], x - state["running_mean_4"]["mean"])


CASES = [
    Case("serial of a function", lambda: jnn.serial(jnp.tanh), (4,), lambda p, s, x: jax.nn.tanh(x)),
    Case(
        "serial",
        lambda rate: jnn.serial(
            jnn.flatten(2), jnn.dense(32), jax.nn.relu, jnn.dropout(rate), running_mean(), head=jnn.dense(3)
        ),
        (2, 3),
        flax_network,
        (0.3,),
        is_random=True,
        has_params=True,
    ),
]


class TestEveryCombinator(LayerProperties):
    cases = CASES


def counter() -> jnn.Layer:
    """A user's own layer: adds how often it was trained."""

    def init(key, x):
        return {}, {"count": jnp.zeros([], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        return x + state["count"], {"count": state["count"] + 1} if train else state

    return jnn.Layer(init, apply)


def notes(error) -> list[str]:
    # jax adds a note of its own about its traceback
    return [note for note in error.value.__notes__ if "layer" in note]


def test_children_are_called_by_factory_and_position_or_by_keyword(key):
    model = jnn.serial(
        jnn.dense(8), jax.nn.relu, counter(), jnn.serial(jnn.dense(4), jnn.dropout(0.5)), jnn.dense(3), head=jnn.dense(2)
    )
    params, state = model.init(key, jnp.ones((2, 5)))
    assert jax.tree.map(jnp.shape, params) == {
        "dense_0": {"w": (5, 8), "b": (8,)},
        "serial_3": {"dense_0": {"w": (8, 4), "b": (4,)}},
        "dense_4": {"w": (4, 3), "b": (3,)},
        "head": {"w": (3, 2), "b": (2,)},
    }
    assert jax.tree.map(jnp.shape, state) == {"counter_2": {"count": ()}}


def test_serial_equals_flax_sequential(key):
    model = jnn.serial(jnn.dense(8), jax.nn.silu, jnn.serial(jnn.dense(6), jnp.tanh), jnn.dense(3))
    twin = nn.Sequential([nn.Dense(8), nn.silu, nn.Dense(6), nn.tanh, nn.Dense(3)])
    x = jax.random.normal(key, (4, 5))
    foreign = twin.init(key, x)

    def ours(params):
        mine = {name: {"w": p["kernel"], "b": p["bias"]} for name, p in params["params"].items()}
        nested = {"dense_0": mine["layers_0"], "serial_2": {"dense_0": mine["layers_2"]}, "dense_3": mine["layers_4"]}
        return model.apply(nested, {}, x)[0]

    np.testing.assert_allclose(ours(foreign), twin.apply(foreign, x), rtol=1e-5, atol=1e-6)
    grads = (jax.grad(lambda p, f=f: jnp.sum(jnp.sin(f(p))))(foreign) for f in (ours, lambda p: twin.apply(p, x)))
    chex.assert_trees_all_close(*grads, rtol=1e-5, atol=1e-6)


def test_serial_of_nothing_is_the_identity(key):
    model = jnn.serial()
    x = jnp.arange(3.0)
    assert model.init(key, x) == ({}, {})
    np.testing.assert_array_equal(model.apply({}, {}, x, key=key, train=True)[0], x)


def test_state_of_every_child_is_carried(key):
    model = jnn.serial(counter(), jnn.serial(counter(), jnn.dense(1, w_init=jax.nn.initializers.ones)), last=counter())
    params, state = model.init(key, jnp.ones((2, 1)))
    for _ in range(3):
        y, state = model.apply(params, state, jnp.ones((2, 1)), key=key, train=True)
    np.testing.assert_array_equal(y, 1 + 2 + 2 + 2)
    assert state == {"counter_0": {"count": 3}, "serial_1": {"counter_0": {"count": 3}}, "last": {"count": 3}}


def test_children_draw_from_different_keys(key):
    x = jnp.ones((1, 200))
    model = jnn.serial(jnn.dropout(0.5), jnn.dropout(0.5))
    y, _ = model.apply({}, {}, x, key=key, train=True)
    # one mask twice would leave half of the entries, two masks a quarter
    assert 25 <= np.count_nonzero(y) <= 75
    params, _ = jnn.serial(jnn.dense(200), jnn.dense(200)).init(key, x)
    assert np.any(params["dense_0"]["w"] != params["dense_1"]["w"][:1])


def init_scale(key, x):
    return {"scale": jnp.full(x.shape[-1:], 2.0)}, {}


def apply_scale(params, state, x, *, key=None, train=False):
    return params["scale"] * x, state


def test_any_pair_of_functions_is_a_layer(key):
    pair = (init_scale, apply_scale)
    model = jnn.serial(pair, jnn.dense(1, w_init=jax.nn.initializers.ones), own=pair)
    x = jnp.arange(6.0).reshape(2, 3)
    params, state = model.init(key, x)
    assert list(params) == ["layer_0", "dense_1", "own"]
    np.testing.assert_allclose(model.apply(params, state, x)[0], 4 * jnp.sum(x, -1, keepdims=True))


def test_a_layer_unpacks_into_its_two_functions(key):
    init, apply = jnn.serial(jnn.dense(2), jnp.tanh)
    params, state = init(key, jnp.ones(3))
    np.testing.assert_allclose(apply(params, state, jnp.ones(3))[0], np.tanh(params["dense_0"]["w"].sum(0)), rtol=1e-5)


def nested():
    return jnn.serial(jnp.tanh, jnn.serial(jnn.dense(64), jnn.dropout(0.5)), out=jnn.serial(jnn.dense(10)))


@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_errors_name_the_path_and_both_numbers(under, key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones((32, 64)))
    train = under(lambda x, key: model.apply(params, state, x, key=key, train=True))
    with raises(ValueError, "serial_1/dense_0: expected 64 features in the last axis, got (32, 10)"):
        train(jnp.ones((32, 10)), key)
    with raises(ValueError, "serial_1/dense_0: expected float32 input, as the parameters are, got bfloat16: cast one of them"):
        train(jnp.ones((32, 64), jnp.bfloat16), key)
    with raises(ValueError, "serial_1/dropout_1: needs a key when train=True"):
        train(jnp.ones((32, 64)), None)


@pytest.mark.parametrize("under", [lambda init: init, lambda init: lambda key, x: jax.eval_shape(init, key, x)])
def test_errors_of_init_name_the_path(under, key, raises):
    model = jnn.serial(jnp.abs, body=jnn.serial(jnn.dense(3)))
    with raises(ValueError, "body/dense_0: expected floating-point input (..., in), got int32 (2, 4)"):
        under(model.init)(key, jnp.ones((2, 4), jnp.int32))
    images = jnn.serial(inner=jnn.serial(jnn.flatten()))
    with raises(ValueError, "inner/flatten_0: expected at least 3 axes, got (2, 4)"):
        under(images.init)(key, jnp.ones((2, 4)))


def test_errors_under_grad_and_vmap_name_the_path_once(key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones(64))
    wrong = jnp.ones((5, 10))

    def loss(params):
        return jnp.sum(jax.vmap(lambda x: model.apply(params, state, x)[0])(wrong))

    with raises(ValueError, "serial_1/dense_0: expected 64 features in the last axis, got (10,)"):
        jax.grad(loss)(params)


def test_foreign_and_missing_parameters_are_refused(key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones(64))
    x = jnp.ones(64)
    with raises(ValueError, "serial: parameters for extra, but its children are tanh_0, serial_1, out"):
        model.apply({**params, "extra": {}}, state, x)
    with raises(ValueError, "out: parameters for dense_7, but its children are dense_0"):
        model.apply({**params, "out": {"dense_7": {}}}, state, x)
    with raises(ValueError, "serial_1/dense_0: expected parameters w and b, got none"):
        model.apply({"out": params["out"]}, state, x)
    with raises(ValueError, "serial: expected a dict of parameters, got tuple"):
        model.apply((params, state), state, x)


def test_foreign_exceptions_keep_their_class_and_text_and_say_where(key, raises):
    class OwnError(Exception):
        pass

    def broken(x):
        raise OwnError("no such thing")

    model = jnn.serial(jnp.tanh, jnn.serial(broken), last=broken)
    with raises(OwnError, "no such thing") as error:
        model.apply({}, {}, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_1/broken_0"]
    with pytest.raises(OwnError) as error:
        model.init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_1/broken_0"]
    with pytest.raises(TypeError) as error:
        jax.jit(jnn.serial(jnn.serial(body=lambda x: x @ jnp.ones((4, 2)))).apply)({}, {}, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_0/body"]


def test_two_children_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"serial: two children have one name, .*'dense_0', 'relu_1', 'dense_0'.*: choose"):
        jnn.serial(jnn.dense(3), jax.nn.relu, dense_0=jnn.dense(2))


@pytest.mark.parametrize("factory", [jnn.dense, jnn.dropout, jnn.flatten, jnn.serial])
def test_a_factory_of_jnn_not_called_is_refused(factory, raises):
    name = factory.__name__
    with raises(TypeError, f"{name} is a factory that returns a Layer: call it, as in {name}(...)"):
        jnn.serial(jnn.dense(3), factory)


def test_a_users_factory_not_called_is_refused_with_its_path(key, raises):
    def block(rate):
        return jnn.serial(jnn.dense(3), jnn.dropout(rate))

    with raises(TypeError, "block is a factory that returns a Layer: call it, as in block(...)") as error:
        jnn.serial(inner=jnn.serial(block)).init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer inner/block_0"]


def test_a_users_factory_of_whole_numbers_not_called_is_refused_with_its_path(key, raises):
    def block(features=3):
        return jnn.serial(jnn.dense(features))

    with raises(
        TypeError,
        "dense: features must be a whole number, got float32 (3,); to be a layer, dense must be called first, as in dense(1)",
    ) as error:
        jnn.serial(inner=jnn.serial(block)).init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer inner/block_0"]


@pytest.mark.parametrize(
    "module",
    [
        nn.Dense(3),
        nn.Sequential([nn.Dense(3)]),
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
        jax.tree_util.Partial(jnp.add, jnp.ones(3)),
    ],
    ids=["linen", "linen Sequential", "nnx", "any callable that holds arrays"],
)
def test_a_module_that_holds_arrays_is_refused_with_what_to_write(module):
    with pytest.raises(TypeError) as error:
        jnn.serial(jnn.dense(3), module)
    text = str(error.value)
    assert text.startswith(f"{type(module).__name__} is a module that holds its own parameters: give a pair instead")
    assert "init(key, x) -> (params, state)" in text
    assert "apply(params, state, x, *, key=None, train=False) -> (y, state)" in text


@pytest.mark.parametrize(
    "cls",
    [nn.Dense, nnx.Linear],
    ids=["linen", "nnx"],
)
def test_a_class_is_refused_by_its_name(cls, raises):
    with raises(TypeError, f"{cls.__name__} is a class, not a layer: give a Layer or a function of one array"):
        jnn.serial(cls)


@pytest.mark.parametrize("thing", [None, 3, "relu", {}], ids=str)
def test_what_is_no_function_is_refused(thing):
    with pytest.raises(TypeError, match=rf"^expected a Layer or a function of one array, got {type(thing).__name__}"):
        jnn.serial(thing)


def test_a_list_of_layers_is_refused_without_printing_functions():
    with pytest.raises(TypeError, match=r"^expected a Layer or a function of one array, got list") as error:
        jnn.serial([jnn.dense(3), jax.nn.relu])
    assert str(error.value).endswith("write serial(*layers)")
    assert " at 0x" not in str(error.value)
