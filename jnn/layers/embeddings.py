"""Tokens as vectors, and where in a sequence they stand."""

import math

import jax.numpy as jnp
import numpy as np

from jnn.errors import LayerError
from jnn.initializers import normal
from jnn.layers.checks import (
    describe,
    keys_for,
    require_dtype,
    require_floating,
    require_initializers,
    require_shapes,
    require_width,
    taken,
    taken_state,
)
from jnn.numbers import whole, wide
from jnn.types import Layer


def embed(vocabulary: int, features: int, *, table_init=None) -> Layer:
    """(...) integers -> (..., features):  y = table[x].

    A token outside 0 ... vocabulary - 1 gives NaN, never another token's vector, and no gradient.
    table_init: normal numbers of standard deviation 1/sqrt(features), where None.
    Parameters: `table (vocabulary, features)`.
    Raises LayerError when x is not of integers.
    """
    vocabulary = whole("embed", "vocabulary", vocabulary)
    features = whole("embed", "features", features)
    table_init = normal(1 / math.sqrt(features)) if table_init is None else table_init
    require_initializers("embed", table_init=table_init)

    def require_tokens(x):
        if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
            raise LayerError("embed", f"expected integers (...), got {describe(x)}")

    def init(key, x):
        require_tokens(x)
        (table_key,) = keys_for("embed", key, 1)
        return {"table": table_init(table_key, (vocabulary, features), jnp.float32)}, {}

    def apply(params, state, x, *, key=None, train=False):
        (table,) = taken("embed", params, "table")
        require_shapes("embed", params, table=(vocabulary, features))
        require_tokens(x)
        # in 8 bits the size of the table would be no number, and a gather cuts 64 bits down to 32
        rows = jnp.asarray(x)
        rows = rows.astype(jnp.int64 if rows.dtype.itemsize > 4 else jnp.int32)
        rows = jnp.where((rows >= 0) & (rows < vocabulary), rows, vocabulary)
        return table.at[rows].get(mode="fill", fill_value=jnp.nan), state

    return Layer(init, apply)


def learned_positions(length: int, *, cache: int | None = None, table_init=normal(0.02)) -> Layer:
    """(..., time, features) -> (..., time, features):  y_t = x_t + table_t.

    length: the longest sequence. cache: the decoding twin for so many steps, with the same parameters; its state is
        `position`, the number of steps that have been, and x the steps that come next. Past the end y is NaN.
    table_init: small beside embeddings, as in GPT-2 (Radford et al. 2019).
    Parameters: `table (length, features)`. State: none; with cache `position`, int32 [].
    Raises LayerError when x is longer than length or cache, has another width or dtype than table, or the twin is trained.
    Gehring et al. 2017, "Convolutional sequence to sequence learning".
    """
    length = whole("learned_positions", "length", length)
    require_initializers("learned_positions", table_init=table_init)
    if cache is not None and whole("learned_positions", "cache", cache) > length:
        raise ValueError(f"learned_positions: cache={cache} is longer than length={length}")

    def init(key, x):
        require_floating("learned_positions", x, "(..., time, features)", 2)
        (table_key,) = keys_for("learned_positions", key, 1)
        table = table_init(table_key, (length, x.shape[-1]), jnp.float32)
        return {"table": table}, {} if cache is None else {"position": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, *, key=None, train=False):
        (table,) = taken("learned_positions", params, "table")
        require_shapes("learned_positions", params, table=(length, "features"))
        require_floating("learned_positions", x, "(..., time, features)", 2)
        require_width("learned_positions", x, table.shape[1])
        require_dtype("learned_positions", x, table.dtype)
        if cache is None:
            _require_steps("learned_positions", x, length)
            return x + table[: x.shape[-2]], state
        (position,) = taken_state("learned_positions", state, "position")
        positions, inside = next_positions("learned_positions", position, x, cache, train)
        here = table.at[positions].get(mode="clip")
        return jnp.where(inside[:, None], x + here, jnp.nan), {"position": position + x.shape[-2]}

    return Layer(init, apply)


def sinusoidal_positions(*, cache: int | None = None) -> Layer:
    """(..., time, features) -> (..., time, features):  y_t = x_t + p_t,  p_t[2i] = sin(a), p_t[2i + 1] = cos(a),
    a = t / 10000^(2i / features).

    cache: the decoding twin for so many steps; its state is `position`, the number of steps that have been, and x the steps
        that come next. Past the end y is NaN.
    Parameters: none. State: none; with cache `position`, int32 [].
    Raises LayerError when x is no sequence of floating-point numbers, is longer than cache, or the twin is trained.
    Vaswani et al. 2017, section 3.5.
    """
    if cache is not None:
        cache = whole("sinusoidal_positions", "cache", cache)

    def init(key, x):
        require_floating("sinusoidal_positions", x, "(..., time, features)", 2)
        return {}, {} if cache is None else {"position": jnp.zeros((), jnp.int32)}

    def waves(positions, x):
        angle = angles(positions, x.shape[-1], wide(x.dtype))
        pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)  # (time, features / 2, 2)
        return pairs.reshape(len(positions), 2 * angle.shape[1])[:, : x.shape[-1]].astype(x.dtype)

    def apply(params, state, x, *, key=None, train=False):
        require_floating("sinusoidal_positions", x, "(..., time, features)", 2)
        if cache is None:
            return x + waves(jnp.arange(x.shape[-2], dtype=jnp.int32), x), state
        (position,) = taken_state("sinusoidal_positions", state, "position")
        positions, inside = next_positions("sinusoidal_positions", position, x, cache, train)
        return jnp.where(inside[:, None], x + waves(positions, x), jnp.nan), {"position": position + x.shape[-2]}

    return Layer(init, apply)


def angles(positions, features: int, dtype):
    """(time,) integers -> (time, ceil(features / 2)):  position / 10000^(2i / features), less whole turns."""
    # in 2^-bits of a turn, where the product of integers drops whole turns: as floats, late positions would lose digits
    bits = jnp.finfo(dtype).bits
    turns = 10000.0 ** (-np.arange(0, features, 2) / features) / (2 * np.pi)
    parts = positions.astype(f"uint{bits}")[:, None] * jnp.asarray(np.round(turns * 2.0**bits).astype(f"uint{bits}"))
    return parts.astype(f"int{bits}").astype(dtype) * jnp.asarray(2 * np.pi / 2.0**bits, dtype)


def next_positions(kind: str, position, x, cache: int, train: bool):
    """Where the steps of x come to stand after `position` others. -> (time,) int32, (time,) whether that is within the cache"""
    if train:
        raise LayerError(kind, "with a cache it only decodes: train it without one, the parameters are the same")
    _require_steps(kind, x, cache)
    positions = position + jnp.arange(x.shape[-2], dtype=jnp.int32)
    return positions, positions < cache


def _require_steps(kind, x, most):
    if x.shape[-2] > most:
        raise LayerError(kind, f"expected at most {most} steps, got {x.shape[-2]} in {x.shape}")
