"""What do checkpoints, memory and reading from disk cost a long run?

python -m experiments.benchmarks.long_runs [--quick] [--only checkpoints,...] [--minutes 10] [--gigabytes 2]
    [--seed 0] [--out runs/benchmarks]

  checkpoints   10 million parameters with Adam, 120 MB, and a checkpoint a minute, as jnn writes it and as Orbax alone does
                (`CheckpointManager` with its default options), each over --minutes: the share of the time in which the loop
                waits for a save, and in which segments take longer than the median while one is written
  memory        resident memory of a run of 100,000 steps, a checkpoint at each tenth
  reading       a file of --gigabytes of random tokens, read shuffled by a small GPT: the share of the time that it waits, the
                memory that is not the file's, and the tokens a second that are read where nothing else is done
Results that OUT/long_runs.json has of other parts are kept. Wants Linux, room for the file, and a machine that is idle.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jnn
from experiments.benchmarks import records
from jnn.checkpoints import Checkpoints
from jnn.checkpoints.series import Writer

KEY = jax.random.key(0)
MINUTE = 60.0


class Saver(NamedTuple):
    """A way to write checkpoints in the background."""

    save: Callable[[int, dict], object]
    busy: Callable[[], bool]  # whether one is being written
    close: Callable[[], None]


def _jnn(folder: Path) -> Saver:
    writer = Writer(Checkpoints(folder))

    def busy():
        return writer._thread is not None and writer._thread.is_alive()

    return Saver(lambda step, tree: writer.save(step, tree, {}), busy, writer.close)


def _orbax(folder: Path) -> Saver:
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=3))

    def save(step, tree):
        manager.save(step, args=ocp.args.StandardSave(jnn.tree.flatten(tree)))

    return Saver(save, manager.is_saving_in_progress, manager.close)


SAVERS = {"jnn": _jnn, "orbax": _orbax}


def _numbers(state) -> dict:
    """Of a key its numbers: Orbax takes no keys."""
    return state._replace(key=jax.random.key_data(state.key))._asdict()


def checkpoints(work: Path, minutes: float, spacing: float, rng) -> dict:
    """spacing: seconds between two saves."""
    layers = [layer for width in (2048, 2048, 2048) for layer in (jnn.dense(width), jax.nn.relu)]
    model = jnn.serial(*layers, jnn.dense(10))
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.adam(1e-4))
    data = rng.normal(size=(512, 784)).astype(np.float32), rng.integers(0, 10, 512).astype(np.int32)

    @partial(jax.jit, donate_argnums=0)
    def segment(state):
        return jnn.fit(training, data, key=KEY, steps=5, batch_size=64, start=state).train_state

    found = {}
    for name, saver in SAVERS.items():
        state = jax.block_until_ready(segment(jnn.fit(training, data, key=KEY, steps=0, batch_size=64).train_state))
        with_saves = saver(work / f"checkpoints.{name}")
        with_saves.save(0, _numbers(state))  # the first one prepares much
        while with_saves.busy():
            time.sleep(0.1)
        alone, beside, blocked = [], [], []
        began = last = time.perf_counter()
        while time.perf_counter() - began < 60 * minutes:
            at = time.perf_counter()
            if at - last >= spacing:
                last = at
                with_saves.save(int(state.step), _numbers(state))
                blocked.append(time.perf_counter() - at)
                at = time.perf_counter()
            writing = with_saves.busy()
            state = jax.block_until_ready(segment(state))
            (beside if writing else alone).append(time.perf_counter() - at)
        total = time.perf_counter() - began
        with_saves.close()
        usual = float(np.median(alone))
        found[name] = {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "seconds": total,
            "saves": len(blocked),
            "seconds that the loop waits for a save": records.spread(blocked),
            "seconds of a segment": records.spread(alone),
            "segments while one is written": len(beside),
            "share waiting": sum(blocked) / total,
            "share slowed": (sum(beside) - usual * len(beside)) / total,
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def memory(work: Path, steps: int, rng) -> dict:
    """Resident bytes after each thousandth step; the history takes 4 bytes for each step and metric."""
    page, seen = os.sysconf("SC_PAGE_SIZE"), []
    data = rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64).astype(np.int32)
    training = jnn.training(jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy), jnn.optim.adam(0.01))

    def look(report):
        seen.append(page * int(Path("/proc/self/statm").read_text().split()[1]))

    kept = Checkpoints(work / "memory", every=steps // 10)
    options = {"batch_size": 8, "segment": steps // 100, "checkpoint": kept, "hooks": (look,), "progress": False}
    found = jnn.run(training, data, key=KEY, steps=steps, **options)
    tenth = len(seen) // 10
    return {
        "steps": steps,
        "metrics": len(jax.tree.leaves(found.history)),
        "bytes in the second tenth": int(np.median(seen[tenth : 2 * tenth])),
        "bytes in the last tenth": int(np.median(seen[-tenth:])),
        "samples": seen,
    }


def reading(work: Path, gigabytes: float, seconds: float, rng) -> dict:
    path, window = work / "tokens.bin", 1024
    count = int(gigabytes * 2**30 / 2)
    pieces = (rng.integers(0, 256, min(2**24, count - at), np.uint16) for at in range(0, count, 2**24))
    jnn.data.write_tokens(path, pieces)
    with open(path, "rb") as file:  # none of it in the system's memory
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    stream = jnn.data.stream(jnn.data.Tokens(path, window, vocabulary=256), batch_size=4)
    model = jnn.models.gpt(256, window, layers=2, width=64, heads=2)
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.adam(1e-3))
    reports, anonymous = [], []

    def look(report):
        reports.append(report)
        anonymous.append(_anonymous())

    options = {"key": KEY, "segment": 20, "progress": False, "hooks": (look,)}
    jnn.run(training, stream, steps=60, **options)
    steps = 20 * max(math.ceil(seconds / reports[-1].seconds), 3)
    reports.clear()
    anonymous.clear()
    jnn.run(training, stream, steps=steps, **options)
    after_first = reports[1:]  # it compiles, and the first batches are read in front of it
    total = sum(report.seconds for report in after_first)
    batches, began, read = iter(stream), time.perf_counter(), 0
    next(batches)
    while time.perf_counter() - began < seconds / 4:
        read += next(batches)[0].size
    alone = read / (time.perf_counter() - began)
    return {
        "bytes of the file": path.stat().st_size,
        "steps": steps,
        "tokens a second": float(np.median([report.rates["tokens"] for report in after_first])),
        "share waiting": sum(report.waiting * report.seconds for report in after_first) / total,
        "most waiting in a segment": max(report.waiting for report in after_first),
        "bytes at first": anonymous[0],
        "bytes at most": max(anonymous),
        "tokens a second that are read alone": alone,
    }


def _anonymous() -> int:
    """Resident bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


