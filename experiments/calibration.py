"""How often does `jnn compare` see a difference where there is none?

python -m experiments.calibration [--quick] [--tasks NAMES] [--comparisons 200] [--seed 0] [--out runs/calibration]

Adam against itself through the whole pipeline, each arm with its own search points and tuning seeds, 200 comparisons of 32
studies on each task. Shown are the share that the paired t calls different at 5 %, and the share of verdicts `better` or
`worse`, each with its exact 95 % interval (Clopper & Pearson 1934).

Expected: intervals that contain or lie under 5 %. About 25 minutes on 2 cores, --quick under a minute.
"""

import sys

import jnn
from experiments import commands
from experiments.benchmarks import records
from jnn.comparison.calibration import calibrate
from jnn.comparison.suite import DEFAULT_TASKS


def main(arguments=None):
    parser = commands.parser(__doc__, "calibration", quick="20 comparisons of 8 studies on digits-linear")
    parser.add_argument("--tasks", default=",".join(DEFAULT_TASKS))
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args(arguments)
    if options.quick:
        options.tasks, options.comparisons, options.studies = "digits-linear", 20, 8
    rows = []
    for task in options.tasks.split(","):  # one after another, so that each is written as it comes
        found = calibrate(
            jnn.optim.adam,
            [task],
            comparisons=options.comparisons,
            trials=options.trials,
            studies=options.studies,
            seed=options.seed,
        )
        rows += found.to_dict("records")
        row = rows[-1]
        print(
            f"{task}: {row['false_verdicts']} of {row['comparisons']} verdicts false, "
            f"{row['false_verdicts_share']:.1%} ({row['false_verdicts_low']:.1%} to {row['false_verdicts_high']:.1%}); "
            f"p < 0.05 in {row['p_under_0.05_share']:.1%}",
            flush=True,
        )
        records.write(options.out, "results", {"rows": rows, "seed": options.seed})
    return rows


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
