"""How many mistakes does the perceptron make, and what must a network have to do what it cannot?

python -m experiments.perceptron [--quick] [--seed 0] [--out runs/perceptron]

Rosenblatt's perceptron (1958), a threshold unit w.x >= 0 that adds or takes away each example that it gets wrong, goes through
separable data until a pass is without mistakes. Novikoff (1962) bounds their number by (R / margin)^2, R the longest example,
margin the largest distance of a plane through zero from all of them (with a constant input of 1, any plane is one). Data:
normal points pushed apart by a gap, all 45 pairs of handwritten digits, and n unit vectors, where the bound is reached.
XOR has no such plane (Minsky & Papert 1969): the perceptron on it, two layers of thresholds set by hand, and two layers trained
by Adam, by width and activation, the learning rate chosen on 100 seeds and the share counted on 100 others.

Expected: no count above its bound, 0.15 of it in the mean (0.149 to 0.156 over 50 seeds); all pairs of digits separable; XOR
never by the perceptron or with one hidden unit, with two in 60 % of the seeds (sigmoid), 56 % (tanh) and 19 % (relu), with 16
in all. About a minute on one core, --quick 20 s.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

import jnn
from experiments import commands
from experiments.findings import Interval, picture, record, stage
from jnn.comparison.statistics import exact_interval

GAPS = (0.03, 0.1, 0.3, 1.0)
DIMENSIONS = (2, 10, 100)
ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
XOR = np.array([[0], [1], [1], [0]], np.float32)


@partial(jax.jit, static_argnames="most")
def perceptron(x, target, most: int = 10_000):
    """x (n, d), target (n,) of 0 and 1 -> weights (d,), mistakes [], passes []: up to the first pass without a mistake, or
    `most` passes. An example of zeros with target 1 is never a mistake, and may fill up a set."""

    def one(carry, example):
        w, mistakes = carry
        x, target = example
        error = target - jnn.activations.heaviside(x @ w)
        return (w + error * x, mistakes + (error != 0).astype(jnp.int32)), None

    def one_pass(carry):
        w, before, _, passes = carry
        (w, mistakes), _ = jax.lax.scan(one, (w, before), (x, target))
        return w, mistakes, mistakes == before, passes + 1

    start = jnp.zeros(x.shape[1]), jnp.int32(0), jnp.bool_(False), jnp.int32(0)
    w, mistakes, _, passes = jax.lax.while_loop(lambda carry: ~carry[2] & (carry[3] < most), one_pass, start)
    return w, mistakes, passes


def with_constant(x):
    """(n, d) -> (n, d + 1):  a last column of ones, whose weight is the threshold."""
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)


def bound(x, target) -> float:
    """(R / margin)^2, infinite where no plane separates. The margin is the length of the shortest vector in the convex hull of
    the signed examples z, which is a / sum(a) for the a >= 0 of least |Z'a|^2 + (1'a - 1)^2 (Lawson & Hanson 1974, 23.4)."""
    z = np.asarray(x, float) * np.where(np.asarray(target) > 0.5, 1, -1)[:, None]
    z = z / np.linalg.norm(z, axis=1).max()
    share, _ = optimize.nnls(np.vstack([z.T, np.ones(len(z))]), np.eye(z.shape[1] + 1)[-1])
    shortest = z.T @ share / share.sum()
    margin = np.min(z @ shortest) / max(np.linalg.norm(shortest), 1e-9)
    return float(1 / margin**2) if margin > 1e-6 else np.inf


def separable(gap, key, count: int, dimension: int):
    """x (count, dimension + 1), target (count,): normal points, pushed away from a random plane by `gap`."""
    plane_key, point_key = jax.random.split(key)
    normal = jax.random.normal(plane_key, (dimension,))
    normal = normal / jnp.linalg.norm(normal)
    x = jax.random.normal(point_key, (count, dimension))
    target = jnn.activations.heaviside(x @ normal)
    return with_constant(x + jnp.outer((2 * target - 1) * gap, normal)), target


def random_sets(dimension: int, count: int, seeds: int, seed: int):
    """-> bounds and mistakes, (gaps, seeds) each."""

    def run(gap, key):
        x, target = separable(gap, key, count, dimension)
        return x, target, perceptron(x, target)[1]

    x, target, mistakes = map(np.asarray, jnn.sweep(run, jnp.array(GAPS), seeds=seeds, seed=seed))
    return np.array([[bound(x[i, j], target[i, j]) for j in range(seeds)] for i in range(len(GAPS))]), mistakes


def digit_pairs():
    """-> bounds and mistakes (45,), of each pair of digits."""
    images, labels = jnn.data.digits()
    pixels = np.asarray(with_constant(images.reshape(len(images), -1)))
    either = [((labels == a) | (labels == b), a) for a in range(10) for b in range(a)]
    sets = [(pixels[which], (labels[which] == a).astype(np.float32)) for which, a in either]
    most = max(len(target) for _, target in sets)
    x = np.stack([np.pad(x, ((0, most - len(x)), (0, 0))) for x, _ in sets])
    target = np.stack([np.pad(target, (0, most - len(target)), constant_values=1) for _, target in sets])
    return np.array([bound(*one) for one in sets]), np.asarray(jax.vmap(perceptron)(x, target)[1])


def solved(width: int, activation, steps: int, seeds: int, seed: int) -> tuple[int, float]:
    """How many of `seeds` networks have all of XOR right after training, at the rate that was best on as many others."""
    right = lambda z, target: (jnn.activations.heaviside(z) == target)[..., 0]
    model = jnn.serial(jnn.dense(width), activation, jnn.dense(1))
    objective = jnn.supervised(model, jnn.losses.sigmoid_cross_entropy, metrics={"right": right})

    def run(rate, key):
        fitted = jnn.fit(jnn.training(objective, jnn.optim.adam(rate)), (CORNERS, XOR), key=key, steps=steps)
        return jnn.evaluate(objective, fitted.train_state.params, {}, (CORNERS, XOR))["right"] == 1

    all_right = np.asarray(jnn.sweep(run, jnp.array(RATES), seeds=2 * seeds, seed=seed))
    best = int(all_right[:, :seeds].sum(axis=1).argmax())
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


def draw(out, sets, shares, seeds: int):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2)
        for (name, (bounds, mistakes)), marker, color in zip(sets.items(), "o^sD*", jnn.plots.COLORS, strict=False):
            left.plot(
                np.ravel(bounds),
                np.ravel(mistakes),
                marker,
                ms=8 if marker == "*" else 4,
                alpha=0.7,
                mew=0,
                color=color,
                label=name,
            )
        left.axline((1, 1), (10, 10), color="black", linewidth=1, label="the bound")
        left.set(xscale="log", yscale="log", xlabel="bound, (R / margin)²", ylabel="mistakes until none is left")
        left.set_title("The perceptron, one mark a data set")
        left.legend()
        for (name, by_width), marker, color in zip(shares.items(), "o^s", jnn.plots.COLORS, strict=False):
            share = np.array(list(by_width.values())) / seeds
            error = np.abs(np.array([exact_interval(count, seeds) for count in by_width.values()]).T - share)
            right.errorbar(
                list(map(str, by_width)), 100 * share, 100 * error, marker=marker, capsize=2, color=color, label=name
            )
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
            sets[f"{dimension} dimensions"] = random_sets(dimension, 100, count, options.seed)
    with stage("45 pairs of digits"):
        sets["pairs of digits"] = digit_pairs()
    units = [(np.eye(n, dtype=np.float32), np.zeros(n, np.float32)) for n in (4, 16, 64, 256)]
    sets["unit vectors"] = np.array([[bound(*one), perceptron(*one)[1]] for one in units]).T
    _, mistakes, passes = perceptron(with_constant(CORNERS), XOR[:, 0])
    outputs, slope = by_hand()
    shares, rates = {}, {}
    for name in names:
        with stage(f"XOR by {name}: widths {widths}, {len(RATES)} learning rates, {2 * seeds} seeds"):
            found = {width: solved(width, ACTIVATIONS[name], steps, seeds, options.seed) for width in widths}
        shares[name], rates[name] = ({width: one[i] for width, one in found.items()} for i in (0, 1))
    draw(options.out, sets, shares, seeds)

    ratios = {name: mistakes / bounds for name, (bounds, mistakes) in sets.items()}
    *most, exact = (r.max() for r in ratios.values())
    usual = Interval.of(np.mean([ratios[f"{dimension} dimensions"] for dimension in DIMENSIONS], axis=(0, 1)))
    pairs = int(np.isfinite(sets["pairs of digits"][0]).sum())

    def said(width):
        ends = ((name, shares[name][width] / seeds, *exact_interval(shares[name][width], seeds)) for name in names)
        return f"{width} hidden " + ", ".join(
            f"{name} {share:.0%} ({low:.0%} to {high:.0%})" for name, share, low, high in ends
        )

    finding = (
        f"The perceptron made {usual:.3f} of the mistakes that Novikoff's bound allows (random data, mean and 95 % interval "
        f"over {count} seeds), at most {max(most):.2f} of them, digits included, {pairs} of whose 45 pairs are separable; on "
        f"unit vectors {exact:.3f}. On XOR it made {int(mistakes)} mistakes in {int(passes)} passes, when it was stopped. "
        f"Thresholds in two layers compute it, but the gradient of their weights is {slope:.0f}. Of networks trained by "
        f"Adam, with other units, so many get XOR right: "
        f"{'; '.join(said(width) for width in widths if width in (1, 2, 16))} ({seeds} "
        "seeds, exact 95 % intervals)."
    )
    results = {
        "ratios": {name: r.tolist() for name, r in ratios.items()},
        "separable_pairs": pairs,
        "xor": {"mistakes": int(mistakes), "passes": int(passes), "by_hand": outputs[:, 0].tolist(), "slope": slope},
        "solved": {name: list(of.values()) for name, of in shares.items()},
        "learning_rates": {name: list(of.values()) for name, of in rates.items()},
        "widths": list(widths),
        "networks": seeds,
    }
    return record(options, finding, results)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
