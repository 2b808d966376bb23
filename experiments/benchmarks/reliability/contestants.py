"""One small training with checkpoints every three steps, by `jnn.run` and by Orbax alone."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jnn
from jnn import checkpoints, tree
from jnn.checkpoints import CheckpointError, Checkpoints

EVERY, KEEP, BATCH = 3, 2, 8


class Contestant(NamedTuple):
    """A way to train with checkpoints in a folder."""

    train: Callable[[Path | None, int], str]  # folder, steps -> digest of the end; the same folder again goes on
    whole: Callable[[Path], list[int]]  # steps of the checkpoints that can be loaded, ascending
    there: Callable[[Path], list[int]]  # and of those that are there
    reached: Callable[[Path], int]  # the last step that was taken, as a log tells
    load: Callable[[Path, int], str]  # -> digest of one checkpoint; raises what a user would see
    place: Callable[[Path, int], Path]  # of one checkpoint


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 6)).astype(np.float32), rng.integers(0, 3, 64).astype(np.int32)


MODEL = jnn.serial(jnn.dense(16), jax.nn.relu, jnn.batch_norm(), jnn.dropout(0.2), jnn.dense(3))
OBJECTIVE = jnn.supervised(MODEL, jnn.losses.softmax_cross_entropy)
TRAINING = jnn.training(OBJECTIVE, jnn.optim.adam(0.01))


def digest(found) -> str:
    """Of every bit of a tree of arrays."""
    total = hashlib.sha256()
    for path, leaf in sorted(tree.flatten(found).items()):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def _jnn_train(folder: Path | None, steps: int) -> str:
    kept = folder and Checkpoints(folder, every=EVERY, keep=KEEP)
    options = {"batch_size": BATCH, "segment": EVERY, "checkpoint": kept, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of damaged checkpoints that were passed over
        found = jnn.run(TRAINING, data(), key=jax.random.key(0), steps=steps, **options)
    return digest({"state": found.train_state._asdict(), "history": found.history})


def _jnn_whole(folder: Path) -> list[int]:
    found = []
    for step in checkpoints.steps(folder):
        try:
            checkpoints.verify(checkpoints.at(folder, step))
            found.append(step)
        except CheckpointError:
            pass
    return found


def _jnn_reached(folder: Path) -> int:
    log = folder / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def _jnn_load(folder: Path, step: int) -> str:
    return digest(checkpoints.load(checkpoints.at(folder, step)).tree)


def _manager(folder: Path):
    import orbax.checkpoint as ocp

    return ocp.CheckpointManager(folder / "steps", options=ocp.CheckpointManagerOptions(max_to_keep=KEEP))


@jax.jit
def _segment(data, key, state):
    fitted = jnn.fit(TRAINING, data, key=key, steps=EVERY, batch_size=BATCH, start=state)
    return fitted.train_state, fitted.history["loss"]


def _orbax_train(folder: Path | None, steps: int) -> str:
    import orbax.checkpoint as ocp

    key = jax.random.key(0)
    state = jnn.fit(TRAINING, data(), key=key, steps=0, batch_size=BATCH).train_state
    loss = np.zeros(0, np.float32)
    if folder is None:
        while int(state.step) < steps:
            state, more = _segment(data(), key, state)
            loss = np.concatenate([loss, more])
        return digest({"state": state._asdict(), "loss": loss})
    folder.mkdir(parents=True, exist_ok=True)
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is not None:
            found = manager.restore(step, args=ocp.args.StandardRestore())
            leaves, form = jax.tree.flatten(state._replace(key=None))
            leaves = [jax.numpy.asarray(found["state"][str(i)]) for i in range(len(leaves))]
            state = jax.tree.unflatten(form, leaves)._replace(key=jax.random.wrap_key_data(found["key"]))
            loss = found["loss"]
        while int(state.step) < steps:
            state, more = _segment(data(), key, state)
            loss = np.concatenate([loss, more])
            with open(_log(folder), "a") as log:
                log.write(f"{int(state.step)}\n")
            leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state._replace(key=None)))}
            kept = {"state": leaves, "key": jax.random.key_data(state.key), "loss": loss}
            manager.save(int(state.step), args=ocp.args.StandardSave(kept))
        manager.wait_until_finished()
    return digest({"state": state._asdict(), "loss": loss})


def _log(folder: Path) -> Path:
    """Outside the folder: it is no part of what is tested."""
    return folder.with_name(f"{folder.name}.reached")


def _orbax_there(folder: Path) -> list[int]:
    there = (folder / "steps").iterdir() if (folder / "steps").exists() else ()
    return sorted(int(path.name) for path in there if path.name.isdecimal())


def _orbax_whole(folder: Path) -> list[int]:
    found = []
    for step in _orbax_there(folder):
        try:
            _orbax_load(folder, step)
            found.append(step)
        except Exception:
            pass
    return found


def _orbax_reached(folder: Path) -> int:
    log = _log(folder)
    numbers = re.findall(r"(\d+)\n", log.read_text()) if log.exists() else []
    return int(numbers[-1]) if numbers else 0


def _orbax_load(folder: Path, step: int) -> str:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        return digest(checkpointer.restore((_orbax_place(folder, step) / "default").absolute()))


def _orbax_place(folder: Path, step: int) -> Path:
    return folder / "steps" / str(step)


CONTESTANTS = {
    "jnn": Contestant(_jnn_train, _jnn_whole, checkpoints.steps, _jnn_reached, _jnn_load, checkpoints.at),
    "orbax": Contestant(_orbax_train, _orbax_whole, _orbax_there, _orbax_reached, _orbax_load, _orbax_place),
}
