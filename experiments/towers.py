"""Towers: networks of equal layers, of any depth, on the digits, and what one sees in them layer by layer.

The layers are stacked (`jnn.repeat`), so that the depth costs no time to compile and what belongs to a layer is a row."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn

EVERY = 10  # steps between two looks at the loss


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """train (1297), validation (250), test (250): vectors of 64 pixels less their mean over their deviation, of all pixels
    together; labels. In a random order, as the file has its writers in a row."""
    images, labels = jnn.data.digits()
    order = np.random.default_rng(0).permutation(len(labels))
    x = images.reshape(len(images), -1)[order]
    x, y = (x - x[:1297].mean()) / x[:1297].std(), labels[order]
    return {"train": (x[:1297], y[:1297]), "validation": (x[1297:1547], y[1297:1547]), "test": (x[1547:], y[1547:])}


def tower(block, depth: int, outputs: int = 10):
    """(..., width) -> (..., outputs):  `depth` copies of block, and a dense head."""
    return jnn.serial(hidden=jnn.repeat(block, depth), head=jnn.dense(outputs))


def classifier(model):
    """The Objective of a classifier, with its accuracy."""
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})


def layer_outputs(block, params, x):
    """-> (depth, ..., width): what each layer of a tower gives. block: without state."""

    def layer(x, params):
        y, _ = block.apply(params, {}, x)
        return y, y

    return jax.lax.scan(layer, x, params["hidden"])[1]


def layer_norms(grads):
    """-> (depth,): the norm of each layer's gradient, all its parameters together."""
    flat = jnp.concatenate([jnp.reshape(g, (len(g), -1)) for g in jax.tree.leaves(grads["hidden"])], axis=1)
    most = jnp.max(jnp.abs(flat), axis=1, keepdims=True)  # squares of what many sigmoids leave would be 0
    most = jnp.where(most == 0, jnp.ones_like(most), most)
    return most[:, 0] * jnp.sqrt(jnp.sum(jnp.square(flat / most), axis=1))


def trainer(objective, steps: int, batch_size: int | None = 64):
    """A function for `sweep` of {"rate", "run"}: momentum's loss on data["probe"] every tenth step, and the parameters at the
    end. run: an integer, the seed."""

    def train(hparams, key, data):
        training = jnn.training(objective, jnn.optim.momentum(hparams["rate"]))
        key = jax.random.fold_in(key, hparams["run"])
        options = {"batch_size": batch_size, "eval_data": data["probe"], "eval_every": EVERY}
        fitted = jnn.fit(training, data["train"], key=key, steps=steps, **options)
        return fitted.history["eval"]["loss"], fitted.train_state.params

    return train


def steps_to(losses, target: float) -> np.ndarray:
    """(..., evaluations) -> (...): the step of the first loss at or below target; infinite where there is none."""
    reached = np.asarray(losses) <= target
    return np.where(reached.any(axis=-1), EVERY * (reached.argmax(axis=-1) + 1.0), np.inf)


def steps_to_or_beyond(losses, target: float) -> np.ndarray:
    """`steps_to`, but where there is no such loss more than all steps, the more the higher the last loss is."""
    reached, last = steps_to(losses, target), np.nan_to_num(losses[..., -1], nan=np.inf)
    return np.where(np.isfinite(reached), reached, EVERY * losses.shape[-1] * (1 + last))


def at_best_rate(train, data, rates, seed: int, score):
    """The learning rate of the least mean score of two runs, and the results of as many new runs with it as that search had:
    the same program twice."""
    runs = 2 * len(rates)

    def swept(rate, run):
        hparams = {"rate": jnp.asarray(rate, jnp.float32), "run": jnp.asarray(run)}
        return jax.tree.map(lambda a: np.asarray(a[:, 0]), jnn.sweep(train, hparams, seeds=1, seed=seed, data=data))

    losses, _ = swept(np.repeat(rates, 2), np.tile([0, 1], len(rates)))
    best = rates[int(score(losses).reshape(-1, 2).mean(axis=1).argmin())]
    return float(best), *swept(np.full(runs, best), 2 + np.arange(runs))


def one_sign(w):
    """w (gradients, layers, ..., in, features) -> the share of units behind a hidden layer whose weights' gradients all have
    one sign. Zeros fit either sign; a unit without any gradient does not count."""
    w = w[:, 1:]
    has_any = jnp.any(w != 0, axis=-2)
    is_one = (jnp.all(w >= 0, axis=-2) | jnp.all(w <= 0, axis=-2)) & has_any
    return jnp.sum(is_one) / jnp.maximum(jnp.sum(has_any), 1)


def seen(block, params, x, y, limits, batch: int) -> dict:
    """Of a classifier: by layer, (depth,), the gradient's norm, the shares of dead units and of outputs beyond the limits; and
    the share of units with one sign, for each of the first `batch` examples and for their mean."""
    objective = classifier(tower(block, len(jax.tree.leaves(params["hidden"])[0])))
    outputs = layer_outputs(block, params, x)
    gradient = jax.grad(lambda params, examples: objective.loss(params, {}, examples)[0])
    by_example = jax.vmap(gradient, (None, 0))(params, (x[:batch], y[:batch]))
    by_batch = jax.tree.map(lambda a: a[None], gradient(params, (x[:batch], y[:batch])))
    weights = [
        next(leaf for path, leaf in jnn.tree.flatten(grads["hidden"]).items() if path.endswith("w"))
        for grads in (by_example, by_batch)
    ]
    return {
        "gradient": layer_norms(gradient(params, (x, y))),
        "dead": jnp.mean(jnp.all(outputs == 0, axis=1), axis=-1),
        "saturated": jnp.mean((outputs < limits[0]) | (outputs > limits[1]), axis=(1, 2)),
        "one_sign": [one_sign(w) for w in weights],
    }
