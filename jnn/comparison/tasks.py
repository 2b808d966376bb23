"""Tasks: real data, a model, a horizon, and the score that a tuned optimizer must reach for the task to count as real."""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import data, initializers, losses, metrics, schedules
from jnn.combinators import serial
from jnn.comparison.errors import InputError
from jnn.layers import dense, flatten
from jnn.objectives import supervised
from jnn.types import Objective


class Examples(NamedTuple):
    """The data of a task. Every study draws its own validation part from the pool, and its own test part where there is no
    official one."""

    pool: Any  # a batch of all examples that a study may divide up
    test: Any = None  # the official test part, or None


class Task(NamedTuple):
    """What an optimizer is judged on."""

    name: str
    about: str
    objective: Objective
    load: Callable[[], Examples]
    validation: int  # examples
    test: int  # examples
    steps: int
    batch_size: int
    floor: tuple[str, float]  # the mean test score that tuned adam reaches: ("accuracy", at least) or ("loss", at most)
    schedule: Callable[[int], Callable] = lambda steps: schedules.cosine(1.0, steps)  # of factors of the updates
    points: int = 20  # evaluations of the validation loss along a run


def _digits_pool():
    images, labels = data.digits()
    return Examples((images, labels))


def _digits_reconstruction():
    images, _ = data.digits()
    return Examples((images, images.reshape(len(images), -1)))


def _fashion():
    pool, test = data.fashion_mnist()
    return Examples(pool, test)


def _grey(images):
    """uint8 -> float32 in [0, 1]: the pictures stay bytes until a batch of them is used."""
    return images.astype(jnp.float32) / 255


def _classifier(*layers):
    return supervised(serial(*layers), losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy})


def _relu_dense(features):
    return serial(dense=dense(features, w_init=initializers.kaiming_normal()), relu=jax.nn.relu)


TASKS = {
    task.name: task
    for task in (
        Task(
            "digits-linear",
            "softmax regression on scikit-learn's 8x8 digits: convex",
            _classifier(flatten(), dense(10)),
            _digits_pool,
            validation=300,
            test=300,
            steps=300,
            batch_size=32,
            floor=("accuracy", 0.95),
        ),
        Task(
            "digits-mlp",
            "a network 64-64-10 with relu on scikit-learn's 8x8 digits",
            _classifier(flatten(), _relu_dense(64), dense(10)),
            _digits_pool,
            validation=300,
            test=300,
            steps=500,
            batch_size=32,
            floor=("accuracy", 0.97),
        ),
        Task(
            "digits-autoencoder",
            "an autoencoder 64-32-8-32-64 with relu on scikit-learn's 8x8 digits, squared error of pixels in [0, 1]",
            supervised(
                serial(flatten(), _relu_dense(32), dense(8), _relu_dense(32), dense(64), jax.nn.sigmoid),
                losses.squared_error,
            ),
            _digits_reconstruction,
            validation=300,
            test=300,
            steps=400,
            batch_size=32,
            floor=("loss", 0.025),
        ),
        Task(
            "fashion-mlp",
            "a network 784-64-10 with relu on Fashion-MNIST, its official test set",
            _classifier(_grey, flatten(), _relu_dense(64), dense(10)),
            _fashion,
            validation=2000,
            test=10000,
            steps=1000,
            batch_size=128,
            floor=("accuracy", 0.86),
            points=10,
        ),
    )
}
DEFAULT_TASKS = ("digits-linear", "digits-mlp", "digits-autoencoder")


def find_task(task: "str | Task") -> Task:
    """A task by name, or the task itself."""
    if isinstance(task, Task):
        return task
    if task in TASKS:
        return TASKS[task]
    raise InputError(f"there is no task {task!r}{did_you_mean(task, TASKS)}; there are {', '.join(TASKS)}")


def did_you_mean(name: str, known) -> str:
    """ ", did you mean a or b?" with the names nearest to `name`; nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
