"""Two comparisons as one, where they may be."""

from typing import Any

from jnn.comparison.errors import InputError
from jnn.comparison.results import Comparison, DataFrame, plain, verdict_rows


def merge(a: Comparison, b: Comparison) -> Comparison:
    """All tasks and optimizers of both, judged anew: p values are adjusted over all of them.

    Raises InputError, which names what differs, unless versions, source, device, protocol, the tasks and optimizers that
    both have, and every run that both have, are the same."""
    import pandas as pd

    _require_same(a, b)
    shared = _cells(a) & _cells(b)
    for task, name in sorted(shared):
        if _runs(a, task, name) != _runs(b, task, name):
            raise InputError(f"the runs of {name} on {task} differ: they are not of the same comparison")
    added = _cells(b) - shared
    is_added = [pair in added for pair in zip(b.trials.task, b.trials.optimizer, strict=True)]
    protocol = dict(a.protocol)
    for part in ("tasks", "optimizers", "budgets"):
        if part in a.protocol or part in b.protocol:
            protocol[part] = a.protocol.get(part, {}) | b.protocol.get(part, {})
    ours, theirs = (c.protocol.get("lanes_used", {}) for c in (a, b))
    protocol["lanes_used"] = {task: theirs.get(task, {}) | ours.get(task, {}) for task in protocol["tasks"]}
    protocol["notes"] = list(dict.fromkeys(a.protocol["notes"] + b.protocol["notes"]))
    trials = pd.concat([a.trials, b.trials[is_added]], ignore_index=True)
    environment = a.environment | {
        "date": max(a.environment["date"], b.environment["date"]),
        "seconds": round(a.environment["seconds"] + b.environment["seconds"], 1),
        "trainings": a.environment["trainings"] + b.environment["trainings"] - _trainings(a, shared),
    }
    if a.environment["machine"] != b.environment["machine"]:
        processors = dict.fromkeys((a.environment["machine"]["processor"], b.environment["machine"]["processor"]))
        environment["machine"] = a.environment["machine"] | {"processor": " and ".join(processors)}
    return Comparison(
        verdicts=pd.DataFrame(rejudge(trials, protocol)),
        trials=trials,
        curves=b.curves | a.curves,
        protocol=protocol,
        environment=environment,
        targets=b.targets | a.targets,
        timing=b.timing | a.timing,
    )


def rejudge(trials: DataFrame, protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts of the final runs among these trials, p values adjusted over all of them."""
    finals = trials[trials.phase == "final"].sort_values("study", kind="stable")
    runs = dict(iter(finals.groupby(["task", "optimizer"])))
    order = [(task, name) for task in protocol["tasks"] for name in protocol["optimizers"] if (task, name) in runs]
    losses = {key: runs[key].test_loss.to_numpy(float) for key in order}
    diverged = {key: runs[key].diverged.to_numpy(bool) for key in order}
    return verdict_rows(losses, diverged, protocol["reference"], protocol["margin"])


def _require_same(a: Comparison, b: Comparison):
    """Raises InputError, which names every part of protocol and environment in which the two differ."""
    found = []

    def compare(what, one, other):
        if isinstance(one, dict) and isinstance(other, dict):
            for key in dict.fromkeys([*one, *other]):
                compare(f"{what} {key}".strip(), one.get(key), other.get(key))
        elif one != other:
            found.append(f"{what} ({_short(one)} and {_short(other)})")

    mixed = ("tasks", "optimizers", "budgets", "lanes_used", "notes")
    compare("", *({key: value for key, value in c.protocol.items() if key not in mixed} for c in (a, b)))
    for kind, members in (("task", "tasks"), ("optimizer", "optimizers")):
        for name in a.protocol[members].keys() & b.protocol[members].keys():
            compare(f"{kind} {name}:", plain(a.protocol[members][name]), plain(b.protocol[members][name]))
    for name in a.protocol["optimizers"].keys() & b.protocol["optimizers"].keys():
        compare(f"budget of {name}", *(c.protocol.get("budgets", {}).get(name) for c in (a, b)))
    for task in a.targets.keys() & b.targets.keys():
        compare(f"target of {task}", a.targets[task], b.targets[task])
    for part in ("versions", "jnn_source_sha256", "device"):
        compare(part, a.environment[part], b.environment[part])
    if found:
        raise InputError(f"these comparisons cannot be merged, since they differ in {'; '.join(sorted(found))}")


def _short(value) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _cells(comparison: Comparison) -> set[tuple[str, str]]:
    return set(zip(comparison.trials.task, comparison.trials.optimizer, strict=True))


def _trainings(comparison: Comparison, cells) -> int:
    """How many trainings these cells took, the reference's separate studies included."""
    studies, separate = comparison.protocol["studies"], comparison.protocol.get("target_studies", 0)
    of_each = comparison.trials.groupby(["task", "optimizer"]).size() // studies
    reference = comparison.protocol["reference"]
    return sum(int(of_each[task, name]) * (studies + separate * (name == reference)) for task, name in cells)


def _runs(comparison: Comparison, task: str, name: str):
    """Every score of every run, without the columns that only the other comparison's tasks have."""
    trials = comparison.trials
    rows = trials[(trials.task == task) & (trials.optimizer == name)]
    return plain(rows.dropna(axis=1, how="all").to_dict("records"))
