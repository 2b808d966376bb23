"""Does batch norm let a network take higher learning rates and care less about its initialization?

python -m experiments.batch_norm [--quick] [--seed 0] [--out runs/batch_norm]

Five hidden layers of 64 units with relu on 10,000 pictures of Fashion-MNIST, plain gradient descent in batches of 64 for 400
steps, without and with batch norm before the activation (Ioffe & Szegedy 2015): nine learning rates, seven factors on the
weights of kaiming's initialization, three seeds, all in one program each. Shown is the accuracy on 5,000 other pictures, a
dash where a seed diverged; the best cell of each is tested once on the test part. Why batch norm should do so: a layer under
it gives the same whatever the scale of its weights, and the gradient shrinks as they grow (section 3.3 of the paper). How many
cells count as trained depends on the threshold, as the best cell without batch norm has 77 %: two are given.

Expected: of 63 cells 5 to 7 reach 60 % validation accuracy without batch norm and 49 or 50 with it, one or two and 38 or 39
reach 75 %, at kaiming's scale up to a learning rate of 0.1 without and 3 with it. About a minute on one core, --quick less.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, towers
from experiments.fashion import scaled
from experiments.findings import Interval, picture, record, stage

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SCALES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
WORKS = (60.0, 75.0)  # accuracies in percent from which on a cell counts as trained


def network(scale, normed: bool, *, width: int = 64, layers: int = 5):
    """Pixels in [0, 255] -> 10 logits. scale: a factor on the hidden layers' initial weights; may be traced."""

    def block():
        dense = jnn.dense(width, w_init=jnn.initializers.kaiming_normal(scale=scale))
        return jnn.serial(dense, *((jnn.batch_norm(),) if normed else ()), jax.nn.relu)

    return jnn.serial(scaled, jnn.flatten(), first=block(), hidden=jnn.repeat(block(), layers - 1), head=jnn.dense(10))


def trainer(normed: bool, steps: int):
    """A function for `sweep`: accuracy in percent on the validation part, and on the test part."""

    def train(hparams, key, data):
        objective = towers.classifier(network(hparams["scale"], normed))
        training = jnn.training(objective, jnn.optim.sgd(hparams["rate"]))
        end = jnn.fit(training, data["train"], key=key, steps=steps, batch_size=64).train_state
        scores = (
            jnn.evaluate(objective, end.params, end.state, data[part], batch_size=1000) for part in ("validation", "test")
        )
        return [100 * score["accuracy"] for score in scores]

    return train


def swept(normed: bool, data, rates, scales, steps: int, seeds: int, seed: int):
    """-> accuracy in percent on validation and on test, each (scales, rates, seeds)."""
    grid = {"scale": np.repeat(scales, len(rates)), "rate": np.tile(rates, len(scales))}
    grid = {name: jnp.asarray(values, jnp.float32) for name, values in grid.items()}
    with stage(f"{'with' if normed else 'without'} batch norm: {len(grid['rate'])} cells, {seeds} seeds, {steps} steps"):
        scores = jnn.sweep(trainer(normed, steps), grid, seeds=seeds, seed=seed, data=data)
        return [np.asarray(a).reshape(len(scales), len(rates), seeds) for a in scores]


def summary(validation, test, rates, scales) -> dict:
    """What is said of one heat map; every list has one entry for each seed. by_threshold: how many cells work, the highest rate
    that does at kaiming's scale, at how many scales some rate does."""
    by_threshold = {}
    for threshold in WORKS:
        works = validation >= threshold
        at_one = works[list(scales).index(1.0)]
        by_threshold[f"{threshold:g}"] = {
            "cells": works.sum(axis=(0, 1)).tolist(),
            "highest_rate": [max((rate for rate, ok in zip(rates, one, strict=True) if ok), default=0.0) for one in at_one.T],
            "scales": works.any(axis=1).sum(axis=0).tolist(),
        }
    mean = validation.mean(axis=2)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    return {
        "by_threshold": by_threshold,
        "best": {"scale": scales[row], "rate": rates[column], "test_accuracy": Interval.of(test[row, column])},
    }


def heatmaps(out, validation, rates, scales):
    with jnn.plots.style():
        figure = Figure(figsize=(10.5, 3.8))
        for axes, (title, values) in zip(figure.subplots(1, 2), validation.items(), strict=True):
            names = {"x": [f"{rate:g}" for rate in rates], "y": [f"{scale:g}" for scale in scales]}
            labels = {"xlabel": "learning rate", "ylabel": "factor on kaiming's weights", "label": "validation accuracy, %"}
            # NaN is a dash: a run that diverged has no accuracy to be averaged
            mean = np.where(values == 0, np.nan, values).mean(axis=2)
            jnn.plots.heatmap(axes, mean, **names, **labels, vmin=10, vmax=90)
            axes.set_title(f"{title} batch norm (a dash: a seed diverged)")
            axes.invert_yaxis()
        picture(out, "heatmaps", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "batch_norm", quick="3 rates, 3 scales, 150 steps").parse_args(arguments)
    (images, labels), test = jnn.data.fashion_mnist()
    rates, scales, steps, seeds, size = RATES, SCALES, 400, 3, 10_000
    if options.quick:
        rates, scales, steps, seeds, size = RATES[3::2], (0.1, 1.0, 3.0), 150, 3, 5000
        test = tuple(a[:1000] for a in test)
    data = {"train": (images[:size], labels[:size]), "validation": (images[-size // 2 :], labels[-size // 2 :]), "test": test}
    validation, found = {}, {}
    for title in ("without", "with"):
        validation[title], tested = swept(title == "with", data, rates, scales, steps, seeds, options.seed)
        found[title] = summary(validation[title], tested, rates, scales)

    def at(threshold):
        without, normed = (found[title]["by_threshold"][f"{threshold:g}"] for title in ("without", "with"))
        each = {name: f"{_each(without[name])} without and {_each(normed[name])} with it" for name in without}
        return (
            f"{threshold:.0f} % are reached by {each['cells']}, at kaiming's own scale by learning rates of at most "
            f"{each['highest_rate']}, at some rate by {each['scales']} of {len(scales)} scales."
        )

    best = [found[title]["best"]["test_accuracy"] for title in ("without", "with")]
    overlap = "; the intervals overlap" if best[0][2] >= best[1][1] and best[1][2] >= best[0][1] else ""
    finding = (
        f"Of {len(scales) * len(rates)} pairs of learning rate ({rates[0]:g} to {rates[-1]:g}) and initial scale, how many "
        f"reach a validation accuracy within {steps} steps, without batch norm and with it, seed by seed: "
        f"{' '.join(map(at, WORKS))} The best cells get {best[0]:.1f %} and {best[1]:.1f %} of the test pictures right (mean "
        f"and 95 % interval over {seeds} seeds{overlap})."
    )
    accuracy = {title: values.tolist() for title, values in validation.items()}
    recorded = record(options, finding, {"rates": rates, "scales": scales, "validation_accuracy": accuracy, **found})
    heatmaps(options.out, validation, rates, scales)
    return recorded


def _each(values) -> str:
    return " / ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
