"""Which first-order optimizer is best, on real tasks, and how does each go down a surface?

python -m experiments.optimizers [--quick] [--tasks NAMES] [--size quick] [--seed 0] [--out runs/optimizers]

Gradient descent, momentum, nesterov, adagrad, rmsprop, adam and delta-bar-delta, compared as `jnn compare` does: each tuned
with the same number of trials in a space of its own, 32 studies, judged against Adam on examples that tuning never saw; the
report lands in OUT/comparison. Then their paths on three surfaces of two numbers: a rotated quadratic of condition 100,
Rosenbrock's function, and a saddle, x^2 / 2 - y^2 / 2 + y^4 / 4. There the learning rate is that of the fewest steps, in the
mean over 16 starts drawn over the window of the picture, of 49 rates, until the height over the minimum stays below a
thousandth of that at the start; steps are measured from 16 other starts.

Expected: on three of four tasks of the quick size no difference from Adam is shown for rmsprop and nesterov, which is not to
say that there is none; gradient descent, adagrad and delta-bar-delta are worse everywhere. On the quadratic nesterov takes 20
steps in the median, rmsprop 188. Seven minutes on one core, --quick under a minute; --size full, of the tasks, wants an
accelerator.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, surfaces
from experiments.findings import picture, record, stage
from jnn.comparison.suite import find_task

OPTIMIZERS = {
    name: getattr(jnn.optim, name) for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "delta_bar_delta")
}
TASKS = ("digits-linear", "digits-mlp", "digits-autoencoder", "fashion-mlp")
RATES = 10 ** np.linspace(-4, 2, 49)


def differences(out, verdicts):
    """How far each optimizer's test loss is from Adam's, with 95 % intervals that are not adjusted for their number."""
    tasks = list(dict.fromkeys(verdicts.task))
    with jnn.plots.style():
        figure = Figure(figsize=(9, 2.8))
        for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks), sharey=True)), tasks, strict=True):
            rows = verdicts[verdicts.task == task]
            error = [rows.difference - rows.low, rows.high - rows.difference]
            axes.errorbar(rows.difference, range(len(rows)), xerr=error, fmt="o", markersize=4, color=jnn.plots.COLORS[0])
            axes.axvline(0, color="black", linewidth=1)
            axes.set_yticks(range(len(rows)), rows.optimizer)
            axes.set(title=task, xlabel="test loss minus Adam's, 95 %")
        figure.axes[0].invert_yaxis()
        picture(out, "differences", figure)


def main(arguments=None):
    parser = commands.parser(
        __doc__, "optimizers", quick="3 optimizers, digits-linear, 2 trials, 4 studies, 13 learning rates on surfaces"
    )
    parser.add_argument("--tasks", help=f"with commas (default: {','.join(TASKS)}; with --quick digits-linear)")
    parser.add_argument("--size", choices=("quick", "full"), default="quick", help="of the tasks (default: %(default)s)")
    options = parser.parse_args(arguments)
    tasks = (options.tasks or ("digits-linear" if options.quick else ",".join(TASKS))).split(",")
    trials, studies, rates, names, frames = 8, 32, RATES, list(OPTIMIZERS), 40
    if options.quick:
        trials, studies, rates, names, frames = 2, 4, RATES[::4], ["sgd", "momentum", "adam"], 10
    for task in tasks:
        find_task(task, options.size)  # refused before anything runs
    optimizers = {name: OPTIMIZERS[name] for name in names}
    found = surfaces.descents(optimizers, rates, options.seed)
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
    judged, better = [], 0
    for task in tasks:
        rows = comparison.verdicts[comparison.verdicts.task == task]
        by_verdict = {verdict: ", ".join(of.optimizer) for verdict, of in rows.groupby("verdict")}
        judged.append(f"on {task} " + ", ".join(f"{verdict}: {names}" for verdict, names in by_verdict.items()))
        better += "better" in by_verdict
    walked = []
    for surface, of in found.items():
        first, *_, last = sorted(of, key=lambda name: (np.median(of[name]["steps"]), of[name]["steps"].mean()))
        walked.append(f"{surface} from {surfaces.walk(of[first])} ({first}) to {surfaces.walk(of[last])} ({last})")
    finding = (
        f"An optimizer that is better than Adam was found on {better or 'none'} of {len(tasks)} real tasks (of the "
        f"{options.size} size, each optimizer tuned with {trials} trials, {studies} studies): {'; '.join(judged)}. These "
        "verdicts are adjusted for the number of comparisons (Holm), the 95 % intervals in the picture are not; where no "
        "difference is shown, there may be one all the same. On surfaces of two numbers, each at its best of "
        f"{len(rates)} learning rates, the steps until the height stays below a thousandth of the start's are, in the median "
        f"(least to most) over {surfaces.STARTS} starts drawn over the window, {surfaces.STEPS} where a run does not arrive: "
        f"{'; '.join(walked)}."
    )
    walks = {
        surface: {
            name: {"learning_rate": one["learning_rate"], "steps": one["steps"].tolist(), "arrived": surfaces.arrived(one)}
            for name, one in of.items()
        }
        for surface, of in found.items()
    }
    recorded = record(options, finding, {"verdicts": comparison.verdicts.to_dict("records"), "surfaces": walks})
    differences(options.out, comparison.verdicts)
    surfaces.paths(options.out, found)
    with stage("animation"):
        surfaces.animation(options.out, found, frames)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
