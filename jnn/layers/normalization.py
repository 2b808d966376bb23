"""Layers that bring what they get to mean 0 and variance 1, and then to a scale and a shift that they learn.

Statistics are computed in float32 (in float64 where x is), whatever the dtype of x, and what is returned has the dtype of x.
The parameters have the dtype of x or that of the statistics: bfloat16 x goes with float32 parameters.
"""

import math

import jax
import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.layers.checks import require_dtype, require_floating, require_shapes, require_width, taken, taken_state
from jnn.numbers import require_not_negative, require_share, whole, wide
from jnn.types import Layer


def batch_norm(*, momentum=0.9, eps=1e-5, axis_name=None) -> Layer:
    """(..., features) -> (..., features):  y = (x - mean) / sqrt(var + eps) * scale + bias.

    While training, mean and (biased) variance are those of x over all axes but the last, and the running statistics follow:
    running = momentum * running + (1 - momentum) * batch, with the unbiased variance, n / (n - 1) of the biased one, so that
    they converge to those of the data. Otherwise the running statistics are used, and stay.

    momentum: the share of the running statistics that is *kept* (torch's is the share replaced), in [0, 1].
    axis_name: the axis of a `vmap`, `pmap` or `shard_map`, or a tuple of them, over which the batch goes on. Without it every
        lane and every device normalises its own part. Under plain `jit` of sharded arrays nothing is needed.
    Parameters: `scale (features,)` ones, `bias (features,)` zeros. State: `mean`, `var (features,)`, the running statistics.
    Raises LayerError when trained on a single value per channel. Ioffe & Szegedy 2015, algorithms 1 and 2.
    """
    require_share("batch_norm", "momentum is the share kept", momentum)
    require_not_negative("batch_norm", "eps", eps)

    def init(key, x):
        require_floating("batch_norm", x, "(..., features)")
        features = x.shape[-1:]
        return _scale_and_bias(features), {"mean": jnp.zeros(features, jnp.float32), "var": jnp.ones(features, jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        scale, bias = _learned("batch_norm", params, x, "scale", "bias")
        running_mean, running_var = taken_state("batch_norm", state, "mean", "var")
        require_shapes("batch_norm", state, mean=scale.shape, var=scale.shape)
        dtype = wide(x.dtype)
        if not train:
            centred = x.astype(dtype) - running_mean.astype(dtype)
            return _scaled(centred, running_var.astype(dtype), eps, scale, bias, x.dtype), state

        n = math.prod(x.shape[:-1]) * _axis_size(axis_name)
        if n < 2:
            raise LayerError("batch_norm", _too_few(n, x, axis_name))
        centred, mean, var = _moments(x, tuple(range(x.ndim - 1)), axis_name)
        kept = jnp.asarray(momentum).astype(dtype)

        def followed(running, batch):
            return (kept * running.astype(dtype) + (1 - kept) * batch.reshape(running.shape)).astype(running.dtype)

        new_state = {"mean": followed(running_mean, mean), "var": followed(running_var, var * (n / (n - 1)))}
        return _scaled(centred, var, eps, scale, bias, x.dtype), new_state

    return Layer(init, apply)


def layer_norm(*, eps=1e-5) -> Layer:
    """(..., features) -> (..., features):  y = (x - mean) / sqrt(var + eps) * scale + bias.

    Mean and (biased) variance are those of the last axis.
    Parameters: `scale (features,)` ones, `bias (features,)` zeros. Ba, Kiros & Hinton 2016, eq. 4.
    """
    require_not_negative("layer_norm", "eps", eps)

    def init(key, x):
        require_floating("layer_norm", x, "(..., features)")
        return _scale_and_bias(x.shape[-1:]), {}

    def apply(params, state, x, *, key=None, train=False):
        scale, bias = _learned("layer_norm", params, x, "scale", "bias")
        values = x.astype(wide(x.dtype))
        y = _standardized(values, jnp.asarray(eps, values.dtype))
        return (y * scale + bias).astype(x.dtype), state

    return Layer(init, apply)


def group_norm(groups: int, *, eps=1e-5, axes: int = 2) -> Layer:
    """(..., height, width, features) -> the same:  y = (x - mean) / sqrt(var + eps) * scale + bias.

    Mean and (biased) variance are those of one example's group of features / groups neighbouring features, over all of its
    height and width. One group is layer norm over a whole image; as many groups as features are instance norm.

    axes: the number of axes between an example's own and the features, over which statistics are taken as well: 2 for
        images, 1 for sequences (..., time, features), 0 for (..., features). All axes before them count examples.
    Parameters: `scale (features,)` ones, `bias (features,)` zeros.
    Raises LayerError when `groups` does not divide the features. Wu & He 2018, eq. 1 to 7.
    """
    groups = whole("group_norm", "groups", groups)
    axes = whole("group_norm", "axes", axes, least=0)
    require_not_negative("group_norm", "eps", eps)
    if axes == 2:
        form = "(..., height, width, features)"
    else:
        form = f"({', '.join(['...', *['size'] * axes, 'features'])})" if axes < 4 else f"of at least {axes + 1} axes"

    def require_groups(x):
        require_floating("group_norm", x, form, axes + 1)
        if x.shape[-1] % groups:
            raise LayerError("group_norm", f"{groups} groups do not divide the {x.shape[-1]} features of {x.shape}")

    def init(key, x):
        require_groups(x)
        return _scale_and_bias(x.shape[-1:]), {}

    def apply(params, state, x, *, key=None, train=False):
        scale, bias = _learned("group_norm", params, x, "scale", "bias")
        require_groups(x)
        width = x.shape[-1] // groups
        grouped = x.reshape(*x.shape[:-1], groups, width)
        centred, _, var = _moments(grouped, (*range(-2 - axes, -2), -1))
        scale, bias = scale.reshape(groups, width), bias.reshape(groups, width)
        return _scaled(centred, var, eps, scale, bias, x.dtype).reshape(x.shape), state

    return Layer(init, apply)


def rms_norm(*, eps=1e-6) -> Layer:
    """(..., features) -> (..., features):  y = x / sqrt(mean(x^2) + eps) * scale.

    The mean is that of the last axis.
    Parameters: `scale (features,)` ones. Zhang & Sennrich 2019, eq. 4.
    """
    require_not_negative("rms_norm", "eps", eps)

    def init(key, x):
        require_floating("rms_norm", x, "(..., features)")
        return {"scale": jnp.ones(x.shape[-1:], jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        (scale,) = _learned("rms_norm", params, x, "scale")
        values = x.astype(wide(x.dtype))
        squares = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
        return _scaled(values, squares, eps, scale, jnp.zeros_like(scale), x.dtype), state

    return Layer(init, apply)


def _scale_and_bias(shape):
    return {"scale": jnp.ones(shape, jnp.float32), "bias": jnp.zeros(shape, jnp.float32)}


def _learned(kind, params, x, *names):
    """The parameters called so, in the dtype of the statistics. Raises where they do not go with x."""
    arrays = taken(kind, params, *names)
    require_shapes(kind, params, scale=("features",), bias=("features",))
    require_floating(kind, x, "(..., features)")
    for array in arrays:
        require_width(kind, x, array.shape[-1])
        if array.dtype != wide(x.dtype):
            require_dtype(kind, x, array.dtype)
    return [array.astype(wide(x.dtype)) for array in arrays]


def _moments(x, axes, axis_name=None):
    """-> x - mean, mean, var: over `axes`, which stay with size 1, and over the named axis."""

    def mean_of(values):
        mean = jnp.mean(values, axis=axes, keepdims=True)
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    # Sums are taken of deviations from a first mean: what rounding takes from that one, the second gives back, and a mean
    # that is large beside the deviations costs no digits. Both results are the same for any shift, so it has no derivative.
    values = x.astype(wide(x.dtype))
    shift = jax.lax.stop_gradient(mean_of(values))
    deviations = values - shift
    rest = mean_of(deviations)
    var = mean_of(jnp.square(deviations)) - jnp.square(rest)
    return deviations - rest, shift + rest, jnp.maximum(var, 0)


def _scaled(centred, var, eps, scale, bias, dtype):
    factor = jax.lax.rsqrt(var + jnp.asarray(eps, var.dtype)) * scale
    return (centred * factor + bias).astype(dtype)


@jax.custom_jvp
def _standardized(x, eps):
    """(x - mean) / sqrt(var + eps) over the last axis. Its derivative keeps the result and one number per row."""
    return _standardized_and_factor(x, eps)[0]


def _standardized_and_factor(x, eps):
    centred, _, var = _moments(x, (-1,))
    factor = jax.lax.rsqrt(var + eps)
    return centred * factor, factor


@_standardized.defjvp
def _standardized_jvp(primals, tangents):
    d_x, d_eps = tangents
    y, factor = _standardized_and_factor(*primals)

    def mean(values):
        return jnp.mean(values, axis=-1, keepdims=True)

    d_y = factor * (d_x - mean(d_x) - y * mean(y * d_x))
    return y, d_y - y * (jnp.square(factor) / 2 * d_eps)


def _axis_size(axis_name) -> int:
    if axis_name is None:
        return 1
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        problem = f"axis_name={axis_name!r} names no axis: train it inside a vmap, pmap or shard_map over an axis called so"
        raise LayerError("batch_norm", problem) from None


def _too_few(n, x, axis_name):
    count = "a single value" if n else "no value"
    beside = "" if axis_name is None else f", with the axis {axis_name!r} counted"
    return (
        f"cannot be trained on {count} for each channel, got {x.shape}{beside}: a variance needs two; give more examples, "
        "or axis_name= where they lie along the axis of a vmap or of devices"
    )
