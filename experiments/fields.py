"""What one unit behind a stack of layers sees: its receptive field, by the formula and by gradients, and what counts of it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jnn
from experiments.findings import Interval

POOLS = {"max_pool": jnn.max_pool, "avg_pool": jnn.avg_pool}


def formula(stack) -> int:
    """The receptive field of layers (kind, window, stride, dilation), in places of the input."""
    field, jump = 1, 1
    for _, window, stride, dilation in stack:
        field, jump = field + (window - 1) * dilation * jump, jump * stride
    return field


def measured(stack, draws: int = 200, seed: int = 0) -> int:
    """The extent of the places by which the middle unit behind the stack has a gradient, for any of `draws` random inputs."""
    layers = [
        jnn.conv(2, (window,), stride=stride, dilation=dilation, padding="VALID", w_init=jnn.initializers.constant(0.5))
        if kind == "conv"
        else POOLS[kind]((window,), stride=stride)
        for kind, window, stride, dilation in stack
    ]
    model = jnn.serial(*layers)
    length = formula(stack) + 4 * int(np.prod([stride for _, _, stride, _ in stack]))  # a few units behind it

    @jax.jit
    def seen(key):
        x = jax.random.uniform(key, (draws, length, 1))
        params, state = model.init(key, x)

        def middle(x):
            y = model.apply(params, state, x)[0]
            return jnp.sum(y[:, y.shape[1] // 2])

        return jnp.any(jax.grad(middle)(x) != 0, axis=(0, 2))

    return int(np.ptp(np.flatnonzero(seen(jax.random.key(seed))))) + 1


def random_stack(rng):
    """Up to five layers (kind, window, stride, dilation)."""
    stack = []
    for _ in range(rng.integers(1, 6)):
        kind = ("conv", "conv", "max_pool", "avg_pool")[rng.integers(4)]
        window, stride = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        stack.append((kind, window, stride, int(rng.integers(1, 4)) if kind == "conv" else 1))
    return stack


def influence(depth: int, window: int, activation, seeds: int, seed: int, *, axes: int = 1, features: int = 16) -> np.ndarray:
    """The squared gradient of a middle unit by each place of its field, for each seed of weights and inputs: (seeds, field)
    in one dimension, (seeds, field, field) in two; each sums to 1."""
    conv = jnn.conv(features, (window,) * axes, b_init=None)
    deeper = [jnn.repeat(jnn.serial(activation, conv), depth - 1)] if depth > 1 else []
    model, field = jnn.serial(conv, *deeper), 1 + depth * (window - 1)
    shape = (field,) * axes + (features,)  # what the unit in its middle sees, without the padding
    like, state = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    flat, restored = ravel_pytree(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like))

    def run(_, key):
        w_key, x_key = jax.random.split(key)
        # all weights of all layers at once, as the generator takes long to compile
        params = restored(jax.random.normal(w_key, flat.shape) / (features * window**axes) ** 0.5)
        value = lambda x: model.apply(params, state, x)[0][(field // 2,) * axes + (0,)]
        squared = jnp.sum(jax.grad(value)(jax.random.normal(x_key, shape)) ** 2, axis=-1)
        return squared / jnp.sum(squared)

    return np.asarray(jnn.sweep(run, jnp.zeros(1), seeds=seeds, seed=seed)[0])


def predicted_spread(depth, window: int):
    """The standard deviation of the sum of `depth` uniform steps within a window, in places."""
    return np.sqrt(depth * (window**2 - 1) / 12)


def second_moment(influence) -> np.ndarray:
    """The mean square distance from the field's centre of the places that it weighs, (seeds,)."""
    place = np.arange(influence.shape[-1])
    return influence @ (place - place.mean()) ** 2


def spread(moments) -> Interval:
    """The root of the mean of second moments (seeds,), in places. The root is taken last, of the interval's ends as well: the
    mean of roots is too low, and so is a deviation about each seed's own mean."""
    return Interval(float(np.sqrt(max(value, 0.0))) for value in Interval.of(moments))
