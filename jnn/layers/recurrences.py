"""The loops of LSTM and GRU, with derivatives of their own.

jax's derivative of a scan adds to the gradient of wh at every step, a small product each time, and keeps every intermediate
value. Here the loop keeps, for each step, only the factors by which a change is multiplied; what wh adds to a change is one
product over all steps outside of the loop, and so is its gradient. Both are written forwards, as linear loops, so that jax
can still transpose, map and differentiate them again.

Time is the first axis; `valid (time, ..., 1)` says where a step counts, None that all do. Where one does not, the state stays.
"""

import math

import jax
import jax.numpy as jnp

from jnn.layers.products import affine


@jax.custom_jvp
def lstm_states(wx, wh, b, h, c, x, valid):
    """-> (hs, cs) (time, ..., features): the states after each step of x (time, ..., in); columns of wx, wh, b: i, f, g, o."""
    step = lambda state, gates, valid: (new := _lstm_step(wh, state, gates, valid)[0], new)
    return _over_steps(step, (h, c), wx, b, x, valid)


def _lstm_step(wh, state, gates, valid):
    h, c = state
    i, f, g, o = jnp.split(gates + h @ wh, 4, -1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    new_c = f * c + i * g
    squashed = jnp.tanh(new_c)
    new_h = o * squashed
    of_gates = jnp.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], -1)
    of_c, c_to_h = f, o * (1 - squashed * squashed)
    if valid is not None:
        zero, one = jnp.zeros_like(c), jnp.ones_like(c)
        new_h, new_c = jnp.where(valid, new_h, h), jnp.where(valid, new_c, c)
        of_gates = jnp.where(valid, of_gates, jnp.zeros_like(of_gates))
        of_c, c_to_h = jnp.where(valid, of_c, one), jnp.where(valid, c_to_h, zero)
    return (new_h, new_c), (of_gates, of_c, c_to_h)


@lstm_states.defjvp
def _lstm_states_jvp(primals, tangents):
    wx, wh, b, h, c, x, valid = primals
    d_wx, d_wh, d_b, d_h, d_c, d_x, _ = tangents

    def step(state, gates, valid):
        state, factors = _lstm_step(wh, state, gates, valid)
        return state, (state, factors)

    (hs, cs), factors = _over_steps(step, (h, c), wx, b, x, valid)
    d_gates = affine(d_x, wx) + affine(x, d_wx, d_b) + affine(_before(h, hs), d_wh)
    back = _turned(wh)

    def tangent_step(state, inputs):
        d_h, d_c = state
        d_gates, (of_gates, of_c, c_to_h), valid = inputs
        i, f, g, o = jnp.split(of_gates * (d_gates + _times_turned(d_h, back)), 4, -1)
        new_d_c = of_c * d_c + i + f + g
        new_d_h = o + c_to_h * new_d_c
        if valid is not None:
            new_d_h = new_d_h + jnp.where(valid, jnp.zeros_like(d_h), d_h)
        return (new_d_h, new_d_c), (new_d_h, new_d_c)

    _, d_states = jax.lax.scan(tangent_step, (d_h, d_c), (d_gates, factors, valid))
    return (hs, cs), d_states


@jax.custom_jvp
def gru_states(wx, wh, b, bh, h, x, valid):
    """-> hs (time, ..., features): the states after each step of x (time, ..., in); columns of wx, wh, b, bh: r, z, n. The
    reset gate comes after the product."""
    step = lambda h, gates, valid: (new := _gru_step(wh, bh, h, gates, valid)[0], new)
    return _over_steps(step, h, wx, b, x, valid)


def _gru_step(wh, bh, h, gates, valid):
    features = h.shape[-1]
    of_h = h @ wh + bh
    r, z = jnp.split(jax.nn.sigmoid((gates + of_h)[..., : 2 * features]), 2, -1)
    n_of_h = of_h[..., 2 * features :]
    n = jnp.tanh(gates[..., 2 * features :] + r * n_of_h)
    new_h = (1 - z) * n + z * h
    to_n = (1 - z) * (1 - n * n)
    of_r_z = jnp.concatenate([to_n * n_of_h * r * (1 - r), (h - n) * z * (1 - z)], -1)
    kept = z
    if valid is not None:
        new_h, kept = jnp.where(valid, new_h, h), jnp.where(valid, kept, jnp.ones_like(kept))
        of_r_z, to_n = jnp.where(valid, of_r_z, jnp.zeros_like(of_r_z)), jnp.where(valid, to_n, jnp.zeros_like(to_n))
    return new_h, (of_r_z, to_n, r, kept)


@gru_states.defjvp
def _gru_states_jvp(primals, tangents):
    wx, wh, b, bh, h, x, valid = primals
    d_wx, d_wh, d_b, d_bh, d_h, d_x, _ = tangents
    features = h.shape[-1]

    def step(h, gates, valid):
        h, factors = _gru_step(wh, bh, h, gates, valid)
        return h, (h, factors)

    hs, factors = _over_steps(step, h, wx, b, x, valid)
    d_gates = affine(d_x, wx) + affine(x, d_wx, d_b)
    d_of_h = affine(_before(h, hs), d_wh, d_bh)
    d_r_z = d_gates[..., : 2 * features] + d_of_h[..., : 2 * features]
    # here and not in the loop, which would keep the gradient of both terms
    d_n = d_gates[..., 2 * features :] + factors[2] * d_of_h[..., 2 * features :]
    back = _turned(wh)

    def tangent_step(d_h, inputs):
        d_r_z, d_n, (of_r_z, to_n, r, kept) = inputs
        of_h = _times_turned(d_h, back)
        d_r, d_z = jnp.split(of_r_z * (d_r_z + of_h[..., : 2 * features]), 2, -1)
        d_n = to_n * (d_n + r * of_h[..., 2 * features :])
        d_h = d_r + d_z + d_n + kept * d_h
        return d_h, d_h

    _, d_hs = jax.lax.scan(tangent_step, d_h, (d_r_z, d_n, factors))
    return hs, d_hs


def _over_steps(step, state, wx, b, x, valid):
    """What `step(state, gates, valid) -> (state, y)` gives for each step, with gates = x @ wx + b."""

    def in_one_product(wx, b, x):
        return jax.lax.scan(lambda state, now: step(state, *now), state, (affine(x, wx, b), valid))[1]

    def step_by_step(wx, b, x):
        return jax.lax.scan(lambda state, now: step(state, now[0] @ wx + b, now[1]), state, (x, valid))[1]

    if math.prod(x.shape[1:-1]) < 16:
        return in_one_product(wx, b, x)
    # the gates of all steps are more than the cache of a CPU holds, and a product of a batch has work enough for it
    return jax.lax.platform_dependent(wx, b, x, cpu=step_by_step, default=in_one_product)


def _before(first, states):
    """The states before each step."""
    return jnp.concatenate([first[None], states])[: states.shape[0]]


def _turned(w):
    # laid out once and not at every step, for the loop that goes backwards; XLA would undo a mere transposition
    return jax.lax.optimization_barrier(w.T)


def _times_turned(x, turned):
    """x @ turned.T"""
    return jax.lax.dot_general(x, turned, (((x.ndim - 1,), (1,)), ((), ())))
