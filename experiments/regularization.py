"""What closes the gap between training and test on a small training set?

python -m experiments.regularization [--quick] [--seed 0] [--out runs/regularization]

A network 784-128-10 with relu on 500 pictures of Fashion-MNIST, drawn anew for each of eight seeds, 800 steps of Adam in
batches of 50 at 0.003, decaying as a cosine: l1 (Tibshirani 1996), l2, elastic net (Zou & Hastie 2005), max-norm and dropout
(Srivastava et al. 2014), noise on the pixels (Bishop 1995), early stopping (Prechelt 1998). Strengths are numbers, so that
every strength of every method is a trial of one program; each method's strength is that of the least mean loss on 5,000
validation pictures, tested once on the test part. Early stopping trains until the least loss, in the history of a whole run,
on 1,000 of these. Sparsity is the share of weights within 0.001 of zero. Inverted dropout (scaled while training) is measured
against plain dropout (at test time).

Expected: the gap of the losses falls from 0.85 to between 0.34 (L1) and 0.61 (noise); accuracy hardly moves: max-norm gains 0.4
points (0.1 to 0.6), L1 loses 0.5. Inverted and plain dropout agree, 1.0 standard errors off the mean over masks.
About 6 minutes on 2 cores, --quick under a minute.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, dropouts
from experiments.findings import Interval, interval_rows, picture, record, stage
from experiments.regularized_network import NONE, network, run, scored

METHODS = {
    "none": [{}],
    "l1": [{"l1": s} for s in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)],
    "l2": [{"l2": s} for s in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
    "elastic net": [{"l1": one, "l2": two} for one in (1e-5, 3e-5, 1e-4) for two in (3e-4, 3e-3)],
    "max-norm": [{"limit": s} for s in (0.25, 0.5, 1.0, 1.5, 2.0)],
    "dropout": [{"rate": s} for s in (0.1, 0.25, 0.5, 0.75)],
    "noise": [{"noise": s} for s in (0.1, 0.2, 0.4, 0.8)],
}
EXAMPLES, EVERY, ZERO = 500, 10, 1e-3


def trainer(steps: int, stops_early: bool = False):
    """A function for `sweep`: the parameters, and loss and accuracy on its own training examples and on validation."""

    def train(hparams, key, data):
        draw_key, fit_key = jax.random.split(key)
        pool = len(data["pool"][0])
        mine = jax.random.choice(draw_key, pool, (EXAMPLES,), replace=False)
        examples = jax.tree.map(lambda a: a[mine], data["pool"])
        stop = jnp.asarray(steps)
        if stops_early:
            history = run(hparams, fit_key, examples, steps, eval_data=data["watched"], eval_every=EVERY).history
            stop = EVERY * (1 + jnp.argmin(history["eval"]["loss"]))
        params = run(hparams, fit_key, examples, steps, stop).train_state.params
        parts = {"train": examples, "validation": data["validation"]}
        return params, {part: scored(params, batch) for part, batch in parts.items()}, stop

    return train


def all_methods(data, methods, steps: int, seeds: int, seed: int) -> dict[str, tuple]:
    """method -> its setting, and what `trainer` gives with it (seeds, ...): one sweep for all but early stopping."""

    def swept(settings, stops_early=False):
        grid = {name: jnp.array([setting[name] for setting in settings], jnp.float32) for name in NONE}
        with stage(f"{len(settings)} trials, {seeds} seeds, {steps} steps{', stopped early' * stops_early}"):
            return jnn.sweep(trainer(steps, stops_early), grid, seeds=seeds, seed=seed, data=data)

    trials = [(name, setting) for name, settings in methods.items() for setting in settings]
    results = swept([NONE | setting for _, setting in trials])
    loss = np.asarray(results[1]["validation"]["loss"]).mean(axis=1)
    found = {}
    for method in methods:
        mine = [i for i, (name, _) in enumerate(trials) if name == method]
        best = mine[int(np.argmin(loss[mine]))]
        found[method] = (trials[best][1], *jax.tree.map(lambda a, best=best: a[best], results))
    return found | {"early stopping": ({}, *jax.tree.map(lambda a: a[0], swept([NONE], stops_early=True)))}


def sparsity(params):
    """The share of weights within ZERO of zero, (seeds,)."""
    weights = [np.abs(np.asarray(layer["w"])).reshape(len(layer["w"]), -1) for layer in params.values()]
    return np.mean(np.concatenate(weights, axis=1) < ZERO, axis=1)


def judged(setting, params, scores, steps) -> dict:
    """What is recorded of a method: intervals over the seeds, percent but for the losses."""
    scores = {
        part: {"accuracy": 100 * np.asarray(of["accuracy"]), "loss": np.asarray(of["loss"])} for part, of in scores.items()
    }
    return {
        "setting": setting,
        **{part: {name: Interval.of(values) for name, values in scores[part].items()} for part in ("train", "test")},
        "gap": Interval.of(scores["test"]["loss"] - scores["train"]["loss"]),
        "sparsity": Interval.of(100 * sparsity(params)),
        "steps": np.asarray(steps).tolist(),
        "test_accuracy": scores["test"]["accuracy"].tolist(),
    }


def draw(out, found):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3.4))
        for axes, key in zip(figure.subplots(1, 2, sharey=True), ("accuracy", "loss"), strict=True):
            for part, label, color, marker in (("train", "training", 1, "s"), ("test", "test", 0, "o")):
                rows = {name: one[part][key] for name, one in found.items()}
                interval_rows(axes, rows, label=label, color=jnn.plots.COLORS[color], marker=marker)
            axes.set_xlabel({"accuracy": "accuracy, %", "loss": "loss (cross-entropy)"}[key])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        picture(out, "gap", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "regularization", quick="one strength each, 2 seeds, 100 steps").parse_args(arguments)
    steps, seeds = (100, 2) if options.quick else (800, 8)
    methods = {name: settings[2:3] or settings for name, settings in METHODS.items()} if options.quick else METHODS
    (images, labels), test = jnn.data.fashion_mnist()
    parts = {"pool": slice(None, -5000), "validation": slice(-5000, None), "watched": slice(-1000, None)}
    data = {name: (images[part], labels[part]) for name, part in parts.items()}
    runs = all_methods(data, methods, steps, seeds, options.seed)
    tested = jax.vmap(partial(scored, part=test))
    with stage("test"):
        found = {
            name: judged(setting, params, scores | {"test": tested(params)}, stop)
            for name, (setting, params, scores, stop) in runs.items()
        }
    for one in found.values():
        one["gain"] = Interval.of(np.subtract(one["test_accuracy"], found["none"]["test_accuracy"]))
    pruned = tested(jax.tree.map(lambda w: jnp.where(jnp.abs(w) < ZERO, 0.0, w), runs["l1"][1]))
    pruned = Interval.of(100 * pruned["accuracy"])
    setting, params, *_ = runs["dropout"]
    first = jax.tree.map(lambda a: a[0], params)
    check = dropouts.agreement(network, first, test[0][:64], setting["rate"], 1000, jax.random.key(options.seed))
    draw(options.out, found)

    none = found["none"]
    others = "; ".join(f"{name} {one['gain']:+.1f}, gap {one['gap'][0]:.2f}" for name, one in found.items() if name != "none")
    finding = (
        f"Trained on {EXAMPLES} pictures without regularization, a network gets {none['train']['accuracy']:.1f %} of them "
        f"and {none['test']['accuracy']:.1f %} of the test pictures right, and its test loss is {none['gap']:.2f} above its "
        f"training loss (means and 95 % intervals over {seeds} seeds). Percent of test pictures gained, and the gap of the "
        f"losses: {others}. l1 leaves {found['l1']['sparsity']:.1f %} of the weights within {ZERO} of zero, against "
        f"{none['sparsity']:.1f %}; with those set to zero the test accuracy is {pruned:.1f %}, from "
        f"{found['l1']['test']['accuracy']:.1f %}. Inverted and plain dropout give logits that differ by "
        f"{check['tested']:.0e} at test time, and both agree with the mean over masks "
        f"({check['standard_errors']['inverted']:.2f} and {check['standard_errors']['plain']:.2f} standard errors off); "
        f"class probabilities, behind the softmax, are {check['probability']:.3f} off that mean."
    )
    return record(options, finding, {"methods": found, "pruned_l1": pruned, "dropout": check})


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
