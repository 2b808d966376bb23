"""How far does a unit see, and what does a shift of the picture do to it?

python -m experiments.receptive_field [--quick] [--seed 0] [--out runs/receptive_field]

The receptive field is measured: the places of the input by which one unit of the output has a gradient, weights positive.
Stacks of L convolutions with window K against 1 + L (K - 1), and random stacks of convolutions and pooling against 1 + the sum
over layers of (window - 1) dilation times the strides before. A maximum hands its gradient to one place, so what it sees is the
union over many random inputs.
Within the field places do not count alike (Luo et al. 2016): the squared gradient of random linear stacks is spread as the sum
of L uniform steps, with standard deviation sqrt(L (K^2 - 1) / 12), so that what counts is a share that falls as 1 / sqrt(L).
The spread is the root of the mean over seeds of the mean square distance from the field's centre.
Shifted by s pixels, Fashion-MNIST pictures go through a random convolution: does its output shift along (equivariance), with
circular padding, with zeros, in the interior, with a stride; and through pooling: does its output stay (invariance)? Both as
the norm of the change, relative to the distance of the outputs of two different pictures.

Expected: measured fields equal the formula, all of them; equivariance exact with circular padding and in the interior, and
with stride 2 at even shifts (below 1e-5); at a shift by one pixel invariance grows with the window of the pooling, at eight
it does not; it is exact for the global maximum. Three minutes on one core, --quick 20 s.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, fields, shifts
from experiments.findings import Interval, picture, record, stage

DEPTHS, WINDOWS = (1, 2, 4, 8, 16), (3, 5, 7)
KINDS = {"linear": jnn.activations.identity, "relu": jax.nn.relu}
MARKS = "os^Dv*"


def draw_fields(out, found, spreads):
    """Measured fields against the formula, and the spread of what counts against the depth."""
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2)
        left.plot(*zip(*found, strict=True), "o", ms=4, alpha=0.6, color=jnn.plots.COLORS[0])
        left.axline((1, 1), slope=1, color="black", linewidth=1, zorder=0)
        left.set(
            xlabel="formula, places", ylabel="measured by gradients, places", title="The receptive field; each dot is a stack"
        )
        for (window, by_kind), mark, color in zip(spreads.items(), MARKS, jnn.plots.COLORS, strict=False):
            for (kind, moments), fill, side in zip(by_kind.items(), ("none", "full"), (0.94, 1.06), strict=True):
                mean, low, high = np.array([fields.spread(of) for of in moments]).T
                look = {"fmt": mark, "fillstyle": fill, "ms": 5, "capsize": 2, "color": color}
                at = side * np.array(DEPTHS)  # beside each other
                right.errorbar(at, mean, [mean - low, high - mean], label=f"window {window}, {kind}", **look)
            depth = np.geomspace(1, DEPTHS[-1])
            walk = fields.predicted_spread(depth, window)
            right.plot(depth, walk, color=color, linewidth=1, label=f"window {window}, random walk")
        right.set(xscale="log", yscale="log", xlabel="layers", ylabel="distance from the centre, places (rms)")
        right.set_title("Where the squared gradient lies in the field")
        right.set_xticks(DEPTHS, DEPTHS)
        right.set_yticks((1, 2, 4, 8), (1, 2, 4, 8))
        right.minorticks_off()
        right.set_ylim(top=14)
        right.legend(fontsize=6, ncols=3, loc="upper left", columnspacing=1, handlelength=1.5)
        picture(out, "fields", figure)


def draw_influences(out, influences):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 1.9))
        for axes, (title, shown) in zip(figure.subplots(1, len(influences)), influences.items(), strict=True):
            axes.imshow(np.sqrt(shown), cmap="cividis")
            axes.set_title(title, fontsize=8, loc="center")
            axes.set_xticks([0, len(shown) - 1], [1, len(shown)])
            axes.set_yticks([])
        figure.suptitle("Root mean square gradient of one unit by each place of its receptive field", fontsize=9)
        picture(out, "effective", figure)


def draw_shifts(out, curves):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        for axes, (kind, cases) in zip(figure.subplots(1, 2), curves.items(), strict=True):
            for (case, values), mark, color in zip(cases.items(), MARKS, jnn.plots.COLORS, strict=False):
                jnn.plots.band(axes, range(values.shape[1]), values, label=case, color=color, marker=mark, ms=4)
            axes.set(xlabel="shift, pixels", ylabel="change, 1 = another picture", title=f"{kind.capitalize()} under shifts")
            axes.set_ylim(top=1.4 * max(values.mean(axis=0).max() for values in cases.values()))
            axes.legend(fontsize=7, loc="upper left", ncols=2)
        picture(out, "shifts", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "receptive_field", quick="12 random stacks, 8 seeds").parse_args(arguments)
    count, seeds, examples = (12, 8, 32) if options.quick else (100, 50, 256)
    windows, deep = (WINDOWS[:1], (2, 8)) if options.quick else (WINDOWS, (2, 8, 20))
    rng = np.random.default_rng(options.seed)
    plain = [[("conv", window, 1, 1)] * depth for window in (3, 5) for depth in (1, 2, 4)]
    stacks = plain + [fields.random_stack(rng) for _ in range(count)]
    with stage(f"receptive fields of {len(stacks)} stacks"):
        found = [(fields.formula(stack), fields.measured(stack)) for stack in stacks]

    def moments(depth, window, kind):
        return fields.second_moment(fields.influence(depth, window, KINDS[kind], seeds, options.seed))

    with stage(f"where the gradient lies: depths {DEPTHS}, windows {windows}, {seeds} seeds"):
        spreads = {window: {kind: [moments(depth, window, kind) for depth in DEPTHS] for kind in KINDS} for window in windows}
    with stage(f"pictures of {deep} layers"):
        influences = {
            f"{depth} layers, {kind}": fields.influence(depth, 3, f, seeds, options.seed, axes=2).mean(axis=0)
            for depth in deep
            for kind, f in KINDS.items()
        }
    (images, _), _ = jnn.data.fashion_mnist()
    images = np.pad(images[:examples] / np.float32(255), [(0, 0), (2, 2), (2, 2), (0, 0)])
    with stage(f"shifts of {examples} pictures, {seeds} seeds"):
        curves = shifts.changes(images, 8, seeds, options.seed)

    equal = sum(a == b for a, b in found)
    predicted = {str(window): [float(fields.predicted_spread(depth, window)) for depth in DEPTHS] for window in windows}
    measured = {str(w): {kind: list(map(fields.spread, of)) for kind, of in by.items()} for w, by in spreads.items()}
    held = [
        low <= p <= high
        for window, by_kind in measured.items()
        for of in by_kind.values()
        for (_, low, high), p in zip(of, predicted[window], strict=True)
    ]
    deepest = {kind: of[-1] for kind, of in measured["3"].items()}
    equivariance, invariance = curves["equivariance"], curves["invariance"]
    at = lambda curve, shift: Interval.of(100 * curve[:, shift])
    poolings = sorted(invariance, key=lambda name: name != "no pooling")
    all_at = lambda shift: ", ".join(f"{name} {at(invariance[name], shift):.1f %}" for name in poolings)
    said = lambda change: f"changes by {change:.1g} of the distance to another picture" if change else "is shifted exactly"
    finding = (
        f"Measured by gradients, {equal} of {len(found)} stacks of convolutions and poolings have the receptive field of the "
        f"formula. Behind {DEPTHS[-1]} layers of window 3 it is {1 + 2 * DEPTHS[-1]} places wide, but the squared gradient "
        f"lies {deepest['linear']:.2f} places from its centre in linear networks (root mean square and 95 % interval over "
        f"{seeds} seeds) and {deepest['relu']:.2f} with relu; a random walk of {DEPTHS[-1]} uniform steps predicts "
        f"{predicted['3'][-1]:.2f}. {sum(held)} of {len(held)} such intervals, over depths and windows, hold the prediction. "
        f"By shifts of up to 8 pixels, a convolution's output with circular padding "
        f"{said(equivariance['circular padding'].max())}; with zeros its interior "
        f"{said(equivariance['zeros, interior'].max())}, but whole pictures differ by {at(equivariance['zeros'], 8):.1f %} of "
        f"the distance to another picture at 8 pixels; with stride 2 it differs by "
        f"{at(equivariance['circular, stride 2'], 1):.1f %} at 1 pixel and at 2 "
        f"{said(equivariance['circular, stride 2'][:, 2].max())}. A shift by 1 pixel changes features by, of that distance: "
        f"{all_at(1)}; by 8 pixels: {all_at(8)}."
    )
    results = {
        "fields": found,
        "second_moments": {str(w): {kind: np.transpose(s).tolist() for kind, s in by.items()} for w, by in spreads.items()},
        "spread": measured,
        "spread_predicted": predicted,
        "curves": jax.tree.map(np.ndarray.tolist, curves),
    }
    recorded = record(options, finding, results)
    draw_fields(options.out, found, spreads)
    draw_influences(options.out, influences)
    draw_shifts(options.out, curves)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
