"""jax without layers: functions on dicts of arrays, and optax.

A network is `(params, running, x) -> logits`; batch norm writes new running statistics into the dict `running`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.benchmarks.workloads import LEARNING_RATE

HEADS = 4
EPS = 1e-5
MOMENTUM = 0.9  # share of the running statistics that is kept


def dense(params, name, x):
    """As one product of two matrices, which XLA makes quicker on CPU than one of three axes, backwards above all."""
    w, b = params[f"{name}/w"], params[f"{name}/b"]
    return (x.reshape(-1, len(w)) @ w + b).reshape(*x.shape[:-1], len(b))


def conv(w, x, stride=1):
    sides = [(size // 2, size // 2) for size in w.shape[:2]]
    return lax.conv_general_dilated(x, w, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def layer_norm(params, name, x):
    mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + EPS) * params[f"{name}/scale"] + params[f"{name}/bias"]


def batch_norm(params, running, name, x):
    mean = jnp.mean(x, (0, 1, 2))
    var = jnp.mean(jnp.square(x), (0, 1, 2)) - jnp.square(mean)
    n = x.size // x.shape[-1]
    for statistic, value in {"mean": mean, "var": var * n / (n - 1)}.items():
        path = f"{name}/{statistic}"
        running[path] = MOMENTUM * running[path] + (1 - MOMENTUM) * lax.stop_gradient(value)
    return (x - mean) * (lax.rsqrt(var + EPS) * params[f"{name}/scale"]) + params[f"{name}/bias"]


def mlp(params, running, x):
    x = jax.nn.relu(dense(params, "dense_0", x))
    x = jax.nn.relu(dense(params, "dense_1", x))
    return dense(params, "head", x)


def cnn(params, running, x):
    for name in ("conv_0", "conv_3"):
        x = max_pool(jax.nn.relu(conv(params[f"{name}/w"], x) + params[f"{name}/b"]))
    x = jax.nn.relu(dense(params, "dense_7", x.reshape(len(x), -1)))
    return dense(params, "dense_9", x)


def lstm(params, running, tokens):
    wx, wh, b = (params[f"cell_0/{name}"] for name in ("wx", "wh", "b"))

    def step(h_and_c, x):
        h, c = h_and_c
        # on CPU not slower than one product x @ wx for all steps, before the scan
        i, f, g, o = jnp.split(x @ wx + h @ wh + b, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    h = jnp.zeros((len(tokens), len(wh)))
    _, hs = lax.scan(step, (h, h), params["embed/table"][tokens.T])
    return dense(params, "head", hs.swapaxes(0, 1))


def gru(params, running, tokens):
    wx, wh, b, bh = (params[f"cell_0/{name}"] for name in ("wx", "wh", "b", "bh"))

    def step(h, x):
        r_x, z_x, n_x = jnp.split(x @ wx + b, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ wh + bh, 3, -1)
        z = jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h)
        h = (1 - z) * n + z * h
        return h, h

    _, hs = lax.scan(step, jnp.zeros((len(tokens), len(wh))), params["embed/table"][tokens.T])
    return dense(params, "head", hs.swapaxes(0, 1))


def gpt(params, running, tokens):
    x = params["embed/table"][tokens] + params["positions/table"][: tokens.shape[1]]
    for block in params["blocks"]:
        x = x + attention(block, layer_norm(block, "attend/norm", x))
        y = jax.nn.gelu(dense(block, "think/up", layer_norm(block, "think/norm", x)))
        x = x + dense(block, "think/down", y)
    return layer_norm(params, "norm", x) @ params["embed/table"].T


def attention(params, x):
    batch, time, width = x.shape
    q, k, v = jnp.split(dense(params, "attend/qkv", x).reshape(batch, time, 3 * HEADS, width // HEADS), 3, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // HEADS) ** 0.5
    causal = jnp.tril(jnp.ones((time, time), bool))
    shares = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    y = jnp.einsum("bhqk,bkhd->bqhd", shares, v)
    return dense(params, "attend/out", y.reshape(batch, time, width))


def resnet(params, running, x):
    def conv_norm(name, x, stride=1, suffix=""):
        return batch_norm(params, running, f"{name}norm{suffix}", conv(params[f"{name}conv{suffix}/w"], x, stride))

    x = jax.nn.relu(conv_norm("stem/", x))
    for stage in range(1, 5):
        for i in range(2):
            block = f"stage_{stage}/block_{i}/residual"
            stride = 2 if stage > 1 and i == 0 else 1
            y = jax.nn.relu(conv_norm(f"{block}/layer/", x, stride, "_1"))
            y = conv_norm(f"{block}/layer/", y, suffix="_2")
            shortcut = x if stride == 1 else conv_norm(f"{block}/shortcut/", x, stride)
            x = jax.nn.relu(y + shortcut)
    return dense(params, "head", jnp.mean(x, (1, 2)))


def gpt_params(weights):
    """A dict for each block, q, k and v in one matrix; the other weights as they are."""
    stacked = {path.removeprefix("repeat/"): w for path, w in weights.items() if path.startswith("repeat/")}
    stacked = {path.replace("/layer", "").replace("/attention", ""): w for path, w in stacked.items()}
    for part in "wb":
        stacked[f"attend/qkv/{part}"] = np.concatenate([stacked.pop(f"attend/{name}/{part}") for name in "qkv"], -1)
    layers = len(stacked["attend/qkv/w"])
    blocks = [{path: w[i] for path, w in stacked.items()} for i in range(layers)]
    return {"blocks": blocks} | {path: w for path, w in weights.items() if not path.startswith("repeat/")}


def running_statistics(weights):
    norms = {path.removesuffix("/scale"): w.shape for path, w in weights.items() if path.endswith("/scale")}
    means = {f"{name}/mean": jnp.zeros(shape) for name, shape in norms.items()}
    return means | {f"{name}/var": jnp.ones(shape) for name, shape in norms.items()}


def _build(network, params_of: Callable = dict, running_of: Callable = lambda weights: {}):
    optimizer = optax.adam(LEARNING_RATE)

    def build(weights):
        def loss_and_running(params, running, x, y):
            running = dict(running)
            logits = network(params, running, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), running

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, batch):
            params, running, optimizer_state = state
            (loss, running), gradient = jax.value_and_grad(loss_and_running, has_aux=True)(params, running, *batch)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, updates), running, optimizer_state), loss

        params = jax.tree.map(jnp.array, params_of(weights))
        return (params, running_of(weights), optimizer.init(params)), step

    return build


NETWORKS = {
    "mlp": _build(mlp),
    "cnn": _build(cnn),
    "lstm": _build(lstm),
    "gru": _build(gru),
    "gpt": _build(gpt, gpt_params),
    "resnet": _build(resnet, running_of=running_statistics),
}
prepare = jax.device_put
wait = float
COMPILES = True
