"""Augmentations: factories of (key, images (..., height, width, channel)) -> images, for `supervised(..., augment=...)`.

Each picture, one for every entry of the leading axes, gets a draw of its own; shape and dtype are kept. Amounts may be traced,
and 0 is the identity. Pictures may be floating-point numbers of any range, or integers, as uint8 from 0 to 255, for which
new values are rounded, and cut off at the ends of the dtype's range.

    augment = chain(flip(), crop(2), brightness(0.2), zoom(0.1))
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.numbers import require_share, wide


def flip(share=0.5, *, vertical: bool = False) -> Callable:
    """(key, (..., height, width, channel)) -> images:  each mirrored, left for right, with probability `share`.

    vertical: mirrored top for bottom instead.
    """
    require_share("flip", "share is the probability of being mirrored", share)

    def augment(key, images):
        mirrored = jax.random.bernoulli(key, jnp.asarray(share).astype(jnp.float32), _draws("flip", images))
        return jnp.where(mirrored, jnp.flip(images, -3 if vertical else -2), images)

    return augment


def crop(padding, *, fill=0) -> Callable:
    """(key, (..., height, width, channel)) -> images:  each padded on all sides, and cut to its size at a random place.

    padding: in pixels. So a picture is shifted by whole pixels from -padding to padding, up or down and left or right, all
        equally likely.
    fill: the value of the pixels around it.
    He et al. 2016, section 4.2.
    """
    _require("crop", "padding", padding)

    def augment(key, images):
        most = jnp.asarray(padding).astype(jnp.int32)
        for axis, axis_key in zip((-3, -2), jax.random.split(key), strict=True):
            by = jax.random.randint(axis_key, _draws("crop", images), -most, most + 1)
            images = _taken(images, _places(images, axis) - by, axis, fill)
        return images

    return augment


def zoom(amount, *, fill=0) -> Callable:
    """(key, (..., height, width, channel)) -> images:  each made larger or smaller about its centre, by a factor from
    1 / (1 + amount) to 1 + amount, uniform in its logarithm.

    Between the pixels it is interpolated linearly. fill: the value around a picture that has become smaller.
    """
    _require("zoom", "amount", amount)

    def augment(key, images):
        values, cast = _computed(images)
        power = jax.random.uniform(key, _draws("zoom", images), values.dtype, -1.0, 1.0)
        factor = (1 + jnp.asarray(amount).astype(values.dtype)) ** power
        for axis in (-3, -2):
            centre = (images.shape[axis] - 1) / 2
            source = centre + (_places(values, axis).astype(values.dtype) - centre) / factor
            before = jnp.floor(source)
            low, high = (_taken(values, index.astype(jnp.int32), axis, fill) for index in (before, before + 1))
            values = low + (source - before) * (high - low)
        return cast(values)

    return augment


def brightness(amount) -> Callable:
    """(key, (..., height, width, channel)) -> images:  each times a factor, uniform in 1 - amount to 1 + amount.

    amount: in [0, 1]. Black, 0, stays black.
    """
    require_share("brightness", "amount is the largest change of the factor", amount)

    def augment(key, images):
        values, cast = _computed(images)
        return cast(_factor(key, "brightness", amount, values) * values)

    return augment


def contrast(amount) -> Callable:
    """(key, (..., height, width, channel)) -> images:  mean + factor * (x - mean), with the mean over a picture's pixels
    and channels, and a factor for each, uniform in 1 - amount to 1 + amount.

    amount: in [0, 1].
    """
    require_share("contrast", "amount is the largest change of the factor", amount)

    def augment(key, images):
        values, cast = _computed(images)
        mean = jnp.mean(values, axis=(-3, -2, -1), keepdims=True)
        return cast(mean + _factor(key, "contrast", amount, values) * (values - mean))

    return augment


def noise(deviation) -> Callable:
    """(key, (..., height, width, channel)) -> images:  x + deviation * n, with n standard normal for each pixel and channel.

    With a picture as its own target, `supervised(autoencoder, squared_error, augment=noise(0.3))` is a denoising autoencoder
    (Vincent et al. 2008).
    """
    _require("noise", "deviation", deviation)

    def augment(key, images):
        values, cast = _computed(images)
        return cast(values + jnp.asarray(deviation).astype(values.dtype) * jax.random.normal(key, values.shape, values.dtype))

    return augment


def chain(*augmentations: Callable) -> Callable:
    """(key, (..., height, width, channel)) -> images:  one augmentation after the other, each with a key of its own."""

    def augment(key, images):
        for one, one_key in zip(augmentations, jax.random.split(key, len(augmentations)), strict=True):
            images = one(one_key, images)
        return images

    return augment


def _require(owner, name, value):
    """Raises ValueError unless `value` is one number from 0 on; of a traced one only the shape is known."""
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and np.shape(value) == ()
    if not is_number or not (isinstance(value, Tracer) or np.asarray(value) >= 0):
        raise ValueError(f"{owner}: {name} is a number that is not negative, got {value}")


def _draws(owner, images):
    """The shape of one number for each picture."""
    if images.ndim < 3:
        raise ValueError(f"{owner}: expected images (..., height, width, channel), got {images.shape}")
    return (*images.shape[:-3], 1, 1, 1)


def _places(images, axis):
    """0, 1, ... along an axis, to be broadcast against the images."""
    return jnp.arange(images.shape[axis]).reshape(-1, *(1,) * (-1 - axis))


def _taken(images, index, axis, fill):
    """The entries at `index` (..., size, 1, 1) or (..., 1, size, 1) along an axis, `fill` where there is none."""
    size = images.shape[axis]
    found = jnp.take_along_axis(images, jnp.clip(index, 0, size - 1), axis)
    return jnp.where((index >= 0) & (index < size), found, jnp.asarray(fill).astype(images.dtype))


def _factor(key, owner, amount, values):
    change = jax.random.uniform(key, _draws(owner, values), values.dtype, -1.0, 1.0)
    return 1 + jnp.asarray(amount).astype(values.dtype) * change


def _computed(images):
    """-> the values in the dtype in which they are computed, and the way back."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images.astype(wide(images.dtype)), lambda values: values.astype(images.dtype)
    ends = jnp.iinfo(images.dtype)
    return images.astype(jnp.float32), lambda values: jnp.clip(jnp.round(values), ends.min, ends.max).astype(images.dtype)
