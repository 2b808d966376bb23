"""How are hyperparameters best searched: on a grid, at random, or at random from coarse to fine?

python -m experiments.hyperparameters [--quick] [--seed 0] [--out runs/hyperparameters]

A network of 32 hidden units on 600 digits, trained by momentum. Its learning rate and the strength of its L2 penalty are
searched in log space, each trial judged by the mean loss of five-fold cross-validation; the winner is trained on all 600
and tested once on the 1,197 others. Three ways with the same number of trials: a square grid, moved at random; points at
random (Bergstra & Bengio 2012); and half of the points at random, the others at random near the best of the first half.
In one space the penalty hardly matters, in the other it matters too. All trials, folds and repetitions of a way are one
program. A repetition has its own 600 examples, folds, points and initial weights; all are drawn from the same 1,797 digits, so
that intervals are for this data set.

Expected: where the penalty hardly matters the grid's winner has a higher loss than the random one's, by 0.018 (0.008 to 0.029),
as a grid of 16 tries four learning rates and random points sixteen. Coarse to fine has the lowest median in both spaces, but
not the lowest mean, as 3 and 7 of 100 searches zoom in at a wrong place. Five minutes on one core, --quick 20
seconds, which is too small to show a difference.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, cross_validation
from experiments.findings import Interval, picture, record, stage
from experiments.searches import CAP, METHODS, effects, searched, winners

FOLDS, POOL = 5, 600
RATES = jnn.log_uniform(1e-4, 10.0)
SPACES = {
    "the penalty hardly matters": {"rate": RATES, "penalty": jnn.log_uniform(1e-9, 1e-5)},
    "the penalty matters too": {"rate": RATES, "penalty": jnn.log_uniform(1e-5, 1e-1)},
}
WRONG = 0.3  # nats, twice the median test loss: a winner above it comes of a search at a wrong place
MODEL = jnn.serial(jnn.flatten(), body=jnn.models.mlp([32], 10))
PLAIN = jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy)


def program(steps: int):
    """-> hparams, key, data -> (mean loss over the folds, test loss after training on all of the pool)."""

    def run(hparams, key, data):
        penalty = jnn.regularizers.l2(hparams["penalty"])
        training = jnn.training(
            jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy, penalty=penalty),
            jnn.optim.momentum(jnn.schedules.cosine(hparams["rate"], steps)),
        )
        examples = data["images"], data["labels"]
        order, held, test = (data[name][hparams["repetition"]] for name in ("order", "held", "test"))
        keys = jax.random.split(jax.random.fold_in(key, hparams["repetition"]), FOLDS + 1)

        def fold(key, order):
            return jnn.fit(training, examples, key=key, steps=steps, order=order).train_state.params

        params = jax.vmap(fold)(keys, order)

        def loss(params, index):
            value = jnn.evaluate(PLAIN, params, {}, jax.tree.map(lambda a: a[index], examples))["loss"]
            return jnp.where(jnp.isfinite(value), value, jnp.inf)

        in_folds, whole = (jax.tree.map(lambda a, part=part: a[part], params) for part in (slice(-1), -1))
        return jnp.mean(jax.vmap(loss)(in_folds, held)), loss(whole, test)

    return run


def in_space(points, space):
    """(trials, 2) in the unit square -> float32 (trials,) of each number of a space, by name."""
    columns = np.asarray(points, float).T
    return {name: of.value(u).astype(np.float32) for (name, of), u in zip(space.items(), columns, strict=True)}


def evaluated(run, points, space, data, seed: int):
    """(repetitions, trials, 2) in the unit square -> validation losses and test losses, (repetitions, trials)."""
    repetitions, trials, _ = points.shape
    hparams = in_space(points.reshape(-1, 2), space) | {"repetition": np.repeat(np.arange(repetitions), trials)}
    found = jnn.sweep(run, hparams, seeds=1, seed=seed, data=data)
    return [np.asarray(a).reshape(repetitions, trials) for a in found]


def draw(out, found):
    """One search of each way as points; the best loss so far over the trials."""
    with jnn.plots.style():
        figure = Figure(figsize=(8.5, 5.5))
        for row, (space, methods) in zip(figure.subplots(2, 4), found.items(), strict=True):
            rates, penalties = SPACES[space].values()
            for axes, color, (method, (points, validation, _)) in zip(row, jnn.plots.COLORS, methods.items(), strict=False):
                x, y = in_space(points[0], SPACES[space]).values()
                best = validation[0].argmin()
                axes.plot(x, y, "o", color=color, markersize=4)
                axes.plot(x[best], y[best], "o", color=color, markersize=11, markerfacecolor="none")
                axes.plot(x, np.full_like(x, penalties.low / 2.5), "|", color=color, markersize=8)
                axes.set(xscale="log", yscale="log", title=method, xlabel="learning rate")
                axes.set(xlim=(rates.low / 2, 2 * rates.high), ylim=(penalties.low / 5, 2 * penalties.high))
                so_far = np.minimum.accumulate(np.minimum(validation, CAP), axis=1)
                jnn.plots.band(row[3], np.arange(1, validation.shape[1] + 1), so_far, label=method, color=color)
            row[0].set_ylabel(f"{space}\nL2 strength")
            row[3].set(xlabel="trials", title="best so far", ylabel="validation loss (nats)", yscale="log", ylim=(0.1, 3))
            row[3].set_yticks((0.1, 0.2, 0.5, 1, 2), ("0.1", "0.2", "0.5", "1", "2"))
            row[3].minorticks_off()
            row[3].legend()
        figure.suptitle(
            f"Left: one search of {len(validation)}; a ring marks the best trial, strokes below the points the learning rates "
            f"tried.\nRight: the mean of all {len(validation)} searches, with its 95 % interval as a band.",
            fontsize=8,
        )
        picture(out, "searches", figure)


def said(results, repetitions: int, side: int) -> str:
    answers = []

    def of(space):
        tests = {method: np.array(results[space][method]["test"]) for method in METHODS}
        rate, penalty = (100 * share for share in results[space]["effects"])
        each = "; ".join(
            f"{method} median {np.median(values):.3f}, mean {Interval.of(values):.3f}, {np.sum(values > WRONG)} above {WRONG}"
            for method, values in tests.items()
        )
        gaps = [Interval.of(tests["grid"] - tests["random"]), Interval.of(tests["random"] - tests["coarse to fine"])]
        verdicts = [
            "not shown to differ from" if g[1] <= 0 <= g[2] else "better than" if g[0] > 0 else "worse than" for g in gaps
        ]
        search = f"random search is {verdicts[0]} the grid, and coarse to fine {verdicts[1]} random search"
        answers.append(f"where {space}, {search}")
        signs = np.sign(tests["coarse to fine"] - tests["random"])
        below, same, above = (int(np.sum(signs == sign)) for sign in (-1, 0, 1))
        return (
            f"Where {space} (over the grid the learning rate alone accounts for {rate:.1f} % of the variance of the log loss, "
            f"the penalty for {penalty:.1f} %, both together for the rest) the winners' test losses are: {each}. Means of grid "
            f"less random {gaps[0]:.3f}, random less coarse to fine {gaps[1]:.3f}. Coarse to fine is below random in {below} "
            f"searches, above in {above}, the same in {same}, where their common half holds the winner."
        )

    details = " ".join(map(of, SPACES))
    return (
        f"By the winner's mean test loss, {'; '.join(answers)}. {repetitions} repeated searches of {side**2} trials, each "
        f"trial judged by {FOLDS}-fold cross-validation; 95 % intervals over repetitions, all drawn from the same 1,797 "
        f"digits, so that they are for this data set; losses are capped at log 10 where their variance is shared out. {details}"
    )


def main(arguments=None):
    options = commands.parser(__doc__, "hyperparameters", quick="4 repetitions, 100 steps").parse_args(arguments)
    (repetitions, steps), side = (4, 100) if options.quick else (100, 300), 4
    images, labels = jnn.data.digits()
    split_key, search_key = jax.random.split(jax.random.key(options.seed))
    splits = cross_validation.splits(split_key, len(labels), POOL, FOLDS, repetitions, steps)
    data = {"images": images, "labels": labels, **splits}
    keys = jax.random.split(search_key, repetitions)
    run = program(steps)
    results, found = {}, {}
    for name, space in SPACES.items():
        with stage(f"{name}: three ways, {repetitions} times {side**2} trials of {FOLDS} folds, {steps} steps"):
            found[name] = searched(lambda points, space=space: evaluated(run, points, space, data, options.seed), keys, side)
        results[name] = {
            method: {"validation": v.min(axis=1).tolist(), "test": winners(v, t).tolist()}
            for method, (_, v, t) in found[name].items()
        }
        results[name]["effects"] = effects(*found[name]["grid"][:2])
    recorded = record(options, said(results, repetitions, side), results)
    draw(options.out, found)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
