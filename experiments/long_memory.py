"""How far back can a recurrent network look, and what becomes of the gradient on its way there?

python -m experiments.long_memory [--quick] [--seed 0] [--out runs/long_memory]

The adding problem (Hochreiter & Schmidhuber 1997): numbers in [0, 1] of which two are marked, one in each half; the target is
their sum, and always saying 1 leaves an error of 1/6. The copying problem (Arjovsky et al. 2016): five of eight letters, to be
repeated after a delay; guessing gets 12.5 % of them. By length, for an Elman network with and without its gradient clipped to
the norm 1 (Pascanu et al. 2013), LSTM (forget bias 1, Jozefowicz et al. 2015) and GRU, 32 units each, recurrent matrices
orthogonal at first, a fresh batch of 32 at each step of Adam. The learning rate of each at each length is chosen from the same
three on validation sequences, and tested on others. Then the norm of the gradient of the last output's loss with respect to the
network's state (h, and c of the LSTM), by how many steps earlier, in the adding problem.

Expected: at 100 steps LSTM and GRU solve the adding problem (errors of 8e-5 to 2.5e-4 in four seeds), the Elman network stays
near 1/6 (0.157 to 0.162), clipped three of four runs begin to learn (0.015 to 0.05). Copying after 50 steps is beyond the gates
(LSTM 63 to 84 % wrong, GRU guesses), and the orthogonal Elman network is no worse (20 to 88 %). After training the gradient is
kept over 99 steps to a factor of 5 by the gates, and vanishes in three of four Elman networks (clipped in one). Half an hour on
one core, --quick half a minute, most of it compilation.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, recurrences, streams
from experiments.findings import Interval, picture, record, stage
from experiments.recall import TASKS, Task

BATCH, RATES = 32, (1e-3, 3e-3, 1e-2)
CLIPS = {"rnn": {"rnn": math.inf, "rnn, clipped": 1.0}, "lstm": {"lstm": math.inf}, "gru": {"gru": math.inf}}
NAMES = [name for names in CLIPS.values() for name in names]


def runs(task: Task, cell: str, length: int, trials, steps: int, seeds: int, seed: int, *, gradients: bool):
    """-> arrays with leading axes (trials, seeds): scores (2,) on validation and test sequences, and, if asked for, norms
    (2, time) of the gradients by the state before and after training.

    trials: learning rates, and the norms to which gradients are clipped."""
    model = jnn.serial(net=recurrences.network(task, cell), end=lambda y: y[..., -task.said :, :])
    objective = jnn.supervised(model, task.loss, metrics={"score": task.score})

    def run(trial, key):
        init_key, fit_key, judge_key = jax.random.split(key, 3)
        rate, clip = trial
        training = jnn.training(objective, jnn.optim.chain(jnn.optim.clip_by_global_norm(clip), jnn.optim.adam(rate)))
        draw = lambda key: task.draw(key, BATCH, length)
        start = training.init(init_key, jax.eval_shape(draw, fit_key))
        end = streams.fit(training, draw, start, key=fit_key, steps=steps).train_state
        judged = lambda key: jnn.evaluate(objective, end.params, {}, task.draw(key, 500, length))["score"]
        norms = lambda params: recurrences.state_gradients(task, cell, params["net"], *task.draw(judge_key, 50, length))
        both = jax.tree.map(lambda *a: jnp.stack(a), start.params, end.params)
        return jax.vmap(judged)(jax.random.split(judge_key)), jax.vmap(norms)(both) if gradients else None

    return jnn.sweep(run, trials, seeds=seeds, seed=seed)


def draw(out, results, norms):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3))
        for axes, (name, task) in zip(figure.subplots(1, 2), TASKS.items(), strict=True):
            lengths = [int(length) for length in results[name]]
            for network, color, marker in zip(NAMES, jnn.plots.COLORS, "os^D", strict=False):
                test = np.array([of[network]["test"] for of in results[name].values()])
                axes.plot(lengths, np.median(test, axis=1), color=color)
                axes.plot(lengths, test, color=color, marker=marker, markersize=3, linestyle="", alpha=0.6)
                axes.plot([], [], color=color, marker=marker, markersize=3, label=network)
            axes.axhline(task.chance, color="0.4", linestyle=":", linewidth=1)
            axes.text(lengths[0], task.chance, "guessing", va="bottom", fontsize=7, color="0.4")
            axes.set(xscale="log", xlabel=task.axes[0], ylabel=task.axes[1], title=f"the {name} problem")
            axes.set_xticks(lengths, lengths)
            axes.minorticks_off()
        figure.axes[0].set_yscale("log")
        figure.axes[1].set_ylim(-5, 105)
        figure.axes[1].legend(loc="center left", title="points: seeds, lines: medians", title_fontsize=8)
        picture(out, "lengths", figure)
        figure = Figure(figsize=(8, 3))
        for axes, (when, of) in zip(figure.subplots(1, 2, sharey=True), norms.items(), strict=True):
            for network, color, line in zip(NAMES, jnn.plots.COLORS, ("-", "--", "-", "-"), strict=False):
                back = np.arange(of[network].shape[1], 0, -1)
                norm = np.where(of[network] > 0, of[network], np.nan)  # too small for float32
                lines = axes.plot(back, norm.T, color=color, linestyle=line, linewidth=1)
                lines[0].set_label(network)
            axes.set(xlabel="steps before the end", title=f"{when} training", yscale="log")
        figure.axes[0].set_ylabel("gradient of the loss by the state, norm")
        figure.axes[1].legend()
        picture(out, "gradients", figure)


def spread(values) -> Interval:
    """The median and the range of a few runs, some of which fail altogether: no interval of their mean would hold."""
    return Interval((float(np.median(values)), float(np.min(values)), float(np.max(values))))


def called(of: dict) -> str:
    """Of each network, in words without further commas."""
    return ", ".join(f"{'clipped rnn' if name == 'rnn, clipped' else name} {value}" for name, value in of.items())


def farthest(name: str, results) -> dict[str, str]:
    """The longest length at which every run stays below half of what guessing gets, of each network."""
    solved = lambda of: max(of["test"]) < TASKS[name].chance / 2
    return {n: ([length for length, of in results.items() if solved(of[n])] or ["none"])[-1] for n in NAMES}


def scored(name: str, results) -> str:
    task, unit, form = TASKS[name], "" if name == "adding" else " %", ".2g" if name == "adding" else ".1f"
    text = f"{name.capitalize()}, {task.axes[1]} (guessing {task.chance:.3g}{unit}): "
    scores = {length: {n: f"{spread(of[n]['test']):{form}}" for n in NAMES} for length, of in results.items()}
    return text + "; ".join(f"at {length} steps {called(of)}" for length, of in scores.items()) + ". "


def described(results, seeds: int, steps: int) -> str:
    norms = {when: {n: np.array(of) for n, of in each.items()} for when, each in results["gradients"].items()}
    least = np.finfo(np.float32).tiny  # a floor where float32 has nothing left
    before, after = ({n: np.log10(of[:, 0] / of[:, -1] + least) for n, of in each.items()} for each in norms.values())
    listed = {n: " / ".join("nothing left" if power < -37 else f"{power:z.1f}" for power in of) for n, of in after.items()}
    tried = [(name, length, of) for name in TASKS for length, of in results[name].items()]
    cases = lambda rate, n: [f"{name} {length}" for name, length, of in tried if of[n]["learning_rate"] == rate]
    ends = [called({n: " / ".join(cases(rate, n)) or "never" for n in NAMES}) for rate in (RATES[0], RATES[-1])]
    return (
        f"Of the lengths tried, all {seeds} runs stay below half of guessing's error up to (steps): "
        + "; ".join(f"{name} {called(farthest(name, results[name]))}" for name in TASKS)
        + f"; back over {norms['after']['rnn'].shape[1] - 1} steps of the adding problem the norm of the gradient by the "
        + f"state keeps at least a tenth in so many of {seeds} networks after training: "
        + f"{called({n: sum(after[n] > -1) for n in NAMES})}. "
        + f"Medians and ranges of {seeds} seeds, {steps} steps of training. "
        + "".join(scored(name, results[name]) for name in TASKS)
        + "Powers of ten by which it changes there: before training (median and range) "
        + f"{called({n: f'{spread(before[n]):.1f}' for n in NAMES})}; after it, each run, {called(listed)} (where nothing is "
        + f"left it is too small for float32). The chosen learning rate is the lowest of those tried: {ends[0]}; the highest: "
        + f"{ends[1]}."
    )


def main(arguments=None):
    options = commands.parser(__doc__, "long_memory", quick="one length, 3 seeds, 300 steps").parse_args(arguments)
    seeds, steps = (3, 300) if options.quick else (4, 4000)
    rates = (1e-2,) if options.quick else RATES
    results, norms = {}, {"before": {}, "after": {}}
    for name, task in TASKS.items():
        results[name] = {}
        for length in task.lengths[:1] if options.quick else task.lengths:
            found = results[name][str(length)] = {}
            for cell, clips in CLIPS.items():
                trials = jnp.array([(rate, clip) for clip in clips.values() for rate in rates]).T
                with stage(f"{name}, {length} steps, {cell}: {trials.shape[1]} trials, {seeds} seeds, {steps} steps"):
                    looked = {"gradients": name == "adding" and (options.quick or length == task.lengths[-1])}
                    scores, changes = runs(task, cell, length, tuple(trials), steps, seeds, options.seed, **looked)
                for i, network in enumerate(clips):
                    mine = slice(i * len(rates), (i + 1) * len(rates))
                    validation, test = np.moveaxis(np.asarray(scores[mine]), -1, 0)
                    best = int(np.argmin(np.nan_to_num(validation.mean(axis=1), nan=np.inf)))
                    found[network] = {"test": test[best].tolist(), "learning_rate": rates[best]}
                    if changes is not None:
                        norms["before"][network], norms["after"][network] = np.moveaxis(np.asarray(changes[mine][best]), 1, 0)
    results["gradients"] = {when: {network: of.tolist() for network, of in each.items()} for when, each in norms.items()}
    recorded = record(options, described(results, seeds, steps), results)
    draw(options.out, results, norms)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
