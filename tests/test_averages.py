from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn import optim


def params_of(dtype=jnp.float32):
    draw = np.random.default_rng(0)
    tree = {"dense_0": {"w": draw.normal(size=(3, 2)), "b": draw.normal(size=2)}, "none": np.zeros((0, 2)), "scalar": 2.0}
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def run(optimizer, params, steps=6):
    """-> the parameters after every step, and the last state"""

    def step(carry, _):
        params, opt_state = carry
        grads = jax.tree.map(jnp.sin, params)
        updates, opt_state = optim.updates.call_update(optimizer, grads, opt_state, params, value=jnp.float32(0))
        params = optim.apply_updates(params, updates)
        return (params, opt_state), params

    (_, opt_state), path = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=steps))(params)
    return path, opt_state


def last(path):
    return jax.tree.map(lambda a: a[-1], path)


def ema_by_optax(path, decay, steps=6):
    """optax.ema of the parameters"""
    average = optax.ema(decay)
    state, mean = average.init(jax.tree.map(lambda a: a[0], path)), None
    with jax.numpy_dtype_promotion("standard"):
        for step in range(steps):
            mean, state = average.update(jax.tree.map(lambda a, step=step: a[step], path), state)
    return mean


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_ema_params_is_optaxs_of_the_parameters_and_changes_no_update(dtype):
    params = params_of(dtype)
    path, opt_state = run(optax.chain(optim.adam(0.1), optim.ema_params(0.8)), params)
    chex.assert_trees_all_equal(path, run(optim.adam(0.1), params)[0])
    expected = ema_by_optax(jax.tree.map(lambda a: a.astype(jnp.float32), path), 0.8)
    judged = optim.eval_params(opt_state, last(path))
    chex.assert_trees_all_equal_shapes_and_dtypes(judged, params)
    # half a unit in bfloat16's last place, of the average and of each entry, where XLA may keep the digits of a sum
    rtol, share = (1e-5, 0.0) if dtype == jnp.float32 else (2**-9, 2**-9)

    def assert_close(mean, entries, average):
        largest = np.max(np.abs(entries.astype(jnp.float32)), initial=0.0)
        np.testing.assert_allclose(mean.astype(jnp.float32), average, rtol=rtol, atol=share * largest)

    jax.tree.map(assert_close, judged, path, expected)


def test_ema_params_before_the_first_step_are_the_parameters():
    optimizer, params = optim.ema_params(), params_of()
    chex.assert_trees_all_equal(optim.eval_params(optimizer.init(params), params), params)


def test_ema_params_decay_may_be_traced(x64):
    params = params_of(jnp.float64)
    decays = jnp.asarray([0.5, 0.9])

    def end(decay):
        path, opt_state = run(optax.chain(optim.sgd(0.1), optim.ema_params(decay)), params)
        return optim.eval_params(opt_state, last(path)), path

    judged, path = jax.vmap(end)(decays)
    for lane, decay in enumerate(decays):
        pick = lambda tree, lane=lane: jax.tree.map(lambda a: a[lane], tree)
        chex.assert_trees_all_close(pick(judged), ema_by_optax(pick(path), float(decay)), rtol=1e-12)


def test_ema_params_wants_params(raises):
    params = params_of()
    with raises(ValueError, "ema_params: update needs params"):
        optim.ema_params().update(params, optim.ema_params().init(params))


def test_optimizers_without_a_say_are_judged_by_the_parameters():
    params = params_of()
    for optimizer in (optim.adam(0.1), optax.chain(optax.clip(1.0), optax.adam(0.1)), optax.ema(0.9)):
        assert optim.eval_params(optimizer.init(params), params) is params


@pytest.mark.parametrize("make", [optax.contrib.schedule_free_sgd, optax.contrib.schedule_free_adamw])
def test_schedule_free_is_judged_as_optax_says(make):
    params = params_of()
    with jax.numpy_dtype_promotion("standard"):
        path, opt_state = run(make(0.1), params)
        expected = optax.contrib.schedule_free_eval_params(opt_state, last(path))
    chex.assert_trees_all_close(optim.eval_params(opt_state, last(path)), expected, rtol=1e-6)
    wrapped = (jnp.int32(0), {"inner": opt_state}, None)
    chex.assert_trees_all_close(optim.eval_params(wrapped, last(path)), expected, rtol=1e-6)
    assert not np.allclose(expected["scalar"], path["scalar"][-1], rtol=1e-3)


