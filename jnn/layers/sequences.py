"""What layers over time share. Sequences are (..., time, feature); `lengths (...)` says how many steps of each count."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.errors import LayerError
from jnn.layers.checks import describe, require_array, require_dtype, require_width, taken
from jnn.layers.products import affine


def sequence_weights(kind: str, params, x, **shapes):
    """The parameters called so, in this order; the first is `wx`. Raises unless they have these shapes (a word in a shape
    stands for any number) and x is a sequence for them."""
    weights = taken(kind, params, *shapes)
    for (name, shape), weight in zip(shapes.items(), weights, strict=True):
        fits = len(shape) == weight.ndim and all(isinstance(n, str) or n == m for n, m in zip(shape, weight.shape, strict=True))
        if not fits:
            raise LayerError(kind, f"expected {name} {shape}, got {weight.shape}".replace("'", ""))
    require_array(kind, x, "(..., time, in)", 2)
    require_width(kind, x, weights[0].shape[0])
    require_dtype(kind, x, weights[0].dtype)
    return weights


def pair_of(kind: str, name: str, form: str, value) -> tuple:
    """`value` as a pair; None is a pair of None."""
    if value is None:
        return None, None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise LayerError(kind, f"expected {name} as a pair {form}, got {describe(value)}")
    return tuple(value)


def first_state(kind: str, name: str, value, x, width: int):
    """`value`, or zeros where it is None: (..., width) with the leading axes and the dtype of the sequence x."""
    shape = (*x.shape[:-2], width)
    if value is None:
        return jnp.zeros(shape, x.dtype)
    if getattr(value, "shape", None) != shape or getattr(value, "dtype", None) != x.dtype:
        raise LayerError(kind, f"expected {name} {x.dtype} {shape}, got {describe(value)}")
    return jnp.asarray(value)


def checked_lengths(kind: str, lengths, x):
    """`lengths` as int32 (...) from 0 to the size of the time axis of x; None stays None.

    Raises where they are no integers of the leading axes' shape, or, unless they are traced, lie outside; traced ones
    that lie outside are clipped."""
    if lengths is None:
        return None
    traced = any(isinstance(length, Tracer) for length in jax.tree.leaves(lengths))
    lengths = (jnp if traced else np).asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != x.shape[:-2]:
        raise LayerError(kind, f"expected lengths as integers {x.shape[:-2]}, got {lengths.dtype} {lengths.shape}")
    time = x.shape[-2]
    if not traced and lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        raise LayerError(
            kind, f"expected lengths from 0 to {time}, as {x.shape} has steps, got {lengths.min()} to {lengths.max()}"
        )
    return jnp.clip(jnp.asarray(lengths, jnp.int32), 0, time)


def valid_steps(lengths, x):
    """(..., time): whether a step of x counts."""
    return jnp.arange(x.shape[-2], dtype=jnp.int32) < lengths[..., None]


def reversed_in_time(x, lengths):
    """The first `lengths` steps of each sequence in reverse order, the others where they were. Its own inverse."""
    if lengths is None:
        return jnp.flip(x, -2)
    step = jnp.arange(x.shape[-2], dtype=jnp.int32)
    length = lengths[..., None]
    source = jnp.where(step < length, length - 1 - step, step)
    return jnp.take_along_axis(x, source[..., None], -2, mode="promise_in_bounds")


def over_time(cell, weights, carry, wx, b, x, lengths):
    """Runs `cell(weights, carry, gates) -> (carry, y)` along the time axis of x, with gates = x @ wx + b.

    Past its length a sequence gives zeros and keeps its carry. Compile time does not grow with the time axis.
    -> ys (..., time, features), the last carry"""
    x, valid = steps_of(x, lengths)
    # one product for all steps: only what depends on the carry is left for the scan
    gates = affine(x, wx, b)

    def step(carry, gates_and_valid):
        gates, valid = gates_and_valid
        new, y = cell(weights, carry, gates)
        if valid is None:
            return new, y
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), new, carry), jnp.where(valid, y, 0)

    carry, ys = jax.lax.scan(step, varying(carry, (weights, gates, valid)), (gates, valid))
    return jnp.moveaxis(ys, 0, -2), carry


def steps_of(x, lengths):
    """x with its time axis in front, and whether each step counts (time, ..., 1), None for all."""
    if lengths is None:
        return jnp.moveaxis(x, -2, 0), None
    valid = valid_steps(lengths, x)[..., None]
    # before any product: its derivative with respect to wx would multiply what is in the padding, NaN perhaps, by zero
    return jnp.moveaxis(jnp.where(valid, x, 0), -2, 0), jnp.moveaxis(valid, -2, 0)


def last_of(first, states):
    """The state after the last step of (time, ...), the first one where there is no step."""
    return states[-1] if states.shape[0] else first


def counted(states, valid):
    """The states (time, ..., features) as a sequence (..., time, features), zeros where a step does not count."""
    states = states if valid is None else jnp.where(valid, states, jnp.zeros_like(states))
    return jnp.moveaxis(states, 0, -2)


def varying(carry, others):
    """The carry plus zeros, sums of no numbers, of every array in the scan. Inside a shard_map this says that it varies over
    the mesh axes that any of them varies over: scan asks for that from the start, and fresh zeros vary over none."""
    empty_sums = [jnp.sum(a[:0]) for a in jax.tree.leaves((carry, others))]
    return jax.tree.map(lambda a: a + sum(nothing.astype(a.dtype) for nothing in empty_sums), carry)
