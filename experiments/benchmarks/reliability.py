"""What becomes of a run that is killed, or whose disk fails, or whose files are damaged?

python -m experiments.benchmarks.reliability [--quick] [--kills 200] [--flips 10000] [--stride 1] [--only kills,...]
    [--overhead] [--memory] [--seed 0] [--out runs/benchmarks]

A small training with a checkpoint every three steps, by `jnn.run` and by Orbax alone (`CheckpointManager` with its default
options, restored from its latest step), goes through the same:
  kills    SIGKILL at a random moment; started again until it ends, and its end compared with that of an undisturbed run
  points   SIGKILL at every call by which a save writes, in turn: of Python and of libraries in C++
  faults   an error at each of these calls in turn: no space, input/output error, time-out. Is it raised? Does the run go on?
  flips    one flipped bit in a file of a checkpoint: every byte of jnn's manifest, random bits of all files; is it noticed?
  cuts     each file cut by a byte, by half, emptied, removed
  power    files of a finished checkpoint that are not synced, and what is left of it when they are lost
and for jnn alone, where asked:
  --overhead   the share of time that a checkpoint a minute takes, 10 million parameters, over `--minutes`
  --memory     resident memory over 100,000 steps
Results that OUT/reliability.json has of other parts are kept. Wants Linux and a C compiler (`cc`). All parts take about half an
hour on 2 cores.
"""

import argparse
import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import jax
import numpy as np

import jnn
from experiments.benchmarks import records
from experiments.benchmarks.checkpointed import CONTESTANTS, EVERY, Contestant
from experiments.benchmarks.faults import Faults, preloaded, unsynced
from jnn import checkpoints
from jnn.checkpoints import Checkpoints, DamagedError

PARTS = ("kills", "points", "faults", "flips", "cuts", "power")
STEPS = 60  # of a run that is killed at random
ERRORS = {"no space": errno.ENOSPC, "input/output error": errno.EIO, "time-out": errno.ETIMEDOUT}
FORKED = multiprocessing.get_context("forkserver")  # a child costs no imports


