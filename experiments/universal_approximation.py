"""How well can one hidden layer follow a function, and how much of that does training find?

python -m experiments.universal_approximation [--quick] [--seed 0] [--out runs/universal_approximation]

One hidden layer comes arbitrarily close to any continuous function on an interval as its width n grows (Cybenko 1989; Hornik,
Stinchcombe & White 1989; for relu Leshno et al. 1993). Three functions on [-1, 1], and three ways to the weights of n relu
units. Built: the best piecewise linear function with n equal pieces, whose error for smooth f is (2 / n)^2 |f''| / sqrt(720)
in root mean squares (de Boor 2001); for the step a ramp of two units, as steep as it pleases, here 0.001 wide. Random: units as
at initialisation, with the best output layer (Rahimi & Recht 2008). Trained: full batch by Adam, its learning rate chosen on
validation points. What is built is there to be found; where the trained error lies above it, it is the training that fails.

Expected: built, errors fall as predicted, with width^-2; trained, they come to lie far above that, with 512 units by a
factor of 40 for the smooth function and 330 for the oscillation, as low frequencies are learned first (Rahaman et al. 2019).
About twenty minutes on one core, --quick 20 s.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, picture, record, stage

FUNCTIONS = {
    "smooth": lambda x: np.sin(np.pi * x),
    "step": lambda x: np.where(x >= 0.1, 1.0, -1.0),
    "oscillating": lambda x: np.sin(8 * np.pi * x),
}
CURVATURES = {"smooth": np.pi**2 / np.sqrt(2), "oscillating": (8 * np.pi) ** 2 / np.sqrt(2)}  # root mean square f''
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
RAMP = 1e-3  # width of the step that is built


def points(count: int, offset: float) -> np.ndarray:
    """(count, 1):  equally spaced in [-1, 1]; each offset in (0, 1) gives others."""
    return (2 * (np.arange(count) + offset) / count - 1)[:, None]


TRAIN, VALIDATION, TEST = points(256, 0.5), points(256, 0.25), points(4001, 0.5)


def error(prediction, y) -> np.ndarray:
    """The root mean square over points, (...)."""
    return np.sqrt(np.mean((np.asarray(prediction, float) - y) ** 2, axis=(-2, -1)))


def model(width: int) -> jnn.Layer:
    """A Layer: (..., 1) -> (..., 1), one hidden layer of relu units."""
    return jnn.serial(jnn.dense(width, b_init=jnn.initializers.uniform(-1.0, 1.0)), jax.nn.relu, jnn.dense(1))


def with_best_output(w, b, f) -> np.ndarray:
    """Relu units of weights w and b (width,) with the output layer of least squares for f on a fine grid: values at TEST."""
    fine = points(8192, 0.5)
    units = lambda x: np.hstack([np.maximum(x * w + b, 0), np.ones_like(x)])
    output, *_ = np.linalg.lstsq(units(fine), f(fine), rcond=1e-12)
    return units(TEST) @ output


def built(name: str, width: int) -> np.ndarray:
    """Values at TEST of the network that is built by hand."""
    kinks = np.array([0.1 - RAMP / 2, 0.1 + RAMP / 2]) if name == "step" else np.linspace(-1, 1, width + 1)[:-1]
    return with_best_output(np.ones_like(kinks), -kinks, FUNCTIONS[name])


def random_units(name: str, width: int, seeds: int, seed: int) -> np.ndarray:
    """Errors (seeds,) of units as at initialisation, with the best output layer."""
    rng = np.random.default_rng(seed)
    drawn = [(rng.normal(size=width), rng.uniform(-1, 1, width)) for _ in range(seeds)]
    return np.array([error(with_best_output(w, b, FUNCTIONS[name]), FUNCTIONS[name](TEST)) for w, b in drawn])


def trained(width: int, rates, steps: int, seeds: int, seed: int):
    """name -> values at TEST (seeds, points, 1) at the best learning rate, and that rate."""
    objective = jnn.supervised(model(width), jnn.losses.squared_error)

    def run(hparams, key, data):
        schedule = jnn.schedules.cosine(hparams["rate"], steps)
        y = data["targets"][hparams["function"]]
        fitted = jnn.fit(jnn.training(objective, jnn.optim.adam(schedule)), (data["train"], y), key=key, steps=steps)
        apply = lambda x: model(width).apply(fitted.train_state.params, {}, x)[0]
        return apply(data["validation"]), apply(data["test"])

    grid = np.array([(i, rate) for i in range(len(FUNCTIONS)) for rate in rates])
    hparams = {"function": grid[:, 0].astype(np.int32), "rate": grid[:, 1].astype(np.float32)}
    data = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "targets": np.stack([f(TRAIN) for f in FUNCTIONS.values()])}
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), data)
    validated, values = map(np.asarray, jnn.sweep(run, hparams, seeds=seeds, seed=seed, data=data))
    found = {}
    for i, (name, f) in enumerate(FUNCTIONS.items()):
        rows = slice(i * len(rates), (i + 1) * len(rates))
        best = int(np.argmin(error(validated[rows], f(VALIDATION)).mean(axis=1)))
        found[name] = values[rows][best], rates[best]
    return found


def exponent(widths, errors) -> float:
    """Of the power of the width by which errors go."""
    return float(np.polyfit(np.log(widths), np.log(errors), 1)[0])


def typical(errors) -> Interval:
    """The geometric mean with its interval, as errors of several sizes are spread."""
    return Interval(None if value is None else 10**value for value in Interval.of(np.log10(errors)))


def draw(out, widths, errors, fits, shown: int):
    ways = [("built", "black", "s"), ("random", jnn.plots.COLORS[1], "o"), ("trained", jnn.plots.COLORS[0], "^")]
    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 5.2))
        upper, lower = figure.subplots(2, len(FUNCTIONS))
        for axes, (name, of) in zip(upper, errors.items(), strict=True):
            for way, color, mark in ways:
                jnn.plots.band(axes, widths, np.log10(of[way]).T, label=way, color=color, marker=mark, ms=4)
            if name in CURVATURES:
                predicted = (2 / np.array(widths)) ** 2 * CURVATURES[name] / np.sqrt(720)
                axes.plot(widths, np.minimum(np.log10(predicted), 0), ":", color="black", linewidth=1, label="predicted")
            axes.set(xscale="log", title=name, xlabel="hidden units", ylim=(-6, 0.5))
        for axes, (name, f) in zip(lower, FUNCTIONS.items(), strict=True):
            axes.plot(TEST, f(TEST), color="0.75", linewidth=3, label="function")
            axes.plot(TEST, fits[name][0], color=jnn.plots.COLORS[0], linewidth=1, label=f"trained, {shown} units")
            axes.set(xlabel="x", ylim=(-1.6, 1.9))
        upper[0].set_ylabel("log10 of the r.m.s. error")
        lower[0].set_ylabel("f(x)")
        upper[0].legend()
        lower[0].legend(loc="upper left")
        picture(out, "approximation", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "universal_approximation", quick="3 widths, 3 seeds, 500 steps").parse_args(arguments)
    widths = (8, 32, 128) if options.quick else (2, 4, 8, 16, 32, 64, 128, 256, 512)
    seeds, steps, shown = (3, 500, 32) if options.quick else (10, 10_000, 64)
    rates = RATES[2:] if options.quick else RATES
    errors = {name: {"built": [], "random": [], "trained": []} for name in FUNCTIONS}
    chosen, fits = {}, {}
    for width in widths:
        with stage(f"{width} units: {len(FUNCTIONS)} functions, {len(rates)} learning rates, {seeds} seeds, {steps} steps"):
            found = trained(width, rates, steps, seeds, options.seed)
        for name, (values, rate) in found.items():
            y = FUNCTIONS[name](TEST)
            errors[name]["trained"].append(error(values, y).tolist())
            errors[name]["random"].append(random_units(name, width, seeds, options.seed).tolist())
            errors[name]["built"].append([float(error(built(name, width), y))])
            chosen.setdefault(name, []).append(rate)
            if width == shown:
                fits[name] = values
    draw(options.out, widths, errors, fits, shown)

    said = []
    for name, of in errors.items():
        last = [typical(of[way][-1]) for way in ("built", "random", "trained")]
        said.append(f"{name}: built {last[0]:.1e}, random {last[1]:.1e}, trained {last[2]:.1e}")
    wide = [i for i, width in enumerate(widths) if width >= 8]
    power = lambda way: exponent(np.array(widths)[wide], np.mean([errors["smooth"][way][i] for i in wide], axis=1))
    finding = (
        f"Root mean square errors with {widths[-1]} relu units (geometric mean and 95 % interval over {seeds} seeds): "
        f"{'; '.join(said)}. From 8 units on the smooth function's error goes as the width to the power of "
        f"{power('built'):.2f} when built (predicted -2), and {power('trained'):.2f} when trained by {steps} steps of Adam. "
        "What is built is in reach of the network, so the rest is what training did not find; this shows nothing of other "
        "optimizers or longer training."
    )
    results = {"widths": list(widths), "errors": errors, "learning_rates": chosen}
    results["powers"] = {way: power(way) for way in ("built", "random", "trained")}
    return record(options, finding, results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