MASK = {"dense_0": True, "none": True, "scalar": False}
LABELS = jax.tree.map(lambda mask: "averaged" if mask else "plain", MASK)
averaged = lambda: optax.chain(optim.sgd(0.1), optim.ema_params(0.8))
WRAPPERS = {
    "masked": lambda: optax.masked(averaged(), MASK),
    "multi_transform": lambda: optax.multi_transform({"averaged": averaged(), "plain": optim.sgd(0.1)}, LABELS),
    "freeze": lambda: optim.freeze(averaged(), "scalar"),
    "masked schedule-free": lambda: optax.masked(optax.contrib.schedule_free_sgd(0.1), MASK),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_optimizer_of_a_part_replaces_that_part(wrapper):
    params = params_of()
    part = {name: params[name] for name in ("dense_0", "none")}
    path, opt_state = run(WRAPPERS[wrapper](), params)
    judged = jax.jit(optim.eval_params)(opt_state, last(path))
    chex.assert_trees_all_equal(judged["scalar"], last(path)["scalar"])
    alone = optax.contrib.schedule_free_sgd(0.1) if "schedule-free" in wrapper else averaged()
    alone_path, alone_state = run(alone, part)
    expected = optim.eval_params(alone_state, last(alone_path))
    chex.assert_trees_all_close({name: judged[name] for name in part}, expected, rtol=1e-6)
    assert not np.allclose(judged["dense_0"]["w"], path["dense_0"]["w"][-1], rtol=1e-3)


def test_the_average_under_multi_steps_is_of_the_steps_taken():
    params = params_of()
    path, opt_state = run(optax.MultiSteps(averaged(), 2).gradient_transformation(), params)
    taken = jax.tree.map(lambda a: a[1::2], path)
    judged = optim.eval_params(opt_state, last(path))
    chex.assert_trees_all_close(judged, ema_by_optax(taken, 0.8, steps=3), rtol=1e-5)


class Doubled(NamedTuple):
    """A state of somebody's own"""

    factor: Any

    def eval_params(self, params):
        return jax.tree.map(lambda p: self.factor * p, params)


def test_a_state_of_ones_own_has_a_say_and_later_ones_go_by_what_comes_before():
    params = params_of()
    twice = jax.tree.map(lambda p: 2 * p, params)
    chex.assert_trees_all_equal(optim.eval_params({"a": [Doubled(2.0)]}, params), twice)
    average = optim.ema_params().init(params)
    chex.assert_trees_all_equal(optim.eval_params((average, Doubled(2.0)), twice), twice)
    chex.assert_trees_all_equal(optim.eval_params((Doubled(2.0), average), twice), params)


def test_evaluation_while_fitting_goes_by_the_judged_parameters(key):
    draw = np.random.default_rng(0)
    data = jnp.asarray(draw.normal(size=(40, 4)), jnp.float32), jnp.asarray(draw.integers(3, size=40))
    objective = jnn.supervised(jnn.serial(jnn.dense(3)), jnn.losses.softmax_cross_entropy)
    for optimizer in (averaged(), optax.contrib.schedule_free_sgd(0.5), optim.lbfgs()):
        training = jnn.training(objective, optimizer)
        fitted = jnn.fit(training, data, key=key, steps=3, eval_data=data)
        end = fitted.train_state
        judged = optim.eval_params(end.opt_state, end.params)
        score = jnn.evaluate(objective, judged, end.state, data)["loss"]
        np.testing.assert_allclose(fitted.history["eval"]["loss"][-1], score, rtol=1e-6)
        assert abs(score - jnn.evaluate(objective, end.params, end.state, data)["loss"]) > 1e-5 * score
        after, metrics = training.step(end, data, train=False)
        np.testing.assert_allclose(metrics["loss"], score, rtol=1e-6)
        chex.assert_trees_all_equal(after.params, end.params)
