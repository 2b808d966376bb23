"""Codes of pictures, by autoencoders and principal components: what they decode to, and what a linear classifier reads."""

import jax
import jax.numpy as jnp

import jnn
from experiments.fashion import scaled
from jnn.models import linear_classifier, mlp

NETWORK = jnn.models.autoencoder(784, [256], 64)


def vectors(pixels):
    """uint8 (..., 28, 28, 1) -> float32 (..., 784) in [0, 1]"""
    return scaled(pixels).reshape(*pixels.shape[:-3], 784)


def disturbed(key, x, level):
    """x and normal noise of this standard deviation."""
    return x + level * jax.random.normal(key, x.shape)


def largest(code, count):
    """(..., numbers), of which so many stay that are largest in size; the others become zero. count may be traced."""
    size = jnp.abs(code)
    least = jnp.take(jnp.sort(size, axis=-1, descending=True), count - 1, axis=-1)
    return jnp.where(size >= least[..., None], code, 0.0)


def parts_of(params):
    """-> the functions encode (..., 784) -> (..., 64), and decode back, of pictures less their "mean"; of the numbers of a code
    so many are "kept"."""
    encoder, decoder = mlp([256], 64), mlp([256], 784)

    def encode(x):
        return largest(encoder.apply(params["encoder"], {}, x - params["mean"])[0], params["kept"])

    return encode, lambda code: decoder.apply(params["decoder"], {}, code)[0] + params["mean"]


def objective_of(mean, noise, kept):
    """An Objective on batches of pixels: the mean squared error; while training, from an input with noise."""

    def init(key, pixels):
        return NETWORK.init(key, jax.eval_shape(vectors, pixels))

    def loss(params, state, pixels, *, key=None, train=False):
        (encode, decode), x = parts_of(params | {"mean": mean, "kept": kept}), vectors(pixels)
        given = disturbed(key, x, noise) if train else x
        return jnp.mean((decode(encode(given)) - x) ** 2), jnn.Aux(state, {})

    return jnn.Objective(init, loss)


def components(x, count):
    """Principal components of x (n, features): the functions encode, to (..., count), and decode."""
    mean = jnp.mean(x, axis=0)
    basis = jnp.linalg.eigh(jnp.cov(x.T))[1][:, ::-1][:, :count]
    return (lambda x: (x - mean) @ basis), (lambda code: code @ basis.T + mean)


def probe(key, codes, labels):
    """-> a function codes -> logits: a linear classifier, trained on these, each number of the codes standardized."""
    mean, deviation = jnp.mean(codes, axis=0), jnp.std(codes, axis=0) + 1e-3
    objective = jnn.supervised(linear_classifier(10), jnn.losses.softmax_cross_entropy)
    training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(0.01, 1000)))
    data = (codes - mean) / deviation, labels
    params = jnn.fit(training, data, key=key, steps=1000, batch_size=128).train_state.params
    return lambda codes: linear_classifier(10).apply(params, {}, (codes - mean) / deviation)[0]


def judged(key, encode, decode, train, test, levels):
    """Of test pictures with noise of each level: the "error" of reconstructions (levels,), and the "accuracy" of the probe in
    percent (levels,); and how many numbers of the clean codes are "used", not zero in at least one picture of a hundred."""
    probe_key, noise_key = jax.random.split(key)
    classify = probe(probe_key, encode(vectors(train[0][:10_000])), train[1][:10_000])
    x = vectors(test[0])

    def at(level):
        code = encode(disturbed(noise_key, x, level))
        right = jnp.mean(jnn.metrics.accuracy(classify(code), test[1]))
        return {"error": jnp.mean((decode(code) - x) ** 2), "accuracy": 100 * right}

    return jax.lax.map(at, jnp.array(levels)) | {"used": jnp.sum(jnp.mean(encode(x) != 0, axis=0) >= 0.01)}
