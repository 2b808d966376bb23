"""A process of its own for each contestant, so that no library's memory, threads or caches meet another's.

`Worker` is the parent's end, `python -m experiments.benchmarks.workers MODULE WORKLOAD CONTEXT WEIGHTS` the child's. Between
two questions the child waits on its input and costs nothing.
"""

import functools
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks import workloads

SWEPT = 8  # models in the context "sweep"


class Worker:
    """A contestant in a process of its own: `answer` is what it said of itself at the start, `ask` has it take steps."""

    def __init__(self, module: str, workload: str, context: str, weights: Path):
        self.name = f"{module}, {workload}, {context}"
        command = [sys.executable, "-m", "experiments.benchmarks.workers", module, workload, context, str(weights)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe that nobody reads would fill
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.answer = self._read()

    def ask(self, steps: int) -> float:
        """Seconds per step of one model, over so many steps."""
        assert self.process.stdin
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.peak_rss = answer["peak_rss"]
        return answer["seconds"]

    def _read(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):  # what a library prints
            line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended: {self.errors.read()[-2000:]}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.errors.close()


def _serve(module: str, workload: str, context: str, weights_file: str):
    with np.load(weights_file) as file:
        weights = dict(file)
    run, first = _CONTEXTS[context](importlib.import_module(f"experiments.benchmarks.peers.with_{module}"), workload, weights)
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(int(line)), "peak_rss": _peak_rss()}), flush=True)


def _steps(peer, workload, weights):
    """A Python loop over the compiled step, one batch, the loss waited for at the end."""
    batch = peer.prepare(workloads.batch(workload))
    state, step = peer.NETWORKS[workload](weights)
    seconds = memory = None
    if hasattr(step, "lower"):
        began = time.perf_counter()
        analysis = step.lower(state, batch).compile().memory_analysis()
        seconds = time.perf_counter() - began
        memory = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
        memory -= analysis.alias_size_in_bytes
    losses = []
    began = time.perf_counter()
    for _ in range(3):
        state, loss = step(state, batch)
        losses.append(peer.wait(loss))
        if seconds is None and peer.COMPILES:
            seconds = time.perf_counter() - began  # the first step with it

    def run(steps):
        nonlocal state
        began = time.perf_counter()
        for _ in range(steps):
            state, loss = step(state, batch)
        peer.wait(loss)
        return (time.perf_counter() - began) / steps

    return run, {"losses": losses, "compile_seconds": seconds, "memory_bytes": memory}


def _fit(peer, workload, weights):
    """`jnn.fit` from the same start, batches gathered from four times as many examples."""
    import jax

    import jnn

    training, start = peer.training_of(workload), peer.start_of(workload, weights)
    size = workloads.WORKLOADS[workload].inputs[0]
    data = jax.device_put(workloads.batch(workload, examples=4 * size))

    def run(steps):
        began = time.perf_counter()
        fitted = jnn.fit(training, data, key=jax.random.key(0), steps=steps, batch_size=size, start=start)
        jax.block_until_ready(fitted)
        return (time.perf_counter() - began) / steps

    return _after_first(run), {}


def _sweep(peer, workload, weights):
    """`jnn.sweep` of eight learning rates, a run each; initial parameters are drawn and counted too."""
    import jax
    import jax.numpy as jnp

    import jnn

    size = workloads.WORKLOADS[workload].inputs[0]
    data = jax.device_put(workloads.batch(workload, examples=4 * size))
    rates = jnp.logspace(-4, -3, SWEPT)

    @functools.cache  # one function a count of steps, as each is compiled once
    def training(steps):
        def train(rate, key, data):
            return jnn.fit(peer.training_of(workload, rate), data, key=key, steps=steps, batch_size=size).history["loss"]

        return train

    def run(steps):
        began = time.perf_counter()
        jax.block_until_ready(jnn.sweep(training(steps), rates, seeds=1, data=data))
        return (time.perf_counter() - began) / steps / SWEPT

    return _after_first(run), {}


def _after_first(run):
    """Each number of steps is a program of its own, compiled before it is timed."""
    seen = set()

    def timed(steps):
        if steps not in seen:
            seen.add(steps)
            run(steps)
        return run(steps)

    return timed


_CONTEXTS = {"step": _steps, "fit": _fit, "sweep": _sweep}


def _peak_rss() -> int:
    """Bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    _serve(*sys.argv[1:])
