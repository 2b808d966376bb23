"""What holds for every layer. A family's test file lists its layers as rows and inherits the tests:

CASES = [Case("dense", lambda: jnn.dense(3), shape=(4,), oracle=flax_dense, has_params=True)]

class TestEveryLayer(LayerProperties):
    cases = CASES
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
import safetensors.flax

import jnn


def normal(shape, dtype, rng):
    return rng.normal(size=shape).astype(dtype)


class Case(NamedTuple):
    name: str
    make: Callable[..., jnn.Layer]  # of its real hyperparameters
    shape: tuple[int, ...]  # of one example
    oracle: Callable[..., Any]  # (params, state, x) -> y, with train=False, by another library or by a formula
    reals: tuple[float, ...] = ()
    is_random: bool = False  # while training
    has_params: bool = False
    input: Callable = normal  # (shape, dtype, numpy generator) -> a numpy array or a pytree of them: normal numbers
    leading: bool = True  # takes any number of leading axes
    mixes_examples: bool = False  # while training, an example's value depends on the others (batch norm)
    fresh_state: bool = False  # the state is that of init (a cache), and changes with train=False too
    differentiable: bool = True  # with respect to x
    rtol: float = 1e-5  # float32; 1e-12 in float64. More only with the reason beside it.
    drawn: bool = True  # initial parameters depend on the key


def pytest_cases(metafunc):
    """Called from conftest: each test of the class runs for each row of its table."""
    if "case" in metafunc.fixturenames and getattr(metafunc.cls, "cases", None) is not None:
        cases = metafunc.cls.cases
        wanted = getattr(metafunc.function, "rows", None)
        cases = [case for case in cases if wanted is None or wanted(case)]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def only(condition):
    """The test is for those rows where the condition holds."""

    def mark(test):
        test.rows = condition
        return test

    return mark


def filled(tree, dtype=np.float32, seed=0, positive=False):
    """The same tree with normal numbers in it: biases that are zero would hide a sign."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        numbers = rng.normal(size=leaf.shape)
        return jnp.asarray(0.5 + np.abs(numbers) if positive else numbers, dtype)

    return jax.tree.map(fill, tree)


def untrained(layer):
    """A decoding twin refuses train=True; what holds for every layer is asked of it without."""

    def apply(params, state, x, *, key=None, train=False):
        return layer.apply(params, state, x, key=key)

    return jnn.Layer(layer.init, apply)


def running_mean() -> jnn.Layer:
    """A user's own layer with state: takes away a running mean of the last axis."""

    def init(key, x):
        return {}, {"mean": jnp.zeros(x.shape[-1:], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        if train:
            mean = jnp.mean(x, axis=range(x.ndim - 1)).astype(state["mean"].dtype)
            state = {"mean": 0.5 * state["mean"] + 0.5 * mean}
        return x - state["mean"].astype(x.dtype), state

    return jnn.Layer(init, apply)


def flax_dense(params, x):
    return nn.Dense(params["b"].size).apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree):
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(count)]


def inputs(case, leading, dtype=np.float32):
    x = case.input((*leading, *case.shape), dtype, np.random.default_rng(3))
    return jax.tree.map(jnp.asarray, x)


def shapes_of(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def example(case, leading=(5,), dtype=np.float32):
    """-> layer, params, state, x: parameters of normal numbers, all floating-point ones in `dtype`"""
    layer = case.make(*case.reals)
    leading = leading if case.leading else ()
    params, state = jax.eval_shape(layer.init, jax.random.key(0), shapes_of(inputs(case, leading)))
    params = filled(params, dtype, 1)
    if case.fresh_state:
        state = layer.init(jax.random.key(0), inputs(case, leading))[1]
        state = jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)
    else:
        state = filled(state, dtype, 2, positive=True)
    return layer, params, state, inputs(case, leading, dtype)


def oracle(case, *args):
    with jax.numpy_dtype_promotion("standard"):
        return case.oracle(*args)


def precision_of(dtype):
    return jax.enable_x64(True) if dtype == jnp.float64 else contextlib.nullcontext()


