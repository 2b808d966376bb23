"""What do plain, denoising and sparse autoencoders keep of a picture, and how much noise do they bear?

python -m experiments.autoencoder [--quick] [--seed 0] [--out runs/autoencoder]

784-256-64-256-784 on Fashion-MNIST, 64 units of relu in the middle, trained to give its input back (plain), to give it back
from a copy with noise of standard deviation 0.4 (denoising, Vincent et al. 2008), or with a price on active units (sparse: L1,
Goodfellow et al. 2016, section 14.2.1, each unit weighed by the norm of its outgoing weights, as otherwise small codes with
large weights would escape it). PCA with 64 components is the best linear one (Baldi & Hornik 1989). The learning rate is
chosen on 6,000 examples held out; tested once: the squared error of the clean picture, made from one with noise, and the
accuracy of a linear classifier that was trained on codes of clean pictures. Beside it codes of two numbers, to be looked at.

Expected: (to be recorded). About six minutes on 2 cores, --quick 15 seconds.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.fashion import CLASSES, parts, scaled
from experiments.findings import Interval, picture, record, stage
from jnn.models import linear_classifier, mlp

LEVELS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)  # standard deviations of noise, white being 1
KINDS = {"plain": (0.0, 0.0), "denoising": (0.4, 0.0), "sparse": (0.0, 3e-4)}  # noise while training, price of activity
RATES = (3e-4, 1e-3, 3e-3)
ENCODER = jnn.serial(mlp=mlp([256], 64), relu=jax.nn.relu)
DECODER = mlp([256], 784)
SMALL = jnn.models.autoencoder(784, [256, 64], 2)
BATCH = 128


def encode(params, x):
    return ENCODER.apply(params["encoder"], {}, x)[0]


def decode(params, code):
    return DECODER.apply(params["decoder"], {}, code)[0]


def vectors(pixels):
    """uint8 (..., 28, 28, 1) -> float32 (..., 784) in [0, 1]"""
    return scaled(pixels).reshape(*pixels.shape[:-3], 784)


def disturbed(key, x, level):
    return x + jnp.asarray(level).astype(x.dtype) * jax.random.normal(key, x.shape)


def objective_of(noise, price):
    """An Objective on batches of pixels: the mean squared error, while training from a disturbed input and with a price."""

    def init(key, pixels):
        encoder_key, decoder_key = jax.random.split(key)
        encoder, _ = ENCODER.init(encoder_key, jax.eval_shape(vectors, pixels))
        decoder, _ = DECODER.init(decoder_key, jax.ShapeDtypeStruct((1, 64), jnp.float32))
        return {"encoder": encoder, "decoder": decoder}, {}

    def loss(params, state, pixels, *, key=None, train=False):
        x = vectors(pixels)
        code = encode(params, disturbed(key, x, noise) if train else x)
        error = jnp.mean((decode(params, code) - x) ** 2)
        activity = jnp.mean(code @ jnp.linalg.norm(params["decoder"]["dense_0"]["w"], axis=1))
        return error + jnp.asarray(price).astype(error.dtype) * activity if train else error, jnn.Aux(state, {})

    return jnn.Objective(init, loss)


def probe(key, codes, labels):
    """-> a function codes -> logits: a linear classifier of standardized codes."""
    mean, deviation = jnp.mean(codes, axis=0), jnp.std(codes, axis=0) + 1e-3
    classifier = linear_classifier(10)
    training = jnn.training(
        jnn.supervised(classifier, jnn.losses.softmax_cross_entropy), jnn.optim.adam(jnn.schedules.cosine(0.01, 1000))
    )
    data = (codes - mean) / deviation, labels
    params = jnn.fit(training, data, key=key, steps=1000, batch_size=128).train_state.params
    return lambda codes: classifier.apply(params, {}, (codes - mean) / deviation)[0]


def judged(key, encode, decode, train, test):
    """Of test pictures, over LEVELS: {"error": of reconstructions, "accuracy" of the probe in percent}; and the share of
    numbers in the clean codes that are "active", not zero."""
    probe_key, noise_key = jax.random.split(key)
    classify = probe(probe_key, encode(vectors(train[0][:10_000])), train[1][:10_000])
    x = vectors(test[0])

    def at(level):
        code = encode(disturbed(noise_key, x, level))
        right = jnp.mean(jnn.metrics.accuracy(classify(code), test[1]))
        return {"error": jnp.mean((decode(code) - x) ** 2), "accuracy": 100 * right}

    return jax.lax.map(at, jnp.array(LEVELS)) | {"active": jnp.mean(encode(x) != 0)}


def trained(hparams, data, *, steps, seeds, seed):
    """hparams: {"rate", "noise", "price"}, each (trials,) -> params, error on validation, and what `judged` finds."""

    def run(hparams, key, data):
        fit_key, judge_key = jax.random.split(key)
        objective = objective_of(hparams["noise"], hparams["price"])
        training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(hparams["rate"], steps)))
        params = jnn.fit(training, data["train"][0], key=fit_key, steps=steps, batch_size=BATCH).train_state.params
        validation = jnn.evaluate(objective, params, {}, data["validation"][0])["loss"]
        ways = (lambda x: encode(params, x)), (lambda code: decode(params, code))
        return params, validation, judged(judge_key, *ways, data["train"], data["test"])

    return jnn.sweep(run, hparams, seeds=seeds, seed=seed, data=data)


def components(x, count):
    """Principal components: the functions (encode, decode) between (..., 784) and (..., count)."""
    mean = np.mean(x, axis=0)
    _, vectors = np.linalg.eigh(np.cov(x.T, dtype=np.float64))
    basis = jnp.asarray(vectors[:, ::-1][:, :count], jnp.float32)
    return (lambda x: (x - mean) @ basis), (lambda code: code @ basis.T + mean)


def flattened(data, *, steps, seeds, seed):
    """Codes of two numbers: -> params (1, seeds, ...) and the test error (1, seeds)."""

    def run(rate, key, data):
        objective = jnn.supervised(
            jnn.serial(vectors, auto=SMALL), lambda y, pixels: jnn.losses.squared_error(y, vectors(pixels))
        )
        training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(rate, steps)))
        pairs = [(data[part][0], data[part][0]) for part in ("train", "test")]
        params = jnn.fit(training, pairs[0], key=key, steps=steps, batch_size=BATCH).train_state.params
        return params["auto"], jnn.evaluate(objective, params, {}, pairs[1])["loss"]

    return jnn.sweep(run, jnp.array([1e-3]), seeds=seeds, seed=seed, data=data)


def draw_reconstructions(out, ways, test):
    rows = [int(np.flatnonzero(test[1] == label)[0]) for label in range(10)]
    clean = vectors(test[0][rows])
    figure = Figure(figsize=(8, 7.6))
    grid = iter(figure.subplots(2 * len(ways) + 2, 10))
    for level in (0.0, 0.4):
        x = disturbed(jax.random.key(0), clean, level)
        made = {f"noise {level}" if level else "picture": x} | {
            name: decode(encode(x)) for name, (encode, decode) in ways.items()
        }
        for name, pictures in made.items():
            row = next(grid)
            for axes, shown in zip(row, np.clip(pictures, 0, 1), strict=True):
                jnn.plots.image(axes, shown.reshape(28, 28))
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    picture(out, "reconstructions", figure)


def draw_latent(out, pca, params, test):
    """Pictures of the test part as points, by principal components and by the autoencoder; and what its points stand for."""
    colors = (*jnn.plots.COLORS, "black", "#999999")
    codes = {
        "PCA": pca[0](vectors(test[0][:3000])),
        "autoencoder": mlp([256, 64], 2).apply(params["encoder"], {}, vectors(test[0][:3000]))[0],
    }
    figure = Figure(figsize=(8, 3))
    *scatters, decoded = figure.subplots(1, 3)
    for axes, (name, code) in zip(scatters, codes.items(), strict=True):
        for label, color in enumerate(colors):
            points = np.asarray(code)[test[1][:3000] == label]
            axes.scatter(*points.T, s=2, color=color, alpha=0.4, linewidths=0)
            axes.annotate(CLASSES[label], np.median(points, axis=0), fontsize=7, ha="center", weight="bold")
        low, high = np.percentile(code, [1, 99], axis=0)
        axes.set(title=name, xlabel="first number of the code", ylabel="second", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    across, up = (np.linspace(low[i], high[i], 10, dtype=np.float32) for i in (0, 1))
    grid = np.stack(np.meshgrid(across, up[::-1]), axis=-1)
    shown = mlp([64, 256], 784).apply(params["decoder"], {}, grid)[0].reshape(10, 10, 28, 28)
    jnn.plots.image(decoded, np.clip(np.block([list(row) for row in np.asarray(shown)]), 0, 1))
    decoded.set_title("what its plane decodes to")
    picture(out, "latent", figure)


def draw_robustness(out, found):
    figure = Figure(figsize=(8, 3))
    for axes, what in zip(figure.subplots(1, 2), ("error", "accuracy"), strict=True):
        for (name, scores), color in zip(found.items(), jnn.plots.COLORS, strict=False):
            jnn.plots.band(axes, LEVELS, scores[what], label=name, color=color, marker="o", markersize=3)
        axes.set_xlabel("standard deviation of the noise")
    error, accuracy = figure.axes
    error.plot(LEVELS, np.square(LEVELS), color="black", linestyle=":", label="the noisy picture itself")
    error.set(ylabel="mean squared error", title="Reconstruction of the clean picture", yscale="log")
    accuracy.set(ylabel="accuracy in percent", title="A linear classifier of the codes")
    error.legend()
    picture(out, "robustness", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "autoencoder", quick="2 seeds, 400 steps").parse_args(arguments)
    seeds, steps = (2, 400) if options.quick else (5, 6000)
    train, validation, test = parts()
    test = tuple(a[: 2000 if options.quick else 10_000] for a in test)
    data = {"train": train, "validation": tuple(a[:3000] for a in validation), "test": test}
    run = {"steps": steps, "seed": options.seed}
    rate = RATES[1]
    if not options.quick:
        with stage(f"plain, {len(RATES)} learning rates"):
            rates = {"rate": jnp.array(RATES), "noise": jnp.zeros(3), "price": jnp.zeros(3)}
            rate = RATES[int(trained(rates, data, seeds=1, **run)[1][:, 0].argmin())]
    with stage(f"{', '.join(KINDS)}, {seeds} seeds, {steps} steps"):
        noise, price = jnp.array(list(KINDS.values())).T
        params, _, scores = trained(
            {"rate": jnp.full(len(KINDS), rate), "noise": noise, "price": price}, data, seeds=seeds, **run
        )
    found = {name: jax.tree.map(lambda a, i=i: np.asarray(a[i]), scores) for i, name in enumerate(KINDS)}
    with stage("principal components, and codes of two numbers"):
        pca = {count: components(vectors(train[0]), count) for count in (2, 64)}
        judge = jax.jit(lambda key, data: judged(key, *pca[64], data["train"], data["test"]))
        found["PCA"] = jax.tree.map(np.asarray, judge(jax.random.key(options.seed), data))
        small, small_error = flattened(data, seeds=seeds, **run)
    x = vectors(test[0])
    results = {"learning_rate": rate, "levels": LEVELS} | {
        name: jax.tree.map(lambda a: a.tolist(), scores) for name, scores in found.items()
    }
    results["two"] = {"PCA": float(jnp.mean((pca[2][1](pca[2][0](x)) - x) ** 2)), "autoencoder": small_error[0].tolist()}
    first = {name: jax.tree.map(lambda a, i=i: a[i, 0], params) for i, name in enumerate(KINDS)}
    ways = {name: (lambda x, p=p: encode(p, x), lambda code, p=p: decode(p, code)) for name, p in first.items()}
    with jnn.plots.style():
        draw_reconstructions(options.out, ways | {"PCA": pca[64]}, test)
        draw_latent(options.out, pca[2], jax.tree.map(lambda a: a[0, 0], small), test)
        draw_robustness(options.out, found)
    return record(options, described(found, results, seeds), results)


def described(found, results, seeds) -> str:
    def each(what, form, level=None):
        values = {
            name: scores[what] if level is None else scores[what][..., LEVELS.index(level)] for name, scores in found.items()
        }
        return ", ".join(f"{name} {format(Interval.of(value), form)}" for name, value in values.items())

    return (
        f"Mean squared error on test pictures through a code of 64 numbers: {each('error', '.4f', 0.0)} (mean and 95 % interval "
        f"over {seeds} seeds). From pictures with noise of standard deviation 0.4, whose own error is 0.16: "
        f"{each('error', '.4f', 0.4)}. A linear classifier of the codes gets, in percent, {each('accuracy', '.1f', 0.0)}, "
        f"and with that noise {each('accuracy', '.1f', 0.4)}. Share of numbers in a code that are not zero: "
        f"{each('active', '.2f')}. Through two numbers the error is {Interval.of(results['two']['autoencoder']):.4f} against "
        f"{results['two']['PCA']:.4f} by principal components."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
