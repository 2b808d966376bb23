"""The figures of a report: one for each task and question."""

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jnn.comparison.aggregates import bootstrapped, interquartile_mean, score_profile, time_profile
from jnn.comparison.measures import task_scores, times_to_target
from jnn.comparison.results import Comparison
from jnn.comparison.rows import percent
from jnn.comparison.statistics import expected_best
from jnn.plots import COLORS, style

DASHES: Any = ("-", ":", "-.", (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4)))  # with the colors, for all of optax
BLANK: Any = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}  # behind words, so that no line crosses them


class Picture(NamedTuple):
    """A figure with its place in the report."""

    name: str  # of its files
    task: str  # or what it shows of all of them
    figure: Any  # matplotlib.figure.Figure


def pictures(comparison: Comparison) -> Iterator[tuple[str, str, list[Picture]]]:
    """-> (title, caption, pictures) of each question: over all tasks one for each statistic, else one for each task."""
    with style():
        yield from _over_tasks(comparison)
        yield from _by_task(comparison)


def _over_tasks(comparison: Comparison) -> Iterator[tuple[str, str, list[Picture]]]:
    """Only where there are several, and optimizers that ran on all of them."""
    reference, studies = comparison.protocol["reference"], comparison.protocol["studies"]
    scores = task_scores(comparison)
    if len(scores) > 1 and len(scores[reference]) > 1:
        caption = (
            f"Scores of the final test losses, (L0 - L) / (L0 - {reference}'s L), L0 the loss before training, both means over "
            f"studies: 0 has learned nothing, 1 as much as {reference}. Left: their interquartile mean over "
            f"{len(scores[reference])} tasks of {studies} studies, with 95 % intervals from a bootstrap of the studies within "
            "each task. Right: the share of runs that score at least as much, with 95 % bands at each point (both Agarwal et "
            "al. 2021). Intervals hold for these tasks, not for others. Where losses fall far below L0, scores lie close to 1: "
            "the table of verdicts has the digits."
        )
        yield (
            "Over all tasks",
            caption,
            [
                Picture("scores", "interquartile mean of scores", _interquartile_means(comparison, scores)),
                Picture("score_profile", "performance profile of scores", _score_profile(comparison, scores)),
            ],
        )
    drawn = []
    for unit in ("steps", "seconds"):
        figure = _time_profile(comparison, times_to_target(comparison, unit), unit)
        if figure is not None:
            drawn.append(Picture(f"{unit}_profile", f"performance profile of {unit} to the target", figure))
    if drawn:
        caption = (
            "The share of studies of all tasks in which an optimizer reaches the task's target within so many times the "
            "shortest time that any of them took in the same study (Dolan & Moré 2002). At 1: how often it was the first. A "
            "curve that ends below 1 did not always get there in its run. The ranks of two depend on who else takes part."
        )
        yield "Time to the target", caption, drawn


def _by_task(comparison: Comparison) -> Iterator[tuple[str, str, list[Picture]]]:
    reference, studies, trials = (comparison.protocol[key] for key in ("reference", "studies", "trials"))
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
            "expected_best",
            "What tuning is worth",
            f"Validation loss of the best of k trials, the mean over all choices of k of the {trials} trials of a study (Tang "
            f"et al. 2020) and over {studies} studies, with its 95 % interval (t over studies). The trials of a study are a "
            "Latin hypercube on one split and seed, not independent: the curve is exact for 1 and for all trials, and between "
            "these a little under that of points drawn independently. Where curves cross, the budget decides which is better.",
            _expected_best,
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
    picture.figure.set_layout_engine("none")  # the PDF has the same, and finding it takes as long as drawing
    return buffer.getvalue()


