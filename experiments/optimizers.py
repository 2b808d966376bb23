"""Which first-order optimizer is best, on real tasks, and how does each go down a surface?

python -m experiments.optimizers [--quick] [--tasks NAMES] [--size quick] [--seed 0] [--out runs/optimizers]

Gradient descent, momentum, nesterov, adagrad, rmsprop, adam and delta-bar-delta, compared as `jnn compare` does: each tuned
with the same number of trials in a space of its own, 32 studies, judged against Adam on examples that tuning never saw; the
report lands in OUT/comparison. Then their paths on three surfaces of two numbers: a rotated quadratic of condition 100,
Rosenbrock's function, and a saddle, x^2 / 2 - y^2 / 2 + y^4 / 4. There the learning rate is that of the fewest steps, in the
mean over 16 starts, of 49 rates, until the height over the minimum stays below a thousandth of that at the start; steps are
measured from 16 other starts.

Expected: (to be recorded)
About 10 minutes on 2 cores, --quick about one; --size full, for the comparison, wants an accelerator.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, picture, record, stage

OPTIMIZERS = {
    name: getattr(jnn.optim, name) for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "delta_bar_delta")
}
TASKS = ("digits-linear", "digits-mlp", "digits-autoencoder", "fashion-mlp")
RATES = 10 ** np.linspace(-4, 2, 49)
STEPS, STARTS, ENOUGH = 500, 16, 1e-3


def quadratic(x, y):
    """Curvatures 1 and 1 / 100, turned by 30 degrees."""
    u, v = 0.866 * x + 0.5 * y, 0.866 * y - 0.5 * x
    return (u**2 + v**2 / 100) / 2


def rosenbrock(x, y):
    return (100 * (y - x**2) ** 2 + (1 - x) ** 2) / 100


def saddle(x, y):
    return x**2 / 2 - y**2 / 2 + y**4 / 4


# surface -> height, start, the least height, where that is, the window of the picture
SURFACES = {
    "quadratic": (quadratic, (-2.5, 2.0), 0.0, [(0, 0)], (-3, 3, -3, 3)),
    "rosenbrock": (rosenbrock, (-1.2, 1.0), 0.0, [(1, 1)], (-1.8, 1.8, -0.8, 2.2)),
    "saddle": (saddle, (-1.5, 0.01), -0.25, [(0, 1), (0, -1)], (-1.8, 1.8, -1.6, 1.6)),
}


def descent(factory):
    """A function for `sweep`: a whole run on a surface, -> path (STEPS, 2), height over the minimum (STEPS,)."""

    def train(hparams, key, data):
        def init(key, batch):
            start = data["start"][hparams["surface"]]
            # a start of its own for each key; on the saddle's ridge hardly any is on the ridge itself
            return {"at": start + jnp.array([0.1, 0.01]) * jax.random.normal(key, (2,))}, {}

        def loss(params, state, batch, *, key=None, train=False):
            x, y = params["at"]
            heights = [height(x, y) - least for height, _, least, *_ in SURFACES.values()]
            return jnp.stack(heights)[hparams["surface"]], jnn.Aux(state, {"at": params["at"]})

        training = jnn.training(jnn.Objective(init, loss), factory(hparams["rate"]))
        history = jnn.fit(training, (), key=key, steps=STEPS).history
        return history["at"], history["loss"]

    return train


def steps_to_stay(heights, share: float = ENOUGH) -> np.ndarray:
    """(..., steps) -> (...): how many steps until a height stays at or below `share` of the first; the number of steps where it
    never does."""
    above = ~(np.asarray(heights) <= share * np.asarray(heights)[..., :1])
    return np.where(above.any(axis=-1), above.shape[-1] - above[..., ::-1].argmax(axis=-1), 0)


def descents(optimizers, rates, seed: int) -> dict[str, dict[str, dict]]:
    """surface -> optimizer -> its tuned learning rate, steps from other starts (STARTS,), and the first of their paths."""
    data = {"start": jnp.array([start for _, start, *_ in SURFACES.values()])}
    grid = {
        "surface": jnp.repeat(jnp.arange(len(SURFACES)), len(rates)),
        "rate": jnp.tile(jnp.asarray(rates, jnp.float32), len(SURFACES)),
    }
    found: dict[str, dict[str, dict]] = {name: {} for name in SURFACES}
    for name, factory in optimizers.items():
        with stage(f"{name} on {len(SURFACES)} surfaces, {len(rates)} learning rates, {2 * STARTS} starts"):
            at, height = jnn.sweep(descent(factory), grid, seeds=2 * STARTS, seed=seed, data=data)
        at = np.asarray(at).reshape(len(SURFACES), len(rates), *at.shape[1:])
        height = np.asarray(height).reshape(at.shape[:-1])
        steps = steps_to_stay(height)
        for i, surface in enumerate(SURFACES):
            last = np.nan_to_num(height[i, :, :STARTS, -1] / height[i, :, :STARTS, 0], nan=np.inf, posinf=1e30)
            # the lowest end decides among those that do not arrive
            best = int(np.argmin(steps[i, :, :STARTS].mean(axis=1) + np.minimum(last.mean(axis=1), 1e6)))
            path = {"path": at[i, best, STARTS], "steps": steps[i, best, STARTS:], "learning_rate": float(rates[best])}
            found[surface][name] = path
    return found


def surface_axes(figure):
    """One axis for each surface, with its contours, start and minima."""
    axes_of = {}
    for axes, (name, (height, start, least, minima, window)) in zip(figure.subplots(1, 3), SURFACES.items(), strict=True):
        x, y = np.meshgrid(np.linspace(*window[:2], 121), np.linspace(*window[2:], 121))
        axes.contour(x, y, np.log10(height(x, y) - least + 1e-3), levels=10, colors="0.75", linewidths=0.6)
        axes.plot(*start, "k.", markersize=7)
        axes.plot(*np.transpose(minima), "k*", markersize=8, linestyle="none")
        axes.set(xlim=window[:2], ylim=window[2:], title=name, xlabel="x", ylabel="y")
        axes_of[name] = axes
    return axes_of


def paths(out, found):
    with jnn.plots.style():
        figure = Figure(figsize=(9, 3.6))
        for surface, axes in surface_axes(figure).items():
            for (name, one), color in zip(found[surface].items(), jnn.plots.COLORS, strict=False):
                axes.plot(*one["path"].T, color=color, linewidth=1.2, label=name, alpha=0.9)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        picture(out, "paths", figure)


def animation(out, found, frames: int):
    """OUT/paths.gif: the steps on a logarithmic scale, as most happens at first."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with jnn.plots.style({"figure.constrained_layout.use": False, "path.simplify_threshold": 1.0}):
        figure = Figure(figsize=(8, 3))
        FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.26, wspace=0.25)
        lines = []
        for surface, axes in surface_axes(figure).items():
            for (name, one), color in zip(found[surface].items(), jnn.plots.COLORS, strict=False):
                trail, head = (
                    axes.plot([], [], color=color, linewidth=1.2, label=name)[0],
                    axes.plot([], [], "o", color=color)[0],
                )
                lines.append((one["path"], trail, head))
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=7)
        counter = figure.text(0.01, 0.03, "", fontsize=8)

        def draw(until):
            for path, trail, head in lines:
                trail.set_data(*path[: until + 1].T)
                head.set_data(*path[until : until + 1].T)
            counter.set_text(f"step {until}")
            return [counter]

        shown = np.unique(np.geomspace(1, STEPS, frames).astype(int)) - 1
        FuncAnimation(figure, draw, [*shown, *[STEPS - 1] * 10]).save(out / "paths.gif", PillowWriter(fps=12), dpi=100)