PARTS = ("checkpoints", "memory", "reading")


def table(results: dict) -> str:
    """Of what was recorded."""
    rows = {}
    for name, title in (("jnn", "jnn"), ("orbax", "Orbax alone")):
        if found := results.get("checkpoints", {}).get(name):
            blocked, slowed = found["seconds that the loop waits for a save"], found["share slowed"]
            rows[f"a checkpoint a minute of {found['parameters'] / 1e6:.3g} million parameters, {title}"] = (
                f"{100 * (found['share waiting'] + slowed):.2g} % of {found['seconds'] / 60:.0f} minutes: "
                f"{100 * found['share waiting']:.2g} % in {found['saves']} saves of {blocked['median']:.2g} s "
                f"({blocked['least']:.2g} to {blocked['most']:.2g}), {100 * slowed:.2g} % by steps that are slower meanwhile"
            )
    if found := results.get("memory"):
        first, last = (found[f"bytes in the {name} tenth"] / 2**20 for name in ("second", "last"))
        history = 4 * found["metrics"] * found["steps"] * 0.8 / 2**20
        rows[f"memory over {found['steps']:,} steps"] = (
            f"{first:.0f} MB in the second tenth, {last:.0f} MB in the last; the history has grown by {history:.1f} MB"
        )
    if found := results.get("reading"):
        most, grown = 100 * found["most waiting in a segment"], (found["bytes at most"] - found["bytes at first"]) / 2**20
        rows[f"waiting for a token file of {found['bytes of the file'] / 2**30:.3g} GB, shuffled"] = (
            f"{100 * found['share waiting']:.2g} % of the time at {found['tokens a second']:,.0f} tokens a second, at most "
            f"{most:.2g} % of a segment; memory beside the file's pages grows by {grown:.0f} MB"
        )
        rows["reading that file, where nothing is computed"] = (
            f"{found['tokens a second that are read alone']:,.0f} tokens a second"
        )
    return "\n".join(["| | |", "|---|---|", *(f"| {title} | {text} |" for title, text in rows.items())]) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training with checkpoints, each of two")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the token file")
    parser.add_argument("--quick", action="store_true", help="seconds in place of minutes, and a file of 20 MB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    chosen = [part for part in options.only.split(",") if part]
    for part in chosen:
        if part not in PARTS:
            parser.error(f"--only: there is no part {part}; there are {', '.join(PARTS)}")
    old, rng = options.out / "long_runs.json", np.random.default_rng(options.seed)
    results = json.loads(old.read_text())["results"] if old.exists() else {}
    with tempfile.TemporaryDirectory(dir=options.out if options.out.exists() else None) as folder:
        work = Path(folder)
        do = {
            "checkpoints": lambda: checkpoints(work, *((0.2, 4.0) if options.quick else (options.minutes, MINUTE)), rng),
            "memory": lambda: memory(work, 1000 if options.quick else 100_000, rng),
            "reading": lambda: reading(work, *((0.02, 4.0) if options.quick else (options.gigabytes, 120.0)), rng),
        }
        for part in chosen:
            results[part] = do[part]()
            records.write(options.out, "long_runs", results)  # what is done is not lost either
    (options.out / "long_runs.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
