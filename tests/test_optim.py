"""Every optimizer is a row of CASES, and every property below holds for every row."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import jnn
from jnn import optim, schedules
from jnn.optim.transforms import AccumulateState


class Case(NamedTuple):
    name: str
    make: Callable
    oracle: Callable  # the same from optax, or from the formula
    hyperparameters: dict[str, float]  # all that are real numbers
    # learning rates for a thousand steps on the problems below; where steps are of one size whatever the gradient, small enough
    # that they do not yet jump about the minimum, which makes a rounding error a hundred times larger every few steps
    rates: dict[str, float]
    scheduled: Callable | None = None  # the oracle whose numbers are schedules, where inject_hyperparams(oracle) is not


def velocity_of_steps(learning_rate, momentum=0.9):
    """v = rho v - lr g: optax's trace, of gradients that the learning rate has scaled"""
    return optax.chain(optax.scale(-learning_rate), optax.trace(momentum))


def nesterov_of_schedules(learning_rate, momentum):
    def make(learning_rate, momentum, next_momentum):
        def update(grads, v, params=None):
            v = jax.tree.map(lambda v, g: momentum * v - learning_rate * g, v, grads)
            return jax.tree.map(lambda v, g: next_momentum * v - learning_rate * g, v, grads), v

        return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)

    return optax.inject_hyperparams(make)(learning_rate, momentum, lambda step: momentum(step + 1))


def adagrad_of_the_course(learning_rate, eps=1e-7):
    """r = r + g^2, u = -lr / (delta + sqrt(r)) g: Goodfellow et al. 2016, algorithm 8.4"""

    def update(grads, r, params=None):
        r = jax.tree.map(lambda r, g: r + g * g, r, grads)
        return jax.tree.map(lambda r, g: -learning_rate / (eps + jnp.sqrt(r)) * g, r, grads), r

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def jacobs(learning_rate, increase=0.05, decrease=0.95, low=0.1, high=10.0, decay=0.0):
    """Jacobs 1988, eq. 4 and 5, of gains"""

    def init(params):
        return jax.tree.map(jnp.ones_like, params), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        gains, bars = state
        gains = jax.tree.map(
            lambda gain, bar, g: jnp.select([bar * g > 0, bar * g < 0], [gain + increase, gain * decrease], gain),
            gains,
            bars,
            grads,
        )
        gains = jax.tree.map(lambda gain: jnp.minimum(jnp.maximum(gain, low), high), gains)
        bars = jax.tree.map(lambda bar, g: (1 - decay) * g + decay * bar, bars, grads)
        return jax.tree.map(lambda gain, g: -learning_rate * gain * g, gains, grads), (gains, bars)

    return optax.GradientTransformation(init, update)


def optax_muon(learning_rate, momentum=0.95, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8):
    """optax's for the matrices; its own choice for the rest is Adam with Nesterov's momentum, ours is AdamW"""
    matrices = optax.contrib.muon(learning_rate, beta=momentum, weight_decay=weight_decay, eps=eps)
    rest = optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=lambda p: jax.tree.map(lambda a: False, p))
    label = lambda a: "matrix" if a.ndim == 2 and a.size else "rest"
    return optax.multi_transform({"matrix": matrices, "rest": rest}, lambda params: jax.tree.map(label, params))


def optax_max_norm(learning_rate, limit=1.5):
    """sgd, and columns of what is longer than `limit` scaled down to it"""

    def step(p, g):
        moved = p - learning_rate * g
        if p.ndim < 2:
            return moved - p
        norm = jnp.linalg.norm(moved, axis=0)
        return moved * jnp.where(norm > limit, limit / norm, 1.0) - p

    return optax.stateless(lambda grads, params: jax.tree.map(step, params, grads))


