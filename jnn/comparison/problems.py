"""Problems without data, whose loss is known exactly: a study is a start of its own, and a rotation or noise of its own.

Scores are the exact loss; the noise of training is no part of them."""

import jax
import jax.numpy as jnp

from jnn.comparison.tasks import Task
from jnn.initializers import orthogonal
from jnn.numbers import is_between, shown, whole
from jnn.types import Aux, Objective


def rosenbrock(dimensions: int = 2) -> Task:
    """f(x) = sum over i of (100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2) / 1000.

    Without the 1000 the curvature at the start is 1330, where the learning rates of other tasks diverge. The start is
    (-1.2, 1, -1.2, ...) with normal noise of deviation 0.1. Rosenbrock 1960; More, Garbow & Hillstrom 1981."""
    dimensions = whole("rosenbrock", "dimensions", dimensions, 2)

    def init(key, batch):
        usual = jnp.where(jnp.arange(dimensions) % 2 == 0, jnp.float32(-1.2), jnp.float32(1))
        return {"x": usual + 0.1 * jax.random.normal(key, (dimensions,), jnp.float32)}, {}

    def loss(params, state, batch, *, key=None, train=False):
        x, y = params["x"][:-1], params["x"][1:]
        return jnp.sum(100 * (y - x**2) ** 2 + (1 - x) ** 2) / 1000, Aux(state, {})

    return Task(
        "rosenbrock",
        f"Rosenbrock's function of {dimensions} numbers, over 1000",
        Objective(init, loss),
        steps=1000,
        floor=("loss", 0.001),
        make=rosenbrock,
    )


def quadratic(condition: float = 1e4, dimensions: int = 32) -> Task:
    """f(x) = sum over i of h_i (Q x)_i^2 / 2,  h_i from 1 to 1 / condition, evenly in the logarithm.

    Q is a random rotation, without which a step size for each parameter would solve the problem; x starts standard normal.
    condition: the largest eigenvalue of the Hessian over the smallest, at least 1."""
    dimensions = whole("quadratic", "dimensions", dimensions)
    if not is_between(condition, 1, float(jnp.finfo(jnp.float32).max)):
        raise ValueError(f"quadratic: condition must be a finite number of at least 1, got {shown(condition, str)}")

    def init(key, batch):
        rotation_key, start_key = jax.random.split(key)
        start = jax.random.normal(start_key, (dimensions,), jnp.float32)
        return {"x": start}, {"rotation": orthogonal()(rotation_key, (dimensions, dimensions), jnp.float32)}

    def loss(params, state, batch, *, key=None, train=False):
        x = params["x"]
        eigenvalues = jnp.asarray(condition, x.dtype) ** -jnp.linspace(0, 1, dimensions, dtype=x.dtype)
        return jnp.sum(eigenvalues * (state["rotation"] @ x) ** 2) / 2, Aux(state, {})

    return Task(
        "quadratic",
        f"a rotated quadratic of {dimensions} numbers with condition number {condition:g}",
        Objective(init, loss),
        steps=500,
        floor=("loss", 0.01),
        make=quadratic,
    )


def noisy_quadratic(batch_size: int = 16, dimensions: int = 100) -> Task:
    """f(x) = sum over i of h_i x_i^2 / 2,  h_i = 1 / i;  each gradient has normal noise of covariance diag(h) / batch_size.

    x starts standard normal. The noisy quadratic model of Zhang et al. 2019, section 3."""
    batch_size, dimensions = (
        whole("noisy_quadratic", name, number) for name, number in (("batch_size", batch_size), ("dimensions", dimensions))
    )

    def init(key, batch):
        return {"x": jax.random.normal(key, (dimensions,), jnp.float32)}, {}

    def loss(params, state, batch, *, key=None, train=False):
        x = params["x"]
        curvature = 1 / jnp.arange(1, dimensions + 1, dtype=x.dtype)
        value = jnp.sum(curvature * x**2) / 2
        if train:
            if key is None:
                raise ValueError("noisy_quadratic: the noise of the gradient needs a key when train=True")
            noise = jnp.sqrt(curvature / batch_size) * jax.random.normal(key, x.shape, x.dtype)
            value = value + jnp.sum(noise * x)
        return value, Aux(state, {})

    return Task(
        "noisy-quadratic",
        f"a quadratic of {dimensions} numbers with noisy gradients, as of batches of {batch_size}",
        Objective(init, loss),
        steps=500,
        batch_size=batch_size,
        floor=("loss", 0.02),
        make=noisy_quadratic,
    )
