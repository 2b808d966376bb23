"""The style of a picture: Gram matrices of what a network sees in it, and the loss of another picture that takes it on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jnn
from jnn.comparison.errors import InputError
from jnn.models.convolutional import VGG_19

CONTENT, STYLE, VARIATION = 1.0, 100.0, 0.05  # weights of the parts of the loss


class Network(NamedTuple):
    """Convolutions, and the pixels that they were trained on."""

    params: Any  # stage_1/conv_1 and so on, of `jnn.models.vgg`
    mean: Any
    deviation: Any


def load(path: str, stages=VGG_19) -> Network:
    """The convolutions of torchvision's VGG-19, from a safetensors file."""
    shapes, _ = jax.eval_shape(jnn.models.vgg(stages=stages, hidden=()).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    names, place = {}, 0
    for i, widths in enumerate(stages, 1):
        for j, _ in enumerate(widths, 1):
            names[f"stage_{i}/conv_{j}"] = f"features.{place}"
            place += 2  # a convolution and its relu
        place += 1  # a pooling
    try:
        like = jnn.tree.select(shapes, "stage_*"), {}
        params = jnn.interop.load_state_dict(path, like, names, ignore="classifier.*").params
    except (OSError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(f"--weights: {' '.join(lines[:2])}") from error  # the first of what may be many problems
    return Network(params, jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225]))  # torchvision's


def features(network: Network, pixels) -> dict:
    """(height, width, 3) in [0, 1] -> {"1_1": (height, width, channels), ...}: behind each convolution and its relu, with means
    in place of the largest between the stages, as Gatys et al. 2015 recommend."""
    x, found = (pixels - network.mean) / network.deviation, {}
    for i in range(1, len(network.params) + 1):
        for j in range(1, len(network.params[f"stage_{i}"]) + 1):
            layer = network.params[f"stage_{i}"][f"conv_{j}"]
            x = found[f"{i}_{j}"] = jax.nn.relu(jnn.conv(layer["b"].size, 3).apply(layer, {}, x)[0])
        x, _ = jnn.avg_pool(2).apply({}, {}, x)
    return found


def gram(f):
    """(height, width, channels) -> (channels, channels): the mean over places of the products of channels."""
    return jnp.einsum("hwi,hwj->ij", f, f) / (f.shape[0] * f.shape[1])


def share(a, target):
    """|a - target|^2 / |target|^2"""
    return jnp.sum(jnp.square(a - target)) / jnp.sum(jnp.square(target))


def variation(pixels):
    """The mean square of the differences between neighbours, downwards and to the right."""
    return sum(jnp.mean(jnp.square(jnp.diff(pixels, axis=axis))) for axis in (0, 1))


def targets(network: Network, content, style) -> dict:
    """What the features and the Gram matrices shall be, of two pictures: {"content": {layer: features}, "style": {layer: Gram
    matrix}}."""
    kept = f"{len(network.params) - 1}_2"  # conv4_2 of five stages in Gatys et al. 2015
    of_style = features(network, style)
    firsts = {f"{i}_1": gram(of_style[f"{i}_1"]) for i in range(1, len(network.params) + 1)}
    return {"content": {kept: features(network, content)[kept]}, "style": firsts}


def painting() -> jnn.Objective:
    """The loss of a picture; a batch is (network, content, targets), the parameters are what is added to the content."""

    def init(key, batch):
        return {"change": 0.05 * jax.random.normal(key, batch[1].shape)}, {}

    def loss(params, state, batch, *, key=None, train=False):
        network, content, wanted = batch
        pixels = content + params["change"]
        found = features(network, pixels)
        of_content = [share(found[name], target) for name, target in wanted["content"].items()]
        of_style = [share(gram(found[name]), target) for name, target in wanted["style"].items()]
        parts = {"content": sum(of_content), "style": sum(of_style) / len(of_style)}
        return CONTENT * parts["content"] + STYLE * parts["style"] + VARIATION * variation(pixels), jnn.Aux(state, parts)

    return jnn.Objective(init, loss)
