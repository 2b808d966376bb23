import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties


class Net(eqx.Module):
    """Everything at once: parameters, running statistics, dropout, a list."""

    layers: list
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        keys = jax.random.split(key)
        sizes = ((4, 5), (5, 3))
        self.layers = [eqx.nn.Linear(*size, key=k, dtype=jnp.float32) for size, k in zip(sizes, keys, strict=True)]
        self.norm = eqx.nn.BatchNorm(5, "batch", momentum=0.9, mode="ema", dtype=jnp.float32)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, *, key):
        x, state = self.norm(self.layers[0](x), state)
        return self.layers[1](self.dropout(jax.nn.relu(x), key=key)), state


def net(params, state, x):
    with jax.ensure_compile_time_eval():
        model, carry = eqx.nn.make_with_state(Net)(jax.random.key(0))
    parts = lambda m: [part for layer in (*m.layers, m.norm) for part in (layer.weight, layer.bias)]
    linear = [params["layers"][i][name] for i in "01" for name in "wb"]
    model = eqx.tree_at(parts, model, [*linear, params["norm"]["scale"], params["norm"]["bias"]])
    first, statistics = state["norm"]["ema_first_time_index"], state["norm"]["ema_state_index"]
    # by hand: State.set would refuse numbers of another dtype
    carry = jax.tree.unflatten(jax.tree.structure(carry), [first, statistics["0"], statistics["1"]])
    one = lambda x: eqx.nn.inference_mode(model)(x, carry, key=None)[0]
    return jnp.vectorize(one, signature="(n)->(m)")(x)


CASES = [
    Case(
        "net",
        lambda: jnn.interop.equinox(Net),
        (4,),
        net,
        fresh_state=True,  # the numbers that the tests make up would make its boolean one of them
        is_random=True,
        has_params=True,
        mixes_examples=True,
    ),
    Case(
        "dropout",
        lambda rate: jnn.interop.equinox(lambda key: eqx.nn.Dropout(rate)),
        (6,),
        lambda params, state, x: x,
        reals=(0.5,),
        is_random=True,
    ),
]


class TestEveryEquinoxModule(LayerProperties):
    cases = CASES


class NamesOfAllKinds(eqx.Module):
    embed: eqx.nn.Embedding
    norms: tuple
    mlp: eqx.nn.MLP
    table: jax.Array
    weight: jax.Array
    flags: dict

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(7, 4, key=keys[0])
        self.norms = (eqx.nn.LayerNorm(4), eqx.nn.RMSNorm(4))
        self.mlp = eqx.nn.MLP(4, 3, 5, 1, key=keys[1])
        self.table = jnp.arange(7)
        self.weight = jax.random.normal(keys[2], (3,))
        self.flags = {"on": True}

    def __call__(self, token):
        x = self.embed(self.table[token])
        for norm in self.norms:
            x = norm(x)
        return self.mlp(x) * self.weight


def test_names_are_jnns_shapes_stay_and_integers_are_state(key):
    layer = jnn.interop.equinox(NamesOfAllKinds, axes=0)
    tokens = jnp.array([[1, 2, 0], [3, 3, 6]])
    params, state = layer.init(key, tokens)
    assert {path: leaf.shape for path, leaf in jnn.tree.flatten(params).items()} == {
        "embed/table": (7, 4),
        "mlp/layers/0/b": (5,),
        "mlp/layers/0/w": (5, 4),
        "mlp/layers/1/b": (3,),
        "mlp/layers/1/w": (3, 5),
        "norms/0/bias": (4,),
        "norms/0/scale": (4,),
        "norms/1/bias": (4,),
        "norms/1/scale": (4,),
        "w": (3,),
    }
    np.testing.assert_array_equal(state["table"], np.arange(7))
    expected = jax.vmap(jax.vmap(NamesOfAllKinds(key)))(tokens)
    np.testing.assert_allclose(layer.apply(params, state, tokens)[0], expected, rtol=1e-5, atol=1e-6)


