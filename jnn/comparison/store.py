"""What a comparison has finished, on disk: one file for each (task, optimizer), so that nothing is lost when it is stopped.

A folder belongs to one comparison: `comparison.json` says which, in every point that its numbers depend on. The same
comparison started again takes what is there and runs the rest; another one is refused. Every file is complete or absent:
it is written under another name, synced, and renamed.
"""

import hashlib
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jnn import tree
from jnn.comparison import environment
from jnn.comparison.entrants import Entrant, build, source_hash
from jnn.comparison.errors import InputError
from jnn.comparison.files import write
from jnn.comparison.plans import Plan, a_batch, count_held_out, for_entrant
from jnn.comparison.studies import Cell
from jnn.comparison.tasks import Examples, Task, bound
from jnn.optim import eval_params
from jnn.trainings import training

IDENTITY = "comparison.json"
CELLS = "cells"
TIMING = "timing.json"
SECONDS = "seconds"
RESULTS = "results.json"
PROTOCOL = ("reference", "studies", "margin", "seed", "lanes", "target_studies")


def identity(plan: Plan) -> dict[str, Any]:
    """Everything that the numbers of a comparison depend on, as JSON's own types: protocol, tasks, optimizers, versions,
    sources, data, device."""
    about = environment.describe()
    return {
        "protocol": {name: getattr(plan, name) for name in PROTOCOL},
        "tasks": {
            task.name: {
                "about": task.about,
                "sources": [source_hash(function) for function in (task.make, task.load, task.objective.loss) if function],
                "steps": task.steps,
                "batch_size": task.batch_size,
                "validation": task.validation,
                "held out": count_held_out(task, plan.examples[task.name]),
                "points": task.points,
                "data": _hash(plan.examples[task.name]),
            }
            for task in plan.tasks
        },
        "optimizers": {
            entrant.name: {
                "factory": _describe(entrant.factory),
                "source": entrant.source,
                "spaces": {name: list(space) for name, space in entrant.space.items()},
                "trials": entrant.trials,
                "steps": entrant.steps,
                "programs": {task.name: _program(plan, task, entrant) for task in plan.tasks},
            }
            for entrant in plan.entrants
        },
        "versions": about["versions"],
        "jnn source": about["jnn_source_sha256"],
        "device": about["device"],
    }


def _program(plan: Plan, task: Task, entrant: Entrant) -> str:
    """SHA-256 of a training's start, a step and a score, as XLA gets them. It tells what no source file does: a function typed
    into a notebook, what it closes over, a module that it imports, a schedule, jax's settings."""
    task, examples = for_entrant(task, entrant), plan.examples[task.name]
    middle = {name: space.value(0.5) for name, space in entrant.space.items()}

    def program(key, batch, shared, hyperparameters):
        objective = bound(task, Examples((), shared=shared))
        train = training(objective, build(entrant, task, hyperparameters or middle))
        train_state, metrics = train.step(train.init(key, batch), batch)
        params = eval_params(train_state.opt_state, train_state.params)
        return train_state, metrics, objective.loss(params, train_state.state, batch)

    given = jax.tree.map(jax.numpy.float32, middle) if plan.traced[task.name, entrant.name] else {}
    shared = jax.tree.map(jax.numpy.asarray, examples.shared)
    lowered = jax.jit(program).lower(jax.random.key(0), a_batch(task, examples), shared, given)
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def digest(about: Mapping) -> str:
    """A name for an identity: eight hexadecimal digits."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


@contextmanager
def held(folder):
    """Keeps other processes from the folder. Raises InputError where one has it, or where it cannot be made."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be written: {error.strerror or error}") from error
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)  # this unlocks it, as the end of the process does, however it comes


def _lock(handle: int, path: Path):
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another process is at work in {path}: wait for its end, or choose another folder") from None
    except (ImportError, OSError):  # no such thing on this system, or on this kind of disk
        return


def finished(folder: Path, about: Mapping, plan: Plan) -> set[tuple[str, str]]:
    """The (task, optimizer) that are kept in a folder, which need not be there, of the comparison with the identity `about`."""
    if not (folder / "comparison.json").exists():
        return set()
    store = Store.claim(folder, about, overwrite=False)
    names = [(task.name, entrant.name) for task in plan.tasks for entrant in plan.entrants]
    return {name for name in names if store.load(*name) is not None}


