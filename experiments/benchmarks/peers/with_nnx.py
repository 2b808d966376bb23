"""flax.nnx, in the functional training loop of its performance guide: nnx.jit takes longer to walk through the model."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.benchmarks.peers.with_linen import layers_of, renamed
from experiments.benchmarks.workloads import LEARNING_RATE

HEADS = 4


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.dense_0 = nnx.Linear(784, 512, rngs=rngs)
        self.dense_1 = nnx.Linear(512, 512, rngs=rngs)
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.dense_0(x))
        x = nnx.relu(self.dense_1(x))
        return self.head(x)


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv_0 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv_3 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense_7 = nnx.Linear(3136, 128, rngs=rngs)
        self.dense_9 = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv_0(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv_3(x)), (2, 2), (2, 2))
        x = nnx.relu(self.dense_7(x.reshape(len(x), -1)))
        return self.dense_9(x)


class LanguageModel(nnx.Module):
    def __init__(self, cell, rngs):
        self.embed = nnx.Embed(65, 64, rngs=rngs)
        self.rnn: Callable[..., Any] = nnx.RNN(cell(64, 256, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(256, 65, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.rnn(self.embed(tokens)))


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.attend_norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, width, decode=False, rngs=rngs)
        self.think_norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.attend_norm(x), is_causal=True)
        return x + self.down(nnx.gelu(self.up(self.think_norm(x))))


class GPT(nnx.Module):
    def __init__(self, layers, rngs):
        self.embed = nnx.Embed(65, 128, rngs=rngs)
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (128, 128)))
        self.blocks = nnx.List(Block(128, rngs) for _ in range(layers))
        self.norm = nnx.LayerNorm(128, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


Conv = functools.partial(nnx.Conv, use_bias=False)
BatchNorm = functools.partial(nnx.BatchNorm, use_running_average=False, momentum=0.9, epsilon=1e-5)


class Residual(nnx.Module):
    def __init__(self, inputs, features, rngs):
        stride = self.stride = features // inputs
        self.conv_1 = Conv(inputs, features, (3, 3), stride, padding=1, rngs=rngs)
        self.norm_1 = BatchNorm(features, rngs=rngs)
        self.conv_2 = Conv(features, features, (3, 3), padding=1, rngs=rngs)
        self.norm_2 = BatchNorm(features, rngs=rngs)
        if stride > 1:
            self.shortcut_conv = Conv(inputs, features, (1, 1), stride, rngs=rngs)
            self.shortcut_norm = BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm_1(self.conv_1(x)))
        y = self.norm_2(self.conv_2(y))
        if self.stride > 1:
            x = self.shortcut_norm(self.shortcut_conv(x))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem_conv = Conv(3, 64, (3, 3), padding=1, rngs=rngs)
        self.stem_norm = BatchNorm(64, rngs=rngs)
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        self.blocks = nnx.List(Residual(*pair, rngs) for pair in itertools.pairwise(widths))
        self.head = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_norm(self.stem_conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, (1, 2)))


def lstm_cell(weights):
    cell = {"dense_i/w": weights["cell_0/wx"], "dense_h/w": weights["cell_0/wh"], "dense_h/b": weights["cell_0/b"]}
    return weights | {f"rnn/cell/{path}": w for path, w in cell.items()}


def gru_cell(weights):
    """Without bh, zeros in the beginning: nnx.GRUCell has no bias in the product with the state."""
    cell = {"dense_i/w": weights["cell_0/wx"], "dense_i/b": weights["cell_0/b"], "dense_h/w": weights["cell_0/wh"]}
    return weights | {f"rnn/cell/{path}": w for path, w in cell.items()}


def loss_of(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def _build(model_of, prepared: Callable = dict):
    def build(weights):
        model, given = model_of(weights, nnx.Rngs(0)), renamed(prepared(weights))

        def filled(path, param):
            w = given["/".join(map(str, path)).replace("blocks/", "block_")]
            return param.replace(jnp.array(w).reshape(param.shape))

        nnx.update(model, nnx.map_state(filled, nnx.state(model, nnx.Param)))
        optimizer = nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)
        graph, state = nnx.split((model, optimizer))

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, batch):
            model, optimizer = nnx.merge(graph, state)
            loss, gradient = nnx.value_and_grad(loss_of)(model, *batch)
            optimizer.update(model, gradient)
            return nnx.state((model, optimizer)), loss

        return state, step

    return build


NETWORKS = {
    "mlp": _build(lambda weights, rngs: MLP(rngs)),
    "cnn": _build(lambda weights, rngs: CNN(rngs)),
    "lstm": _build(lambda weights, rngs: LanguageModel(nnx.OptimizedLSTMCell, rngs), lstm_cell),
    "gru": _build(lambda weights, rngs: LanguageModel(nnx.GRUCell, rngs), gru_cell),
    "gpt": _build(lambda weights, rngs: GPT(layers_of(weights), rngs)),
    "resnet": _build(lambda weights, rngs: ResNet(rngs)),
}
prepare = jax.device_put
wait = float
COMPILES = True
