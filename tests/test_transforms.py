"""What only one of the transforms promises; that all are optimizers like any other is in test_optim.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn import optim
from jnn.optim.matrices import as_matrices


def one_update(optimizer, grads, params=None, **extra):
    return optimizer.update(grads, optimizer.init(grads if params is None else params), params, **extra)[0]


def test_a_chain_passes_what_is_known_to_those_that_take_it():
    seen = []

    def recorder(*names):
        def update(grads, opt_state, params=None, *, value, value_fn):
            seen.append((value, value_fn, grads))
            return jax.tree.map(lambda g: g + 1, grads), opt_state

        return lambda params: (), update

    def greedy_update(grads, opt_state, params=None, **extra):
        seen.append(sorted(extra))
        return grads, opt_state

    grads, value_fn = {"w": jnp.zeros(2)}, lambda params: 3.0
    inner = optim.chain(recorder(), optim.sgd(1.0), recorder())
    optimizer = optim.chain(optim.clip_by_value(1.0), optax.identity(), inner, (lambda params: (), greedy_update))
    updates = one_update(optimizer, grads, grads, value=3.0, grad=grads, value_fn=value_fn, more=1)
    np.testing.assert_array_equal(updates["w"], 0)  # 1, -1, 0
    assert [entry[:2] for entry in seen[:2]] == [(3.0, value_fn)] * 2
    np.testing.assert_array_equal([entry[2]["w"] for entry in seen[:2]], [[0, 0], [-1, -1]])
    assert seen[2] == ["grad", "more", "value", "value_fn"]


@pytest.mark.parametrize("line_search", [optax.lbfgs, lambda: optax.polyak_sgd(f_min=0.0)], ids=["lbfgs", "polyak"])
def test_a_chain_gives_optaxs_line_searches_what_optax_gives_them(line_search, x64):
    def value_fn(params):
        return jnp.square(1 - params["x"]) + 100 * jnp.square(params["y"] - jnp.square(params["x"]))

    def run(optimizer):
        params = {"x": jnp.asarray(-1.2), "y": jnp.asarray(1.0)}
        opt_state = optimizer.init(params)
        update = jax.jit(lambda grads, opt_state, params, value: optimizer.update(
            grads, opt_state, params, value=value, grad=grads, value_fn=value_fn))  # fmt: skip
        for _ in range(5):
            value, grads = jax.value_and_grad(value_fn)(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = update(grads, opt_state, params, value)
            params = optim.apply_updates(params, updates)
        return params

    ours, theirs = (chain(optax.clip_by_global_norm(100.0), line_search()) for chain in (optim.chain, optax.chain))
    chex.assert_trees_all_close(run(ours), run(theirs), rtol=1e-12)


def test_a_chain_trains_in_fit_and_of_nothing_it_changes_nothing(key):
    objective = jnn.supervised(jnn.serial(jnn.repeat(jnn.dense(4), 2), jnn.dense(2)), jnn.losses.squared_error)
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.chain(), optim.muon(0.02), optim.max_norm(1.5))
    x = jax.random.normal(key, (16, 4))
    fitted = jnn.fit(jnn.training(objective, optimizer), (x, jnp.sin(x[:, :2])), key=key, steps=40)
    assert fitted.history["loss"][-1] < 0.5 * fitted.history["loss"][0]


def test_what_is_no_optimizer_is_refused(raises):
    with raises(TypeError, "chain: expected optimizers, pairs (init, update), got function at position 1"):
        optim.chain(optim.sgd(0.1), optim.adam)
    with raises(TypeError, "accumulate: expected an optimizer, a pair (init, update), got function"):
        optim.accumulate(optim.adam, 2)
    with raises(ValueError, "accumulate: every must be at least 1, got 0"):
        optim.accumulate(optim.sgd(0.1), 0)
    with raises(TypeError, "accumulate: every must be a whole number, got 1.5"):
        optim.accumulate(optim.sgd(0.1), 1.5)


def test_clipping_leaves_small_gradients_alone_and_shows_what_is_no_number():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    np.testing.assert_allclose(one_update(optim.clip_by_global_norm(2.5), grads)["a"], [1.5, 0.0], rtol=1e-6)
    chex.assert_trees_all_equal(one_update(optim.clip_by_global_norm(5.0), grads), grads)
    zeros = jax.tree.map(jnp.zeros_like, grads)
    chex.assert_trees_all_equal(one_update(optim.clip_by_global_norm(0.0), zeros), zeros)
    not_a_number = one_update(optim.clip_by_global_norm(1.0), {**grads, "b": jnp.array(jnp.nan)})
    assert all(np.isnan(update).all() for update in jax.tree.leaves(not_a_number))
    # the square of 1000 is infinite in float16
    clipped = one_update(optim.clip_by_global_norm(1.0), {"a": jnp.array([600.0, 800.0], jnp.float16)})
    np.testing.assert_allclose(clipped["a"], np.float16([0.6, 0.8]), rtol=1e-3)


def test_weight_decay_is_a_penalty_in_front_of_an_optimizer_and_decoupled_behind(x64):
    params, grads = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0])}, {"w": jnp.ones((1, 2)), "b": jnp.ones(1)}
    penalty = lambda params: 0.15 * jnp.sum(jnp.square(params["w"]))
    in_front = optim.chain(optim.weight_decay(0.3, where="w"), optim.adam(0.1))
    by_penalty = jax.tree.map(jnp.add, grads, jax.grad(penalty)(params))
    chex.assert_trees_all_close(one_update(in_front, grads, params), one_update(optim.adam(0.1), by_penalty), rtol=1e-12)
    behind = optim.chain(optax.scale_by_adam(), optim.weight_decay(0.3), optim.sgd(0.1))
    with jax.numpy_dtype_promotion("standard"):
        decoupled = one_update(optax.adamw(0.1, weight_decay=0.3), grads, params)
    chex.assert_trees_all_close(one_update(behind, grads, params), decoupled, rtol=1e-12)


def incoming(draw):
    """path -> an array, and the norms of all that leads to one unit, by loops"""
    norm = lambda a: np.sqrt(np.sum(np.square(a)))
    w, kernel, stack = draw.normal(size=(5, 3)), draw.normal(size=(2, 2, 4, 3)), draw.normal(size=(4, 5, 3))
    stack_of_pieces, pieces = draw.normal(size=(2, 3, 5, 4)), draw.normal(size=(3, 5, 4))
    return {
        "dense_0/w": (w, [norm(w[:, i]) for i in range(3)]),
        "conv_0/w": (kernel, [norm(kernel[..., i]) for i in range(3)]),
        "repeat_1/dense_0/w": (stack, [norm(stack[k, :, i]) for k in range(4) for i in range(3)]),
        "maxout_0/w": (pieces, [norm(pieces[p, :, i]) for p in range(3) for i in range(4)]),
        "repeat/maxout/w": (
            stack_of_pieces,
            [norm(stack_of_pieces[k, p, :, i]) for k in range(2) for p in range(3) for i in range(4)],
        ),
    }


@pytest.mark.parametrize("path", incoming(np.random.default_rng(0)))
def test_max_norm_scales_each_unit_by_itself(path, x64):
    after_step, norms = incoming(np.random.default_rng(0))[path]
    limit = float(np.median(norms))
    params = jnn.tree.unflatten({path: jnp.asarray(np.random.default_rng(1).normal(size=after_step.shape))})
    grads = jax.tree.map(lambda p: jnp.asarray(after_step) - p, params)
    updates = one_update(optim.max_norm(limit), grads, params)
    (w,), (step,), (given,) = map(jax.tree.leaves, (optim.apply_updates(params, updates), updates, grads))
    columns = lambda a: np.moveaxis(np.reshape(as_matrices(path, jnp.asarray(a)), (-1, *as_matrices(path, a).shape[1:])), 1, 0)
    flat = lambda a: columns(a).reshape(columns(a).shape[0], -1)
    np.testing.assert_allclose(np.linalg.norm(flat(w), axis=0), np.minimum(norms, limit), rtol=1e-12)
    np.testing.assert_allclose(flat(w) / np.linalg.norm(flat(w), axis=0), flat(after_step) / np.asarray(norms), rtol=1e-9)
    below = np.asarray(norms) < limit
    assert 0 < below.sum() < len(below)
    np.testing.assert_array_equal(flat(step)[:, below], flat(given)[:, below])  # to the last digit


def test_max_norm_takes_weights_by_default_and_others_where_told():
    params = {"dense_0": {"w": jnp.full((4, 2), 3.0), "b": jnp.full(2, 3.0)}, "scalar": jnp.full((), -3.0)}
    still = jax.tree.map(jnp.zeros_like, params)
    moved = optim.apply_updates(params, one_update(optim.max_norm(1.0), still, params))
    np.testing.assert_allclose(moved["dense_0"]["w"], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(moved["dense_0"]["b"], 3.0)
    moved = optim.apply_updates(params, one_update(optim.max_norm(1.0, where=("b", "scalar")), still, params))
    np.testing.assert_array_equal(moved["dense_0"]["w"], 3.0)
    np.testing.assert_allclose(moved["dense_0"]["b"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(moved["scalar"], -1.0, rtol=1e-6)


def test_accumulate_takes_the_mean_keeps_it_wide_and_waits_in_between(key):
    grads = jax.random.normal(key, (6, 3)).astype(jnp.bfloat16)
    optimizer = optim.accumulate(optim.chain(optim.momentum(1.0, 0.5)), 3)

    def run(grads):
        step = lambda opt_state, g: optimizer.update(g, opt_state)[::-1]
        return jax.lax.scan(step, optimizer.init(grads[0]), grads)[1]

    updates = jax.jit(jax.vmap(run))(jnp.stack([grads, 2 * grads]))
    assert updates.dtype == jnp.bfloat16
    first, second = np.mean(np.asarray(grads, np.float32).reshape(2, 3, 3), 1)
    for lane, size in enumerate([1, 2]):
        np.testing.assert_array_equal(np.delete(np.asarray(updates[lane], np.float32), [2, 5], 0), 0)
        np.testing.assert_allclose(np.float32(updates[lane][2]), -size * first, rtol=1e-2)
        np.testing.assert_allclose(np.float32(updates[lane][5]), -size * (0.5 * first + second), rtol=2e-2)


def test_accumulate_calls_the_optimizer_only_when_it_updates_and_hands_on_what_it_is_given():
    calls = []

    def update(grads, opt_state, params=None, *, value):
        jax.debug.callback(lambda value: calls.append(float(value)), value)
        return grads, opt_state

    optimizer = optim.accumulate((lambda params: (), update), 2)
    compiled = jax.jit(lambda opt_state, value: optimizer.update(jnp.ones(2), opt_state, None, value=value, grad=0)[1])
    opt_state = optimizer.init(jnp.zeros(2))
    for value in range(5):
        opt_state = compiled(opt_state, jnp.float32(value))
    jax.effects_barrier()
    assert calls == [1.0, 3.0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    "make", [optim.clip_by_global_norm, optim.clip_by_value, optim.weight_decay, optim.max_norm], ids=lambda f: f.__name__
)
def test_transforms_promote_nothing_in_silence(make, dtype):
    # in a chain they are called under standard promotion, alone under this suite's strict one
    with jax.enable_x64(dtype == jnp.float64):
        params = {"w": jnp.ones((3, 2), dtype), "b": jnp.ones((), dtype), "empty": jnp.ones((0, 3), dtype)}
        for number in (0.5, jnp.float32(0.5), np.float64(0.5), lambda step: 0.5 / (1 + step.astype(float))):
            optimizer = make(number)
            updates, opt_state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            assert int(opt_state.count) == 1
