"""Do features learned on some classes help to learn others from few examples, and shall they be kept or trained on?

python -m experiments.transfer [--quick] [--seed 0] [--out runs/transfer]

A convolutional network learns five classes of Fashion-MNIST. Its convolutions then go on to the other five, of which there
are 20, 100 or 500 examples: frozen below a new head, or fine-tuned with it (Yosinski et al. 2014). Beside it the same network
from random weights (scratch), and a head on random convolutions that stay as they are, with the same examples, steps and
batches. Each of ten seeds is a replication with a split of the ten classes of its own. Each way has the learning rate of its
best mean accuracy on 1,000 examples held out, for each number of examples; that one is tested, on the 5,000 test pictures of
the five classes.

Expected: hardly any gain over scratch (fine-tuned +1.0 points, -0.9 to +2.8, at 20 examples, +0.2, 0.0 to +0.4, at 500), of
the frozen ones 1.1 points (0.6 to 1.6) over random convolutions at 500, none shown at 20. About ten minutes on 2
cores, --quick 20 seconds.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.fashion import by_class, in_turn, scaled
from experiments.findings import Interval, edges, picture, record, stage

SIZES = (20, 100, 500)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
WAYS = {"scratch": (False, False), "fine-tuned": (True, False), "frozen": (True, True), "random": (False, True)}
NETWORK = jnn.serial(scaled, vgg=jnn.models.vgg(5, stages=((16,), (32,), (64,)), hidden=()))
BODY = "stage_*"  # all but the head
OBJECTIVE = jnn.supervised(NETWORK, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})


def accuracy(params, data):
    return 100 * jnn.evaluate(OBJECTIVE, params, {}, data, batch_size=500)["accuracy"]


def tuned(body, *, learned, frozen, size, rate, key, target, steps):
    """-> params of the network after `steps` batches of 20 from the first `size` examples of the target classes. It begins with
    `body` where `learned` (which may be traced), else with random weights."""
    order_key, fit_key = jax.random.split(key)
    optimizer = jnn.optim.adam(jnn.schedules.cosine(rate, steps))
    training = jnn.training(OBJECTIVE, jnn.optim.freeze(optimizer, BODY) if frozen else optimizer)
    start = training.init(fit_key, target)
    began = jax.tree.map(lambda old, new: jnp.where(learned, old, new), body, jnn.tree.select(start.params, BODY))
    start = start._replace(params=jnn.tree.merge(start.params, began))
    order = jax.random.randint(order_key, (steps, 20), 0, size)
    return jnn.fit(training, target, key=fit_key, steps=steps, order=order, start=start).train_state.params


def replication(source_steps, steps, rates):
    """-> train(_, key, data) for `jnn.sweep`: a split of the classes, the features, and all that is made of them: the accuracy
    on the "source" classes, and of each way "validation" and "test" (sizes, rates)."""

    def train(_, key, data):
        split_key, source_key, pick_key, tune_key = jax.random.split(key, 4)
        classes = jax.random.permutation(split_key, 10)
        train_part, test = (data[name][classes] for name in ("train", "test"))
        source = in_turn(train_part[:5])
        training = jnn.training(OBJECTIVE, jnn.optim.adam(jnn.schedules.cosine(2e-3, source_steps)))
        params = jnn.fit(training, source, key=source_key, steps=source_steps, batch_size=64).train_state.params
        picked = jax.random.permutation(pick_key, 5000)[: max(SIZES) // 5]
        target, validation = in_turn(train_part[5:, picked]), in_turn(train_part[5:, -200:])
        tune = partial(tuned, jnn.tree.select(params, BODY), key=tune_key, target=target, steps=steps)

        def scores(frozen):
            def of(hparams):
                learned, size, rate = hparams
                found = tune(learned=learned, frozen=frozen, size=size, rate=rate)
                return {"validation": accuracy(found, validation), "test": accuracy(found, in_turn(test[5:]))}

            grid = jnp.meshgrid(jnp.array([False, True]), jnp.array(SIZES), jnp.array(rates), indexing="ij")
            found = jax.lax.map(of, tuple(a.ravel() for a in grid))
            return jax.tree.map(lambda a: a.reshape(grid[0].shape), found)

        found = {frozen: scores(frozen) for frozen in (False, True)}
        ways = {way: jax.tree.map(lambda a, i=int(learned): a[i], found[frozen]) for way, (learned, frozen) in WAYS.items()}
        return {"source": accuracy(params, in_turn(test[:5])), **ways}

    return train


def chosen(scores, rates):
    """{"validation", "test"}, (seeds, sizes, rates) -> accuracy on test (seeds, sizes) at the rates of the best mean on
    validation, and these rates."""
    best = scores["validation"].mean(axis=0).argmax(axis=-1)
    return scores["test"][:, np.arange(len(best)), best], [rates[i] for i in best]


def draw(out, accuracies):
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    for i, (way, values) in enumerate(accuracies.items()):
        jnn.plots.band(left, SIZES, values, label=way, color=jnn.plots.COLORS[i], marker="o", markersize=3)
        if way != "scratch":
            gain = values - accuracies["scratch"]
            jnn.plots.band(right, SIZES, gain, label=way, color=jnn.plots.COLORS[i], marker="o", markersize=3)
    right.axhline(0, color="black", linewidth=0.8)
    left.set(ylabel="accuracy in percent", title="Five classes, from few examples")
    right.set(ylabel="points", title="Gain over training from nothing")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_xlabel("examples")
    left.legend()
    picture(out, "transfer", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "transfer", quick="2 seeds, 200 and 30 steps").parse_args(arguments)
    seeds, source_steps, steps, rates = (2, 200, 30, RATES[1:3]) if options.quick else (10, 2500, 400, RATES)
    train, test = jnn.data.fashion_mnist()
    data = {"train": by_class(*train), "test": by_class(*test)[:, : 100 if options.quick else 1000]}
    with stage(f"{seeds} seeds: five classes, then {len(WAYS)} ways, {len(SIZES)} sizes, {len(rates)} learning rates"):
        found = jnn.sweep(replication(source_steps, steps, rates), jnp.zeros(1), seeds=seeds, seed=options.seed, data=data)
    found = jax.tree.map(lambda a: np.asarray(a[0]), found)
    accuracies, learning_rates = {}, {}
    for way in WAYS:
        accuracies[way], learning_rates[way] = chosen(found[way], rates)
    results = {
        "sizes": SIZES,
        "learning_rates": learning_rates,
        "test_accuracy": {way: values.tolist() for way, values in accuracies.items()},
        "source_accuracy": found["source"].tolist(),
    }
    recorded = record(options, described(accuracies, learning_rates, found["source"]), results)
    with jnn.plots.style():
        draw(options.out, accuracies)
    return recorded


def described(accuracies, learning_rates, source) -> str:
    def gains(i, over, ways):
        each = {way: Interval.of(accuracies[way][:, i] - accuracies[over][:, i]) for way in ways}
        return ", ".join(f"{way} {gain:+.1f}" for way, gain in each.items())

    def of(i, size):
        values = ", ".join(f"{way} {Interval.of(accuracies[way][:, i]):.1f}" for way in WAYS)
        return (
            f"With {size} examples: {values} percent of the test pictures right; in points and in pairs, over scratch "
            f"{gains(i, 'scratch', ('fine-tuned', 'frozen'))}, over random convolutions {gains(i, 'random', ('frozen',))}."
        )

    chosen = {f"{way} {size}": rate for way, rates in learning_rates.items() for size, rate in zip(SIZES, rates, strict=True)}
    return (
        f"Features of five classes of Fashion-MNIST ({Interval.of(source):.1f %} right on them) taken to the other five. "
        f"{' '.join(of(i, size) for i, size in enumerate(SIZES))} Means and 95 % intervals over {len(source)} replications, "
        "each with a split of its own. Where random convolutions do as well as learned ones, there is little that learned "
        f"ones could bring along.{edges(chosen, RATES)}"
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
