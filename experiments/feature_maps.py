"""What a convolutional network on clothes looks at: filters, how alike and how sparse its feature maps are, and saliency."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments.fashion import CLASSES, cnn, cnn_blocks, scaled
from experiments.findings import picture


def after(model, images, depth, train=False):
    """Of the cnn, (params, state), after so many of its blocks: (..., height, width, channel). train: normalized by the
    statistics of these images, as a network that has not seen any has no others."""
    blocks = cnn_blocks(depth)
    params, state = ({name: part[name] for name in blocks} for part in model)
    return jnn.serial(scaled, **blocks).apply(params, state, images, train=train)[0]


def character(maps):
    """(n, height, width, channel) -> the mean |correlation| of two channels, their mean variance, the share of zeros.
    A channel that never changes has no correlation, and is left out of it."""
    flat = np.asarray(maps, np.float64).reshape(-1, maps.shape[-1])
    variance = flat.var(axis=0)
    alive = flat[:, variance > 0]
    pairs = np.asarray(np.corrcoef(alive.T))[np.triu_indices(alive.shape[1], 1)]
    return {"correlation": float(abs(pairs).mean()), "variance": float(variance.mean()), "zeros": float((flat == 0).mean())}


def characters(model, images):
    """What `character` finds behind each block of the cnn, normalized by the statistics of these images."""
    return [character(after(model, images, depth, train=True)) for depth in (1, 2, 3)]


def saliency(model, images, labels):
    """Of the cnn, (params, state), -> (n, height, width):  |d score / d pixel|, where the score is that of the picture's own
    class before softmax."""
    params, state = model

    def score(image, label):
        return cnn().apply(params, state, image[None])[0][0, label]

    return jnp.abs(jax.vmap(jax.grad(score))(images.astype(jnp.float32), labels))[..., 0]


def draw(out, model, images, labels):
    """First filters, the first maps of a picture, pictures with their saliency: one of each class."""
    rows = np.unique(labels, return_index=True)[1]
    shown, seen = images[rows], saliency(model, images[rows], labels[rows])
    filters = np.moveaxis(np.asarray(model[0]["block_1"]["conv"]["w"])[:, :, 0], -1, 0)
    maps = np.moveaxis(np.asarray(after(model, shown[-1:], 1))[0], -1, 0)
    figure = Figure(figsize=(8, 2.6))
    grid = figure.subplots(4, 16)
    for i in range(16):
        for row, first in ((0, 0), (2, 16)):
            jnn.plots.image(grid[row, i], filters[first + i], symmetric=True)
            jnn.plots.image(grid[row + 1, i], maps[first + i])
    figure.suptitle("The 32 first filters (red adds, blue takes away), each above what it makes of a boot", fontsize=9)
    picture(out, "filters", figure)
    figure = Figure(figsize=(8, 2))
    for pair, image, gradient, name in zip(figure.subplots(2, 10).T, shown, seen, CLASSES, strict=True):
        jnn.plots.image(pair[0], image, title=name)
        jnn.plots.image(pair[1], gradient)
    title = "One picture of each class, and how much each pixel changes the score of its class (white most)"
    figure.suptitle(title, fontsize=9)
    picture(out, "saliency", figure)
