"""How fast does a GPT-2 of 124 million parameters learn from any text, on the devices that there are?

python -m experiments.pretrain_gpt --text FILE [--preset 124M] [--steps 10000] [--out runs/pretrain_gpt]
python -m experiments.pretrain_gpt --tokens FILE [--vocabulary 50257] [--data -1] [--model 1] [--whole] [--machines]

The architecture of Radford et al. 2019, trained as nanoGPT does: AdamW, warm-up and cosine, gradients clipped to the norm 1,
half a million tokens an update whatever --batch is. bfloat16 with float32 parameters, remat, cross-entropy in chunks. Of a text
the bytes are the tokens; --tokens are integers of 16 bits, as `jnn.data.write_tokens` writes them. The last hundredth is held
out, 64 windows at least, and 64 spread over it are judged.

Parameters and optimizer state are cut over --data devices, attention and dense layers over --model devices; on several machines
start the same command on each (docs/scaling.md). The same command again, on any devices, goes on from the newest checkpoint in
OUT; another text, preset, vocabulary, batch, seed or number of steps is refused there. At the end it writes OUT/sample.txt.

Expected: tokens a second and their share of the rate of a plain matrix product on the same devices, for the preset and the
machine. --quick, a toy on tiny Shakespeare, half a minute on 2 cores.
"""

import json
import math
import sys
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.figure import Figure

import jnn
from experiments import beginnings, commands
from experiments.findings import picture, record, stage
from experiments.gpts import PRESETS, RULES, flops_per_token, training_of, written
from jnn import sharding
from jnn.checkpoints import processes
from jnn.comparison.errors import InputError

JUDGED = 64  # windows


def windows_of(options, length: int) -> tuple[jnn.data.Tokens, int]:
    """-> the windows, and the number of different tokens."""
    path, dtype, most = (options.tokens, "uint16", 50257) if options.tokens else (options.text, "uint8", 256)
    if path is None and options.quick:
        path = options.out / "tokens.bin"
        if processes.is_first():
            tokens, symbols = jnn.data.tiny_shakespeare()
            jnn.data.write_tokens(path, np.frombuffer(symbols.encode(), np.uint8)[tokens], dtype=dtype)
        processes.of_all(0)  # before that none reads it
    if path is None or not path.is_file():
        raise InputError(f"{path} is no file" if path else "give --text FILE or --tokens FILE, or try --quick")
    vocabulary = options.vocabulary or most
    return jnn.data.Tokens(path, length, dtype=dtype, vocabulary=vocabulary), vocabulary


