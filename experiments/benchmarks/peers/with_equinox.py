"""equinox. The state crosses the boundary of filter_jit as a list of leaves, equinox's advice for loops of short steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.workloads import LEARNING_RATE

KEY = jax.random.key(0)  # layers want one to draw what the given weights then replace
RELU = eqx.nn.Lambda(jax.nn.relu)


def _put(layer, **arrays):
    """The layer with these arrays instead of its own."""
    return eqx.tree_at(lambda layer: [getattr(layer, name) for name in arrays], layer, list(map(jnp.array, arrays.values())))


def _dense(weights, path):
    w, b = weights[f"{path}/w"], weights[f"{path}/b"]
    return _put(eqx.nn.Linear(*w.shape, key=KEY), weight=w.T, bias=b)


def _conv(weights, path, stride=1):
    w = weights[f"{path}/w"].transpose(3, 2, 0, 1)
    b = {"bias": weights[f"{path}/b"][:, None, None]} if f"{path}/b" in weights else {}
    size = w.shape[-1]
    layer = eqx.nn.Conv2d(w.shape[1], w.shape[0], size, stride, padding=size // 2, use_bias=bool(b), key=KEY)
    return _put(layer, weight=w, **b)


def _layer_norm(weights, path):
    scale = weights[f"{path}/scale"]
    return _put(eqx.nn.LayerNorm(scale.shape), weight=scale, bias=weights[f"{path}/bias"])


def _batch_norm(weights, path):
    scale = weights[f"{path}/scale"]
    layer = eqx.nn.BatchNorm(len(scale), axis_name="batch", momentum=0.9, mode="batch")
    return _put(layer, weight=scale, bias=weights[f"{path}/bias"])


def _mlp(weights):
    return eqx.nn.Sequential([_dense(weights, "dense_0"), RELU, _dense(weights, "dense_1"), RELU, _dense(weights, "head")])


def _cnn(weights):
    w = weights["dense_7/w"]  # its rows are height, width, channel
    w = w.reshape(7, 7, 64, -1).transpose(2, 0, 1, 3).reshape(w.shape)
    layers = [
        *(_conv(weights, "conv_0"), RELU, eqx.nn.MaxPool2d(2, 2)),
        *(_conv(weights, "conv_3"), RELU, eqx.nn.MaxPool2d(2, 2)),
        eqx.nn.Lambda(jnp.ravel),
        *(_dense(weights | {"dense_7/w": w}, "dense_7"), RELU, _dense(weights, "dense_9")),
    ]
    return eqx.nn.Sequential(layers)


class LanguageModel(eqx.Module):
    embed: eqx.nn.Embedding
    cell: eqx.nn.LSTMCell | eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __call__(self, tokens, state):
        def step(carry, x):
            carry = self.cell(x, carry)
            return carry, carry[0] if isinstance(carry, tuple) else carry

        zeros = jnp.zeros(self.cell.hidden_size)
        start = (zeros, zeros) if isinstance(self.cell, eqx.nn.LSTMCell) else zeros
        _, ys = jax.lax.scan(step, start, jax.vmap(self.embed)(tokens))
        return jax.vmap(self.head)(ys), state


def _language_model(weights, cell):
    return LanguageModel(eqx.nn.Embedding(weight=jnp.array(weights["embed/table"])), cell, _dense(weights, "head"))


def _lstm(weights):
    wx, wh, b = (weights[f"cell_0/{name}"] for name in ("wx", "wh", "b"))
    cell = eqx.nn.LSTMCell(len(wx), len(wh), key=KEY)
    return _language_model(weights, _put(cell, weight_ih=wx.T, weight_hh=wh.T, bias=b))


def _gru(weights):
    wx, wh, b, bh = (weights[f"cell_0/{name}"] for name in ("wx", "wh", "b", "bh"))
    # r and z have one bias, n has two
    features = len(wh)
    bias = jnp.array(b).at[: 2 * features].add(bh[: 2 * features])
    cell = eqx.nn.GRUCell(len(wx), features, key=KEY)
    return _language_model(weights, _put(cell, weight_ih=wx.T, weight_hh=wh.T, bias=bias, bias_n=bh[2 * features :]))


class Block(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm_2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, weights):
        self.norm_1 = _layer_norm(weights, "attend/layer/norm")
        width = len(weights["attend/layer/norm/scale"])
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attention = eqx.tree_at(
            lambda attention: [attention.query_proj, attention.key_proj, attention.value_proj, attention.output_proj],
            eqx.nn.MultiheadAttention(4, width, **biases, key=KEY),
            [_dense(weights, f"attend/layer/attention/{name}") for name in ("q", "k", "v", "out")],
        )
        self.norm_2 = _layer_norm(weights, "think/layer/norm")
        self.up, self.down = _dense(weights, "think/layer/up"), _dense(weights, "think/layer/down")

    def __call__(self, x, mask):
        y = jax.vmap(self.norm_1)(x)
        x = x + self.attention(y, y, y, mask)
        y = jax.vmap(self.up)(jax.vmap(self.norm_2)(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(y))


class GPT(eqx.Module):
    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, weights):
        self.embed = eqx.nn.Embedding(weight=jnp.array(weights["embed/table"]))
        self.positions = jnp.array(weights["positions/table"])
        stacked = {path.removeprefix("repeat/"): w for path, w in weights.items() if path.startswith("repeat/")}
        layers = len(stacked["think/layer/up/b"])
        self.blocks = [Block({path: w[i] for path, w in stacked.items()}) for i in range(layers)]
        self.norm = _layer_norm(weights, "norm")

    def __call__(self, tokens, state):
        time = len(tokens)
        x = jax.vmap(self.embed)(tokens) + self.positions[:time]
        mask = jnp.tril(jnp.ones((time, time), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.embed.weight.T, state


class ResidualBlock(eqx.nn.StatefulLayer):
    layer: eqx.nn.Sequential
    shortcut: eqx.nn.Sequential  # empty where nothing changes shape

    def __init__(self, weights, path, stride):
        first = [_conv(weights, f"{path}/layer/conv_1", stride), _batch_norm(weights, f"{path}/layer/norm_1"), RELU]
        second = [_conv(weights, f"{path}/layer/conv_2"), _batch_norm(weights, f"{path}/layer/norm_2")]
        self.layer = eqx.nn.Sequential([*first, *second])
        shortcut = []
        if stride != 1:
            shortcut = [_conv(weights, f"{path}/shortcut/conv", stride), _batch_norm(weights, f"{path}/shortcut/norm")]
        self.shortcut = eqx.nn.Sequential(shortcut)

    def __call__(self, x, state, *, key=None):
        y, state = self.layer(x, state)
        x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


def _resnet(weights):
    stem = [_conv(weights, "stem/conv"), _batch_norm(weights, "stem/norm"), RELU]
    blocks = [
        ResidualBlock(weights, f"stage_{stage}/block_{i}/residual", 2 if stage > 1 and i == 0 else 1)
        for stage in (1, 2, 3, 4)
        for i in (0, 1)
    ]
    pool = eqx.nn.Lambda(lambda x: jnp.mean(x, (1, 2)))
    return eqx.nn.Sequential([*stem, *blocks, pool, _dense(weights, "head")])


def _build(network):
    def build(weights):
        model, model_state = eqx.nn.make_with_state(network)(weights)
        optimizer = optax.adam(LEARNING_RATE)
        optimizer_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        leaves, form = jax.tree.flatten((model, model_state, optimizer_state))

        @eqx.filter_value_and_grad(has_aux=True)
        def loss_of(model, model_state, x, targets):
            forward = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, model_state = forward(x, model_state)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), model_state

        @eqx.filter_jit(donate="all-except-first")
        def step(batch, leaves):
            model, model_state, optimizer_state = jax.tree.unflatten(form, leaves)
            (loss, model_state), gradients = loss_of(model, model_state, *batch)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state)
            return jax.tree.leaves((eqx.apply_updates(model, updates), model_state, optimizer_state)), loss

        return leaves, lambda leaves, batch: step(batch, leaves)

    return build


def prepare(batch):
    inputs, targets = batch
    return jax.device_put((inputs.transpose(0, 3, 1, 2) if inputs.ndim == 4 else inputs, targets))


NETWORKS = {
    "mlp": _build(_mlp),
    "cnn": _build(_cnn),
    "lstm": _build(_lstm),
    "gru": _build(_gru),
    "gpt": _build(GPT),
    "resnet": _build(_resnet),
}
wait = float
COMPILES = True
