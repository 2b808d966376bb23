"""What pictures are made of: one style, colours that everyone can tell apart, and what a first look at a network needs.

Each function draws on axes of matplotlib and returns nothing; figures are the caller's:

    with jnn.plots.style():
        figure = matplotlib.figure.Figure(figsize=(6, 3))
        jnn.plots.band(figure.subplots(), steps, losses, label="adam")
        figure.savefig("losses.png", dpi=150)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    "pdf.fonttype": 42,  # outlines that journals take
}


def style(changes: Mapping[str, Any] = {}):
    """A context in which figures are drawn and saved in jnn's style. changes: further parameters of matplotlib."""
    import matplotlib

    return matplotlib.rc_context(STYLE | dict(changes))


def band(axes, x, values, *, label: str | None = None, color=None, **options):
    """A line through the means of values (runs, points) over x (points,), with the 95 % interval of each mean (Student's t)
    as a band; values (points,) are a line alone. NaN, as of a run that diverged, is left out of its point."""
    from scipy import stats

    values = np.asarray(values, float)
    if values.ndim not in (1, 2) or values.shape[-1] != len(x):
        raise ValueError(f"band: expected values (runs, {len(x)}) or ({len(x)},), got {values.shape}")
    runs = values[None] if values.ndim == 1 else values
    count = np.sum(np.isfinite(runs), axis=0)
    mean = np.full(len(x), np.nan)
    half = np.full(len(x), np.nan)
    runs = np.where(np.isfinite(runs), runs, np.nan)
    mean[count > 0] = np.nanmean(runs[:, count > 0], axis=0)
    some = count > 1
    half[some] = stats.t.ppf(0.975, count[some] - 1) * np.nanstd(runs[:, some], axis=0, ddof=1) / np.sqrt(count[some])
    (line,) = axes.plot(x, mean, label=label, color=color, **options)
    if some.any():
        axes.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)


def image(axes, picture, *, title: str = "", symmetric: bool = False):
    """A picture (height, width), (height, width, 1) in grey or (height, width, 3) in colour, without ticks. Floats of colour
    lie in [0, 1].

    symmetric: for weights and gradients: blue below zero, white, red above, on a scale that is symmetric about it."""
    picture = np.asarray(picture)
    if picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[-1] != 3):
        raise ValueError(f"image: expected (height, width), (height, width, 1) or (height, width, 3), got {picture.shape}")
    if symmetric:
        most = float(np.max(np.abs(picture))) or 1.0
        axes.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
    else:
        axes.imshow(picture, cmap="gray")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=8, loc="center")


def heatmap(axes, values, *, x: Sequence, y: Sequence, xlabel: str, ylabel: str, label: str, form: str = "{:.0f}", **options):
    """values (len(y), len(x)) as colours with their numbers written in; NaN stays white with a dash.

    x, y: what stands at the ticks. label: of the colour bar, with the unit. form: of the numbers."""
    values = np.asarray(values, float)
    if values.shape != (len(y), len(x)):
        raise ValueError(f"heatmap: expected values ({len(y)}, {len(x)}), as y and x are so long, got {values.shape}")
    drawn = axes.imshow(values, cmap="cividis", aspect="auto", **options)
    axes.set_xticks(range(len(x)), x)
    axes.set_yticks(range(len(y)), y)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        # white on the dark half of the colours, else black
        dark = np.isfinite(value) and drawn.norm(value) < 0.5
        text = form.format(value) if np.isfinite(value) else "\N{EN DASH}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.figure.colorbar(drawn, ax=axes, label=label)


def confusion(axes, matrix, names: Sequence[str]):
    """Counts (true, predicted), as of `jnn.metrics.confusion_matrix`, in percent of each true class."""
    matrix = np.asarray(matrix, float)
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    heatmap(axes, share, x=names, y=names, xlabel="predicted", ylabel="true", label="% of the true class", vmin=0, vmax=100)
    axes.tick_params(axis="x", rotation=60)
