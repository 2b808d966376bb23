"""Tasks as a user writes them, outside of the package: found by the path of this file."""

import jax
import jax.numpy as jnp

import jnn
from jnn.comparison.tasks import Task


def bowl(size="quick", width=2):
    """Without data: an objective of a random start. A function, so that its settings can be varied."""

    def init(key, batch):
        return {"x": jax.random.normal(key, (width,))}, {}

    def loss(params, state, batch, *, key=None, train=False):
        return jnp.sum(params["x"] ** 2), jnn.Aux(state, {})

    return Task("bowl", f"a sum of {width} squares", jnn.Objective(init, loss), steps=40 if size == "quick" else 400)


narrow = bowl(width=1)


def broken():
    raise KeyError("mine")


def no_task():
    return 1


not_callable = 3