def test_images_are_mapped_one_by_one(key):
    layer = jnn.interop.equinox(lambda key: eqx.nn.Conv2d(1, 2, 3, key=key), axes=3)
    x = jax.random.normal(key, (2, 3, 1, 6, 6))
    params, state = layer.init(key, x)
    expected = jax.vmap(jax.vmap(eqx.nn.Conv2d(1, 2, 3, key=key)))(x)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, state, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_those_of_all_leading_axes(key):
    layer = jnn.interop.equinox(lambda key: eqx.nn.BatchNorm(4, "batch", momentum=0.5, mode="ema"))
    x = 3 + jax.random.normal(key, (5, 20, 4))
    params, state = layer.init(key, x)
    y, state = layer.apply(params, state, x, train=True)
    mean, var = x.mean((0, 1)), x.var((0, 1))
    np.testing.assert_allclose(state["ema_state_index"]["0"], mean, rtol=1e-5)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    unchanged = layer.apply(params, state, x)[1]
    assert unchanged is state


def test_each_example_draws_its_own_numbers(key):
    layer = jnn.interop.equinox(lambda key: eqx.nn.Dropout(0.5))
    y, _ = layer.apply({}, {}, jnp.ones((4, 2, 16)), key=key, train=True)
    assert len(np.unique(np.reshape(y, (8, 16)), axis=0)) == 8


def test_a_traced_rate_is_no_parameter_and_a_matrix_from_outside_is_one(key):
    def made(rate, matrix):
        layer = jnn.interop.equinox(lambda key: Scaled(rate, matrix))
        return layer.init(key, jnp.ones(3))

    params, state = jax.vmap(made)(jnp.ones(2), jnp.ones((2, 3)))
    assert jax.tree.map(jnp.shape, (params, state)) == ({"matrix": (2, 3)}, {})


class Scaled(eqx.Module):
    rate: jax.Array
    matrix: jax.Array

    def __call__(self, x):
        return self.rate * self.matrix * x


class Attention(eqx.Module):
    inner: eqx.nn.MultiheadAttention

    def __init__(self, key):
        self.inner = eqx.nn.MultiheadAttention(2, 4, key=key)

    def __call__(self, x, mask=None):
        return self.inner(x, x, x, mask=mask)


def test_arguments_with_default_none_are_those_of_apply_and_mapped_too(key):
    model = jnn.serial(jnn.interop.equinox(Attention, axes=2), jnp.tanh)
    x = jax.random.normal(key, (3, 5, 4))
    params, state = model.init(key, x)
    mask = jax.random.bernoulli(key, 0.7, (3, 5, 5)).at[..., 0].set(True)
    y = jax.jit(model.apply)(params, state, x, mask=mask)[0]
    module = Attention(jax.random.split(key, 2)[0])
    np.testing.assert_allclose(y, jnp.tanh(jax.vmap(module)(x, mask)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="expected mask to begin with the leading axes"):
        model.apply(params, state, x, mask=mask[0])


def test_a_tuple_is_several_arguments_with_axes_of_their_own(key):
    class Weighted(eqx.Module):
        scale: jax.Array

        def __init__(self, key):
            self.scale = jax.random.normal(key, ())

        def __call__(self, x, weight):
            return self.scale * weight * x.sum()

    layer = jnn.interop.equinox(Weighted, axes=(2, 0))
    x = jnp.ones((3, 2, 4)), jnp.arange(3.0)
    params, state = layer.init(key, x)
    np.testing.assert_allclose(layer.apply(params, state, x)[0], 8 * params["scale"] * jnp.arange(3.0), rtol=1e-6)


def test_a_missing_key_is_reported_with_the_path(key, raises):
    model = jnn.serial(jnn.interop.equinox(Net))
    x = jnp.ones((4, 4))
    params, state = model.init(key, x)
    with raises(ValueError, "equinox_0: needs a key when train=True"):
        model.apply(params, state, x, train=True)


def test_mistakes_are_named(key, raises):
    problem = "expected a constructor (key -> module), got the module Dropout: write equinox(lambda key: Dropout(..., key=key))"
    with raises(TypeError, f"equinox: {problem}"):
        jnn.interop.equinox(eqx.nn.Dropout(0.5))
    with raises(TypeError, "equinox: expected the constructor to return a module of equinox, got Layer"):
        jnn.interop.equinox(lambda key: jnn.dense(3))
    layer = jnn.interop.equinox(lambda key: eqx.nn.Conv2d(1, 2, 3, key=key), axes=3)
    params, state = layer.init(key, jnp.ones((1, 6, 6)))
    with raises(ValueError, "equinox: expected arrays of 3 axes or more (axes=3), got float32 (6, 6)"):
        layer.apply(params, state, jnp.ones((6, 6)))
    with raises(ValueError, "equinox: these are not its parameters: w missing; weight not known"):
        layer.apply({"weight": params["w"], "b": params["b"]}, state, jnp.ones((1, 6, 6)))
