"""Every schedule is a row of CASES."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jnn import schedules


class Case(NamedTuple):
    name: str
    make: Callable  # of its real hyperparameters
    oracle: Callable
    reals: tuple[float, ...]


CASES = [
    Case("cosine", lambda initial: schedules.cosine(initial, 20), lambda a: optax.cosine_decay_schedule(a, 20), (0.3,)),
    Case(
        "cosine to a final value",
        lambda initial, final: schedules.cosine(initial, 20, final=final),
        lambda a, b: optax.cosine_decay_schedule(a, 20, alpha=b / a),
        (0.3, 0.05),
    ),
]

every_schedule = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
STEPS = jnp.arange(30)


def oracle(case, steps):
    with jax.numpy_dtype_promotion("standard"):
        return jnp.stack([case.oracle(*case.reals)(step) for step in steps])


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
def test_hyperparameters_may_be_traced_and_differentiated(case):
    reals = jnp.asarray(case.reals)
    traced = jax.vmap(lambda factor: case.make(*(factor * reals))(STEPS))(jnp.array([1.0, 2.0]))
    expected = oracle(case, STEPS)
    np.testing.assert_allclose(traced, jnp.stack([expected, 2 * expected]), rtol=1e-5, atol=1e-7)
    # linear in its values, so the value is the gradient times the hyperparameters
    slopes = jax.jacobian(lambda reals: case.make(*reals)(STEPS))(reals)
    np.testing.assert_allclose(slopes @ reals, expected, rtol=1e-5, atol=1e-7)


@every_schedule
def test_float32_hyperparameters_work_in_float64(case, x64):
    values = jax.jit(lambda *reals: case.make(*reals)(STEPS))(*map(jnp.float32, case.reals))
    np.testing.assert_allclose(values, oracle(case, STEPS), rtol=1e-6, atol=1e-8)