class Store:
    """The folder of one comparison."""

    def __init__(self, folder: Path, about: Mapping):
        self.folder = folder
        self._about = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self._began = time.monotonic()
        file = folder / SECONDS
        self._earlier = float(file.read_text()) if file.exists() else 0.0
        self._has_run = False

    @classmethod
    def claim(cls, folder, about: Mapping, overwrite: bool) -> "Store":
        """Takes a folder for a comparison. Raises InputError where it cannot be written, or belongs to another one and
        `overwrite` is not set."""
        path = Path(folder)
        text = json.dumps(about, indent=1)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                _remove(path)
            elif (path / RESULTS).exists() and not (path / IDENTITY).exists():
                raise InputError(f"{path} holds results already: choose another folder, or say to overwrite it")
            if (path / IDENTITY).exists():
                _require_same(path, json.loads(text))
            else:
                write(path / IDENTITY, text, durable=True)
            (path / CELLS).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"the output folder {path} cannot be written: {error.strerror or error}") from error
        return cls(path, about)

    def seconds(self) -> float:
        """What the comparison has taken, with what was run before; looking at what is kept costs nothing."""
        return self._earlier + (time.monotonic() - self._began if self._has_run else 0.0)

    def save(self, task: str, optimizer: str, cell: Cell):
        buffer = io.BytesIO()
        arrays: dict[str, Any] = tree.flatten(cell._asdict())
        np.savez(buffer, **arrays)
        write(self._file(task, optimizer), buffer.getvalue(), durable=True)
        self._note_seconds()

    def load(self, task: str, optimizer: str) -> Cell | None:
        """None where it is not there."""
        file = self._file(task, optimizer)
        if not file.exists():
            return None
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
                return Cell(**tree.unflatten(dict(arrays)))
        except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{file} is damaged ({error}): delete it, and the same command runs its trainings again"
            ) from error

    def save_timing(self, timing: Mapping):
        text = json.dumps({"comparison": self._about, "tasks": timing}, indent=1)
        write(self.folder / TIMING, text, durable=True)
        self._note_seconds()

    def _note_seconds(self):
        self._has_run = True
        write(self.folder / SECONDS, f"{self.seconds():.1f}", durable=True)

    def load_timing(self) -> dict | None:
        file = self.folder / TIMING
        found = json.loads(file.read_text()) if file.exists() else {}
        return found["tasks"] if found.get("comparison") == self._about else None

    def _file(self, task: str, optimizer: str) -> Path:
        # an optimizer's name may be any string; what another comparison left, or still writes, in this folder is not found
        name = hashlib.sha256(f"{self._about} {optimizer}".encode()).hexdigest()[:16]
        return self.folder / CELLS / f"{task}--{name}.npz"


def _require_same(path: Path, about: Mapping):
    try:
        found = json.loads((path / IDENTITY).read_text())
    except ValueError as error:
        raise InputError(f"{path / IDENTITY} is damaged: choose another folder, or say to overwrite it") from error
    differing = differences(found, about)
    if differing:
        raise InputError(
            f"{path} holds another comparison: {'; '.join(differing[:4])}{'; ...' if len(differing) > 4 else ''}. "
            "Choose another folder, or say to overwrite it"
        )


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two nested dicts differ, in words."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = []
        for name in dict.fromkeys([*first, *second]):
            path = f"{where}.{name}" if where else str(name)
            if name not in first or name not in second:
                found.append(f"{path} is only in {'the first' if name in first else 'the second'}")
            else:
                found += differences(first[name], second[name], path)
        return found
    return [] if first == second else [f"{where} is {_short(first)} and {_short(second)}"]


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _describe(factory) -> str:
    """The function's name, and what a `functools.partial` adds to it."""
    inner, added = getattr(factory, "func", None), ""
    if inner is not None:
        named = ", ".join(f"{name}={value!r}" for name, value in sorted(factory.keywords.items()))
        factory, added = inner, f"({', '.join(filter(None, [', '.join(map(repr, factory.args)), named]))})"
    added = re.sub(r" at 0x[0-9a-fA-F]+", "", added)  # where a function lies in memory is new in every process
    return f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__name__)}{added}"


def _hash(arrays) -> str:
    found = hashlib.sha256()
    for array in map(np.asarray, jax.tree.leaves(arrays)):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def _remove(path: Path):
    """What a comparison keeps, and the results that would be taken for those of the next. Its name last: killed before that,
    the folder is still its own."""
    names = (RESULTS, TIMING, SECONDS, IDENTITY)
    parts = [file for name in names for file in path.glob(f"{name}*.part")]
    for file in (*parts, *(path / CELLS).glob("*.npz*"), *(path / name for name in names)):
        file.unlink(missing_ok=True)
