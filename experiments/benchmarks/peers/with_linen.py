"""flax.linen."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.benchmarks.workloads import LEARNING_RATE, WORKLOADS

HEADS = 4


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(512, name="dense_0")(x))
        x = nn.relu(nn.Dense(512, name="dense_1")(x))
        return nn.Dense(10, name="head")(x)


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3), name="conv_0")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(64, (3, 3), name="conv_3")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128, name="dense_7")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="dense_9")(x)


class LanguageModel(nn.Module):
    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(65, 64, name="embed")(tokens)
        return nn.Dense(65, name="head")(nn.RNN(self.cell)(x))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        y = nn.LayerNorm(1e-5, name="attend_norm")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(y, mask=mask)
        y = nn.LayerNorm(1e-5, name="think_norm")(x)
        y = nn.gelu(nn.Dense(4 * x.shape[-1], name="up")(y))
        return x + nn.Dense(x.shape[-1], name="down")(y)


class GPT(nn.Module):
    layers: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(65, 128, name="embed")
        x = embed(tokens) + self.param("positions", nn.initializers.normal(0.02), (tokens.shape[1], 128))
        mask = nn.make_causal_mask(tokens[:1])
        for i in range(self.layers):
            x = Block(name=f"block_{i}")(x, mask)
        return embed.attend(nn.LayerNorm(1e-5, name="norm")(x))


Conv = functools.partial(nn.Conv, use_bias=False)
BatchNorm = functools.partial(nn.BatchNorm, use_running_average=False, momentum=0.9, epsilon=1e-5)


class Residual(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = Conv(self.features, (3, 3), self.stride, padding=1, name="conv_1")(x)
        y = nn.relu(BatchNorm(name="norm_1")(y))
        y = Conv(self.features, (3, 3), padding=1, name="conv_2")(y)
        y = BatchNorm(name="norm_2")(y)
        if self.stride > 1:
            x = Conv(self.features, (1, 1), self.stride, name="shortcut_conv")(x)
            x = BatchNorm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(BatchNorm(name="stem_norm")(Conv(64, (3, 3), padding=1, name="stem_conv")(x)))
        for n, features in enumerate((64, 64, 128, 128, 256, 256, 512, 512)):
            x = Residual(features, features // x.shape[-1], name=f"block_{n}")(x)
        return nn.Dense(10, name="head")(jnp.mean(x, (1, 2)))


# what other names jnn has: of arrays, and of parts of modules
ARRAYS = {"w": "kernel", "b": "bias", "table": "embedding"}
MODULES = {
    "attend/layer/attention": "attention",
    "attention/q": "attention/query",
    "attention/k": "attention/key",
    "attention/v": "attention/value",
    "attend/layer/norm": "attend_norm",
    "think/layer/norm": "think_norm",
    "think/layer/": "",
    "stem/": "stem_",
    "/residual/layer": "",
    "/residual/shortcut/": "/shortcut_",
} | {f"stage_{1 + n // 2}/block_{n % 2}": f"block_{n}" for n in range(8)}


def renamed(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under flax's names: `dense_0/w` is `dense_0/kernel`. Each block of gpt by itself."""
    params = {}
    for path, w in weights.items():
        module, name = path.rsplit("/", 1)
        for of_jnn, of_flax in MODULES.items():
            module = module.replace(of_jnn, of_flax)
        path = module if module == "positions" else f"{module}/{ARRAYS.get(name, name)}"
        if path.startswith("repeat/"):
            params |= {path.replace("repeat", f"block_{i}"): block for i, block in enumerate(w)}
        else:
            params[path] = w
    return params


def lstm_gates(weights):
    """A matrix for each gate."""
    wx, wh, b = (np.split(weights[f"cell_0/{name}"], 4, -1) for name in ("wx", "wh", "b"))
    gates = {}
    for i, gate in enumerate("ifgo"):
        gates |= {f"cell/i{gate}/w": wx[i], f"cell/h{gate}/w": wh[i], f"cell/h{gate}/b": b[i]}
    return weights | gates


def gru_gates(weights):
    """A matrix for each gate; r and z have one bias."""
    wx, wh, b, bh = (np.split(weights[f"cell_0/{name}"], 3, -1) for name in ("wx", "wh", "b", "bh"))
    biases = b[0] + bh[0], b[1] + bh[1], b[2]
    gates = {"cell/hn/b": bh[2]}
    for i, gate in enumerate("rzn"):
        gates |= {f"cell/i{gate}/w": wx[i], f"cell/i{gate}/b": biases[i], f"cell/h{gate}/w": wh[i]}
    return weights | gates


def layers_of(weights) -> int:
    return len(weights["repeat/think/layer/up/b"])


def _build(name, model_of, prepared: Callable = dict):
    optimizer = optax.adam(LEARNING_RATE)

    def build(weights):
        model = model_of(weights)

        def loss_and_stats(params, stats, x, y):
            logits, updated = model.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), updated.get("batch_stats", {})

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, batch):
            params, stats, optimizer_state = state
            (loss, stats), gradient = jax.value_and_grad(loss_and_stats, has_aux=True)(params, stats, *batch)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, updates), stats, optimizer_state), loss

        x = jnp.zeros(WORKLOADS[name].inputs, int if WORKLOADS[name].is_text else float)
        variables = jax.jit(model.init)(jax.random.key(0), x)
        given = renamed(prepared(weights))
        fresh: dict[str, Any] = flatten_dict(variables["params"], sep="/")
        params = unflatten_dict({path: jnp.array(given[path]).reshape(p.shape) for path, p in fresh.items()}, sep="/")
        return (params, variables.get("batch_stats", {}), optimizer.init(params)), step

    return build


NETWORKS = {
    "mlp": _build("mlp", lambda weights: MLP()),
    "cnn": _build("cnn", lambda weights: CNN()),
    "lstm": _build("lstm", lambda weights: LanguageModel(nn.OptimizedLSTMCell(256)), lstm_gates),
    "gru": _build("gru", lambda weights: LanguageModel(nn.GRUCell(256)), gru_gates),
    "gpt": _build("gpt", lambda weights: GPT(layers_of(weights))),
    "gpt_48": _build("gpt_48", lambda weights: GPT(layers_of(weights))),
    "resnet": _build("resnet", lambda weights: ResNet()),
}
prepare = jax.device_put
wait = float
COMPILES = True
