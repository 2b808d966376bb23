"""A small network for Fashion-MNIST with all regularizations at once, each of a strength that may be traced."""

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments.fashion import scaled
from experiments.towers import classifier

# l1 and l2: penalties; limit: of max-norm; rate: of dropout; noise: its standard deviation, pixels in [0, 1]
NONE = {"l1": 0.0, "l2": 0.0, "limit": np.inf, "rate": 0.0, "noise": 0.0}


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
