"""What becomes of a run that is killed, or whose disk fails, or whose files are damaged?

python -m experiments.benchmarks.reliability [--quick] [--kills 200] [--flips 10000] [--stride 1] [--only kills,...]
    [--seed 0] [--out runs/benchmarks]

A small training with a checkpoint every three steps, by `jnn.run` and by Orbax alone (`CheckpointManager` with its default
options, restored from its latest step), goes through the same:
  kills        SIGKILL at a random moment; started again until it ends, and its end compared with that of an undisturbed run
  points       SIGKILL at every call by which a save writes, in turn: of Python and of libraries in C++
  steps        SIGKILL after each step of a short run, 11 optimizers and 3 loaders, of jnn alone
  injections   an error at each of these calls in turn: no space, input/output error, time-out. Is it raised? Does the
               run go on?
  flips        one flipped bit in a file of a checkpoint: every byte of jnn's manifest, random bits of all files; is it noticed?
  cuts         each file cut by a byte, by half, emptied, removed
  power        files of a finished checkpoint that are not synced, and what is left of it when they are lost
Results that OUT/reliability.json has of other parts are kept. Wants Linux and a C compiler (`cc`). All parts take about half an
hour on 2 cores.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmarks import records
from experiments.benchmarks.reliability.contestants import CONTESTANTS
from experiments.benchmarks.reliability.damages import cuts, flips, power
from experiments.benchmarks.reliability.faults import preloaded
from experiments.benchmarks.reliability.injections import injections
from experiments.benchmarks.reliability.kills import kills, points
from experiments.benchmarks.reliability.steps import steps
from experiments.benchmarks.reliability.tables import PARTS, table
from experiments.benchmarks.reliability.trials import FORKED, prepared


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=10_000, help="of Orbax alone, which is slower to read, a tenth")
    parser.add_argument("--stride", type=int, default=1, help="points and injections: every so many-th call")
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="4 kills, 50 flips, every 20th call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    count, flipped, stride = (4, 50, 20) if options.quick else (options.kills, options.flips, options.stride)
    chosen = [part for part in options.only.split(",") if part]
    for part in chosen:
        if part not in PARTS:
            parser.error(f"--only: there is no part {part}; there are {', '.join(PARTS)}")
    old = options.out / "reliability.json"
    results = json.loads(old.read_text())["results"] if old.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepared(work)
        preloaded(work)
        FORKED.set_forkserver_preload(["experiments.benchmarks.reliability.contestants", "orbax.checkpoint", "grain"])
        rng = partial(np.random.default_rng, options.seed)
        do = {
            "kills": lambda name: kills(name, work, count, rng()),
            "points": lambda name: points(name, work, stride),
            "steps": lambda name: steps(work),
            "injections": lambda name: injections(name, work, stride),
            "flips": lambda name: flips(name, work, flipped if name == "jnn" else max(flipped // 10, 1), rng(), back=20),
            "cuts": lambda name: cuts(name, work),
            "power": lambda name: power(name, work),
        }
        for part in chosen:
            results[part] = {}
            for name in CONTESTANTS if part != "steps" else ("jnn",):
                results[part][name] = do[part](name)
                print(part, name, json.dumps(results[part][name]), flush=True)
            records.write(options.out, "reliability", results)  # what is done is not lost either
    (options.out / "reliability.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
