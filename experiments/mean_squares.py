"""The mean square of the outputs of a tower, layer by layer, as measured and as theory has it for wide layers."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import towers


def mean_square(activation, variance: float) -> float:
    """E[activation(z)^2], z normal with mean 0: by the trapezoid rule, which is spectrally exact for such integrands."""
    z = np.linspace(-12, 12, 4001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    outputs = np.asarray(activation(jnp.asarray(np.sqrt(variance) * z, jnp.float32)), float)
    return float(np.trapezoid(density * outputs**2, z))


def predicted(activation, gain: float, depth: int, q: float = 1.0) -> np.ndarray:
    """(depth,): the mean square of each layer's outputs. gain: n_in var(w). q: mean square of the inputs."""
    layers = []
    for _ in range(depth):
        q = gain * q / 2 if activation is jax.nn.relu else mean_square(activation, gain * q)
        layers.append(q)
    return np.array(layers)


def measured(activation, std, depth: int, x, networks: int, seed: int) -> np.ndarray:
    """(std, networks, depth): the mean square of each layer's outputs in random networks. std: (n,) of the weights."""

    def run(std, key, x):
        block = jnn.serial(jnn.dense(x.shape[-1], w_init=jnn.initializers.normal(std)), activation)
        params, _ = towers.tower(block, depth).init(key, x)
        return jnp.mean(jnp.square(towers.layer_outputs(block, params, x)), axis=(1, 2))

    squares = jnn.sweep(run, jnp.asarray(std, jnp.float32), seeds=networks, seed=seed, data=x)
    return np.asarray(squares, float)  # in float32 the variance of the least of them would be 0


def gradient_growth(block, depth: int, examples, networks: int, seed: int) -> np.ndarray:
    """(networks,): the factor by which the norm of a classifier's gradient grows from a layer to the one before it."""
    objective = towers.classifier(towers.tower(block, depth))

    def run(_, key, examples):
        params, state = objective.init(key, examples)
        grads = jax.grad(lambda params: objective.loss(params, state, examples, key=key, train=True)[0])(params)
        return towers.layer_norms(grads)

    norms = np.asarray(jnn.sweep(run, jnp.zeros(1), seeds=networks, seed=seed, data=examples)[0])
    return np.exp(-np.polyfit(np.arange(depth), np.log(norms).T, 1)[0])
