"""Objectives: what is minimised, as a scalar of parameters and a batch."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp

from jnn.pairs import as_layer
from jnn.types import Aux, Objective


def supervised(
    model,
    loss: Callable,
    *,
    penalty: Callable | None = None,
    metrics: Mapping[str, Callable] = {},
    augment: Callable | None = None,
) -> Objective:
    """The mean loss of a model's predictions; a batch is (inputs, targets) or (inputs, targets, weights).

    model: a Layer, or a function without parameters.
    loss, metrics: functions (prediction, target) -> numbers, one for each example (or time step, or pixel), of which the
        mean is taken; with weights, of the shape of these numbers or of their leading axes, the weighted mean, so that
        weight 0 masks an example out of loss and metrics.
    penalty: a function params -> scalar, added while training only.
    augment: a function (key, inputs) -> inputs, applied while training only, as those of `jnn.augmentations`.
    """
    model = as_layer(model)
    if "weight" in metrics or "loss" in metrics:
        raise ValueError("supervised: the names 'loss' and 'weight' are taken, choose another for the metric")

    def init(key, batch):
        return model.init(key, batch[0])

    def objective(params, state, batch, *, key=None, train=False):
        if len(batch) not in (2, 3):
            raise ValueError(f"supervised: a batch is (inputs, targets) or (inputs, targets, weights), got {len(batch)} parts")
        inputs, targets, *weights = batch
        augment_key, model_key = (None, None) if key is None else jax.random.split(key)
        if augment is not None and train:
            if augment_key is None:
                raise ValueError("supervised: augment needs a key when train=True")
            inputs = augment(augment_key, inputs)
        if weights:
            targets = jax.tree.map(partial(_without_masked, weights[0]), targets)
        prediction, state = model.apply(params, state, inputs, key=model_key, train=train)
        mean = _weighted_mean(*weights) if weights else _mean
        value = mean(loss(prediction, targets))
        scores = {name: mean(metric(prediction, targets)) for name, metric in metrics.items()}
        if weights:
            scores["weight"] = jnp.sum(weights[0], dtype=value.dtype)  # by which `evaluate` combines batches
        if penalty is not None and train:
            value = value + penalty(params)
        return value, Aux(state, scores)

    return Objective(init, objective)


def _without_masked(weights, targets):
    """Targets of weight 0 as zeros: where they are NaN, 0 times NaN would reach every gradient."""
    if targets.shape[: weights.ndim] != weights.shape:
        return targets
    masked = (weights == 0).reshape(weights.shape + (1,) * (targets.ndim - weights.ndim))
    return jnp.where(masked, jnp.zeros_like(targets), targets)


def _mean(values):
    return jnp.mean(values)


def _weighted_mean(weights):
    def mean(values):
        if values.shape[: weights.ndim] != weights.shape:
            raise ValueError(f"supervised: weights {weights.shape} do not lead the axes of the losses {values.shape}")
        # (batch,) weights over (batch, time) losses: every step of an example counts alike
        w = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim)).astype(values.dtype)
        w = jnp.broadcast_to(w, values.shape)
        total = jnp.sum(w)
        # 0 where all is masked, and a masked NaN stays out
        return jnp.sum(jnp.where(w == 0, jnp.zeros_like(values), w * values)) / jnp.where(
            total == 0, jnp.ones_like(total), total
        )

    return mean