def inner_product(towards, y):
    return sum(jnp.vdot(t, a) for t, a in zip(jax.tree.leaves(towards), jax.tree.leaves(y), strict=True))


def floats(tree):
    """The floating-point leaves: what has a derivative. Integers (senders, tokens) are carried along."""
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


class LayerProperties:
    cases: Any = None

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda d: d.__name__)
    def test_values_and_gradients_equal_the_oracles(self, case, dtype):
        rtol = case.rtol if dtype == jnp.float32 else 1e-12
        with precision_of(dtype):
            layer, params, state, x = example(case, dtype=dtype)
            shape = jax.eval_shape(lambda p, x: oracle(case, p, state, x), params, x)
            towards = [filled(a, dtype, 4) for a in floats(shape)]
            floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(x))
            wrt = (0, 1) if case.differentiable and floating else 0

            def y_and_gradients(apply):
                def value(p, x):
                    y = apply(p, x)
                    return inner_product(towards, floats(y)), y

                grads, y = jax.jit(jax.grad(value, wrt, has_aux=True))(params, x)
                return y, jax.tree.leaves(grads)

            y, ours = y_and_gradients(lambda p, x: layer.apply(p, state, x)[0])
            expected, theirs = y_and_gradients(lambda p, x: oracle(case, p, state, x))
            chex.assert_trees_all_equal_shapes_and_dtypes(y, expected)
            chex.assert_trees_all_close(y, expected, rtol=rtol, atol=rtol)
            for a, b in zip(ours, theirs, strict=True):
                scale = max(1.0, float(jnp.max(jnp.abs(b), initial=0)))
                np.testing.assert_allclose(a / scale, b / scale, rtol=rtol, atol=rtol)

    @only(lambda case: case.differentiable)
    def test_gradients_equal_centred_differences(self, case):
        layer, params, state, x = example(case, leading=(2,))
        moved = {"params": params, "x": floats(x)}
        treedef = jax.tree.structure(x)
        fixed = jax.tree.leaves(x)

        def value(moved):
            rest = iter(moved["x"])
            leaves = [next(rest) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in fixed]
            return layer.apply(moved["params"], _like(moved, state), jax.tree.unflatten(treedef, leaves))[0]

        jnn.check_gradients(value, (moved,))

    def test_vmap_and_scan_give_the_oracles_values(self, case):
        layer, params, state, x = example(case)
        batch = x if case.leading else jax.tree.map(lambda a: jnp.stack([a, a]), x)
        expected = jax.jit(jax.vmap(lambda x: oracle(case, params, state, x)))(batch)

        def apply(x):
            return layer.apply(params, state, x)[0]

        close = {"rtol": 10 * case.rtol, "atol": 10 * case.rtol}
        chex.assert_trees_all_close(jax.jit(jax.vmap(apply))(batch), expected, **close)
        scanned = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry, apply(x)), None, xs)[1])(batch)
        chex.assert_trees_all_close(scanned, expected, **close)

    def test_training_works_under_jit_vmap_grad_and_scan(self, case, key):
        layer, params, state, x = example(case, leading=(2, 5))
        x = x if case.leading else jax.tree.map(lambda a: jnp.stack([a] * 2), x)
        keys = jax.random.split(key, 2)
        each_key = list(keys)

        def apply(params, state, x, key):
            return layer.apply(params, state, x, key=key, train=True)

        def step(params, state, x, key):
            y, state = apply(params, state, x, key)
            return state, y

        def scanned(params):
            return jax.lax.scan(lambda s, x_and_key: step(params, s, *x_and_key), state, (x, keys))

        def unrolled(params):
            states, ys = [state], []
            for x_t, key_t in zip(unstacked(x), each_key, strict=True):
                last, y = step(params, states[-1], x_t, key_t)
                states.append(last)
                ys.append(y)
            return stacked(states[:-1]), stacked(states[1:]), stacked(ys)

        def value_and_gradient(run):
            def value(p):
                *states, ys = run(p)
                return sum(jnp.sum(jnp.square(y)) for y in floats(ys)), (*states, ys)

            return jax.jit(jax.value_and_grad(value, has_aux=True))(params)

        (_, in_scan), scan_grads = value_and_gradient(scanned)
        (_, (before, after, ys)), loop_grads = value_and_gradient(unrolled)
        close = {"rtol": 20 * case.rtol, "atol": 20 * case.rtol}
        chex.assert_trees_all_close(in_scan, (jax.tree.map(lambda a: a[-1], after), ys), **close)
        for a, b in zip(jax.tree.leaves(scan_grads), jax.tree.leaves(loop_grads), strict=True):
            scale = max(1.0, float(jnp.max(jnp.abs(b), initial=0)))
            np.testing.assert_allclose(a / scale, b / scale, **close)

        together = jax.jit(jax.vmap(apply, (None, 0, 0, 0)))(params, before, x, keys)
        chex.assert_trees_all_close(together, (ys, after), **close)

    @only(lambda case: case.leading)
    @pytest.mark.parametrize("leading", [(), (2, 1, 3)], ids=str)
    def test_any_number_of_leading_axes_gives_each_example_its_own_value(self, case, leading):
        layer, params, state, x = example(case, leading)
        y, _ = jax.jit(layer.apply)(params, state, x)
        count = int(np.prod(leading))
        flat = jax.tree.map(lambda a: a.reshape(count, *a.shape[len(leading) :]), x)
        single = jax.jit(lambda one: oracle(case, params, state, one))
        each = stacked([single(one) for one in unstacked(flat)])
        each = jax.tree.map(lambda a: a.reshape(*leading, *a.shape[1:]), each)
        chex.assert_trees_all_close(y, each, rtol=10 * case.rtol, atol=10 * case.rtol)

    @only(lambda case: case.leading)
    def test_no_examples_give_no_values(self, case):
        layer, params, state, x = example(case, leading=(0,))
        y, one = (jax.eval_shape(lambda x: layer.apply(params, state, x)[0], x) for x in (x, inputs(case, ())))
        assert jax.tree.map(jnp.shape, y) == jax.tree.map(lambda a: (0, *a.shape), one)

    def test_init_reads_only_shapes_and_dtypes(self, case, key):
        layer = case.make(*case.reals)
        x = inputs(case, (5,) if case.leading else ())
        made = layer.init(key, shapes_of(x))
        chex.assert_trees_all_equal_shapes_and_dtypes(made, jax.eval_shape(layer.init, key, shapes_of(x)))
        given = shapes_of(x), jax.tree.map(np.asarray, x)
        of_shapes, of_arrays = (str(jax.make_jaxpr(lambda key, x=x: layer.init(key, x))(key)) for x in given)
        assert of_shapes == of_arrays
        for leaf in jax.tree.leaves(made):
            assert isinstance(leaf, jax.Array)
        _only_plain_dicts(made)
        assert bool(made[0]) == case.has_params

    @only(lambda case: case.has_params)
    def test_init_under_vmap_draws_as_alone_the_same_for_one_key_and_not_for_another(self, case, key):
        layer = case.make(*case.reals)
        keys = jnp.stack([key, key, jax.random.fold_in(key, 1)])
        x = shapes_of(inputs(case, (2,) if case.leading else ()))
        first, second, other = unstacked(jax.jit(jax.vmap(lambda k: layer.init(k, x)))(keys))
        chex.assert_trees_all_close(first, layer.init(key, x), rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(second, first)
        differs = [np.any(a != b) for a, b in zip(jax.tree.leaves(other[0]), jax.tree.leaves(first[0]), strict=True)]
        assert any(differs) == case.drawn

    def test_parameters_and_state_are_float32_with_x64_too(self, case, key, x64):
        made = jax.eval_shape(case.make(*case.reals).init, key, shapes_of(inputs(case, (5,) if case.leading else ())))
        assert {leaf.dtype for leaf in floats(made)} <= {jnp.dtype(jnp.float32)}

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
    def test_dtype_is_kept(self, case, dtype, key):
        with precision_of(dtype):
            layer, params, state, x = example(case, dtype=dtype)
            for train in (False, True):
                apply = lambda p, s, x, k, train=train: layer.apply(p, s, x, key=k, train=train)
                y, new_state = jax.eval_shape(apply, params, state, x, key)
                assert {leaf.dtype for leaf in floats(y)} == {jnp.dtype(dtype)}
                assert shapes_of(new_state) == shapes_of(state)

    def test_bfloat16_is_near_float32(self, case):
        layer, params, state, x = example(case, dtype=jnp.bfloat16)
        y, _ = jax.jit(layer.apply)(params, state, x)
        wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
        expected, _ = jax.jit(layer.apply)(wide(params), wide(state), wide(x))
        for a, b in zip(floats(y), floats(expected), strict=True):
            # rounding to 8 bits, at the scale of the largest entry, a few times over
            np.testing.assert_allclose(wide(a), b, rtol=0.05, atol=0.05 * max(1.0, float(jnp.max(jnp.abs(b), initial=0))))

    @pytest.mark.parametrize("train", [False, True])
    def test_second_call_with_the_state_of_the_first_does_not_recompile(self, case, train, key):
        layer, params, state, x = example(case)
        chex.clear_trace_counter()
        apply = jax.jit(chex.assert_max_traces(lambda p, s, x, k: layer.apply(p, s, x, key=k, train=train), n=1))
        _, state = jax.eval_shape(apply, params, state, x, key)  # traces as a call does
        jax.eval_shape(apply, params, state, x, key)

    def test_same_key_gives_the_same_and_another_key_something_else(self, case, key):
        layer, params, state, x = example(case)
        other = jax.random.fold_in(key, 1)
        train = jax.jit(lambda key: layer.apply(params, state, x, key=key, train=True)[0])
        chex.assert_trees_all_equal(train(key), train(key))
        differs = [np.any(a != b) for a, b in zip(floats(train(key)), floats(train(other)), strict=True)]
        assert any(differs) == case.is_random

    def test_without_training_the_key_is_not_needed_and_the_state_stays(self, case, key):
        layer, params, state, x = example(case)
        apply = jax.jit(lambda key: layer.apply(params, state, x, key=key))
        y, new_state = apply(None)
        if not case.fresh_state:
            chex.assert_trees_all_equal(new_state, state)
        chex.assert_trees_all_equal(apply(key), (y, new_state))

    @only(lambda case: case.reals)
    def test_real_hyperparameters_may_be_traced(self, case, key):
        _, params, state, x = example(case)

        def train(*reals):
            return case.make(*reals).apply(params, state, x, key=key, train=True)

        factors = (0.5, 1.0, 1.25)
        fixed = stacked([train(*(factor * real for real in case.reals)) for factor in factors])
        traced = jax.jit(jax.vmap(train))(*(real * jnp.asarray(factors) for real in case.reals))
        chex.assert_trees_all_close(traced, fixed, rtol=10 * case.rtol, atol=10 * case.rtol)

    @only(lambda case: case.has_params)
    def test_parameters_survive_tree_util_safetensors_and_orbax(self, case, key, tmp_path):
        params = filled(jax.eval_shape(lambda: example(case)[1]))
        leaves, structure = jax.tree.flatten(params)
        chex.assert_trees_all_equal(jax.tree.unflatten(structure, leaves), params)

        flat = jnn.tree.flatten(params)
        safetensors.flax.save_file(flat, tmp_path / "params.safetensors")
        chex.assert_trees_all_equal(jnn.tree.unflatten(safetensors.flax.load_file(tmp_path / "params.safetensors")), params)

        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "orbax", params)
            checkpointer.wait_until_finished()
            chex.assert_trees_all_equal(checkpointer.restore(tmp_path / "orbax", params), params)


def _like(moved, state):
    """The state in the dtype that centred differences are taken in."""
    dtype = next(iter(floats(moved))).dtype
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)


def _only_plain_dicts(tree):
    for child in tree if isinstance(tree, tuple) else tree.values():
        if not isinstance(child, jax.Array):
            assert type(child) is dict
            _only_plain_dicts(child)