def _prepared(work: Path) -> None:
    """What one child compiles is kept for those after it."""
    logging.disable(logging.CRITICAL)  # Orbax's, of what is damaged on purpose
    jax.config.update("jax_compilation_cache_dir", str(work / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _train(name: str, work: Path, folder: Path, steps: int, result: Path, call: int | None, log: Path | None) -> None:
    """In a child: to the end, or until it is killed at a call."""
    _prepared(work)
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


def _inject(name: str, work: Path, stride: int, result: Path) -> None:
    """In a child: an error at each call of a save."""
    _prepared(work)
    contestant = CONTESTANTS[name]
    base, folder = work / f"{name}.base", work / f"{name}.injected"
    steps = 3 * EVERY
    contestant.train(base, 2 * EVERY)
    expected = contestant.train(None, steps)
    found = {}
    for title, number in ERRORS.items():
        counts = dict.fromkeys(("calls", "raised", "harmless", "swallowed", "earlier damaged", "not gone on"), 0)
        faults = Faults(folder)
        calls = _injected(contestant, faults, base, folder, steps, -1, number)[1]
        for call in range(0, calls, stride):
            outcome, _ = _injected(contestant, faults, base, folder, steps, call, number)
            counts["calls"] += 1
            if outcome is None:
                ended = contestant.there(folder)[-1:] == [steps] and contestant.whole(folder)[-1:] == [steps]
                counts["harmless" if ended else "swallowed"] += 1
            else:
                counts["raised"] += 1
            counts["earlier damaged"] += 2 * EVERY not in contestant.whole(folder)
            try:
                counts["not gone on"] += contestant.train(folder, steps) != expected
            except Exception:
                counts["not gone on"] += 1
        faults.close()
        found[title] = counts
    result.write_text(json.dumps(found))


def _injected(contestant: Contestant, faults: Faults, base: Path, folder: Path, steps: int, call: int, number: int):
    """-> the error that was raised or None, and the calls that were made."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    faults.arm(call, number)
    try:
        contestant.train(folder, steps)
        return None, faults.calls()
    except Exception as error:
        return error, faults.calls()
    finally:
        faults.arm(-1)


def faults_of(name: str, work: Path, stride: int) -> dict:
    result = work / f"{name}.faults"
    process = FORKED.Process(target=_inject, args=(name, work, stride, result))
    process.start()
    process.join()
    return json.loads(result.read_text())


def _saved(name: str, work: Path) -> tuple[Contestant, Path, int, str]:
    """Two checkpoints, of which the newer is to be damaged: contestant, folder, step, digest."""
    contestant, folder = CONTESTANTS[name], Path(tempfile.mkdtemp(dir=work, prefix=name)) / "run"
    contestant.train(folder, 2 * EVERY)
    return contestant, folder, 2 * EVERY, contestant.load(folder, 2 * EVERY)


def _outcome(contestant: Contestant, folder: Path, step: int, whole: str, path: Path) -> str:
    """Of loading a checkpoint of which this file is damaged. Orbax is given a copy, of which it has read nothing before."""
    if contestant is not CONTESTANTS["jnn"]:
        copy = Path(tempfile.mkdtemp(dir=folder.parent)) / "run"
        shutil.copytree(contestant.place(folder, step), contestant.place(copy, step))
        folder = copy
    try:
        return "same numbers" if contestant.load(folder, step) == whole else "other numbers"
    except DamagedError as error:
        return "noticed" if str(path) in str(error) else "noticed, file not named"
    except Exception:
        return "noticed"
    finally:
        if contestant is not CONTESTANTS["jnn"]:
            shutil.rmtree(folder.parent)


OUTCOMES = "noticed", "noticed, file not named", "same numbers", "other numbers"


def _counted() -> dict[str, int]:
    return dict.fromkeys(("damaged", *OUTCOMES, "gone back", "tried"), 0)


def _goes_back(folder: Path, step: int, path: Path) -> bool:
    """Whether a run takes the checkpoint before, and a warning names the file."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = checkpoints.latest(folder, lambda manifest: None)
    return found is not None and found[0] == step - EVERY and any(str(path) in str(warning.message) for warning in said)


def _damage(counts: dict, saved, path: Path, damaged: bytes | None, back: bool) -> None:
    """Counts what comes of this file with these bytes, or without it; restores it."""
    contestant, folder, step, whole = saved
    content = path.read_bytes()
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    counts["damaged"] += 1
    counts[_outcome(contestant, folder, step, whole, path)] += 1
    if back and contestant is CONTESTANTS["jnn"]:
        counts["tried"] += 1
        counts["gone back"] += _goes_back(folder, step, path)
    path.write_bytes(content)


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flips(name: str, work: Path, count: int, rng, back: int) -> dict:
    """back: of so many damages one is given to a run as well."""
    saved = contestant, folder, step, _ = _saved(name, work)
    found = {}
    place = contestant.place(folder, step)
    if name == "jnn":
        manifest, counts = place / "manifest.json", _counted()
        content = manifest.read_bytes()
        for i in range(0, len(content), max(len(content) // count, 1)):
            _damage(counts, saved, manifest, _flipped(content, 8 * i + int(rng.integers(8))), i % back == 0)
        found["manifest"] = counts
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    sizes = np.array([path.stat().st_size for path in files])
    counts = _counted()
    for i in range(count):
        path = files[rng.choice(len(files), p=sizes / sizes.sum())]
        content = path.read_bytes()
        _damage(counts, saved, path, _flipped(content, int(rng.integers(8 * len(content)))), i % back == 0)
    return {**found, "files": counts}


def cuts(name: str, work: Path) -> dict:
    saved = contestant, folder, step, _ = _saved(name, work)
    counts = _counted()
    for path in sorted(contestant.place(folder, step).rglob("*")):
        if path.is_file() and (content := path.read_bytes()):
            for kept in (content[:-1], content[: len(content) // 2], b"", None):
                _damage(counts, saved, path, kept, path.name != "manifest.json" or kept is not None)
    return counts


def power(name: str, work: Path) -> dict:
    """Of a run that has just ended. What was not synced is emptied, as a file system may have it after a loss of power."""
    trial = Trial(name, work)
    log = trial.folder.with_name("log")
    trial.ended(trial.begin(2 * EVERY, log=log))
    step, place = 2 * EVERY, trial.contestant.place(trial.folder, 2 * EVERY)
    whole = trial.contestant.load(trial.folder, step)
    missed, files = unsynced(log, place)
    for path in missed:
        path.write_bytes(b"")
    outcome = _outcome(trial.contestant, trial.folder, step, whole, place)
    return {"files": len(files), "not synced": len(missed), "afterwards": outcome}


def _wide(work: Path):
    model = jnn.serial(jnn.dense(2048), jax.nn.relu, jnn.dense(2048), jax.nn.relu, jnn.dense(2048), jax.nn.relu, jnn.dense(10))
    training = jnn.training(jnn.supervised(model, jnn.losses.softmax_cross_entropy), jnn.optim.adam(1e-4))
    rng = np.random.default_rng(0)
    return training, (rng.normal(size=(512, 784)).astype(np.float32), rng.integers(0, 10, 512).astype(np.int32))


def overhead(work: Path, minutes: float) -> dict:
    """The loop's time in `save` with a checkpoint a minute, as a share of all its time. 10 million parameters with Adam's
    averages: 120 MB."""
    from jnn.checkpoints import series

    spent, training = [], _wide(work)
    save = series.Writer.save

    def timed(self, *args):
        began = time.perf_counter()
        save(self, *args)
        spent.append(time.perf_counter() - began)

    times = []
    with mock.patch.object(series.Writer, "save", timed):
        options = {"key": jax.random.key(0), "batch_size": 64, "segment": 10, "progress": False}
        trained = jnn.run(*training, steps=20, **options)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.train_state.params))
        began = time.perf_counter()
        jnn.run(*training, steps=50, **options)
        each = (time.perf_counter() - began) / 50
        steps = int(60 * minutes / each)
        began = time.perf_counter()
        hooks = (lambda report: times.append(report.seconds),)
        jnn.run(*training, steps=steps, checkpoint=work / "overhead", hooks=hooks, **options)
        total = time.perf_counter() - began
    inner = spent[:-1] if len(spent) > 1 else spent  # the last is that of the end, which is waited for
    return {
        "parameters": parameters,
        "seconds": total,
        "saves": len(inner),
        "seconds of a save": records.spread(inner),
        "share": sum(inner) / total,
        "seconds of a segment": records.spread(times),
    }


def memory(work: Path, steps: int) -> dict:
    """Resident bytes after each thousandth step; the history takes 4 bytes for each step and metric."""
    page, seen = os.sysconf("SC_PAGE_SIZE"), []
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64).astype(np.int32)
    training = jnn.training(jnn.supervised(jnn.dense(3), jnn.losses.softmax_cross_entropy), jnn.optim.adam(0.01))

    def look(report):
        seen.append(page * int(Path("/proc/self/statm").read_text().split()[1]))

    kept = Checkpoints(work / "memory", every=max(steps // 10, 1000))
    options = {"batch_size": 8, "segment": 1000, "checkpoint": kept, "hooks": (look,), "progress": False}
    found = jnn.run(training, data, key=jax.random.key(0), steps=steps, **options)
    tenth = max(len(seen) // 10, 1)
    return {
        "steps": steps,
        "metrics": len(jax.tree.leaves(found.history)),
        "bytes after a tenth": int(np.median(seen[tenth : 2 * tenth])),
        "bytes at the end": int(np.median(seen[-tenth:])),
        "samples": seen,
    }


def table(results: dict) -> str:
    """Of what was recorded, jnn beside Orbax alone."""
    rows = []

    def row(title, part, say):
        if part in results:
            rows.append(f"| {title} | {' | '.join(say(results[part][name]) for name in CONTESTANTS)} |")

    def killed(found):
        alike = "all" if found["ended alike"] == found["runs"] else f"{found['ended alike']} of {found['runs']}"
        lost, bad = found["steps lost"], found["newest checkpoint unreadable"] + found["errors"]
        return f"{found['kills']:,}; {alike} ended alike; at most {lost['most']} steps lost; {bad} unreadable"

    def faulty(found):
        total = {name: sum(counts[name] for counts in found.values()) for name in next(iter(found.values()))}
        said = f"{total['calls']:,}; {total['raised']:,} raised, {total['harmless']:,} without effect, "
        said += f"{total['swallowed']:,} swallowed; the run went on after {total['calls'] - total['not gone on']:,}"
        return f"{said}; {total['earlier damaged']:,} damaged an earlier checkpoint" if total["earlier damaged"] else said

    def damaged(found):
        noticed = found["noticed"] + found["noticed, file not named"]
        said = f"{noticed:,} of {found['damaged']:,} noticed"
        if noticed == found["damaged"]:
            return said
        return f"{said}, {found['same numbers']:,} without effect, {found['other numbers']:,} loaded other numbers"

    def back(found):
        return f"{found['gone back']:,} of {found['tried']:,}" if found["tried"] else "not by itself"

    def lost(found):
        words = {"same numbers": "whole", "noticed": "unreadable", "other numbers": "other numbers"}
        return f"{found['not synced']} of {found['files']} files not synced; afterwards {words[found['afterwards']]}"

    row("SIGKILL at random moments", "kills", killed)
    row("SIGKILL at a chosen call of a save", "points", killed)
    row("an error at a chosen call of a save", "faults", faulty)
    if "flips" in results:
        said = damaged(results["flips"]["jnn"]["manifest"])
        rows.append(f"| a flipped bit in each byte of the manifest | {said} | has none |")
    row("a flipped bit in the files", "flips", lambda found: damaged(found["files"]))
    row("and the run goes on from the checkpoint before", "flips", lambda found: back(found["files"]))
    row("a file cut, emptied or removed", "cuts", damaged)
    row("power lost as a checkpoint is done", "power", lost)
    return "\n".join(["| | jnn | Orbax alone |", "|---|---|---|", *rows]) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=10_000, help="of Orbax alone, which is slower to read, a tenth")
    parser.add_argument("--stride", type=int, default=1, help="points and faults: every so many-th call")
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="4 kills, 50 flips, every 20th call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args(arguments)
    count, flipped, stride = (4, 50, 20) if options.quick else (options.kills, options.flips, options.stride)
    chosen = [part for part in options.only.split(",") if part]
    for part in chosen:
        if part not in PARTS:
            parser.error(f"--only: there is no part {part}; there are {', '.join(PARTS)}")
    old = options.out / "reliability.json"
    results = json.loads(old.read_text())["results"] if old.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _prepared(work)
        preloaded(work)
        FORKED.set_forkserver_preload(["experiments.benchmarks.checkpointed", "orbax.checkpoint", "grain"])
        do = {
            "kills": lambda name: kills(name, work, count, np.random.default_rng(options.seed)),
            "points": lambda name: points(name, work, stride),
            "faults": lambda name: faults_of(name, work, stride),
            "flips": lambda name: flips(
                name, work, flipped if name == "jnn" else max(flipped // 10, 1), np.random.default_rng(options.seed), back=20
            ),
            "cuts": lambda name: cuts(name, work),
            "power": lambda name: power(name, work),
        }
        for part in chosen:
            results[part] = {}
            for name in CONTESTANTS:
                results[part][name] = do[part](name)
                print(part, name, json.dumps(results[part][name]), flush=True)
            records.write(options.out, "reliability", results)  # what is done is not lost either
        if options.overhead:
            results["overhead"] = overhead(work, options.minutes)
        if options.memory:
            results["memory"] = memory(work, 2000 if options.quick else 100_000)
    records.write(options.out, "reliability", results)
    (options.out / "reliability.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
