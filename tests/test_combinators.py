import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.pairs import kind

from layer_properties import Case, LayerProperties, filled, flax_dense, normal, running_mean


def flax_network(params, state, x):
    x = jax.lax.collapse(x, x.ndim - 2)
    x = nn.relu(flax_dense(params["dense_1"], x))
    return flax_dense(params["head"], x - state["running_mean_4"]["mean"])


def pair(shape, dtype, rng):
    return normal(shape, dtype, rng), normal((*shape[:-1], 2), dtype, rng)


def block(rate):
    return jnn.serial(jnn.dense(4), jnp.tanh, jnn.dropout(rate), running_mean())


def flax_blocks(params, state, x):
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], params["dense_0"])
        x = nn.tanh(flax_dense(layer, x)) - state["running_mean_3"]["mean"][i]
    return x


def flax_residual_blocks(params, state, x):
    for i in range(2):
        layer = jax.tree.map(lambda a, i=i: a[i], params["layer"]["dense_0"])
        x = x + nn.tanh(flax_dense(layer, x)) - state["layer"]["running_mean_3"]["mean"][i]
    return x


def flax_mixed(params, state, x):
    left, right = flax_dense(params["dense_0"], x), nn.tanh(x)
    return jnp.concatenate([left, right, flax_dense(params["last"], x)], axis=-1)


CASES = [
    Case(
        "serial",
        lambda rate: jnn.serial(
            jnn.flatten(2), jnn.dense(32), jax.nn.relu, jnn.dropout(rate), running_mean(), head=jnn.dense(3)
        ),
        (2, 3),
        flax_network,
        (0.3,),
        is_random=True,
        has_params=True,
    ),
    Case(
        "parallel",
        lambda rate: jnn.parallel(jnn.dense(3), jnn.serial(running_mean(), jnn.dropout(rate)), other=jnp.tanh),
        (4,),
        lambda p, s, x: (flax_dense(p["dense_0"], x[0]), x[1] - s["serial_1"]["running_mean_0"]["mean"], nn.tanh(x[2])),
        (0.3,),
        is_random=True,
        has_params=True,
        input=lambda shape, dtype, rng: (*pair(shape, dtype, rng), normal(shape, dtype, rng)),
    ),
    Case(
        "branch concat",
        lambda: jnn.branch(jnn.dense(3), jnp.tanh, last=jnn.dense(1)),
        (4,),
        flax_mixed,
        has_params=True,
    ),
    Case(
        "branch sum",
        lambda rate: jnn.branch(jnn.dense(4), jnn.dropout(rate), running_mean(), merge="sum"),
        (4,),
        lambda p, s, x: flax_dense(p["dense_0"], x) + x + x - s["running_mean_2"]["mean"],
        (0.3,),
        is_random=True,
        has_params=True,
    ),
    Case(
        "residual with a shortcut",
        lambda: jnn.residual(jnn.dense(3), jnn.serial(running_mean(), jnn.dense(3))),
        (4,),
        lambda p, s, x: (
            flax_dense(p["layer"], x) + flax_dense(p["shortcut"]["dense_1"], x - s["shortcut"]["running_mean_0"]["mean"])
        ),
        has_params=True,
    ),
    Case("repeat", lambda rate: jnn.repeat(block(rate), 3), (4,), flax_blocks, (0.3,), is_random=True, has_params=True),
    Case(
        "repeat of remat of residual",
        lambda rate: jnn.repeat(jnn.remat(jnn.residual(block(rate))), 2),
        (4,),
        flax_residual_blocks,
        (0.3,),
        is_random=True,
        has_params=True,
    ),
]


class TestEveryCombinator(LayerProperties):
    cases = CASES


