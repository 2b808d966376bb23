"""How well do recurrent networks and a transformer foretell Shakespeare's next character, and how fast do they write?

python -m experiments.character_model [--quick] [--size full] [--models rnn,lstm,gru,gpt] [--seeds 1] [--seed 0]
                                      [--out runs/character_model]

Tiny Shakespeare (Karpathy 2015), its last tenth held out. One recurrent layer (Elman, LSTM, GRU), Adam and gradients clipped to
the norm 1; and a GPT (Radford et al. 2019) with rotary positions, Muon (Jordan et al. 2024). The learning rates are fixed
beforehand, and what counts is the loss of the held-out tenth after the last step, in nats for each character, each window of
text read by itself. Then each writes at three temperatures by its decoding twin, which carries the cells' state or the cache of
keys and values from one character to the next, and again by reading all of the text anew for each: the texts must be the same.

Sizes: `full` (recurrent 384 units; GPT 6 layers of 192; 12 epochs) is for 2 cores, `large` for an accelerator (recurrent 512
units; GPT 6 layers of 384: the size with which nanoGPT gets 1.47; 48 epochs). Both read windows of 256.

Expected at full size, one seed: rnn 1.64, LSTM 1.51, GRU 1.51, GPT 1.44 (targets: LSTM 1.60, GPT 1.50). About two hours on
one core, of which the GPT takes 75 minutes and each of the others a quarter of an hour at most (--models rnn,lstm,gru);
--quick, LSTM and GPT of a toy's size, half a minute.
"""

import math
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import jnn
from experiments import commands, streams
from experiments.findings import Interval, picture, record, stage
from experiments.texts import bigram_loss, excerpts, in_a_row, written
from jnn.comparison.errors import InputError


class Size(NamedTuple):
    features: int  # of the recurrent layer
    steps: int
    layers: int  # of the GPT, and its width and heads
    width: int
    heads: int
    window: int  # characters read in a row, while training and as the GPT's cache
    batch: int
    rate: float  # of dropout


SIZES = {
    "quick": Size(64, 200, 1, 64, 2, 32, 16, 0.0),
    "full": Size(384, 3000, 6, 192, 3, 256, 16, 0.1),
    "large": Size(512, 3000, 6, 384, 6, 256, 64, 0.2),
}
TARGETS = {"lstm": 1.60, "gpt": 1.50}  # of the full size
MODELS = ("rnn", "lstm", "gru", "gpt")
PROMPT, TEMPERATURES, SEGMENTS = "ROMEO:", (0.5, 0.8, 1.0), 10


def model_of(name: str, size: Size, symbols: int, cache: bool = False):
    if name == "gpt":
        shape = {"layers": size.layers, "width": size.width, "heads": size.heads, "rotary": True}
        return jnn.models.gpt(symbols, size.window, **shape, rate=size.rate, cache=cache)
    cell = getattr(jnn, name)
    return jnn.models.language_model(symbols, cell=cell, width=64, features=size.features, rate=size.rate, cache=cache)


