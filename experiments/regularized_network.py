"""A small network for Fashion-MNIST with all regularizations at once, each of a strength that may be traced."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments.fashion import scaled
from experiments.findings import is_at_edge
from experiments.towers import classifier

# l1 and l2: penalties; limit: of max-norm; rate: of dropout; noise: its standard deviation, pixels in [0, 1]
NONE = {"l1": 0.0, "l2": 0.0, "limit": np.inf, "rate": 0.0, "noise": 0.0}
METHODS = {
    "none": [{}],
    "l1": [{"l1": s} for s in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
    "l2": [{"l2": s} for s in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)],
    "elastic net": [{"l1": one, "l2": two} for one in (3e-5, 1e-4, 3e-4, 1e-3) for two in (1e-3, 3e-3, 1e-2)],
    "max-norm": [{"limit": s} for s in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)],
    "dropout": [{"rate": s} for s in (0.1, 0.25, 0.5, 0.75, 0.85, 0.95)],
    "noise": [{"noise": s} for s in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)],
}
ZERO = 1e-3  # weights below it count as none


def network(rate, drop=jnn.dropout):
    """Pixels in [0, 255] -> 10 logits, with dropout behind the hidden layer."""
    hidden = jnn.dense(128, w_init=jnn.initializers.kaiming_normal())
    return jnn.serial(scaled, jnn.flatten(), hidden=hidden, relu=jax.nn.relu, dropout=drop(rate), head=jnn.dense(10))


def run(strengths, key, examples, steps: int, stop=None, **options):
    """`fit` with these strengths, by Adam in batches of 50. stop: the step from which on nothing is learned; may be traced.
    options: of `fit`."""
    objective = jnn.supervised(
        network(strengths["rate"]),
        jnn.losses.softmax_cross_entropy,
        penalty=jnn.regularizers.elastic_net(strengths["l1"], strengths["l2"]),
        metrics={"accuracy": jnn.metrics.accuracy},
        augment=lambda key, x: x.astype(jnp.float32) + 255 * strengths["noise"] * jax.random.normal(key, x.shape),
    )
    decay = jnn.schedules.cosine(3e-3, steps)
    rate = decay if stop is None else lambda count: jnp.where(count < stop, decay(count), jnp.zeros_like(decay(count)))
    optimizer = jnn.optim.chain(jnn.optim.adam(rate), jnn.optim.max_norm(strengths["limit"]))
    return jnn.fit(jnn.training(objective, optimizer), examples, key=key, steps=steps, batch_size=50, **options)


def scored(params, part) -> dict:
    """-> {"loss", "accuracy"} on (images, labels)."""
    return jnn.evaluate(classifier(network(0.0)), params, {}, part, batch_size=500)


def sparsity(params, within: float = ZERO):
    """The share of weights that are not farther from zero, (seeds,)."""
    weights = [np.abs(np.asarray(layer["w"])).reshape(len(layer["w"]), -1) for layer in params.values()]
    return np.mean(np.concatenate(weights, axis=1) <= within, axis=1)


def edges(methods, found) -> list[str]:
    """Where the strength that was chosen is the least or the greatest that was tried."""
    at = []
    for method, settings in methods.items():
        for name, value in found[method]["setting"].items():
            if is_at_edge(value, [setting.get(name) for setting in settings]):
                at.append(f"{method} ({name} {value:g})")
    return at
