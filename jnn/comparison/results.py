"""What a comparison found."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jnn.comparison import environment, statistics
from jnn.comparison.errors import InputError

if TYPE_CHECKING:
    from jnn.comparison.plans import Plan
    from jnn.comparison.studies import Cell

TARGET = 0.75  # the quantile of the reference's final validation losses on separate studies that is the loss to reach
DataFrame = Any  # pandas.DataFrame, which is imported late and whose columns no checker follows


@dataclass(frozen=True)
class Comparison:
    """The verdicts of a comparison and everything that they rest on. Prints as its table; shows itself in a notebook."""

    verdicts: DataFrame  # task, optimizer, reference, difference, low, high, p_value, p_adjusted, detectable, verdict
    trials: DataFrame  # task, optimizer, study, phase, trial, hyperparameters, validation_*, test_*, diverged
    curves: dict[tuple[str, str], dict[str, np.ndarray]]  # (task, optimizer) -> step (points,), training and validation
    protocol: dict[str, Any]
    environment: dict[str, Any]
    targets: dict[str, float] = field(default_factory=dict)  # task -> the validation loss to reach
    timing: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # -> seconds, reference_seconds, state_bytes
    folder: Path | None = None  # where the report was written

    def to_json(self) -> str:
        """All of it, under the keys verdicts, trials, curves, protocol, environment, targets, timing. What is not finite is
        null."""
        content = {
            "verdicts": self.verdicts.to_dict("records"),
            "trials": self.trials.to_dict("records"),
            "curves": _nested(self.curves),
            "protocol": self.protocol,
            "environment": self.environment,
            "targets": self.targets,
            "timing": _nested(self.timing),
        }
        return json.dumps(plain(content), allow_nan=False, indent=1)

    @classmethod
    def load(cls, path) -> "Comparison":
        """The comparison that a folder, or its results.json, holds. Raises InputError where there is none."""
        path = Path(path)
        file = path / "results.json" if path.is_dir() else path
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
        except InputError as error:
            raise InputError(f"{file}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> "Comparison":
        """What `to_json` wrote, digit for digit. Raises InputError for anything else."""
        import pandas as pd

        try:
            content = json.loads(text)
        except ValueError as error:
            raise InputError(f"this is not a comparison's results.json: {error}") from None
        required = ("verdicts", "trials", "curves", "protocol", "environment")
        missing = [key for key in required if key not in content] if isinstance(content, dict) else list(required)
        if missing:
            raise InputError(f"this is not a comparison's results.json: it has no {', '.join(missing)}")
        trials = pd.DataFrame(content["trials"])
        losses = [name for name in trials.columns if name.startswith(("validation_", "test_"))]
        return cls(
            verdicts=pd.DataFrame(content["verdicts"]),
            trials=trials.astype(dict.fromkeys(losses, float)),  # a column of nothing but null has no type
            curves=_flat(content["curves"], lambda of: {name: _array(name, values) for name, values in of.items()}),
            protocol=content["protocol"],
            environment=content["environment"],
            targets=content.get("targets", {}),
            timing=_flat(content.get("timing", {})),
        )

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
    """Statistics and tables of the cells of a plan. timing: task -> optimizer -> what `jnn.comparison.timing` measured."""
    import pandas as pd

    from jnn.comparison.plans import count_trainings

    with np.errstate(over="ignore"):  # curves are pictures: float32 serves, as which they come back from results.json
        curves = {key: {name: _single(a) for name, a in cell.curves.items()} for key, cell in cells.items()}
    at_target = {task.name: cells[task.name, plan.reference].target_losses for task in plan.tasks}
    return Comparison(
        verdicts=pd.DataFrame(judge(plan, cells)),
        trials=pd.DataFrame([row for (task, name), cell in cells.items() for row in _rows(task, name, cell)]),
        curves=curves,
        protocol=_protocol(plan, cells),
        environment={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "trainings": sum(count_trainings(plan).values()),
            **environment.describe(),
        },
        # AlgoPerf takes targets from many runs of a tuned baseline too, so that no lucky one sets them
        targets={task: float(np.quantile(losses, TARGET)) for task, losses in at_target.items() if losses.size},
        timing=_flat(timing),
    )


def judge(plan: "Plan", cells: "dict[tuple[str, str], Cell]") -> list[dict[str, Any]]:
    """One row for each (task, optimizer but the reference), p values adjusted over all of them."""
    order = [(task.name, entrant.name) for task in plan.tasks for entrant in plan.entrants]
    losses = {key: cells[key].final["test"]["loss"].astype(float) for key in order}
    return verdict_rows(losses, {key: cells[key].final_diverged for key in order}, plan.reference, plan.margin)


def verdict_rows(losses, diverged, reference: str, margin: float) -> list[dict[str, Any]]:
    """(task, optimizer) -> test losses of the final runs (studies,), whether they diverged -> one row for each of them but the
    reference's, p values adjusted over all."""
    pairs = [(task, name) for task, name in losses if name != reference]
    paired = [statistics.paired_t(losses[task, name], losses[task, reference]) for task, name in pairs]
    adjusted = statistics.holm([pair.p_value for pair in paired])
    rows = []
    for (task, name), pair, p_adjusted in zip(pairs, paired, adjusted, strict=True):
        neither_trained = bool(diverged[task, name].all() and diverged[task, reference].all())
        row = {"task": task, "optimizer": name, "reference": reference, **pair._asdict()}
        row |= judgement(pair, losses[task, name], losses[task, reference], neither_trained, p_adjusted, len(pairs), margin)
        rows.append({key: value if isinstance(value, str) else float(value) for key, value in row.items()})
    return rows


