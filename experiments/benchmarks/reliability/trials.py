"""A training in a process of its own, which is killed and started again."""

import logging
import multiprocessing
import signal
import tempfile
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.reliability.contestants import CONTESTANTS
from experiments.benchmarks.reliability.faults import Faults

FORKED = multiprocessing.get_context("forkserver")  # a child costs no imports


def prepared(work: Path) -> None:
    """What one child compiles is kept for those after it."""
    logging.disable(logging.CRITICAL)  # Orbax's, of what is damaged on purpose
    jax.config.update("jax_compilation_cache_dir", str(work / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _train(name: str, work: Path, folder: Path, steps: int, result: Path, call: int | None, log: Path | None) -> None:
    """In a child: to the end, or until it is killed at a call."""
    prepared(work)
    if call is not None or log is not None:
        Faults(folder, log).arm(-1 if call is None else call)
    result.write_text(CONTESTANTS[name].train(folder, steps))


class Trial:
    """A contestant in a folder, started again and again."""

    def __init__(self, name: str, work: Path):
        self.name, self.work, self.contestant = name, work, CONTESTANTS[name]
        self.folder = Path(tempfile.mkdtemp(dir=work, prefix=name)) / "run"
        self.result = self.folder.with_name("digest")
        self.lost: list[int] = []
        self.unreadable = self.errors = 0

    def begin(self, steps: int, call: int | None = None, log: Path | None = None):
        process = FORKED.Process(target=_train, args=(self.name, self.work, self.folder, steps, self.result, call, log))
        process.start()
        return process

    def ended(self, process) -> bool:
        """Whether it was not killed; what was lost where it was."""
        process.join()
        if process.exitcode == -signal.SIGKILL:
            whole, there = self.contestant.whole(self.folder), self.contestant.there(self.folder)
            self.unreadable += whole[-1:] != there[-1:]
            self.lost.append(self.contestant.reached(self.folder) - (whole[-1] if whole else 0))
            return False
        self.errors += process.exitcode != 0
        return True

    def counts(self, ends: list[bool]) -> dict:
        """ends: of each run that ended, whether it did like the undisturbed one."""
        return {
            "kills": len(self.lost),
            "runs": len(ends),
            "ended alike": sum(ends),
            "newest checkpoint unreadable": self.unreadable,
            "errors": self.errors,
            "steps lost": {"median": float(np.median(self.lost or [0])), "most": max(self.lost, default=0)},
        }
