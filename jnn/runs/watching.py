"""What one sees of a run: a progress display, lines of JSON, TensorBoard, a profile, a function of one's own."""

import json
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Report(NamedTuple):
    """A segment that has ended."""

    step: int  # steps taken so far, of `steps`
    steps: int
    metrics: dict[str, np.ndarray]  # over the steps of the segment
    evaluation: dict[str, float]  # after its last step, where there was one
    seconds: float  # that it took
    rates: dict[str, float]  # "steps", "examples", "tokens" each second
    waiting: float  # the share of the time in which the device waited for data
    # the share of the devices' peak that the steps' operations are, what remat computes again among them; None where not known
    peak: float | None

    def scalars(self) -> dict[str, float]:
        """Means over the segment, the evaluation as "eval/loss", the rates as "per_second/steps"."""
        means = {name: float(np.mean(values)) for name, values in self.metrics.items() if np.ndim(values) == 1}
        evaluation = {f"eval/{name}": float(value) for name, value in self.evaluation.items() if np.ndim(value) == 0}
        rates = {f"per_second/{name}": value for name, value in self.rates.items()}
        return means | evaluation | rates | ({} if self.peak is None else {"share_of_peak": self.peak})


class Lines:
    """A file of JSON lines, one a segment. What a killed run wrote beyond its checkpoint is cut off when it goes on."""

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = []
        if path.exists() and step:
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] > step:
                        break
                except (ValueError, KeyError, TypeError):
                    break  # half a line, of a run that was killed while it wrote
                whole.append(line)
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join(f"{line}\n" for line in whole))
        part.replace(path)
        self._file = open(path, "a")  # noqa: SIM115 (closed by `close`)

    def __call__(self, report: Report) -> None:
        scalars = {name: value if np.isfinite(value) else str(value) for name, value in report.scalars().items()}
        self._file.write(json.dumps({"step": report.step, "seconds": report.seconds, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Profile:
    """Traces at least `steps` steps with `jax.profiler`, from the second segment on: the first one compiles."""

    def __init__(self, folder: Path, steps: int):
        self._folder, self._left, self._segments, self._tracing = folder, steps, 0, False

    def before(self) -> None:
        """A segment begins."""
        if self._segments == 1 and self._left > 0:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def __call__(self, report: Report) -> None:
        self._segments += 1
        if self._tracing:
            self._left -= len(report.metrics["loss"])
            if self._left <= 0:
                self.close()

    def close(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Apart:
    """Calls functions with reports in a thread of their own, so that one that is slow, hangs or fails costs no step. The first
    error of each is said once. At the end those that have a `close` are closed, and the thread is given `patience` seconds."""

    def __init__(self, hooks: tuple[Callable[[Report], Any], ...], patience: float = 10.0):
        self._hooks, self._patience = hooks, patience
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._failed: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
        self._thread.start()

    def __call__(self, report: Report) -> None:
        self._queue.put(report)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            warnings.warn("run: a hook has not returned; its last reports are lost", RuntimeWarning, stacklevel=3)

    def _work(self) -> None:
        while (report := self._queue.get()) is not None:
            for hook in self._hooks:
                self._call(hook, hook, report)
        for hook in self._hooks:
            if hasattr(hook, "close"):
                self._call(hook, hook.close)

    def _call(self, hook, function, *reports: Report) -> None:
        try:
            function(*reports)
        except Exception as error:
            if id(hook) not in self._failed:
                self._failed.add(id(hook))
                name = getattr(hook, "__qualname__", type(hook).__qualname__)
                when = f"at step {reports[0].step}, and goes on being called" if reports else "when it was closed"
                print(f"run: the hook {name} failed {when}: {error!r}", file=sys.stderr)


class tensorboard:  # noqa: N801 (called as a function is)
    """A hook that writes each report's numbers for TensorBoard (needs tensorboardX)."""

    def __init__(self, folder: str | os.PathLike):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def __call__(self, report: Report) -> None:
        for name, value in report.scalars().items():
            self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        self._writer.close()


class Display:
    """Progress: a moving line in a terminal, and elsewhere a plain one every `seconds`."""

    def __init__(self, step: int, steps: int, seconds: float = 10.0):
        self._live, self._seconds, self._last = None, seconds, time.monotonic()
        self._began, self._first = time.monotonic(), step
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
            self._live = Progress(*columns, console=Console(stderr=True))
            self._task = self._live.add_task("", total=steps, completed=step, text="")
            self._live.start()

    def __call__(self, report: Report) -> None:
        text = said(report)
        if self._live is not None:
            self._live.update(self._task, completed=report.step, text=text)
        elif time.monotonic() - self._last >= self._seconds or report.step == report.steps or report.evaluation:
            self._last = time.monotonic()
            each = (self._last - self._began) / max(report.step - self._first, 1)
            left = clock(each * (report.steps - report.step))
            print(f"step {report.step:,} of {report.steps:,}  {text}  {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


def said(report: Report) -> str:
    """loss 0.123  eval/loss 0.2  1,234 steps/s  ..."""
    scalars = report.scalars()
    rates = ("per_second/", "share_of_peak")
    parts = [f"{name} {value:.4g}" for name, value in scalars.items() if not name.startswith(rates)]
    parts += [f"{_short(report.rates[name])} {name}/s" for name in ("steps", "examples", "tokens") if name in report.rates]
    if report.peak is not None:
        parts.append(f"{100 * report.peak:.0f} % of peak")
    if report.waiting >= 0.02:
        parts.append(f"{100 * report.waiting:.0f} % of it waiting for data")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """1:02:03, or 2:03"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(value: float) -> str:
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"
