"""What the benchmark of training steps shows: tables in Markdown, and a picture."""

from pathlib import Path
from typing import Any


def step_table(results: dict[str, Any]) -> str:
    """A row for each workload: milliseconds per step, and jnn's time as a share of each peer's."""
    labels = list(dict.fromkeys(label for found in results["workloads"].values() for label in found["ms"]))
    peers = list(dict.fromkeys(label for found in results["workloads"].values() for label in found["ratio"]))
    lines = [_row(["ms per step", *labels]), _rule(len(labels) + 1)]
    for name, found in results["workloads"].items():
        lines.append(_row([name, *(_three_digits(found["ms"][n]["median"]) if n in found["ms"] else "" for n in labels)]))
    lines += ["", _row(["jnn's time as a share of", *peers]), _rule(len(peers) + 1)]
    for name, found in results["workloads"].items():
        lines.append(_row([name, *(_spread(found["ratio"][n]) if n in found["ratio"] else "" for n in peers)]))
    return "\n".join(lines)


def step_report(results: dict[str, Any]) -> str:
    """All that was found, as Markdown."""
    parts = [f"Medians of {results['rounds']} turns; least and most in brackets.", step_table(results)]
    lines = [_row(["", "in fit, of a step alone", "in a sweep of 8, per model, of a step alone"]), _rule(3)]
    lines += [_row([n, _spread(f["in_fit"]), _spread(f["in_sweep"])]) for n, f in results["workloads"].items()]
    parts.append("\n".join(lines))
    parts.append(_numbers(results, "compile_seconds", "seconds to trace and compile a step", 1))
    parts.append(_numbers(results, "memory_bytes", "MB that a step needs, by XLA's account", 1e-6))
    parts.append(_numbers(results, "peak_rss_bytes", "MB, the process at its highest", 1e-6))
    deep = results["compile_48_layers"]
    if deep:
        shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in deep.items())
        share = f"; jnn's share of linen's: {deep['jnn'] / deep['linen']:.2f}" if "linen" in deep else ""
        parts.append(f"A gpt of 48 layers, traced and compiled: {shown}{share}.")
    seconds = results["import"]["seconds"]
    parts.append(
        f"`import jnn` takes {seconds['jnn']:.3f} s, `import jax` {seconds['jax']:.3f} s, "
        f"a ratio of {_spread(results['import']['ratio'])}."
    )
    return "\n\n".join(parts)


def step_picture(results: dict[str, Any], file: Path):
    """jnn's time as a share of each peer's, a panel for each workload."""
    from matplotlib.figure import Figure

    workloads = results["workloads"]
    across = min(len(workloads), 3)  # three side by side are still readable on a page
    down = -(-len(workloads) // across)
    figure = Figure(figsize=(3 * max(across, 2), 2.3 * down + 0.4), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
    for axes in grid[len(workloads) :]:
        axes.remove()
    for axes, (name, found) in zip(grid, workloads.items(), strict=False):
        ratios = found["ratio"]
        for place, ratio in enumerate(ratios.values()):
            colour = "#1b7f5c" if ratio["median"] <= 1 else "#b3541e"
            axes.barh(place, ratio["median"], color=colour, height=0.62)
            axes.plot([ratio["least"], ratio["most"]], [place, place], color="black", linewidth=1.2)
            axes.text(0.03, place, f"{ratio['median']:.2f}", va="center", color="white", fontsize=8, fontweight="bold")
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(ratios)), list(ratios), fontsize=9)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("jnn's time for a training step as a share of the other's: below 1, jnn is faster", fontsize=9)
    figure.savefig(file, dpi=160)


def _numbers(results, key, title, factor) -> str:
    labels = list(dict.fromkeys(label for found in results["workloads"].values() for label in found[key]))
    lines = [_row([title, *labels]), _rule(len(labels) + 1)]
    for name, found in results["workloads"].items():
        values = (found[key].get(label) for label in labels)
        lines.append(_row([name, *("" if value is None else _three_digits(factor * value) for value in values)]))
    return "\n".join(lines)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(ratio) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
