"""A line through windows of a series, by gradients and by least squares."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn

LINE = jnn.serial(jnn.flatten(2), jnn.dense(1))  # (..., taps, 1) -> (..., 1)


def fitted_line(inputs, targets, steps: int = 300):
    """inputs (time, taps, 1), targets (time, 1) -> params of LINE by L-BFGS in double precision, and their largest difference
    from those of least squares."""
    with jax.enable_x64(True):
        data = jnp.asarray(inputs, jnp.float64), jnp.asarray(targets, jnp.float64)
        single = jax.tree.map(jnp.float32, data)
        training = jnn.training(jnn.supervised(LINE, jnn.losses.squared_error), jnn.optim.lbfgs())
        start = training.init(jax.random.key(0), single)
        double = lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
        end = jnn.fit(training, data, key=jax.random.key(0), steps=steps, start=jax.tree.map(double, start)).train_state
        params = jax.tree.map(np.asarray, jnn.optim.eval_params(end.opt_state, end.params))["dense_1"]
    columns = np.column_stack([np.asarray(inputs, float)[..., 0], np.ones(len(inputs))])
    solution = np.linalg.lstsq(columns, np.asarray(targets, float)[:, 0])[0]
    difference = float(np.abs(np.append(params["w"][:, 0], params["b"]) - solution).max())
    return {"dense_1": jax.tree.map(np.float32, params)}, difference
