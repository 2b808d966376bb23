"""How long does `jnn compare` take with its defaults, from start to report?

python -m experiments.benchmarks.compare_defaults [--quick] [--rounds 3] [--out runs/benchmarks]

4 optimizers, three digits tasks, 8 trials, 32 studies and 8 separate ones of the reference: 3,672 trainings, in a process of
its own, compilation, report and figures included; and the peak memory of that process. Expected on 2 cores: under a minute.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import records


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    seconds, memory = [], []
    for i in range(1 if options.quick else options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "jnn.cli", "compare", "--seed", str(options.seed), "--out", f"{folder}/report"]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"jnn compare failed with status {status}")
            seconds.append(time.perf_counter() - began)
            memory.append(usage.ru_maxrss / 1024)
        print(f"round {i + 1}: {seconds[-1]:.1f} s, {memory[-1]:.0f} MiB", flush=True)
    records.write(options.out, "compare_defaults", {"seconds": records.spread(seconds), "peak_mib": records.spread(memory)})


if __name__ == "__main__":
    main()
