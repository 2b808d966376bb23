"""What a comparison found."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jnn.comparison import environment, statistics

if TYPE_CHECKING:
    from jnn.comparison.plans import Plan
    from jnn.comparison.studies import Cell

DataFrame = Any  # pandas.DataFrame, which is imported late and whose columns no checker follows


@dataclass(frozen=True)
class Comparison:
    """The verdicts of a comparison and everything that they rest on. Prints as its table; shows itself in a notebook."""

    verdicts: DataFrame  # task, optimizer, reference, difference, low, high, p_value, p_adjusted, detectable, verdict
    trials: DataFrame  # task, optimizer, study, phase, trial, hyperparameters, validation_*, test_*, diverged
    curves: dict[tuple[str, str], dict[str, np.ndarray]]  # (task, optimizer) -> step (points,), training and validation
    protocol: dict[str, Any]
    environment: dict[str, Any]
    folder: Path | None = None  # where the report was written

    def to_json(self) -> str:
        """All of it, under the keys verdicts, trials, curves, protocol, environment. What is not finite is null."""
        curves: dict[str, Any] = {}
        for (task, optimizer), arrays in self.curves.items():
            curves.setdefault(task, {})[optimizer] = arrays
        content = {
            "verdicts": self.verdicts.to_dict("records"),
            "trials": self.trials.to_dict("records"),
            "curves": curves,
            "protocol": self.protocol,
            "environment": self.environment,
        }
        return json.dumps(_plain(content), allow_nan=False, indent=1)

    def finals(self) -> DataFrame:
        """The final runs: the only ones that are results."""
        return self.trials[self.trials.phase == "final"]

    def notes(self) -> list[str]:
        """What a reader of the verdicts must know: best trials on a border, diverged runs, programs per trial."""
        return border_notes(self) + divergence_notes(self) + list(self.protocol["notes"])

    def __str__(self) -> str:
        from jnn.comparison.terminal import render

        return render(self)

    def __rich_console__(self, console, options):
        from jnn.comparison.terminal import tables

        yield tables(self, options.max_width)

    def _repr_html_(self) -> str:
        from jnn.comparison.report import fragment

        return fragment(self)


def collect(plan: "Plan", cells: "dict[tuple[str, str], Cell]", timing: dict, seconds: float) -> Comparison:
    """Statistics and tables of the cells of a plan."""
    import pandas as pd

    from jnn.comparison.plans import count_trainings

    trials = pd.DataFrame([row for (task, name), cell in cells.items() for row in _rows(task, name, cell)])
    return Comparison(
        verdicts=pd.DataFrame(judge(plan, cells)),
        trials=trials,
        curves={key: cell.curves for key, cell in cells.items()},
        protocol=_protocol(plan),
        environment={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "trainings": sum(count_trainings(plan).values()),
            **environment.describe(),
        },
    )


def judge(plan: "Plan", cells: "dict[tuple[str, str], Cell]") -> list[dict[str, Any]]:
    """One row for each (task, optimizer but the reference), p values adjusted over all of them."""
    pairs = [(task.name, entrant.name) for task in plan.tasks for entrant in plan.entrants if entrant.name != plan.reference]
    losses = {key: cell.final["test"]["loss"].astype(float) for key, cell in cells.items()}
    paired = [statistics.paired_t(losses[task, name], losses[task, plan.reference]) for task, name in pairs]
    adjusted = statistics.holm([pair.p_value for pair in paired])
    rows = []
    for (task, name), pair, p_adjusted in zip(pairs, paired, adjusted, strict=True):
        reference = losses[task, plan.reference]
        row = {"task": task, "optimizer": name, "reference": plan.reference, **pair._asdict(), "p_adjusted": p_adjusted}
        row["detectable"] = statistics.detectable_difference(losses[task, name], reference, len(pairs))
        row["verdict"] = statistics.verdict(pair, p_adjusted, plan.margin * abs(reference.mean()))
        if cells[task, name].final_diverged.all() and cells[task, plan.reference].final_diverged.all():
            row["verdict"] = "no difference shown"  # between two that never trained, equal losses mean nothing
        rows.append({key: value if isinstance(value, str) else float(value) for key, value in row.items()})
    return rows


def _rows(task: str, name: str, cell: "Cell"):
    """One row for each tuning run and each final run. Of tuning runs no test score is taken."""
    scores = {f"{part}_{score}": values for part, of in cell.final.items() for score, values in of.items()}
    studies, trials = cell.tune_validation.shape

    def row(study, phase, trial, **results):
        chosen = {key: float(values[study, trial]) for key, values in cell.hyperparameters.items()}
        found = {"task": task, "optimizer": name, "study": study, "phase": phase, "trial": trial, "hyperparameters": chosen}
        return found | {key: results.get(key, math.nan) for key in scores} | {"diverged": results["diverged"]}

    for study in range(studies):
        for trial in range(trials):
            loss, diverged = float(cell.tune_validation[study, trial]), bool(cell.tune_diverged[study, trial])
            yield row(study, "tune", trial, validation_loss=loss, diverged=diverged)
        final = {key: float(values[study]) for key, values in scores.items()}
        yield row(study, "final", int(cell.winner[study]), **final, diverged=bool(cell.final_diverged[study]))


def border_notes(comparison: Comparison) -> list[str]:
    """Where the best trial was the lowest or the highest tried in more than a quarter of the studies."""
    notes = []
    tuned = comparison.trials[comparison.trials.phase == "tune"]
    for (task, name), rows in tuned.groupby(["task", "optimizer"], sort=False):
        spaces = comparison.protocol["optimizers"][name]["spaces"]
        winners = comparison.finals().query("task == @task and optimizer == @name").set_index("study").trial
        for hyperparameter, space in spaces.items():
            values = rows.assign(value=[h[hyperparameter] for h in rows.hyperparameters]).pivot(
                index="study", columns="trial", values="value"
            )
            if space["scale"] == "fixed" or values.shape[1] < 3:
                continue
            best = values.to_numpy()[np.arange(len(values)), winners.loc[values.index].to_numpy()]
            for side, extreme in (("lower", values.min(axis=1)), ("upper", values.max(axis=1))):
                count = int((best == extreme.to_numpy()).sum())
                if count > len(values) / 4:
                    notes.append(
                        f"{task}, {name}: in {count} of {len(values)} studies the best {hyperparameter} was the one nearest "
                        f"the {side} border of its space, {space['low']:g} to {space['high']:g}: a wider one may serve"
                    )
    return notes


def divergence_notes(comparison: Comparison) -> list[str]:
    """How many runs of each optimizer diverged, a note for each task on which any did."""
    notes = []
    for task, rows in comparison.trials.groupby("task", sort=False):
        counts = rows.groupby(["optimizer", "phase"], sort=False).diverged.agg(["sum", "size"])
        some = [
            f"{name} {counts.loc[(name, 'tune'), 'sum']} of {counts.loc[(name, 'tune'), 'size']} trials"
            + (f" and {final} of {counts.loc[(name, 'final'), 'size']} final runs" if final else "")
            for name in rows.optimizer.unique()
            for final in [counts.loc[(name, "final"), "sum"]]
            if counts.loc[name, "sum"].sum()
        ]
        if some:
            notes.append(
                f"{task}: diverged, by ending above the initial loss, as which they count, or not finite: {', '.join(some)}"
            )
    return notes


def _protocol(plan: "Plan") -> dict[str, Any]:
    concrete = sorted({name for (_, name), traced in plan.traced.items() if not traced})
    return {
        "reference": plan.reference,
        "trials": next(e.trials for e in plan.entrants if e.name == plan.reference),
        "studies": plan.studies,
        "margin": plan.margin,
        "seed": plan.seed,
        "lanes": plan.lanes,
        "level": statistics.LEVEL,
        "power": statistics.POWER,
        "tasks": {
            task.name: {
                "about": task.about,
                "steps": task.steps,
                "batch_size": task.batch_size,
                "validation": task.validation,
                "test": task.test,
                "floor": dict([task.floor] if task.floor else []),
            }
            for task in plan.tasks
        },
        "optimizers": {
            entrant.name: {
                "spaces": {name: space._asdict() for name, space in entrant.space.items()},
                "schedule": plan.schedules[entrant.name],
                "source_sha256": entrant.source,
            }
            for entrant in plan.entrants
        },
        "notes": plan.notes
        + [
            f"{name} needs its hyperparameters as plain numbers: it ran as one program per trial, not as one for all"
            for name in concrete
        ],
    }


def _plain(value):
    """JSON's own types; float32 in its shortest form, what is not finite as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:
            return _plain([float(str(x)) for x in value.ravel()]) if value.ndim == 1 else [_plain(row) for row in value]
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
