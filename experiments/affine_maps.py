"""How far a map is from affine: what the best affine map leaves of it, and what networks make of that in training."""

import jax
import numpy as np

import jnn
from experiments import towers
from experiments.findings import stage


def rest_of_affine(x, y) -> np.ndarray:
    """y less its best approximation by an affine map of x, by least squares."""
    inputs, outputs = np.column_stack([x, np.ones(len(x))]).astype(float), np.asarray(y, float)
    return outputs - inputs @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]


def beyond_affine(x, y, least: float = 1e-3) -> int:
    """The rank of what the best affine map of x leaves of y: 0 where y is one. least: the share of y's size that counts."""
    return int(np.linalg.matrix_rank(rest_of_affine(x, y), tol=least * np.linalg.norm(y)))


def trained(blocks, data, rates, steps: int, seed: int) -> dict:
    """Towers trained by the squared error on data (inputs, targets), each at its own learning rate: the losses of its runs, the
    rank of what one of them maps, and its rank beyond affine; beside the loss of the best affine map. blocks: {name: (block,
    depth)}."""
    x, y = data
    found = {}
    for name, (block, depth) in blocks.items():
        model = towers.tower(block, depth)
        train = towers.trainer(jnn.supervised(model, jnn.losses.squared_error), steps, None)
        with stage(f"{name} layers, squared error"):
            parts = {"train": data, "probe": data}
            _, losses, params = towers.at_best_rate(train, parts, rates, seed, lambda of: np.nan_to_num(of[:, -1], nan=np.inf))
        first = jax.tree.map(lambda a: a[0], params)
        map_of = jax.jit(lambda x, model=model, params=first: model.apply(params, {}, x)[0])
        found[name] = {
            "loss": losses[:, -1].tolist(),
            "rank": int(np.linalg.matrix_rank(jax.jacobian(map_of)(x[0]))),
            "rank_beyond_affine": beyond_affine(x, map_of(x)),
        }
    return {"best_affine_loss": float(np.mean(rest_of_affine(x, y) ** 2)), "networks": found}
