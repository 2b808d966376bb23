from collections import OrderedDict

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn import tree


def block():
    return jnn.residual(jnn.serial(jnn.dense(4), jnp.tanh))


@pytest.fixture(scope="module")
def params():
    model = jnn.serial(jnn.dense(4), block(), jnn.repeat(jnn.serial(jnn.dense(4), jnp.tanh), 3), head=jnn.dense(2))
    return model.init(jax.random.key(0), jnp.ones((2, 6)))[0]


PATHS = [
    "dense_0/b",
    "dense_0/w",
    "head/b",
    "head/w",
    "repeat_2/dense_0/b",
    "repeat_2/dense_0/w",
    "residual_1/layer/dense_0/b",
    "residual_1/layer/dense_0/w",
]


def test_flatten_gives_paths_and_unflatten_the_tree_again(params):
    flat = tree.flatten(params)
    assert list(flat) == PATHS
    assert flat["residual_1/layer/dense_0/w"] is params["residual_1"]["layer"]["dense_0"]["w"]
    chex.assert_trees_all_equal(tree.unflatten(flat), params)
    assert tree.flatten({}) == tree.unflatten({}) == {}


def test_flatten_names_the_parts_of_any_tree():
    x = jnp.ones(2)
    train_state = jnn.TrainState({"w": x}, {}, (x, [x]), None, 3)
    assert list(tree.flatten(train_state)) == ["params/w", "opt_state/0", "opt_state/1/0", "step"]


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ("w", [path for path in PATHS if path.endswith("/w")]),
        ("dense_0", [path for path in PATHS if "dense_0" in path]),
        ("/dense_0", PATHS[:2]),
        ("/dense_0/w", PATHS[1:2]),
        ("dense_*/b", [path for path in PATHS if "dense" in path and path.endswith("b")]),
        ("residual_?/layer", PATHS[6:]),
        ("re*/*/b", ["repeat_2/dense_0/b"]),
        ("head/", ["head/b", "head/w"]),
        (("head", "residual_1"), ["head/b", "head/w", *PATHS[6:]]),
        (["head/w", "w"], [path for path in PATHS if path.endswith("/w")]),
        ((), []),
        (lambda path, array: array.ndim == 3, ["repeat_2/dense_0/w"]),
        (lambda path, array: False, []),
        (tree.is_weight, [path for path in PATHS if path.endswith("/w")]),
        ("*", PATHS),
    ],
)
def test_where_takes_components_in_a_row(where, taken, params):
    assert sorted(tree.flatten(tree.select(params, where))) == taken
    mask = tree.mask(params, where)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert [path for path, is_taken in tree.flatten(mask).items() if is_taken] == taken
    inside, outside = tree.split(params, where)
    assert sorted([*tree.flatten(inside), *tree.flatten(outside)]) == PATHS
    chex.assert_trees_all_equal(tree.merge(inside, outside), params)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("haed", "tree: no path contains 'haed'; did you mean head?"),
        ("ense_0", "tree: no path contains 'ense_0'; did you mean dense_0?"),
        ("dense_7/w", "tree: no path contains 'dense_7/w'; did you mean dense_0/w or dense_0/b or layer/dense_0?"),
        ("/w", "tree: no path contains '/w'; did you mean w?"),
        (("w", "haed/w"), "tree: no path contains 'haed/w'; did you mean head/w or head/b?"),
        ("conv_*/w", f"tree: no path contains 'conv_*/w'; there are {', '.join(PATHS)}"),
        ("", f"tree: no path contains ''; there are {', '.join(PATHS)}"),
    ],
)
def test_a_pattern_that_takes_nothing_is_refused_with_what_is_near(where, message, params, raises):
    with raises(ValueError, message):
        tree.select(params, where)
    with raises(ValueError, message):
        tree.mask(params, where)


def test_without_parameters_a_pattern_takes_nothing(raises):
    with raises(ValueError, "tree: no path contains 'w'; there are no parameters"):
        tree.select({}, "w")


def test_what_is_no_pattern_is_refused(params, raises):
    for where in (None, ("w", None)):
        with raises(TypeError, f"tree: where must be a pattern, several, or a function (path, array) -> bool, got {where!r}"):
            tree.mask(params, where)


def test_patterns_regard_upper_and_lower_case():
    x = {"W": jnp.ones(1), "w": jnp.ones(2)}
    assert list(tree.select(x, "w")) == ["w"]


def test_merge_replaces_a_head(params, key):
    head, _ = jnn.dense(7).init(key, jnp.ones(4))
    merged = tree.merge(params, {"head": head})
    assert merged["head"]["w"].shape == (4, 7)
    chex.assert_trees_all_equal(tree.split(merged, "head")[1], tree.split(params, "head")[1])
    assert params["head"]["w"].shape == (4, 2)