def pdf(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _axes(title: str, ylabel: str, xlabel: str, height: float = 3.3):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, height))
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _legend(figure, axes):
    """Inside, or below where there are many names: the picture grows by their rows."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= 6:
        axes.legend()
    else:
        width = 0.064 * max(map(len, labels)) + 0.6  # inches of a column: letters of 8 points, the line and the gaps
        columns = min(3, max(1, int(figure.get_figwidth() / width)))
        figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _names(comparison: Comparison, task: str) -> list[str]:
    """The optimizers that ran on a task, the reference first."""
    return [name for name in _colors(comparison) if (task, name) in comparison.curves]


def _colors(comparison: Comparison) -> dict[str, str]:
    reference = comparison.protocol["reference"]
    others = [name for name in comparison.protocol["optimizers"] if name != reference]
    return {reference: "black"} | {name: COLORS[i % len(COLORS)] for i, name in enumerate(others)}


def _line(comparison: Comparison, name: str) -> dict[str, Any]:
    """The reference is dashed and on top: a line that runs along it stays in sight. Where colors come again, lines differ."""
    colors = _colors(comparison)
    style: dict[str, Any] = {"color": colors[name], "linewidth": 1.5}
    if name == comparison.protocol["reference"]:
        return style | {"linestyle": (0, (4, 2)), "zorder": 3}
    return style | {"linestyle": DASHES[(list(colors).index(name) - 1) // len(COLORS) % len(DASHES)]}


def _interquartile_means(comparison: Comparison, scores):
    """The reference at the bottom, the best at the top."""
    estimates = {name: bootstrapped(of, interquartile_mean) for name, of in scores.items()}
    order = sorted(estimates, key=lambda name: (name != comparison.protocol["reference"], estimates[name].value))
    figure, axes = _axes("", "", "interquartile mean of scores", max(3.3, 0.28 * len(order) + 0.8))
    axes.axvline(1, color="black", linewidth=0.8)
    for i, name in enumerate(order):
        value, low, high = estimates[name]
        axes.errorbar(
            value,
            i,
            xerr=np.maximum(0, [[value - low], [high - value]]),
            fmt="o",
            color=_colors(comparison)[name],
            markersize=4,
            capsize=3,
        )
        axes.annotate(
            f"{value:.4f}", (value, i), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=7.5, bbox=BLANK
        )
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.5, len(order) - 0.3)
    return figure


def _score_profile(comparison: Comparison, scores):
    figure, axes = _axes("", "share of runs with at least this score", "score")
    every = np.concatenate([of.ravel() for of in scores.values()])
    # a few runs that went wrong would squeeze all else into a line
    thresholds = np.linspace(
        max(every.min(), np.quantile(every, 0.25) - 2 * np.ptp(np.quantile(every, [0.25, 1]))), every.max(), 201
    )
    for name, of in scores.items():
        share, low, high = bootstrapped(of, score_profile(thresholds), draws=500)
        axes.plot(thresholds, share, label=name, **_line(comparison, name))
        axes.fill_between(thresholds, low, high, color=_colors(comparison)[name], alpha=0.12, linewidth=0)
    axes.set_ylim(0, 1.02)
    _legend(figure, axes)
    return figure


def _time_profile(comparison: Comparison, times, unit: str):
    """None where no optimizer was measured on all tasks that have targets, or none ever arrived."""
    tasks = [task for task in comparison.protocol["tasks"] if (task, comparison.protocol["reference"]) in times]
    names = [name for name in _colors(comparison) if tasks and all((task, name) in times for task in tasks)]
    if len(names) < 2:
        return None
    table = np.array([np.concatenate([times[task, name] for task in tasks]) for name in names])
    best = table.min(axis=0)
    if not np.isfinite(best).any():
        return None
    relative = table[:, np.isfinite(best)] / best[np.isfinite(best)]
    longest = max(2.0, float(relative[np.isfinite(relative)].max()))
    ratios = np.geomspace(1, longest, 400)
    figure, axes = _axes("", "share of studies", f"{unit} to the target, in units of the shortest")
    for name, share in zip(names, time_profile(table, ratios * (1 + 1e-12)), strict=True):
        axes.plot(ratios, share, label=name, drawstyle="steps-post", **_line(comparison, name))
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if tick <= longest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    _legend(figure, axes)
    return figure


def _learning_curves(comparison: Comparison, task: str):
    figure, axes = _axes(task, "validation loss", "step")
    for name in _names(comparison, task):
        curve = comparison.curves[task, name]
        # as everywhere, a run that diverged counts as the loss at initialisation
        values = np.where(np.isfinite(curve["validation"]), curve["validation"], curve["initial"][:, None])
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        axes.plot(curve["step"], median, label=name, **_line(comparison, name))
        axes.fill_between(curve["step"], low, high, color=_colors(comparison)[name], alpha=0.15, linewidth=0)
    target = comparison.targets.get(task)
    if target is not None:
        axes.axhline(target, color="0.5", linewidth=0.8, linestyle=":")
        axes.annotate(
            "target",
            (1, target),
            (0, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7.5,
            color="0.4",
        )
    _logarithmic(axes.yaxis)
    _legend(figure, axes)
    return figure


def _logarithmic(axis, lowest: float | None = None):
    """The scale of axes.xaxis or axes.yaxis in decades, unless its lowest is zero or negative. Numbers as such: those with
    powers of ten are set as formulas, which takes half the time of a picture."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    if (axis.get_data_interval()[0] if lowest is None else lowest) > 0:
        {"x": axis.axes.set_xscale, "y": axis.axes.set_yscale}[axis.axis_name]("log")
        axis.set_major_formatter(Plain())
        axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.4)))


