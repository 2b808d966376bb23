"""dm-haiku. It has no GRU with the reset gate after the product, so "gru" is left out."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.workloads import LEARNING_RATE, WORKLOADS


def _mlp(x):
    x = jax.nn.relu(hk.Linear(512, name="dense_0")(x))
    x = jax.nn.relu(hk.Linear(512, name="dense_1")(x))
    return hk.Linear(10, name="head")(x)


def _cnn(x):
    for name, features in (("conv_0", 32), ("conv_3", 64)):
        x = jax.nn.relu(hk.Conv2D(features, 3, name=name)(x))
        x = hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID")
    x = jax.nn.relu(hk.Linear(128, name="dense_7")(hk.Flatten()(x)))
    return hk.Linear(10, name="dense_9")(x)


def _lstm(tokens):
    x = hk.Embed(65, 64, name="embed")(tokens)
    cell = hk.LSTM(256, name="cell_0")
    ys, _ = hk.dynamic_unroll(cell, x, cell.initial_state(len(x)), time_major=False)
    return hk.Linear(65, name="head")(ys)


def _layer_norm(name):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, name=name)


def _gpt(tokens, layers):
    time, width = tokens.shape[1], 128
    embed = hk.Embed(65, width, name="embed")
    x = embed(tokens) + hk.Embed(128, width, name="positions").embeddings[:time]
    mask = jnp.tril(jnp.ones((1, 1, time, time), bool))
    for i in range(layers):
        attend, think = f"repeat_{i}_attend_layer", f"repeat_{i}_think_layer"
        y = _layer_norm(f"{attend}_norm")(x)
        attention = hk.MultiHeadAttention(4, width // 4, w_init=hk.initializers.RandomNormal(), name=f"{attend}_attention")
        x = x + attention(y, y, y, mask)
        y = hk.Linear(4 * width, name=f"{think}_up")(_layer_norm(f"{think}_norm")(x))
        x = x + hk.Linear(width, name=f"{think}_down")(jax.nn.gelu(y))
    return _layer_norm("norm")(x) @ embed.embeddings.T


def _conv_norm(x, features, conv, norm, window=3, stride=1):
    side = (window // 2, window // 2)
    x = hk.Conv2D(features, window, stride, padding=(side, side), with_bias=False, name=conv)(x)
    return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9, name=norm)(x, is_training=True)


def _resnet(x):
    x = jax.nn.relu(_conv_norm(x, 64, "stem_conv", "stem_norm"))
    for stage, features in enumerate((64, 128, 256, 512), 1):
        for i in (0, 1):
            path, stride = f"stage_{stage}_block_{i}_residual", 2 if stage > 1 and i == 0 else 1
            y = jax.nn.relu(_conv_norm(x, features, f"{path}_layer_conv_1", f"{path}_layer_norm_1", stride=stride))
            y = _conv_norm(y, features, f"{path}_layer_conv_2", f"{path}_layer_norm_2")
            if stride != 1:
                x = _conv_norm(x, features, f"{path}_shortcut_conv", f"{path}_shortcut_norm", window=1, stride=stride)
            x = jax.nn.relu(x + y)
    return hk.Linear(10, name="head")(jnp.mean(x, (1, 2)))


def _of_lstm(wx, wh, b):
    """haiku's gates are i, g, f, o, and it adds 1 to f."""
    i, f, g, o = np.split(np.concatenate([wx, wh, b[None]]), 4, axis=1)
    f[-1] -= 1
    w = np.concatenate([i, g, f, o], axis=1)
    return {"w": w[:-1], "b": w[-1]}


RENAMED: dict[str, str] = {"q": "query", "k": "key", "v": "value", "out": "linear", "table": "embeddings", "bias": "offset"}


def _params_of(weights):
    """haiku's parameters, module -> name -> array. The modules are called by jnn's paths, with _ for the / that names lack."""
    params = {}

    def put(path: str, w):
        *module, name = [RENAMED.get(word, word) for word in path.split("/")]
        params.setdefault("_".join(module).replace("attention_", "attention/"), {})[name] = w

    for path, w in weights.items():
        if path.startswith("repeat/"):
            for i, of_one in enumerate(w):
                put(path.replace("repeat", f"repeat_{i}", 1), of_one)
        else:
            put(path, w)
    if "cell_0" in params:
        params["cell_0/linear"] = _of_lstm(**params.pop("cell_0"))
    return params


def _build(name, forward):
    def build(weights):
        layers = {"layers": len(weights["repeat/think/layer/up/b"])} if name == "gpt" else {}
        network = hk.without_apply_rng(hk.transform_with_state(functools.partial(forward, **layers)))
        inputs = np.zeros(WORKLOADS[name].inputs, np.int32 if WORKLOADS[name].is_text else np.float32)
        params, network_state = jax.jit(network.init)(jax.random.key(0), inputs)
        params = jax.tree.map(lambda drawn, w: jnp.array(w).reshape(drawn.shape), params, _params_of(weights))
        optimizer = optax.adam(LEARNING_RATE)

        def loss_of(params, network_state, inputs, targets):
            logits, network_state = network.apply(params, network_state, inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), network_state

        def step(state, batch):
            params, network_state, optimizer_state = state
            (loss, network_state), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, network_state, *batch)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state)
            return (optax.apply_updates(params, updates), network_state, optimizer_state), loss

        return (params, network_state, optimizer.init(params)), jax.jit(step, donate_argnums=0)

    return build


FORWARDS = {"mlp": _mlp, "cnn": _cnn, "lstm": _lstm, "gpt": _gpt, "resnet": _resnet}
NETWORKS = {name: _build(name, forward) for name, forward in FORWARDS.items()}
prepare = jax.device_put
wait = float
COMPILES = True
