"""Inverted dropout, scaled while training, beside plain dropout, scaled at test time."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn


def plain(rate):
    """Dropout as first published: while training x * mask with P(mask = 0) = rate, otherwise x * (1 - rate)."""

    def apply(params, state, x, *, key=None, train=False):
        kept = jnp.asarray(1 - rate, x.dtype)
        if train and key is not None:
            return x * jax.random.bernoulli(key, kept, x.shape).astype(x.dtype), state
        return x * kept, state

    return jnn.Layer(lambda key, x: ({}, {}), apply)


def agreement(network, params, images, rate: float, masks: int, key) -> dict:
    """Inverted dropout against plain dropout whose next layer's weights are divided by 1 - rate: the largest difference of
    their logits in training with the same mask, and at test time; and by how many standard errors the logits at test time are
    off the mean over masks (root mean square: 1 where they agree in expectation)."""
    head = {"w": params["head"]["w"] / (1 - rate), "b": params["head"]["b"]}
    kinds = {"inverted": (jnn.dropout, params), "plain": (plain, jnn.tree.merge(params, {"head": head}))}
    trained, tested, errors = {}, {}, {}
    for name, (drop, params) in kinds.items():
        apply = network(rate, drop).apply
        tested[name], _ = apply(params, {}, images)
        sample = jax.jit(jax.vmap(lambda key, apply=apply, params=params: apply(params, {}, images, key=key, train=True)[0]))
        trained[name] = np.asarray(sample(jax.random.split(key, masks)), float)
        error = trained[name].std(axis=0, ddof=1) / np.sqrt(masks)
        errors[name] = float(np.sqrt(np.mean(((trained[name].mean(axis=0) - tested[name]) / error) ** 2)))
    difference = lambda one: float(np.max(np.abs(one["plain"] - one["inverted"])))
    share = lambda logits: np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    off = np.abs(share(trained["inverted"]).mean(axis=0) - share(tested["inverted"])).mean()
    return {"trained": difference(trained), "tested": difference(tested), "standard_errors": errors, "probability": float(off)}
