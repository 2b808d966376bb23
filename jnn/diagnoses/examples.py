"""Checks of the data themselves: balance, copies, labels."""

from typing import Any

import jax
import numpy as np

from jnn.diagnoses.findings import Finding, unchecked

# a classifier that never says the rarer of two such classes is 91 % right
RATIO = 10.0
# what a hundredth of the examples can move a share of right answers by: about what separates neighbours in a table of results
SHARED = 0.01
# the worst of ten well-known test sets has 10 %, their mean is 3 % (Northcutt, Athalye & Mueller 2021, table 1); half as much
# again is left for classes that overlap, and for the errors of the models that judge
SUSPECT = 0.15
# where models know less, or have seen less, their own errors are most of what they contradict
KNOWN, PER_CLASS = 0.25, 30


def class_labels(targets) -> np.ndarray | None:
    """Targets as class numbers (n,), or None where they are none."""
    leaves = jax.tree.leaves(targets)
    is_by_index = len(leaves) == 1 and np.ndim(leaves[0]) == 1 and np.issubdtype(leaves[0].dtype, np.integer)
    return np.asarray(leaves[0]) if is_by_index and len(leaves[0]) and np.min(leaves[0]) >= 0 else None


def balance(labels: np.ndarray | None) -> Finding:
    """The largest class against the smallest."""
    name, expected = "class balance", f"the largest class at most {RATIO:g} times the smallest"
    if labels is None:
        return unchecked(name, expected, "the targets are no class numbers (n,)")
    counts = np.bincount(labels)
    ratio = float(counts.max() / counts.min()) if counts.min() else float("inf")
    rare = tuple(int(i) for i in np.flatnonzero(counts.max() > RATIO * counts))
    advice = (
        f"classes {', '.join(map(str, rare))} have {', '.join(str(counts[i]) for i in rare)} examples of {len(labels)}: weight "
        "their losses, draw them more often, and judge by the accuracy of each class"
    )
    return Finding(name, not rare, ratio, expected, advice if rare else "", rare)


def rows(inputs: Any) -> np.ndarray:
    """A pytree of arrays (n, ...) -> (n,), the bytes of each example."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
    flat = [np.ascontiguousarray(leaf.reshape(len(leaf), -1)).view(np.uint8) for leaf in leaves]
    joined = np.ascontiguousarray(np.concatenate(flat, axis=1))
    return joined.view(f"V{joined.shape[1]}")[:, 0]


def duplicates(inputs) -> Finding:
    """Inputs that have come before, byte by byte."""
    found = rows(inputs)
    _, first, group = np.unique(found, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[group] != np.arange(len(found)))
    share = len(again) / len(found)
    advice = f"{len(again)} examples are copies of earlier ones: leave them out, or count them once"
    return _copies("duplicates", share, "of the training inputs are copies of others", advice, again)


def shared(inputs, validation_inputs) -> Finding:
    """Validation inputs that are in the training data too."""
    if validation_inputs is None:
        return unchecked("shared examples", _at_most("of the validation inputs"), "no validation data were given")
    known = np.flatnonzero(np.isin(rows(validation_inputs), rows(inputs)))
    count = len(jax.tree.leaves(validation_inputs)[0])
    advice = f"{len(known)} validation examples are in the training data: remove copies before the data are split"
    return _copies("shared examples", len(known) / count, "of the validation inputs", advice, known)


def _at_most(what: str) -> str:
    return f"at most {SHARED:g} {what}"


def _copies(name, share, what, advice, where) -> Finding:
    ok = share <= SHARED
    return Finding(name, ok, share, _at_most(what), "" if ok else advice, tuple(map(int, where)))


def probabilities(losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, classes), (n,) -> (n, classes), softmax(-losses / T), with the temperature T that makes the labels most likely (Guo,
    Pleiss, Sun & Weinberger 2017, section 4.2): models trained to a loss of zero are too sure.

    losses: of each example under each label, which for cross-entropy are the negative logarithms of probabilities."""
    losses = np.asarray(losses, float)
    scores = np.min(losses, axis=1, keepdims=True) - losses

    def log_p(temperature):
        scaled = scores / temperature
        return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))

    tried = [log_p(temperature) for temperature in np.geomspace(0.05, 50, 61)]
    likelihoods = [p[np.arange(len(labels)), labels].mean() for p in tried]
    return np.exp(tried[int(np.argmax(likelihoods))])


def suspects(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, classes), (n,) -> the examples whose label is confidently contradicted, the worst first.

    p: probabilities from models that have not seen the example. Confident learning (Northcutt, Jiang & Chuang 2021, section
    3.1): where the most probable class of those that are at least as probable as they are on average for the examples labelled
    so is another than the label."""
    classes = p.shape[1]
    usual = np.array([p[labels == c, c].mean() if np.any(labels == c) else np.inf for c in range(classes)])
    confident = np.where(p >= usual, p, -1.0)
    other = np.argmax(confident, axis=1)
    example = np.arange(len(labels))
    disagree = (confident[example, other] >= 0) & (other != labels)
    margin = p[example, other] - p[example, labels]
    return np.flatnonzero(disagree)[np.argsort(-margin[disagree], kind="stable")]


def label_finding(losses, labels, index, begin: float) -> Finding:
    """index: where the examples stand in the data. begin: the loss at initialisation."""
    classes = losses.shape[1]
    own = np.median(losses[np.arange(len(labels)), labels])
    if len(labels) < PER_CLASS * classes:
        return unchecked(*LABELS, f"{len(labels)} examples of {classes} classes are too few: {PER_CLASS} of each are needed")
    if not own <= KNOWN * begin:
        reason = f"half of the examples held out have a loss above {own:.2g}, of {begin:.2g} at init: too much is unknown"
        return unchecked(*LABELS, reason)
    found = suspects(probabilities(losses, labels), labels)
    share = len(found) / len(labels)
    ok = share <= SUSPECT
    worst = ", ".join(str(int(i)) for i in index[found[:5]])
    advice = (
        f"{len(found)} of {len(labels)} labels are contradicted with confidence by models that have not seen them, first "
        f"those of {worst}: look at these; errors of the model itself count too"
    )
    return Finding(LABELS[0], ok, share, LABELS[1], "" if ok else advice, tuple(map(int, index[found])))


LABELS = ("labels", f"at most {SUSPECT:g} contradicted in cross-validation")
