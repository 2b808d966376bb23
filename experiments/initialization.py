"""Does the variance of activations go through a deep network as predicted, and how deep can it then be?

python -m experiments.initialization [--quick] [--seed 0] [--out runs/initialization]

Strips of four digits (256 pixels, mean 0, variance 1) go through 16 layers of 256 units, weights drawn as small (normal,
deviation 0.01), large (0.2), xavier (Glorot & Bengio 2010) and kaiming (He et al. 2015), with tanh and with relu. The mean
square of a layer's outputs is measured over random networks and predicted: q' = n_in var(w) q / 2 for relu, exact in the mean,
and E[tanh(sqrt(n_in var(w) q) z)^2] for tanh, z normal, for wide layers (Poole et al. 2016). Then networks of 2 to 64
layers of 64 units with relu are trained for 300 steps of momentum on 1,297 digits, without and with batch norm before the
activation (Ioffe & Szegedy 2015), and judged by their training accuracy, each at the learning rate that is best on validation.

Expected: measured over predicted between 0.9 and 1.1 in every layer. Behind 16 layers of relu 5e-31 (small), 2e11 (large),
1e-5 (xavier), 1 (kaiming). Deepest relu network that trains in every seed: 2 layers (small), 16 (large), 8 (xavier), 16
(kaiming), with batch norm 16 of each. About 12 minutes on one core, --quick under a minute.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, towers
from experiments.findings import Interval, picture, record, stage

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
SMALL, LARGE = 0.01, 0.2
VARIANCES = {  # of the weights, by the number of inputs, which is that of outputs
    "small": lambda n: SMALL**2,
    "large": lambda n: LARGE**2,
    "xavier": lambda n: 1 / n,
    "kaiming": lambda n: 2 / n,
}
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WIDTH = 64


def mean_square(activation, variance: float) -> float:
    """E[activation(z)^2], z normal with mean 0: by the trapezoid rule, which is spectrally exact for such integrands."""
    z = np.linspace(-12, 12, 4001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    outputs = np.asarray(activation(jnp.asarray(np.sqrt(variance) * z, jnp.float32)), float)
    return float(np.trapezoid(density * outputs**2, z))


def predicted(activation, gain: float, depth: int, q: float = 1.0) -> np.ndarray:
    """(depth,): the mean square of each layer's outputs. gain: n_in var(w). q: mean square of the inputs."""
    layers = []
    for _ in range(depth):
        q = gain * q / 2 if activation is jax.nn.relu else mean_square(activation, gain * q)
        layers.append(q)
    return np.array(layers)


def measured(activation, std, depth: int, x, networks: int, seed: int) -> np.ndarray:
    """(std, networks, depth): the mean square of each layer's outputs in random networks. std: (n,) of the weights."""

    def run(std, key, x):
        block = jnn.serial(jnn.dense(x.shape[-1], w_init=jnn.initializers.normal(std)), activation)
        params, _ = towers.tower(block, depth).init(key, x)
        return jnp.mean(jnp.square(towers.layer_outputs(block, params, x)), axis=(1, 2))

    return np.asarray(jnn.sweep(run, jnp.asarray(std, jnp.float32), seeds=networks, seed=seed, data=x))


def trained(depth: int, normed: bool, data, rates, steps: int, seeds: int, seed: int):
    """Training accuracy in percent (initializations, seeds) at the learning rates of the best mean accuracy on validation, and
    these rates (initializations,)."""

    def run(hparams, key, data):
        norm = (jnn.batch_norm(),) if normed else ()
        block = jnn.serial(jnn.dense(WIDTH, w_init=jnn.initializers.normal(hparams["std"])), *norm, jax.nn.relu)
        objective = towers.classifier(towers.tower(block, depth))
        training = jnn.training(objective, jnn.optim.momentum(hparams["rate"]))
        end = jnn.fit(training, data["train"], key=key, steps=steps, batch_size=64).train_state
        return [jnn.evaluate(objective, end.params, end.state, data[part])["accuracy"] for part in ("train", "validation")]

    std = np.sqrt([variance(WIDTH) for variance in VARIANCES.values()])
    grid = {"std": np.repeat(std, len(rates)), "rate": np.tile(rates, len(std))}
    grid = {name: jnp.asarray(values, jnp.float32) for name, values in grid.items()}
    with stage(f"{depth} layers, {'with' if normed else 'without'} batch norm: {len(grid['std'])} trials, {seeds} seeds"):
        scores = jnn.sweep(run, grid, seeds=seeds, seed=seed, data=data)
        accuracy, validation = (100 * np.asarray(a).reshape(len(std), len(rates), seeds) for a in scores)
    best = validation.mean(axis=2).argmax(axis=1)
    return accuracy[np.arange(len(std)), best], np.asarray(rates)[best]


