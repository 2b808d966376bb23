"""Is a training step in jnn as fast as in the other libraries, alone, inside `jnn.fit` and inside `jnn.sweep`?

python -m experiments.benchmarks.steps [--quick] [--rounds 7] [--workloads mlp,cnn] [--peers linen,torch] [--out DIR]

The same network, from the same weights, on the same batch, with Adam, in jnn, raw jax, flax (linen and nnx), equinox, haiku and
torch, as far as they are installed (`pip install -e '.[benchmarks]'`); a process each. First all must agree: one step from
the same weights has the same loss to 1e-5, the second one to 1e-3, the third to 1e-2. Then they run in turns, some steps each,
and the ratio of jnn's time to each other's is taken round by round.

  step   a compiled step in a Python loop, the loss waited for at the end
  fit    jnn only: inside `jnn.fit`, with its batches gathered from four times as many examples
  sweep  jnn only: inside `jnn.sweep` of 8 learning rates, per model; the drawing of initial parameters counts

Also: seconds to trace and compile (a gpt of 48 layers as well), memory of a step by XLA's account (arguments, results and
scratch), the process's highest memory, and the time of `import jnn` beside `import jax`. Writes steps.json, steps.md and
steps.png. About half an hour on 2 cores, --quick under three minutes. Give it the machine alone.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import figures, records
from experiments.benchmarks.workers import Worker
from experiments.benchmarks.workloads import WORKLOADS

# contestant -> the package it needs
PEERS = {"jax": "jax", "linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku", "torch": "torch"}
WITHOUT = {("gru", "haiku")}  # it has no such cell
QUICK = {"workloads": ("mlp", "lstm"), "peers": ("jax", "linen", "torch")}
DEEP = "gpt_48"  # compiled only
TIMED = [name for name in WORKLOADS if name != DEEP]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="turns of each contestant; 7, with --quick 3")
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK['workloads'])} beside {', '.join(QUICK['peers'])}"
    )
    parser.add_argument("--workloads", help=f"of {', '.join(TIMED)}; default all")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)}; default all that are installed")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    rounds = options.rounds if options.rounds is not None else 3 if options.quick else 7
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    chosen = _chosen(parser, options.workloads, TIMED, QUICK["workloads"], options.quick)
    peers = _chosen(parser, options.peers, list(PEERS), QUICK["peers"], options.quick)
    missing = [peer for peer in peers if importlib.util.find_spec(PEERS[peer]) is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)} (pip install -e '.[benchmarks]')")
    peers = [peer for peer in peers if peer not in missing]

    results: dict[str, Any] = {"rounds": rounds, "workloads": {}}
    for name in chosen:
        results["workloads"][name] = _compare(name, [p for p in peers if (name, p) not in WITHOUT], rounds, options)
        print(figures.step_table({"workloads": {name: results["workloads"][name]}}), flush=True)
    results["compile_48_layers"] = None if options.quick else _compile(options.seed, peers)
    results["import"] = _imports(rounds)
    table = figures.step_report(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "steps.md").write_text(table + "\n")
    figures.step_picture(results, options.out / "steps.png")
    print(table)
    records.write(options.out, "steps", results)


def _chosen(parser, text, known, quick, is_quick):
    names = list(quick) if text is None and is_quick else known if text is None else text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    return names


def _compare(name: str, peers: list[str], rounds: int, options) -> dict[str, Any]:
    print(f"\n{name}: {WORKLOADS[name].network}", flush=True)
    contexts = [("jnn", "step"), ("jnn", "fit"), ("jnn", "sweep"), *((peer, "step") for peer in peers)]
    seconds_each = 0.2 if options.quick else 0.6
    with ExitStack() as stack:
        weights = stack.enter_context(_weights(name, options.seed))
        workers = {}
        for module, context in contexts:
            label = module if context == "step" else f"{module} in {context}"
            workers[label] = stack.enter_context(Worker(module, name, context, weights))
        _require_same(name, {label: w.answer["losses"] for label, w in workers.items() if "losses" in w.answer})
        steps = max(1, round(seconds_each / workers["jnn"].ask(2)))
        # initial parameters are drawn in each sweep: enough steps that a step is what is timed
        counts = {label: max(steps, 8) if "sweep" in label else steps for label in workers}
        for label, worker in workers.items():
            worker.ask(counts[label])
        times: dict[str, list[float]] = {label: [] for label in workers}
        rng = np.random.default_rng(options.seed)
        for turn in range(rounds):
            for label in rng.permutation(list(workers)):  # nobody always follows the same one
                times[label].append(workers[label].ask(counts[label]))
            print(f"  turn {turn + 1} of {rounds}", flush=True)
        answers = {label: worker.answer for label, worker in workers.items()}
        peaks = {label: worker.peak_rss for label, worker in workers.items()}
    found = {label: np.array(values) for label, values in times.items()}
    fastest = min((p for p in peers if p != "torch"), key=lambda p: float(np.median(found[p])), default=None)
    return {
        "network": WORKLOADS[name].network,
        "steps": steps,
        "ms": {label: records.spread(1e3 * values) for label, values in found.items()},
        "ratio": {label: records.spread(found["jnn"] / found[label]) for label in peers},
        "in_fit": records.spread(found["jnn in fit"] / found["jnn"]),
        "in_sweep": records.spread(found["jnn in sweep"] / found["jnn"]),
        "fastest_jax_peer": fastest,
        "compile_seconds": {label: a["compile_seconds"] for label, a in answers.items() if a.get("compile_seconds")},
        "memory_bytes": {label: a["memory_bytes"] for label, a in answers.items() if a.get("memory_bytes")},
        "peak_rss_bytes": peaks,
    }


def _require_same(name, losses):
    ours = losses["jnn"]
    for label, theirs in losses.items():
        # after a step some differ a little: torch and flax have other biases in a cell. None that does not learn would pass
        if any(abs(a - b) > share * max(1, abs(b)) for a, b, share in zip(theirs, ours, (1e-5, 1e-3, 1e-2), strict=True)):
            sys.exit(f"{name}: {label} computes another network than jnn, losses {theirs} and {ours}")


@contextmanager
def _weights(name: str, seed: int) -> Iterator[Path]:
    """A file of jnn's initial parameters."""
    from experiments.benchmarks.peers import with_jnn

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        np.savez(file, **with_jnn.weights_of(name, seed))
        yield file


def _compile(seed: int, peers: list[str]) -> dict[str, float]:
    """Seconds to trace and compile a step of a gpt of 48 layers: `jnn.repeat` beside layers one after another."""
    found = {}
    with _weights(DEEP, seed) as weights:
        for module in ("jnn", *(p for p in ("linen",) if p in peers)):
            with Worker(module, DEEP, "step", weights) as worker:
                found[module] = worker.answer["compile_seconds"]
    return found


def _imports(rounds: int) -> dict[str, Any]:
    def seconds(package):
        code = f"import time; began = time.perf_counter(); import {package}; print(time.perf_counter() - began)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return float(run.stdout)

    # as for a user, whose second import finds the first one's bytecode
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = {package: [] for package in ("jax", "jnn")}
    for turn in range(rounds + 1):
        for package, values in times.items():
            value = seconds(package)
            if turn:  # the first reads files from the disk
                values.append(value)
    ratio = records.spread(np.array(times["jnn"]) / np.array(times["jax"]))
    return {"seconds": {package: statistics.median(values) for package, values in times.items()}, "ratio": ratio}


if __name__ == "__main__":
    main()
