"""SIGKILL, at random moments and at each call of a save."""

import shutil
import time
from pathlib import Path

from experiments.benchmarks.reliability.contestants import EVERY
from experiments.benchmarks.reliability.trials import Trial

STEPS = 300  # of a run that is killed at random: most of its time is that of steps


def kills(name: str, work: Path, count: int, rng) -> dict:
    trial, ends = Trial(name, work), []
    expected = trial.contestant.train(None, STEPS)
    seconds = []
    for _ in range(2):  # the first compiles
        began = time.monotonic()
        trial.folder = trial.folder.with_name(f"timed{len(seconds)}")
        trial.ended(trial.begin(STEPS))
        seconds.append(time.monotonic() - began)
    while len(trial.lost) < count:
        trial.folder = trial.folder.with_name(f"run{len(ends)}")
        trial.result.unlink(missing_ok=True)
        while True:
            process = trial.begin(STEPS)
            if len(trial.lost) < count:
                process.join(rng.uniform(0.0, seconds[-1]))
                if process.is_alive():
                    process.kill()
            if trial.ended(process):
                break
        ends.append(trial.result.exists() and trial.result.read_text() == expected)
        print(f"  {name}: {len(trial.lost)} kills, {sum(ends)} of {len(ends)} runs ended alike", flush=True)
        shutil.rmtree(trial.folder)
    return trial.counts(ends)


def points(name: str, work: Path, stride: int) -> dict:
    """Killed at each call of a save in turn, the same run going on after each; it ends undisturbed."""
    trial, log = Trial(name, work), work / f"{name}.calls"
    trial.ended(trial.begin(3 * EVERY))
    log.unlink(missing_ok=True)
    trial.ended(trial.begin(4 * EVERY, log=log))  # loads, saves and takes an old one away
    calls = len(log.read_text().splitlines())
    shutil.rmtree(trial.folder)
    trial.ended(trial.begin(3 * EVERY))
    chosen = range(0, calls, stride)
    steps = EVERY * (len(chosen) + 8)
    for call in chosen:
        if trial.ended(trial.begin(steps, call)):
            break
    trial.ended(trial.begin(steps))
    alike = trial.result.read_text() == trial.contestant.train(None, steps)
    return {"calls": calls, **trial.counts([alike])}
