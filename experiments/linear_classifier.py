"""What does a linear classifier see, and does it matter whether its loss is softmax or hinge?

python -m experiments.linear_classifier [--quick] [--seed 0] [--out runs/linear_classifier]

One matrix from the pixels of Fashion-MNIST to ten classes, by softmax cross-entropy and by the multi-class hinge (Weston &
Watkins 1999), the learning rate of each chosen on 6,000 examples held out, tested once on the test part, over five seeds; the
two are compared seed by seed. Before training, weights of zero give log(classes) and classes - 1. The columns of the trained
matrix are ten templates. The same matrix with sigmoids tells five attributes of which an article may have several; they are
functions of its class.

Expected: softmax 84.7 % (84.6 to 84.8), hinge 84.6 % (84.6 to 84.7), their difference no larger than its interval. About two
and a half minutes on one core (72 s with half of the learning rates), --quick under a minute.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.fashion import CLASSES, parts, scaled
from experiments.findings import Interval, edges, picture, record, stage

ATTRIBUTES = {
    "worn on the feet": ("sandal", "sneaker", "boot"),
    "worn above the waist": ("T-shirt", "pullover", "dress", "coat", "shirt"),
    "long sleeves": ("pullover", "coat", "shirt"),
    "worn below the waist": ("trousers", "dress"),
    "opens in front": ("coat", "shirt"),
}
LOSSES = {"softmax": jnn.losses.softmax_cross_entropy, "hinge": jnn.losses.hinge}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def classifier(loss, outputs: int = 10, metric=jnn.metrics.accuracy, **options):
    """An Objective: pixels in [0, 255] -> outputs, one matrix and one vector."""
    model = jnn.serial(scaled, jnn.flatten(), jnn.dense(outputs, **options))
    return jnn.supervised(model, loss, metrics={"accuracy": metric})


def attributes(labels) -> np.ndarray:
    """(n,) classes -> (n, 5) float32, 1 where the article has the attribute."""
    has = [[name in names for names in ATTRIBUTES.values()] for name in CLASSES]
    return np.array(has, np.float32)[labels]


def trained(objective, train, validation, rates, steps: int, seeds: int, seed: int):
    """-> params of each seed, leading axis (seeds,), with the learning rate of the best mean accuracy on validation; that rate;
    the accuracies on validation in percent, (rates, seeds)."""

    def run(rate, key, data):
        training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(rate, steps)))
        fitted = jnn.fit(training, data["train"], key=key, steps=steps, batch_size=128)
        params = fitted.train_state.params
        scores = jnn.evaluate(objective, params, {}, data["validation"], batch_size=1000)
        return params, scores["accuracy"]

    data = {"train": train, "validation": validation}
    params, accuracy = jnn.sweep(run, jnp.array(rates), seeds=seeds, seed=seed, data=data)
    best = int(accuracy.mean(axis=1).argmax())
    return jax.tree.map(lambda a: a[best], params), rates[best], 100 * np.asarray(accuracy)


def tested(objective, params, test) -> np.ndarray:
    """Accuracy in percent, (seeds,)."""
    score = jax.vmap(lambda p: jnn.evaluate(objective, p, {}, test, batch_size=1000)["accuracy"])
    return 100 * np.asarray(score(params))


def templates(out, params_by_loss):
    """The columns of each matrix as pictures on one scale, of the first seed."""
    with jnn.plots.style():
        figure = Figure(figsize=(9, 2.4))
        grid = figure.subplots(len(params_by_loss), 10)
        for row, (name, params) in zip(grid, params_by_loss.items(), strict=True):
            weights = np.asarray(params["dense_2"]["w"][0])
            most = np.percentile(np.abs(weights), 99)  # the few beyond it belong to border pixels that are almost never lit
            for axes, template, title in zip(row, weights.T, CLASSES, strict=True):
                jnn.plots.image(axes, template.reshape(28, 28), title=title if name == "softmax" else "", symmetric=True)
                axes.images[0].set_clim(-most, most)
            row[0].set_ylabel(name)
            figure.colorbar(row[0].images[0], ax=list(row), extend="both")
        figure.suptitle("Weights of each class: red adds to its score, blue takes away; 1 % lie beyond the scale", fontsize=9)
        picture(out, "templates", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "linear_classifier", quick="2 seeds, 300 steps").parse_args(arguments)
    seeds, steps = (2, 300) if options.quick else (5, 6000)
    train, validation, test = parts()
    rates = RATES[1:3] if options.quick else RATES
    results, found = {}, {}
    for name, loss in LOSSES.items():
        zero = classifier(loss, w_init=jnn.initializers.zeros)
        at_zero = jnn.evaluate(zero, zero.init(jax.random.key(0), train)[0], {}, validation, batch_size=1000)["loss"]
        with stage(f"{name}: {len(rates)} learning rates, {seeds} seeds, {steps} steps"):
            found[name], rate, held_out = trained(classifier(loss), train, validation, rates, steps, seeds, options.seed)
        results[name] = {
            "test_accuracy": tested(classifier(loss), found[name], test).tolist(),
            "learning_rate": rate,
            "validation_accuracy": held_out.tolist(),
            "loss_at_zero": float(at_zero),
        }
    several = classifier(
        jnn.losses.sigmoid_cross_entropy, len(ATTRIBUTES), lambda z, y: jnp.mean((z > 0) == (y > 0.5), axis=-1)
    )
    with stage("five attributes by sigmoids"):
        data = [(images, attributes(labels)) for images, labels in (train, validation, test)]
        params, rate, held_out = trained(several, data[0], data[1], rates, steps, seeds, options.seed)
    results["attributes"] = {
        "test_accuracy": tested(several, params, data[2]).tolist(),
        "learning_rate": rate,
        "validation_accuracy": held_out.tolist(),
        "names": list(ATTRIBUTES),
        "always_no": 100 * float(1 - data[2][1].mean()),
    }

    softmax, hinge, several = (Interval.of(results[name]["test_accuracy"]) for name in ("softmax", "hinge", "attributes"))
    more = Interval.of(np.subtract(results["softmax"]["test_accuracy"], results["hinge"]["test_accuracy"]))
    verdict = "no difference is shown" if more[1] <= 0 <= more[2] else "it matters, by so much"
    chance = 1.96 * np.sqrt(softmax[0] * (100 - softmax[0]) / len(test[1]))
    at_edge = edges({name: results[name]["learning_rate"] for name in results}, rates)
    zero = {name: results[name]["loss_at_zero"] for name in LOSSES}
    finding = (
        f"A linear classifier gets {softmax:.1f %} of Fashion-MNIST's test pictures right by softmax and {hinge:.1f %} by the "
        f"hinge (mean and 95 % interval over {seeds} seeds), seed by seed {more:+.2f} points more: {verdict}. That the "
        f"test part has only {len(test[1]):,} pictures adds ±{chance:.1f} points to either share. With weights of zero the "
        f"losses are {zero['softmax']:.4f} (log 10 is {math.log(10):.4f}) and {zero['hinge']:.4f} (10 - 1). Five attributes, "
        f"functions of the class of which several may hold, are told by sigmoids, {several:.1f %} right; saying no to all gets "
        f"{results['attributes']['always_no']:.1f} %.{at_edge}"
    )
    recorded = record(options, finding, results)
    templates(options.out, found)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
