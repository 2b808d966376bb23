"""Problems that nothing but memory solves, at any length: fresh sequences from a key."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jnn

LETTERS, SYMBOLS = 8, 5


def adding(key, sequences: int, length: int):
    """-> (sequences, length, 2) numbers and marks, (sequences, 1, 1) the sum of the two marked."""
    value_key, early_key, late_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (sequences, length))
    early = jax.random.randint(early_key, (sequences, 1), 0, length // 2)
    late = jax.random.randint(late_key, (sequences, 1), length // 2, length)
    steps = jnp.arange(length)
    marks = ((steps == early) | (steps == late)).astype(values.dtype)
    return jnp.stack([values, marks], axis=-1), jnp.sum(values * marks, axis=1)[:, None, None]


def copying(key, sequences: int, delay: int):
    """-> (sequences, delay + 2 * SYMBOLS, LETTERS + 2) one-hot inputs: letters, blanks, a sign to go, blanks; integers
    (sequences, SYMBOLS), the letters to be said in the last steps."""
    letters = jax.random.randint(key, (sequences, SYMBOLS), 0, LETTERS)
    blank = jnp.full((sequences, delay - 1), LETTERS)
    text = [letters, blank, jnp.full((sequences, 1), LETTERS + 1), jnp.full((sequences, SYMBOLS), LETTERS)]
    return jax.nn.one_hot(jnp.concatenate(text, axis=1), LETTERS + 2), letters


class Task(NamedTuple):
    draw: Callable  # (key, sequences, length) -> inputs, targets
    outputs: int
    said: int  # the last steps, whose outputs count
    loss: Callable
    score: Callable  # of the outputs that count, one number for each
    lengths: tuple[int, ...]
    chance: float
    axes: tuple[str, str]  # of the picture


TASKS = {
    "adding": Task(
        adding,
        1,
        1,
        jnn.losses.squared_error,
        jnn.losses.squared_error,
        (10, 30, 100),
        1 / 6,
        ("length, steps", "mean squared error"),
    ),
    "copying": Task(
        copying,
        LETTERS,
        SYMBOLS,
        jnn.losses.softmax_cross_entropy,
        lambda logits, letters: 100 * (1 - jnn.metrics.accuracy(logits, letters)),
        (5, 15, 50),
        100 * (1 - 1 / LETTERS),
        ("delay, steps", "letters that are wrong, %"),
    ),
}
