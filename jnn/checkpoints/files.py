"""One checkpoint: a tree of arrays in a folder, complete or not there."""

import difflib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jnn import tree as trees
from jnn.checkpoints import arrays, manifests, processes
from jnn.checkpoints.manifests import CheckpointError, DamagedError, Manifest


class Report(NamedTuple):
    """How a checkpoint differs from the tree that it is loaded into, by path."""

    added: list[str]  # in the tree and not in the checkpoint
    missing: list[str]  # in the checkpoint and not in the tree
    changed: list[str]  # of another shape or dtype: "dense_0/w: float32 (3, 2) here, float32 (3, 4) in the checkpoint"

    def __str__(self) -> str:
        rows = (("not in the checkpoint", self.added), ("in the checkpoint alone", self.missing), ("changed", self.changed))
        return "\n".join(f"  {title}: {path}" for title, paths in rows for path in paths) or "  no difference"


class Loaded(NamedTuple):
    """What a checkpoint holds, in the form of the tree that was asked for."""

    tree: Any
    about: dict[str, Any]
    report: Report


def save(folder: str | os.PathLike, tree, about: Mapping[str, Any] = {}) -> Manifest:
    """Writes a tree of arrays to a new folder; it is on the disk, with a manifest and checksums, when this returns.

    tree: arrays of any dtype, random keys included, on one device or many, and Python's numbers. about: what JSON holds.
    A process that is killed leaves a folder without a manifest, which `load` refuses. Raises CheckpointError where the folder
    exists and is not empty; TypeError for what is no array; ValueError for what is no JSON; OSError for a full disk. Of several
    processes all call it, each writes what lies on its devices, and the first the manifest when all have."""
    import orbax.checkpoint as ocp

    folder = Path(folder)
    if processes.of_all(folder.exists() and any(folder.iterdir()))[0]:
        raise CheckpointError(f"{folder} exists: a checkpoint wants a folder of its own")
    entries = arrays.described(tree)
    manifests.require_json(about)
    manifests.make_folder(folder)
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arrays.write(checkpointer, folder / "arrays", tree)
    if processes.is_first():
        manifests.seal(folder, entries, about)
    processes.of_all(0)  # none goes on before that
    return manifests.read(folder)


def load(folder: str | os.PathLike, like=None, *, partial: bool = False) -> Loaded:
    """-> (tree, about, report) of a checkpoint, every byte of it compared with its checksum.

    like: a tree of arrays or shapes (`jax.eval_shape`), whose form, dtypes and shardings the result takes, whatever the
        devices on which it was saved; of numpy where jax would round, as float64 without x64. None for a nested dict of numpy
        arrays.
    partial: loads what fits and leaves the rest as it is in `like`, which holds arrays then; the report names it.

    Raises CheckpointError where the checkpoint is incomplete, or damaged: it names the file. And where it is that of another
    model, naming all paths that were added, are missing or have another shape or dtype."""
    folder = Path(folder)
    manifest = _verified(folder)
    if like is None:
        found = arrays.read(folder / "arrays", dict.fromkeys(manifest.arrays), manifest.arrays)
        return Loaded(trees.unflatten(found), manifest.about, Report([], [], []))
    wanted, flat = arrays.described(like), trees.flatten(like)
    report = compared(wanted, manifest.arrays)
    fitting = {path: leaf for path, leaf in flat.items() if wanted[path] == manifest.arrays.get(path)}
    if any(report) and not partial:
        raise CheckpointError(f"{folder} is the checkpoint of another model (partial=True loads what fits):\n{report}")
    shapes = [path for path in flat if path not in fitting and isinstance(flat[path], jax.ShapeDtypeStruct)]
    if shapes:
        raise CheckpointError(f"{folder} has no {shapes[0]} that fits, and `like` holds its shape alone: give arrays")
    found = flat | arrays.read(folder / "arrays", fitting, manifest.arrays)
    return Loaded(jax.tree.unflatten(jax.tree.structure(like), list(found.values())), manifest.about, report)


def compared(wanted: Mapping[str, dict], there: Mapping[str, dict]) -> Report:
    """Of the entries of two trees, as `arrays.described` gives them."""
    missing = [path for path in there if path not in wanted]
    added = []
    for path in (path for path in wanted if path not in there):
        # of the first ones alone: between two models of 1,000 arrays it is a matter of 10 seconds
        near = difflib.get_close_matches(path, missing, n=1, cutoff=0.6) if len(added) < 20 else ()
        added.append(f"{path} (the checkpoint has {near[0]})" if near else path)
    changed = [
        f"{path}: {_text(wanted[path])} here, {_text(there[path])} in the checkpoint"
        for path in wanted
        if path in there and wanted[path] != there[path]
    ]
    return Report(added, missing, changed)


def is_complete(folder: Path) -> bool:
    """Whether it was written to its end; not whether it is still whole."""
    return (folder / manifests.NAME).exists()


def remove(folder: Path) -> None:
    """The manifest first: a folder half removed is no checkpoint."""
    (folder / manifests.NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _verified(folder: Path) -> Manifest:
    """By the first process for all of them: they go on together, or none does."""
    damage = None
    if processes.is_first():
        try:
            manifests.verify(folder)
        except CheckpointError as error:
            damage = error
    if processes.of_all(damage is not None)[0]:
        raise damage or DamagedError(f"{folder} is not whole, as process 0 has found")
    return manifests.read(folder)


def _text(entry: dict) -> str:
    kind = f"keys of {entry['key']}" if "key" in entry else entry["dtype"]
    return f"{kind} ({', '.join(map(str, entry['shape']))})"
