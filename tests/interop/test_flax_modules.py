import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jnn

from layer_properties import Case, LayerProperties


class Net(nn.Module):
    """Everything at once: parameters, running statistics, dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(5)(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(nnx.relu(self.norm(self.layers[0](x)))))


def linen_net(params, state, x):
    dense_0, dense_1 = ({"kernel": params[name]["w"], "bias": params[name]["b"]} for name in ("dense_0", "dense_1"))
    variables = {
        "params": {"Dense_0": dense_0, "BatchNorm_0": params["batch_norm_0"], "Dense_1": dense_1},
        "batch_stats": {"BatchNorm_0": state["batch_stats"]["batch_norm_0"]},
    }
    return Net().apply(variables, x)


def nnx_net(params, state, x):
    net = NNXNet(nnx.Rngs(0))
    for i, layer in enumerate(net.layers):
        layer.kernel.set_value(params["layers"][str(i)]["w"])
        layer.bias.set_value(params["layers"][str(i)]["b"])
    for name, array in (params["norm"] | state["norm"]).items():
        getattr(net.norm, name).set_value(array)
    net.eval()
    return net(x)


CASES = [
    Case("linen", lambda: jnn.interop.linen(Net()), (4,), linen_net, is_random=True, has_params=True, mixes_examples=True),
    Case("nnx", lambda: jnn.interop.nnx(NNXNet), (4,), nnx_net, is_random=True, has_params=True, mixes_examples=True),
]


# nnx.BatchNorm given statistics in 16 bits, as one of the tests does, writes those of 32 bits into them
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
class TestEveryFlaxModule(LayerProperties):
    cases = CASES


# ---- linen


class NamesOfAllKinds(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4)(tokens)
        x = nn.LayerNorm()(x)
        x = nn.RNN(nn.GRUCell(3, name="myGRUCell"))(x)
        x = nn.WeightNorm(nn.Dense(3, name="inner"))(x)
        return nn.Conv(2, (3,), use_bias=False)(x) + self.param("A_log", nn.initializers.ones, (2,))


def test_linen_names_are_jnns_and_shapes_stay(key):
    params, state = jnn.interop.linen(NamesOfAllKinds()).init(key, jax.ShapeDtypeStruct((2, 6), jnp.int32))
    assert state == {}
    shapes = {path: leaf.shape for path, leaf in jnn.tree.flatten(params).items() if "cell" not in path}
    assert shapes == {
        "a_log": (2,),
        "conv_0/w": (3, 3, 2),
        "embed_0/table": (7, 4),
        "inner/b": (3,),
        "inner/w": (3, 3),
        "layer_norm_0/bias": (4,),
        "layer_norm_0/scale": (4,),
        "weight_norm_0/inner.kernel.scale": (3,),
    }
    assert set(params["my_gru_cell"]) == {"hn", "hr", "hz", "in", "ir", "iz"}
    assert set(params["my_gru_cell"]["in"]) == {"w", "b"}


class Twins(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="Twin")(x) * self.param("w", nn.initializers.ones, ()) + nn.Dense(3, name="twin")(x).sum()


def test_linen_names_that_would_become_the_same_stay(key):
    layer = jnn.interop.linen(Twins())
    x = jnp.ones((2, 4))
    params, _ = layer.init(key, x)
    assert {name: jax.tree.map(jnp.shape, params[name]) for name in params} == {
        "Twin": {"w": (4, 2), "b": (2,)},
        "twin": {"w": (4, 3), "b": (3,)},
        "w": (),
    }
    twins = [{"kernel": params[name]["w"], "bias": params[name]["b"]} for name in ("Twin", "twin")]
    expected = Twins().apply({"params": {"Twin": twins[0], "twin": twins[1], "w": params["w"]}}, x)
    np.testing.assert_array_equal(layer.apply(params, {}, x)[0], expected)


def test_linen_init_computes_no_output(key):
    # the input alone would be 4 TiB
    params, _ = jnn.interop.linen(nn.Dense(3)).init(key, jax.ShapeDtypeStruct((1 << 38, 4), jnp.float32))
    assert params["w"].shape == (4, 3)


def test_linen_training_moves_the_running_statistics_as_flax_does(key):
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x, use_running_average):
            return nn.BatchNorm(use_running_average=use_running_average, momentum=0.9)(x)

    layer = jnn.interop.linen(Norm())
    x = 2 + 3 * jax.random.normal(key, (8, 4))
    params, state = layer.init(key, x)
    y, state = layer.apply(params, state, x, train=True)
    variables = Norm().init(key, x, True)
    expected, changed = Norm().apply(variables, x, False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["batch_norm_0"], changed["batch_stats"]["BatchNorm_0"])


def _dropout_by(name, default):
    def call(self, x, mode=default):
        return nn.Dropout(0.5, deterministic=mode if name in ("deterministic", "inference") else not mode)(x)

    namespace = {}
    exec(f"def __call__(self, x, {name}): return call(self, x, {name})", {"call": call}, namespace)
    return type("Noise", (nn.Module,), {"__call__": nn.compact(namespace["__call__"])})()


@pytest.mark.parametrize("name", ["train", "training", "is_training", "deterministic", "inference"])
def test_linen_finds_the_argument_that_says_train(name, key):
    layer = jnn.interop.linen(_dropout_by(name, None))
    x = jnp.ones((4, 8))
    np.testing.assert_array_equal(layer.apply({}, {}, x)[0], x)
    y, _ = layer.apply({}, {}, x, key=key, train=True)
    assert set(np.unique(y)) == {0, 2}


def test_linen_takes_the_words_of_the_user_for_train(key):
    layer = jnn.interop.linen(_dropout_by("phase", None), train_arguments=lambda train: {"phase": train})
    x = jnp.ones((4, 8))
    np.testing.assert_array_equal(layer.apply({}, {}, x)[0], x)
    assert set(np.unique(layer.apply({}, {}, x, key=key, train=True)[0])) == {0, 2}


class OwnStream(nn.Module):
    quiet: bool

    @nn.compact
    def __call__(self, x, train=False):
        return x + jax.random.normal(self.make_rng("noise"), x.shape) if train or not self.quiet else x


def test_linen_streams_of_any_name_come_from_the_key_while_training(key, raises):
    layer = jnn.serial(jnn.dense(3), jnn.interop.linen(OwnStream(quiet=True)))
    x = jnp.ones((2, 4))
    params, state = layer.init(key, x)
    y = layer.apply(params, state, x, key=key, train=True)[0]
    np.testing.assert_array_equal(y, layer.apply(params, state, x, key=key, train=True)[0])
    assert np.all(y != layer.apply(params, state, x, key=jax.random.key(1), train=True)[0])
    with raises(ValueError, "linen_1: needs a key when train=True"):
        layer.apply(params, state, x, train=True)


def test_linen_a_module_that_draws_without_training_is_refused(key):
    with pytest.raises(ValueError, match=r"linen_0: draws random numbers when train=False: .* needs PRNG"):
        jnn.serial(jnn.interop.linen(OwnStream(quiet=False))).init(key, jnp.ones((2, 4)))


def test_linen_boxes_of_partitioned_parameters_are_opened(key):
    partitioned = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    layer = jnn.interop.linen(nn.Dense(3, kernel_init=partitioned))
    x = jnp.ones((2, 4))
    params, _ = layer.init(key, x)
    assert isinstance(params["w"], jax.Array)
    np.testing.assert_allclose(layer.apply(params, {}, x)[0], x @ params["w"] + params["b"], rtol=1e-6)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x, mask=None):
        return nn.MultiHeadDotProductAttention(2)(x, mask=mask)


def test_linen_arguments_with_default_none_are_those_of_apply(key):
    model = jnn.serial(jnn.interop.linen(Attention()), jax.nn.relu)
    x = jax.random.normal(key, (2, 5, 4))
    params, state = model.init(key, x)
    mask = nn.make_causal_mask(jnp.ones((2, 5)))
    changed = x.at[:, 3:].add(1.0)
    y, y_changed = (model.apply(params, state, each, mask=mask)[0] for each in (x, changed))
    np.testing.assert_allclose(y[:, :3], y_changed[:, :3], rtol=1e-6)
    assert np.any(y != model.apply(params, state, x)[0])
    with pytest.raises(ValueError, match="no layer inside takes the argument lengths; they take mask"):
        model.apply(params, state, x, lengths=jnp.ones(2))


def test_linen_a_cache_changes_without_training_too_and_decodes_what_the_full_pass_gives(key):
    length = 4
    decoder = jnn.interop.linen(nn.MultiHeadDotProductAttention(2, decode=True))
    full = jnn.interop.linen(nn.MultiHeadDotProductAttention(2))
    x = jax.random.normal(key, (2, length, 6))
    params, state = decoder.init(key, x)
    expected, _ = full.apply(params, {}, x, mask=nn.make_causal_mask(jnp.ones((2, length))))
    step = jax.jit(decoder.apply)
    for t in range(length):
        y, state = step(params, state, x[:, t : t + 1])
        np.testing.assert_allclose(y[:, 0], expected[:, t], rtol=1e-5, atol=1e-5)


def test_linen_a_tuple_is_several_arguments(key):
    class Difference(nn.Module):
        @nn.compact
        def __call__(self, a, b):
            return nn.Dense(2)(a - b)

    layer = jnn.interop.linen(Difference())
    x = jnp.ones((3, 4)), jnp.ones((3, 4))
    params, state = layer.init(key, x)
    np.testing.assert_array_equal(layer.apply(params, state, x)[0], 0)


def test_linen_a_state_that_grows_is_refused(key, raises):
    class Sower(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "harmless", x)
            self.sow("losses", "size", x.sum())
            return x

    layer = jnn.interop.linen(Sower())
    x = jnp.ones((2, 4))
    params, state = layer.init(key, x)
    layer.apply(params, state, x)
    with raises(ValueError, "linen: a call must leave the form of its state as it was: losses/size/1 appeared"):
        layer.apply(params, state, x, train=True)


def test_linen_refuses_foreign_parameters(key, raises):
    layer = jnn.serial(jnn.interop.linen(nn.Dense(3)))
    with raises(ValueError, "linen_0: these are not its parameters: b, w missing; kernel not known"):
        layer.apply({"linen_0": {"kernel": jnp.ones((4, 3))}}, {}, jnp.ones((2, 4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jnn.interop.linen(nn.Dense), "linen: expected a flax.linen module, made, got the class Dense: call it"),
        (lambda: jnn.interop.linen(jnn.dense(3)), "linen: expected a flax.linen module, made, got Layer"),
        (
            lambda: jnn.interop.nnx(NNXNet(nnx.Rngs(0))),
            "nnx: expected a constructor (rngs -> module), got the module NNXNet: "
            "write nnx(lambda rngs: NNXNet(..., rngs=rngs))",
        ),
        (lambda: jnn.interop.nnx(3), "nnx: expected a constructor (rngs -> module), got int"),
        (
            lambda: jnn.interop.nnx(lambda rngs: nn.Dense(3)),
            "nnx: expected the constructor to return a module of flax.nnx, got Dense",
        ),
    ],
    ids=["class", "layer", "made", "number", "linen"],
)
def test_what_is_no_module_is_refused(make, message, raises):
    with raises(TypeError, message):
        make()


# ---- nnx


def test_nnx_needs_a_key_to_train_and_says_where(key, raises):
    model = jnn.serial(jnn.interop.nnx(NNXNet))
    x = jnp.ones((4, 4))
    params, state = model.init(key, x)
    with raises(ValueError, "nnx_0: needs a key when train=True"):
        model.apply(params, state, x, train=True)
    with raises(ValueError, "nnx_0: needs a key when train=True"):
        jax.jit(lambda p, s, x: model.apply(p, s, x, train=True))(params, state, x)


def test_nnx_without_randomness_trains_without_a_key(key):
    layer = jnn.interop.nnx(lambda rngs: nnx.BatchNorm(4, momentum=0.5, rngs=rngs))
    x = 3 + jax.random.normal(key, (50, 4))
    params, state = layer.init(key, x)
    _, state = layer.apply(params, state, x, train=True)
    np.testing.assert_allclose(state["mean"], 0.5 * x.mean(0), rtol=1e-5)


class Blocks(nnx.Module):
    """Layers in a scan, each with dropout of its own."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def block(rngs):
            return Block(rngs)

        self.blocks = block(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return block(x)

        return forward(x, self.blocks)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(jnp.tanh(self.linear(x)))


def test_nnx_layers_in_a_scan(key):
    layer = jnn.interop.nnx(Blocks)
    x = jnp.ones((2, 4))
    params, state = layer.init(key, x)
    assert jax.tree.map(jnp.shape, params) == {"blocks": {"linear": {"w": (3, 4, 4), "b": (3, 4)}}}
    expected = x
    for w, b in zip(params["blocks"]["linear"]["w"], params["blocks"]["linear"]["b"], strict=True):
        expected = jnp.tanh(expected @ w + b)
    np.testing.assert_allclose(layer.apply(params, state, x)[0], expected, rtol=1e-5)
    y, other = (layer.apply(params, state, x, key=jax.random.key(i), train=True)[0] for i in (0, 1))
    assert np.any(y != other)


class Various(nnx.Module):
    """A shared matrix, a cache, intermediates, noise from an argument."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.calls = nnx.Cache(jnp.zeros((), jnp.int32))
        self.seen = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, tokens, scale=None, *, rngs=None):
        x = self.embed(tokens)
        self.calls[...] += 1
        self.seen[...] += 1
        self.sow(nnx.Intermediate, "hidden", x)
        if rngs is not None:
            x += jax.random.normal(rngs(), x.shape)
        return self.embed.attend(x if scale is None else x * scale)


def test_nnx_shared_weights_caches_intermediates_and_arguments(key):
    layer = jnn.interop.nnx(Various)
    tokens = jnp.array([[1, 2], [3, 0]])
    params, state = layer.init(key, tokens)
    assert jax.tree.map(jnp.shape, params) == {"embed": {"table": (7, 4)}}
    assert state == {"calls": 0, "seen": 0}
    table = params["embed"]["table"]
    y, new_state = layer.apply(params, state, tokens, scale=jnp.float32(2))
    np.testing.assert_allclose(y, 2 * table[tokens] @ table.T, rtol=1e-5)
    assert new_state == {"calls": 1, "seen": 0}
    noisy, new_state = layer.apply(params, new_state, tokens, key=key, train=True)
    assert new_state == {"calls": 2, "seen": 1}
    assert np.all(noisy != layer.apply(params, state, tokens)[0])
