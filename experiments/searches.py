"""Searches in the unit square with the same number of trials: on a grid, at random, and at random from coarse to fine."""

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("grid", "random", "coarse to fine")
CAP = float(np.log(10.0))  # nats, the loss of equal scores


def grid(key, side: int):
    """-> (side^2, 2) in the unit square, moved at random within a cell."""
    shift = jax.random.uniform(key, (2,))
    line = (jnp.arange(side, dtype=shift.dtype)[:, None] + shift) / side
    return jnp.stack([jnp.repeat(line[:, 0], side), jnp.tile(line[:, 1], side)], axis=1)


def near(key, best, count: int, width: float = 0.25):
    """-> (count, 2), uniform in the square of this width about `best`, moved into the unit square."""
    low = jnp.clip(jnp.asarray(best) - width / 2, 0, 1 - width)
    return low + width * jax.random.uniform(key, (count, 2))


def searched(score, keys, side: int) -> dict:
    """By each method: points (repetitions, side^2, 2) and their validation and test losses, as `score` gives them. They are
    scored by halves, so that the search from coarse to fine needs no program of its own."""
    half = side**2 // 2

    def scored(points):
        halves = [(points[:, part], *score(points[:, part])) for part in (slice(half), slice(half, None))]
        return [np.concatenate(pair, axis=1) for pair in zip(*halves, strict=True)]

    ordered = jax.vmap(lambda key: jax.random.permutation(key, grid(key, side)))(keys)
    at_random = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (2 * half, 2)))(keys)
    found = {"grid": scored(np.asarray(ordered)), "random": scored(np.asarray(at_random))}
    coarse = [a[:, :half] for a in found["random"]]
    best = coarse[0][np.arange(len(keys)), coarse[1].argmin(axis=1)]
    fine = np.asarray(jax.vmap(lambda key, b: near(jax.random.fold_in(key, 2), b, half))(keys, best))
    found["coarse to fine"] = [np.concatenate(pair, axis=1) for pair in zip(coarse, [fine, *score(fine)], strict=True)]
    return found


def winners(validation, test) -> np.ndarray:
    """The test loss of each repetition's best trial by validation."""
    return test[np.arange(len(test)), validation.argmin(axis=1)]


def effects(points, validation) -> list[float]:
    """The share of the variance of the log loss, capped at CAP, over each repetition's grid, that each number has by itself: of
    the learning rate, of the penalty."""
    shares = []
    for where, losses in zip(points, np.log(np.minimum(validation, CAP)), strict=True):
        total = losses.var()
        means = [[losses[column == value].mean() for value in np.unique(column)] for column in where.T]
        shares.append([np.var(m) / total for m in means])
    return np.mean(shares, axis=0).tolist()
