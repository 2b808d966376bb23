"""How many mistakes does the perceptron make, and what must a network have to do what it cannot?

python -m experiments.perceptron [--quick] [--seed 0] [--out runs/perceptron]

Rosenblatt's perceptron (1958), a threshold unit w.x >= 0 that adds or takes away each example that it gets wrong, goes through
separable data until a pass is without mistakes. Novikoff (1962) bounds their number by (R / margin)^2, R the longest example,
margin the largest distance of a plane through zero from all of them (with a constant input of 1, any plane is one). Data:
normal points pushed apart by a gap, all 45 pairs of handwritten digits, and n unit vectors, where the bound is reached.
XOR has no such plane (Minsky & Papert 1969): the perceptron on it, two layers of thresholds set by hand, and two layers trained
by Adam, by width and activation, the learning rate chosen on 100 seeds (of equals the middle one) and the share counted on 100
others.

Expected: no count above its bound, 0.04 of it in 2 dimensions, 0.10 in 10 and 0.32 in 100; all pairs of digits separable; XOR
never by the perceptron or with one hidden unit, with two in about 60 % of the seeds (sigmoid and tanh) and 20 % (relu), with
16 in all. About two minutes on one core (70 s with 5 of the 8 learning rates), --quick 20 s.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, edges, picture, record, stage
from experiments.separation import bound, digit_pairs, perceptron, random_sets, with_constant

GAPS = (0.03, 0.1, 0.3, 1.0)
DIMENSIONS = (2, 10, 100)
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}
RATES = (3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
XOR = np.array([[0], [1], [1], [0]], np.float32)


def solved(width: int, activation, steps: int, seeds: int, seed: int) -> tuple[int, float]:
    """How many of `seeds` networks have all of XOR right after training, at the rate that was best on as many others."""
    right = lambda z, target: (jnn.activations.heaviside(z) == target)[..., 0]
    model = jnn.serial(jnn.dense(width), activation, jnn.dense(1))
    objective = jnn.supervised(model, jnn.losses.sigmoid_cross_entropy, metrics={"right": right})

    def run(rate, key):
        fitted = jnn.fit(jnn.training(objective, jnn.optim.adam(rate)), (CORNERS, XOR), key=key, steps=steps)
        return jnn.evaluate(objective, fitted.train_state.params, {}, (CORNERS, XOR))["right"] == 1

    all_right = np.asarray(jnn.sweep(run, jnp.array(RATES), seeds=2 * seeds, seed=seed))
    found = all_right[:, :seeds].sum(axis=1)
    best = int(np.median(np.flatnonzero(found == found.max())))
    return int(all_right[best, seeds:].sum()), RATES[best]


def by_hand():
    """Two layers of thresholds, "or" and not "and": the outputs at the corners, and the largest gradient of any weight."""
    threshold = jnn.activations.heaviside
    layer = jnn.serial(jnn.dense(2), threshold, jnn.dense(1), threshold)
    params = {
        "dense_0": {"w": jnp.ones((2, 2)), "b": jnp.array([-0.5, -1.5])},
        "dense_2": {"w": jnp.array([[1.0], [-1.0]]), "b": jnp.array([-0.5])},
    }
    slope = jax.grad(lambda p: jnp.sum(layer.apply(p, {}, CORNERS)[0] * CORNERS[:, :1]))(params)
    return np.asarray(layer.apply(params, {}, CORNERS)[0]), max(float(jnp.abs(g).max()) for g in jax.tree.leaves(slope))


def draw(out, sets, shares):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2)
        for (name, (bounds, mistakes)), mark, color in zip(sets.items(), "o^sD*", jnn.plots.COLORS, strict=False):
            look = {"ms": 8 if mark == "*" else 4, "alpha": 0.7, "mew": 0, "color": color}
            left.plot(np.ravel(bounds), np.ravel(mistakes), mark, label=name, **look)
        left.axline((1, 1), (10, 10), color="black", linewidth=1, label="the bound")
        left.set(xscale="log", yscale="log", xlabel="bound, (R / margin)²", ylabel="mistakes until none is left")
        left.set_title("The perceptron; each mark is a data set")
        left.legend()
        for (name, by_width), mark, color in zip(shares.items(), "o^s", jnn.plots.COLORS, strict=False):
            share, low, high = 100 * np.array(list(by_width.values())).T
            error = [share - low, high - share]
            right.errorbar(list(map(str, by_width)), share, error, marker=mark, capsize=2, color=color, label=name)
        right.set(xlabel="hidden units", ylabel="% of seeds", ylim=(-3, 103), title="Trained networks that solve XOR")
        right.legend()
        picture(out, "perceptron", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "perceptron", quick="5 data sets each, 3 widths, 20 seeds").parse_args(arguments)
    count, seeds, steps = (5, 20, 500) if options.quick else (50, 100, 3000)
    widths, names = ((1, 2, 16), ["tanh"]) if options.quick else ((1, 2, 3, 4, 8, 16), list(ACTIVATIONS))
    sets = {}
    for dimension in DIMENSIONS:
        with stage(f"{dimension} dimensions: {len(GAPS)} gaps, {count} data sets each"):
            sets[f"{dimension} dimensions"] = random_sets(GAPS, dimension, 100, count, options.seed)
    with stage("45 pairs of digits"):
        sets["pairs of digits"] = digit_pairs()
    units = [(np.eye(n, dtype=np.float32), np.zeros(n, np.float32)) for n in (4, 16, 64, 256)]
    sets["unit vectors"] = np.array([[bound(*one), perceptron(*one)[1]] for one in units]).T
    _, mistakes, passes = perceptron(with_constant(CORNERS), XOR[:, 0])
    outputs, slope = by_hand()
    counts, rates = {}, {}
    for name in names:
        with stage(f"XOR by {name}: widths {widths}, {len(RATES)} learning rates, {2 * seeds} seeds"):
            found = [solved(width, ACTIVATIONS[name], steps, seeds, options.seed) for width in widths]
        counts[name], rates[name] = map(list, zip(*found, strict=True))
    shares = {name: {w: Interval.of_share(n, seeds) for w, n in zip(widths, of, strict=True)} for name, of in counts.items()}

    ratios = {name: mistakes / bounds for name, (bounds, mistakes) in sets.items()}
    *most, exact = (r.max() for r in ratios.values())
    usual = ", ".join(f"{Interval.of(ratios[f'{d} dimensions'].mean(axis=0)):.3f} in {d}" for d in DIMENSIONS)
    pairs = int(np.isfinite(sets["pairs of digits"][0]).sum())
    solvers = (
        f"{width} hidden " + ", ".join(f"{name} {Interval(100 * s for s in of[width]):.0f %}" for name, of in shares.items())
        for width in (1, 2, 16)
    )
    chosen = {f"{name} {w}": rate for name, of in rates.items() for w, rate in zip(widths, of, strict=True)}
    finding = (
        f"Of the mistakes that Novikoff's bound allows, the perceptron made {usual} dimensions (random data, mean over gaps of "
        f"{GAPS[0]:g} to {GAPS[-1]:g} and 95 % interval over {count} seeds), at most {max(most):.2f}, digits included, {pairs} "
        f"of whose 45 pairs are separable; on unit vectors {exact:.3f}. On XOR it made {int(mistakes)} mistakes in "
        f"{int(passes)} passes, when it was stopped. Thresholds in two layers compute it, but the gradient of their weights "
        f"is {slope:.0f}. The share of networks trained by Adam that solve XOR is, with {'; '.join(solvers)} ({seeds} seeds, "
        f"exact 95 % intervals).{edges(chosen, RATES)}"
    )
    results = {
        "bounds": {name: np.asarray(bounds).tolist() for name, (bounds, _) in sets.items()},
        "mistakes": {name: np.asarray(mistakes).tolist() for name, (_, mistakes) in sets.items()},
        "ratios": {name: r.tolist() for name, r in ratios.items()},
        "separable_pairs": pairs,
        "xor": {"mistakes": int(mistakes), "passes": int(passes), "by_hand": outputs[:, 0].tolist(), "slope": slope},
        "solved": counts,
        "learning_rates": rates,
        "widths": list(widths),
        "networks": seeds,
    }
    recorded = record(options, finding, results)
    draw(options.out, sets, shares)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