def counter() -> jnn.Layer:
    """A user's own layer: adds how often it was trained."""

    def init(key, x):
        return {}, {"count": jnp.zeros([], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        return x + state["count"].astype(x.dtype), {"count": state["count"] + 1} if train else state

    return jnn.Layer(init, apply)


def notes(error) -> list[str]:
    # jax adds a note of its own about its traceback
    return [note for note in error.value.__notes__ if "layer" in note]


def test_children_are_called_by_factory_and_position_or_by_keyword(key):
    model = jnn.serial(
        jnn.dense(8), jax.nn.relu, counter(), jnn.serial(jnn.dense(4), jnn.dropout(0.5)), jnn.dense(3), head=jnn.dense(2)
    )
    params, state = model.init(key, jnp.ones((2, 5)))
    assert jax.tree.map(jnp.shape, params) == {
        "dense_0": {"w": (5, 8), "b": (8,)},
        "serial_3": {"dense_0": {"w": (8, 4), "b": (4,)}},
        "dense_4": {"w": (4, 3), "b": (3,)},
        "head": {"w": (3, 2), "b": (2,)},
    }
    assert jax.tree.map(jnp.shape, state) == {"counter_2": {"count": ()}}


def test_serial_of_nothing_is_the_identity(key):
    model = jnn.serial()
    x = jnp.arange(3.0)
    assert model.init(key, x) == ({}, {})
    np.testing.assert_array_equal(model.apply({}, {}, x, key=key, train=True)[0], x)


def test_state_of_every_child_is_carried(key):
    model = jnn.serial(counter(), jnn.serial(counter(), jnn.dense(1, w_init=jax.nn.initializers.ones)), last=counter())
    params, state = model.init(key, jnp.ones((2, 1)))
    for _ in range(3):
        y, state = model.apply(params, state, jnp.ones((2, 1)), key=key, train=True)
    np.testing.assert_array_equal(y, 1 + 2 + 2 + 2)
    assert state == {"counter_0": {"count": 3}, "serial_1": {"counter_0": {"count": 3}}, "last": {"count": 3}}


def test_children_draw_from_different_keys(key):
    x = jnp.ones((1, 200))
    model = jnn.serial(jnn.dropout(0.5), jnn.dropout(0.5))
    y, _ = model.apply({}, {}, x, key=key, train=True)
    # one mask twice would leave half of the entries, two masks a quarter
    assert 25 <= np.count_nonzero(y) <= 75
    params, _ = jnn.serial(jnn.dense(200), jnn.dense(200)).init(key, x)
    assert np.any(params["dense_0"]["w"] != params["dense_1"]["w"][:1])


def init_scale(key, x):
    return {"scale": jnp.full(x.shape[-1:], 2.0)}, {}


def apply_scale(params, state, x, *, key=None, train=False):
    return params["scale"] * x, state


def test_any_pair_of_functions_is_a_layer(key):
    pair = (init_scale, apply_scale)
    model = jnn.serial(pair, jnn.dense(1, w_init=jax.nn.initializers.ones), own=pair)
    x = jnp.arange(6.0).reshape(2, 3)
    params, state = model.init(key, x)
    assert list(params) == ["layer_0", "dense_1", "own"]
    np.testing.assert_allclose(model.apply(params, state, x)[0], 4 * jnp.sum(x, -1, keepdims=True))


def test_a_layer_unpacks_into_its_two_functions(key):
    init, apply = jnn.serial(jnn.dense(2), jnp.tanh)
    params, state = init(key, jnp.ones(3))
    np.testing.assert_allclose(apply(params, state, jnp.ones(3))[0], np.tanh(params["dense_0"]["w"].sum(0)), rtol=1e-5)


def nested():
    return jnn.serial(jnp.tanh, jnn.serial(jnn.dense(64), jnn.dropout(0.5)), out=jnn.serial(jnn.dense(10)))


@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_errors_name_the_path_and_both_numbers(under, key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones((32, 64)))
    train = under(lambda x, key: model.apply(params, state, x, key=key, train=True))
    with raises(ValueError, "serial_1/dense_0: expected 64 features in the last axis, got (32, 10)"):
        train(jnp.ones((32, 10)), key)
    with raises(ValueError, "serial_1/dense_0: expected float32 input, as the parameters are, got bfloat16: cast one of them"):
        train(jnp.ones((32, 64), jnp.bfloat16), key)
    with raises(ValueError, "serial_1/dropout_1: needs a key when train=True"):
        train(jnp.ones((32, 64)), None)


@pytest.mark.parametrize("under", [lambda init: init, lambda init: lambda key, x: jax.eval_shape(init, key, x)])
def test_errors_of_init_name_the_path(under, key, raises):
    model = jnn.serial(jnp.abs, body=jnn.serial(jnn.dense(3)))
    with raises(ValueError, "body/dense_0: expected floating-point input (..., in), got int32 (2, 4)"):
        under(model.init)(key, jnp.ones((2, 4), jnp.int32))
    images = jnn.serial(inner=jnn.serial(jnn.flatten()))
    with raises(ValueError, "inner/flatten_0: expected an array of at least 3 axes, got float32 (2, 4)"):
        under(images.init)(key, jnp.ones((2, 4)))


def test_errors_under_grad_and_vmap_name_the_path_once(key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones(64))
    wrong = jnp.ones((5, 10))

    def loss(params):
        return jnp.sum(jax.vmap(lambda x: model.apply(params, state, x)[0])(wrong))

    with raises(ValueError, "serial_1/dense_0: expected 64 features in the last axis, got (10,)"):
        jax.grad(loss)(params)


def test_foreign_and_missing_parameters_are_refused(key, raises):
    model = nested()
    params, state = model.init(key, jnp.ones(64))
    x = jnp.ones(64)
    with raises(ValueError, "serial: parameters for extra, but its children are tanh_0, serial_1, out"):
        model.apply({**params, "extra": {}}, state, x)
    with raises(ValueError, "out: parameters for dense_7, but its children are dense_0"):
        model.apply({**params, "out": {"dense_7": {}}}, state, x)
    with raises(ValueError, "serial_1/dense_0: expected parameters w and b, got none"):
        model.apply({"out": params["out"]}, state, x)
    with raises(ValueError, "serial: expected a dict of parameters, got tuple"):
        model.apply((params, state), state, x)
    with raises(ValueError, "serial: state for norm, but its children are tanh_0, serial_1, out"):
        model.apply(params, {"norm": {}}, x)
    with raises(ValueError, "branch: state for norm, but its children are tanh_0"):
        jnn.branch(jnp.tanh).apply({}, {"norm": {}}, x)
    with raises(ValueError, "serial: expected a dict of state, got NoneType"):
        model.apply(params, None, x)


def test_foreign_exceptions_keep_their_class_and_text_and_say_where(key, raises):
    class OwnError(Exception):
        pass

    def broken(x):
        raise OwnError("no such thing")

    model = jnn.serial(jnp.tanh, jnn.serial(broken), last=broken)
    with raises(OwnError, "no such thing") as error:
        model.apply({}, {}, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_1/broken_0"]
    with pytest.raises(OwnError) as error:
        model.init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_1/broken_0"]
    with pytest.raises(TypeError) as error:
        jax.jit(jnn.serial(jnn.serial(body=lambda x: x @ jnp.ones((4, 2)))).apply)({}, {}, jnp.ones(3))
    assert notes(error) == ["raised in layer serial_0/body"]


def test_two_children_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"serial: two children have one name, .*'dense_0', 'relu_1', 'dense_0'.*: choose"):
        jnn.serial(jnn.dense(3), jax.nn.relu, dense_0=jnn.dense(2))


@pytest.mark.parametrize(
    "factory",
    [
        jnn.dense,
        jnn.dropout,
        jnn.flatten,
        jnn.serial,
        jnn.parallel,
        jnn.branch,
        jnn.residual,
        jnn.repeat,
        jnn.remat,
        jnn.precision,
        jnn.compose,
    ],
    ids=lambda factory: factory.__name__,
)
def test_a_factory_of_jnn_not_called_is_refused(factory, raises):
    name = factory.__name__
    with raises(TypeError, f"{name} is a factory that returns a Layer: call it, as in {name}(...)"):
        jnn.serial(jnn.dense(3), factory)


def test_a_users_factory_not_called_is_refused_with_its_path(key, raises):
    def block(slope):
        return jnn.serial(jnn.dense(3), lambda x: jax.nn.leaky_relu(x, slope))

    with raises(TypeError, "block is a factory that returns a Layer: call it, as in block(...)") as error:
        jnn.serial(inner=jnn.serial(block)).init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer inner/block_0"]


def test_a_users_factory_of_whole_numbers_not_called_is_refused_with_its_path(key, raises):
    def block(features=3):
        return jnn.serial(jnn.dense(features))

    with raises(
        TypeError,
        "dense: features must be a whole number, got float32 (3,); to be a layer, dense must be called first, as in dense(1)",
    ) as error:
        jnn.serial(inner=jnn.serial(block)).init(key, jnp.ones(3))
    assert notes(error) == ["raised in layer inner/block_0"]


def test_a_callable_that_holds_arrays_is_refused_with_what_to_write(raises):
    with raises(
        TypeError,
        "Partial is a module that holds its own parameters: give a pair instead, jnn.Layer(init, apply) with "
        "init(key, x) -> (params, state) and apply(params, state, x, *, key=None, train=False) -> (y, state)",
    ):
        jnn.serial(jnn.dense(3), jax.tree_util.Partial(jnp.add, jnp.ones(3)))


@pytest.mark.parametrize("thing", [None, 3, "relu", {}], ids=str)
def test_what_is_no_function_is_refused(thing):
    with pytest.raises(TypeError, match=rf"^expected a Layer or a function of one array, got {type(thing).__name__}"):
        jnn.serial(thing)


def shift() -> jnn.Layer:
    """A user's own layer with an extra argument of apply."""

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False, by=None):
        return x if by is None else x + by, state

    return jnn.Layer(init, apply)


def primitives(jaxpr) -> list:
    """-> every equation of a program, those of the programs inside it included"""
    found = []
    for eqn in jaxpr.eqns:
        found.append(eqn)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda a: hasattr(a, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += primitives(inner)
    return found


def program(f, *args):
    return primitives(jax.make_jaxpr(f)(*args).jaxpr)


def slices(tree, n):
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(n)]


def test_a_tuple_reaches_a_plain_function_as_its_arguments(key):
    model = jnn.serial(jnn.branch(jnp.sin, jnp.cos, merge="tuple"), jnp.arctan2)
    x = jnp.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(model.apply({}, {}, x)[0], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda layer: jnn.parallel(jnp.tanh, layer),
        lambda layer: jnn.branch(jnp.tanh, layer),
        lambda layer: jnn.residual(layer),
        lambda layer: jnn.residual(jnp.tanh, layer),
        lambda layer: jnn.repeat(layer, 1),
        jnn.remat,
        lambda layer: jnn.precision(layer, jnp.float32),
    ],
    ids=["parallel", "branch", "residual", "shortcut", "repeat", "remat", "precision"],
)
def test_extra_arguments_reach_the_layers_that_take_them(make, key):
    model, x = make(shift()), jnp.ones((2, 3))
    x = (x, x) if kind(model) == "parallel" else x
    params, state = model.init(key, x)
    plain, _ = model.apply(params, state, x)
    moved, _ = model.apply(params, state, x, by=jnp.full(3, 10.0))
    difference = sum(jnp.sum(b - a) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(moved), strict=True))
    np.testing.assert_allclose(difference, 60, rtol=1e-5)
    with pytest.raises(ValueError, match=r"no layer inside takes the argument mask; they take by$"):
        model.apply(params, state, x, mask=None)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (jnp.ones((2, 3)), "float32 (2, 3)"),
        ((jnp.ones(3),), "a tuple of 1"),
        ([jnp.ones(3)] * 3, "a list of 3"),
        ({"a": jnp.ones(3), "b": jnp.ones(3)}, "a dict"),
    ],
    ids=["array", "one", "three", "dict"],
)
def test_parallel_says_how_many_inputs_it_takes(x, got, key, raises):
    model = jnn.parallel(jnn.dense(2), jnp.tanh)
    message = f"expected a tuple of 2 inputs, one for each layer, got {got}"
    with raises(ValueError, f"parallel: {message}"):
        model.init(key, x)
    with raises(ValueError, f"body: {message}"):
        jnn.serial(body=model).apply({"body": {"dense_0": {}}}, {}, x)


