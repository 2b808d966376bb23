"""Every schedule is a row of CASES."""

from collections.abc import Callable
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
    make: Callable  # of its real hyperparameters
    oracle: Callable  # step -> value, from optax or from the formula, of the same as Python numbers
    reals: tuple[float, ...]


def sutskever(initial, final, steps):
    """mu(t) = 1 - 2^(-1 - log2(t/250 + 1)) is 1 - 1/(2 + 2t/250): the memory 1/(1 - mu) grows evenly from 2; here from any"""
    memory = lambda mu: 1 / (1 - mu)
    return lambda step: 1 - 1 / np.interp(step, [0, steps], [memory(initial), memory(final)])


CASES = [
    Case("constant", schedules.constant, optax.constant_schedule, (0.3,)),
    Case(
        "step",
        schedules.step,
        lambda a, factor, every: optax.exponential_decay(a, every, factor, staircase=True),
        (0.3, 0.5, 7.0),
    ),
    Case("exponential", schedules.exponential, lambda a, rate: optax.exponential_decay(a, 1, rate), (0.3, 0.9)),
    Case(
        "exponential over steps",
        schedules.exponential,
        lambda a, rate, steps: optax.exponential_decay(a, steps, rate),
        (0.3, 0.4, 20.0),
    ),
    Case("linear", schedules.linear, optax.linear_schedule, (0.3, 0.05, 20.0)),
    Case("cosine", schedules.cosine, optax.cosine_decay_schedule, (0.3, 20.0)),
    Case(
        "cosine to a final value",
        lambda initial, steps, final: schedules.cosine(initial, steps, final=final),
        lambda a, steps, b: optax.cosine_decay_schedule(a, steps, alpha=b / a),
        (0.3, 20.0, 0.05),
    ),
    Case(
        "warmup_cosine",
        lambda peak, warmup, steps, final: schedules.warmup_cosine(peak, warmup, steps, final=final),
        lambda peak, warmup, steps, final: optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, final),
        (0.3, 6.0, 20.0, 0.05),
    ),
    Case(
        "momentum_warmup",
        lambda initial, final, steps: schedules.momentum_warmup(initial, final, steps=steps),
        sutskever,
        (0.5, 0.95, 20.0),
    ),
]

every_schedule = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
STEPS = jnp.arange(30)


def oracle(case, steps, factor=1.0):
    schedule = case.oracle(*(factor * real for real in case.reals))
    with jax.numpy_dtype_promotion("standard"):
        return np.stack([schedule(int(step)) for step in steps])


@every_schedule
def test_values_equal_optax_up_to_and_beyond_the_end(case):
    values = case.make(*case.reals)(STEPS)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, oracle(case, STEPS), rtol=1e-5, atol=1e-7)


@every_schedule
def test_float64_values_equal_optax(case, x64):
    values = case.make(*case.reals)(STEPS)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, oracle(case, STEPS), rtol=1e-12, atol=1e-16)


@every_schedule
def test_a_step_may_be_traced_and_has_any_shape(case):
    schedule, expected = case.make(*case.reals), oracle(case, STEPS)
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(schedule, n=1))
    np.testing.assert_allclose(jnp.stack([compiled(step) for step in STEPS]), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(schedule)(STEPS), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(schedule(STEPS.reshape(5, 6)), expected.reshape(5, 6), rtol=1e-5, atol=1e-7)
    scanned = jax.lax.scan(lambda step, _: (step + 1, schedule(step)), jnp.int32(0), length=30)[1]
    np.testing.assert_allclose(scanned, expected, rtol=1e-5, atol=1e-7)


@every_schedule
def test_hyperparameters_may_be_traced_and_differentiated(case, x64):
    reals, factors = jnp.asarray(case.reals), (1.0, 0.9)
    traced = jax.jit(jax.vmap(lambda factor: case.make(*(factor * reals))(STEPS)))(jnp.array(factors))
    np.testing.assert_allclose(traced, [oracle(case, STEPS, factor) for factor in factors], rtol=1e-9, atol=1e-12)
    # at steps where no corner is near: there a slope is none
    steps = STEPS[jnp.array([1, 3, 9, 13, 17, 25])]
    slopes = jax.jit(jax.jacobian(lambda reals: case.make(*reals)(steps)))(reals)
    for i, real in enumerate(case.reals):
        ahead, behind = (oracle_at(case, steps, i, real * (1 + h)) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slopes[:, i], (ahead - behind) / (2e-6 * real), rtol=1e-6, atol=1e-8)


def oracle_at(case, steps, i, real):
    return oracle(case._replace(reals=(*case.reals[:i], real, *case.reals[i + 1 :])), steps)


@every_schedule
def test_float32_hyperparameters_work_in_float64(case, x64):
    values = jax.jit(lambda *reals: case.make(*reals)(STEPS))(*map(jnp.float32, case.reals))
    np.testing.assert_allclose(values, oracle(case, STEPS), rtol=1e-6, atol=1e-8)


@every_schedule
def test_it_schedules_an_optimizer_inside_jit(case):
    optimizer = optim.sgd(case.make(*case.reals))
    run = lambda opt_state, _: optimizer.update(jnp.ones(()), opt_state)[::-1]
    updates = jax.jit(lambda: jax.lax.scan(run, optimizer.init(jnp.ones(())), length=30)[1])()
    np.testing.assert_allclose(-updates, oracle(case, STEPS), rtol=1e-5, atol=1e-7)


def test_momentum_warms_up_as_sutskever_wrote_it(x64):
    steps = np.arange(0, 20_000, 250)
    expected = np.minimum(1 - 2.0 ** (-1 - np.log2(np.floor(steps / 250) + 1)), 0.99)
    np.testing.assert_allclose(schedules.momentum_warmup(steps=12250)(steps), expected, rtol=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 20.0])
def test_a_warmup_of_no_steps_or_of_all_has_no_way_to_go(warmup, x64):
    def values(warmup):
        return schedules.warmup_cosine(0.3, warmup, 20.0, final=0.05)(STEPS)

    expected = schedules.cosine(0.3, 20, final=0.05)(STEPS)
    if warmup:
        expected = jnp.where(STEPS < 20, 0.3 * STEPS.astype(float) / 20, 0.05)
    np.testing.assert_allclose(jax.jit(values)(jnp.asarray(warmup)), expected, rtol=1e-12)
    assert np.all(np.isfinite(jax.jacfwd(values)(jnp.asarray(warmup))))


def test_a_stair_begins_at_every_multiple_of_its_length():
    lengths, stairs = np.arange(1, 60), np.arange(30)
    values = jax.jit(jax.vmap(lambda n: schedules.step(1.0, 0.5, n)(jnp.asarray(stairs, jnp.int32) * n)))(jnp.asarray(lengths))
    np.testing.assert_array_equal(values, np.broadcast_to(0.5**stairs, values.shape).astype(np.float32))
    for length in (7, 41, 49, 55):
        fixed = jax.jit(schedules.step(1.0, 0.5, length))(jnp.arange(length * 30))
        np.testing.assert_array_equal(fixed, np.float32(0.5 ** np.repeat(stairs, length)))


def test_schedules_of_no_steps_are_at_their_end():
    for schedule in (schedules.linear(0.3, 0.05, 0), schedules.cosine(0.3, 0, final=0.05)):
        np.testing.assert_allclose(schedule(STEPS), 0.05, rtol=1e-6)
