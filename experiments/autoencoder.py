"""What do plain, denoising and sparse autoencoders keep of a picture, and how much noise do they bear?

python -m experiments.autoencoder [--quick] [--seed 0] [--out runs/autoencoder]

784-256-64-256-784 on Fashion-MNIST, trained to give its input back (plain), to give it back from a copy with noise of
standard deviation 0.4 (denoising, Vincent et al. 2008), or through the 16 numbers of the code that are largest in size, the
others set to zero (sparse, as the k-sparse autoencoder of Makhzani & Frey 2014). PCA with 64 components is the best linear one
(Baldi & Hornik 1989). The learning rate of each kind is chosen on 3,000 examples held out, clean ones, with one seed; tested
once: the squared error of the clean picture, made from one with noise, the accuracy of a linear classifier that was trained on
codes of 10,000 clean pictures, and how many of the 64 numbers are in use, not zero in at least one picture of a hundred.

Expected: (to be recorded) the plain one's error is less than PCA's, and grows more with noise than the denoising one's. Half
an hour on one core, --quick 15 seconds.
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
from experiments.findings import Interval, picture, record, stage

LEVELS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)  # standard deviations of noise, white being 1
KINDS = {"plain": (0.0, 64), "denoising": (0.4, 64), "sparse": (0.0, 16)}  # noise while training, numbers kept
RATES = (1e-3, 3e-3, 1e-2)


def trained(hparams, data, *, steps, seeds, seed, test=True):
    """hparams: {"rate", "noise", "kept"}, each (trials,) -> params, error on validation; to `test`, what `judged` finds."""

    def run(hparams, key, data):
        fit_key, judge_key = jax.random.split(key)
        mean = jnp.mean(vectors(data["train"][0][:10_000]), axis=0)
        objective = objective_of(mean, hparams["noise"], hparams["kept"])
        training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(hparams["rate"], steps)))
        params = jnn.fit(training, data["train"][0], key=fit_key, steps=steps, batch_size=128).train_state.params
        validation = jnn.evaluate(objective, params, {}, data["validation"][0])["loss"]
        params |= {"mean": mean, "kept": hparams["kept"]}
        found = judged(judge_key, *parts_of(params), data["train"], data["test"], LEVELS) if test else None
        return params, validation, found

    return jax.block_until_ready(jnn.sweep(run, hparams, seeds=seeds, seed=seed, data=data))


def draw_reconstructions(out, ways, test):
    rows = np.unique(test[1], return_index=True)[1]  # the first of each class
    figure = Figure(figsize=(8, 7.6))
    halves = figure.add_gridspec(2, 1)
    for place, level in enumerate((0.0, 0.4)):
        block = figure.add_subfigure(halves[place])
        block.suptitle(
            f"from pictures with noise of {level}" if level else "from clean pictures", x=0.01, ha="left", fontsize=10
        )
        grid = block.subplots(len(ways) + 1, 10)
        x = disturbed(jax.random.key(0), vectors(test[0][rows]), level)
        made = {"input": x} | {name: decode(encode(x)) for name, (encode, decode) in ways.items()}
        for row, (name, pictures) in zip(grid, made.items(), strict=True):
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
    run, rates = {"steps": steps, "seed": options.seed}, [RATES[0]] * len(KINDS)
    noise, kept = (jnp.array(values) for values in zip(*KINDS.values(), strict=True))
    if not options.quick:
        with stage(f"{', '.join(KINDS)}, {len(RATES)} learning rates"):
            grid = {"noise": jnp.repeat(noise, len(RATES)), "kept": jnp.repeat(kept, len(RATES))}
            tried = {"rate": jnp.tile(jnp.array(RATES), len(KINDS)), **grid}
            error = trained(tried, data, seeds=1, test=False, **run)[1].reshape(len(KINDS), len(RATES))
            rates = [RATES[i] for i in jnp.argmin(jnp.nan_to_num(error, nan=jnp.inf), axis=1)]
    with stage(f"{', '.join(KINDS)}, {seeds} seeds, {steps} steps"):
        params, _, scores = trained({"rate": jnp.array(rates), "noise": noise, "kept": kept}, data, seeds=seeds, **run)
    found = {name: jax.tree.map(lambda a, i=i: np.asarray(a[i]), scores) for i, name in enumerate(KINDS)}
    ways = {name: parts_of(jax.tree.map(lambda a, i=i: a[i, 0], params)) for i, name in enumerate(KINDS)}
    with stage("principal components"):
        ways["PCA"] = components(vectors(train[0]), 64)
        judge = lambda _, key, data: judged(key, *ways["PCA"], data["train"], data["test"], LEVELS)
        draws = jnn.sweep(judge, jnp.zeros(1), seeds=seeds, seed=options.seed, data=data)
        found["PCA"] = jax.tree.map(lambda a: np.asarray(a[0]), draws)
    results = {"learning_rate": dict(zip(KINDS, rates, strict=True)), "levels": LEVELS}
    results |= jax.tree.map(lambda a: a.tolist(), found)
    recorded = record(options, described(found, seeds, results["learning_rate"]), results)
    with jnn.plots.style():
        draw_reconstructions(options.out, ways, test)
        draw_codes(options.out, ways["plain"], test)
        draw_robustness(options.out, found)
    return recorded


def described(found, seeds, rates) -> str:
    def each(what, form, level=None):
        values = ((name, a[what] if level is None else a[what][..., LEVELS.index(level)]) for name, a in found.items())
        return ", ".join(f"{name} {format(Interval.of(value), form)}" for name, value in values)

    error = {level: {name: a["error"][:, LEVELS.index(level)].mean() for name, a in found.items()} for level in (0.0, 0.4)}
    best = {level: min(of, key=lambda name: of[name]) for level, of in error.items()}
    ends = dict.fromkeys((RATES[0], RATES[-1]), " (an end of the grid)")
    return (
        f"Of a clean picture {best[0.0]} keeps most, with an error of {error[0.0][best[0.0]]:.4f} where PCA has "
        f"{error[0.0]['PCA']:.4f}, and noise of standard deviation 0.4 {best[0.4]} bears best, with "
        f"{error[0.4][best[0.4]]:.4f} where plain has {error[0.4]['plain']:.4f}; denoising was trained with exactly this "
        "noise, and sparse keeps 16 of the code's 64 numbers. Mean squared error on test pictures: "
        f"{each('error', '.4f', 0.0)} (mean and 95 % interval over {seeds} seeds; of PCA over {seeds} draws of the noise and "
        "of the classifier). From pictures with noise of standard deviation 0.4, whose own error is 0.16: "
        f"{each('error', '.4f', 0.4)}. A linear classifier of the codes gets, in percent, {each('accuracy', '.1f', 0.0)}, and "
        f"with that noise {each('accuracy', '.1f', 0.4)}. Numbers of the code in use, not zero in at least 1 % of the "
        f"pictures: {each('used', '.1f')}. Learning rates of the lowest error on clean pictures, one seed: "
        + ", ".join(f"{kind} {rate}{ends.get(rate, '')}" for kind, rate in rates.items())
        + "."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