def judgement(
    paired: statistics.Paired,
    losses,
    reference,
    neither_trained: bool,
    p_adjusted: float,
    comparisons: int,
    margin: float,
) -> dict[str, Any]:
    """What is said of losses (studies,) beside the reference's, given their test and its p value adjusted over so many
    comparisons."""
    verdict = statistics.verdict(paired, p_adjusted, margin * abs(reference.mean()))
    return {
        "p_adjusted": p_adjusted,
        "detectable": statistics.detectable_difference(losses, reference, comparisons),
        # between two that never trained, equal losses mean nothing
        "verdict": "no difference shown" if neither_trained else verdict,
    }


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
    """A note for each of `at_borders`."""
    notes = []
    for task, name, hyperparameter, side, count in at_borders(comparison):
        space, studies = comparison.protocol["optimizers"][name]["spaces"][hyperparameter], comparison.protocol["studies"]
        notes.append(
            f"{task}, {name}: in {count} of {studies} studies the best {hyperparameter} was the one nearest "
            f"the {side} border of its space, {space['low']:g} to {space['high']:g}: a wider one may serve"
        )
    return notes


def at_borders(comparison: Comparison) -> Iterator[tuple[str, str, str, str, int]]:
    """(task, optimizer, hyperparameter, "lower" or "upper", studies) where the best trial was the lowest or the highest tried
    in more than a quarter of the studies, and twice as often as it is if all are equally good."""
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
                if count > len(values) * max(1 / 4, 2 / values.shape[1]):
                    yield task, name, hyperparameter, side, count


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


def _protocol(plan: "Plan", cells: "dict[tuple[str, str], Cell]") -> dict[str, Any]:
    concrete = sorted({name for (_, name), traced in plan.traced.items() if not traced})
    budgets = _unequal_budgets(plan)
    return ({"budgets": budgets} if budgets else {}) | {
        "reference": plan.reference,
        "trials": next(e.trials for e in plan.entrants if e.name == plan.reference),
        "studies": plan.studies,
        "margin": plan.margin,
        "seed": plan.seed,
        "target_studies": plan.target_studies,
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
        # the last digits depend on how many runs go through one program: fewer than planned, where memory asked for it
        "lanes_used": _nested({key: int(cell.lanes) for key, cell in cells.items()}),
        "notes": plan.notes
        + [
            f"{name} needs its hyperparameters as plain numbers: it ran as one program per trial, not as one for all"
            for name in concrete
        ],
    }


def _unequal_budgets(plan: "Plan") -> dict[str, dict[str, Any]]:
    """optimizer -> its trials, its steps: whichever of them are not the same for all."""
    found: dict[str, dict[str, Any]] = {entrant.name: {} for entrant in plan.entrants}
    for what in ("trials", "steps"):
        given = {entrant.name: getattr(entrant, what) for entrant in plan.entrants}
        if len(set(given.values())) > 1:
            for name, number in given.items():
                found[name][what] = "the task's" if number is None else number
    return {name: budget for name, budget in found.items() if budget}


def _nested(pairs: Mapping[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """(task, optimizer) -> value as task -> optimizer -> value, since keys of JSON are strings."""
    found: dict[str, dict[str, Any]] = {}
    for (task, optimizer), value in pairs.items():
        found.setdefault(task, {})[optimizer] = value
    return found


def _flat(nested, convert=lambda value: value) -> dict[tuple[str, str], Any]:
    return {(task, name): convert(value) for task, of in nested.items() for name, value in of.items()}


def _single(a) -> np.ndarray:
    a = np.asarray(a)
    return a.astype(np.float32) if np.issubdtype(a.dtype, np.floating) else a


def _array(name: str, values) -> np.ndarray:
    return np.asarray(values, int if name == "step" else np.float32)  # None becomes NaN


def plain(value):
    """JSON's own types; float32 in its shortest form, what is not finite as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:
            return plain([float(str(x)) for x in value.ravel()]) if value.ndim == 1 else [plain(row) for row in value]
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