def variances(out, found):
    with jnn.plots.style():
        figure = Figure(figsize=(9, 3.6))
        for axes, (name, by_scheme) in zip(figure.subplots(1, 2), found.items(), strict=True):
            for color, (scheme, one) in zip(jnn.plots.COLORS, by_scheme.items(), strict=False):
                layers = np.arange(1, len(one["predicted"]) + 1)
                axes.plot(layers, one["predicted"], color=color, linewidth=1)
                axes.plot(layers, one["measured"], "o", color=color, markersize=4, label=scheme)
            title = f"{name}: points measured, lines predicted"
            axes.set(yscale="log", xlabel="layer", ylabel="mean square of the outputs", title=title)
        figure.axes[0].legend()
        picture(out, "variances", figure)


def depths_picture(out, depths, found):
    with jnn.plots.style():
        figure = Figure(figsize=(9, 3.2))
        for axes, (title, accuracy) in zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True):
            for color, name, values in zip(jnn.plots.COLORS, VARIANCES, np.moveaxis(accuracy, 0, -1), strict=False):
                jnn.plots.band(axes, depths, values, label=name, color=color, marker="o", markersize=3)
            axes.set(xscale="log", xlabel="hidden layers", title=f"relu, {title} batch norm", ylim=(0, 103))
            axes.set_xticks(depths, depths)
            axes.minorticks_off()
        figure.axes[0].set_ylabel("training accuracy after the run, %")
        figure.axes[0].legend()
        picture(out, "depths", figure)


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
            squares = measured(activation, std, 16, strips, networks, options.seed)
        found[name] = {
            scheme: {"measured": values.mean(axis=0).tolist(), "predicted": predicted(activation, gain, 16).tolist()}
            for (scheme, gain), values in zip(gains.items(), squares, strict=True)
        }
    by_norm, rates_found = {}, {}
    for title in ("without", "with"):
        runs = [trained(depth, title == "with", data, rates, steps, seeds, options.seed) for depth in depths]
        by_norm[title] = np.array([accuracy for accuracy, _ in runs])  # (depths, initializations, seeds)
        rates_found[title] = [best.tolist() for _, best in runs]
    variances(options.out, found)
    depths_picture(options.out, depths, by_norm)

    shares = [np.divide(one["measured"], one["predicted"]) for of in found.values() for one in of.values()]
    last = {name: {scheme: one["measured"][-1] for scheme, one in of.items()} for name, of in found.items()}
    deepest = {
        title: ", ".join(
            f"{name} {max((d for d, ok in zip(depths, (values[:, i] > 90).all(axis=1), strict=True) if ok), default='none')}"
            for i, name in enumerate(VARIANCES)
        )
        for title, values in by_norm.items()
    }
    finding = (
        f"Behind 16 layers the mean square of the outputs, of inputs with 1, is with relu {_listed(last['relu'])}, with tanh "
        f"{_listed(last['tanh'])}. Measured over predicted lies between {np.min(shares):.2f} and {np.max(shares):.2f} in all "
        f"layers (means over {networks} networks). The deepest relu network of {', '.join(map(str, depths))} layers that "
        f"every seed trains to 90 % of the training digits within {steps} steps: without batch norm {deepest['without']}; "
        f"with it {deepest['with']}. With kaiming at {depths[-1]} layers the training accuracy is "
        f"{Interval.of(by_norm['without'][-1, 3]):.1f %} without and {Interval.of(by_norm['with'][-1, 3]):.1f %} with batch "
        "norm."
    )
    training = {title: values.tolist() for title, values in by_norm.items()}
    results = {"variances": found, "depths": depths, "training_accuracy": training, "learning_rate": rates_found}
    return record(options, finding, results)


def _listed(numbers) -> str:
    return ", ".join(f"{value:.1e} ({name})" for name, value in numbers.items())


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
