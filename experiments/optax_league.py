"""Every optimizer of optax against tuned Adam, with equal budgets.

python -m experiments.optax_league [--quick] [--dry-run] [--tasks NAMES] [--studies 32] [--trials 8] [--out runs/league]

All optimizers of optax and optax.contrib that the comparison can run, on the digits tasks and fashion-mlp: the learning rate
tuned in each study over three decades around the optimizer's best (experiments/learning_rates), all else as optax has it.
Paired t over studies against Adam, p values adjusted within each task (Holm 1979); seconds per step measured apart, in turn
with Adam's; memory of the optimizer's state. Writes league.md, league.png, league.svg and results.json, and a full report for
each task. Stopped at any moment, the same command goes on.

Expected: no optimizer better on every task; most within a few percent of Adam. --dry-run says how long it takes, about an hour
on 2 cores; --quick takes three minutes.
"""

import sys
import warnings
from pathlib import Path

import numpy as np

import jnn
from experiments import commands
from experiments.benchmarks import records
from jnn.comparison.catalogue import catalogue
from jnn.comparison.entrants import find_factory
from jnn.comparison.estimates import estimate, total_seconds
from jnn.comparison.measures import measures
from jnn.comparison.plans import make_plan
from jnn.comparison.protocol import run_plan
from jnn.comparison.results import Comparison, at_borders
from jnn.comparison.store import finished, identity
from jnn.comparison.suite import DEFAULT_TASKS
from jnn.plots import style

TASKS = (*DEFAULT_TASKS, "fashion-mlp")
SIGNS = {"better": "**better**", "worse": "worse", "equivalent": "equivalent", "no difference shown": "not shown"}
BORDER = "† In more than a quarter of the studies the best learning rate was the one nearest a border: a wider space may serve."
COLORS = {"better": "#009E73", "worse": "#D55E00", "equivalent": "#0072B2", "no difference shown": "0.55"}


def contestants() -> tuple[dict, dict[str, str]]:
    """name -> factory of those that run, and name -> reason of those that do not; jnn's Adam is the reference."""
    listed = [one for one in catalogue() if one.name.startswith("optax")]
    running = {one.name: find_factory(one.name) for one in listed if not one.problem}
    return {"adam": jnn.optim.adam} | running, {one.name: one.problem for one in listed if one.problem}


def league(comparisons: dict[str, Comparison]) -> list[dict]:
    """A row for each optimizer, the best mean difference in percent of Adam's loss first."""
    rows: dict[str, dict] = {}
    for task, comparison in comparisons.items():
        reference = comparison.finals().query("optimizer == 'adam'").test_loss.mean()
        costs = measures(comparison).set_index("optimizer")
        at_border = {name for _, name, *_ in at_borders(comparison)}
        for verdict in comparison.verdicts.to_dict("records"):
            row = rows.setdefault(verdict["optimizer"], {"optimizer": verdict["optimizer"], "tasks": {}})
            cost = costs.loc[verdict["optimizer"]]
            row["tasks"][task] = {
                "verdict": verdict["verdict"],
                **{name: 100 * verdict[name] / reference for name in ("difference", "low", "high", "detectable")},
                "p_adjusted": verdict["p_adjusted"],
                "at_border": verdict["optimizer"] in at_border,
                "step_time_ratio": float(cost.step_time_ratio),
                "state_bytes": float(cost.state_bytes),
                "state_ratio": float(cost.state_bytes / costs.loc["adam"].state_bytes),
                "diverged_trials": float(cost.diverged_trials),
            }
    for row in rows.values():
        # a difference of 300 % is a run that did not learn; it shall not outweigh all else
        row["mean_difference"] = float(np.mean([min(of["difference"], 100.0) for of in row["tasks"].values()]))
        row["step_time_ratio"] = float(np.median([of["step_time_ratio"] for of in row["tasks"].values()]))
        row["state_ratio"] = float(np.median([of["state_ratio"] for of in row["tasks"].values()]))
        row["diverged_trials"] = float(np.mean([of["diverged_trials"] for of in row["tasks"].values()]))
    return sorted(rows.values(), key=lambda row: row["mean_difference"])


def summary(rows: list[dict], tasks: list[str]) -> str:
    """In one paragraph: who was better on how many tasks, who never worse, how many worse everywhere."""

    def count(row, verdict):
        return sum(of["verdict"] == verdict for of in row["tasks"].values())

    def names(chosen):
        return ", ".join(f"`{row['optimizer']}`" for row in chosen) or "none"

    most = max(count(row, "better") for row in rows)
    unbeaten = [row for row in rows if count(row, "better") and not count(row, "worse")]
    always_worse = sum(count(row, "worse") == len(tasks) for row in rows)
    best = [row for row in rows if count(row, "better") == most] if most else []
    return (
        f"Of {len(rows)} optimizers the most successful were better than Adam on {most} of {len(tasks)} tasks: {names(best)}. "
        f"Better somewhere and worse nowhere: {names(unbeaten)}. Worse on every task: {always_worse}.\n"
    )


