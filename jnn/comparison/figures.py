"""The figures of a report: one for each task and question."""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jnn.comparison.results import Comparison

# Okabe & Ito 2008: distinct for every kind of colour vision; the reference is black
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F4F24", "#6A3D9A")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


class Picture(NamedTuple):
    """A figure with its place in the report."""

    name: str  # of its files
    task: str
    figure: Any  # matplotlib.figure.Figure


def pictures(comparison: Comparison) -> Iterator[tuple[str, str, list[Picture]]]:
    """-> (title, caption, one picture for each task) of each question."""
    import matplotlib

    reference, studies = comparison.protocol["reference"], comparison.protocol["studies"]
    with matplotlib.rc_context(STYLE):
        for name, title, caption, draw in (
            (
                "learning_curves",
                "Learning curves",
                f"Validation loss of the final runs over steps: median of {studies} studies; the band holds the middle half. "
                "Where a loss is not finite, it counts as the initial one.",
                _learning_curves,
            ),
            (
                "learning_rates",
                "Loss against learning rate",
                "Validation loss of every trial at the end of its run (dots; crosses diverged and count as the initial loss), "
                "and the median of ten equal parts of the space (line). The space ends where the dots end.",
                _learning_rates,
            ),
            (
                "differences",
                "Paired differences",
                f"Test loss less {reference}'s in the same study, as a share of {reference}'s mean: one dot a study, and their "
                "mean with its 95 % interval. Left of zero is better. Grey: the margin, within which no difference matters.",
                _differences,
            ),
        ):
            drawn = []
            for task in comparison.protocol["tasks"]:
                figure = draw(comparison, task)
                if figure is not None:
                    drawn.append(Picture(f"{name}_{task}", task, figure))
            if drawn:
                yield title, caption, drawn


def svg(picture: Picture) -> str:
    """The picture as an <svg> element that scales with its container."""
    import matplotlib

    buffer = io.StringIO()
    # the salt makes ids the same in every run, and different in pictures that share a page
    with matplotlib.rc_context({"svg.hashsalt": picture.name}):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _axes(title: str, ylabel: str, xlabel: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.3))
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _colors(comparison: Comparison) -> dict[str, str]:
    reference = comparison.protocol["reference"]
    others = [name for name in comparison.protocol["optimizers"] if name != reference]
    return {reference: "black"} | {name: COLORS[i % len(COLORS)] for i, name in enumerate(others)}


def _line(comparison: Comparison, name: str) -> dict[str, Any]:
    """The reference is dashed and on top: a line that runs along it stays in sight."""
    style: dict[str, Any] = {"color": _colors(comparison)[name], "linewidth": 1.5}
    return style | {"linestyle": (0, (4, 2)), "zorder": 3} if name == comparison.protocol["reference"] else style


def _learning_curves(comparison: Comparison, task: str):
    figure, axes = _axes(task, "validation loss", "step")
    for name, color in _colors(comparison).items():
        curve = comparison.curves[task, name]
        # as everywhere, a run that diverged counts as the loss at initialisation
        values = np.where(np.isfinite(curve["validation"]), curve["validation"], curve["initial"][:, None])
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        axes.plot(curve["step"], median, label=name, **_line(comparison, name))
        axes.fill_between(curve["step"], low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.legend()
    return figure


def _learning_rates(comparison: Comparison, task: str):
    figure, axes = _axes(task, "validation loss", "learning rate")
    tuned = comparison.trials[(comparison.trials.phase == "tune") & (comparison.trials.task == task)]
    drawn = False
    for name, color in _colors(comparison).items():
        space = comparison.protocol["optimizers"][name]["spaces"].get("learning_rate")
        if space is None or space["scale"] == "fixed":
            continue
        rows = tuned[tuned.optimizer == name]
        rates = np.array([h["learning_rate"] for h in rows.hyperparameters])
        losses, diverged = rows.validation_loss.to_numpy(), rows.diverged.to_numpy()
        size, alpha = (5, 0.3) if len(rates) > 100 else (14, 0.6)
        dots = {"color": color, "alpha": alpha, "linewidths": 0, "rasterized": len(rates) > 2000}
        axes.scatter(rates[~diverged], losses[~diverged], s=size, **dots)
        axes.scatter(rates[diverged], losses[diverged], s=10, color=color, alpha=0.5, marker="x", linewidths=0.6)
        parts = np.array_split(np.argsort(rates), min(10, len(rates)))
        middle = [np.exp(np.mean(np.log(rates[part]))) for part in parts]
        axes.plot(middle, [np.median(losses[part]) for part in parts], label=name, **_line(comparison, name))
        drawn = True
    axes.set(xscale="log", yscale="log")
    axes.legend()
    return figure if drawn else None


def _differences(comparison: Comparison, task: str):
    reference = comparison.protocol["reference"]
    losses = comparison.finals().query("task == @task").pivot(index="study", columns="optimizer", values="test_loss")
    scale = 100 / losses[reference].mean()
    names = [name for name in comparison.protocol["optimizers"] if name != reference]
    figure, axes = _axes(task, "", f"difference from {reference} in % of its test loss")
    margin = 100 * comparison.protocol["margin"]
    axes.axvspan(-margin, margin, color="0.9", linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    verdicts = comparison.verdicts.query("task == @task").set_index("optimizer")
    jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(losses))
    for i, name in enumerate(names):
        color, verdict = _colors(comparison)[name], verdicts.loc[name]
        axes.scatter((losses[name] - losses[reference]) * scale, i + jitter, s=9, color=color, alpha=0.45, linewidths=0)
        mean = verdict.difference * scale
        error = [[(verdict.difference - verdict.low) * scale], [(verdict.high - verdict.difference) * scale]]
        axes.errorbar(mean, i + 0.3, xerr=error, fmt="o", color=color, markersize=4, capsize=3)
        axes.annotate(verdict.verdict, (mean, i + 0.36), ha="center", va="bottom", fontsize=7.5, color=color)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.1)
    # a loser that is many times worse would squeeze all else into a line
    axes.set_xscale("symlog", linthresh=max(10.0, 2 * margin))
    axes.xaxis.set_major_formatter(lambda percent, _: f"{percent:+,.0f}".replace("-", "\N{MINUS SIGN}") if percent else "0")
    return figure