def row(name, make, oracle, numbers, rates, scheduled=None):
    """numbers: those beside the learning rate"""
    return Case(
        name,
        make,
        oracle,
        {"learning_rate": 0.1, **numbers},
        dict(zip(("rosenbrock", "quadratic", "network", "convex"), rates, strict=True)),
        scheduled,
    )


CASES = [
    row("sgd", optim.sgd, optax.sgd, {}, (1e-3, 1e-3, 0.1, 0.5)),
    row(
        "momentum",
        optim.momentum,
        partial(optax.sgd, momentum=0.9),
        {"momentum": 0.8},
        (2e-4, 1e-3, 0.1, 0.2),
        optax.inject_hyperparams(velocity_of_steps),
    ),
    row(
        "nesterov",
        optim.nesterov,
        partial(optax.sgd, momentum=0.9, nesterov=True),
        {"momentum": 0.8},
        (2e-4, 5e-4, 0.1, 0.2),
        nesterov_of_schedules,
    ),
    row(
        "adagrad",
        optim.adagrad,
        lambda learning_rate, initial_accumulator=0.1, eps=1e-7: optax.adagrad(learning_rate, initial_accumulator, eps),
        {"initial_accumulator": 0.2, "eps": 1e-2},
        (0.5, 0.5, 0.1, 1.0),
    ),
    row(
        "adagrad from zero, epsilon outside the root",
        partial(optim.adagrad, initial_accumulator=0.0, eps_in_sqrt=False),
        adagrad_of_the_course,
        {"eps": 1e-2},
        (0.5, 0.5, 0.1, 0.5),
    ),
    row("rmsprop", optim.rmsprop, optax.rmsprop, {"decay": 0.8, "eps": 1e-2}, (1e-3, 5e-4, 5e-4, 0.05)),
    row(
        "rmsprop, epsilon outside the root",
        partial(optim.rmsprop, eps=1e-3, eps_in_sqrt=False),
        partial(optax.rmsprop, eps=1e-3, eps_in_sqrt=False),
        {"decay": 0.8, "eps": 1e-2},
        (5e-4, 5e-4, 3e-4, 0.05),
    ),
    row("adam", optim.adam, optax.adam, {"b1": 0.8, "b2": 0.95, "eps": 1e-3}, (1e-2, 0.05, 0.01, 0.1)),
    row(
        "adamw",
        optim.adamw,
        optax.adamw,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3},
        (1e-2, 0.05, 0.01, 0.1),
    ),
    row("lion", optim.lion, optax.lion, {"b1": 0.8, "b2": 0.95, "weight_decay": 0.3}, (1e-3, 0.01, 1e-3, 0.05)),
    row(
        "delta_bar_delta",
        optim.delta_bar_delta,
        jacobs,
        {"increase": 0.4, "decrease": 0.5, "low": 0.6, "high": 1.5, "decay": 0.6},
        (2e-4, 1e-3, 0.05, 0.2),
    ),
    row(
        "muon",
        optim.muon,
        optax_muon,
        {"momentum": 0.8, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-3},
        (1e-2, 3e-3, 3e-3, 0.1),
    ),
    row(
        "clip_by_global_norm and sgd",
        lambda learning_rate, limit=1.0: optim.chain(optim.clip_by_global_norm(limit), optim.sgd(learning_rate)),
        lambda learning_rate, limit=1.0: optax.chain(optax.clip_by_global_norm(limit), optax.sgd(learning_rate)),
        {"limit": 2.0},
        (1e-3, 1e-3, 0.1, 0.5),
    ),
    row(
        "clip_by_value and sgd",
        lambda learning_rate, limit=0.1: optim.chain(optim.clip_by_value(limit), optim.sgd(learning_rate)),
        lambda learning_rate, limit=0.1: optax.chain(optax.clip(limit), optax.sgd(learning_rate)),
        {"limit": 0.5},
        (1e-3, 1e-2, 0.1, 0.5),
    ),
    row(
        "weight_decay and sgd",
        lambda learning_rate, strength=1e-4: optim.chain(optim.weight_decay(strength), optim.sgd(learning_rate)),
        lambda learning_rate, strength=1e-4: optax.chain(optax.add_decayed_weights(strength), optax.sgd(learning_rate)),
        {"strength": 0.3},
        (1e-3, 1e-3, 0.1, 0.5),
    ),
    row(
        "sgd and max_norm",
        lambda learning_rate, limit=1.5: optim.chain(optim.sgd(learning_rate), optim.max_norm(limit)),
        optax_max_norm,
        {"limit": 0.8},
        (1e-3, 1e-3, 0.1, 0.5),
    ),
    row(
        "accumulate",
        lambda learning_rate, b1=0.9: optim.accumulate(optim.adam(learning_rate, b1), 2),
        lambda learning_rate, b1=0.9: optax.MultiSteps(optax.adam(learning_rate, b1), 2).gradient_transformation(),
        {"b1": 0.8},
        (1e-2, 0.05, 0.01, 0.1),
        lambda learning_rate, b1: optax.MultiSteps(
            optax.inject_hyperparams(optax.adam)(learning_rate, b1), 2
        ).gradient_transformation(),
    ),
]

