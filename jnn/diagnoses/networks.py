"""Checks of an objective and its model, before and apart from any training run."""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn import tree
from jnn.diagnoses.findings import Finding, unchecked
from jnn.optim.adaptive import adam
from jnn.pairs import watch
from jnn.populations import sweep
from jnn.trainings import fit, training
from jnn.types import Objective, TrainState

# initialisers presume inputs of mean 0 and variance 1 (LeCun et al. 1998, section 4.3); a factor of ten is left either way
SCALE = (0.1, 10.0)
# in a well initialised network the gradients of all layers vary about alike (Glorot & Bengio 2010, section 4.2.1)
SPREAD = 100.0
# what is more than rounding
LEAK = 1e-5
TINY, TINY_LOSS, TINY_RATES = 20, 0.1, (1e-3, 3e-3, 1e-2, 3e-2)
DEAD, DEAD_SHARE = 1e-6, 0.25


@partial(jax.jit, static_argnums=0)
def start(objective: Objective, params, state, batch) -> dict:
    """Loss, the loss with all parameters zero, and by weight the norms of its gradients, at initialisation."""

    def loss(params):
        return objective.loss(params, state, batch, train=False)[0]

    value, grads = jax.value_and_grad(loss)(params)
    return {
        "loss": value,
        "zero": loss(jax.tree.map(jnp.zeros_like, params)),
        "gradients": {path: jnp.linalg.norm(g.astype(jnp.float32)) for path, g in weights(grads).items()},
    }


def weights(params) -> dict:
    """Parameters by path: those that are matrices, kernels, tables."""
    return {path: leaf for path, leaf in tree.flatten(params).items() if tree.is_weight(path, leaf)}


def loss_at_start(found: dict, classes: int | None, expected_loss) -> Finding:
    loss, zero = float(found["loss"]), float(found["zero"])
    if expected_loss is not None:
        level, why = float(expected_loss), "as given"
    elif math.isfinite(zero) and zero > 0:
        level, why = zero, "as with all parameters zero"
    elif classes:
        level, why = math.log(classes), f"log {classes}"
    else:
        text = "with all parameters zero the loss is not positive and finite: give expected_loss"
        return unchecked("loss at init", "that of equal scores", text)
    known = round(math.exp(min(level, 20.0)))
    # a model may know more classes than the data show; the hinge's 9 of 10 classes is nearly log 8103
    if classes and max(classes, 2) <= known <= 10 * classes and abs(level - math.log(known)) < 1e-4:
        # scores of variance v add v / 2 * (1 - 1 / classes) to the cross-entropy, to second order: here v = 2
        low, high, why = level - (1 - 1 / known), level + (1 - 1 / known), f"log {known}"
    else:  # predictions spread twice as widely as the targets have five times the square of none
        low, high = level / 2, 5 * level
    ok = low <= loss <= high
    side = "smaller weights, above all in the last layer, or inputs of variance 1" if loss > high else "look for a leak"
    advice = "" if ok else f"the model is sure of its answers before it has seen any: {side}"
    return Finding("loss at init", ok, loss, f"{low:.3g} to {high:.3g}, about {level:.4g} ({why})", advice)


def gradients_by_layer(found: dict) -> Finding:
    norms = {path: float(norm) for path, norm in found["gradients"].items()}
    name, expected = "gradients by layer", f"the largest norm at init at most {SPREAD:g} times the smallest"
    if len(norms) < 2:
        return unchecked(name, expected, "the model has fewer than two weights")
    smallest, largest = min(norms.values()), max(norms.values())
    spread = largest / smallest if smallest > 0 else math.inf
    ok = math.isfinite(spread) and spread <= SPREAD
    if ok:
        return Finding(name, ok, spread, expected)
    none = tuple(path for path, norm in norms.items() if not norm > 0)
    where = none or (min(norms, key=norms.__getitem__), max(norms, key=norms.__getitem__))
    what = (
        f"no gradient arrives at {', '.join(none)}"
        if none
        else f"it is {smallest:.2g} at {where[0]}, {largest:.2g} at {where[1]}"
    )
    remedy = "choose the initial weights by the activation (kaiming, xavier), normalise layers or add residual connections"
    return Finding(name, ok, spread, expected, f"{what}: {remedy}", where)


