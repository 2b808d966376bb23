"""Are planted effects found as often as the stated detectable difference promises?

python -m experiments.power [--quick] [--tasks NAMES] [--comparisons 40] [--seed 0] [--out runs/power]

Adam against itself with a planted fault, 40 comparisons of 32 studies for each fault and task:

  shifted space     the learning rate is searched ten times too low
  no bias correction
  gradient noise    normal noise of half the gradient's root mean square is added to it
  scaled rate       a learning rate that decays by a factor of 30 over the run, unasked

The effect is the mean difference over all studies together. From it and the spread of each comparison follows the power
that its `detectable` promises; beside it stands the share of comparisons with p < 0.05, with its exact 95 % interval.
Expected: intervals that contain the promised power. About 20 minutes on 2 cores, --quick about two.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from experiments import commands
from experiments.benchmarks import records
from jnn.comparison import plans, statistics, studies
from jnn.comparison.errors import InputError
from jnn.comparison.progress import Progress
from jnn.comparison.spaces import SPACES
from jnn.comparison.suite import DEFAULT_TASKS


def without_bias_correction(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam as it would be without the correction of its zero start."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(grads, opt_state, params=None):
        mean, square = opt_state
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, grads)
        square = jax.tree.map(lambda s, g: b2 * s + (1 - b2) * g**2, square, grads)
        updates = jax.tree.map(lambda m, s: -learning_rate * m / (jnp.sqrt(s) + eps), mean, square)
        return updates, (mean, square)

    return init, update


def with_gradient_noise(learning_rate):
    """Adam on gradients with noise of half their root mean square, leaf by leaf."""
    adam = jnn.optim.adam(learning_rate)

    def init(params):
        # each run has noise of its own: studies are independent
        total = jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(params)]))
        return jax.lax.bitcast_convert_type(total, jnp.uint32), jnp.uint32(0), adam.init(params)

    def update(grads, opt_state, params=None):
        run, step, inner = opt_state
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), run), step)
        leaves, structure = jax.tree.flatten(grads)

        def noisy(g, key):
            return g + 0.5 * jnp.sqrt(jnp.mean(g**2)) * jax.random.normal(key, g.shape)

        keys = jax.random.split(key, len(leaves))
        grads = structure.unflatten([noisy(g, key) for g, key in zip(leaves, keys, strict=True)])
        updates, inner = adam.update(grads, inner, params)
        return updates, (run, step + 1, inner)

    return init, update


def with_scaled_rate(learning_rate, steps):
    """Adam with the task's cosine times a decay by 30 over the run."""

    def schedule(step):
        return jnn.schedules.cosine(learning_rate, steps)(step) * 30.0 ** (-step / steps)

    return jnn.optim.adam(schedule)


ADAM = SPACES["adam"]["learning_rate"]  # where the reference is searched
FAULTS = {
    "shifted space": (jnn.optim.adam, {"learning_rate": ADAM._replace(low=ADAM.low / 10, high=ADAM.high / 10)}),
    "no bias correction": (without_bias_correction, {"learning_rate": ADAM}),
    "gradient noise": (with_gradient_noise, {"learning_rate": ADAM}),
    "scaled rate": (with_scaled_rate, {"learning_rate": ADAM}),
}


def faults_found(task: str, names, comparisons: int, per_comparison: int, trials: int, seed: int) -> list[dict]:
    """A row for each fault: its effect, the promised power, and how often it was found."""
    optimizers = {"adam": jnn.optim.adam} | {name: FAULTS[name][0] for name in names}
    spaces = {name: FAULTS[name][1] for name in names}
    plan = plans.make_plan(optimizers, [task], "adam", spaces, trials, comparisons * per_comparison, 0.01, seed)
    plan = plan._replace(target_studies=0)
    setup, rows = studies.Setup(plan.tasks[0], plan), []
    with Progress(len(plan.entrants) * (trials + 1) * plan.studies) as progress:
        cells = {
            entrant.name: studies.run_cell(plan, setup, entrant, advance=lambda n: progress.advance(n, task))
            for entrant in plan.entrants
        }
    losses = {name: cell.final["test"]["loss"].astype(float).reshape(comparisons, -1) for name, cell in cells.items()}
    for name in names:
        pairs = list(zip(losses[name], losses["adam"], strict=True))
        effect = float(np.mean(losses[name] - losses["adam"]))
        count = sum(statistics.paired_t(ours, theirs).p_value < statistics.LEVEL for ours, theirs in pairs)
        low, high = statistics.exact_interval(count, comparisons)
        percent = 100 / float(losses["adam"].mean())
        rows.append(
            {
                "task": task,
                "fault": name,
                "effect_percent": effect * percent,
                "detectable_percent": float(
                    np.median([statistics.detectable_difference(ours, theirs, 1) for ours, theirs in pairs]) * percent
                ),
                "promised_power": float(np.mean([statistics.power(effect, ours, theirs, 1) for ours, theirs in pairs])),
                "found": int(count) / comparisons,
                "found_low": low,
                "found_high": high,
            }
        )
    return rows


def main(arguments=None):
    parser = commands.parser(__doc__, "power", quick="20 comparisons of 8 studies on digits-linear")
    parser.add_argument("--tasks", default=",".join(DEFAULT_TASKS))
    parser.add_argument("--faults", default=",".join(FAULTS), help="(default: %(default)s)")
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args(arguments)
    if options.quick:
        options.tasks, options.comparisons, options.studies = "digits-linear", 20, 8
    rows, faults = [], options.faults.split(",")
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        raise InputError(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    for task in options.tasks.split(","):
        rows += faults_found(task, faults, options.comparisons, options.studies, options.trials, options.seed)
        for row in rows[-len(faults) :]:
            print(
                f"{task}, {row['fault']}: effect {row['effect_percent']:+.2f} %, detectable {row['detectable_percent']:.2f} %, "
                f"promised {row['promised_power']:.0%}, found {row['found']:.0%} "
                f"({row['found_low']:.0%} to {row['found_high']:.0%})",
                flush=True,
            )
        records.write(options.out, "results", {"rows": rows, "studies": options.studies, "seed": options.seed})
    return rows


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
