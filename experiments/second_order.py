"""What does the second derivative buy, and why do quasi-Newton methods want the full batch?

python -m experiments.second_order [--quick] [--seed 0] [--out runs/second_order]

Softmax regression and a network of eight hidden units (tanh) on 1,000 digits, with an L2 penalty, so that there is a minimum
to reach. On the full batch: Newton, its damping tuned; Newton by conjugate gradients and L-BFGS, the first length of a step
tuned (Nocedal & Wright 2006, chapters 3, 6 and 7); Adam, its learning rate tuned. Each has four trials, judged by the training
loss at the end, for that is what all of them minimise. Their losses over steps, over gradient evaluations (one for a step's
gradient, two for a Hessian-vector product, as many products for a Hessian as it has columns, a half for a value alone) and
over seconds. A step of jnn's L-BFGS is one evaluation, whatever its line search does.

Then L-BFGS on batches. Its curvature is that of a change of the gradient; between two batches the change is mostly noise.
At the points of a descent, such changes are measured on one batch and on two, by batch size.

Expected: on the regression Newton takes a dozen steps at most and Adam a hundred or more, L-BFGS the fewest gradients and
Newton, whose Hessians have hundreds of columns, the most; on batches of 32 Adam comes closer to the least loss than L-BFGS,
as half of its pairs curve downwards (to be recorded). Twelve minutes on 2 cores, --quick 20 seconds.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, curvature_pairs
from experiments.curvature_pairs import started, swept
from experiments.findings import Interval, picture, record, stage
from jnn.populations import workers

EXAMPLES = 1000
PENALTY = 1e-3
MODELS = {"softmax regression": [], "network": [8]}
METHODS = {
    "newton": (lambda number: jnn.optim.newton(damping=number), (1e-3, 1e-2, 1e-1, 1.0)),
    "newton_cg": (jnn.optim.newton_cg, (0.25, 0.5, 1.0, 2.0)),
    "lbfgs": (jnn.optim.lbfgs, (0.25, 0.5, 1.0, 2.0)),
    "adam": (jnn.optim.adam, (3e-3, 1e-2, 3e-2, 1e-1)),
}
STEPS = {"newton": 40, "newton_cg": 60, "lbfgs": 1000, "adam": 4000}
QUICK = {"newton": 12, "newton_cg": 20, "lbfgs": 150, "adam": 400}
SIZES = (32, 100, 320, EXAMPLES)


def objective(hidden, pool: int = 1):
    model = jnn.serial(jnn.avg_pool(pool), jnn.flatten(), body=jnn.models.mlp(hidden, 10, activation=jnp.tanh))
    return jnn.supervised(model, jnn.losses.softmax_cross_entropy, penalty=jnn.regularizers.l2(PENALTY))


def evaluations(method: str, opt_state, parameters: int):
    """Gradients taken so far, or as much work."""
    if method == "newton":
        return opt_state.count * (1 + 2 * parameters)
    if method == "newton_cg":
        whole = opt_state.count + 2 * opt_state.products
        return whole.astype(jnp.float32) + 0.5 * opt_state.trials.astype(jnp.float32)
    return opt_state.count if method == "lbfgs" else None


def full_batch(method: str, problem, steps: int):
    """-> (hparams, key, data) -> losses before each step, and gradient evaluations until then, (steps,)."""

    def run(hparams, key, data):
        training, begun = started(METHODS[method][0], problem, hparams, key, data)

        def step(train_state, t):
            parameters = sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
            taken = evaluations(method, train_state.opt_state, parameters)
            after, metrics = training.step(train_state, data["examples"])
            return after, (metrics["loss"], (t if taken is None else taken).astype(jnp.float32))

        return jax.lax.scan(step, begun, jnp.arange(steps))[1]

    return run


def tuned(losses) -> int:
    """(trials, seeds, steps) -> the trial whose runs end lowest, and of those that do so to 1e-4 the quickest; a run that
    diverges counts as infinite."""
    ends = np.nan_to_num(losses[..., -1], nan=np.inf, posinf=np.inf).mean(axis=1)
    areas = np.nan_to_num(losses, nan=np.inf, posinf=np.inf).mean(axis=(1, 2))
    return int(np.argmin(np.where(ends <= ends.min() + 1e-4, areas, np.inf)))


def compared(problem, data, steps: dict, seeds: int) -> dict:
    """-> by method the tuned number and, over its steps, (seeds, steps): the least loss so far, steps, gradient evaluations,
    and seconds, of one core, as a share of the time that all runs take."""
    found = {}
    for method, (_, numbers) in METHODS.items():
        run, values = full_batch(method, problem, steps[method]), np.array(numbers, np.float32)
        with stage(f"  {method}: {len(numbers)} trials, {seeds} seeds, {steps[method]} steps"):
            losses, taken = swept(run, data, values, seeds=seeds)
            began = time.perf_counter()
            swept(run, data, values, seeds=seeds)
            runs = len(numbers) * seeds
            each = (time.perf_counter() - began) * min(workers(), runs) / runs
        best = tuned(losses)
        done = taken[best] + 1
        found[method] = {
            "number": numbers[best],
            "loss": np.minimum.accumulate(np.nan_to_num(losses[best], nan=np.inf), axis=1),
            "steps": np.broadcast_to(np.arange(1, done.shape[1] + 1), done.shape),
            "evaluations": done,
            "seconds": each * done / done[:, -1:],
        }
    return found


def needed(found) -> dict:
    """By method and measure, until the loss is within 0.001 of where the worst of Adam's runs ends: (seeds,), NaN where it
    never is."""
    level = found["adam"]["loss"][:, -1].max() + 1e-3

    def first(loss, measure):
        there = loss <= level
        count = np.take_along_axis(measure, there.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(there.any(axis=1), count, np.nan).tolist()

    measures = ("steps", "evaluations", "seconds")
    return {method: {name: first(run["loss"], run[name]) for name in measures} for method, run in found.items()}


def draw(out, found):
    """Gaps to the least loss, of all runs, over three measures."""
    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 2.6 * len(found)))
        for row, (name, methods) in zip(figure.subplots(len(found), 3, squeeze=False), found.items(), strict=True):
            least = min(run["loss"].min() for run in methods.values())
            for color, (method, run) in zip(jnn.plots.COLORS, methods.items(), strict=False):
                for axes, measure in zip(row, ("steps", "evaluations", "seconds"), strict=True):
                    gap = np.maximum(run["loss"] - least, 1e-6)  # what float32 can tell apart
                    axes.plot(run[measure].T, gap.T, color=color, linewidth=1, label=[method] + [None] * (len(gap) - 1))
                    axes.set(xscale="log", yscale="log", xlabel=measure)
            row[0].set(ylabel="training loss above the least", title=name)
            row[2].legend()
        picture(out, "descent", figure)


def main(arguments=None):
    quick = "2 seeds, fewer steps, pictures of 4 x 4, the regression only"
    options = commands.parser(__doc__, "second_order", quick=quick).parse_args(arguments)
    steps, seeds, batch_steps, pool = (QUICK, 2, 100, 2) if options.quick else (STEPS, 5, 500, 1)
    key, rng = jax.random.key(options.seed), np.random.default_rng(options.seed)
    examples = tuple(a[:EXAMPLES] for a in jnn.data.digits())
    problems = {name: objective(hidden, pool) for name, hidden in list(MODELS.items())[: 1 if options.quick else 2]}
    found, begun = {}, {}
    for name, problem in problems.items():
        print(name, file=sys.stderr)
        init = jax.jit(jax.vmap(lambda key, problem=problem: problem.init(key, examples)[0]))
        begun[name] = {"examples": examples, "params": init(jax.random.split(key, seeds))}
        found[name] = compared(problem, begun[name], steps, seeds)
    ((name, problem), *_), batches = problems.items(), {}
    ranks = np.array([[rng.permutation(EXAMPLES) for _ in range(batch_steps)] for _ in range(seeds)], np.int32)
    for method in ("lbfgs", "adam"):
        with stage(f"  {method} on batches of {', '.join(map(str, SIZES))}, {batch_steps} steps"):
            run, numbers = curvature_pairs.on_batches(METHODS[method][0], problem), np.array(METHODS[method][1], np.float32)
            ends = swept(run, {**begun[name], "ranks": ranks}, numbers, SIZES, seeds=seeds)
        ends = np.nan_to_num(ends, nan=np.inf)
        best = ends.mean(axis=2).argmin(axis=0)
        batches[method] = [ends[b, i].tolist() for i, b in enumerate(best)]
    with stage("  changes of the gradient on one batch and on two"):
        noise = curvature_pairs.changes(problem, key, examples, SIZES)
    draw(options.out, found)
    curvature_pairs.draw(options.out, SIZES, batches, min(run["loss"].min() for run in found[name].values()), noise)

    results = {"batches": batches, "sizes": SIZES, "noise": {name: value.mean(1).tolist() for name, value in noise.items()}}
    for name, methods in found.items():
        ends = {method: run["loss"][:, -1].tolist() for method, run in methods.items()}
        numbers = {method: run["number"] for method, run in methods.items()}
        results[name] = {"ends": ends, "numbers": numbers, "needed": needed(methods)}
    return record(options, said(results, seeds, batch_steps), results)


def said(results, seeds: int, batch_steps: int) -> str:
    def cost(method, of):
        if not np.isfinite([value for values in of.values() for value in values]).all():
            reached = int(np.isfinite(of["steps"]).sum())
            return f"{method} in {reached} of {seeds} runs only"
        steps, taken, seconds = (Interval.of(of[measure]) for measure in ("steps", "evaluations", "seconds"))
        return f"{method} {steps:.0f} steps, {taken:.0f} gradients, {seconds:.2g} s"

    parts = [
        f"On the {name} the training loss that Adam ends with takes "
        + "; ".join(cost(method, of) for method, of in results[name]["needed"].items())
        for name in MODELS
        if name in results
    ]
    lbfgs, adam = ([Interval.of(values) for values in results["batches"][method]] for method in ("lbfgs", "adam"))
    noise = results["noise"]
    return (
        f"{'. '.join(parts)} (means and 95 % intervals over {seeds} seeds, full batch, a Hessian-vector product counted as two "
        f"gradients). After {batch_steps} steps on batches of {SIZES[0]}, L-BFGS ends at a training loss of {lbfgs[0]:.3f} and "
        f"Adam at {adam[0]:.3f}, on the full batch at {lbfgs[-1]:.3f} and {adam[-1]:.3f}. A change of the gradient between two "
        f"batches of {SIZES[0]} has a squared error of {noise['two'][0]:.3g} times its own square (by the scatter of the "
        f"examples' gradients {noise['formula'][0]:.3g}), on one batch {noise['one'][0]:.3g}; {100 * noise['down two'][0]:.0f} "
        f"% of such pairs curve downwards on two batches, {100 * noise['down one'][0]:.0f} % on one."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
