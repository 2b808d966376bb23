"""Forward and centred differences: their error against the step, as measured and as truncation and rounding make it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jnn

STEPS = np.logspace(-1, -15, 57)
ORDERS = {"forward": 1, "centred": 2}  # the power of the step by which truncation goes


def measured(seeds: int, seed: int):
    """-> relative errors {dtype: {name: (steps, seeds)}}, and f, f', f'', f''' (seeds, 4) in float64: of the loss of a tanh
    network on digits along a random direction, initial weights and direction drawn anew for each seed."""
    images, labels = (part[:200] for part in jnn.data.digits())
    model = jnn.serial(jnn.flatten(), jnn.dense(32), jnp.tanh, jnn.dense(10))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy)

    def drawn(key):
        init_key, direction_key = jax.random.split(key)
        params = ravel_pytree(objective.init(init_key, (images, labels))[0])[0]
        return params, jax.random.normal(direction_key, params.shape, jnp.float32)

    restored = ravel_pytree(objective.init(jax.random.key(seed), (images, labels))[0])[1]

    def along(start, dtype):
        flat, direction = start
        cast = lambda a: jax.tree.map(lambda leaf: leaf.astype(dtype), restored(a))
        batch = jnp.asarray(images, dtype), labels
        return lambda t: objective.loss(jax.tree.map(lambda p, d: p + t * d, cast(flat), cast(direction)), {}, batch)[0]

    def derivatives(start):
        functions = [along(start, jnp.float64)]
        for _ in range(3):
            functions.append(jax.grad(functions[-1]))
        return jnp.stack([f(jnp.zeros([], jnp.float64)) for f in functions])

    def errors(dtype, exact):
        # a loop, as three calls in one program are compiled apart and round apart: f(h) - f(-h) would not end at 0
        values = jax.jit(lambda ts: jax.lax.map(lambda t: jax.vmap(lambda start: along(start, dtype)(t))(starts), ts))
        h = STEPS.astype(dtype)[:, None]
        ahead, here, behind = np.split(np.asarray(values(np.concatenate([h, 0 * h, -h])[:, 0])), 3)  # (steps, seeds) each
        found = {"forward": (ahead - here) / h, "centred": (ahead - behind) / (2 * h)}
        return {name: np.abs(found[name] / exact[:, 1] - 1) for name in ORDERS}

    with jax.enable_x64(True):
        # once, as each program that draws them may round them in its own way
        starts = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(seed), seeds))
        exact = np.asarray(jax.jit(jax.vmap(derivatives))(starts))
        return {dtype: errors(dtype, exact) for dtype in ("float32", "float64")}, exact


def predicted(exact, dtype, order: int):
    """The error of the difference of that order, (steps, seeds), and the step where it is least, (seeds,). Each of two values
    is at best right to eps / 2 of itself, their difference to eps |f|, which is divided by h or 2 h."""
    f, slope, second, third = np.abs(exact).T
    truncation = second / 2 if order == 1 else third / 6
    rounding = np.finfo(dtype).eps * f / order
    h = STEPS[:, None]
    return (truncation * h**order + rounding / h) / slope, (rounding / truncation / order) ** (1 / (order + 1))


def log10(errors) -> np.ndarray:
    """Of errors that may be 0."""
    return np.log10(np.maximum(errors, 1e-16))


def best_steps(errors, exact) -> dict[str, dict[str, float]]:
    """ "forward float32" ... -> the step of the least error, measured and predicted, in the geometric mean over seeds."""
    found = {}
    for name, order in ORDERS.items():
        for dtype, of in errors.items():
            steps = predicted(exact, dtype, order)[1]
            least = log10(of[name]).mean(axis=1).argmin()
            found[f"{name} {dtype}"] = {"measured": float(STEPS[least]), "predicted": float(np.exp(np.mean(np.log(steps))))}
    return found


def exponents(errors, best) -> dict[str, np.ndarray]:
    """ "forward truncation" ... -> the slope of log error against log h in float64, (seeds,), away from the best step."""
    found = {}
    for name in ORDERS:
        middle = best[f"{name} float64"]["predicted"]
        for kind, (low, high) in {"truncation": (10 * middle, 1e-2), "rounding": (1e-14, middle / 10)}.items():
            where = (low <= STEPS) & (high >= STEPS)
            logs = np.log(np.maximum(errors["float64"][name][where], 1e-300))
            found[f"{name} {kind}"] = np.polyfit(np.log(STEPS[where]), logs, 1)[0]
    return found