every_optimizer = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
NEED_PARAMETERS = {case.name for case in CASES if set(case.hyperparameters) & {"weight_decay", "strength"}} | {
    "sgd and max_norm"
}


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return jnp.square(1 - x) + 100 * jnp.square(y - jnp.square(x))


ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
HESSIAN = ROTATION @ np.diag(np.logspace(0, 3, 6)) @ ROTATION.T


def quadratic(params):
    w = jnp.ravel(params["w"])
    return 0.5 * jnp.vdot(w, jnp.asarray(HESSIAN, w.dtype) @ w)


NETWORK = jnn.models.mlp((8,), 4, activation=jnp.tanh)
LABELS = np.arange(32) % 4
INPUTS = np.random.default_rng(1).normal(size=(4, 6))[LABELS] + 0.7 * np.random.default_rng(2).normal(size=(32, 6))


def network(params):
    logits, _ = NETWORK.apply(params, {}, jnp.asarray(INPUTS, float))
    return jnp.mean(jnn.losses.softmax_cross_entropy(logits, jnp.asarray(LABELS, jnp.int32)))


def network_params(dtype):
    params, _ = NETWORK.init(jax.random.key(0), jnp.zeros((1, 6), jnp.float32))
    return jax.tree.map(lambda p: p.astype(dtype), params)


STARTS = {
    quadratic: lambda: {"w": jnp.ones((3, 2), jnp.float64)},
    rosenbrock: lambda: {"x": jnp.float64(-1.2), "y": jnp.float64(1.0)},
    network: lambda: network_params(jnp.float64),
}


def trajectory(optimizer, loss, params, steps, apply_updates=optim.apply_updates):
    """-> the parameters after every step"""

    def step(carry, _):
        params, opt_state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        params = apply_updates(params, updates)
        return (params, opt_state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]


def assert_same_steps(ours, theirs, rtol):
    for (path, expected), got in zip(jnn.tree.flatten(theirs).items(), jax.tree.leaves(ours), strict=True):
        size = np.linalg.norm(np.reshape(expected, (len(expected), -1)), axis=1)
        error = np.linalg.norm(np.reshape(got - expected, (len(expected), -1)), axis=1)
        assert np.all(np.isfinite(size))
        assert np.all(error <= rtol * size), (path, np.max(error / np.where(size > 0, size, 1)))


@every_optimizer
@pytest.mark.parametrize("loss", list(STARTS), ids=lambda loss: loss.__name__)
def test_a_thousand_steps_equal_optax(case, loss, x64):
    params, rate = STARTS[loss](), case.rates[loss.__name__]
    ours, theirs = (trajectory(make(rate), loss, params, 1000) for make in (case.make, case.oracle))
    assert_same_steps(ours, theirs, 1e-6)
    assert loss(jax.tree.map(lambda a: a[-1], ours)) < 0.5 * loss(params)