def test_branch_names_the_outputs_that_do_not_fit(key, raises):
    x = jnp.ones((5, 4))
    first, rows = lambda x: x[:2], lambda x: x[:, 0]
    for merge, layers, problem in [
        (
            "concat",
            {"first": first, "all": jnp.tanh},
            'expected outputs of one dtype and shape, but for the last axis, for merge="concat", '
            "got first float32 (2, 4), all float32 (5, 4)",
        ),
        (
            "concat",
            {"half": lambda x: x.astype(jnp.bfloat16), "all": jnp.tanh},
            'expected outputs of one dtype and shape, but for the last axis, for merge="concat", '
            "got half bfloat16 (5, 4), all float32 (5, 4)",
        ),
        (
            "concat",
            {"sum": jnp.sum},
            'expected outputs of one dtype and shape, but for the last axis, for merge="concat", got sum float32 ()',
        ),
        (
            "sum",
            {"rows": rows, "all": jnp.tanh},
            'expected outputs of one dtype and shape for merge="sum", got rows float32 (5,), all float32 (5, 4)',
        ),
        (
            "sum",
            {"pair": lambda x: (x, x), "all": jnp.tanh},
            'expected outputs of one dtype and shape for merge="sum", got pair a tuple of 2, all float32 (5, 4)',
        ),
    ]:
        model = jnn.serial(jnn.branch(**layers, merge=merge))
        with raises(ValueError, f"branch_0: {problem}"):
            model.init(key, x)
        with raises(ValueError, f"branch_0: {problem}"):
            jax.jit(model.apply)({}, {}, x)


