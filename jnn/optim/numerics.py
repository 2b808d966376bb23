"""What every optimizer computes with: its numbers at a step, moments in a wide dtype, square roots safe to differentiate."""

import jax
import jax.numpy as jnp

from jnn import tree
from jnn.numbers import wide


def value(number_or_schedule, count):
    """A real number, or a schedule's at the step `count`, as a scalar of the default floating-point dtype."""
    number = number_or_schedule(count) if callable(number_or_schedule) else number_or_schedule
    return jnp.asarray(number).astype(float)


def zero_count():
    return jnp.zeros([], jnp.int32)


def zeros(params):
    """Moments at the start."""
    return jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p.dtype)), params)


def cast(x, like):
    return x.astype(like.dtype)


def widened(x):
    return x.astype(wide(x.dtype))


def running_mean(mean, decay, new):
    """decay * mean + (1 - decay) * new, in the dtype of `mean`."""
    return cast(decay, mean) * mean + cast(1 - decay, mean) * cast(new, mean)


def with_weights(owner: str, updates, params, rate, where):
    """updates + rate * params where `where` takes the parameter, and everywhere when it is None."""
    if params is None and jax.tree.leaves(updates):  # None is also the tree of no array
        raise ValueError(f"{owner}: decay needs the parameters, as in update(grads, opt_state, params)")
    taken = jax.tree.map(lambda p: True, params) if where is None else tree.mask(params, where)

    def add(u, p, is_taken):
        return u + cast(rate, u) * cast(p, u) if is_taken else u

    return jax.tree.map(add, updates, params, taken)


@jax.custom_jvp
def sqrt(x):
    """The square root, with the slope 0 at 0."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    # the slope at 0 is infinite, and infinity times a zero tangent would make gradients through a whole run NaN
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    positive = root > 0
    return root, jnp.where(positive, dx / (2 * jnp.where(positive, root, jnp.ones_like(root))), jnp.zeros_like(dx))
