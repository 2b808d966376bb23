"""Does the mean square of activations go through a deep network as predicted, and how deep can it then be?

python -m experiments.initialization [--quick] [--seed 0] [--out runs/initialization]

Strips of four digits (256 pixels, mean 0, variance 1) go through 16 layers of 256 units, weights drawn as small (normal,
deviation 0.01), large (0.2), xavier (Glorot & Bengio 2010) and kaiming (He et al. 2015), with tanh and with relu. The mean
square of a layer's outputs is measured over random networks and predicted: q' = n_in var(w) q / 2 for relu, exact in the mean,
and E[tanh(sqrt(n_in var(w) q) z)^2] for tanh, z normal, for wide layers (Poole et al. 2016). Then networks of 2 to 64
layers of 64 units with relu are trained for 300 steps of momentum on 1,297 digits, without and with batch norm before the
activation (Ioffe & Szegedy 2015), and judged by their training accuracy, each at the learning rate whose worst seed is best on
validation. The rates begin lower where a small run had its best there. How the gradient grows with depth is measured too: by
sqrt(pi / (pi - 1)) = 1.21 a layer behind batch norm and relu (Yang et al. 2019).

Expected: measured over predicted between 0.98 and 1.04 in every layer. Behind 16 layers of relu 5e-31 (small), 2e11 (large),
1e-5 (xavier), 1 (kaiming). Deepest relu network that trains in every seed: 2 layers (small), 16 (large), 8 (xavier), 16
(kaiming), with batch norm 16 of each. At 64 layers batch norm's gradient grows by 1.22 a layer, from 0.5 at the last to 2e5 at
the first. That alone does not explain why these networks do not train: Adam, which does not feel a gradient's scale, leaves
them at 11 to 13 % too (one seed, rates of 1e-4 to 1e-2). About 13 minutes on one core, --quick under a minute.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, mean_squares, towers
from experiments.findings import Interval, edges, picture, record, stage

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
SMALL, LARGE = 0.01, 0.2
VARIANCES = {  # of the weights, by the number of inputs, which is that of outputs
    "small": lambda n: SMALL**2,
    "large": lambda n: LARGE**2,
    "xavier": lambda n: 1 / n,
    "kaiming": lambda n: 2 / n,
}
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
WIDTH = 64


def rates_for(name: str, depth: int, normed: bool, rates) -> np.ndarray:
    """Thirty times lower where gradients are large: behind batch norm they go as 1 / std of the weights, and without it
    large weights let them grow with depth."""
    lower = (name, normed) == ("small", True) or ((name, normed) == ("large", False) and depth >= 32)
    return np.asarray(rates) / (30 if lower else 1)


def block(std, normed: bool):
    norm = (jnn.batch_norm(),) if normed else ()
    return jnn.serial(jnn.dense(WIDTH, w_init=jnn.initializers.normal(std)), *norm, jax.nn.relu)


def trained(depth: int, normed: bool, data, rates, steps: int, seeds: int, seed: int):
    """Training accuracy in percent at every rate, (initializations, rates, seeds); the rates, (initializations, rates); and
    which of them has the best least accuracy of a seed on validation, of equals the best mean, (initializations,)."""

    def run(hparams, key, data):
        objective = towers.classifier(towers.tower(block(hparams["std"], normed), depth))
        training = jnn.training(objective, jnn.optim.momentum(hparams["rate"]))
        end = jnn.fit(training, data["train"], key=key, steps=steps, batch_size=64).train_state
        return [jnn.evaluate(objective, end.params, end.state, data[part])["accuracy"] for part in ("train", "validation")]

    std = np.sqrt([variance(WIDTH) for variance in VARIANCES.values()])
    grids = np.array([rates_for(name, depth, normed, rates) for name in VARIANCES])
    grid = {"std": np.repeat(std, len(rates)), "rate": grids.ravel()}
    grid = {name: jnp.asarray(values, jnp.float32) for name, values in grid.items()}
    with stage(f"{depth} layers, {'with' if normed else 'without'} batch norm: {len(grid['std'])} trials, {seeds} seeds"):
        scores = jnn.sweep(run, grid, seeds=seeds, seed=seed, data=data)
        accuracy, validation = (100 * np.asarray(a).reshape(len(std), len(rates), seeds) for a in scores)
    best = (validation.min(axis=2) + 1e-3 * validation.mean(axis=2)).argmax(axis=1)
    return accuracy, grids, best


def draw(out, found, depths, by_norm):
    """Above the mean squares, below the accuracies by depth."""
    with jnn.plots.style():
        figure = Figure(figsize=(9, 6.4))
        above, below = figure.subplots(2, 2)
        for axes, (name, by_scheme) in zip(above, found.items(), strict=True):
            for color, (scheme, one) in zip(jnn.plots.COLORS, by_scheme.items(), strict=False):
                layers = np.arange(1, len(one["predicted"]) + 1)
                axes.plot(layers, one["predicted"], color=color, linewidth=1)
                axes.plot(layers, one["measured"], "o", color=color, markersize=4, label=scheme)
            title = f"{name}: points measured, lines predicted"
            axes.set(yscale="log", xlabel="layer", ylabel="mean square of the outputs", title=title)
            axes.legend()
        for axes, (title, accuracy) in zip(below, by_norm.items(), strict=True):
            for color, mark, name, values in zip(
                jnn.plots.COLORS, "o^sD", VARIANCES, np.moveaxis(accuracy, 0, -1), strict=False
            ):
                jnn.plots.band(axes, depths, values, label=name, color=color, marker=mark, markersize=3)
            axes.set(xscale="log", xlabel="hidden layers", title=f"relu, {title} batch norm", ylim=(0, 103))
            axes.set_xticks(depths, depths)
            axes.minorticks_off()
        axes.legend()
        below[0].set_ylabel("training accuracy after the run, %")
        picture(out, "variances", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "initialization", quick="2 and 32 layers, 2 seeds, 100 steps").parse_args(arguments)
    depths, steps, seeds, networks = ((2, 32), 100, 2, 16) if options.quick else ((2, 4, 8, 16, 32, 64), 300, 5, 128)
    rates = RATES[2:4] if options.quick else RATES
    data = towers.digits()
    strips = data["train"][0][:256].reshape(64, 256)
    strips = (strips - strips.mean()) / strips.std()
    found, gains = {}, {name: 256 * variance(256) for name, variance in VARIANCES.items()}
    for name, activation in ACTIVATIONS.items():
        with stage(f"{name}: {networks} networks of each initialization"):
            std = [np.sqrt(gain / 256) for gain in gains.values()]
            squares = mean_squares.measured(activation, std, 16, strips, networks, options.seed)
        found[name] = {
            scheme: {
                "measured": values.mean(axis=0).tolist(),
                "standard_error": (values.std(axis=0, ddof=1) / np.sqrt(networks)).tolist(),
                "predicted": mean_squares.predicted(activation, gain, 16).tolist(),
            }
            for (scheme, gain), values in zip(gains.items(), squares, strict=True)
        }
    by_norm, rates_found, at_all, grown, chosen, grids_of = {}, {}, {}, {}, {}, {}
    which, kaiming = np.arange(len(VARIANCES)), VARIANCES["kaiming"](WIDTH) ** 0.5
    batch = tuple(part[:64] for part in data["train"])
    for title in ("without", "with"):
        normed = title == "with"
        runs = [trained(depth, normed, data, rates, steps, seeds, options.seed) for depth in depths]
        by_norm[title] = np.array([accuracy[which, best] for accuracy, _, best in runs])  # (depths, initializations, seeds)
        rates_found[title] = [grids[which, best].tolist() for _, grids, best in runs]
        at_all[title] = [{"rates": grids.tolist(), "training_accuracy": accuracy.tolist()} for accuracy, grids, _ in runs]
        grown[title] = mean_squares.gradient_growth(block(kaiming, normed), depths[-1], batch, networks // 8, options.seed)
        for depth, (_, grids, best) in zip(depths, runs, strict=True):
            names = [f"{name} {depth} {title}" for name in VARIANCES]
            chosen |= dict(zip(names, grids[which, best], strict=True))
            grids_of |= dict(zip(names, grids, strict=True))

    shares = [np.divide(one["measured"], one["predicted"]) for of in found.values() for one in of.values()]
    deepest = {
        title: ", ".join(
            f"{name} {max((d for d, ok in zip(depths, (values[:, i] > 90).all(axis=1), strict=True) if ok), default='none')}"
            for i, name in enumerate(VARIANCES)
        )
        for title, values in by_norm.items()
    }
    finding = (
        f"Behind 16 layers the mean square of the outputs, for inputs of mean square 1, is with relu {_listed(found['relu'])}, "
        f"with tanh {_listed(found['tanh'])} (means over {networks} networks, ± their standard error). Measured over predicted "
        f"lies between {np.min(shares):.2f} and {np.max(shares):.2f} in all layers. The deepest relu network of "
        f"{', '.join(map(str, depths))} layers that every seed trains to 90 % of the training digits within {steps} steps: "
        f"without batch norm {deepest['without']}; with it {deepest['with']}. With kaiming at {depths[-1]} layers the "
        f"training accuracy is {Interval.of(by_norm['without'][-1, 3]):.1f %} without and "
        f"{Interval.of(by_norm['with'][-1, 3]):.1f %} with batch "
        f"norm; before training the gradient's norm grows there, from a layer to the one before, by a factor of "
        f"{Interval.of(grown['without']):.2f} and {Interval.of(grown['with']):.2f} (theory for batch norm: 1.21)."
        f"{edges(chosen, grids_of)}"
    )
    training, grown = ({title: of.tolist() for title, of in one.items()} for one in (by_norm, grown))
    results = {"variances": found, "depths": depths, "training_accuracy": training, "learning_rate": rates_found}
    recorded = record(options, finding, results | {"at_every_rate": at_all, "growth": grown})
    draw(options.out, found, depths, by_norm)
    return recorded


def _listed(by_scheme) -> str:
    return ", ".join(f"{of['measured'][-1]:.1e} ± {of['standard_error'][-1]:.0e} ({name})" for name, of in by_scheme.items())


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
