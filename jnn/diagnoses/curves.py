"""Checks of training runs: the learning rate, the loss curve, the size of updates, the gap to validation."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.diagnoses.findings import Finding, unchecked
from jnn.diagnoses.networks import weights
from jnn.optim.averages import eval_params
from jnn.optim.numerics import cast
from jnn.optim.transforms import chain
from jnn.populations import sweep
from jnn.trainings import take, training
from jnn.types import Objective, Optimizer, TrainState

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
OWN = SCALES.index(1.0)
# of the fall of the loss that another learning rate reaches in as many steps
REACHED = 0.5
# "somewhere around 1e-3" (Karpathy, CS231n, Neural networks 3); twenty times more or less is left, as small networks stand it
RATIO = (5e-5, 2e-2)
# of the fall of the training loss, that may be missing on the validation data
GAP = 0.2


class Run(NamedTuple):
    params: Any  # to judge by
    state: Any
    losses: Any  # (steps,), before each update
    ratios: Any  # by weight, (steps,): |update| / |weight|


@lru_cache(maxsize=16)
def _trainer(objective: Objective, optimizer: Optimizer):
    def run(hparams, _, shared) -> Run:
        scale, order = hparams
        params, state, key, data = shared
        scaled = Optimizer(lambda params: (), lambda grads, s, params=None: (_times(scale, grads), s))
        chained = chain(optimizer, scaled)
        train = training(objective, chained)

        def step(before, indices):
            after, metrics = train.step(before, take(data, indices))
            old, new = weights(before.params), weights(after.params)
            return after, (metrics["loss"], {path: _norm(new[path] - old[path]) / _norm(old[path]) for path in old})

        begun = TrainState(params, state, chained.init(params), key, jnp.int32(0))
        end, (losses, ratios) = jax.lax.scan(step, begun, order)
        return Run(eval_params(end.opt_state, end.params), end.state, losses, ratios)

    return run


def runs(objective, optimizer, start, key, data, scales, orders) -> Run:
    """One run for each scale of the updates and order of examples (steps, batch), with a leading axis, all from the parameters
    and state `start`."""
    hparams = jnp.asarray(scales, jnp.float32), jnp.asarray(orders)
    found = sweep(_trainer(objective, optimizer), hparams, seeds=1, data=(*start, key, data))
    return jax.tree.map(lambda a: a[:, 0], found)


def _times(scale, updates):
    return jax.tree.map(lambda u: cast(scale, u) * u, updates)


def _norm(a):
    return jnp.linalg.norm(a.astype(jnp.float32))


def levels(losses) -> np.ndarray:
    """(..., steps) -> (...):  the mean of the last tenth; inf for a run with a loss that is not finite."""
    losses = np.asarray(losses, float)
    tail = losses[..., -max(losses.shape[-1] // 10, 1) :]
    return np.where(np.isfinite(losses).all(-1), np.mean(np.where(np.isfinite(tail), tail, 0.0), axis=-1), np.inf)


def learning_rate(losses) -> Finding:
    """losses: (scales, steps)."""
    ends, begin = levels(losses), float(np.asarray(losses)[OWN, 0])
    falls = np.maximum(begin - ends, 0.0)  # a run that diverges falls nowhere
    best = int(np.argmax(falls))
    name, expected = "learning rate", f"at least {REACHED:g} of the fall of the loss with rates of 0.01 to 100 times it"
    if not math.isfinite(begin):
        return unchecked(name, expected, "the loss is not finite at initialisation")
    if falls[best] <= 0.05 * abs(begin):
        return unchecked(name, expected, "no rate of 0.01 to 100 times it lowers the loss by 5 %")
    reached = float(falls[OWN] / falls[best])
    ok = reached >= REACHED
    side = "too low" if best > OWN else "too high"
    advice = "" if ok else f"{side}: with {SCALES[best]:g} times it the loss ends at {ends[best]:.3g}, not at {ends[OWN]:.3g}"
    return Finding(name, ok, reached, expected, advice)


def verdict(losses) -> str:
    """What the shape of a loss curve (steps,) tells, on the means of twenty parts: "healthy", or a key of `ADVICE`. After
    Karpathy, CS231n, "Neural networks 3: babysitting the learning process"."""
    losses = np.asarray(losses, float)
    if not np.isfinite(losses).all():
        return "diverges"
    parts = np.array([part.mean() for part in np.array_split(losses, min(20, len(losses)))])
    begin, end = max(parts[0], losses[0]), parts[-1]
    if parts.max() > 2 * abs(losses[0]):
        return "diverges" if end > 2 * abs(losses[0]) else "leaps"
    if begin - end < 0.05 * abs(begin):
        return "flat"
    # a wait is a tenth of the steps within 1 % of the level, sudden is 5 % in as long again
    fallen = (parts[0] - parts) / abs(parts[0])
    wait = int(np.argmax(fallen > 0.01))
    if wait >= 2 and fallen[min(2 * wait, len(parts)) - 1] > 0.05:
        return "flat, then sudden"
    if end <= 0.5 * begin:
        return "healthy"
    late = (parts[-len(parts) // 4 - 1] - end) / (begin - end)
    return "falls like a line" if late > 0.15 else "plateau"  # a line would have 0.25


ADVICE = {
    "diverges": "the loss grows: lower the learning rate, or clip the gradients",
    "leaps": "the loss leaps to more than twice its start: lower the learning rate, or warm it up",
    "flat": "the loss hardly falls: the learning rate is too low or much too high, or no gradient arrives",
    "flat, then sudden": "the loss waits, then falls: bad initial weights are the first suspect",
    "falls like a line": "the loss still falls at an even pace: raise the learning rate, or train for longer",
    "plateau": "the loss stays high: lower the learning rate, enlarge the model, or look at the labels",
}


def loss_curve(losses) -> Finding:
    found = verdict(losses)
    share = float(levels(losses) / np.asarray(losses, float)[0])
    expected = "the loss falls soon and below half of its start: the share that is left at the end"
    advice = "" if found == "healthy" else f"{found}: {ADVICE[found]}"
    return Finding("loss curve", found == "healthy", share, expected, advice)


def update_ratio(ratios: dict) -> Finding:
    """ratios: by weight, (steps,)."""
    name, expected = "update ratio", f"|update| / |weight| about 0.001: its median over the steps {RATIO[0]:g} to {RATIO[1]:g}"
    medians = {path: float(np.median(np.nan_to_num(np.asarray(r), nan=np.inf))) for path, r in ratios.items()}
    if not medians:
        return unchecked(name, expected, "the model has no weights")
    worst = max(medians.values(), key=lambda m: abs(math.log(m / 1e-3)) if 0 < m < math.inf else math.inf)
    where = tuple(path for path, median in medians.items() if not RATIO[0] <= median <= RATIO[1])
    side = "raise" if worst < 1e-3 else "lower"
    advice = f"in {', '.join(where)}: {side} the learning rate, or mind the size of the initial weights"
    return Finding(name, not where, worst, expected, advice if where else "", where)


def generalization(begin: float, train: float | None, validation: float | None) -> Finding:
    """Losses at initialisation and, after training, of both parts."""
    name, expected = "validation gap", f"at most {GAP:g} of the fall of the training loss"
    if train is None or validation is None:
        return unchecked(name, expected, "no validation data were given")
    fall = begin - train
    if not math.isfinite(fall) or fall < 0.05 * abs(begin):
        return unchecked(name, expected, "the training loss has not fallen by 5 %")
    gap = (validation - train) / fall
    ok = gap <= GAP
    advice = "" if ok else "the model learns by heart: more data or augmentation, a penalty, dropout, or an earlier stop"
    return Finding(name, ok, gap, expected, advice)
