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

Expected: Newton takes a dozen steps where Adam takes a thousand, and L-BFGS the fewest gradients; on small batches L-BFGS
stands still where Adam does not (to be recorded). Ten minutes on 2 cores, --quick half a minute.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, picture, record, stage
from jnn.populations import workers

EXAMPLES = 1000
PENALTY = 1e-3
MODELS = {"softmax regression": [], "network": [8]}
METHODS = {
    "newton": (lambda number: jnn.optim.newton(damping=number), (1e-4, 1e-2, 1e-1, 1.0)),
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
        return opt_state.count + 2 * opt_state.products + 0.5 * opt_state.trials.astype(jnp.float32)
    return opt_state.count if method == "lbfgs" else None


def full_batch(method: str, problem, steps: int):
    """-> (number, key, data) -> losses before each step, and gradient evaluations until then, (steps,)."""

    def run(number, key, data):
        training = jnn.training(problem, METHODS[method][0](number))

        def step(train_state, t):
            parameters = sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
            taken = evaluations(method, train_state.opt_state, parameters)
            after, metrics = training.step(train_state, data)
            return after, (metrics["loss"], (t if taken is None else taken).astype(jnp.float32))

        return jax.lax.scan(step, training.init(key, data), jnp.arange(steps))[1]

    return run


def on_batches(method: str, problem, steps: int):
    """-> (hparams, key, data) -> the loss on all examples, at the end of steps on batches of a size that may be traced."""

    def run(hparams, key, data):
        number, size = hparams
        training = jnn.training(problem, METHODS[method][0](number))
        n = data[1].shape[0]

        def step(train_state, t):
            chosen = jax.random.permutation(jax.random.fold_in(key, t), n) < size
            return training.step(train_state, (*data, chosen.astype(jnp.float32)))[0], None

        end, _ = jax.lax.scan(step, training.init(key, data), jnp.arange(steps))
        params = jnn.optim.eval_params(end.opt_state, end.params)
        return problem.loss(params, {}, data, key=key, train=True)[0]

    return run


def changes(problem, key, data, sizes, draws: int = 50, descent: int = 10):
    """For each size of batch, of the changes y of the gradient along a step s of gradient descent, on one batch and on two:
    the mean square of their error as a share of |y|^2 on all examples, the share that curves downwards (s'y <= 0); and the
    error that two batches must have, as the gradients of examples scatter. -> {name: (sizes, descent)}"""

    @jax.jit
    def gradients(key, data):
        params, state = problem.init(key, data)

        def of_one(params, x, y):
            return problem.loss(params, state, (x[None], y[None]), key=key, train=True)[0]

        each = jax.vmap(jax.grad(of_one), (None, 0, 0))

        def step(params, _):
            grads = each(params, *data)
            moved = jax.tree.map(lambda p, g: p - 0.1 * jnp.mean(g, axis=0), params, grads)
            return moved, jnp.concatenate([g.reshape(len(data[1]), -1) for g in jax.tree.leaves(grads)], axis=1)

        return jax.lax.scan(step, params, length=descent + 1)[1]

    g = np.asarray(gradients(key, data))
    n, rng = g.shape[1], np.random.default_rng(0)
    found = {name: np.zeros((len(sizes), descent)) for name in ("one", "two", "formula", "down one", "down two")}
    for i, size in enumerate(sizes):
        mean = np.stack([np.isin(np.arange(n), rng.choice(n, size, False)) for _ in range(2 * draws)]).astype(np.float32) / size
        for t in range(descent):
            before, after = g[t], g[t + 1]
            y, s = after.mean(0) - before.mean(0), -before.mean(0)
            one, two = mean[:draws] @ (after - before), mean[draws:] @ after - mean[:draws] @ before
            for name, change in (("one", one), ("two", two)):
                found[name][i, t] = np.mean(np.sum((change - y) ** 2, axis=1)) / np.sum(y**2)
                found[f"down {name}"][i, t] = np.mean(change @ s <= 0)
            scatter = before.var(0, ddof=1).sum() + after.var(0, ddof=1).sum()
            found["formula"][i, t] = scatter / size * (1 - size / n) / np.sum(y**2)
    return found


def tuned(losses) -> int:
    """(trials, seeds, steps) -> the trial whose runs end lowest, a run that diverges counting as infinite."""
    ends = np.nan_to_num(np.asarray(losses)[..., -1], nan=np.inf, posinf=np.inf)
    return int(np.argmin(ends.mean(axis=1)))


def compared(problem, data, steps: dict, seeds: int, seed: int) -> dict:
    """-> by method the tuned number and, over its steps, (seeds, steps): the least loss so far, steps, gradient evaluations,
    and seconds, of one core, as a share of the time that all runs take."""
    found = {}
    for method, (_, numbers) in METHODS.items():
        run = full_batch(method, problem, steps[method])
        sweep = lambda run=run, numbers=numbers: jax.block_until_ready(
            jnn.sweep(run, jnp.array(numbers), seeds=seeds, seed=seed, data=data)
        )
        with stage(f"  {method}: {len(numbers)} trials, {seeds} seeds, {steps[method]} steps"):
            losses, taken = map(np.asarray, sweep())
            began = time.perf_counter()
            sweep()
            each = (time.perf_counter() - began) * min(workers(), losses[..., 0].size) / losses[..., 0].size
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


def draw(out, found, batches, noise):
    """Gaps to the least loss, of all runs, over three measures; ends on batches, and the noise of a pair."""
    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 5.2))
        for row, (name, methods) in zip(figure.subplots(2, 3), found.items(), strict=True):
            least = min(run["loss"].min() for run in methods.values())
            for color, (method, run) in zip(jnn.plots.COLORS, methods.items(), strict=False):
                for axes, measure in zip(row, ("steps", "evaluations", "seconds"), strict=True):
                    gap = np.maximum(run["loss"] - least, 1e-6)  # what float32 can tell apart
                    axes.plot(run[measure].T, gap.T, color=color, linewidth=1, label=[method] + [None] * (len(gap) - 1))
                    axes.set(xscale="log", yscale="log", xlabel=measure)
            row[0].set(ylabel="training loss above the least", title=name)
            row[0].legend()
        picture(out, "descent", figure)

        figure = Figure(figsize=(8.5, 3))
        left, middle, right = figure.subplots(1, 3)
        for color, (method, ends) in zip(jnn.plots.COLORS[2:], batches.items(), strict=False):
            jnn.plots.band(left, SIZES, np.array(ends).T, label=method, color=color, marker="o")
        left.set(xscale="log", yscale="log", xlabel="batch size", ylabel="training loss", title="after equal steps on batches")
        for color, which in zip(jnn.plots.COLORS, ("one", "two"), strict=False):
            label = {"one": "on one batch", "two": "on two batches"}[which]
            middle.plot(SIZES[:-1], noise[which].mean(1)[:-1], "o-", color=color, label=label)
            right.plot(SIZES, 100 * noise[f"down {which}"].mean(1), "o-", color=color, label=label)
        middle.plot(SIZES[:-1], noise["formula"].mean(1)[:-1], "k:", label="formula for two")
        middle.set(xscale="log", yscale="log", xlabel="batch size", title="squared error of y / $|y|^2$")
        right.set(xscale="log", xlabel="batch size", ylabel="% of pairs", title="curving downwards ($s'y \\leq 0$)")
        for axes in (left, middle, right):
            axes.set_xticks(SIZES, SIZES)
            axes.minorticks_off()
            axes.legend()
        picture(out, "batches", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "second_order", quick="2 seeds, fewer steps, pictures of 4 x 4").parse_args(arguments)
    steps, seeds, batch_steps, pool = (QUICK, 2, 100, 2) if options.quick else (STEPS, 5, 500, 1)
    data = tuple(a[:EXAMPLES] for a in jnn.data.digits())
    found = {}
    for name, hidden in MODELS.items():
        print(name, file=sys.stderr)
        found[name] = compared(objective(hidden, pool), data, steps, seeds, options.seed)
    problem, batches = objective(MODELS["softmax regression"], pool), {}
    for method in ("lbfgs", "adam"):
        numbers = METHODS[method][1]
        with stage(f"  {method} on batches of {', '.join(map(str, SIZES))}, {batch_steps} steps"):
            grid = np.array([(number, size) for size in SIZES for number in numbers], np.float32).T
            ends = jnn.sweep(on_batches(method, problem, batch_steps), tuple(grid), seeds=seeds, seed=options.seed, data=data)
        ends = np.nan_to_num(np.asarray(ends), nan=np.inf).reshape(len(SIZES), len(numbers), seeds)
        batches[method] = [rows[rows.mean(axis=1).argmin()].tolist() for rows in ends]
    with stage("  changes of the gradient on one batch and on two"):
        noise = changes(problem, jax.random.key(options.seed), data, SIZES)
    draw(options.out, found, batches, noise)

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
