"""What do plain, denoising and sparse autoencoders keep of a picture, and how much noise do they bear?

python -m experiments.autoencoder [--quick] [--seed 0] [--out runs/autoencoder]

784-256-64-256-784 on Fashion-MNIST, trained to give its input back (plain), to give it back from a copy with noise of
standard deviation 0.4 (denoising, Vincent et al. 2008), or through the 16 numbers of the code that are largest in size, the
others set to zero (sparse, as the k-sparse autoencoder of Makhzani & Frey 2014). PCA with 64 components is the best linear one
(Baldi & Hornik 1989). The learning rate is chosen on 3,000 examples held out, by the plain one; tested once: the squared error
of the clean picture, made from one with noise, the accuracy of a linear classifier that was trained on codes of 10,000 clean
pictures, and how many of the 64 numbers are in use, not zero in at least one picture of a hundred.

Expected: the plain one's error is three quarters of PCA's, 0.0078 against 0.0104, and grows to 0.028 with noise of 0.4, the
denoising one's from 0.0147 to 0.0166 alone; its codes still tell 79 % of noisy pictures right, the plain one's 72 %.
Less than half an hour on one core, --quick 15 seconds.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.codes import components, disturbed, judged, objective_of, parts_of, vectors
from experiments.fashion import CLASSES, parts
from experiments.findings import Interval, is_at_edge, picture, record, stage

LEVELS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)  # standard deviations of noise, white being 1
KINDS = {"plain": (0.0, 64), "denoising": (0.4, 64), "sparse": (0.0, 16)}  # noise while training, numbers kept
RATES = (3e-4, 1e-3, 3e-3)


def trained(hparams, data, *, steps, seeds, seed):
    """hparams: {"rate", "noise", "kept"}, each (trials,) -> params, error on validation, and what `judged` finds."""

    def run(hparams, key, data):
        fit_key, judge_key = jax.random.split(key)
        mean = jnp.mean(vectors(data["train"][0][:10_000]), axis=0)
        objective = objective_of(mean, hparams["noise"], hparams["kept"])
        training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(hparams["rate"], steps)))
        params = jnn.fit(training, data["train"][0], key=fit_key, steps=steps, batch_size=128).train_state.params
        validation = jnn.evaluate(objective, params, {}, data["validation"][0])["loss"]
        params |= {"mean": mean, "kept": hparams["kept"]}
        return params, validation, judged(judge_key, *parts_of(params), data["train"], data["test"], LEVELS)

    return jax.block_until_ready(jnn.sweep(run, hparams, seeds=seeds, seed=seed, data=data))


def draw_reconstructions(out, ways, test):
    rows = np.unique(test[1], return_index=True)[1]  # the first of each class
    figure = Figure(figsize=(8, 7.6))
    grid = iter(figure.subplots(2 * len(ways) + 2, 10))
    for level in (0.0, 0.4):
        x = disturbed(jax.random.key(0), vectors(test[0][rows]), level)
        made = {
            f"noise {level}" if level else "picture": x,
            **{name: decode(encode(x)) for name, (encode, decode) in ways.items()},
        }
        for name, pictures in made.items():
            row = next(grid)
            for axes, shown in zip(row, np.clip(pictures, 0, 1), strict=True):
                jnn.plots.image(axes, shown.reshape(28, 28))
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    picture(out, "reconstructions", figure)


def draw_codes(out, way, test):
    """The plane of the two first principal components of the codes: the test part in it, and what its points decode to."""
    codes = way[0](vectors(test[0][:3000]))
    project, back = components(codes, 2)
    places = np.asarray(project(codes))
    figure = Figure(figsize=(8, 3.8))
    axes, decoded = figure.subplots(1, 2)
    low, high = np.percentile(places, [0.2, 99.8], axis=0)
    colors, labelled = (*jnn.plots.COLORS, "black", "#999999"), []
    medians = np.stack([np.median(places[test[1][:3000] == label], axis=0) for label in range(len(CLASSES))])
    for label in np.argsort(-medians[:, 1]):  # from the top, a name that would cover another goes below it
        axes.scatter(*places[test[1][:3000] == label].T, s=4, color=colors[label], alpha=0.6, linewidths=0)
        x, y = (medians[label] - low) / (high - low)
        for across, up in labelled:
            y = min(y, up - 0.07) if abs(x - across) < 0.2 and abs(y - up) < 0.07 else y
        labelled.append((x, y))
        box = {"fc": "white", "ec": colors[label], "pad": 1, "alpha": 0.8}
        axes.text(x, y, CLASSES[label], transform=axes.transAxes, fontsize=8, ha="center", va="center", bbox=box)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title="Codes of test pictures, plain autoencoder")
    axes.set(xlabel="first principal component of the codes", ylabel="second")
    across, up = (np.linspace(low[i], high[i], 12, dtype=np.float32) for i in (0, 1))
    shown = way[1](back(np.stack(np.meshgrid(across, up[::-1]), axis=-1)))
    tiles = np.asarray(shown).reshape(12, 12, 28, 28).swapaxes(1, 2).reshape(12 * 28, 12 * 28)
    jnn.plots.image(decoded, np.clip(tiles, 0, 1))
    decoded.set_title("What the plane decodes to")
    picture(out, "codes", figure)


def draw_robustness(out, found):
    figure = Figure(figsize=(8, 3))
    error, accuracy = figure.subplots(1, 2)
    for axes, what in ((error, "error"), (accuracy, "accuracy")):
        for (name, scores), color in zip(found.items(), jnn.plots.COLORS, strict=False):
            jnn.plots.band(axes, LEVELS, scores[what], label=name, color=color, marker="o", markersize=3)
        axes.set_xlabel("standard deviation of the noise")
    error.plot(LEVELS[1:], np.square(LEVELS[1:]), color="black", linestyle=":", label="the noisy picture itself")
    error.set(ylabel="mean squared error", title="Reconstruction of the clean picture", yscale="log")
    accuracy.set(ylabel="accuracy in percent", title="A linear classifier of the codes")
    error.legend(handles=error.lines[-1:], loc="upper left")
    accuracy.legend(loc="lower left")
    picture(out, "robustness", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "autoencoder", quick="2 seeds, 250 steps").parse_args(arguments)
    seeds, steps = (2, 250) if options.quick else (5, 8000)
    train, validation, test = parts()
    test = tuple(a[: 2000 if options.quick else 10_000] for a in test)
    data = {"train": train, "validation": tuple(a[:3000] for a in validation), "test": test}
    run, rate = {"steps": steps, "seed": options.seed}, RATES[1]
    if not options.quick:
        with stage(f"plain, {len(RATES)} learning rates"):
            rates = {"rate": jnp.array(RATES), "noise": jnp.zeros(3), "kept": jnp.full(3, 64)}
            rate = RATES[int(trained(rates, data, seeds=2, **run)[1].mean(axis=1).argmin())]
    with stage(f"{', '.join(KINDS)}, {seeds} seeds, {steps} steps"):
        noise, kept = (jnp.array(values) for values in zip(*KINDS.values(), strict=True))
        params, _, scores = trained({"rate": jnp.full(3, rate), "noise": noise, "kept": kept}, data, seeds=seeds, **run)
    found = {name: jax.tree.map(lambda a, i=i: np.asarray(a[i]), scores) for i, name in enumerate(KINDS)}
    ways = {name: parts_of(jax.tree.map(lambda a, i=i: a[i, 0], params)) for i, name in enumerate(KINDS)}
    with stage("principal components"):
        ways["PCA"] = components(vectors(train[0]), 64)
        judge = jax.jit(lambda key, data: judged(key, *ways["PCA"], data["train"], data["test"], LEVELS))
        found["PCA"] = jax.tree.map(np.asarray, judge(jax.random.key(options.seed), data))
    results = {"learning_rate": rate, "levels": LEVELS} | jax.tree.map(lambda a: a.tolist(), found)
    recorded = record(options, described(found, seeds, rate), results)
    with jnn.plots.style():
        draw_reconstructions(options.out, ways, test)
        draw_codes(options.out, ways["plain"], test)
        draw_robustness(options.out, found)
    return recorded


def described(found, seeds, rate) -> str:
    def each(what, form, level=None):
        values = ((name, a[what] if level is None else a[what][..., LEVELS.index(level)]) for name, a in found.items())
        return ", ".join(f"{name} {format(Interval.of(value), form)}" for name, value in values)

    best = {
        level: min(found, key=lambda name: Interval.of(found[name]["error"][..., LEVELS.index(level)])[0])
        for level in (0.0, 0.4)
    }
    return (
        f"Clean pictures come best out of {best[0.0]}, noisy ones out of {best[0.4]}. Mean squared error on test pictures "
        f"through a code of 64 numbers: {each('error', '.4f', 0.0)} (mean and 95 % interval over {seeds} seeds). From pictures "
        f"with noise of standard deviation 0.4, whose own error is 0.16: {each('error', '.4f', 0.4)}. A linear classifier of "
        f"the codes gets, in percent, {each('accuracy', '.1f', 0.0)}, and with that noise {each('accuracy', '.1f', 0.4)}. "
        f"Numbers of the code in use: {each('used', '.1f')}. All have the learning rate that is best for plain, "
        f"{rate}{', the end of its grid' if is_at_edge(rate, RATES) else ''}."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