def logistic(params):
    logits = jnp.asarray(INPUTS, float) @ params["w"] + params["b"]
    penalty = 0.03 * sum(jnp.sum(jnp.square(p)) for p in params.values())
    return jnp.mean(jnn.losses.softmax_cross_entropy(logits, jnp.asarray(LABELS, jnp.int32))) + penalty


def test_the_convex_problem_is_constrained_by_no_row():
    # sgd and max_norm would stop elsewhere
    assert max(np.linalg.norm(logistic_optimum()[:24].reshape(6, 4), axis=0)) < 1.5


def logistic_optimum():
    """of w and b in a row"""

    def value(flat):
        w, b = flat[:24].reshape(6, 4), flat[24:]
        logits = INPUTS @ w + b
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        error = (probabilities - np.eye(4)[LABELS]) / 32
        loss = -np.mean(np.log(probabilities[np.arange(32), LABELS])) + 0.03 * flat @ flat
        return loss, np.concatenate([(INPUTS.T @ error).ravel(), error.sum(0)]) + 0.06 * flat

    return scipy.optimize.minimize(value, np.zeros(28), jac=True, tol=1e-12).x


@every_optimizer
def test_it_converges_on_a_convex_problem(case, x64):
    params = {"w": jnp.zeros((6, 4)), "b": jnp.zeros(4)}
    optimizer = case.make(schedules.cosine(case.rates["convex"], 500))
    end = jax.tree.map(lambda a: a[-1], trajectory(optimizer, logistic, params, 500))
    optimum = logistic_optimum()
    lowest = logistic({"w": jnp.asarray(optimum[:24].reshape(6, 4)), "b": jnp.asarray(optimum[24:])})
    assert abs(logistic(end) - lowest) < 1e-3 * (logistic(params) - lowest)


def gradients(seed=0, scale=1.0):
    draw = np.random.default_rng(seed)
    tree = {"dense_0": {"w": (3, 2), "b": (2,)}, "empty": (0, 3), "scalar": (), "head": [(4,)]}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * draw.normal(size=shape), jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def updates_of(optimizer, steps=5, params=None):
    """-> the updates of a few steps along fixed gradients, stacked, and the last state"""
    params = gradients(99) if params is None else params
    opt_state, all_updates = optimizer.init(params), []
    # outside of jit a cond is compiled anew at every call
    waits = lambda node: isinstance(node, AccumulateState | optax.MultiStepsState)
    waiting = map(waits, jax.tree.leaves(opt_state, is_leaf=waits))
    update = jax.jit(optimizer.update) if any(waiting) else optimizer.update
    for step in range(steps):
        updates, opt_state = update(gradients(step), opt_state, params)
        all_updates.append(updates)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_updates), opt_state


def oracle_updates(optimizer, **options):
    with jax.numpy_dtype_promotion("standard"):
        return updates_of(optimizer, **options)[0]


@every_optimizer
def test_scalar_and_empty_leaves_and_every_hyperparameter_as_in_optax(case):
    expected = oracle_updates(case.oracle(**case.hyperparameters))
    chex.assert_trees_all_close(updates_of(case.make(**case.hyperparameters))[0], expected, rtol=1e-5, atol=1e-7)


@every_optimizer
def test_defaults_are_optaxs(case):
    chex.assert_trees_all_close(updates_of(case.make(0.1))[0], oracle_updates(case.oracle(0.1)), rtol=1e-5, atol=1e-7)


@every_optimizer
@pytest.mark.parametrize("params", [{}, {"dense_0": {}}, ()], ids=str)
def test_empty_trees_stay_empty(case, params):
    optimizer = case.make(0.1)
    updates, opt_state = optimizer.update(params, optimizer.init(params), params)
    assert updates == params
    assert optim.apply_updates(params, updates) == params
    chex.assert_trees_all_equal_shapes_and_dtypes(opt_state, optimizer.init(params))