def table(rows: list[dict], tasks: list[str]) -> str:
    """Markdown: on each task the difference from Adam in percent with its 95 % interval, and the verdict."""
    heading = ["optimizer", *tasks, "time per step", "state", "diverged"]
    lines = [f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}"]
    for row in rows:
        cells = [_cell(row["tasks"][task]) if task in row["tasks"] else "" for task in tasks]
        cost = f"{row['step_time_ratio']:.2f} | {row['state_ratio']:.2f} | {row['diverged_trials']:.0%}"
        lines.append(f"| `{row['optimizer']}` | {' | '.join(cells)} | {cost} |")
    if any(of["at_border"] for row in rows for of in row["tasks"].values()):
        lines += ["", BORDER]
    return "\n".join(lines) + "\n"


def _cell(of: dict) -> str:
    mark = "†" if of["at_border"] else ""
    return f"{SIGNS[of['verdict']]}{mark} {_percent(of['difference'])} ({_percent(of['low'])} to {_percent(of['high'])})"


def _percent(value: float) -> str:
    return (
        f"{value:+.0f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 10 else f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
    )


def picture(rows: list[dict], tasks: list[str], out: Path):
    """A panel for each task: the difference from Adam with its 95 % interval, in the verdict's colour."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(2.6 * len(tasks) + 2, 0.2 * len(rows) + 1.3))
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            axes.axvspan(-1, 1, color="0.92", linewidth=0)
            axes.axvline(0, color="black", linewidth=0.8)
            for place, row in enumerate(rows):
                of = row["tasks"].get(task)
                if of is None:
                    continue
                error = [[of["difference"] - of["low"]], [of["high"] - of["difference"]]]
                color = COLORS[of["verdict"]]
                axes.errorbar(
                    of["difference"], place, xerr=error, fmt="o", color=color, markersize=3.5, capsize=0, linewidth=1.2
                )
            axes.set_xscale("symlog", linthresh=10)
            axes.set_xticks([-100, -10, -5, 0, 5, 10, 100, 1000])
            axes.set_xlim(-100, 6000)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0")
            axes.tick_params(axis="x", labelsize=7)
            axes.grid(axis="y", color="0.93", linewidth=0.6)
            axes.set_title(task)
            axes.set_ylim(len(rows) - 0.4, -0.6)
        names = [row["optimizer"].replace("optax.contrib:", "contrib:").replace("optax:", "") for row in rows]
        panels[0].set_yticks(range(len(rows)), names, fontsize=8)
        dots = [panels[-1].plot([], [], "o", color=color, markersize=4, label=verdict)[0] for verdict, color in COLORS.items()]
        figure.legend(handles=dots, loc="outside upper right", ncols=len(dots))
        figure.supxlabel("test loss less tuned Adam's, in % of Adam's, with 95 % interval; left is better", fontsize=9)
        figure.savefig(out / "league.png", dpi=150)
        figure.savefig(out / "league.svg", metadata={"Date": None})


def main(arguments=None):
    parser = commands.parser(__doc__, "league", quick="six optimizers on digits-linear, 2 trials, 4 studies")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and how long it would take")
    options = parser.parse_args(arguments)
    optimizers, left_out = contestants()
    if options.quick:
        options.tasks, options.trials, options.studies = "digits-linear", 2, 4
        optimizers = dict(list(optimizers.items())[:6])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what optax will change
        plans = {
            task: make_plan(optimizers, [task], "adam", {}, options.trials, options.studies, 0.01, options.seed)
            for task in options.tasks.split(",")
        }
        if options.dry_run:
            for task, plan in plans.items():
                found = estimate(plan, finished(options.out / task, identity(plan), plan))
                trainings = sum(one.trainings for one in found.values())
                print(f"{task}: {trainings:,} trainings, about {total_seconds(found) / 60:.0f} min", flush=True)
            return None
        comparisons = {}
        for task, plan in plans.items():  # one report for each, so that p values are adjusted within the task
            print(f"{task}: {len(plan.entrants)} optimizers", flush=True)
            comparisons[task] = run_plan(plan, options.out / task)
    rows = league(comparisons)
    text = f"{summary(rows, list(comparisons))}\n{table(rows, list(comparisons))}"
    (options.out / "league.md").write_text(text, encoding="utf-8")
    picture(rows, list(comparisons), options.out)
    records.write(
        options.out,
        "results",
        {
            "rows": rows,
            "left_out": left_out,
            "notes": {task: comparison.notes() for task, comparison in comparisons.items()},
            "trials": options.trials,
            "studies": options.studies,
            "seed": options.seed,
            "seconds": {task: comparison.environment["seconds"] for task, comparison in comparisons.items()},
            "spaces": next(iter(comparisons.values())).protocol["optimizers"],
        },
    )
    print(text)
    return rows


if __name__ == "__main__":
    sys.exit(commands.exit_code(main))
