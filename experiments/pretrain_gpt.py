"""How fast does a GPT-2 of 124 million parameters learn from any text, on the devices that there are?

python -m experiments.pretrain_gpt --text FILE [--preset 124M] [--steps 10000] [--out runs/pretrain_gpt]
python -m experiments.pretrain_gpt --tokens FILE --vocabulary 50257 [--data -1] [--model 1] [--whole]

The architecture of Radford et al. 2019, trained as nanoGPT does: AdamW, warm-up and cosine, gradients clipped to the norm 1.
Computed in bfloat16 with float32 parameters; of each block only the input is kept for the gradient; the cross-entropy never
holds all logits. A text is read as bytes; a token file holds integers of 16 bits, as `jnn.data.write_tokens` writes them, of
any tokenizer. The last hundredth is held out.

The devices form a mesh of --data x --model; parameters and optimizer state are cut over the data axis (--whole: kept whole on
each), attention and dense layers over the model axis. On several machines start the same command on each (docs/scaling.md).
The same command again goes on from the newest checkpoint in OUT.

Expected: tokens a second and their share of the rate of a plain matrix product on the same device, for the preset and the
machine. --quick, a toy on tiny Shakespeare, half a minute on 2 cores.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import picture
from jnn.comparison.errors import InputError


class Preset(NamedTuple):
    layers: int
    width: int
    heads: int
    window: int
    batch: int  # windows a step, of all devices together
    rate: float


PRESETS = {
    "tiny": Preset(2, 64, 2, 64, 8, 3e-3),
    "124M": Preset(12, 768, 12, 1024, 480, 6e-4),
    "350M": Preset(24, 1024, 16, 1024, 480, 3e-4),
    "774M": Preset(36, 1280, 20, 1024, 480, 2.5e-4),
    "1558M": Preset(48, 1600, 25, 1024, 480, 2e-4),
}
# tensor parallel, as Shoeybi et al. 2019: the first product of two is cut by columns and the second by rows. The first axis
# is that of the blocks.
COLUMNS, ROWS = PartitionSpec(None, None, "model"), PartitionSpec(None, "model", None)
RULES = {f"attention/{name}/w": COLUMNS for name in "qkv"} | {"attention/out/w": ROWS, "up/w": COLUMNS, "down/w": ROWS}


def model_of(preset: Preset, vocabulary: int, **options):
    shape = {"layers": preset.layers, "width": preset.width, "heads": preset.heads}
    return jnn.models.gpt(vocabulary, preset.window, **shape, **options)


def training_of(preset: Preset, vocabulary: int, steps: int, dtype) -> jnn.Training:
    """Weight decay of 0.1 for matrices alone."""

    def loss(prediction, target):
        x, head = prediction
        return jnn.losses.linear_cross_entropy((x.astype(dtype), head), target)

    objective = jnn.supervised(jnn.precision(model_of(preset, vocabulary, logits=False, remat=True), dtype), loss)
    schedule = jnn.schedules.warmup_cosine(preset.rate, max(steps // 50, 1), steps, final=0.1 * preset.rate)
    adamw = jnn.optim.adamw(schedule, b2=0.95, weight_decay=0.1, where=jnn.tree.is_weight)
    return jnn.training(objective, jnn.optim.chain(jnn.optim.clip_by_global_norm(1.0), adamw))


def tokens_of(options, out) -> tuple:
    """-> the path of a token file and its vocabulary: of --tokens as it is, of a text its bytes."""
    if options.tokens is not None:
        if options.vocabulary is None:
            raise InputError("pretrain_gpt: --tokens wants --vocabulary, the number of different tokens")
        return options.tokens, options.vocabulary
    if options.text is None and not options.quick:
        raise InputError("pretrain_gpt: give --text FILE or --tokens FILE, or try --quick")
    text = jnn.data.text(options.text).encode() if options.text else None
    if text is None:
        tokens, symbols = jnn.data.tiny_shakespeare()
        text = bytes(map(ord, symbols)) and np.frombuffer(symbols.encode(), np.uint8)[tokens].tobytes()
    path = out / "tokens.bin"
    if jax.process_index() == 0 and not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        jnn.data.write_tokens(path, np.frombuffer(text, np.uint8))
    return path, 256


def product_rate(dtype) -> float:
    """FLOP/s of a plain product of matrices on one device, the best of several."""
    n = 8192 if jax.default_backend() != "cpu" else 1024
    a = jnp.ones((n, n), dtype)
    times = 16
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: (x @ a) * (1 / n), a))
    jax.block_until_ready(chain(a))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(chain(a))
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 * times / min(seconds)


def flops_per_token(preset: Preset, parameters: int) -> float:
    """6 for each parameter, 12 for each layer, width and token of the window (Chowdhery et al. 2022, appendix B); what is
    computed again for want of memory does not count."""
    return 6 * parameters + 12 * preset.layers * preset.width * preset.window


def draw(out, history, window_tokens: int):
    with jnn.plots.style():
        figure = Figure(figsize=(6, 3))
        axes = figure.subplots()
        read = window_tokens * np.arange(1, len(history["loss"]) + 1) / 1e6
        axes.plot(read, history["loss"], color=jnn.plots.COLORS[0], linewidth=0.8, label="training")
        held_out = history["eval"]["loss"]
        each = len(read) // len(held_out)
        axes.plot(read[each - 1 :: each][: len(held_out)], held_out, "o-", color=jnn.plots.COLORS[1], label="held out")
        axes.set(xlabel="tokens read, millions", ylabel="loss, nats a token", title="pretraining")
        axes.legend()
        picture(out, "losses", figure)


def main(arguments=None):
    parser = commands.parser(__doc__, "pretrain_gpt", quick="a toy on tiny Shakespeare")
    parser.add_argument("--text", metavar="FILE", help="in UTF-8; its bytes are the tokens")
    parser.add_argument("--tokens", metavar="FILE", help="integers of 16 bits")
    parser.add_argument("--vocabulary", type=int, help="of --tokens")
    parser.add_argument("--preset", choices=PRESETS, default="124M", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, help="windows a step, of all devices together (default: of the preset)")
    parser.add_argument("--data", type=int, default=-1, help="devices over which a batch is cut; -1 for all that are left")
    parser.add_argument("--model", type=int, default=1, help="devices over which a layer is cut (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="keep parameters whole on each device of the data axis")
    parser.add_argument("--float32", action="store_true", help="compute in float32 and not in bfloat16")
    parser.add_argument("--segment", type=int, default=20, help="steps between two reports (default: %(default)s)")
    options = parser.parse_args(arguments)
    preset = PRESETS["tiny" if options.quick else options.preset]
    preset = preset._replace(batch=options.batch or preset.batch)
    steps, dtype = 60 if options.quick else options.steps, jnp.float32 if options.float32 else jnp.bfloat16
    path, vocabulary = tokens_of(options, options.out)
    mesh = jnn.sharding.mesh(data=options.data, model=options.model)
    rules = {} if options.model == 1 else dict(RULES)
    rules |= {} if options.whole else {"*": jnn.sharding.fully("data")}
    training = jnn.sharding.shard(training_of(preset, vocabulary, steps, dtype), mesh, rules, batch=PartitionSpec("data"))

    windows = jnn.data.Tokens(path, preset.window, vocabulary=vocabulary)
    held_out = max(len(windows) // 100, preset.batch)
    learned = range(len(windows) - held_out)
    cut = NamedSharding(mesh, PartitionSpec("data"))
    stream = jnn.data.stream(Rows(windows, learned), batch_size=preset.batch, seed=options.seed, sharding=cut)
    judged = [
        windows[i] for i in range(len(learned), len(learned) + min(held_out, 4 * preset.batch) // preset.batch * preset.batch)
    ]
    judged = tuple(np.stack(part) for part in zip(*judged, strict=True))
    run = jnn.run(
        training,
        stream,
        key=jax.random.key(options.seed),
        steps=steps,
        segment=options.segment,
        eval_data=judged,
        eval_every=max(steps // 20, 1),
        checkpoint=options.out / "checkpoints",
    )