def test_branch_refuses_another_merge_and_no_layers(raises):
    with raises(ValueError, "branch: merge must be 'concat', 'sum' or 'tuple', got 'add'"):
        jnn.branch(jnp.tanh, merge="add")
    with raises(ValueError, "branch: needs at least one layer"):
        jnn.branch()


def test_residual_does_not_broadcast_and_proposes_a_shortcut(key, raises):
    x = jnp.ones((5, 4))
    for layer, problem in [
        (
            jnn.dense(3),
            "cannot add: layer gives float32 (5, 3), shortcut float32 (5, 4): "
            "give a shortcut to (5, 3), as in residual(layer, dense(3))",
        ),
        (
            jnn.dense(1),  # jax would broadcast it
            "cannot add: layer gives float32 (5, 1), shortcut float32 (5, 4): "
            "give a shortcut to (5, 1), as in residual(layer, dense(1))",
        ),
        (jnp.sum, "cannot add: layer gives float32 (), shortcut float32 (5, 4)"),
        (lambda x: (x, x), "expected arrays to add, layer gives a tuple of 2, shortcut float32 (5, 4)"),
    ]:
        model = jnn.serial(jnn.residual(layer))
        with raises(ValueError, f"residual_0: {problem}"):
            model.init(key, x)


def test_residual_adds_the_nodes_of_graphs(key, raises):
    x = jax.random.normal(key, (3, 4))
    graph = jnn.Graph(x, jnp.array([0, 1]), jnp.array([1, 2]))
    model = jnn.residual(jnn.on_nodes(jnn.dense(4)))
    params, state = model.init(key, graph)
    y, _ = jax.jit(model.apply)(params, state, graph)
    np.testing.assert_allclose(y.nodes, x + x @ params["layer"]["w"], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(y._replace(nodes=x), graph)
    for layer, problem in [
        (
            jnn.graph_conv(2),
            "cannot add: layer gives float32 (3, 2) as nodes, shortcut float32 (3, 4): "
            "give a shortcut to (3, 2), as in residual(layer, on_nodes(dense(2)))",
        ),
        (jnn.pool_nodes(), "expected arrays to add, layer gives float32 (4,), shortcut a Graph"),
    ]:
        with raises(ValueError, f"residual_0: {problem}"):
            jnn.serial(jnn.residual(layer)).init(key, graph)


def test_children_of_residual_are_layer_and_shortcut(key, raises):
    model = jnn.serial(jnn.residual(jnn.serial(jnn.dense(3), counter()), jnn.dense(3)), jnn.residual(jnn.dense(3)))
    params, state = model.init(key, jnp.ones((5, 4)))
    assert jax.tree.map(jnp.shape, params) == {
        "residual_0": {"layer": {"dense_0": {"w": (4, 3), "b": (3,)}}, "shortcut": {"w": (4, 3), "b": (3,)}},
        "residual_1": {"layer": {"w": (3, 3), "b": (3,)}},
    }
    assert jax.tree.map(jnp.shape, state) == {"residual_0": {"layer": {"counter_1": {"count": ()}}}}
    with raises(ValueError, "residual_0/layer/dense_0: expected 4 features in the last axis, got (32, 10)"):
        model.apply(params, state, jnp.ones((32, 10)))
    with raises(ValueError, "residual_0: parameters for dense_0, but its children are layer, shortcut"):
        model.apply({"residual_0": {"dense_0": {}}}, state, jnp.ones((5, 4)))


def test_repeat_stacks_the_childs_own_tree_of_as_many_keys(key):
    child = jnn.serial(jnn.dense(4), counter(), jnp.tanh)
    params, state = jnn.repeat(child, 5).init(key, jnp.ones((2, 4)))
    assert jax.tree.map(jnp.shape, (params, state)) == (
        {"dense_0": {"w": (5, 4, 4), "b": (5, 4)}},
        {"counter_1": {"count": (5,)}},
    )
    each = [child.init(k, jnp.ones((2, 4))) for k in jax.random.split(key, 5)]
    chex.assert_trees_all_close(slices((params, state), 5), each, rtol=1e-6)


def test_repeat_takes_one_layer_and_inputs_of_several_arrays(key):
    once = jnn.repeat(jnn.dense(4), 1)
    x = jax.random.normal(key, (2, 4))
    params, _ = once.init(key, x)
    np.testing.assert_allclose(once.apply(params, {}, x)[0], x @ params["w"][0] + params["b"][0], rtol=1e-5)

    twice = jnn.repeat(jnn.parallel(left=jnn.dense(4), right=jnp.tanh), 2)
    params, _ = twice.init(key, (x, x))
    left, right = twice.apply(params, {}, (x, x))[0]
    w = params["left"]["w"]
    np.testing.assert_allclose(left, x @ w[0] @ w[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(right, np.tanh(np.tanh(x)), rtol=1e-5)


def test_repeat_gives_every_layer_its_own_key_and_state(key):
    x = jnp.ones((1, 4000))
    y, _ = jnn.repeat(jnn.dropout(0.5), 3).apply({}, {}, x, key=key, train=True)
    # one mask three times would leave half of the entries, three masks an eighth
    assert 400 <= np.count_nonzero(y) <= 600
    np.testing.assert_array_equal(y[y != 0], 8)

    model = jnn.repeat(counter(), 3)
    y, state = model.apply({}, {"count": jnp.array([1.0, 10.0, 100.0])}, jnp.zeros(2), train=True)
    np.testing.assert_array_equal(y, 111)
    np.testing.assert_array_equal(state["count"], [2, 11, 101])


def test_repeat_of_what_needs_no_key_is_initialised_without_one(raises):
    _, state = jnn.repeat(counter(), 3).init(None, jnp.ones(2))
    assert state["count"].shape == (3,)
    with raises(ValueError, "body: init needs a key"):
        jnn.serial(body=jnn.repeat(jnn.dense(2), 3)).init(None, jnp.ones(2))


def test_the_program_of_repeat_does_not_grow_with_n(key):
    def sizes(n):
        model = jnn.repeat(jnn.serial(jnn.dense(4), jnp.tanh, jnn.dropout(0.1)), n)
        x = jnp.ones((2, 4))
        params, state = jax.eval_shape(model.init, key, x)

        def loss(params):
            return jnp.sum(model.apply(params, state, x, key=key, train=True)[0])

        return len(program(jax.value_and_grad(loss), params)), len(program(lambda key: model.init(key, x), key))

    assert sizes(2) == sizes(50)


@pytest.mark.parametrize(
    ("layer", "got"),
    [
        (jnn.dense(3), "float32 (2, 3)"),
        (lambda x: x.astype(jnp.bfloat16), "bfloat16 (2, 4)"),
        (lambda x: (x, x), "('float32 (2, 4)', 'float32 (2, 4)')"),
    ],
    ids=["shape", "dtype", "tuple"],
)
def test_repeat_refuses_a_layer_whose_output_is_no_input(layer, got, key, raises):
    with raises(ValueError, f"repeat_0: expected an output like the input, float32 (2, 4), got {got}"):
        jnn.serial(jnn.repeat(layer, 3)).init(key, jnp.ones((2, 4)))


def test_repeat_refuses_parameters_and_state_of_another_number_of_layers(key, raises):
    model = jnn.serial(jnn.repeat(jnn.serial(jnn.dense(4), counter()), 3))
    params, state = model.init(key, jnp.ones((2, 4)))
    with raises(ValueError, "repeat_0: expected parameters of 3 layers along the first axis, got dense_0/b (2, 4)"):
        model.apply(jax.tree.map(lambda a: a[:2], params), state, jnp.ones((2, 4)))
    with raises(ValueError, "repeat_0: expected state of 3 layers along the first axis, got counter_1/count ()"):
        model.apply(params, jax.tree.map(lambda a: a[0], state), jnp.ones((2, 4)))


@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("wrap", [lambda layer: jnn.repeat(layer, 2), jnn.remat, jnn.precision])
def test_errors_inside_name_the_path_of_the_parameters(wrap, under, key, raises):
    model = jnn.serial(body=wrap(jnn.serial(jnn.dense(4), jnn.dropout(0.5))))
    params, state = model.init(key, jnp.ones((2, 4)))
    train = under(lambda x, key: model.apply(params, state, x, key=key, train=True))
    with raises(ValueError, "body/dense_0: expected 4 features in the last axis, got (2, 3)"):
        train(jnp.ones((2, 3)), key)
    with raises(ValueError, "body/dropout_1: needs a key when train=True"):
        train(jnp.ones((2, 4)), None)
    with raises(ValueError, "body/dense_0: expected parameters w and b, got none"):
        model.apply({}, state, jnp.ones((2, 4)))


def test_repeat_takes_whole_numbers_from_one_on(raises):
    with raises(ValueError, "repeat: n must be at least 1, got 0"):
        jnn.repeat(jnn.dense(3), 0)
    with raises(TypeError, "repeat: n must be a whole number, got 2.5"):
        jnn.repeat(jnn.dense(3), 2.5)


@pytest.mark.parametrize("wrap", [jnn.remat, jnn.precision])
def test_remat_and_precision_do_not_show_in_names_and_parameters(wrap, key):
    plain = jnn.serial(jnn.dense(3), jnn.serial(jnn.dense(2), counter()), jnp.tanh, (init_scale, apply_scale))
    wrapped = jnn.serial(
        wrap(jnn.dense(3)),
        wrap(jnn.serial(wrap(jnn.dense(2)), wrap(counter()))),
        wrap(jnp.tanh),
        wrap((init_scale, apply_scale)),
    )
    chex.assert_trees_all_equal(wrapped.init(key, jnp.ones((2, 4))), plain.init(key, jnp.ones((2, 4))))


def test_remat_keeps_its_input_only_and_computes_the_same_gradient(key):
    layer = jnn.serial(jnn.dense(64), jnp.tanh, jnn.dropout(0.3), jnn.dense(64), jnp.tanh, jnn.dense(1))
    x = jax.random.normal(key, (32, 4))
    params, _ = layer.init(key, x)

    def loss(layer):
        return lambda params, x: jnp.sum(jnp.square(layer.apply(params, {}, x, key=key, train=True)[0]))

    plain, again = loss(layer), loss(jnn.remat(layer))
    chex.assert_trees_all_close(*(jax.jit(jax.value_and_grad(f))(params, x) for f in (plain, again)), rtol=1e-5, atol=1e-6)

    def kept(f):
        backward = jax.eval_shape(lambda params, x: jax.vjp(f, params, x)[1], params, x)
        return sum(a.size for a in jax.tree.leaves(backward))

    inputs = sum(a.size for a in jax.tree.leaves((params, x)))
    assert kept(again) <= inputs + 32 + 8  # its inputs, its output (squared), the key
    assert kept(plain) > inputs + 3 * 32 * 64
    names = [eqn.primitive.name for eqn in program(jax.grad(again), params, x)]
    assert any("remat" in name or "checkpoint" in name for name in names)
    # forward twice and backward: one product more of each layer but the last, whose output no derivative needs
    products = [[eqn.primitive.name for eqn in program(jax.grad(f), params, x)].count("dot_general") for f in (plain, again)]
    assert products[1] > products[0]


def test_remat_inside_repeat_keeps_one_input_a_layer(key):
    def kept(block):
        model = jnn.repeat(block, 6)
        x = jnp.ones((16, 8))
        params, _ = jax.eval_shape(model.init, key, x)
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: jnp.sum(model.apply(p, {}, x)[0]), p)[1], params)
        return sum(a.size for a in jax.tree.leaves(backward)) - sum(a.size for a in jax.tree.leaves(params))

    block = jnn.serial(jnn.dense(8), jnp.tanh, jnn.dense(8), jax.nn.silu, jnn.dense(8), jnp.tanh)
    assert kept(jnn.remat(block)) <= 6 * 16 * 8 + 100
    assert kept(block) > 3 * 6 * 16 * 8


def network():
    return jnn.serial(jnn.dense(8), jnn.layer_norm(), jax.nn.relu, jnn.batch_norm(), jnn.dropout(0.1), jnn.dense(3))


def test_precision_keeps_parameters_gradients_and_state_in_float32(key):
    model = jnn.precision(network())
    x = jax.random.normal(key, (16, 4))
    params, state = model.init(key, x)

    def loss(params):
        y, new_state = model.apply(params, state, x, key=key, train=True)
        assert y.dtype == jnp.float32
        return jnp.sum(jnp.square(y)), new_state

    (_, new_state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for tree, like in ((params, params), (grads, params), (new_state, state)):
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, like)
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}
    assert np.any(new_state["batch_norm_3"]["mean"] != state["batch_norm_3"]["mean"])