@every_optimizer
def test_parameters_are_needed_only_where_they_count(case):
    optimizer = case.make(0.1)
    if case.name in NEED_PARAMETERS:
        with pytest.raises(ValueError, match=r"needs the parameters, as in update\(grads, opt_state, params\)$"):
            optimizer.update(gradients(), optimizer.init(gradients()))
    else:
        with_params = optimizer.update(gradients(), optimizer.init(gradients()), gradients())
        chex.assert_trees_all_equal(optimizer.update(gradients(), optimizer.init(gradients())), with_params)


def rounding(case) -> float:
    """How far two programs of the same updates may lie apart in float32, at a learning rate of 0.1."""
    # each of muon's five steps of Newton and Schulz multiplies an error in a small singular value by up to 3.4445
    return 0.1 * 3.4445**5 * 2**-24 if case.name == "muon" else 1e-7


@every_optimizer
def test_jit_vmap_and_scan_give_the_same(case):
    optimizer, params = case.make(**case.hyperparameters), gradients(99)
    expected = oracle_updates(case.oracle(**case.hyperparameters))
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(gradients, range(5)))

    def run(params, grads):
        step = lambda opt_state, g: optimizer.update(g, opt_state, params)[::-1]
        return jax.lax.scan(step, optimizer.init(params), grads)[1]

    # every optimizer is odd: in the second lane all goes the other way
    both = lambda tree: jax.tree.map(lambda a: jnp.stack([a, -a]), tree)
    twice = jax.jit(jax.vmap(run))(both(params), both(grads))
    chex.assert_trees_all_close(twice, both(expected), rtol=1e-5, atol=rounding(case))


@every_optimizer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_updates_have_the_parameters_dtype_and_moments_float32_or_better(case, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        params = {"w": jnp.ones((3, 2), dtype), "b": jnp.ones((), dtype)}
        optimizer = case.make(**{name: jnp.float32(number) for name, number in case.hyperparameters.items()})
        opt_state = optimizer.init(params)
        updates, new_state = jax.jit(optimizer.update)(params, opt_state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, opt_state)
        floats = {leaf.dtype for leaf in jax.tree.leaves(opt_state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert floats <= {jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)}
        optim.apply_updates(params, updates)


def test_moments_of_bfloat16_parameters_do_not_stall():
    # 0.001 of 1 is less than half a unit in the last place of a bfloat16 near 0.5
    params, optimizer = jnp.zeros(1, jnp.bfloat16), optim.adam(0.1)
    run = lambda opt_state, _: (optimizer.update(jnp.ones(1, jnp.bfloat16), opt_state)[1], None)
    opt_state, _ = jax.lax.scan(run, optimizer.init(params), length=2000)
    np.testing.assert_allclose(opt_state.square, 1 - 0.999**2000, rtol=1e-4)


@every_optimizer
def test_a_float32_model_stays_float32_in_double_precision(case, x64):
    params = {"w": jnp.ones((3, 2), jnp.float32), "b": jnp.ones(3, jnp.float32)}
    optimizer = case.make(**{name: jnp.float64(number) for name, number in case.hyperparameters.items()})
    updates, new_state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, new_state), (params, optimizer.init(params)))


MASK = {"dense_0": True, "empty": True, "scalar": False, "head": [False]}
LABELLED = {"dense_0": {"w": "a", "b": "b"}, "empty": "a", "scalar": "b", "head": ["a"]}
CLIP, DECAY = optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.01)

