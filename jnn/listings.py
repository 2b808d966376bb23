"""What the command line prints beside verdicts: what there is, what would run, calibrations, maps."""

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from jnn.comparison.catalogue import catalogue
from jnn.comparison.estimates import estimate, total_seconds
from jnn.comparison.plans import Plan
from jnn.comparison.rows import percent, signed
from jnn.comparison.store import finished
from jnn.comparison.suite import TASKS


def available() -> Group:
    """Tasks, optimizers, and those that cannot be compared, with the reason."""
    tasks = _table("task", "what", "steps", "batch")
    for task in TASKS.values():
        tasks.add_row(task.name, task.about, f"{task.steps:,}", str(task.batch_size or "all"))
    found = catalogue()
    by_library: dict[str, list[str]] = {}
    for listed in found:
        if not listed.problem:
            by_library.setdefault(listed.name.rpartition(":")[0] or "jnn", []).append(listed.name)
    optimizers = _table("library", "optimizers")
    for library, names in by_library.items():
        optimizers.add_row(library, Text(", ".join(names)))
    left_out = _table("cannot be compared", "because")
    for listed in found:
        if listed.problem:
            left_out.add_row(listed.name, Text(f"it {listed.problem}"))
    return Group(tasks, optimizers, left_out)


def dry_run(plan: Plan, about: Mapping, out: Path, overwrite: bool = False) -> Group:
    """What a comparison with the identity `about` would run, and how long it would take here."""
    kept = set() if overwrite else finished(out, about, plan)
    found = estimate(plan, kept)
    table = _table("task", "optimizer", "trainings", "steps", "seconds")
    for (task, optimizer), one in found.items():
        seconds = "kept" if (task, optimizer) in kept else f"{one.seconds:,.1f}"
        table.add_row(task, optimizer, f"{one.trainings:,}", f"{one.steps:,}", seconds)
    trainings = sum(one.trainings for one in found.values())
    return Group(
        table,
        Text(f"{trainings:,} trainings; about {_duration(total_seconds(found))} on this machine, by timed steps", "bold"),
        *(Text(f"Note: {note}", "yellow") for note in plan.notes),
        Text(f"Nothing has been trained. The results would go to {out}", "dim"),
    )


def calibration(found, reference: str) -> Group:
    """The table of `calibrate`."""
    table = _table("task", "comparisons", "p < 0.05", "false verdicts", "95 % interval", "5 % or less")
    for row in found.to_dict("records"):
        table.add_row(
            row["task"],
            str(row["comparisons"]),
            f"{row['p_under_0.05_share']:.1%}",
            f"{row['false_verdicts_share']:.1%}",
            f"{row['false_verdicts_low']:.1%} to {row['false_verdicts_high']:.1%}",
            "yes" if row["sound"] else "NO",
        )
    return Group(Text(f"{reference} against itself, each arm with its own search points and tuning seeds", "bold"), table)


def verdicts(found) -> Table:
    """The table of a verdict map."""
    table = _table(*found.settings, "task", "optimizer", "verdict", "difference", "p (Holm)")
    for row in found.verdicts.to_dict("records"):
        share = signed(percent(row["difference"], row["reference_loss"]))
        settings = [str(row[name]) for name in found.settings]
        table.add_row(*settings, row["task"], row["optimizer"], row["verdict"], f"{share} %", f"{row['p_adjusted']:.4f}")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in headings:
        table.add_column(heading)
    return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