def test_merge_refuses_an_array_where_another_part_has_a_branch(params, raises):
    with raises(ValueError, "tree: head ends where another path goes on"):
        tree.merge(params, {"head": jnp.ones(3)})
    with raises(ValueError, "tree: head/b goes on where another path ends"):
        tree.merge({"head": jnp.ones(3)}, params)


def test_keys_that_would_be_read_as_paths_are_refused(raises):
    with raises(ValueError, "tree: the key 'a/b' has a '/' in it, which separates the keys of a path"):
        tree.flatten({"a/b": jnp.ones(1)})


def test_two_arrays_of_one_path_are_refused(raises):
    with raises(ValueError, "tree: two arrays have the path 'a/0'"):
        tree.mask({"a": OrderedDict([(0, jnp.ones(1)), ("0", jnp.ones(1))])}, "a")


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"layers": [jnp.ones(1)]}, "'layers/0'"),
        ({"a": {1: jnp.ones(1)}}, "'a/1'"),
        ((jnp.ones(1),), "'0'"),
        (jnp.ones(1), "'the root'"),
    ],
    ids=["list", "number", "tuple", "array"],
)
def test_what_would_not_come_back_the_same_is_refused(bad, where, raises):
    message = f"tree: expected a dict of dicts with names for keys, got an array at {where}"
    for function in (lambda: tree.split(bad, "*"), lambda: tree.select(bad, "*"), lambda: tree.merge(bad, {})):
        with raises(TypeError, message):
            function()


def test_rank_does_not_count_the_axes_of_repeat(key):
    inner = jnn.serial(jnn.repeat(jnn.dense(4), 2), jnn.dense(4))
    model = jnn.serial(jnn.repeat(inner, 3), repeat_last=jnn.repeat(jnn.dense(4), 2))
    params, _ = jax.eval_shape(model.init, key, jnp.ones((1, 4)))
    ranks = {path: (array.ndim, tree.rank(path, array)) for path, array in tree.flatten(params).items()}
    assert ranks == {
        "repeat_0/dense_1/b": (2, 1),
        "repeat_0/dense_1/w": (3, 2),
        "repeat_0/repeat_0/b": (3, 1),
        "repeat_0/repeat_0/w": (4, 2),
        "repeat_last/b": (2, 1),
        "repeat_last/w": (3, 2),
    }


def test_biases_scales_and_slopes_are_no_weights_however_they_are_stacked(key):
    block = jnn.serial(jnn.layer_norm(), jnn.prelu(), jnn.gru(4, reset_after=True), out=jnn.jordan(4, 4))
    model = jnn.compose(
        lambda net, x: net.maxout(net.blocks(x)), blocks=jnn.residual(jnn.repeat(block, 2)), maxout=jnn.maxout(3, 2)
    )
    params, _ = jax.eval_shape(model.init, key, jnp.ones((5, 4)))
    assert sorted({path.split("/")[-1] for path in tree.flatten(tree.select(params, tree.is_weight))}) == [
        "w",
        "wh",
        "wx",
        "wy",
    ]
    assert sorted({path.split("/")[-1] for path in tree.flatten(tree.split(params, tree.is_weight)[1])}) == [
        *("b", "bh", "bias", "by", "scale", "slope")
    ]


def test_a_mask_is_what_optax_masked_wants(params):
    grads = jax.tree.map(jnp.zeros_like, params)
    for mask in (tree.mask(params, "w"), lambda params: tree.mask(params, "w")):
        decay = optax.masked(optax.add_decayed_weights(0.5), mask)
        updates, _ = decay.update(grads, decay.init(params), params)
        for path, update in tree.flatten(updates).items():
            expected = 0.5 * tree.flatten(params)[path] if path.endswith("/w") else jnp.zeros_like(update)
            np.testing.assert_array_equal(update, expected)


def test_everything_works_on_traced_and_abstract_arrays(params):
    @jax.jit
    def without_biases(params):
        weights, rest = tree.split(params, tree.is_weight)
        return tree.merge(weights, jax.tree.map(jnp.zeros_like, rest))

    after = without_biases(params)
    chex.assert_trees_all_equal(tree.select(after, "w"), tree.select(params, "w"))
    assert all(not np.any(b) for b in tree.flatten(tree.select(after, "b")).values())

    abstract = jax.eval_shape(lambda: params)
    assert sorted(tree.flatten(tree.select(abstract, "w"))) == [path for path in PATHS if path.endswith("/w")]
    assert tree.flatten(tree.mask(abstract, tree.is_weight)) == {path: path.endswith("/w") for path in PATHS}
