"""How far a comparison has got: a bar in a terminal, a line now and then elsewhere."""

import sys
import time


class Progress:
    """A context manager; `advance` may be called from any thread."""

    def __init__(self, total: int):
        from rich.console import Console

        self.total, self.done = total, 0
        self.console = Console(stderr=True)
        self.bar = None
        self.started = self.said = time.monotonic()

    def __enter__(self):
        from rich import progress

        if self.console.is_terminal:
            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f} trainings"),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("compiling", total=self.total)
        return self

    def advance(self, runs: int, what: str):
        self.done += runs
        if self.bar:
            self.bar.update(self.task, advance=runs, description=what)
        elif time.monotonic() - self.said > 10 or self.done == self.total:
            self.said = time.monotonic()
            print(f"{self.done:,} of {self.total:,} trainings, {self.said - self.started:.0f} s", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()
