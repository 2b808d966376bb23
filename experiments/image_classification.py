"""Which small convolutional network tells clothes best, does augmentation help it, and what does it look at?

python -m experiments.image_classification [--quick] [--seed 0] [--out runs/image_classification]

Four networks of similar cost on Fashion-MNIST: three convolutions with batch norm (Ioffe & Szegedy 2015), a VGG (Simonyan &
Zisserman 2015), a residual network (He et al. 2016) and one of Inception modules (Szegedy et al. 2015), eight epochs of AdamW
with a cosine schedule over three seeds, each at the learning rate that was best on 3,000 examples held out after 500 steps with
one seed and without augmentation. The first is trained with and without flips, shifts, zoom and brightness, at that one rate;
what is better on the examples held out goes for all, and is tested once. Of the first network: its filters, how alike
(correlation), how strong (variance) and how sparse its feature maps are, before and after training, and saliency, the gradient
of a class score by the pixels (Simonyan et al. 2014).

Expected: the cnn 92.3 % (92.1 to 92.6), the residual network 93.3 % (92.3 to 94.2), the VGG 91.4 %, Inception 92.3 %; no gain
by augmentation in eight epochs is shown. All take the highest rate of the grid. 85 minutes on one core, --quick 20 seconds.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands, feature_maps
from experiments.fashion import CLASSES, cnn, inception, parts, resnet, vgg
from experiments.findings import Interval, is_at_edge, picture, record, stage

NETWORKS = {"cnn": cnn(), "vgg": vgg(), "resnet": resnet(), "inception": inception()}
AMOUNTS = {"plain": 0.0, "augmented": 1.0}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
BATCH, EPOCHS = 64, 8


def augmentation(amount):
    """Flips, shifts by a pixel, zoom by 5 % and brightness by 10 % at amount 1, nothing at 0."""
    aug = jnn.augmentations
    return aug.chain(aug.flip(0.5 * amount), aug.crop(amount), aug.zoom(0.05 * amount), aug.brightness(0.1 * amount))


def objective_of(network, amount=0.0):
    metrics = {"accuracy": jnn.metrics.accuracy}
    return jnn.supervised(NETWORKS[network], jnn.losses.softmax_cross_entropy, metrics=metrics, augment=augmentation(amount))


def trained(network, hparams, data, *, steps, seeds, seed, points=1):
    """hparams: {"rate": (trials,), "amount": (trials,)} -> (params, state) {"before", "after"} training, and curves {"train",
    "validation"}: accuracy in percent over (trials, seeds, points), of the batches since the last point and of the examples
    held out."""

    def run(hparams, key, data):
        schedule = jnn.schedules.warmup_cosine(hparams["rate"], steps // 10, steps)
        optimizer = jnn.optim.adamw(schedule, weight_decay=0.01, where=jnn.tree.is_weight)
        training = jnn.training(objective_of(network, hparams["amount"]), optimizer)
        every = steps // points
        fit = partial(jnn.fit, training, data[0], key=key, batch_size=BATCH)
        start = fit(steps=0).train_state
        fitted = fit(steps=steps, start=start, eval_data=data[1], eval_every=every)
        seen = fitted.history["accuracy"][: points * every].reshape(points, every).mean(axis=1)
        curves = {"train": 100 * seen, "validation": 100 * fitted.history["eval"]["accuracy"]}
        return {when: (ts.params, ts.state) for when, ts in (("before", start), ("after", fitted.train_state))}, curves

    return jnn.sweep(run, hparams, seeds=seeds, seed=seed, data=data)


def judged(network, kinds, data, test, options):
    """-> (params, state) of the first seed {"before", "after"}, curves, and the numbers of a network.
    kinds: names of AMOUNTS, of which the best on validation is tested."""
    seeds, steps, points = (1, 40, 2) if options.quick else (3, EPOCHS * len(data[0][1]) // BATCH, 2 * EPOCHS)
    rate = RATES[2]
    if not options.quick:
        short = {"rate": jnp.array(RATES), "amount": jnp.zeros(len(RATES))}
        _, curves = trained(network, short, data, steps=500, seeds=1, seed=options.seed)
        rate = RATES[int(curves["validation"][:, 0, -1].argmax())]
    hparams = {"rate": jnp.full(len(kinds), rate), "amount": jnp.array([AMOUNTS[kind] for kind in kinds])}
    models, curves = trained(network, hparams, data, steps=steps, seeds=seeds, seed=options.seed, points=points)
    validation = curves["validation"][..., -1]
    best = int(validation.mean(axis=1).argmax())
    models = jax.tree.map(lambda a: a[best], models)
    score = jax.vmap(lambda p, s: jnn.evaluate(objective_of(network), p, s, test, batch_size=500)["accuracy"])
    numbers = {
        "learning_rate": rate,
        "validation_accuracy": dict(zip(kinds, validation.tolist(), strict=True)),
        "chosen": kinds[best],
        "test_accuracy": (100 * score(*models["after"])).tolist(),
        "parameters": sum(a[0].size for a in jax.tree.leaves(models["after"][0])),
    }
    return jax.tree.map(lambda a: a[0], models), curves, numbers


def draw_mistakes(out, logits, images, labels):
    """The confusion matrix, and the mistakes of which the network was surest."""
    figure = Figure(figsize=(6.5, 5))
    jnn.plots.confusion(figure.subplots(), jnn.metrics.confusion_matrix(logits, labels), CLASSES)
    picture(out, "confusion", figure)
    said = np.argmax(logits, -1)
    sure = np.where(said == labels, 0, np.max(jax.nn.softmax(logits), -1))
    figure = Figure(figsize=(8, 3))
    for axes, i in zip(figure.subplots(2, 8).ravel(), np.argsort(-sure)[:16], strict=True):
        jnn.plots.image(axes, images[i], title=f"{CLASSES[labels[i]]}\nas {CLASSES[said[i]]}")
    least = 100 * np.sort(sure)[-16]
    figure.suptitle(f"The mistakes of which the network was surest, by at least {least:.0f} %", fontsize=9)
    picture(out, "mistakes", figure)


def draw_curves(out, curves, results, epochs):
    figure = Figure(figsize=(8, 2.8))
    grid = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(grid, curves.items(), strict=True):
        x = np.linspace(0, epochs, found["train"].shape[-1] + 1)[1:]
        for i, kind in enumerate(results[name]["validation_accuracy"]):
            color = jnn.plots.COLORS[list(AMOUNTS).index(kind)]
            jnn.plots.band(axes, x, found["validation"][i], label=f"{kind}, validation", color=color)
            jnn.plots.band(axes, x, found["train"][i], label=f"{kind}, training", color=color, linestyle=":")
        axes.set(title=name, xlabel="epochs")
    if epochs > 1:
        grid[0].set_ylim(80, 100)
    grid[0].set_ylabel("accuracy in percent")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    picture(out, "curves", figure)


def main(arguments=None):
    options = commands.parser(__doc__, "image_classification", quick="the cnn, one seed, 40 steps").parse_args(arguments)
    train, validation, (images, labels) = parts()
    held_out, tested = (500, 1000) if options.quick else (3000, 10000)
    data, test = (train, tuple(a[:held_out] for a in validation)), (images[:tested], labels[:tested])
    models, curves, results = {}, {}, {}
    for name in ("cnn",) if options.quick else NETWORKS:
        kinds = (results["cnn"]["chosen"],) if results else tuple(AMOUNTS)
        with stage(f"{name}, {' and '.join(kinds)}"):
            models[name], curves[name], results[name] = judged(name, kinds, data, test, options)
    params, state = models["cnn"]["after"]
    logits = jax.lax.map(lambda image: NETWORKS["cnn"].apply(params, state, image)[0], test[0], batch_size=500)
    results["confusion"] = np.asarray(jnn.metrics.confusion_matrix(logits, test[1])).tolist()
    results["features"] = {when: feature_maps.characters(model, images[:500]) for when, model in models["cnn"].items()}
    recorded = record(options, described(results, list(models)), results)
    with jnn.plots.style():
        draw_mistakes(options.out, logits, *test)
        feature_maps.draw(options.out, models["cnn"]["after"], *test)
        draw_curves(options.out, curves, results, 40 * BATCH / len(train[1]) if options.quick else EPOCHS)
    return recorded


def described(results, names) -> str:
    tested = {name: np.array(results[name]["test_accuracy"]) for name in names}
    first, *others = sorted(names, key=lambda name: -tested[name].mean())
    ahead = f", {Interval.of(tested[first] - tested[others[0]]):+.2f} points over the {others[0]}" if others else ""
    plain, augmented = (np.array(results["cnn"]["validation_accuracy"][kind]) for kind in AMOUNTS)
    gain = Interval.of(augmented - plain)
    low, high = (0.0 if end is None else end for end in gain[1:])  # of one seed no interval
    helps = "helps" if low > 0 else "harms" if high < 0 else "is not shown to change"
    at_end = [name for name in names if is_at_edge(results[name]["learning_rate"], RATES)]
    confused = np.array(results["confusion"])
    np.fill_diagonal(confused, 0)
    true, said = np.unravel_index(confused.argmax(), confused.shape)
    before, after = (results["features"][when] for when in ("before", "after"))
    change = {key: ", ".join(f"{b[key]:.2f} to {a[key]:.2f}" for b, a in zip(before, after, strict=True)) for key in before[0]}
    share = 100 * confused[true, said] / np.sum(results["confusion"][true])
    return (
        f"The {first} has the highest mean accuracy on Fashion-MNIST's test pictures{ahead}, and augmentation {helps} the cnn: "
        + "; ".join(f"{name} {Interval.of(of):.2f %}" for name, of in tested.items())
        + f" (mean, 95 % interval; seeds: {len(plain)}), {results['cnn']['chosen']}. Augmentation changed the cnn's accuracy "
        f"on the examples held out by {gain:+.2f} points, at equal steps and at a learning rate that was chosen without it "
        f"(one seed, 500 steps). Rates at an end of the grid: {', '.join(at_end) or 'none'}. The cnn's "
        f"most frequent mistake is a {CLASSES[true]} taken for a {CLASSES[said]} ({share:.0f} % of them). In its three blocks "
        f"training changed the mean size of the correlation of two feature maps from {change['correlation']}, their mean "
        f"variance from {change['variance']}, and the share of zeros from {change['zeros']} (one network)."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