def _expected_best(comparison: Comparison, task: str):
    from matplotlib.ticker import MaxNLocator
    from scipy import stats

    figure, axes = _axes(task, "validation loss of the best of k trials", "k, trials")
    tuned = comparison.trials[(comparison.trials.phase == "tune") & (comparison.trials.task == task)]
    if tuned.trial.max() == 0:
        return None  # of one trial nothing can be chosen
    for name in _names(comparison, task):
        rows = tuned[tuned.optimizer == name]
        best = expected_best(rows.pivot(index="study", columns="trial", values="validation_loss"))
        mean, k = best.mean(axis=0), np.arange(1, best.shape[1] + 1)
        half = stats.t.isf(0.025, len(best) - 1) * stats.sem(best, axis=0)
        axes.plot(k, mean, label=name, marker="." if len(k) < 30 else None, **_line(comparison, name))
        axes.fill_between(k, mean - half, mean + half, color=_colors(comparison)[name], alpha=0.12, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest = min(np.min(line.get_ydata()) for line in axes.lines)
    if lowest > 0 and axes.yaxis.get_data_interval()[0] <= 0:
        axes.set_ylim(bottom=lowest / 2)  # an interval that reaches below zero ends at the axis
    _logarithmic(axes.yaxis, lowest)
    _legend(figure, axes)
    return figure


def _learning_rates(comparison: Comparison, task: str):
    figure, axes = _axes(task, "validation loss", "learning rate")
    tuned = comparison.trials[(comparison.trials.phase == "tune") & (comparison.trials.task == task)]
    drawn = False
    for name in _names(comparison, task):
        color = _colors(comparison)[name]
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
    if not drawn:
        return None
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    _legend(figure, axes)
    return figure


def _differences(comparison: Comparison, task: str):
    reference = comparison.protocol["reference"]
    losses = comparison.finals().query("task == @task").pivot(index="study", columns="optimizer", values="test_loss")
    scale = percent(1, losses[reference].mean())
    names = [name for name in _names(comparison, task) if name != reference]
    if not names or not np.isfinite(scale):
        return None
    figure, axes = _axes(task, "", f"difference from {reference} in % of its test loss", max(3.3, 0.5 * len(names) + 1))
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
        axes.annotate(verdict.verdict, (mean, i + 0.36), ha="center", va="bottom", fontsize=7.5, color=color, bbox=BLANK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.1)
    # a loser that is many times worse would squeeze all else into a line
    axes.set_xscale("symlog", linthresh=max(10.0, 2 * margin))
    axes.xaxis.set_major_formatter(lambda percent, _: f"{percent:+,.0f}".replace("-", "\N{MINUS SIGN}") if percent else "0")
    return figure