# what jnn makes of ours, and optax of theirs, given the factory of one and the other
WRAPPERS = {
    "optax.chain": (lambda make: optax.chain(CLIP, DECAY, make()),) * 2,
    "chain": (
        lambda make: optim.chain(optim.clip_by_global_norm(0.5), DECAY, make()),
        lambda make: optax.chain(CLIP, DECAY, make()),
    ),
    "optax.masked": (lambda make: optax.masked(make(), MASK),) * 2,
    "optax.multi_transform": (lambda make: optax.multi_transform({"a": make(), "b": make(learning_rate=0.01)}, LABELLED),) * 2,
    "optax.MultiSteps": (lambda make: optax.MultiSteps(make(), 2),) * 2,
    "accumulate": (lambda make: optim.accumulate(make(), 2), lambda make: optax.MultiSteps(make(), 2)),
    "freeze": (
        lambda make: optim.freeze(make(), ("scalar", "head")),
        lambda make: optax.multi_transform({True: make(), False: optax.set_to_zero()}, MASK),
    ),
}


@every_optimizer
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_take_it(case, wrapper):
    ours, theirs = (
        wrap(lambda make=make, **changed: make(**{**case.hyperparameters, **changed}))
        for wrap, make in zip(WRAPPERS[wrapper], (case.make, case.oracle), strict=True)
    )
    with jax.numpy_dtype_promotion("standard"):
        chex.assert_trees_all_close(updates_of(ours)[0], updates_of(theirs)[0], rtol=1e-5, atol=rounding(case))


@every_optimizer
def test_every_hyperparameter_may_be_traced(case):
    factors = (0.5, 1.0)
    traced = jax.jit(jax.vmap(lambda h: updates_of(case.make(**h), steps=2)[0]))(
        {name: number * jnp.asarray(factors) for name, number in case.hyperparameters.items()}
    )
    for lane, factor in enumerate(factors):
        fixed = case.oracle(**{name: factor * number for name, number in case.hyperparameters.items()})
        lane_updates = jax.tree.map(lambda a, lane=lane: a[lane], traced)
        chex.assert_trees_all_close(lane_updates, oracle_updates(fixed, steps=2), rtol=1e-5, atol=1e-7)


@every_optimizer
def test_every_hyperparameter_may_be_a_schedule_of_the_steps_from_zero(case):
    numbers = {name: lambda step, n=number: n / (1 + 0.1 * step.astype(float)) for name, number in case.hyperparameters.items()}
    theirs = (case.scheduled or optax.inject_hyperparams(case.oracle))(**numbers)
    chex.assert_trees_all_close(updates_of(case.make(**numbers))[0], oracle_updates(theirs), rtol=1e-4, atol=1e-7)


def test_momentum_puts_a_scheduled_learning_rate_into_the_velocity():
    optimizer = optim.momentum(lambda step: 0.1 / (1 + step.astype(float)), 0.8)
    velocity, expected = 0.0, []
    for step in range(5):
        velocity = 0.8 * velocity - 0.1 / (1 + step) * np.float64(gradients(step)["dense_0"]["w"])
        expected.append(velocity)
    np.testing.assert_allclose(updates_of(optimizer)[0]["dense_0"]["w"], expected, rtol=1e-5)


@every_optimizer
def test_gradients_through_a_run_are_right_where_a_gradient_is_exactly_zero(case, x64):
    params = {"w": jnp.array([[1.0, 2.0], [0.5, -1.5]]), "unseen": jnp.ones((2, 2)), "b": jnp.array([1.0, 2.0])}

    def loss(params):
        # neither a second entry nor a second column, nor all of a matrix
        seen = jnp.append(params["w"][:, 0], params["b"][0])
        return jnp.sum(jnp.cos(seen) + jnp.array([1.0, 0.3, 0.5]) * seen**2)

    def end(hyperparameters):
        path = trajectory(case.make(**hyperparameters), loss, params, 8)
        return sum(jnp.sum(jnp.sin(p[-1])) for p in jax.tree.leaves(path))

    value_and_slopes = jax.jit(jax.value_and_grad(end))
    _, slopes = value_and_slopes(case.hyperparameters)
    for name, number in case.hyperparameters.items():
        step = 1e-6 * number
        ahead, behind = (value_and_slopes({**case.hyperparameters, name: number + h})[0] for h in (step, -step))
        np.testing.assert_allclose(slopes[name], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8, err_msg=name)


