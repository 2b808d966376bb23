import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn import populations

DRAW = np.random.default_rng(0)
DATA = (DRAW.normal(size=(12, 3)).astype(np.float32), DRAW.integers(0, 2, 12).astype(np.int32))
HPARAMS = {"learning_rate": np.array([0.01, 0.1, 0.3], np.float32), "rate": np.array([0.0, 0.2, 0.5], np.float32)}


def run(hparams, key, data):
    model = jnn.serial(jnn.dropout(hparams["rate"]), jnn.dense(2))
    objective = jnn.supervised(model, jnn.losses.softmax_cross_entropy)
    train = jnn.training(objective, jnn.optim.adam(hparams["learning_rate"]))
    fitted = jnn.fit(train, data, key=key, steps=5, batch_size=5)
    return {"loss": fitted.history["loss"], "params": fitted.train_state.params}


def cheap(hparams, key):
    return {"value": hparams["a"] * jax.random.normal(key, (2,)), "twice": 2 * hparams["b"]}


CHEAP = {"a": np.arange(1, 6, dtype=np.float32), "b": np.arange(10).reshape(5, 2).astype(np.int32)}


def expected_of_cheap(seeds, seed=0):
    noise = np.stack([jax.random.normal(key, (2,)) for key in jax.random.split(jax.random.key(seed), seeds)])
    return {
        "value": CHEAP["a"][:, None, None] * noise,
        "twice": np.repeat(2 * CHEAP["b"][:, None], seeds, axis=1),
    }


def test_sweep_equals_separate_runs():
    results = jnn.sweep(run, HPARAMS, seeds=2, seed=7, data=DATA)
    keys = jax.random.split(jax.random.key(7), 2)
    one = jax.jit(run)
    for trial in range(3):
        hparams = {name: values[trial] for name, values in HPARAMS.items()}
        for s in range(2):
            result = jax.tree.map(lambda a, t=trial, s=s: a[t, s], results)
            chex.assert_trees_all_close(result, one(hparams, keys[s], DATA), rtol=1e-5, atol=1e-5)
    assert len(np.unique(results["loss"][..., -1])) == 6


@pytest.mark.parametrize("cores", [1, 2, 4, 7, 64])
@pytest.mark.parametrize("seeds", [1, 3])
def test_lanes_need_not_divide_the_cores(cores, seeds, monkeypatch):
    monkeypatch.setattr(populations, "cores", lambda: cores)
    chex.assert_trees_all_close(jnn.sweep(cheap, CHEAP, seeds=seeds), expected_of_cheap(seeds), rtol=1e-6)


def test_the_seed_picks_the_keys():
    chex.assert_trees_all_close(jnn.sweep(cheap, CHEAP, seeds=2, seed=5), expected_of_cheap(2, seed=5), rtol=1e-6)
    chex.assert_trees_all_equal(jnn.sweep(cheap, CHEAP, seeds=2), jnn.sweep(cheap, CHEAP, seeds=2, seed=0))


def test_a_lane_of_nan_does_not_reach_the_others():
    rates = HPARAMS["learning_rate"].copy()
    rates[1] = np.nan
    broken = jnn.sweep(run, {**HPARAMS, "learning_rate": rates}, seeds=2, data=DATA)
    whole = jnn.sweep(run, HPARAMS, seeds=2, data=DATA)
    assert np.all(np.isnan(broken["loss"][1, :, 1:]))
    for trial in (0, 2):
        chex.assert_trees_all_equal(*(jax.tree.map(lambda a, t=trial: a[t], results) for results in (broken, whole)))


def test_sweep_works_inside_jit_with_traced_hyperparameters_and_data():
    inside = jax.jit(lambda hparams, data: jnn.sweep(run, hparams, seeds=2, data=data))(HPARAMS, DATA)
    chex.assert_trees_all_close(inside, jnn.sweep(run, HPARAMS, seeds=2, data=DATA), rtol=1e-5, atol=1e-5)


def test_sweep_works_inside_jit_with_hyperparameters_that_are_not_traced():
    chex.assert_trees_all_close(jax.jit(lambda: jnn.sweep(cheap, CHEAP, seeds=2))(), expected_of_cheap(2), rtol=1e-6)


@pytest.mark.parametrize("transformation", [jax.vmap, jax.jacfwd, jax.jacrev])
def test_sweep_works_where_its_function_closes_over_a_traced_array(transformation):
    scaled = lambda scale: jnn.sweep(lambda h, key: scale * h["a"], CHEAP, seeds=2)
    expected = np.repeat(CHEAP["a"][:, None], 2, axis=1)
    at = jnp.ones(1) if transformation is jax.vmap else jnp.float32(1)
    np.testing.assert_allclose(jnp.squeeze(transformation(scaled)(at)), expected, rtol=1e-6)


