"""Networks of dense layers. They take vectors; put `flatten()` in front for images."""

from collections.abc import Callable, Sequence

import jax

from jnn.combinators import serial
from jnn.initializers import kaiming_normal
from jnn.layers import dense, dropout
from jnn.numbers import wholes
from jnn.types import Layer


def linear_classifier(classes: int) -> Layer:
    """(..., in) -> (..., classes):  logits = x @ w + b.

    With `losses.softmax_cross_entropy` it is softmax regression, with `losses.hinge` the multi-class support vector machine.
    """
    return serial(head=dense(classes))


def mlp(hidden: Sequence[int], outputs: int, *, activation: Callable = jax.nn.relu, rate=None) -> Layer:
    """(..., in) -> (..., outputs):  dense layers of the widths `hidden`, each followed by `activation`, and a dense head.

    rate: the share that dropout takes after each activation; None for no dropout.
    """
    layers = {}
    for i, width in enumerate(wholes("mlp", "hidden", hidden)):
        layers |= {f"dense_{i}": dense(width, w_init=kaiming_normal()), f"activation_{i}": activation}
        if rate is not None:
            layers[f"dropout_{i}"] = dropout(rate)
    return serial(**layers, head=dense(outputs))


def autoencoder(features: int, hidden: Sequence[int], code: int, *, activation: Callable = jax.nn.relu) -> Layer:
    """(..., features) -> (..., features):  through dense layers of the widths `hidden` to `code` numbers, and back.

    Parameters: `encoder` and `decoder`, each an `mlp`, so that either part can be used alone:
    `encoder = mlp(hidden, code)`, `encoder.apply(params["encoder"], {}, x)`. Linear output; Hinton & Salakhutdinov 2006.
    """
    hidden = wholes("autoencoder", "hidden", hidden)
    return serial(
        encoder=mlp(hidden, code, activation=activation),
        decoder=mlp(hidden[::-1], features, activation=activation),
    )