def inputs_scale(objective: Objective, params, state, batch) -> Finding:
    """Of what the first layer with weights is given, as features of the last axis; else of the raw inputs."""
    name, expected = "inputs", f"root mean square of the largest feature {SCALE[0]:g} to {SCALE[1]:g}"
    seen = []

    def note(call):
        x = call.x
        is_concrete = isinstance(x, jax.Array | np.ndarray) and not isinstance(x, Tracer)
        if is_concrete and isinstance(call.params, dict) and weights(call.params):
            seen.append(x)

    with watch(note):
        objective.loss(params, state, batch, train=False)
    leaves = jax.tree.leaves(batch[0] if isinstance(batch, tuple) else batch)
    x = np.asarray(seen[0] if seen else leaves[0])
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return unchecked(name, expected, f"the inputs are {x.dtype}, and no layer with weights is seen that is given others")
    size = np.sqrt(np.mean(np.square(x.astype(np.float64)), axis=tuple(range(x.ndim - 1))))
    largest = float(np.max(size))
    ok = SCALE[0] <= largest <= SCALE[1]  # of NaN as well
    advice = "" if ok else "subtract the mean and divide by the standard deviation of the training inputs"
    return Finding(name, ok, largest, expected, advice)


def unweighted(objective: Objective, params, state, key, batch) -> tuple[str | None, float, float]:
    """Of a batch whose examples all have weight 0: why there is none, its loss, the largest entry of its gradient. With
    dropout or without, the loss of nothing is the penalty."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return "data are not (inputs, targets)", 0, 0
    nothing = (*batch[:2], jnp.zeros(jax.tree.leaves(batch)[0].shape[0]))
    try:
        plain, value, slope = map(float, _of_nothing(objective, params, state, key, nothing))
    except Exception as error:
        return f"the objective takes no weights as a third part of the batch ({type(error).__name__})", 0, 0
    return (None if plain == 0 else "the loss of a batch whose weights are all zero is not zero"), value, slope


@partial(jax.jit, static_argnums=0)
def _of_nothing(objective, params, state, key, nothing):
    def penalty(params):
        return objective.loss(params, state, nothing, key=key, train=True)[0]

    value, grads = jax.value_and_grad(penalty)(params)
    slope = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grads)]))
    return objective.loss(params, state, nothing, train=False)[0], value, slope


def penalty_rises(reason: str | None, value: float, slope: float, loss: float) -> Finding:
    """value, slope: as of `unweighted`. loss: at initialisation."""
    name, expected = "penalty", "above 0, and below the loss at init"
    if reason:
        return unchecked(name, expected, reason)
    if value == 0 and slope == 0:
        return unchecked(name, expected, "the objective has no penalty")
    ok = 0 < value <= loss and slope > 0
    advice = "" if ok else "it lowers the loss: mind its sign" if value < 0 else "it outweighs the loss: make it smaller"
    return Finding(name, ok, value, expected, advice if slope > 0 else "it does not depend on the parameters")


@partial(jax.jit, static_argnums=0)
def influences(objective: Objective, params, state, batch):
    """-> (n, n), the norm of the gradient of example i's loss with respect to example j's input, with train=False."""
    inputs, targets, *_ = batch
    inputs = jax.tree.map(lambda a: a.astype(jnp.float32), inputs)  # pixels as whole numbers have a gradient too
    n = jax.tree.leaves(inputs)[0].shape[0]

    def one(weight):
        grads = jax.grad(lambda x: objective.loss(params, state, (x, targets, weight), train=False)[0])(inputs)
        return sum(jnp.sum(jnp.square(g.reshape(n, -1)), axis=1) for g in jax.tree.leaves(grads))

    return jnp.sqrt(jax.vmap(one)(jnp.eye(n)))


def separate_examples(objective, params, state, batch, reason: str | None) -> Finding:
    """At parameters drawn at random, so that a network of zeros shows it too."""
    name, expected = "separate examples", f"no gradient from one example to another's input (below {LEAK:g} of its own)"
    if reason:
        return unchecked(name, expected, reason)
    rng = np.random.default_rng(0)

    def drawn(p):
        return jnp.asarray(rng.normal(size=p.shape) / math.sqrt(math.prod(p.shape[-2:-1])), p.dtype)

    try:
        found = np.asarray(influences(objective, jax.tree.map(drawn, params), state, batch))
    except Exception as error:
        return unchecked(name, expected, f"there is no gradient with respect to the inputs ({type(error).__name__})")
    if not np.all(np.isfinite(found)) or np.max(found) == 0:
        return unchecked(name, expected, "the gradients with respect to the inputs are zero or not finite")
    others = found * (1 - np.eye(len(found)))
    share = float(np.max(others) / np.max(found))
    i, j = (int(k) for k in np.unravel_index(np.argmax(others), others.shape))
    ok = share <= LEAK
    advice = f"example {i} of a batch reads the input of example {j}: look for a reshape or a mean over the axis of the batch"
    return Finding(name, ok, share, expected, "" if ok else advice, () if ok else (i, j))


@lru_cache(maxsize=16)
def _tiny(objective: Objective, steps: int):
    plain = Objective(objective.init, lambda *args, key=None, train=False: objective.loss(*args, train=False))

    def run(rate, _, shared):
        params, state, key, data = shared
        optimizer = adam(rate)
        start = TrainState(params, state, optimizer.init(params), key, jnp.int32(0))
        return fit(training(plain, optimizer), data, key=key, steps=steps, start=start).history["loss"]

    return run


def tiny_set(objective, params, state, key, data, steps: int, level: float) -> Finding:
    """Without penalty and noise, and by rates of its own: whether the model and its loss can do it, whoever trains it.

    data: those few examples."""
    rates = jnp.array(TINY_RATES)
    losses = np.asarray(sweep(_tiny(objective, steps), rates, seeds=1, data=(params, state, key, data)))
    best = float(np.nanmin(losses)) if np.isfinite(losses).any() else math.inf
    ok = best <= TINY_LOSS * level
    expected = f"a loss of at most {TINY_LOSS * level:.2g} on {len(jax.tree.leaves(data)[0])} examples in {steps} steps"
    advice = (
        ""
        if ok
        else "the model cannot learn so few by heart: mind its size, its initial weights, and that loss and targets fit"
    )
    return Finding("tiny set", ok, best, expected, advice)


@partial(jax.jit, static_argnums=0)
def unit_gradients(objective: Objective, params, state, batch) -> dict:
    """By weight, the norm of each unit's gradient, (units,) or (copies, units) where `repeat` has stacked them.

    Targets are turned by one example, as those that are fitted would give none to any unit."""
    inputs, *rest = batch
    turned = (inputs, *jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), tuple(rest)))
    grads = jax.grad(lambda p: objective.loss(p, state, turned, train=False)[0])(params)

    def norms(path, g):
        stacked = g.ndim - tree.rank(path, g)
        return jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32)), axis=tuple(range(stacked, g.ndim - 1))))

    return {path: norms(path, g) for path, g in weights(grads).items()}


def dead_units(found: dict) -> Finding:
    """A unit whose weights get no gradient from any example moves no more: a relu that is never on, a tanh in saturation."""
    name, expected = "dead units", f"at most {DEAD_SHARE:g} of a layer's without gradient after training"
    if not found:
        return unchecked(name, expected, "the model has no weights")
    units = {path: np.asarray(norms) for path, norms in found.items()}
    if not all(np.isfinite(norms).all() for norms in units.values()):
        return unchecked(name, expected, "the gradients after training are not finite")
    shares = {path: float(np.mean(norms <= DEAD * norms.max())) for path, norms in units.items()}
    where = tuple(path for path, share in shares.items() if share > DEAD_SHARE)
    worst = max(shares.values())
    advice = f"in {', '.join(where)}: lower the learning rate, mind initial biases, or use a leaky relu"
    return Finding(name, not where, worst, expected, advice if where else "", where)


@partial(jax.jit, static_argnums=0)
def class_losses(objective: Objective, params, state, inputs, classes):
    """Each of k models on its own examples (k, n, ...) -> (k, n, classes), the loss under each label."""

    def one(params, state, x, c):
        example = jax.tree.map(lambda a: a[None], (x, c))
        return objective.loss(params, state, example, train=False)[0]

    each_class = jax.vmap(one, (None, None, None, 0))
    each = jax.vmap(each_class, (None, None, 0, None))
    return jax.lax.map(lambda model: each(model[0], model[1], model[2], classes), (params, state, inputs))
