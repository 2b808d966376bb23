"""Functions on an interval, and piecewise linear networks that follow them without training."""

import jax
import jax.numpy as jnp
import numpy as np

FUNCTIONS = {
    "smooth": lambda x: np.sin(np.pi * x),
    "step": lambda x: np.where(x >= 0.1, 1.0, -1.0),
    "oscillating": lambda x: np.sin(8 * np.pi * x),
}
CURVATURES = {"smooth": np.pi**2 / np.sqrt(2), "oscillating": (8 * np.pi) ** 2 / np.sqrt(2)}  # root mean square f''
RAMP = 1e-3  # width of the step that is built


def points(count: int, offset: float) -> np.ndarray:
    """(count, 1):  equally spaced in [-1, 1]; each offset in (0, 1) gives others."""
    return (2 * (np.arange(count) + offset) / count - 1)[:, None]


TRAIN, VALIDATION, TEST = points(1024, 0.5), points(1024, 0.25), points(4001, 0.5)


def error(prediction, y) -> np.ndarray:
    """The root mean square over points, (...)."""
    return np.sqrt(np.mean((np.asarray(prediction, float) - y) ** 2, axis=(-2, -1)))


def with_best_output(w, b, f) -> tuple[np.ndarray, np.ndarray]:
    """Relu units of weights w and b (..., width) with the output layer of least squares for f: values at TRAIN and at TEST."""

    def units(x):
        hidden = np.maximum(x * w[..., None, :] + b[..., None, :], 0)
        return np.concatenate([hidden, np.ones((*hidden.shape[:-1], 1))], axis=-1)

    with jax.enable_x64(True):  # equal pieces have a condition of about the width squared
        fit = jnp.vectorize(lambda a: jnp.linalg.lstsq(a, f(TRAIN), rcond=1e-12)[0], signature="(p,u)->(u,k)")
        output = np.asarray(fit(units(TRAIN)))
    return units(TRAIN) @ output, units(TEST) @ output


def built(name: str, width: int):
    """Values at TRAIN and at TEST of the network that is built by hand."""
    kinks = np.array([0.1 - RAMP / 2, 0.1 + RAMP / 2]) if name == "step" else np.linspace(-1, 1, width + 1)[:-1]
    return with_best_output(np.ones_like(kinks), -kinks, FUNCTIONS[name])


def random_units(name: str, width: int, seeds: int, seed: int):
    """Values (seeds, points, 1) at TRAIN and at TEST of units as at initialisation, with the best output layer."""
    rng = np.random.default_rng(seed)
    return with_best_output(rng.normal(size=(seeds, width)), rng.uniform(-1, 1, (seeds, width)), FUNCTIONS[name])
