"""Schedules: pure functions `step -> value`, for anything that changes while training."""

from collections.abc import Callable

import jax.numpy as jnp


def cosine(initial, steps, *, final=0.0) -> Callable:
    """step -> final + (initial - final) * (1 + cos(pi * step / steps)) / 2, and `final` from `steps` on.

    `step` is an integer, or an array of them of any shape. Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts."""

    def schedule(step):
        time = jnp.asarray(step).astype(float)
        first, last, horizon = (jnp.asarray(number).astype(time.dtype) for number in (initial, final, steps))
        share = jnp.clip(time / horizon, 0.0, 1.0)
        return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    return schedule
