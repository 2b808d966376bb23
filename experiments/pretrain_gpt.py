"""How fast does a GPT-2 of 124 million parameters learn from any text, on the devices that there are?

python -m experiments.pretrain_gpt --text FILE [--preset 124M] [--steps 10000] [--out runs/pretrain_gpt]
python -m experiments.pretrain_gpt --tokens FILE --vocabulary 50257 [--data -1] [--model 1] [--whole] [--machines]

The architecture of Radford et al. 2019, trained as nanoGPT does: AdamW, warm-up and cosine, gradients clipped to the norm 1,
half a million tokens an update. Computed in bfloat16 with float32 parameters; of each block only the input is kept for the
gradient; the cross-entropy never holds all logits. A text is read as bytes; a token file holds integers of 16 bits, as
`jnn.data.write_tokens` writes them, of any tokenizer. The last hundredth is held out.

The devices form a mesh of --data x --model; parameters and optimizer state are cut over the data axis (--whole: kept whole on
each), attention and dense layers over the model axis. On several machines start the same command on each, with --machines
(docs/scaling.md). The same command again goes on from the newest checkpoint in OUT. At the end it writes OUT/sample.txt.

Expected: tokens a second and their share of the rate of a plain matrix product on the same devices, for the preset and the
machine. --quick, a toy on tiny Shakespeare, half a minute on 2 cores.
"""

import json
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.figure import Figure

import jnn
from experiments import commands
from experiments.findings import picture, record, stage
from jnn import sharding
from jnn.checkpoints import processes
from jnn.comparison.errors import InputError


class Preset(NamedTuple):
    layers: int
    width: int
    heads: int
    window: int
    batch: int  # windows a step, of all devices together
    pieces: int  # steps an update
    rate: float


PRESETS = {
    "tiny": Preset(2, 64, 2, 64, 8, 1, 3e-3),
    "124M": Preset(12, 768, 12, 1024, 32, 15, 6e-4),
    "350M": Preset(24, 1024, 16, 1024, 32, 15, 3e-4),
    "1558M": Preset(48, 1600, 25, 1024, 32, 15, 2e-4),
}
# tensor parallel, as Shoeybi et al. 2019: the first product of two is cut by columns and the second by rows. The first axis
# is that of the blocks.
COLUMNS, ROWS = PartitionSpec(None, None, "model"), PartitionSpec(None, "model", None)
RULES = {f"attention/{name}/w": COLUMNS for name in "qkv"} | {"attention/out/w": ROWS, "up/w": COLUMNS, "down/w": ROWS}


def model_of(preset: Preset, vocabulary: int, **options):
    shape = {"layers": preset.layers, "width": preset.width, "heads": preset.heads}
    return jnn.models.gpt(vocabulary, preset.window, **shape, **options)