def test_sweep_works_in_double_precision(x64):
    results = jnn.sweep(lambda h, key, data: h * jnp.sum(data), np.array([0.1, 0.2]), seeds=2, data=np.array([1e-9, 1.0]))
    assert results.dtype == jnp.float64
    np.testing.assert_allclose(results, np.repeat([[0.1], [0.2]], 2, axis=1) * (1 + 1e-9), rtol=1e-15)


def test_a_traced_key_leaf_and_nested_hyperparameters_work(key):
    keys = jax.random.split(key, 2)
    hparams = {"optimizer": {"learning_rate": np.array([1.0, 2.0], np.float32)}, "init_key": keys}
    results = jnn.sweep(lambda h, k: h["optimizer"]["learning_rate"] * jax.random.normal(h["init_key"]), hparams, seeds=2)
    expected = [factor * jax.random.normal(k) for factor, k in zip((1.0, 2.0), keys, strict=True)]
    np.testing.assert_allclose(results, np.repeat(np.array(expected)[:, None], 2, axis=1), rtol=1e-6)


def test_second_sweep_of_the_same_function_does_not_retrace():
    traces = []

    def counted(hparams, key):
        traces.append(1)
        return cheap(hparams, key)

    jnn.sweep(counted, CHEAP, seeds=2)
    first = len(traces)
    jnn.sweep(counted, {"a": CHEAP["a"] + 1, "b": CHEAP["b"]}, seeds=2, seed=3)
    assert len(traces) == first == 1


def test_an_exception_in_a_run_comes_through():
    def broken(hparams, key):
        raise KeyError("no such hyperparameter")

    with pytest.raises(KeyError, match="no such hyperparameter"):
        jnn.sweep(broken, CHEAP, seeds=2)


@pytest.mark.parametrize(
    ("hparams", "got"),
    [
        ({"a": np.ones(3), "b": np.ones(2)}, "(3,), (2,)"),
        ({"a": np.float32(1.0)}, "()"),
        ({"a": [0.1, 0.2]}, "(), ()"),
        ({"a": np.ones((0, 2))}, "(0, 2)"),
        ({}, "none"),
    ],
)
def test_hyperparameters_without_one_leading_axis_are_refused(hparams, got, raises):
    with raises(ValueError, f"sweep: hparams need one leading axis of at least one trial, got {got}"):
        jnn.sweep(cheap, hparams, seeds=2)


def test_an_empty_hyperparameter_of_a_trial_is_allowed():
    np.testing.assert_array_equal(jnn.sweep(lambda h, key: jnp.sum(h), np.ones((3, 0), np.float32), seeds=1), np.zeros((3, 1)))


def test_fewer_than_one_seed_is_refused(raises):
    with raises(ValueError, "sweep: seeds must be at least 1, got 0"):
        jnn.sweep(cheap, CHEAP, seeds=0)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 2), (6, 3), (3, 8)])
def test_chunks_have_one_size_and_join_to_the_whole(count, size):
    tree = {"a": jnp.arange(count), "b": jnp.ones((count, 2)) * jnp.arange(count)[:, None].astype(float)}
    pieces = list(populations.chunks(tree, size))
    assert {piece["a"].shape for piece in pieces} == {(size,)}
    chex.assert_trees_all_equal(populations.join(pieces, count), tree)


def test_runs_of_large_products_follow_each_other_with_the_same_results(monkeypatch):
    expected = jnn.sweep(run, HPARAMS, seeds=2, seed=7, data=DATA)
    monkeypatch.setattr(populations, "_WORTH_A_PROCESSOR", 1)
    again = lambda hparams, key, data: run(hparams, key, data)
    chex.assert_trees_all_close(jnn.sweep(again, HPARAMS, seeds=2, seed=7, data=DATA), expected, rtol=1e-5, atol=1e-6)


def test_what_counts_is_where_most_operations_are():
    w = np.ones((64, 64), np.float32)

    def program(steps):
        def loop(x):
            x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=steps)
            return jnp.tile(x, (64, 1)) @ w

        return jax.make_jaxpr(loop)(np.ones((16, 64), np.float32)).jaxpr

    assert populations._is_of_large_products(program(10))
    assert not populations._is_of_large_products(program(1000))
