"""What an experiment leaves behind: a finding in words, its numbers, its pictures."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from experiments import commands
from experiments.benchmarks import records
from jnn.comparison.statistics import exact_interval

BEGAN = time.perf_counter()


class Interval(tuple):
    """mean, low, high: of values over seeds, with the 95 % interval of the mean (Student's t); None twice for one value."""

    @classmethod
    def of(cls, values) -> "Interval":
        from scipy import stats

        values = np.asarray(values, float).ravel()
        mean = values.mean()
        if len(values) < 2:
            return cls((float(mean), None, None))
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        return cls((float(mean), float(mean - half), float(mean + half)))

    @classmethod
    def of_share(cls, count: int, of: int) -> "Interval":
        """share, low, high: of so many of so many, with the exact 95 % interval (Clopper & Pearson 1934)."""
        return cls((count / of, *exact_interval(count, of)))

    def __format__(self, form: str) -> str:
        """As f"{interval:.1f}": "84.3 (84.1 to 84.6)"; f"{interval:.1f %}": "84.3 % (84.1 to 84.6)"; the mean alone where there
        was one value."""
        form, space, unit = form.partition(" ")
        form = f"{form[0]}z{form[1:]}" if form[:1] in ("+", "-") else f"z{form}"  # z: no -0
        mean, *ends = (format(value, form) for value in self if value is not None)
        return f"{mean}{space}{unit} ({ends[0]} to {ends[1]})" if ends else f"{mean}{space}{unit}"


def is_at_edge(value, tried) -> bool:
    """Whether a value is the lowest or the highest of several that were tried."""
    return len(tried) > 1 and value in (min(tried), max(tried))


def edges(chosen: Mapping[str, float], grid) -> str:
    """A sentence that names what chose the lowest or the highest value of its grid, " ..." to follow another; empty if none.
    grid: one for all, or one for each name."""
    tried = lambda name: grid[name] if isinstance(grid, Mapping) else grid
    named = [f"{name} ({value:.2g})" for name, value in chosen.items() if is_at_edge(value, tried(name))]
    return f" Chosen at an edge of the grid of learning rates: {', '.join(named)}." if named else ""


@contextmanager
def stage(text: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    print(f"{text} ...", end="", flush=True, file=sys.stderr)
    began = time.perf_counter()
    try:
        yield
    except BaseException:
        print(file=sys.stderr)
        raise
    jax.block_until_ready(jax.live_arrays())  # what was begun here and not asked for yet
    print(f" {time.perf_counter() - began:.1f} s", file=sys.stderr)


def picture(out: Path, name: str, figure):
    """OUT/name.png and OUT/name.svg, of a matplotlib Figure. Call it within `jnn.plots.style()`."""
    import matplotlib

    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=150)
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same numbers give the same file
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})


def interval_rows(axes, intervals: Mapping[str, Interval], *, up: float = 0.0, **look):
    """A point with its interval across for each name, one below the other, moved by `up` rows. look: as of `errorbar`."""
    points = [[mean, *(mean if end is None else end for end in ends)] for mean, *ends in intervals.values()]
    mean, low, high = np.transpose(points)
    axes.errorbar(mean, up - np.arange(len(mean)), xerr=[mean - low, high - mean], linestyle="none", **look)
    axes.set_yticks(-np.arange(len(mean)), list(intervals))


def record(options, finding: str, results: Mapping) -> dict:
    """Writes OUT/results.json with the finding, the numbers, the options, the command that gives them again and where it was
    run; prints the finding. Returns the numbers. Called before the pictures are drawn, whose failure then loses none."""
    about = {"finding": finding, "options": commands.asked(options), "command": commands.command(options)}
    about["seconds"] = time.perf_counter() - BEGAN
    if taken := about.keys() & results.keys():
        raise ValueError(f"results named as what is recorded with them: {', '.join(sorted(taken))}")
    print(f"\n{finding}\n")
    records.write(options.out, "results", {**about, **results})
    return dict(results)
