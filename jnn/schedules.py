"""Schedules: pure functions `step -> value`, for anything that changes while training.

`step` is an integer counted from 0, or an array of them of any shape. Every number of a schedule may be traced."""

from collections.abc import Callable

import jax.numpy as jnp


def constant(value) -> Callable:
    """step -> value."""

    def schedule(step):
        time, value_ = _floats(step, value)
        return jnp.broadcast_to(value_, time.shape)

    return schedule


def step(initial, factor, every) -> Callable:
    """step -> initial * factor^floor(step / every)."""

    def schedule(step):
        time, first, ratio, length = _floats(step, initial, factor, every)
        # where XLA multiplies by the reciprocal, a floor of the quotient is one too few at some multiples
        return first * ratio ** (time // length)

    return schedule


def exponential(initial, rate, steps=1) -> Callable:
    """step -> initial * rate^(step / steps)."""

    def schedule(step):
        time, first, ratio, length = _floats(step, initial, rate, steps)
        return first * ratio ** (time / length)

    return schedule


def linear(initial, final, steps) -> Callable:
    """step -> initial + (final - initial) * step / steps, and `final` from `steps` on."""

    def schedule(step):
        time, first, last, end = _floats(step, initial, final, steps)
        return first + (last - first) * _share(time, 0.0, end)

    return schedule


def cosine(initial, steps, *, final=0.0) -> Callable:
    """step -> final + (initial - final) * (1 + cos(pi * step / steps)) / 2, and `final` from `steps` on.

    Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts."""

    def schedule(step):
        time, first, last, end = _floats(step, initial, final, steps)
        return _cosine(first, last, _share(time, 0.0, end))

    return schedule


def warmup_cosine(peak, warmup, steps, *, final=0.0) -> Callable:
    """step -> peak * step / warmup before the step `warmup`; from there `peak` falls to `final` at `steps`, along a cosine.

    steps: of the whole, the warm-up included. Goyal et al. 2017, section 2.2; Loshchilov & Hutter 2017, eq. 5."""

    def schedule(step):
        time, top, rise, end, last = _floats(step, peak, warmup, steps, final)
        return jnp.where(time < rise, top * _share(time, 0.0, rise), _cosine(top, last, _share(time, rise, end)))

    return schedule


def momentum_warmup(initial=0.5, final=0.99, *, steps) -> Callable:
    """step -> 1 - 1 / memory, where the memory grows evenly from 1 / (1 - initial) to 1 / (1 - final) in `steps`.

    A momentum rho averages over 1 / (1 - rho) steps. Sutskever et al. 2013, eq. 5, without its stairs of 250 steps: theirs is
    momentum_warmup(0.5, 0.99, steps=12250)."""

    def schedule(step):
        time, first, last, end = _floats(step, initial, final, steps)
        before, after = 1 / (1 - first), 1 / (1 - last)
        return 1 - 1 / (before + (after - before) * _share(time, 0.0, end))

    return schedule


def _floats(step, *numbers):
    time = jnp.asarray(step).astype(float)
    return time, *(jnp.asarray(number).astype(time.dtype) for number in numbers)


def _share(time, start, end):
    """The part of the way from `start` to `end` that is done: 0 before, 1 after; 1 at once where there is no way."""
    length = end - start
    return jnp.where(time < end, jnp.clip((time - start) / jnp.where(length > 0, length, 1.0), 0.0, 1.0), 1.0)


def _cosine(first, last, share):
    return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))
