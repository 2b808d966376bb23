"""Can a picture be painted in the style of another, and does it matter which optimizer holds the brush?

python -m experiments.style_transfer [--weights FILE] [--content NAME] [--style NAME] [--quick] [--seed 0] [--out FOLDER]

Gatys, Ecker & Bethge 2015 ("A neural algorithm of artistic style"): pixels are found whose features in a network are those of
one picture, and whose features' Gram matrices, averaged over places, are those of another. Each layer's error is a share of
its target's square, in place of the rescaled weights of the paper, and the total variation weighs little. A run starts at the
content with a little noise, a seed's own. L-BFGS takes one gradient a step, as Adam does, so both are given as many; Adam has
the best of four learning rates, which go down to zero along a cosine. Both are judged by the picture they end with.

--weights: VGG-19 as torchvision names it, `safetensors.torch.save_file(vgg19(weights="DEFAULT").state_dict(), FILE)`; without,
a small network of the same form, trained here on Fashion-MNIST, each picture in two random colours: from grey ones it would
learn nothing of colour. NAME: a picture of `jnn.data.picture`, or a file.

Expected: the loss goes from 15 to 0.058 by L-BFGS and to 0.104 by Adam; the cat in the blues of the night. Eleven minutes on
one core, --quick 20 seconds; with VGG-19 estimated at a quarter of an hour on two cores, and never run here.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import Interval, is_at_edge, picture, record, stage
from experiments.styles import Network, load, painting, targets
from jnn.comparison.errors import InputError
from jnn.data.datasets import PICTURES

SMALL = ((24, 24), (48, 48), (96, 96))
OPTIMIZERS = {  # with their learning rates; pixels lie in [0, 1]
    "L-BFGS": (lambda rate, steps: jnn.optim.lbfgs(rate), (1.0,)),
    "Adam": (lambda rate, steps: jnn.optim.adam(jnn.schedules.cosine(rate, steps)), (0.01, 0.03, 0.1, 0.3)),
}


def trained(steps: int, tested: int, seed: int) -> tuple[Network, float]:
    """A small network of the same form, trained on Fashion-MNIST in colours; and its accuracy in grey, in percent."""
    mean, deviation = jnp.float32(0.5), jnp.float32(0.29)  # of colours that are drawn evenly

    def coloured(net, images):
        grey = images.astype(jnp.float32) / 255
        colors = jnp.array([[1.0] * 3, [0.0] * 3])
        if net.train:
            colors = jax.random.uniform(net.key(), (2, len(images), 1, 1, 3))
        return net.vgg((grey * colors[0] + (1 - grey) * colors[1] - mean) / deviation)

    model = jnn.compose(coloured, vgg=jnn.models.vgg(10, stages=SMALL, hidden=()))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy, metrics={"accuracy": jnn.metrics.accuracy})
    training = jnn.training(objective, jnn.optim.adam(jnn.schedules.cosine(2e-3, steps)))
    train, test = jnn.data.fashion_mnist()
    params = jnn.fit(training, train, key=jax.random.key(seed), steps=steps, batch_size=64).train_state.params
    accuracy = jnn.evaluate(objective, params, {}, jax.tree.map(lambda a: a[:tested], test), batch_size=500)["accuracy"]
    return Network(jnn.tree.select(params["vgg"], "stage_*"), mean, deviation), 100 * float(accuracy)


def square(name: Path, size: int):
    """The middle of a picture, by name or from a file, as float32 (size, size, 3) in [0, 1]."""
    from PIL import Image

    if str(name) in PICTURES:
        pixels = jnn.data.picture(str(name))
    else:
        try:
            pixels = np.asarray(Image.open(name).convert("RGB"))
        except OSError as error:
            raise InputError(f"{name} is no picture of jnn.data.picture ({', '.join(PICTURES)}) and no file of one") from error
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    middle = jnp.asarray(pixels[top : top + side, left : left + side], jnp.float32) / 255
    return jnp.clip(jax.image.resize(middle, (size, size, 3), "linear"), 0, 1)


def painted(optimizer, rates, steps: int, seeds: int, seed: int, batch):
    """-> the pixels at the end, their losses, and the history, of each seed at the rate of the lowest mean loss at the end; and
    that rate."""
    objective = painting()

    def run(rate, key, batch):
        state, history = jnn.fit(jnn.training(objective, optimizer(rate, steps)), batch, key=key, steps=steps)
        params = jnn.optim.eval_params(state.opt_state, state.params)
        loss, aux = objective.loss(params, {}, batch)
        return batch[1] + params["change"], {"loss": loss, **aux.metrics}, history

    found = jax.tree.map(np.asarray, jnn.sweep(run, jnp.array(rates), seeds=seeds, seed=seed, data=batch))
    best = int(np.nanargmin(found[1]["loss"].mean(axis=1)))
    return *jax.tree.map(lambda a: a[best], found), rates[best]


def so_far(name: str, history):
    """The loss of the picture that a run would end with: L-BFGS ends with its best point, Adam with its last."""
    return np.minimum.accumulate(history["loss"], axis=1) if name == "L-BFGS" else history["loss"]


def pictures(out, shown, histories):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 2.3))
        for axes, (title, pixels) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            jnn.plots.image(axes, np.clip(pixels, 0, 1), title=title)
        picture(out, "pictures", figure)
        figure = Figure(figsize=(6, 3))
        axes = figure.subplots()
        for (name, history), color in zip(histories.items(), jnn.plots.COLORS, strict=False):
            loss = so_far(name, history)
            gradients = np.arange(1, loss.shape[1] + 1)
            axes.plot(gradients, loss.T, color=color, linewidth=0.6, alpha=0.5)
            axes.plot(gradients, np.exp(np.log(loss).mean(axis=0)), label=name, color=color)
        axes.set(xscale="log", yscale="log", xlabel="gradients", ylabel="loss", title="Each seed, and geometric mean")
        axes.legend()
        picture(out, "losses", figure)


def main(arguments=None):
    quick = "48 pixels, 40 gradients, 2 seeds, a network trained for 60 steps"
    parser = commands.parser(__doc__, "style_transfer", quick=quick)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of VGG-19, safetensors (default: a small network)")
    parser.add_argument("--content", type=Path, metavar="NAME", default="chelsea")
    parser.add_argument("--style", type=Path, metavar="NAME", default="starry_night")
    options = parser.parse_args(arguments)
    size, steps, seeds, training_steps, tested = (48, 40, 2, 60, 2000) if options.quick else (128, 500, 3, 3000, 10_000)
    content, style = square(options.content, size), square(options.style, size)
    results: dict[str, Any] = {"pixels": size, "gradients": steps}
    if options.weights:
        network, source = load(options.weights), "VGG-19"
    else:
        with stage(f"a small network on Fashion-MNIST in colours, {training_steps} steps"):
            network, accuracy = trained(training_steps, tested, options.seed)
        results["network_accuracy"] = accuracy
        source = f"a small network that tells {accuracy:.0f} % of Fashion-MNIST's test pictures right"
    batch = network, content, jax.jit(targets)(network, content, style)
    shown, histories = {"content": content, "style": style}, {}
    for name, (optimizer, rates) in OPTIMIZERS.items():
        with stage(f"{name}: {len(rates)} rates, {seeds} seeds, {steps} gradients, {size} x {size} pixels"):
            pixels, end, history, rate = painted(optimizer, rates, steps, seeds, options.seed, batch)
        shown[f"by {name}"], histories[name] = pixels[0], history
        results[name] = {"rate": rate, **{part: values.tolist() for part, values in end.items()}}
        results[name]["at_first"] = {part: values[:, 0].tolist() for part, values in history.items()}

    quasi, adam = (Interval.of(results[name]["loss"]) for name in OPTIMIZERS)
    before = {part: Interval.of(100 * np.array(values)) for part, values in results["L-BFGS"]["at_first"].items()}
    after = {part: Interval.of(100 * np.array(results["L-BFGS"][part])) for part in ("content", "style")}
    reached = so_far("L-BFGS", histories["L-BFGS"]) <= np.array(results["Adam"]["loss"])[:, None]
    results["gradients_to_adams_end"] = [int(seed.argmax()) + 1 if seed.any() else None for seed in reached]
    sooner = f"; it passes Adam's end after {Interval.of(reached.argmax(axis=1) + 1):.0f}" if reached.any(axis=1).all() else ""
    lead = Interval.of(np.array(results["Adam"]["loss"]) - np.array(results["L-BFGS"]["loss"]))
    ahead = "and L-BFGS ends ahead of Adam" if lead[1] > 0 else "and Adam ends ahead of L-BFGS" if lead[2] < 0 else ""
    rates = OPTIMIZERS["Adam"][1]
    at_end = ", an end of the grid" if is_at_edge(results["Adam"]["rate"], rates) else ""
    finding = (
        f"{steps} gradients by L-BFGS bring the relative squared error of the Gram matrices, which stand for the style, from "
        f"{before['style'][0]:.0f} % to {after['style']:.3f} %, at one of {after['content']:.1f} % in the content's features, "
        f"{ahead or 'and no difference between L-BFGS and Adam is shown'}: with the features of {source}, on {size} x {size} "
        f"pixels, the loss goes from {before['loss'][0] / 100:.3g} to {quasi:.3g} by L-BFGS and to {adam:.3g} by Adam with a "
        f"cosine from {results['Adam']['rate']}, the best of {len(rates)} rates{at_end} (mean and 95 % interval over {seeds} "
        f"seeds of the noise at the start){sooner}. One pair of pictures; whether it is a painting is for the eye."
    )
    recorded = record(options, finding, results)
    pictures(options.out, shown, histories)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
