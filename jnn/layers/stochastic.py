"""Layers that are random while training."""

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.layers.checks import require_floating
from jnn.numbers import require_share, wide
from jnn.pairs import as_layer, forwarding, kind
from jnn.types import Layer


def dropout(rate) -> Layer:
    """(...) -> (...):  while training, x * mask / (1 - rate), with P(mask = 0) = rate; otherwise x.

    rate: the share of entries *dropped*, in [0, 1]; may be a traced scalar. Inverted dropout: nothing is scaled at test time.
    Raises LayerError when x is not of floating-point numbers, or training without a key. Srivastava et al. 2014.
    """
    require_share("dropout", "rate is the share dropped", rate)

    def init(key, x):
        require_floating("dropout", x, "(...)", 0)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        require_floating("dropout", x, "(...)", 0)
        if not train:
            return x, state
        if key is None:
            raise LayerError("dropout", "needs a key when train=True")
        mask = _kept(key, rate, x.shape)
        return _masked(x, mask, rate), state

    return Layer(init, apply)


def stochastic_depth(layer, rate) -> Layer:
    """x -> layer(x):  while training, layer(x) * keep / (1 - rate), with P(keep = 0) = rate; otherwise layer(x).

    `residual(stochastic_depth(layer, rate))` is a block that training skips now and then. One coin per call, for the layer as
    a whole: under `vmap` over examples and keys, one per example. What is dropped is computed all the same, and the layer's
    state (running statistics) goes on.

    rate: the probability of *dropping*, in [0, 1]; may be a traced scalar.
    Parameters and state are the layer's own, under its own name. Raises LayerError when training without a key.
    Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3; scaled while training instead of afterwards.
    """
    require_share("stochastic_depth", "rate is the share dropped", rate)
    child = as_layer(layer)

    def apply(params, state, x, *, key, train, extra):
        if not train:
            return child.apply(params, state, x, key=key, train=train, **extra)
        if key is None:
            raise LayerError(kind(child), "stochastic_depth needs a key when train=True")
        layer_key, coin_key = jax.random.split(key)
        y, state = child.apply(params, state, x, key=layer_key, train=train, **extra)
        keep = _kept(coin_key, rate, ())
        # integers beside the values (tokens, the edges of a graph) are no output to drop
        masked = lambda a: _masked(a, keep, rate) if jnp.issubdtype(a.dtype, jnp.floating) else a
        return jax.tree.map(masked, y), state

    return Layer(child.init, forwarding("stochastic_depth", [child], apply))


def _kept(key, rate, shape):
    return jax.random.bernoulli(key, 1 - jnp.asarray(rate).astype(jnp.float32), shape)


def _masked(x, mask, rate):
    values = x.astype(wide(x.dtype))  # rounded to 8 bits, the scale would put every entry off in the same direction
    keep = 1 - jnp.asarray(rate).astype(values.dtype)
    # with everything dropped (keep = 0) the mask is empty, and 1 / 0 must not arise
    scale = 1 / jnp.maximum(keep, 1e-7)
    return jnp.where(mask, values * scale, jnp.zeros_like(values)).astype(x.dtype)