@pytest.mark.parametrize("compute", [jnp.bfloat16, jnp.float16, "bfloat16"], ids=str)
def test_precision_multiplies_in_its_dtype_and_normalises_in_float32(compute, key):
    model = jnn.precision(network(), compute)
    x = jax.random.normal(key, (16, 4))
    params, state = model.init(key, x)

    def loss(params):
        return jnp.sum(model.apply(params, state, x, key=key, train=True)[0])

    equations = program(jax.grad(loss), params)
    products = [eqn for eqn in equations if eqn.primitive.name == "dot_general"]
    assert len(products) >= 4
    assert {v.aval.dtype for eqn in products for v in (*eqn.invars, *eqn.outvars)} == {jnp.dtype(compute)}
    roots = [eqn for eqn in equations if eqn.primitive.name == "rsqrt"]
    assert len(roots) == 2
    assert {eqn.outvars[0].aval.dtype for eqn in roots} == {jnp.dtype(jnp.float32)}


def test_precision_keeps_a_softmax_of_wide_statistics_and_casts_everything_else(key):
    seen = {}

    def init(key, x):
        ones = jnp.ones(3)
        return {"w": ones, "scale": ones, "bias": ones, "inner": {"b": ones, "scale": ones}, "count": jnp.ones(3, jnp.int32)}, {
            "mean": ones
        }

    def apply(params, state, x, *, key=None, train=False, mask=None, lengths=None):
        seen.update(params=params, state=state, x=x, mask=mask, lengths=lengths)
        return {"y": x[0], "index": x[1]}, {"mean": state["mean"].astype(jnp.bfloat16)}

    model = jnn.precision((init, apply))
    x = (jnp.ones(3), jnp.arange(3))
    params, state = model.init(key, x)
    y, new_state = model.apply(params, state, x, mask=jnp.ones(3), lengths=jnp.arange(3))
    dtypes = jax.tree.map(lambda a: a.dtype.name, seen)
    low, high = "bfloat16", "float32"
    assert dtypes == {
        "params": {"w": low, "scale": high, "bias": high, "inner": {"b": low, "scale": high}, "count": "int32"},
        "state": {"mean": high},
        "x": (low, "int32"),
        "mask": low,
        "lengths": "int32",
    }
    assert jax.tree.map(lambda a: a.dtype.name, (y, new_state)) == ({"y": high, "index": "int32"}, {"mean": high})


