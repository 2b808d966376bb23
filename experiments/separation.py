"""Planes that separate two classes: as the perceptron finds them, the most mistakes that it can make, and sets to try it on.

A set is x (n, d) and target (n,) of 0 and 1. Planes go through zero; with a constant input of 1, any plane is one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import jnn


@partial(jax.jit, static_argnames="most")
def perceptron(x, target, most: int = 10_000):
    """x (n, d), target (n,) of 0 and 1 -> weights (d,), mistakes [], passes []: up to the first pass without a mistake, or
    `most` passes. An example of zeros with target 1 is never a mistake, and may fill up a set."""

    def one(carry, example):
        w, mistakes = carry
        x, target = example
        error = target - jnn.activations.heaviside(x @ w)
        return (w + error * x, mistakes + (error != 0).astype(jnp.int32)), None

    def one_pass(carry):
        w, before, _, passes = carry
        (w, mistakes), _ = jax.lax.scan(one, (w, before), (x, target))
        return w, mistakes, mistakes == before, passes + 1

    start = jnp.zeros(x.shape[1]), jnp.int32(0), jnp.bool_(False), jnp.int32(0)
    w, mistakes, _, passes = jax.lax.while_loop(lambda carry: ~carry[2] & (carry[3] < most), one_pass, start)
    return w, mistakes, passes


def with_constant(x):
    """(n, d) -> (n, d + 1):  a last column of ones, whose weight is the threshold."""
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)


def bound(x, target) -> float:
    """(R / margin)^2, infinite where no plane separates. The margin is the length of the shortest vector in the convex hull of
    the signed examples z, which is a / sum(a) for the a >= 0 of least |Z'a|^2 + (1'a - 1)^2 (Lawson & Hanson 1974, 23.4)."""
    z = np.asarray(x, float) * np.where(np.asarray(target) > 0.5, 1, -1)[:, None]
    z = z / np.linalg.norm(z, axis=1).max()
    share, _ = optimize.nnls(np.vstack([z.T, np.ones(len(z))]), np.eye(z.shape[1] + 1)[-1])
    shortest = z.T @ share / share.sum()
    margin = np.min(z @ shortest) / max(np.linalg.norm(shortest), 1e-9)
    return float(1 / margin**2) if margin > 1e-6 else np.inf


def separable(gap, key, count: int, dimension: int):
    """x (count, dimension + 1), target (count,): normal points, pushed away from a random plane by `gap`."""
    plane_key, point_key = jax.random.split(key)
    normal = jax.random.normal(plane_key, (dimension,))
    normal = normal / jnp.linalg.norm(normal)
    x = jax.random.normal(point_key, (count, dimension))
    target = jnn.activations.heaviside(x @ normal)
    return with_constant(x + jnp.outer((2 * target - 1) * gap, normal)), target


def random_sets(gaps, dimension: int, count: int, seeds: int, seed: int):
    """-> bounds and mistakes, (gaps, seeds) each, of sets of `count` points."""

    def run(gap, key):
        x, target = separable(gap, key, count, dimension)
        return x, target, perceptron(x, target)[1]

    x, target, mistakes = map(np.asarray, jnn.sweep(run, jnp.array(gaps), seeds=seeds, seed=seed))
    return np.array([[bound(x[i, j], target[i, j]) for j in range(seeds)] for i in range(len(gaps))]), mistakes


def digit_pairs():
    """-> bounds and mistakes (45,), of each pair of digits."""
    images, labels = jnn.data.digits()
    pixels = np.asarray(with_constant(images.reshape(len(images), -1)))
    either = [((labels == a) | (labels == b), a) for a in range(10) for b in range(a)]
    sets = [(pixels[which], (labels[which] == a).astype(np.float32)) for which, a in either]
    most = max(len(target) for _, target in sets)
    x = np.stack([np.pad(x, ((0, most - len(x)), (0, 0))) for x, _ in sets])
    target = np.stack([np.pad(target, (0, most - len(target)), constant_values=1) for _, target in sets])
    return np.array([bound(*one) for one in sets]), np.asarray(jax.vmap(perceptron)(x, target)[1])
