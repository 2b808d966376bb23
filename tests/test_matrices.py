"""What muon does with matrices, beyond its row in test_optim.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn import optim
from jnn.optim.matrices import orthogonal


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def run(optimizer, params, steps=4):
    """-> the parameters after a few steps along gradients that depend on all of them"""
    loss = lambda params: sum(jnp.sum(jnp.sin(3 * p)) for p in jax.tree.leaves(params))

    def step(carry, _):
        params, opt_state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optim.apply_updates(params, updates), opt_state), None

    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0])(params)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6), (2, 3, 5, 4)], ids=str)
def test_singular_values_become_about_one_and_singular_vectors_stay(shape, x64):
    x = normal(0, *shape)
    y = orthogonal(x, jnp.asarray(1e-8))
    u, _, v = np.linalg.svd(x, full_matrices=False)
    middle = np.swapaxes(u, -1, -2) @ np.asarray(y) @ np.swapaxes(v, -1, -2)
    values = np.diagonal(middle, axis1=-2, axis2=-1)
    np.testing.assert_allclose(middle - values[..., None] * np.eye(values.shape[-1]), 0, atol=1e-9)
    assert np.all((values > 0.5) & (values < 1.5))  # as the source says


def test_a_stack_of_layers_is_as_many_matrices(x64):
    """and so are maxout's pieces, and a kernel is one, its output channels its columns"""
    separate = {f"dense_{i}": {"w": normal(i, 5, 3), "b": normal(9 + i, 3)} for i in range(4)}
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *separate.values())
    optimizer = optim.muon(0.1, weight_decay=0.2)
    expected = run(optimizer, separate)
    stacked = run(optimizer, {"repeat_0": {"dense_0": stack}})["repeat_0"]["dense_0"]
    for i in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], stacked), expected[f"dense_{i}"], rtol=1e-9)
    pieces = run(optim.muon(0.1, weight_decay=0.2, where="w"), {"maxout_0": stack})["maxout_0"]
    chex.assert_trees_all_close(pieces["w"], stacked["w"], rtol=1e-9)
    two_by_two = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), stack)
    nested = run(optimizer, {"repeat_0": {"repeat": two_by_two}})["repeat_0"]["repeat"]
    chex.assert_trees_all_close(jax.tree.map(lambda a: a.reshape(4, *a.shape[2:]), nested), stacked, rtol=1e-9)
    kernel = run(optim.muon(0.1, where="w"), {"conv_0": {"w": stack["w"]}})["conv_0"]["w"]
    matrix = run(optim.muon(0.1), {"dense_0": {"w": stack["w"].reshape(20, 3)}})["dense_0"]["w"]
    np.testing.assert_allclose(kernel, matrix.reshape(4, 5, 3), rtol=1e-9)


def test_plain_matrices_move_as_in_optax(x64):
    params = {"tall": normal(0, 6, 2), "wide": normal(1, 2, 6), "square": normal(2, 3, 3)}
    for options, same in (({}, {}), ({"momentum": 0.8, "weight_decay": 0.3}, {"beta": 0.8, "weight_decay": 0.3})):
        ours, theirs = run(optim.muon(0.02, **options), params, 50), run(optax.contrib.muon(0.02, **same), params, 50)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-9)


def test_a_tree_of_one_matrix_or_of_one_vector_will_do(x64):
    for params, rest in ((normal(0, 3, 2), optax.contrib.muon), (normal(0, 3), optax.adamw)):
        np.testing.assert_allclose(run(optim.muon(0.1), params), run(rest(0.1, weight_decay=0.0), params), rtol=1e-9)


def test_which_parameters_are_matrices(key):
    model = jnn.serial(
        jnn.embed(7, 4),
        jnn.learned_positions(6),
        jnn.repeat(jnn.residual(jnn.serial(jnn.layer_norm(), jnn.attention(2), jnn.dense(4))), 3),
        jnn.lstm(4),
        jnn.conv(3, (2,)),
        jnn.maxout(2, 3),
        head=jnn.dense(2),
    )
    params, _ = jax.jit(lambda key: model.init(key, jnp.zeros((2, 6), jnp.int32)))(key)
    moments = optim.muon(0.1).init(params)
    taken = {path for path, _ in jnn.tree.flatten(moments.matrices.mean).items()}
    layer = "repeat_2/layer"
    attention = {f"{layer}/attention_1/{name}/w" for name in ("q", "k", "v", "out")}
    assert taken == {*attention, f"{layer}/dense_2/w", "lstm_3/wx", "lstm_3/wh", "head/w"}
    assert taken | set(jnn.tree.flatten(moments.others.mean)) == set(jnn.tree.flatten(params))

    with_kernels = lambda path, p: jnn.tree.is_weight(path, p) and path.startswith(("conv", "maxout"))
    chosen = optim.muon(0.1, where=with_kernels).init(params)
    assert set(jnn.tree.flatten(chosen.matrices.mean)) == {"conv_4/w", "maxout_5/w"}


def test_the_rest_is_adamws_with_a_rate_of_its_own(x64):
    params = {"dense_0": {"w": normal(0, 3, 4), "b": normal(1, 4)}, "embed_1": {"table": normal(2, 5, 3)}}
    moved = run(optim.muon(0.02, weight_decay=0.3, adam_learning_rate=0.001, b1=0.8, b2=0.9, eps=1e-4), params)
    mask = {"dense_0": {"b": False}, "embed_1": {"table": True}}
    rest = {"dense_0": {"b": params["dense_0"]["b"]}, "embed_1": params["embed_1"]}
    expected = run(optax.adamw(0.001, 0.8, 0.9, 1e-4, weight_decay=0.3, mask=mask), rest)
    np.testing.assert_allclose(moved["dense_0"]["b"], expected["dense_0"]["b"], rtol=1e-9)
    np.testing.assert_allclose(moved["embed_1"]["table"], expected["embed_1"]["table"], rtol=1e-9)


def test_what_is_no_matrix_is_refused_by_its_path(raises):
    params = {"repeat_0": {"dense_0": {"b": jnp.zeros((3, 2))}}}
    with raises(ValueError, "muon: repeat_0/dense_0/b (3, 2) is no matrix"):
        optim.muon(0.1, where="b").init(params)
    with raises(ValueError, "muon: the leaf (3,) is no matrix"):
        optim.muon(0.1, where=lambda path, p: True).init(jnp.zeros(3))
