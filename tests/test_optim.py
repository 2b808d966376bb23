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

from jnn import optim, schedules


class Case(NamedTuple):
    name: str
    make: Callable
    oracle: Callable
    hyperparameters: dict[str, float]  # all that are real numbers
    rosenbrock_rate: float
    quadratic_rate: float


CASES = [
    Case("sgd", optim.sgd, optax.sgd, {"learning_rate": 0.1}, 1e-3, 1e-3),
    Case("momentum", optim.momentum, partial(optax.sgd, momentum=0.9), {"learning_rate": 0.1, "momentum": 0.8}, 2e-4, 1e-3),
    Case("adam", optim.adam, optax.adam, {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-3}, 1e-2, 0.05),
]

every_optimizer = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return jnp.square(1 - x) + 100 * jnp.square(y - jnp.square(x))


ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
HESSIAN = ROTATION @ np.diag(np.logspace(0, 3, 6)) @ ROTATION.T


def quadratic(params):
    return 0.5 * jnp.vdot(params["w"], jnp.asarray(HESSIAN, params["w"].dtype) @ params["w"])


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
    for name, expected in theirs.items():
        size = np.linalg.norm(np.reshape(expected, (len(expected), -1)), axis=1)
        error = np.linalg.norm(np.reshape(ours[name] - expected, (len(expected), -1)), axis=1)
        assert np.all(np.isfinite(size))
        assert np.max(error / size) < rtol, name


@every_optimizer
@pytest.mark.parametrize("loss", [quadratic, rosenbrock])
def test_a_thousand_steps_equal_optax(case, loss, x64):
    if loss is quadratic:
        params, rate = {"w": jnp.ones(6, jnp.float64)}, case.quadratic_rate
    else:
        params, rate = {"x": jnp.float64(-1.2), "y": jnp.float64(1.0)}, case.rosenbrock_rate
    ours, theirs = (trajectory(make(rate), loss, params, 1000) for make in (case.make, case.oracle))
    assert_same_steps(ours, theirs, 1e-6)
    assert loss(jax.tree.map(lambda a: a[-1], ours)) < 0.5 * loss(params)


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
    for step in range(steps):
        updates, opt_state = optimizer.update(gradients(step), opt_state, params)
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
def test_params_are_not_needed(case):
    optimizer = case.make(0.1)
    with_params = optimizer.update(gradients(), optimizer.init(gradients()), gradients())
    chex.assert_trees_all_equal(optimizer.update(gradients(), optimizer.init(gradients())), with_params)


@every_optimizer
def test_jit_vmap_and_scan_give_the_same(case):
    optimizer = case.make(**case.hyperparameters)
    expected = oracle_updates(case.oracle(**case.hyperparameters))
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(gradients, range(5)))

    def run(grads):
        step = lambda opt_state, g: optimizer.update(g, opt_state)[::-1]
        return jax.lax.scan(step, optimizer.init(gradients()), grads)[1]

    chex.assert_trees_all_close(jax.jit(run)(grads), expected, rtol=1e-5, atol=1e-7)
    twice = jax.jit(jax.vmap(run))(jax.tree.map(lambda g: jnp.stack([g, -g]), grads))
    chex.assert_trees_all_close(twice, jax.tree.map(lambda u: jnp.stack([u, -u]), expected), rtol=1e-5, atol=1e-7)


@every_optimizer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_updates_have_the_parameters_dtype_and_moments_float32_or_better(case, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        params = {"w": jnp.ones(3, dtype), "b": jnp.ones((), dtype)}
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
    params = {"w": jnp.ones(3, jnp.float32)}
    optimizer = case.make(**{name: jnp.float64(number) for name, number in case.hyperparameters.items()})
    updates, new_state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, new_state), (params, optimizer.init(params)))


@every_optimizer
def test_optax_chain_takes_it(case):
    ours, theirs = (
        optax.chain(optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.01), make(**case.hyperparameters))
        for make in (case.make, case.oracle)
    )
    with jax.numpy_dtype_promotion("standard"):
        chex.assert_trees_all_close(updates_of(ours)[0], updates_of(theirs)[0], rtol=1e-5, atol=1e-7)


@every_optimizer
def test_optax_wrappers_take_it(case):
    mask = {"dense_0": True, "empty": True, "scalar": False, "head": [False]}
    ours, theirs = (optax.masked(make(**case.hyperparameters), mask) for make in (case.make, case.oracle))
    with jax.numpy_dtype_promotion("standard"):
        chex.assert_trees_all_close(updates_of(ours)[0], updates_of(theirs)[0], rtol=1e-5, atol=1e-7)


@every_optimizer
def test_every_hyperparameter_may_be_traced(case):
    factors = (0.5, 1.0)
    traced = jax.jit(jax.vmap(lambda h: updates_of(case.make(**h), steps=3)[0]))(
        {name: number * jnp.asarray(factors) for name, number in case.hyperparameters.items()}
    )
    for lane, factor in enumerate(factors):
        fixed = case.oracle(**{name: factor * number for name, number in case.hyperparameters.items()})
        lane_updates = jax.tree.map(lambda a, lane=lane: a[lane], traced)
        chex.assert_trees_all_close(lane_updates, oracle_updates(fixed, steps=3), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=lambda case: case.name)
def test_a_learning_rate_schedule_counts_steps_from_zero_as_in_optax(case):
    ours = updates_of(case.make(schedules.cosine(0.1, 4)))[0]
    theirs = oracle_updates(case.oracle(optax.cosine_decay_schedule(0.1, 4)))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_momentum_puts_a_scheduled_learning_rate_into_the_velocity():
    optimizer = optim.momentum(lambda step: 0.1 / (1 + step.astype(float)), 0.8)
    velocity, expected = 0.0, []
    for step in range(5):
        velocity = 0.8 * velocity - 0.1 / (1 + step) * np.float64(gradients(step)["dense_0"]["w"])
        expected.append(velocity)
    np.testing.assert_allclose(updates_of(optimizer)[0]["dense_0"]["w"], expected, rtol=1e-5)


@every_optimizer
def test_gradients_through_a_run_are_right_where_a_gradient_is_exactly_zero(case, x64):
    def end(hyperparameters):
        # the loss does not see the second entry
        path = trajectory(case.make(**hyperparameters), lambda w: jnp.sum(jnp.cos(w[0]) + w[0] ** 2), jnp.array([1.0, 2.0]), 8)
        return jnp.sum(jnp.sin(path[-1]))

    slopes = jax.jit(jax.grad(end))(case.hyperparameters)
    value = jax.jit(end)
    for name, number in case.hyperparameters.items():
        step = 1e-6 * number
        ahead, behind = (value({**case.hyperparameters, name: number + h}) for h in (step, -step))
        np.testing.assert_allclose(slopes[name], (ahead - behind) / (2 * step), rtol=1e-5, err_msg=name)


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
    updates, _ = update(gradients(), init(gradients()))
    chex.assert_trees_all_equal(updates, case.make(0.1).update(gradients(), init(gradients()))[0])


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
