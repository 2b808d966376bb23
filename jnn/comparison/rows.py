"""The verdict table in words and percent, as the terminal, the notebook and the report show it."""

from typing import NamedTuple

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
        scale = 100 / losses[v.task, reference]
        found[v.task].append(
            Row(
                v.optimizer,
                v.verdict,
                f"{losses[v.task, v.optimizer]:.4g}",
                f"{_signed(v.difference * scale)} %",
                f"{_signed(v.low * scale)} to {_signed(v.high * scale)} %",
                "< 0.0001" if v.p_adjusted < 1e-4 else f"{v.p_adjusted:.4f}",
                f"{_rounded(v.detectable * scale)} %",
            )
        )
    return found


def headline(comparison: Comparison) -> list[str]:
    """One sentence for each optimizer: on which tasks it is what."""
    reference = comparison.protocol["reference"]
    sentences = []
    for name, group in comparison.verdicts.groupby("optimizer", sort=False):
        by_verdict = group.groupby("verdict", sort=False).task.agg(", ".join)
        order = [v for v in ("better", "worse", "equivalent", "no difference shown") if v in by_verdict]
        parts = [f"{PHRASES[v].format(reference=reference)} on {by_verdict[v]}" for v in order]
        sentences.append(f"{name} {'; '.join(parts)}.")
    return sentences


PHRASES = {
    "better": "is better than {reference}",
    "worse": "is worse than {reference}",
    "equivalent": "is equivalent to {reference}",
    "no difference shown": "shows no difference from {reference}",
}


def cost(comparison: Comparison) -> str:
    """What the comparison took."""
    protocol, environment = comparison.protocol, comparison.environment
    device, machine = environment["device"], environment["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores" if device["platform"] == "cpu" else device["kind"]
    trials = f"{protocol['trials']} trial{'s' if protocol['trials'] > 1 else ''}"
    return (
        f"{environment['trainings']:,} trainings in {environment['seconds']:.0f} s on {where}: {protocol['studies']} studies, "
        f"each with {trials} and one final run of each optimizer on each task"
    )


def _signed(percent: float) -> str:
    return ("+" if percent >= 0 else "\N{MINUS SIGN}") + _rounded(abs(percent))


def _rounded(percent: float) -> str:
    return f"{percent:.{1 if percent >= 1 else 2}f}"
