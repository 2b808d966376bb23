"""The verdict table in words and percent, as the terminal, the notebook and the report show it."""

import math
from typing import Any, NamedTuple

import numpy as np

from jnn.comparison.results import Comparison


class Row(NamedTuple):
    """One optimizer on one task. Differences are in percent of the reference's mean test loss."""

    optimizer: str
    verdict: str
    loss: str
    difference: str
    interval: str
    p_adjusted: str
    detectable: str


HEADINGS = Row("optimizer", "verdict", "test loss", "difference", "95 % interval", "p (Holm)", "detectable")


def rows(comparison: Comparison) -> dict[str, list[Row]]:
    """task -> rows, the reference first."""
    losses = comparison.finals().groupby(["task", "optimizer"])["test_loss"].mean()
    reference = comparison.protocol["reference"]
    tasks = comparison.protocol["tasks"]
    found = {task: [Row(reference, "reference", f"{losses[task, reference]:.4g}", *[""] * 4)] for task in tasks}
    for v in comparison.verdicts.itertuples():
        low, difference, high, detectable = (
            percent(value, losses[v.task, reference]) for value in (v.low, v.difference, v.high, v.detectable)
        )
        found[v.task].append(
            Row(
                v.optimizer,
                v.verdict,
                f"{losses[v.task, v.optimizer]:.4g}",
                f"{signed(difference)} %",
                f"{signed(low)} to {signed(high)} %",
                "< 0.0001" if v.p_adjusted < 1e-4 else f"{v.p_adjusted:.4f}",
                f"{_rounded(detectable)} %",
            )
        )
    return found


NAMED = 4  # so many tasks are named in a sentence; more are counted
ALONE = 6  # so many opponents have a sentence each; more are sorted into four


def title(comparison: Comparison) -> str:
    """Who is judged against whom."""
    reference = comparison.protocol["reference"]
    others = [name for name in comparison.protocol["optimizers"] if name != reference]
    return f"{', '.join(others) if len(others) <= ALONE else f'{len(others)} optimizers'} against {reference}"


def headline(comparison: Comparison) -> list[str]:
    """Whether budgets were unequal; then one sentence for each optimizer: on which tasks, or on how many, it is what. Of many
    optimizers, which are better somewhere, worse somewhere, both, neither."""
    reference = comparison.protocol["reference"]
    unequal = budget_words(comparison.protocol)
    sentences = [unequal] if unequal else []
    by_optimizer = dict(iter(comparison.verdicts.groupby("optimizer", sort=False)))
    if len(by_optimizer) > ALONE:
        return sentences + _sorted_headline(by_optimizer, reference)
    for name, group in by_optimizer.items():
        by_verdict = group.groupby("verdict", sort=False).task.agg(list)
        order = [v for v in VERDICTS if v in by_verdict]
        parts = [f"{PHRASES[v].format(reference=reference)} on {_some(by_verdict[v], len(group))}" for v in order]
        sentences.append(f"{name} {'; '.join(parts)}.")
    return sentences


def _some(tasks: list[str], of: int) -> str:
    if of <= NAMED:
        return ", ".join(tasks)
    return f"all {of} tasks" if len(tasks) == of else f"{len(tasks)} of {of} tasks"


def _sorted_headline(by_optimizer, reference: str) -> list[str]:
    kinds: dict[tuple[bool, bool], list[str]] = {(True, False): [], (False, True): [], (True, True): [], (False, False): []}
    for name, group in by_optimizer.items():
        better, worse = (int((group.verdict == verdict).sum()) for verdict in ("better", "worse"))
        one_sided = (better > 0) != (worse > 0)
        counts = f" ({better + worse} of {len(group)} tasks)" if one_sided and len(group) > 1 else ""
        kinds[better > 0, worse > 0].append(name + counts)
    words = (
        f"Better than {reference} on a task and worse on none",
        f"Worse than {reference} on a task and better on none",
        "Better on one task and worse on another",
        "Neither better nor worse on any task",
    )
    return [f"{word}: {', '.join(names)}." for word, names in zip(words, kinds.values(), strict=True) if names]


def budget_words(protocol: dict[str, Any]) -> str:
    """A sentence that says which budgets were unequal; nothing where all were equal."""
    budgets = [
        f"{name} had {' and '.join(_count(what, number) for what, number in budget.items())}"
        for name, budget in protocol.get("budgets", {}).items()
    ]
    return f"Unequal budgets, as was asked for: {'; '.join(budgets)}." if budgets else ""


def _count(what: str, number) -> str:
    return f"{number} {what.removesuffix('s') if number == 1 else what}"


def certainty(comparison: Comparison) -> str:
    """How sure the verdicts are: what stands behind them, and what would have been found."""
    protocol, verdicts = comparison.protocol, comparison.verdicts
    finals = comparison.finals()
    losses = finals[finals.optimizer == protocol["reference"]].groupby("task").test_loss.mean()
    shares = [percent(v.detectable, losses[v.task]) for v in verdicts.itertuples()]
    low, middle, high = map(_rounded, np.quantile(shares, [0, 0.5, 1], method="nearest"))
    found = f"{middle} %" if low == high else f"{low} to {high} % (median {middle} %)"
    over = f"{len(verdicts)} comparison{'s' if len(verdicts) > 1 else ''}"
    return (
        f"How sure: {protocol['studies']} complete replications; over {over} the chance of any false better or worse is held "
        f"at {100 * protocol['level']:g} %; a difference of {found} of {protocol['reference']}'s loss would have been told "
        f"from zero with {100 * protocol['power']:g} % power."
    )


VERDICTS = ("better", "worse", "equivalent", "no difference shown")


PHRASES = {
    "better": "is better than {reference}",
    "worse": "is worse than {reference}",
    "equivalent": "is equivalent to {reference}",
    "no difference shown": "is not shown to differ from {reference}",
}


def cost(comparison: Comparison) -> str:
    """What the comparison took."""
    protocol, environment = comparison.protocol, comparison.environment
    device, machine = environment["device"], environment["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores" if device["platform"] == "cpu" else device["kind"]
    trials = f"{protocol['trials']} trial{'s' if protocol['trials'] > 1 else ''}"
    trials += " (unless said otherwise)" if budget_words(protocol) else ""
    return (
        f"{environment['trainings']:,} trainings in {environment['seconds']:.0f} s on {where}: {protocol['studies']} studies, "
        f"each with {trials} and one final run of each optimizer on each task"
    )


def percent(value: float, loss: float) -> float:
    """The value as a share of the size of a loss, which may be negative, or zero where a synthetic task is solved."""
    if loss == 0:
        return math.copysign(math.inf, value) if value else 0.0
    return float(100 * value / abs(loss))


def signed(share: float) -> str:
    """Percent with its sign, in as many digits as are worth reading."""
    return ("+" if share >= 0 else "\N{MINUS SIGN}") + _rounded(abs(share))


def _rounded(share: float) -> str:
    return f"{share:,.0f}" if share >= 1000 else f"{share:.{1 if share >= 1 else 2}f}"
