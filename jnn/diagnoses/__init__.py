"""A first look at an objective, its data and its optimizer: what the books say to check before and while training."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jnn.data.orders import folds
from jnn.diagnoses import curves, examples, networks
from jnn.diagnoses.findings import Diagnosis, Finding, unchecked
from jnn.numbers import whole
from jnn.optim.adaptive import adam
from jnn.trainings import count_examples, evaluate
from jnn.types import Objective, Optimizer

__all__ = ["Diagnosis", "Finding", "diagnose"]

DEFAULT = adam(1e-3)
LOOK = 256  # examples for a look at gradients and inputs
FOLDS, CROSS = 5, 2000  # and examples, of cross-validation


def diagnose(
    objective: Objective,
    data,
    *,
    key,
    validation=None,
    optimizer: Optimizer = DEFAULT,
    steps: int = 300,
    batch_size: int = 32,
    expected_loss: float | None = None,
) -> Diagnosis:
    """Checks what goes wrong most often, by short training runs: print the result.

        diagnosis = jnn.diagnose(objective, (images, labels), key=key, validation=(others, theirs))
        print(diagnosis)
        diagnosis.problems

    data, validation: batches of all examples, (inputs, targets).
    optimizer, steps, batch_size: of the run that is judged; long enough for the loss to fall to half.
    expected_loss: of a model that prefers no answer; by default what the loss is with all parameters zero: log(classes) for
        softmax cross-entropy, classes - 1 for the hinge.

    Returns Diagnosis(findings): each Finding has a name, ok (None where it was not checked, with the reason as advice), the
    measured number, what is expected, advice, and where: the parameters or examples that it is about.

    - class balance, duplicates, shared examples (of training and validation): of the data alone.
    - inputs: their scale as the first layer with weights is given them.
    - loss at init, and gradients by layer there.
    - penalty: it adds to the loss, and not more than the loss itself.
    - separate examples: the gradient of one example's loss with respect to another's input is zero, with train=False.
    - tiny set: 20 examples are learned by heart without penalty and noise, by Adam at the best of four rates.
    - learning rate: as the loss falls with updates of 0.01, 0.1, 1, 10 and 100 times their size.
    - loss curve: its shape. update ratio: |update| / |weight| of each weight. dead units: those without gradient at the end,
      from training and validation examples.
    - validation gap: of the losses after training.
    - labels: contradicted with confidence by models of five-fold cross-validation (Northcutt, Jiang & Chuang 2021). Classes
      that overlap look the same.

    Thresholds stand with their reasons in `jnn.diagnoses`. Ten runs of `steps` steps and four of the tiny set are trained, side
    by side. Raises ValueError for leading axes that differ.
    """
    objective, optimizer = Objective(*objective), Optimizer(*optimizer)
    steps = whole("diagnose", "steps", steps, 20)
    batch_size = whole("diagnose", "batch_size", batch_size)
    n = count_examples(data, "diagnose")
    if n < 2 * FOLDS:
        raise ValueError(f"diagnose: expected at least {2 * FOLDS} examples, got {n}")
    m = 0 if validation is None else count_examples(validation, "diagnose")
    init_key, run_key, fold_key = jax.random.split(key, 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    (inputs, targets), (known, _) = _parts(data), _parts(validation)
    labels = None if targets is None else examples.class_labels(targets)
    look = _some(data, rng.permutation(n)[:LOOK])
    tiny, few = (jax.tree.map(lambda a, size=size: a[:size], look) for size in (networks.TINY, 8))

    start = params, state = jax.jit(objective.init)(init_key, look)
    begun = jax.tree.map(float, networks.start(objective, params, state, look))
    begin, zero = begun["loss"], begun["zero"]
    reason, value, slope = networks.unweighted(objective, params, state, run_key, few)
    order = _order(rng, steps, n, min(batch_size, n // 2))
    tried = curves.runs(objective, optimizer, start, run_key, data, curves.SCALES, np.stack([order] * len(curves.SCALES)))
    own = jax.tree.map(lambda a: a[curves.OWN], tried)
    # a relu that few training examples happen not to switch on is none that is dead
    others = None if validation is None else _some(validation, np.random.default_rng(0).permutation(m)[:LOOK])
    ends = _score(objective, own, data), None if validation is None else _score(objective, own, validation)

    return Diagnosis(
        (
            examples.balance(labels),
            examples.duplicates(inputs),
            examples.shared(inputs, known),
            networks.inputs_scale(objective, params, state, look),
            networks.loss_at_start(begun, None if labels is None else int(labels.max()) + 1, expected_loss),
            networks.gradients_by_layer(begun),
            networks.penalty_rises(reason, value, slope, begin),
            networks.separate_examples(objective, params, state, few, reason),
            networks.tiny_set(objective, params, state, run_key, tiny, steps, zero if 0 < zero < math.inf else begin),
            curves.learning_rate(tried.losses),
            curves.loss_curve(own.losses),
            curves.update_ratio(own.ratios),
            networks.dead_units(_unit_gradients(objective, own, look, others)),
            curves.generalization(begin, *ends),
            _labels(objective, optimizer, start, fold_key, rng, data, labels, tried.losses, order.shape, begin),
        )
    )


def _parts(data) -> tuple:
    """-> inputs, targets; the latter None where there are none."""
    return (data[0], data[1]) if isinstance(data, tuple | list) and len(data) >= 2 else (data, None)


def _some(data, index):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[index]), data)


def _order(rng, steps, n, batch_size) -> np.ndarray:
    """-> int32 (steps, batch_size), one permutation after the other."""
    epochs = [rng.permutation(n) for _ in range(-(-steps * batch_size // n))]
    return np.concatenate(epochs)[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def _score(objective, run, data) -> float:
    return float(evaluate(objective, run.params, run.state, data, batch_size=LOOK)["loss"])


def _unit_gradients(objective, run, *batches) -> dict:
    """By weight, the norm of each unit's gradient: the sum over training and validation batches."""
    given = [batch for batch in batches if isinstance(batch, tuple | list)]
    found = [networks.unit_gradients(objective, run.params, run.state, batch) for batch in given]
    return {path: sum(each[path] for each in found) for path in found[0]} if found else {}


def _labels(objective, optimizer, start, key, rng, data, labels, losses, shape, begin) -> Finding:
    """By the rate of learning that was found best, so that a bad one does not hide bad labels."""
    if labels is None:
        return unchecked(*examples.LABELS, "the targets are no class numbers (n,)")
    index = rng.permutation(len(labels))[:CROSS]
    train, held = (index[np.asarray(part)] for part in folds(len(index), FOLDS, key=key))
    steps, batch_size = shape
    order = _order(rng, steps, train.shape[1], batch_size)
    scale = curves.SCALES[int(np.argmin(curves.levels(losses)))]
    runs = curves.runs(objective, optimizer, start, key, data, [scale] * FOLDS, train[:, order])
    classes = jnp.asarray(np.arange(labels.max() + 1, dtype=labels.dtype))
    found = networks.class_losses(objective, runs.params, runs.state, _some(data[0], held), classes)
    return examples.label_finding(np.concatenate(np.asarray(found)), labels[held.ravel()], held.ravel(), begin)
