"""Convolutions over series, images and volumes. The kernel is not mirrored: what signal processing calls correlation."""

import jax.numpy as jnp

from jnn.errors import LayerError
from jnn.initializers import lecun_normal, zeros
from jnn.layers.checks import keys_for, require_dtype, require_initializers, require_shapes, require_width, taken
from jnn.layers.correlations import Slide, correlate
from jnn.layers.windows import Padding, Window, as_batch, require_spatial, window_of
from jnn.numbers import whole
from jnn.types import Layer


def conv(
    features: int,
    window: int | tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    w_init=lecun_normal(),
    b_init=zeros,
) -> Layer:
    """(..., height, width, in) -> (..., height', width', features):  y[i, j] = sum_kl x[i + k, j + l] @ w[k, l] + b.

    window: a tuple with one entry per spatial axis, (time,), (height, width) or (depth, height, width); a whole number n is
        (n, n), for images.
    stride, dilation: the step of the window, and the distance of its entries; a whole number, or one per axis.
    padding: zeros around the input. "SAME" gives ceil(size / stride) outputs, of two sides the higher gets the odd one;
        "VALID" is none; a whole number is that many on every side; ((low, high), ...) says it per axis: `conv(8, (3,),
        padding=((2, 0),))` is causal. Output size floor((size - ((window - 1) * dilation + 1) + low + high) / stride) + 1.
    groups: the channels in that many groups, each convolved to features / groups of its own; as many groups as there are
        channels is a depthwise convolution.
    Parameters: `w (*window, in / groups, features)`, `b (features,)`, both float32; fan_in is window area x in / groups. With
    b_init=None there is no b, as a normalization behind it has its own.
    Raises ValueError where groups do not divide features; LayerError where they do not divide the channels, where x has not
    the channels or the dtype of w, or is smaller than the window.
    """
    slide = window_of("conv", window, stride, padding, dilation)
    features, groups = _features("conv", features, groups)
    require_initializers("conv", w_init=w_init, b_init=zeros if b_init is None else b_init)
    ones = (1,) * len(slide.size)

    def init(key, x):
        slide.pads(x)
        return _parameters(slide, key, x, features, groups, w_init, b_init), {}

    def apply(params, state, x, *, key=None, train=False):
        w, b = _weights(slide, params, x, features, groups, ("w",) if b_init is None else ("w", "b"))
        y = correlate(as_batch(x, len(slide.size)), w, Slide(slide.stride, slide.pads(x), ones, slide.dilation, groups))
        y = y if b is None else y + b
        return y.reshape(*x.shape[: x.ndim - y.ndim + 1], *y.shape[1:]), state

    return Layer(init, apply)


def conv_transpose(
    features: int,
    window: int | tuple[int, ...],
    *,
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "SAME",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    w_init=lecun_normal(),
    b_init=zeros,
) -> Layer:
    """(..., height, width, in) -> (..., height', width', features):  conv of x with stride - 1 zeros between its entries.

    It goes the way of a `conv` of the same window, stride, padding and dilation backwards: from its output size to its input
    size. The arguments are those of `conv`, and padding is the padding of that convolution, so it takes from the output.
    With window counted dilated, (window - 1) * dilation + 1, the output size is

        "SAME"              size * stride
        "VALID"             size * stride + max(window - stride, 0)
        ((low, high), ...)  (size - 1) * stride + window - low - high

    Parameters: `w (*window, in / groups, features)`, `b (features,)`, both float32, without b where b_init is None; fan_in is
    window area x in / groups.
    Like flax's, and unlike torch's, w is not mirrored: the derivative of a convolution by w is this with
    `jnp.flip(w, spatial_axes).swapaxes(-1, -2)`. Strings pad as in flax and TensorFlow, numbers as in torch, whose
    output_padding is a `high` that much smaller.
    Raises as `conv` does, and LayerError where the padding would leave nothing.
    """
    slide = window_of("conv_transpose", window, stride, padding, dilation)
    features, groups = _features("conv_transpose", features, groups)
    require_initializers("conv_transpose", w_init=w_init, b_init=zeros if b_init is None else b_init)
    ones = (1,) * len(slide.size)

    def init(key, x):
        _transposed_pads(slide, x)
        return _parameters(slide, key, x, features, groups, w_init, b_init), {}

    def apply(params, state, x, *, key=None, train=False):
        w, b = _weights(slide, params, x, features, groups, ("w",) if b_init is None else ("w", "b"))
        pads = tuple(_transposed_pads(slide, x))
        y = correlate(as_batch(x, len(slide.size)), w, Slide(ones, pads, slide.stride, slide.dilation, groups))
        y = y if b is None else y + b
        return y.reshape(*x.shape[: x.ndim - y.ndim + 1], *y.shape[1:]), state

    return Layer(init, apply)


def _transposed_pads(slide: Window, x) -> list[tuple[int, int]]:
    """What is put around x, its zeros between the entries already in place. Negative where it is cut."""
    if isinstance(slide.padding, str):
        # what "SAME" and "VALID" take from the largest output; less than nothing where the window is shorter than its stride
        over = [extent - stride for extent, stride in zip(slide.extent, slide.stride, strict=True)]
        lows = [max(n // 2, 0) if slide.padding == "SAME" else 0 for n in over]
        highs = [n - low if slide.padding == "SAME" else min(n, 0) for n, low in zip(over, lows, strict=True)]
        pads = list(zip(lows, highs, strict=True))
    else:
        pads = slide.padding
    spare = [extent - low - high - 1 for extent, (low, high) in zip(slide.extent, pads, strict=True)]
    # (size - 1) * stride + spare >= 0
    least = (max(1, 1 - n // stride) for n, stride in zip(spare, slide.stride, strict=True))
    require_spatial(slide.kind, x, tuple(least))
    return [(extent - 1 - low, extent - 1 - high) for extent, (low, high) in zip(slide.extent, pads, strict=True)]


def _features(kind, features, groups):
    features, groups = whole(kind, "features", features), whole(kind, "groups", groups)
    if features % groups:
        raise ValueError(f"{kind}: {groups} groups do not divide {features} features")
    return features, groups


def _parameters(slide, key, x, features, groups, w_init, b_init):
    if x.shape[-1] % groups:
        raise LayerError(slide.kind, f"{groups} groups do not divide the {x.shape[-1]} channels of {x.shape}")
    w_key, b_key = keys_for(slide.kind, key, 2)
    params = {"w": w_init(w_key, (*slide.size, x.shape[-1] // groups, features), jnp.float32)}
    return params if b_init is None else {**params, "b": b_init(b_key, (features,), jnp.float32)}


def _weights(slide, params, x, features, groups, names):
    """w and b (None where there is none), after a look at whether they are this layer's, and fit x."""
    w, *b = taken(slide.kind, params, *names)
    channels = "in" if groups == 1 else f"in / {groups}"
    require_shapes(slide.kind, params, w=(*slide.size, channels, features), b=(features,))
    require_spatial(slide.kind, x, (0,) * len(slide.size))
    require_width(slide.kind, x, w.shape[-2] * groups)
    require_dtype(slide.kind, x, w.dtype)
    return w, (b[0] if b else None)
