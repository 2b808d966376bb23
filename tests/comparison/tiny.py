"""A task of milliseconds, for tests that run the whole pipeline: three blobs in the plane, softmax regression."""

import jax
import numpy as np

import jnn
from jnn.comparison.tasks import Examples, Task


def blobs(official_test: bool = False):
    rng = np.random.default_rng(0)
    labels = np.arange(120, dtype=np.int32) % 3
    points = np.array([[0, 2], [2, -1], [-2, -1]])[labels] + rng.normal(size=(120, 2))
    points = points.astype(np.float32)
    if official_test:
        return Examples((points[:90], labels[:90]), (points[90:], labels[90:]))
    return Examples((points, labels))


def tiny_task(name="tiny", load=blobs, **changes) -> Task:
    objective = jnn.supervised(
        jnn.serial(jnn.dense(3), jax.nn.relu, jnn.dense(3)),
        jnn.losses.softmax_cross_entropy,
        metrics={"accuracy": jnn.metrics.accuracy},
    )
    about = Task(name, "three blobs", objective, load, 30, 30, steps=20, batch_size=10, floor=("accuracy", 0.7), points=4)
    return about._replace(**changes)
