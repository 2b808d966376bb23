"""Descents on all examples: the loss over steps, gradient evaluations and seconds, each method's number tuned."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments.benchmarks.records import in_turns
from experiments.findings import picture, stage

TITLES = {"newton": "Newton", "newton_cg": "Newton by conjugate gradients", "lbfgs": "L-BFGS", "adam": "Adam"}


def started(factory, problem, hparams, key, data):
    """-> Training, TrainState, from the initial parameters of hparams["seed"]."""
    optimizer = factory(hparams["number"])
    params = jax.tree.map(lambda a: a[hparams["seed"]], data["params"])
    return jnn.training(problem, optimizer), jnn.TrainState(params, {}, optimizer.init(params), key, jnp.int32(0))


def swept(run, data, *values, seeds: int):
    """The results of every combination of values, and seeds last, with one leading axis for each."""
    grid = np.meshgrid(*values, np.arange(seeds), indexing="ij")
    hparams = dict(zip(("number", "size") if len(values) == 2 else ("number",), (g.ravel() for g in grid[:-1]), strict=True))
    found = jnn.sweep(run, {**hparams, "seed": grid[-1].ravel()}, seeds=1, data=data)
    return jax.tree.map(lambda a: np.asarray(a).reshape(*grid[0].shape, *a.shape[2:]), found)


def evaluations(method: str, opt_state, parameters: int):
    """Gradients taken so far, or as much work."""
    if method == "newton":
        return opt_state.count * (1 + 2 * parameters)
    if method == "newton_cg":
        whole = opt_state.count + 2 * opt_state.products
        return whole.astype(jnp.float32) + 0.5 * opt_state.trials.astype(jnp.float32)
    return opt_state.count if method == "lbfgs" else None


def on_all_examples(method: str, factory, problem, steps: int):
    """-> (hparams, key, data) -> losses before each step, and gradient evaluations until then, (steps,)."""

    def run(hparams, key, data):
        training, begun = started(factory, problem, hparams, key, data)

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


def compared(methods: dict, problem, data, steps: dict, seeds: int, rounds: int = 3) -> dict:
    """methods: name -> (factory, numbers); steps: by method -> by method the tuned number and, over its steps, (seeds, steps):
    the least loss so far, steps, gradient evaluations, and seconds, as many for each evaluation as the median run of the first
    seed takes, timed alone and in turns with the other methods."""
    found, alone = {}, {}
    for method, (factory, numbers) in methods.items():
        run, values = on_all_examples(method, factory, problem, steps[method]), np.array(numbers, np.float32)
        with stage(f"  {method}: {len(numbers)} trials, {seeds} seeds, {steps[method]} steps"):
            losses, taken = swept(run, data, values, seeds=seeds)
        best = tuned(losses)
        done = taken[best] + 1
        found[method] = {
            "number": numbers[best],
            "loss": np.minimum.accumulate(np.nan_to_num(losses[best], nan=np.inf), axis=1),
            "steps": np.broadcast_to(np.arange(1, done.shape[1] + 1), done.shape),
            "evaluations": done,
        }
        hparams = {"number": jnp.float32(numbers[best]), "seed": jnp.int32(0)}
        alone[method] = partial(
            lambda run, *given: jax.block_until_ready(run(*given)), jax.jit(run), hparams, jax.random.key(0), data
        )
    with stage(f"  the tuned runs alone, in turns, {rounds} times"):
        seconds = in_turns(alone, rounds)
    for method, run in found.items():
        run["seconds"] = np.median(seconds[method]) * run["evaluations"] / run["evaluations"][0, -1]
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
                    axes.plot(run[measure].T, gap.T, color=color, linewidth=1, label=[TITLES[method]] + [None] * (len(gap) - 1))
                    axes.set(xscale="log", yscale="log", xlabel={"evaluations": "gradient evaluations"}.get(measure, measure))
            row[0].set(ylabel="training loss above the least", title=name)
        figure.legend(*row[2].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
        picture(out, "descent", figure)