def test_precision_equals_flax_with_a_dtype(key):
    model = jnn.precision(jnn.serial(jnn.dense(8), jnp.tanh, jnn.dense(3)))
    x = jax.random.normal(key, (16, 4))
    params, _ = model.init(key, x)
    params = filled(params)

    def by_flax(params):
        def layer(p, x):
            return nn.Dense(p["b"].size, dtype=jnp.bfloat16).apply({"params": {"kernel": p["w"], "bias": p["b"]}}, x)

        return layer(params["dense_2"], jnp.tanh(layer(params["dense_0"], x))).astype(jnp.float32)

    ours = jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply(p, {}, x)[0])))(params)
    theirs = jax.value_and_grad(lambda p: jnp.sum(jnp.sin(by_flax(p))))(params)
    chex.assert_trees_all_equal(ours, theirs)


def test_precision_takes_data_in_any_floating_dtype(key, x64):
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        x = jnp.ones((2, 4), dtype)
        model = jnn.serial(jnn.precision(jnn.serial(jnn.dense(3), jnn.dense(3))), jnn.dense(2))
        params, state = model.init(key, x)
        y, _ = model.apply(params, state, x)
        assert y.dtype == jnp.float32
        assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_precision_in_float64_keeps_float64(key, x64):
    layer = jnn.precision(jnn.dense(3), jnp.float64)
    x = jax.random.normal(key, (2, 4), jnp.float64)
    params, state = layer.init(key, x)
    y, _ = layer.apply(params, state, x)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, np.asarray(x) @ np.asarray(params["w"], np.float64), rtol=1e-12)


def test_precision_trains_under_jit_vmap_and_scan(key):
    model = jnn.precision(network())
    x = jax.random.normal(key, (16, 4))
    targets = x[:, :3]
    objective = jnn.supervised(model, jnn.losses.squared_error)
    training = jnn.training(objective, optax.adam(1e-2))
    fitted = jax.jit(jax.vmap(lambda key: jnn.fit(training, (x, targets), key=key, steps=60)))(jax.random.split(key, 2))
    loss = np.asarray(fitted.history["loss"])
    assert np.all(loss[:, -1] < 0.7 * loss[:, 0])


def test_precision_refuses_a_dtype_that_does_not_float(raises):
    with raises(ValueError, "precision: compute must be a floating-point dtype, got int32"):
        jnn.precision(jnn.dense(3), jnp.int32)
