"""Which first-order optimizer is best, on real tasks, and how does each go down a surface?

python -m experiments.optimizers [--quick] [--tasks NAMES] [--size quick] [--seed 0] [--out runs/optimizers]

Gradient descent, momentum, nesterov, adagrad, rmsprop, adam and delta-bar-delta, compared as `jnn compare` does: each tuned
with the same number of trials in a space of its own, 32 studies, judged against Adam on examples that tuning never saw; the
report lands in OUT/comparison. Then their paths on three surfaces of two numbers: a rotated quadratic of condition 100,
Rosenbrock's function, and a saddle, x^2 / 2 - y^2 / 2 + y^4 / 4. There the learning rate is that of the fewest steps, in the
mean over 16 starts, of 49 rates, until the height over the minimum stays below a thousandth of that at the start; steps are
measured from 16 other starts.

Expected: on three of four tasks Adam, rmsprop and nesterov cannot be told apart, and gradient descent, adagrad and
delta-bar-delta are worse everywhere; on the quadratic 25 steps for nesterov, 62 for adam, 65 for momentum, 115 for gradient
descent, 161 for rmsprop. Six minutes on one core, --quick under a minute; --size full, of the tasks, wants an accelerator.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, surfaces
from experiments.findings import Interval, picture, record, stage

OPTIMIZERS = {
    name: getattr(jnn.optim, name) for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "delta_bar_delta")
}
TASKS = ("digits-linear", "digits-mlp", "digits-autoencoder", "fashion-mlp")
RATES = 10 ** np.linspace(-4, 2, 49)


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
    tasks, trials, studies, rates, names, frames = options.tasks.split(","), 8, 32, RATES, list(OPTIMIZERS), 40
    if options.quick:
        tasks, trials, studies, rates, names, frames = ["digits-linear"], 2, 4, RATES[::4], ["sgd", "momentum", "adam"], 10
    optimizers = {name: OPTIMIZERS[name] for name in names}
    found = surfaces.descents(optimizers, rates, options.seed)
    surfaces.paths(options.out, found)
    with stage("animation"):
        surfaces.animation(options.out, found, frames)
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
        f"each at its best of {len(rates)} learning rates, the steps until the height stays below a thousandth of the start's "
        f"are, over {surfaces.STARTS} starts: {'; '.join(walked)} ({surfaces.STEPS} where a run does not arrive)."
    )
    walks = {
        surface: {name: {"learning_rate": one["learning_rate"], "steps": one["steps"].tolist()} for name, one in of.items()}
        for surface, of in found.items()
    }
    return record(options, finding, {"verdicts": comparison.verdicts.to_dict("records"), "surfaces": walks})


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
