"""Files of a checkpoint that are changed, cut, emptied, removed, or were never synced."""

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np

from experiments.benchmarks.reliability.contestants import CONTESTANTS, EVERY, Contestant
from experiments.benchmarks.reliability.faults import unsynced
from experiments.benchmarks.reliability.trials import Trial
from jnn import checkpoints
from jnn.checkpoints import DamagedError

OUTCOMES = "noticed", "noticed, file not named", "same numbers", "other numbers"


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
