"""The tables of a comparison as text: for a page, in Markdown, and in LaTeX."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jnn.comparison.measures import measures
from jnn.comparison.results import Comparison
from jnn.comparison.rows import HEADINGS, budget_words, rows


class Table(NamedTuple):
    """A table in groups of rows, one group for each task."""

    headings: list[str]
    groups: dict[str, list[list[str]]]
    caption: str


def verdict_table(comparison: Comparison) -> Table:
    """The verdicts, as on the first screen of the report."""
    protocol = comparison.protocol
    caption = (
        f"Test loss of the final runs, mean over {protocol['studies']} studies; difference, 95 % interval and detectable "
        f"difference in percent of {protocol['reference']}'s loss (minus is better); p adjusted over all comparisons (Holm)."
    )
    groups = {task: [list(row) for row in group] for task, group in rows(comparison).items()}
    return Table(list(HEADINGS), groups, f"{caption} {budget_words(protocol)}".strip())


def measure_table(comparison: Comparison) -> Table:
    """Scores, times to the target, costs and divergence; columns for which nothing was measured are left out."""
    table, reference = measures(comparison), comparison.protocol["reference"]
    columns = _columns(table, reference)
    headings = ["optimizer", *columns]
    groups: dict[str, list[list[str]]] = {}
    for task in comparison.protocol["tasks"]:
        group = table[table.task == task]
        group = group.assign(other=group.optimizer != reference).sort_values("other", kind="stable")
        groups[task] = [[row["optimizer"], *(show(row) for show in columns.values())] for row in group.to_dict("records")]
    caption = f"Final runs: mean ± standard deviation over {comparison.protocol['studies']} studies. "
    if "steps to target" in columns:
        caption += (
            "Target: the 75th percentile of the final validation losses of the tuned reference on other studies; median steps "
            "to the first evaluation at or under it, and the share of runs that never get there. "
        )
    if "step time" in columns:
        caption += f"Step time: a training step in units of {reference}'s, both timed in turn on the same machine. "
    if "state" in columns:
        caption += "State: memory of the optimizer's state. "
    return Table(
        headings,
        groups,
        caption + "Diverged: the share of the trials, and the final runs, that ended above the initial loss or not finite.",
    )


def _columns(table, reference: str) -> dict[str, Callable[[dict[str, Any]], str]]:
    """heading -> how a row shows it."""
    scores = [c for c in table.columns if c.startswith("test_") and not c.endswith("_sd")]
    scores.sort(key=lambda score: score != "test_loss")  # which is what verdicts are about
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        score.replace("_", " "): lambda row, score=score: _with_deviation(row[score], row[f"{score}_sd"]) for score in scores
    }
    if table.steps_to_target.notna().any():
        columns["steps to target"] = lambda row: _time(row, "steps", 1) + _never(row)
    if table.seconds_to_target.notna().any():
        columns["seconds to target"] = lambda row: _time(row, "seconds", row["seconds_per_step"])
    if table.step_time_ratio.notna().any():
        columns["step time"] = lambda row: "" if math.isnan(row["step_time_ratio"]) else _step_time(row, reference)
    if table.state_bytes.notna().any():
        columns["state"] = lambda row: _bytes(row["state_bytes"])
    columns["diverged"] = _diverged
    return columns


def _with_deviation(mean: float, deviation: float) -> str:
    return "" if math.isnan(mean) else f"{mean:.4g} ± {deviation:.2g}"


def _time(row, unit: str, of_a_step: float) -> str:
    median = row[f"{unit}_to_target"]
    if math.isnan(median):
        return ""
    never = not math.isfinite(median)
    taken = row["last_step"] * of_a_step if never else median
    return ("> " if never else "") + (f"{taken:,.0f}" if taken >= 100 else f"{taken:.3g}")


def _diverged(row) -> str:
    finals = row["diverged_finals"]
    of_trials = f"{100 * row['diverged_trials']:.0f} %"
    return f"{of_trials}, {finals} final{'s' if finals > 1 else ''}" if finals else of_trials


def _never(row) -> str:
    return f" ({100 * row['not_reached']:.0f} % never)" if row["not_reached"] > 0 else ""


def _step_time(row, reference: str) -> str:
    spent = (
        f"{1e6 * row['seconds_per_step']:.3g} µs"
        if row["seconds_per_step"] < 1e-3
        else f"{1e3 * row['seconds_per_step']:.3g} ms"
    )
    return spent if row["optimizer"] == reference else f"{row['step_time_ratio']:.2f}\N{MULTIPLICATION SIGN}"


def _bytes(count: float) -> str:
    if math.isnan(count):
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def markdown(table: Table) -> str:
    """A Markdown table; the task is the first column."""
    lines = [["task", *table.headings], ["---"] * (len(table.headings) + 1)]
    lines += [[task, *row] for task, group in table.groups.items() for row in group]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{body}\n\n{table.caption}\n"


LINES = 40  # of a LaTeX table: more do not fit on a page


def latex(table: Table, label: str) -> str:
    """Table environments that need the packages booktabs and graphicx: as many as it takes, each no wider than the text."""
    pages: list[dict[str, list[list[str]]]] = [{}]
    for task, group in table.groups.items():
        for start in range(0, len(group), LINES):
            part = group[start : start + LINES]
            if sum(map(len, pages[-1].values())) + len(part) > LINES:
                pages.append({})
            pages[-1][task] = part
    return "\n".join(_latex_page(table, groups, label, number) for number, groups in enumerate(pages, 1))


def _latex_page(table: Table, groups, label: str, number: int) -> str:
    columns = "".join("l" if heading in ("optimizer", "verdict") else "r" for heading in table.headings)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.caption if number == 1 else 'Continued.')}}}",
        rf"\label{{tab:{label}{'' if number == 1 else f'-{number}'}}}",
        r"\footnotesize",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_tex, table.headings)) + r" \\",
    ]
    for task, group in groups.items():
        lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\textbf{{{_tex(task)}}}}} \\"]
        lines += [" & ".join(map(_tex, row)) + r" \\" for row in group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _tex(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    special |= {
        "\N{MINUS SIGN}": "$-$",
        "±": r"$\pm$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "µ": r"$\mu$",
        "<": "$<$",
        ">": "$>$",
    }
    return "".join(special.get(character, character) for character in text)
