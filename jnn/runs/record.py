"""What a run has done so far, in a form that a checkpoint keeps."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from jnn import tree as trees
from jnn.checkpoints import CheckpointError, Manifest
from jnn.checkpoints.manifests import versions


class Record:
    """The history of a run: metrics of each step, evaluations, the steps that were skipped."""

    def __init__(self):
        self.parts: dict[str, list] = {"steps": [], "eval": [], "skipped": []}

    def add(self, name: str, values) -> None:
        """values: a pytree of arrays with a leading axis: of steps, of evaluations."""
        self.parts[name].append(jax.tree.map(np.asarray, values))

    def whole(self, name: str):
        """All that was added, as one; None where nothing was."""
        if not self.parts[name]:
            return None
        if len(self.parts[name]) > 1:
            self.parts[name] = [jax.tree.map(lambda *pieces: np.concatenate(pieces), *self.parts[name])]
        return self.parts[name][0]

    def tree(self) -> dict[str, Any]:
        return {name: found for name in self.parts if (found := self.whole(name)) is not None}

    def history(self) -> dict[str, Any]:
        """As `jnn.fit` gives it."""
        evaluations = self.whole("eval")
        return {**(self.whole("steps") or {}), **({} if evaluations is None else {"eval": evaluations})}

    def ranked(self, name: str, largest: bool) -> list[int]:
        """The evaluations, the best `name` ("eval/loss") first, of equal ones the first; without those that are NaN."""
        if self.whole("eval") is None:
            return []
        values = self.of_evaluations(name)
        order = np.argsort(-values if largest else values, kind="stable")
        return [int(i) for i in order if not np.isnan(values[i])]

    def best(self, name: str, largest: bool) -> int:
        return (self.ranked(name, largest) or [0])[0]

    def of_evaluations(self, name: str) -> np.ndarray:
        found = {f"eval/{path}": values for path, values in trees.flatten(self.whole("eval")).items()}
        require_metric(found, name)
        return found[name]


def require_metric(found: Collection[str], name: str) -> None:
    if name not in found:
        raise ValueError(f"run: there is no metric {name!r}; evaluations have {', '.join(sorted(found))}")


def like(manifest: Manifest, train_state) -> dict[str, Any]:
    """What to load: a train_state of this form, and whatever of a record is there."""
    there: Mapping[str, dict] = manifest.arrays
    record = {path: entry for path, entry in there.items() if path.partition("/")[0] in Record().parts}
    # of one number each: the memory is that of what is loaded
    arrays = {path: np.broadcast_to(np.zeros((), entry["dtype"]), entry["shape"]) for path, entry in record.items()}
    return {"train_state": train_state, **trees.unflatten(arrays)}


def require_same(manifest: Manifest, about: Mapping[str, Any], folder) -> None:
    """Raises CheckpointError where a checkpoint is that of a run with other arguments, and warns where it is one of other
    versions of jnn and jax."""
    there = manifest.about.get("run")
    if not isinstance(there, dict) or "position" not in manifest.about:
        raise CheckpointError(f"run: the checkpoints in {folder} are not those of a run; give another folder")
    for name in {**about, **there}:
        was, value = there.get(name), about.get(name)
        if was != value:
            raise CheckpointError(
                f"run: the checkpoints in {folder} are of another run: its {name} was {was}, here it is {value}; "
                "give another folder, or the same arguments to go on"
            )
    if manifest.versions != (here := versions()):
        was, now = (", ".join(f"{name} {version}" for name, version in found.items()) for found in (manifest.versions, here))
        text = f"run: the checkpoints in {folder} are of {was}, and {now} may round otherwise"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
