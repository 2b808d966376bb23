"""Towers: networks of equal layers, of any depth, on the digits, and what one sees in them layer by layer.

The layers are stacked (`jnn.repeat`), so that the depth costs no time to compile and what belongs to a layer is a row."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """train (1297), validation (250), test (250): vectors of 64 pixels less their mean over their deviation, of all pixels
    together; labels. In a random order, as the file has its writers in a row."""
    images, labels = jnn.data.digits()
    order = np.random.default_rng(0).permutation(len(labels))
    x = images.reshape(len(images), -1)[order]
    x, y = (x - x[:1297].mean()) / x[:1297].std(), labels[order]
    return {"train": (x[:1297], y[:1297]), "validation": (x[1297:1547], y[1297:1547]), "test": (x[1547:], y[1547:])}


def tower(block, depth: int, outputs: int = 10):
    """(..., width) -> (..., outputs):  `depth` copies of block, and a dense head."""
    return jnn.serial(hidden=jnn.repeat(block, depth), head=jnn.dense(outputs))


def classifier(model):
    """The Objective of a classifier, with its accuracy."""
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})


def layer_outputs(block, params, x):
    """-> (depth, ..., width): what each layer of a tower gives. block: without state."""

    def layer(x, params):
        y, _ = block.apply(params, {}, x)
        return y, y

    return jax.lax.scan(layer, x, params["hidden"])[1]


def layer_norms(grads):
    """-> (depth,): the norm of each layer's gradient, all its parameters together."""
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(grads["hidden"])]
    return jnp.sqrt(jnp.sum(jnp.stack(squares), axis=0))