def differences(out, verdicts):
    """How far each optimizer's test loss is from Adam's, in percent of Adam's, with intervals."""
    tasks = list(dict.fromkeys(verdicts.task))
    with jnn.plots.style():
        figure = Figure(figsize=(9, 2.8))
        for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks), sharey=True)), tasks, strict=True):
            rows = verdicts[verdicts.task == task]
            error = [rows.difference - rows.low, rows.high - rows.difference]
            axes.errorbar(rows.difference, range(len(rows)), xerr=error, fmt="o", markersize=4, color=jnn.plots.COLORS[0])
            axes.axvline(0, color="black", linewidth=1)
            axes.set_yticks(range(len(rows)), rows.optimizer)
            axes.set(title=task, xlabel="test loss minus Adam's")
        figure.axes[0].invert_yaxis()
        picture(out, "differences", figure)


def main(arguments=None):
    parser = commands.parser(
        __doc__, "optimizers", quick="3 optimizers, digits-linear, 2 trials, 4 studies, 13 learning rates on surfaces"
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="with commas (default: %(default)s)")
    parser.add_argument("--size", choices=("quick", "full"), default="quick", help="of the tasks (default: %(default)s)")
    options = parser.parse_args(arguments)
    tasks, trials, studies, rates, names, frames = options.tasks.split(","), 8, 32, RATES, list(OPTIMIZERS), 60
    if options.quick:
        tasks, trials, studies, rates, names, frames = ["digits-linear"], 2, 4, RATES[::4], ["sgd", "momentum", "adam"], 10
    optimizers = {name: OPTIMIZERS[name] for name in names}
    found = descents(optimizers, rates, options.seed)
    paths(options.out, found)
    with stage("animation"):
        animation(options.out, found, frames)
    comparison = jnn.compare(
        optimizers,
        tasks,
        trials=trials,
        studies=studies,
        seed=options.seed,
        size=options.size,
        out=options.out / "comparison",
    )
    print(comparison)
    differences(options.out, comparison.verdicts)

    judged = []
    for task in tasks:
        rows = comparison.verdicts[comparison.verdicts.task == task]
        by_verdict = {verdict: ", ".join(of.optimizer) for verdict, of in rows.groupby("verdict")}
        judged.append(f"on {task} " + ", ".join(f"{verdict}: {names}" for verdict, names in by_verdict.items()))
    fewest = {surface: sorted(of, key=lambda name: of[name]["steps"].mean()) for surface, of in found.items()}
    walked = [
        f"{surface} from {Interval.of(found[surface][names[0]]['steps']):.0f} ({names[0]}) to "
        f"{Interval.of(found[surface][names[-1]]['steps']):.0f} ({names[-1]})"
        for surface, names in fewest.items()
    ]
    finding = (
        f"Against Adam, each tuned with {trials} trials, {studies} studies: {'; '.join(judged)}. On surfaces of two numbers, "
        f"each at its best of {len(rates)} learning rates, the steps until the height stays below a thousandth of the start's are, "
        f"over {STARTS} starts: {'; '.join(walked)} ({STEPS} where a run does not arrive)."
    )
    surfaces = {
        surface: {name: {"learning_rate": one["learning_rate"], "steps": one["steps"].tolist()} for name, one in of.items()}
        for surface, of in found.items()
    }
    return record(options, finding, {"verdicts": comparison.verdicts.to_dict("records"), "surfaces": surfaces})


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