@every_optimizer
def test_second_step_does_not_recompile(case):
    optimizer = case.make(schedules.cosine(0.1, 10))
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    opt_state, params = optimizer.init(gradients()), gradients()
    for step in range(3):
        updates, opt_state = update(gradients(step), opt_state, params)
        params = optim.apply_updates(params, updates)


@every_optimizer
def test_an_optimizer_unpacks_into_its_two_functions(case):
    init, update = case.make(0.1)
    updates, _ = update(gradients(), init(gradients()), gradients())
    chex.assert_trees_all_equal(updates, case.make(0.1).update(gradients(), init(gradients()), gradients())[0])


def test_nesterov_is_sutskevers_form_seen_from_where_the_gradient_is_taken(x64):
    """a thousand steps of x = x + v, v = rho v - lr gradient(x + rho v), while rho warms up and lr falls"""
    rho, lr = schedules.momentum_warmup(0.5, 0.99, steps=800), schedules.cosine(1e-3, 1000)
    rhos, lrs = (np.asarray(jax.vmap(schedule)(jnp.arange(1001))) for schedule in (rho, lr))
    x, v, ahead = np.ones(6), np.zeros(6), []
    for t in range(1000):
        v = rhos[t] * v - lrs[t] * HESSIAN @ (x + rhos[t] * v)
        x = x + v
        ahead.append(x + rhos[t + 1] * v)
    ours = trajectory(optim.nesterov(lr, rho), quadratic, {"w": jnp.ones(6)}, 1000)["w"]
    np.testing.assert_allclose(ours, ahead, rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(ahead[500] - ahead[499]) > 1e-7  # it still moves


def test_gains_grow_by_steps_shrink_by_factors_and_stay_within_their_limits():
    def gains(signs, size=1.0, **numbers):
        optimizer = optim.delta_bar_delta(1.0, **numbers)
        opt_state, found = optimizer.init(jnp.zeros(1)), []
        for sign in signs:
            updates, opt_state = optimizer.update(jnp.full(1, sign * size, jnp.float32), opt_state)
            found.append(-float(updates[0]) / size)
        return found

    signs = [1, 1, 1, -1, 1, 0, 1, 1]
    expected = [1.0, 1.05, 1.1, -1.1 * 0.95, 1.1 * 0.95**2, 0, 1.1 * 0.95**2, 1.1 * 0.95**2 + 0.05]
    np.testing.assert_allclose(gains(signs), expected, rtol=1e-6)
    # the product of two such gradients is 0 in float32
    np.testing.assert_allclose(gains(signs, size=1e-30), expected, rtol=1e-6)
    np.testing.assert_allclose(gains([1] * 4, increase=4.0), [1, 5, 9, 10], rtol=1e-6)
    np.testing.assert_allclose(np.abs(gains([1, -1] * 2, decrease=0.3)), [1, 0.3, 0.1, 0.1], rtol=1e-6)
    # against the running mean one change of sign is forgiven: 0.9 * (0.1 + 0.09 + 0.081) - 0.1 > 0
    np.testing.assert_allclose(gains([1, 1, 1, -1, 1], decay=0.9), [1, 1.05, 1.1, -1.1 * 0.95, 1.1 * 0.95 + 0.05], rtol=1e-6)


def test_adagrad_from_zero_starts_with_steps_of_the_learning_rate_and_leaves_alone_what_no_gradient_reached():
    optimizer = optim.adagrad(0.1, 0.0, 0.0)
    updates, opt_state = optimizer.update(jnp.array([3.0, -1e-3, 0.0]), optimizer.init(jnp.zeros(3)))
    np.testing.assert_allclose(updates, [-0.1, 0.1, 0.0], rtol=1e-6)
    updates, _ = optimizer.update(jnp.array([4.0, 0.0, 2.0]), opt_state)
    np.testing.assert_allclose(updates, [-0.1 * 4 / 5, 0.0, -0.1], rtol=1e-6)
    _, opt_state = optimizer.update(jnp.array([1.0, jnp.nan, 1.0]), opt_state)
    np.testing.assert_array_equal(np.isnan(optimizer.update(jnp.ones(3), opt_state)[0]), [False, True, False])


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_decay_masks_as_in_optax(name):
    numbers = {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "weight_decay": 0.3}
    ours = getattr(optim, name)(**numbers, where=jnn.tree.is_weight)
    theirs = getattr(optax, name)(**numbers, mask=lambda params: jax.tree.map(lambda a: a.ndim >= 2, params))
    chex.assert_trees_all_close(updates_of(ours)[0], oracle_updates(theirs), rtol=1e-5, atol=1e-7)
    without = updates_of(getattr(optim, name)(**numbers))[0]
    assert np.any(without["dense_0"]["b"] != oracle_updates(theirs)["dense_0"]["b"])


@pytest.mark.parametrize("make", [optim.adamw, optim.lion, optim.muon])
def test_decay_masks_are_not_fooled_by_stacks(make):
    params = jnn.repeat(jnn.dense(2), 3).init(jax.random.key(0), jnp.ones((1, 2), jnp.float32))[0]
    params = {"repeat_0": jax.tree.map(jnp.ones_like, params), "dense_1": {"b": jnp.ones(2)}}
    where = {} if make is optim.muon else {"where": jnn.tree.is_weight}
    optimizer = make(0.1, weight_decay=0.5, **where)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for path, update in jnn.tree.flatten(updates).items():
        np.testing.assert_allclose(update, -0.05 if path.endswith("/w") else 0.0, rtol=1e-6, err_msg=path)


def test_apply_updates_adds_like_optax_and_keeps_dtypes():
    params, updates = gradients(0), gradients(1)
    chex.assert_trees_all_equal(optim.apply_updates(params, updates), optax.apply_updates(params, updates))
    half = jnp.ones(3, jnp.bfloat16)
    assert optim.apply_updates(half, half).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("params", "updates", "problem"),
    [
        (
            {"dense_0": {"w": jnp.ones(2)}},
            {"dense_0": {"w": jnp.ones((5, 2))}},
            "dense_0/w: parameters are float32 (2,), updates are float32 (5, 2)",
        ),
        ({"a": [jnp.ones(2)]}, {"a": [jnp.ones(())]}, "a/0: parameters are float32 (2,), updates are float32 ()"),
        (
            {"b": jnp.ones(2), "w": jnp.ones(2)},
            {"b": jnp.ones(2), "w": jnp.ones(2, jnp.bfloat16)},
            "w: parameters are float32 (2,), updates are bfloat16 (2,)",
        ),
        (
            {"dense_0": {"w": jnp.ones(2)}},
            {"dense_0": {"kernel": jnp.ones(2)}},
            "updates have another structure than the parameters (without dense_0/w, with dense_0/kernel)",
        ),
        (
            {"dense_0": {"w": jnp.ones(2), "b": jnp.ones(2)}},
            {"dense_0": {"w": jnp.ones(2), "b": None}},
            "updates have another structure than the parameters (without dense_0/b)",
        ),
        (jnp.ones(2), jnp.ones((5, 2)), "the leaf: parameters are float32 (2,), updates are float32 (5, 2)"),
    ],
    ids=["shape", "scalar", "dtype", "structure", "missing", "bare array"],
)
def test_apply_updates_refuses_what_does_not_fit_and_says_where(params, updates, problem, raises):
    with raises(ValueError, f"apply_updates: {problem}"):
        optim.apply_updates(params, updates)
    with raises(ValueError, f"apply_updates: {problem}"):
        jax.jit(optim.apply_updates)(params, updates)
