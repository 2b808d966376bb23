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

    def along(key, dtype):
        init_key, direction_key = jax.random.split(key)
        flat, restored = ravel_pytree(objective.init(init_key, (images, labels))[0])
        direction = jax.random.normal(direction_key, flat.shape, jnp.float32)
        cast = lambda a: jax.tree.map(lambda leaf: leaf.astype(dtype), restored(a))
        batch = jnp.asarray(images, dtype), labels
        return lambda t: objective.loss(jax.tree.map(lambda p, d: p + t * d, cast(flat), cast(direction)), {}, batch)[0]

    def derivatives(key):
        functions = [along(key, jnp.float64)]
        for _ in range(3):
            functions.append(jax.grad(functions[-1]))
        return jnp.stack([f(jnp.zeros([], jnp.float64)) for f in functions])

    def errors(dtype, exact):
        def both(h, key):
            f, h = along(key, dtype), h.astype(dtype)
            ahead, here, behind = f(h), f(jnp.zeros_like(h)), f(-h)
            return jnp.stack([(ahead - here) / h, (ahead - behind) / (2 * h)])

        over_steps = jax.jit(lambda hs: jax.lax.map(lambda h: jax.vmap(lambda key: both(h, key))(keys), hs))
        found = np.asarray(over_steps(STEPS), float)  # (steps, seeds, orders)
        relative = np.abs(found - exact[:, 1, None]) / np.abs(exact[:, 1, None])
        return dict(zip(ORDERS, np.moveaxis(relative, 2, 0), strict=True))

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), seeds)
        exact = np.asarray(jax.jit(jax.vmap(derivatives))(keys))
        return {dtype: errors(dtype, exact) for dtype in ("float32", "float64")}, exact


def predicted(exact, dtype, order: int):
    """The error of the difference of that order, (steps, seeds), and the step where it is least, (seeds,)."""
    f, slope, second, third = np.abs(exact).T
    truncation = second / 2 if order == 1 else third / 6
    rounding = np.finfo(dtype).eps / 2 * f  # half a unit in the last place
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
