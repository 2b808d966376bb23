"""The verdict map: where, over a grid of settings, an optimizer wins, is equivalent, loses, or nothing is shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jnn.comparison import statistics
from jnn.comparison.errors import InputError
from jnn.comparison.figures import Picture, pdf, svg
from jnn.comparison.files import write, write_csv
from jnn.comparison.report import template
from jnn.comparison.results import Comparison, DataFrame, judgement
from jnn.comparison.rows import percent, signed
from jnn.plots import style

# blue to vermilion (Okabe & Ito 2008), told apart without colour by their signs
LOOKS = {
    "better": ("#6FB1DC", "\N{BLACK UP-POINTING TRIANGLE}"),
    "equivalent": ("#D9D9D9", "="),
    "no difference shown": ("#FFFFFF", "?"),
    "worse": ("#F0A06A", "\N{BLACK DOWN-POINTING TRIANGLE}"),
}
JUDGED = ("task", "optimizer", "reference", "difference", "low", "high", "p_value", "p_adjusted", "detectable", "verdict")


def map_rows(comparisons: Sequence[tuple[Mapping[str, Any], Comparison]]) -> DataFrame:
    """(settings, comparison) of each point of a grid -> one row for each of its verdicts: the settings, the verdict's columns,
    and reference_loss. P values are adjusted (Holm) and detectable differences stated over all cells of the map."""
    import pandas as pd

    cells = []
    for settings, comparison in comparisons:
        finals = comparison.finals().sort_values("study", kind="stable")
        runs = dict(iter(finals.groupby(["task", "optimizer"])))
        for row in comparison.verdicts.to_dict("records"):
            own, to_beat = runs[row["task"], row["optimizer"]], runs[row["task"], row["reference"]]
            cells.append((dict(settings), row, own, to_beat, comparison.protocol["margin"]))
    adjusted = statistics.holm([row["p_value"] for _, row, *_ in cells])
    found = []
    for (settings, row, own, to_beat, margin), p_adjusted in zip(cells, adjusted, strict=True):
        losses, reference = own.test_loss.to_numpy(float), to_beat.test_loss.to_numpy(float)
        neither_trained = bool(own.diverged.all() and to_beat.diverged.all())
        paired = statistics.paired_t(losses, reference)
        row = row | judgement(paired, losses, reference, neither_trained, float(p_adjusted), len(cells), margin)
        found.append(settings | row | {"reference_loss": float(reference.mean())})
    return pd.DataFrame(found)


def map_figure(rows: DataFrame, x: str, y: str | None = None):
    """A matplotlib Figure: one panel for each task and optimizer (and each value of any other setting), one cell for each
    value of the columns x and y, with the verdict as colour and sign and the difference in percent of the reference's loss.

    rows: of `map_rows`, or any with its columns. A cell that was not run stays empty."""
    from matplotlib.figure import Figure

    for column in filter(None, (x, y)):
        if column not in rows.columns:
            raise InputError(f"the map has no column {column!r}; its settings are {', '.join(settings(rows)) or '(none)'}")
    columns = sorted(rows[x].unique())
    lines = sorted(rows[y].unique()) if y is not None else [None]
    panels = _panels(rows, x, y)
    tasks = rows.task.nunique()
    across = min(tasks if tasks > 1 else len(panels), 3 if len(columns) < 5 else 2)  # a row for each optimizer, where they fit
    down = -(-len(panels) // across)
    with style({"axes.spines.left": False, "axes.spines.bottom": False}):
        width, height = 0.72 * len(columns) + 1.0, 0.5 * len(lines) + 0.8
        figure = Figure(figsize=(max(across * width, 4.6), down * height + 0.4))
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, panel) in zip(grid.flat, panels, strict=False):
            _draw(axes, title, panel, (x, columns), (y, lines))
        _legend(figure)
    return figure


def settings(rows: DataFrame) -> list[str]:
    """The columns that were varied."""
    return [column for column in rows.columns if column not in (*JUDGED, "reference_loss")]


def _panels(rows: DataFrame, x: str, y: str | None):
    keys = [key for key in ("optimizer", "task", *settings(rows)) if key not in (x, y)]
    order = {name: i for i, name in enumerate(rows.optimizer.unique())}
    panels = []
    groups = rows.groupby(keys, sort=False) if keys else [((), rows)]
    for values, panel in sorted(groups, key=lambda group: order[group[1].optimizer.iloc[0]] if "optimizer" in keys else 0):
        named = dict(zip(keys, values, strict=True))
        words = [str(v) if key in ("optimizer", "task") else f"{_words(key)} {v}" for key, v in named.items()]
        panels.append((", ".join(words), panel))
    return panels


def _draw(axes, title: str, panel: DataFrame, across, down):
    from matplotlib.patches import Rectangle

    (x, columns), (y, lines) = across, down
    for row in panel.to_dict("records"):
        i, j = columns.index(row[x]), lines.index(row[y]) if y is not None else 0
        color, sign = LOOKS[row["verdict"]]
        axes.add_patch(Rectangle((i - 0.5, j - 0.5), 1, 1, facecolor=color, edgecolor="0.45", linewidth=0.6))
        axes.text(i, j + 0.17, sign, ha="center", va="center", fontsize=9)
        difference = percent(row["difference"], row["reference_loss"])
        axes.text(i, j - 0.22, f"{signed(difference)} %", ha="center", va="center", fontsize=6.5)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(lines) - 0.5), xlabel=_words(x))
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(columns)), [f"{value:g}" if _is_number(value) else value for value in columns])
    axes.set_yticks(range(len(lines)), [f"{value:g}" if _is_number(value) else value or "" for value in lines])
    axes.set_ylabel("" if y is None else _words(y))
    axes.tick_params(length=0)


def _legend(figure):
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=color, edgecolor="0.45", label=f"{sign}  {verdict}") for verdict, (color, sign) in LOOKS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=2)


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _words(column: str) -> str:
    return column.replace("_", " ")


def write_map(rows: DataFrame, folder, x: str, y: str | None = None) -> Path:
    """map.html: the map first, then its table; beside it map.csv, and the figure as SVG and PDF. Returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = Picture("map", "verdicts", map_figure(rows, x, y))
    image = svg(picture)
    write(folder / "map.svg", image)
    write(folder / "map.pdf", pdf(picture))
    write_csv(folder / "map.csv", rows.columns, rows.itertuples(index=False))
    varied = settings(rows)
    counts = rows.groupby(["optimizer", "verdict"], sort=False).size()
    page = template("map.html.j2").render(
        image=image[image.index("<svg") :],
        width=round(60 * picture.figure.get_figwidth()),  # pixels under which its words cannot be read
        varied=varied,
        words=_words,
        headline=[
            f"{name}: "
            + ", ".join(f"{verdict} in {counts[name, verdict]}" for verdict in LOOKS if (name, verdict) in counts)
            + f" of {counts[name].sum()} cells"
            for name in rows.optimizer.unique()
        ],
        reference=rows.reference.iloc[0],
        cells=len(rows),
        level=statistics.LEVEL,
        rows=[row | _shares(row) for row in rows.to_dict("records")],
    )
    write(folder / "map.html", page)
    return folder / "map.html"


def _shares(row) -> dict[str, str]:
    shares = {key: percent(row[key], row["reference_loss"]) for key in ("difference", "low", "high", "detectable")}
    return {
        "difference": f"{signed(shares['difference'])} %",
        "interval": f"{signed(shares['low'])} to {signed(shares['high'])} %",
        "detectable": f"{signed(shares['detectable'])[1:]} %",
        "p_adjusted": "< 0.0001" if row["p_adjusted"] < 1e-4 else f"{row['p_adjusted']:.4f}",
    }
