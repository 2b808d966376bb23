"""Is backpropagation right, and how well can a difference tell?

python -m experiments.gradient_check [--quick] [--seed 0] [--out runs/gradient_check]

One network with every layer and combinator of jnn, in float64: the gradient of each parameter array along a random
direction against the centred difference; then again with one function in its midst whose derivative is one percent off.
The error of forward and centred differences against the step h, of the loss of a tanh network on digits along a random
direction, in float32 and float64. Truncation, h |f''| / 2 and h^2 |f'''| / 6, from derivatives, meets rounding, eps |f| / h and
eps |f| / (2 h), at the step where the sum is least (Press et al. 2007, section 5.7). Last, examples that are worked by hand in
courses (the first three in Li, Karpathy & Johnson's CS231n, 2016, lecture 4), by `jnn.check_gradients` and against their closed
forms.

Expected: every array within 1e-7; slopes of 1, 2 and -1 to 0.04; centred differences are best near a step of 2e-6 in float64
and 1e-3 in float32. Two and a half minutes on one core, --quick 20 s.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, differences, every_layer
from experiments.findings import Interval, picture, record, stage


def worked():
    """name -> (function, arguments, its gradients by hand)"""
    w, x2 = np.array([2.0, -3, -3]), np.array([-1.0, -2])
    neuron = lambda w, x: jax.nn.sigmoid(w[0] * x[0] + w[1] * x[1] + w[2])
    s = 1 / (1 + np.exp(-(w[0] * x2[0] + w[1] * x2[1] + w[2])))
    W, x = np.array([[0.1, 0.5], [-0.3, 0.8]]), np.array([0.2, 0.4])
    V, t = np.array([[0.7, -0.2]]), np.array([0.5])
    a = np.tanh(W @ x)
    y = np.tanh(V @ a)
    back = (y - t) * (1 - y**2)
    deep = (V.T @ back) * (1 - a**2)
    return {
        "(x + y) z": (lambda x, y, z: (x + y) * z, (-2.0, 5.0, -4.0), (-4, -4, 3)),
        "sigmoid neuron": (neuron, (w, x2), (s * (1 - s) * np.array([*x2, 1]), s * (1 - s) * w[:2])),
        "|W x|²": (lambda W, x: jnp.sum((W @ x) ** 2), (W, x), (2 * np.outer(W @ x, x), 2 * W.T @ W @ x)),
        "two tanh layers": (
            lambda W, V, x: jnp.sum((jnp.tanh(V @ jnp.tanh(W @ x)) - t) ** 2) / 2,
            (W, V, x),
            (np.outer(deep, x), np.outer(back, a), W.T @ deep),
        ),
    }


def check_worked() -> dict[str, dict[str, float]]:
    """name -> the largest distance of `jax.grad` from the closed form, and the worst entry of `check_gradients`."""
    found = {}
    for name, (function, arguments, by_hand) in worked().items():
        worst = jnn.check_gradients(function, arguments).error
        with jax.enable_x64(True):
            grads = jax.grad(function, tuple(range(len(arguments))))(*map(jnp.asarray, arguments))
        gap = max(float(np.max(np.abs(np.asarray(g) - np.asarray(e)))) for g, e in zip(grads, by_hand, strict=True))
        found[name] = {"closed_form": gap, "check_gradients": worst}
    return found


def draw_steps(out, errors, exact):
    """Measured and predicted errors of differences against the step."""
    with jnn.plots.style():
        figure = Figure(figsize=(8, 4.2))
        for axes, (dtype, by_kind) in zip(figure.subplots(1, 2, sharey=True), errors.items(), strict=True):
            for (name, order), color in zip(differences.ORDERS.items(), jnn.plots.COLORS, strict=False):
                label = f"{name}, mean and 95 % interval over seeds"
                jnn.plots.band(axes, differences.STEPS, differences.log10(by_kind[name]).T, label=label, color=color)
                model = np.mean(np.log10(differences.predicted(exact, dtype, order)[0]), axis=1)
                axes.plot(differences.STEPS, model, "--", color=color, linewidth=1, label=f"{name}, predicted")
            axes.axhline(0, color="black", linestyle=":", linewidth=1, label="difference of 0: the step is lost in rounding")
            axes.set(xscale="log", xlabel="step h", ylim=(-12, 3), title=f"Error of a difference in {dtype}")
        figure.axes[0].set_ylabel("log10 of the relative error")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        picture(out, "steps", figure)


def draw_layers(out, right, wrong):
    """The largest error of each layer, as it is and with one derivative off."""
    with jnn.plots.style():
        figure = Figure(figsize=(8, 5.5))
        axes = figure.subplots()
        for errors, mark, color, label in ((wrong, "x", 1, "one derivative 1 % off"), (right, "o", 0, "as it is")):
            axes.plot(list(errors.values()), list(errors), mark, color=jnn.plots.COLORS[color], label=label)
        axes.axvline(1e-6, color="black", linewidth=1, linestyle=":")
        axes.set(xscale="log", xlabel="relative error of the worst array")
        axes.set_title("Analytic against centred differences, by layer")
        axes.tick_params(axis="y", labelsize=8)
        axes.legend(loc="upper right")
        picture(out, "layers", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "gradient_check", quick="3 seeds").parse_args(arguments)
    seeds, draws = (3, 1) if options.quick else (30, 5)
    with stage(f"a network of every layer, {draws} draws"):
        checked = [every_layer.by_array([1.0, 1.01], options.seed + i) for i in range(draws)]
    right, wrong = ({path: max(errors[i][path] for errors, _ in checked) for path in checked[0][1]} for i in (0, 1))
    found = {path for path, error in wrong.items() if error > 1e-6}
    ahead = {path for path in wrong if path.startswith(every_layer.AHEAD)}
    missed = {path: max(shares[path] for _, shares in checked) for path in sorted(ahead - found)}
    with stage(f"{len(differences.STEPS)} steps, 2 precisions, {seeds} seeds"):
        errors, exact = differences.measured(seeds, options.seed)
    with stage("worked examples"):
        examples = check_worked()
    layers = every_layer.by_layer(right)

    best = differences.best_steps(errors, exact)
    slopes = {name: Interval.of(values) for name, values in differences.exponents(errors, best).items()}
    least = {name: f"{of['measured']:.0e} (predicted {of['predicted']:.0e})" for name, of in best.items()}
    silent = "".join(f" (along {path} the derivative is {share:.0e} of the largest)" for path, share in missed.items())
    finding = (
        f"In a network of {len(layers)} layers with parameters, all {len(right)} arrays agree with centred "
        f"differences to {max(right.values()):.0e}; with one derivative 1 % off, {len(found)} of the {len(ahead)} arrays "
        f"ahead of it do not, by {100 * np.median([wrong[path] for path in found]):.1f} %{silent}. "
        f"In float64 the error of forward differences goes as h to "
        f"the power of {slopes['forward truncation']:.2f} for large steps and {slopes['forward rounding']:.2f} for small "
        f"ones, that of centred ones {slopes['centred truncation']:.2f} and {slopes['centred rounding']:.2f} (mean and 95 % "
        f"interval over {seeds} seeds). The best step is, forward, {least['forward float32']} in float32 and "
        f"{least['forward float64']} in float64, centred, {least['centred float32']} and {least['centred float64']}. Worked "
        f"examples differ from their closed forms by at most {max(of['closed_form'] for of in examples.values()):.0e}."
    )
    results = {
        "errors": right,
        "errors_planted": wrong,
        "planted": sorted(found),
        "missed": missed,
        "slopes": slopes,
        "best": best,
        "steps": differences.STEPS.tolist(),
        "log10_errors": {
            dtype: {name: [Interval.of(of) for of in differences.log10(values)] for name, values in by_kind.items()}
            for dtype, by_kind in errors.items()
        },
        "worked": examples,
    }
    recorded = record(options, finding, results)
    draw_steps(options.out, errors, exact)
    draw_layers(options.out, layers, every_layer.by_layer(wrong))
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