def training_of(preset: Preset, vocabulary: int, steps: int, dtype, parts: int = 1) -> jnn.Training:
    """steps: updates; parts: into which a batch is cut. Weight decay of 0.1 for matrices alone."""

    def loss(prediction, target):
        x, head = prediction
        return jnn.losses.linear_cross_entropy((x.astype(dtype), head), target, chunk=1024 * parts)

    objective = jnn.supervised(jnn.precision(model_of(preset, vocabulary, logits=False, remat=True), dtype), loss)
    schedule = jnn.schedules.warmup_cosine(preset.rate, max(steps // 50, 1), steps, final=0.1 * preset.rate)
    adamw = jnn.optim.adamw(schedule, b2=0.95, weight_decay=0.1, where=jnn.tree.is_weight)
    optimizer = jnn.optim.chain(jnn.optim.clip_by_global_norm(1.0), adamw)
    return jnn.training(objective, optimizer if preset.pieces == 1 else jnn.optim.accumulate(optimizer, preset.pieces))


class First:
    """So many examples of a source, from the first on."""

    def __init__(self, source, count: int):
        self.source, self.count = source, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.source[i]


def tokens_of(options) -> tuple[Path, int]:
    """-> the path of a token file and its vocabulary: of --tokens as it is, of a text its bytes."""
    for path in (options.text, options.tokens):
        if path is not None and not path.is_file():
            raise InputError(f"{path} is no file")
    if options.tokens is not None:
        if options.vocabulary is None:
            raise InputError("--tokens wants --vocabulary, the number of different tokens")
        return options.tokens, options.vocabulary
    if options.text is None and not options.quick:
        raise InputError("give --text FILE or --tokens FILE, or try --quick")
    path = options.out / "tokens.bin"
    if processes.is_first():
        if options.text is not None:
            text = np.frombuffer(jnn.data.text(options.text).encode(), np.uint8)
        else:
            tokens, symbols = jnn.data.tiny_shakespeare()
            text = np.frombuffer(symbols.encode(), np.uint8)[tokens]
        jnn.data.write_tokens(path, text)
    processes.of_all(0)  # before that none reads it
    return path, 256


def product_rate(dtype) -> float:
    """FLOP/s of a plain product of matrices on one device, the best of several."""
    n, times = (512, 4) if jax.default_backend() == "cpu" else (8192, 16)
    a = jnp.ones((n, n), dtype)
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


def draw(out, results):
    with jnn.plots.style():
        figure = Figure(figsize=(6, 3))
        axes = figure.subplots()
        read = results["tokens_per_step"] * np.arange(1, len(results["losses"]) + 1) / 1e6
        axes.plot(read, results["losses"], color=jnn.plots.COLORS[0], linewidth=0.8, label="training")
        at = results["evaluated_every"] * np.arange(1, len(results["held_out"]) + 1) - 1
        axes.plot(read[at], results["held_out"], "o-", color=jnn.plots.COLORS[1], label="held out")
        axes.set(xlabel="tokens read, millions", ylabel="loss, nats a token", title="pretraining")
        axes.legend()
        picture(out, "losses", figure)


def main(arguments=None):
    parser = commands.parser(__doc__, "pretrain_gpt", quick="a toy on tiny Shakespeare")
    parser.add_argument("--text", metavar="FILE", type=Path, help="in UTF-8; its bytes are the tokens")
    parser.add_argument("--tokens", metavar="FILE", type=Path, help="integers of 16 bits")
    parser.add_argument("--vocabulary", type=int, help="of --tokens")
    parser.add_argument("--preset", choices=PRESETS, default="124M", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10_000, help="updates; 200 with --quick (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="windows a step, of all devices together (default: 32; 8 with --quick)")
    parser.add_argument("--data", type=int, default=-1, help="devices over which a batch is cut (default: all that are left)")
    parser.add_argument("--model", type=int, default=1, help="devices over which a layer is cut (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="keep parameters whole on each device of the data axis")
    parser.add_argument("--machines", action="store_true", help="one of several, as SLURM or a TPU pod starts them")
    options = parser.parse_args(arguments)
    if options.machines:
        jax.distributed.initialize()
    preset = PRESETS["tiny" if options.quick else options.preset]
    preset = preset._replace(batch=options.batch or preset.batch)
    updates, dtype, key = 200 if options.quick else options.steps, jnp.bfloat16, jax.random.key(options.seed)
    try:
        mesh = sharding.mesh(data=options.data, model=options.model)
    except ValueError as error:
        raise InputError(f"--data, --model: {error}") from error
    if preset.heads % mesh.shape["model"] or preset.batch % mesh.shape["data"]:
        shape = f"{preset.heads} heads and {preset.batch} windows a step"
        raise InputError(f"--model {mesh.shape['model']}, --data {mesh.shape['data']}: they do not divide {shape}")
    path, vocabulary = tokens_of(options)
    rules = (RULES if options.model > 1 else {}) | ({} if options.whole else {"*": sharding.fully("data")})
    cut = NamedSharding(mesh, PartitionSpec("data"))
    training = training_of(preset, vocabulary, updates, dtype, mesh.shape["data"])
    training = sharding.shard(training, mesh, rules, batch=cut.spec)

    windows = jnn.data.Tokens(path, preset.window, vocabulary=vocabulary)
    learned = len(windows) - max(len(windows) // 100, 2 * preset.batch)
    if learned < preset.batch:
        raise InputError(f"{path}: {len(windows)} windows of {preset.window} tokens are too few for batches of {preset.batch}")
    held_out = [np.stack(part) for part in zip(*(windows[learned + i] for i in range(2 * preset.batch)), strict=True)]
    stream = jnn.data.stream(First(windows, learned), batch_size=preset.batch, seed=options.seed, sharding=cut)
    steps, kept = updates * preset.pieces, options.out / "checkpoints"
    every = max(steps // 20, 1)
    evaluation = {"eval_data": tuple(held_out), "eval_every": every}
    found = jnn.run(training, stream, key=key, steps=steps, segment=20, checkpoint=kept, **evaluation)
    with stage("writing"):
        sample = written(preset, vocabulary, dtype, mesh, found.train_state.params, held_out[0][0, : preset.window // 8], key)
    if not processes.is_first():
        return None
    as_text = bytes(sample.tolist()).decode(errors="replace") if options.tokens is None else " ".join(map(str, sample))
    (options.out / "sample.txt").write_text(as_text)
    speeds = [json.loads(line)["per_second/tokens"] for line in (kept / "log.jsonl").read_text().splitlines()]
    results = {"losses": found.history["loss"].tolist(), "held_out": found.history["eval"]["loss"].tolist()}
    results |= {"evaluated_every": every, "tokens_per_step": preset.batch * preset.window, "vocabulary": vocabulary}
    results |= {"parameters": sum(leaf.size for leaf in jax.tree.leaves(found.train_state.params)), "devices": mesh.size}
    results |= {"tokens_per_second": float(np.median(speeds)), "product_rate": product_rate(dtype)}
    used = results["tokens_per_second"] * flops_per_token(preset, results["parameters"])
    results["share_of_product_rate"] = used / (results["product_rate"] * mesh.size)
    recorded = record(options, described(results), results)
    draw(options.out, results)
    return recorded


def written(preset: Preset, vocabulary: int, dtype, mesh, params, prompt, key) -> np.ndarray:
    """A window of tokens that begins with the prompt, at temperature 0.8."""
    twin = jnn.precision(model_of(preset, vocabulary, cache=True), dtype)

    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def write(params, prompt, key):
        _, fresh = twin.init(key, prompt)
        length = preset.window - len(prompt) + 1
        return jnn.generate(twin, params, fresh, prompt, length=length, key=key, temperature=0.8)[0]

    return np.concatenate([prompt, write(params, prompt, key)])


def described(results) -> str:
    last, first, guessing = results["held_out"][-1], results["losses"][0], math.log(results["vocabulary"])
    read = len(results["losses"]) * results["tokens_per_step"] / 1e6
    share = f"{100 * results['share_of_product_rate']:.0f} %"
    return (
        f"On {results['devices']} x {jax.devices()[0].device_kind} a GPT of {results['parameters'] / 1e6:.3g} million "
        f"parameters reads {results['tokens_per_second']:,.0f} tokens a second, {share} of the rate of a plain product of "
        f"matrices there ({results['product_rate'] / 1e12:.3g} TFLOP/s each). After {read:.3g} million tokens its loss is "
        f"{last:.3f} nats a token of the held-out text; it began at {first:.3f}, and guessing gets {guessing:.3f}."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
