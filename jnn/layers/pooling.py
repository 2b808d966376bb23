"""Windows of series, images and volumes, each reduced to one number per channel."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from jnn.layers.maxima import larger, largest
from jnn.layers.windows import AXES, Padding, require_spatial, window_of
from jnn.numbers import whole, wide
from jnn.types import Layer


def max_pool(
    window: int | tuple[int, ...], *, stride: int | tuple[int, ...] | None = None, padding: Padding = "VALID"
) -> Layer:
    """(..., height, width, channel) -> (..., height', width', channel):  the largest entry of each window.

    window: a tuple with one entry per spatial axis, (time,), (height, width) or (depth, height, width); a whole number n is
        (n, n), for images.
    stride: the step of the window, a whole number or one per axis; None steps by the window itself.
    padding: as in `conv`, but smaller than the window, and padded entries never count.
        Output size floor((size - window + low + high) / stride) + 1; what is left over at the end is dropped.
    Gradient: where several entries of a window are largest, they share it, in parts that sum to one.
    Raises ValueError where the padding is not smaller than the window; LayerError where x is smaller than the window.
    """
    slide = _slide("max_pool", window, stride, padding)

    def init(key, x):
        slide.pads(x)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        pads = slide.pads(x)
        if _tiles(slide, pads):
            return largest(*_blocks(x, slide.size)), state
        for axis, along in enumerate(zip(slide.size, slide.stride, pads, strict=True), x.ndim - 1 - len(pads)):
            x = _slid(larger, x, axis, *along, fill=-jnp.inf)
        return x, state

    return Layer(init, apply)


def avg_pool(
    window: int | tuple[int, ...], *, stride: int | tuple[int, ...] | None = None, padding: Padding = "VALID"
) -> Layer:
    """(..., height, width, channel) -> (..., height', width', channel):  the mean of each window.

    The arguments are those of `max_pool`. Padded entries do not count: at the edge, the mean is over fewer entries (flax's
    `count_include_pad=False`). Half-precision input is summed in float32.
    Raises as `max_pool` does.
    """
    slide = _slide("avg_pool", window, stride, padding)

    def init(key, x):
        slide.pads(x)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        pads = slide.pads(x)
        y = x.astype(wide(x.dtype))
        if _tiles(slide, pads):
            return jnp.mean(*_blocks(y, slide.size)).astype(x.dtype), state
        # a window is a product of intervals, and so is what it holds beside padding: the mean of means along each axis
        for axis, (size, step, pad) in enumerate(zip(slide.size, slide.stride, pads, strict=True), x.ndim - 1 - len(pads)):
            n = y.shape[axis]
            y = _slid(jnp.add, y, axis, size, step, pad, fill=0)
            starts = np.arange(y.shape[axis]) * step - pad[0]
            counts = np.minimum(starts + size, n) - np.maximum(starts, 0)
            y = y / jnp.asarray(counts.reshape(-1, *(1,) * (y.ndim - 1 - axis)), y.dtype)
        return y.astype(x.dtype), state

    return Layer(init, apply)


def global_avg_pool(axes: int = 2) -> Layer:
    """(..., height, width, channel) -> (..., channel):  the mean over all positions. Lin et al. 2014, "Network in Network".

    axes: the number of spatial axes; 1 for series, 3 for volumes. Half-precision input is summed in float32.
    """
    axes = _axes("global_avg_pool", axes)

    def init(key, x):
        require_spatial("global_avg_pool", x, (1,) * axes)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        require_spatial("global_avg_pool", x, (1,) * axes)
        return jnp.mean(x.astype(wide(x.dtype)), tuple(range(x.ndim - 1 - axes, x.ndim - 1))).astype(x.dtype), state

    return Layer(init, apply)


def global_max_pool(axes: int = 2) -> Layer:
    """(..., height, width, channel) -> (..., channel):  the largest entry over all positions.

    axes: the number of spatial axes; 1 for series, 3 for volumes.
    Gradient: where several entries are largest, they share it equally.
    """
    axes = _axes("global_max_pool", axes)

    def init(key, x):
        require_spatial("global_max_pool", x, (1,) * axes)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        require_spatial("global_max_pool", x, (1,) * axes)
        return largest(x, tuple(range(x.ndim - 1 - axes, x.ndim - 1))), state

    return Layer(init, apply)


def _slide(kind, window, stride, padding):
    slide = window_of(kind, window, window if stride is None else stride, padding)
    if not isinstance(slide.padding, str) and any(max(pad) >= n for pad, n in zip(slide.padding, slide.size, strict=True)):
        # a window of nothing but padding has no largest entry and no mean
        raise ValueError(f"{kind}: padding must be smaller than the window {slide.size}, got {slide.padding}")
    return slide


def _axes(kind, axes):
    axes = whole(kind, "axes", axes)
    if axes not in AXES:
        raise ValueError(f"{kind}: axes must be 1, 2 or 3, got {axes}")
    return axes


def _tiles(slide, pads) -> bool:
    return slide.stride == slide.size and not any(map(sum, pads))


def _blocks(x, window):
    """x with each spatial axis as two, (place, entry in the window), and where the latter are. What is left over is dropped."""
    first = x.ndim - 1 - len(window)
    places = [n // size for n, size in zip(x.shape[first:-1], window, strict=True)]
    for axis, (place, size) in enumerate(zip(places, window, strict=True), first):
        x = lax.slice_in_dim(x, 0, place * size, axis=axis)
    split = [n for pair in zip(places, window, strict=True) for n in pair]
    return x.reshape(*x.shape[:first], *split, x.shape[-1]), tuple(first + 1 + 2 * i for i in range(len(window)))


def _slid(combine, x, axis: int, size: int, stride: int, pad: tuple[int, int], *, fill):
    """x with `size` neighbours along the axis combined, at every place where a window stands.

    One axis after another, maxima of two have a far cheaper derivative than lax.reduce_window; and of pairs, pairs of pairs,
    ... a window of any size takes few."""
    padding = [(*pad, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), padding)
    last = (x.shape[axis] - size) // stride * stride
    in_pairs = size > 4  # less is quicker one by one
    parts, start, span = [], 0, 1  # an entry of x stands for `span` of them
    while start < size:
        if size & span or not in_pairs:
            parts.append(lax.slice_in_dim(x, start, start + last + 1, stride, axis))
            start += span
        if in_pairs and start < size:
            x = combine(lax.slice_in_dim(x, 0, -span, axis=axis), lax.slice_in_dim(x, span, None, axis=axis))
            span *= 2
    return functools.reduce(combine, parts)
