"""Repeated cross-validation: which examples are trained on, held out and tested on."""

import jax
import numpy as np

import jnn


def batches(rng, examples, steps: int, size: int = 32) -> np.ndarray:
    """-> (steps, size), one permutation of the examples after the other."""
    epochs = [rng.permutation(examples) for _ in range(-(-steps * size // len(examples)))]
    return np.concatenate(epochs)[: steps * size].reshape(steps, size)


def splits(key, n: int, pool: int, folds: int, repetitions: int, steps: int) -> dict:
    """Indices of a data set of n examples, of which each repetition draws `pool` to learn from:

    order (repetitions, folds + 1, steps, 32), the batches of each fold's training and, last, of that on the whole pool; held
    (repetitions, folds, pool // folds), the examples held out of each fold; test (repetitions, n - pool), the others."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    found = {"order": [], "held": [], "test": []}
    keys = jax.random.split(key, repetitions)
    train, held = map(np.asarray, jax.vmap(lambda key: jnn.data.folds(pool, folds, key=key))(keys))
    for r in range(repetitions):
        shuffled = rng.permutation(n)
        chosen = shuffled[:pool]
        parts = [*chosen[train[r]], chosen]
        found["order"].append([batches(rng, part, steps) for part in parts])
        found["held"].append(chosen[held[r]])
        found["test"].append(shuffled[pool:])
    return {name: np.array(index, np.int32) for name, index in found.items()}