def main(arguments=None):
    parser, count = commands.parser(__doc__, "pretrain_gpt", quick="the tiny preset, on tiny Shakespeare"), commands.count
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--text", metavar="FILE", type=Path, help="its bytes are the tokens")
    files.add_argument("--tokens", metavar="FILE", type=Path, help="integers of 16 bits")
    parser.add_argument("--vocabulary", type=count, help="different tokens (default: 50257; 256 of a text)")
    parser.add_argument("--preset", choices=PRESETS, help="(default: 124M; tiny with --quick)")
    parser.add_argument("--steps", type=count, help="updates (default: 10000; 200 with --quick)")
    parser.add_argument("--batch", type=count, help="windows a step, of all devices together (default: 32; tiny: 8)")
    parser.add_argument("--data", type=int, default=-1, help="devices over which a batch is cut (default: all that are left)")
    parser.add_argument("--model", type=int, default=1, help="devices over which a layer is cut (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="keep parameters whole on each device of the data axis")
    parser.add_argument("--machines", action="store_true", help="one of several, as SLURM or a TPU pod starts them")
    options = parser.parse_args(arguments)
    if options.machines:
        jax.distributed.initialize()
    name, updates = ("tiny", 200) if options.quick else ("124M", 10_000)
    name, updates, dtype, key = options.preset or name, options.steps or updates, jnp.bfloat16, jax.random.key(options.seed)
    preset = PRESETS[name]._replace(batch=options.batch or PRESETS[name].batch)
    try:
        mesh = sharding.mesh(data=options.data, model=options.model)
    except ValueError as error:
        raise InputError(f"--data, --model: {error}") from error
    data, model = mesh.shape["data"], mesh.shape["model"]
    if preset.update % preset.batch or preset.batch % data or preset.heads % model:
        shape = f"{preset.update} windows an update, {preset.batch} windows a step, {preset.heads} heads"
        raise InputError(f"--batch {preset.batch}, --data {data}, --model {model}: they do not divide {shape}")
    windows, vocabulary = windows_of(options, preset.window)
    learned = len(windows) - max(len(windows) // 100, JUDGED)
    if learned < preset.batch:
        raise InputError(f"{windows.path}: {len(windows)} windows of {preset.window} tokens are too few; {JUDGED} are held out")
    judged = [windows[int(i)] for i in np.linspace(learned, len(windows) - 1, JUDGED)]
    held_out = tuple(np.stack(part) for part in zip(*judged, strict=True))
    asked = {"text": beginnings.fingerprint(windows), "vocabulary": vocabulary, "preset": name, "steps": updates}
    steps, kept = updates * preset.update // preset.batch, options.out / "checkpoints"
    about = beginnings.begun(options.out, asked | {"batch": preset.batch, "seed": options.seed}, steps)

    rules = (RULES if model > 1 else {}) | ({} if options.whole else {"*": sharding.fully("data")})
    cut = NamedSharding(mesh, PartitionSpec("data"))
    training = sharding.shard(training_of(preset, vocabulary, updates, dtype, data), mesh, rules, batch=cut.spec)
    source = grain.MapDataset.range(learned).map(windows.__getitem__)
    stream = jnn.data.stream(source, batch_size=preset.batch, seed=options.seed, sharding=cut)
    evaluation = {"eval_data": held_out, "eval_every": max(steps // 20, 1)}
    found = jnn.run(training, stream, key=key, steps=steps, segment=20, checkpoint=kept, **evaluation)
    params = found.train_state.params
    with stage("writing"):
        sample = written(preset, vocabulary, dtype, mesh, params, held_out[0][0, : preset.window // 8], key)
    if not processes.is_first():
        return None
    as_text = " ".join(map(str, sample)) if options.tokens else bytes(sample.tolist()).decode(errors="replace")
    (options.out / "sample.txt").write_text(as_text)
    log = map(json.loads, (kept / "log.jsonl").read_text().splitlines())
    speed = float(np.median([line["per_second/tokens"] for line in log if line["step"] > about["step"]]))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    results = {
        "losses": found.history["loss"].tolist(),
        "held_out": found.history["eval"]["loss"].tolist(),
        "evaluated_every": evaluation["eval_every"],
        "tokens_per_step": preset.batch * preset.window,
        "vocabulary": vocabulary,
        "parameters": parameters,
        "devices": mesh.size,
        "tokens_per_second": speed,
        "product_rate": about["product_rate"],
        "share_of_product_rate": speed * flops_per_token(preset, parameters) / (about["product_rate"] * mesh.size),
    }
    recorded = record(options, described(results), results)
    draw(options.out, results)
    return recorded


def draw(out, results):
    with jnn.plots.style():
        figure, every = Figure(figsize=(6, 3)), results["evaluated_every"]
        axes = figure.subplots()
        read = results["tokens_per_step"] * np.arange(1, len(results["losses"]) + 1) / 1e6
        axes.plot(read, results["losses"], color=jnn.plots.COLORS[0], linewidth=0.8, label="training")
        axes.plot(read[every - 1 :: every], results["held_out"], "o-", color=jnn.plots.COLORS[1], label="held out")
        axes.set(xlabel="tokens read, millions", ylabel="loss, nats a token", title="pretraining")
        axes.legend()
        picture(out, "losses", figure)


def described(results) -> str:
    last, first, guessing = results["held_out"][-1], results["losses"][0], math.log(results["vocabulary"])
    read = len(results["losses"]) * results["tokens_per_step"] / 1e6
    return (
        f"On {results['devices']} x {jax.devices()[0].device_kind} a GPT of {results['parameters'] / 1e6:.3g} million "
        f"parameters reads {results['tokens_per_second']:,.0f} tokens a second, {100 * results['share_of_product_rate']:.0f} % "
        f"of the rate of a plain product of matrices there ({results['product_rate'] / 1e12:.3g} TFLOP/s each). After "
        f"{read:.3g} million tokens its loss is {last:.3f} nats a token of the held-out text; it began at {first:.3f}, and "
        f"guessing gets {guessing:.3f}."
    )


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
