"""What one sees of a run: a progress display, lines of JSON, TensorBoard, a profile, a function of one's own."""

import json
import math
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
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
    skipped: np.ndarray  # whether each step of the segment was skipped, as of diverged="skip"

    def scalars(self) -> dict[str, float]:
        """Means over the steps of the segment that were not skipped, the evaluation as "eval/loss", the rates as
        "per_second/steps", and how many were "skipped" where there are such."""
        taken = slice(None) if self.skipped.all() else ~self.skipped
        means = {name: float(np.mean(values[taken])) for name, values in self.metrics.items() if np.ndim(values) == 1}
        means |= {"skipped": float(self.skipped.sum())} if self.skipped.any() else {}
        evaluation = {f"eval/{name}": float(value) for name, value in self.evaluation.items() if np.ndim(value) == 0}
        rates = {f"per_second/{name}": value for name, value in self.rates.items()}
        return means | evaluation | rates | ({} if self.peak is None else {"share_of_peak": self.peak})


class Lines:
    """A file of JSON lines, one a segment. What a killed run wrote beyond its checkpoint is cut off when it goes on. Lines that
    cannot be read are left out, with a warning."""

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists() and step:
            lines = path.read_bytes().split(b"\n")
            if _step_of(lines[-1]) is None:
                lines.pop()  # nothing, or half a line, of a run that was killed while it wrote
            steps = [(_step_of(line), line) for line in lines]
            kept = [line + b"\n" for at, line in steps if at is not None and at <= step]
            if unread := sum(at is None for at, _ in steps):
                warnings.warn(f"{path}: lines that cannot be read are left out: {unread}", RuntimeWarning, stacklevel=3)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(b"".join(kept))
        part.replace(path)
        self._file = open(path, "a")  # noqa: SIM115 (closed by `close`)

    def __call__(self, report: Report) -> None:
        scalars = {name: value if np.isfinite(value) else str(value) for name, value in report.scalars().items()}
        self._file.write(json.dumps({"step": report.step, "seconds": report.seconds, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: bytes) -> int | None:
    """None for a line that is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


class Profile:
    """Traces whole segments with `jax.profiler`, from the second one on, as the first one compiles, until they have `steps`."""

    def __init__(self, folder: Path, steps: int):
        self._folder, self._asked, self._left, self._segments, self._tracing = folder, steps, steps, 0, False

    def before(self) -> None:
        """A segment begins."""
        if self._segments >= 1 and self._left > 0 and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def __call__(self, report: Report) -> None:
        self._segments += 1
        if self._tracing:
            self._left -= len(report.metrics["loss"])
            if self._left <= 0:
                self._stop()

    def close(self) -> None:
        if self._left == self._asked > 0 and not self._tracing:
            text = f"run: nothing was profiled: that begins with the second segment, and the run had {self._segments}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        self._stop()

    def _stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Apart:
    """Calls functions with reports, each in a thread of its own: one that is slow, hangs or fails costs no step, and no other
    function a report. It is said once of each that it failed, and once that it is `patience` seconds behind. At the end all
    have `patience` seconds for the reports that wait; then those that have a `close` are closed. A call that takes longer than
    `patience` seconds is given up."""

    def __init__(self, hooks: tuple[Callable[[Report], Any], ...], patience: float = 10.0):
        self._hooks = [_Hook(function, patience) for function in hooks]

    def __call__(self, report: Report) -> None:
        for hook in self._hooks:
            hook.put(report)

    def close(self) -> None:
        for hook in self._hooks:
            hook.end()
        for hook in self._hooks:
            hook.join()
        for hook in self._hooks:
            if lost := hook.lost():
                warnings.warn(f"run: the hook {lost}", RuntimeWarning, stacklevel=3)


class _Hook:
    def __init__(self, function: Callable[[Report], Any], patience: float):
        self._function, self._patience = function, patience
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._oldest: float | None = None  # when the report under way was put
        self._began, self._until = 0.0, math.inf
        self._dropped, self._failed, self._late = 0, False, False
        self._thread = threading.Thread(target=self._work, name=f"hook {self._name}", daemon=True)
        self._thread.start()

    def put(self, report: Report) -> None:
        self._queue.put((time.monotonic(), report))
        oldest = self._oldest
        if not self._late and oldest is not None and time.monotonic() - oldest > self._patience:
            self._late = True
            say(f"run: the hook {self._name} is more than {self._patience:g} seconds behind; the run does not wait for it")

    def end(self) -> None:
        self._began = time.monotonic()
        self._until = self._began + self._patience
        self._queue.put(None)

    def join(self) -> None:
        while self._thread.is_alive() and time.monotonic() - self._began <= self._patience:
            self._thread.join(0.02)

    def lost(self) -> str:
        """What is to be said of it at the end."""
        if self._thread.is_alive():
            return f"{self._name} has not returned; its last reports are lost"
        return f"{self._name} is slow; its last {self._dropped} reports are lost" if self._dropped else ""

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._oldest, report = item
            if time.monotonic() > self._until:
                self._dropped += 1
            else:
                self._call(self._function, report)
            self._oldest = None
        if hasattr(self._function, "close"):
            self._call(self._function.close)

    def _call(self, function, *reports: Report) -> None:
        self._began = time.monotonic()
        try:
            function(*reports)
        except BaseException as error:  # SystemExit would end this thread
            if not self._failed:
                self._failed = True
                when = f"at step {reports[0].step}, and goes on being called" if reports else "when it was closed"
                say(f"run: the hook {self._name} failed {when}: {error!r}")


def say(text: str) -> None:
    """On standard error, where there is one: what it says is worth no run."""
    if sys.stderr is not None:  # `print` would take standard output
        with suppress(Exception):
            print(text, file=sys.stderr, flush=True)


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
    """Progress: a moving line in a terminal, and elsewhere a plain one every `seconds`. None where it cannot be shown."""

    def __init__(self, step: int, steps: int, seconds: float = 10.0):
        self._live, self._seconds, self._last = None, seconds, time.monotonic()
        self._began, self._first = time.monotonic(), step
        with self._harmless():
            if sys.stderr is not None and sys.stderr.isatty():
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

                columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
                self._live = Progress(*columns, console=Console(stderr=True))
                self._task = self._live.add_task("", total=steps, completed=step, text="")
                self._live.start()

    def __call__(self, report: Report) -> None:
        text = said(report)
        if self._live is not None:
            with self._harmless():
                self._live.update(self._task, completed=report.step, text=text)
        elif time.monotonic() - self._last >= self._seconds or report.step == report.steps or report.evaluation:
            self._last = time.monotonic()
            each = (self._last - self._began) / max(report.step - self._first, 1)
            left = clock(each * (report.steps - report.step))
            say(f"step {report.step:,} of {report.steps:,}  {text}  {left} left")

    def close(self) -> None:
        if self._live is not None:
            with self._harmless():
                self._live.stop()

    @contextmanager
    def _harmless(self):
        try:
            yield
        except (Exception, SystemExit):  # SystemExit is what rich makes of a broken pipe
            live, self._live = self._live, None
            with suppress(Exception, SystemExit):
                if live is not None:
                    live.stop()  # it gives the standard streams back that it took


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