def optimizer_of(name: str, steps: int):
    if name == "gpt":
        schedule = lambda peak: jnn.schedules.warmup_cosine(peak, steps // 20, steps)
        return jnn.optim.muon(schedule(0.02), weight_decay=0.02, adam_learning_rate=schedule(3e-3))
    return jnn.optim.chain(jnn.optim.clip_by_global_norm(1.0), jnn.optim.adam(jnn.schedules.cosine(2e-3, steps)))


def trained(name: str, size: Size, symbols: int, train, held_out, seeds: int, seed: int):
    """-> params with leading axis (seeds,), losses of the held-out text (seeds, SEGMENTS), seconds of training."""
    objective = jnn.supervised(model_of(name, size, symbols), jnn.losses.softmax_cross_entropy)
    training = jnn.training(objective, optimizer_of(name, size.steps))

    def segment(starts, train, held_out):
        def one(start):
            draw = lambda key: excerpts(key, train, size.window, size.batch)
            draw_key = jax.random.split(start.key)[1]
            end = streams.fit(training, draw, start, key=draw_key, steps=size.steps // SEGMENTS).train_state
            return end, jnn.evaluate(objective, end.params, {}, in_a_row(held_out, size.window), batch_size=size.batch)["loss"]

        return jax.lax.map(one, starts)  # seeds one after another: the products of one fill a processor

    batch = excerpts(jax.random.key(0), jnp.asarray(train), size.window, size.batch)
    states = jax.vmap(lambda key: training.init(key, batch))(jax.random.split(jax.random.key(seed), seeds))
    compiled = jax.jit(segment).lower(states, train, held_out).compile()
    losses, began = [], time.perf_counter()
    for i in range(SEGMENTS):
        states, loss = compiled(states, train, held_out)
        losses.append(np.asarray(loss))
        print(f" {name} {(i + 1) / SEGMENTS:.0%} {losses[-1].mean():.3f}", end="", flush=True, file=sys.stderr)
    return states.params, np.stack(losses, axis=1), time.perf_counter() - began


def draw(out, results, size: Size):
    with jnn.plots.style():
        figure = Figure(figsize=(8, 3))
        left, right = figure.subplots(1, 2)
        names = [name for name in MODELS if name in results]
        for name in names:
            read = size.steps * size.window * size.batch / 1e6 * np.arange(1, SEGMENTS + 1) / SEGMENTS
            look = {"label": name, "color": jnn.plots.COLORS[MODELS.index(name)], "marker": "."}
            jnn.plots.band(left, read, results[name]["losses"], **look)
        left.set(xlabel="characters read, millions", ylabel="held-out loss, nats a character", title="learning")
        left.legend()
        speeds = np.array([results[name]["characters_per_second"] for name in names])
        for i, (label, marker) in enumerate((("state carried", "o"), ("text read anew", "s"))):
            right.plot(speeds[:, i], -np.arange(len(names)), marker, color=jnn.plots.COLORS[i], label=label)
        decades = 10 ** np.floor(np.log10(speeds.min())), 10 ** np.ceil(np.log10(speeds.max()))
        right.set(xscale="log", xlim=decades, xlabel="characters a second", title="writing", ylim=(0.5 - len(names), 1.2))
        right.xaxis.set_minor_formatter(NullFormatter())
        right.set_yticks(-np.arange(len(names)), names)
        right.legend(ncols=2, loc="upper center")
        picture(out, "losses_and_speed", figure)


def main(arguments=None):
    parser = commands.parser(__doc__, "character_model", quick="LSTM and GPT of a toy's size")
    parser.add_argument("--size", choices=["full", "large"], default="full")
    parser.add_argument("--models", help="some of rnn,lstm,gru,gpt; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    names = tuple((options.models or ("lstm,gpt" if options.quick else ",".join(MODELS))).split(","))
    if set(names) - set(MODELS):
        raise InputError(f"--models: some of {','.join(MODELS)}, got {options.models}")
    size = SIZES["quick" if options.quick else options.size]
    tokens, symbols = jnn.data.tiny_shakespeare()
    cut = len(tokens) * 9 // 10
    train, held_out = tokens[:cut], tokens[cut : cut + 8000] if options.quick else tokens[cut:]
    results, samples = {}, []
    for name in names:
        with stage(name):
            params, losses, seconds = trained(name, size, len(symbols), train, held_out, options.seeds, options.seed)
            first = jax.tree.map(lambda a: a[0], params)
            model, twin = (model_of(name, size, len(symbols), cache) for cache in (False, True))
            write = {"length": size.window - len(PROMPT) + 1, "key": jax.random.key(options.seed)}
            texts, same, speeds = written(model, twin, first, symbols, PROMPT, TEMPERATURES, **write)
        results[name] = {"losses": losses.tolist(), "seconds": seconds, "same_text": same, "characters_per_second": speeds}
        results[name]["samples"] = dict(zip(map(str, TEMPERATURES), texts, strict=True))
        samples += [f"## {name}, temperature {t}\n\n```\n{text}\n```\n" for t, text in zip(TEMPERATURES, texts, strict=True)]
    (options.out / "samples.md").write_text("\n".join(samples))
    results["bigram"] = bigram_loss(train, held_out, len(symbols))
    last = {name: Interval.of(np.array(results[name]["losses"])[:, -1]) for name in names}
    asked = {name: "reaches" if last[name][0] <= TARGETS[name] else "does not reach" for name in names if name in TARGETS}
    finding = (
        f"Loss on the held-out text, in nats for each character (seeds: {options.seeds}): "
        + ", ".join(f"{name} {last[name]:.3f}" for name in names)
        + f"; counts of pairs get {results['bigram']:.3f}, guessing {math.log(len(symbols)):.3f}. "
        + "".join(f"The {name} {does} {TARGETS[name]:.2f}. " for name, does in asked.items())
        + f"Writing {size.window} characters with what is carried from one to the next gives, in the order of these networks, "
        + ", ".join(f"{100 * results[name]['same_text']:.1f} %" for name in names)
        + " of the characters that reading all of the text anew for each gives, and is "
        + ", ".join(f"{np.divide(*results[name]['characters_per_second']):.1f}" for name in names)
        + " times as fast."
    )
    recorded = record(options, finding, results)
    draw(options.out, results, size)
    return recorded


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
