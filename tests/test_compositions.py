import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jnn
from jnn.pairs import watch

from layer_properties import Case, LayerProperties, flax_dense, normal, running_mean


def counter() -> jnn.Layer:
    """A user's own layer: adds how often it was trained."""

    def init(key, x):
        return {}, {"count": jnp.zeros([], jnp.float32)}

    def apply(params, state, x, *, key=None, train=False):
        return x + state["count"].astype(x.dtype), {"count": state["count"] + 1} if train else state

    return jnn.Layer(init, apply)


def shift() -> jnn.Layer:
    """A user's own layer with an extra argument of apply."""

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False, by=None):
        return x if by is None else x + by, state

    return jnn.Layer(init, apply)


def table(vocabulary, features) -> jnn.Layer:
    """A user's own layer of whole numbers."""

    def init(key, x):
        return {"table": jax.random.normal(key, (vocabulary, features))}, {}

    def apply(params, state, x, *, key=None, train=False):
        return params["table"][x], state

    return jnn.Layer(init, apply)


def siamese(net, pair):
    left, right = pair
    return net.head(net.encoder(left) - net.encoder(right))


def noisy(net, x):
    if net.train:
        x = x + jax.random.normal(net.key(), x.shape, jnp.float32).astype(x.dtype)
    x = net.centre(net.dense(x))
    return net.dropout(net.centre(x)) + net.dropout(x)


def over_time(net, x):
    """An Elman network written by hand."""

    def step(h, x_t):
        h = jnp.tanh(net.into(x_t) + net.back(h))
        return h, h

    h = jnp.zeros((*x.shape[:-2], 3), x.dtype)
    return jnp.moveaxis(jax.lax.scan(step, h, jnp.moveaxis(x, -2, 0))[1], 0, -2)


def flax_over_time(params, state, x):
    h, ys = jnp.zeros((*x.shape[:-2], 3), x.dtype), []
    for t in range(x.shape[-2]):
        h = nn.tanh(flax_dense(params["into"], x[..., t, :]) + flax_dense(params["back"], h))
        ys.append(h)
    return jnp.stack(ys, axis=-2)


def deterministic():
    """Takes keys and states, but has no use for them."""
    return jnn.serial(jnn.dense(4), jnp.tanh, jnn.repeat(jnn.remat(jnn.residual(jnn.serial(jnn.dense(4), jnp.tanh))), 2))


CASES = [
    Case(
        "shared encoder",
        lambda: jnn.compose(siamese, encoder=jnn.serial(jnn.dense(5), jnp.tanh), head=jnn.dense(2)),
        (4,),
        lambda p, s, x: flax_dense(
            p["head"],
            nn.tanh(flax_dense(p["encoder"]["dense_0"], x[0])) - nn.tanh(flax_dense(p["encoder"]["dense_0"], x[1])),
        ),
        has_params=True,
        input=lambda shape, dtype, rng: (normal(shape, dtype, rng), normal(shape, dtype, rng)),
    ),
    Case(
        "state and randomness",
        lambda rate: jnn.compose(noisy, dense=jnn.dense(16), centre=running_mean(), dropout=jnn.dropout(rate)),
        (4,),
        lambda p, s, x: 2 * flax_dense(p["dense"], x) - 3 * s["centre"]["mean"],
        (0.3,),
        is_random=True,
        has_params=True,
    ),
    Case(
        "a scan",
        lambda: jnn.compose(over_time, into=jnn.dense(3), back=jnn.dense(3)),
        (3, 2),
        flax_over_time,
        has_params=True,
    ),
]


class TestEveryComposition(LayerProperties):
    cases = CASES


def test_it_is_one_more_layer_with_an_entry_for_each_child_that_has_some(key):
    inner = jnn.compose(lambda net, x: net.f(net.a(x)), a=jnn.dense(3), f=jnp.tanh)
    model = jnn.serial(inner, jnn.compose(lambda net, x: net.count(net.b(x)), b=inner, count=counter()))
    params, state = model.init(key, jnp.ones((2, 4)))
    assert jax.tree.map(jnp.shape, params) == {
        "compose_0": {"a": {"w": (4, 3), "b": (3,)}},
        "compose_1": {"b": {"a": {"w": (3, 3), "b": (3,)}}},
    }
    assert jax.tree.map(jnp.shape, state) == {"compose_1": {"count": {"count": ()}}}


def test_a_child_called_twice_gets_gradients_from_both_calls(key):
    model = jnn.compose(lambda net, x: jnp.sin(net.f(x)) + jnp.cos(net.f(2 * x)), f=jnn.dense(3))
    x = jax.random.normal(key, (5, 4))
    params, _ = model.init(key, x)
    grads = jax.grad(lambda p: jnp.sum(model.apply(p, {}, x)[0]))(params)
    once, twice = (np.asarray(c * x @ params["f"]["w"] + params["f"]["b"]) for c in (1, 2))
    np.testing.assert_allclose(grads["f"]["w"], x.T @ np.cos(once) - 2 * x.T @ np.sin(twice), rtol=1e-4, atol=1e-5)


def test_tied_embeddings_get_gradients_from_both_uses(key):
    def forward(net, tokens):
        return net.embed(tokens) @ net.params["embed"]["table"].T

    model = jnn.compose(forward, embed=table(7, 3))
    tokens = jnp.array([[1, 2, 2], [6, 0, 1]])
    params, _ = model.init(key, tokens)
    assert jax.tree.map(jnp.shape, params) == {"embed": {"table": (7, 3)}}
    towards = np.asarray(jax.random.normal(key, (2, 3, 7)))
    logits, grads = jax.value_and_grad(lambda p: jnp.sum(towards * model.apply(p, {}, tokens)[0]))(params)

    # by hand: L = sum R * (E[t] E'), so dE = R' E[t], and R E added to the rows t
    rows = np.asarray(params["embed"]["table"], np.float64)
    np.testing.assert_allclose(logits, np.sum(towards * (rows[tokens] @ rows.T)), rtol=1e-5)
    expected = np.einsum("btv,btf->vf", towards, rows[tokens])
    np.add.at(expected, np.asarray(tokens), towards @ rows)
    np.testing.assert_allclose(grads["embed"]["table"], expected, rtol=1e-5, atol=1e-5)


def test_the_second_call_gets_the_state_that_the_first_left():
    model = jnn.compose(lambda net, x: (net.count(x), net.count(x), net.other(x)), count=counter(), other=counter())
    _, state = model.init(None, jnp.zeros(()))
    assert state == {"count": {"count": 0}, "other": {"count": 0}}
    y, state = model.apply({}, state, jnp.zeros(()), train=True)
    assert (y, state) == ((0, 1, 0), {"count": {"count": 2}, "other": {"count": 1}})
    y, state = model.apply({}, state, jnp.zeros(()), train=True)
    assert (y, state) == ((2, 3, 1), {"count": {"count": 4}, "other": {"count": 2}})
    y, after = model.apply({}, state, jnp.zeros(()))
    assert (y, after) == ((4, 4, 2), state)


def test_a_child_not_called_in_training_keeps_its_state():
    model = jnn.compose(lambda net, x: x if net.train else net.count(x), count=counter())
    _, state = model.init(None, jnp.zeros(()))
    assert model.apply({}, state, jnp.zeros(()), train=True) == (0, state)


def test_each_call_gets_another_key(key):
    seen = []

    def spy_apply(params, state, x, *, key=None, train=False):
        seen.append(key)
        return x, state

    def forward(net, x):
        seen.append(net.key() if net.train else None)
        x = net.spy(net.other(net.spy(x)))
        seen.append(net.key() if net.train else None)
        return x

    spy = (lambda key, x: ({}, {}), spy_apply)
    model = jnn.compose(forward, spy=spy, other=spy)
    model.init(key, jnp.ones(2))
    assert seen == [None] * 5
    model.apply({}, {}, jnp.ones(2))
    assert seen == [None] * 10
    seen.clear()
    for _ in range(2):
        model.apply({}, {}, jnp.ones(2), key=key, train=True)
    data = [tuple(np.asarray(jax.random.key_data(k))) for k in seen]
    assert data[:5] == data[5:]
    assert len({*data, tuple(np.asarray(jax.random.key_data(key)))}) == 6


def test_init_draws_what_the_children_would_draw_themselves(key):
    model = jnn.compose(siamese, encoder=jnn.dense(5), head=jnn.dense(2))
    x = jnp.ones((3, 4))
    params, _ = model.init(key, (x, x))
    first, second = jax.random.split(key)
    chex.assert_trees_all_equal(params["encoder"], jnn.dense(5).init(first, x)[0])
    chex.assert_trees_all_equal(params["head"], jnn.dense(2).init(second, jnp.ones((3, 5)))[0])


def test_init_computes_nothing_but_the_parameters(key):
    huge = jax.ShapeDtypeStruct((10**9, 10**6, 4), jnp.float32)  # 16 petabytes
    seen = []

    def forward(net, x):
        seen.append(isinstance(x, jax.core.Tracer))
        return net.b(net.a(x) * 2) + net.a(x) @ net.params["b"]["w"]

    params, _ = jnn.compose(forward, a=jnn.dense(3), b=jnn.dense(2)).init(key, huge)
    assert seen == [True]
    assert jax.tree.map(jnp.shape, params) == {"a": {"w": (4, 3), "b": (3,)}, "b": {"w": (3, 2), "b": (2,)}}


def test_parameters_are_there_while_init_runs_for_the_children_called_so_far(key):
    seen = []

    def forward(net, x):
        seen.append(jax.tree.map(jnp.shape, net.params))
        x = net.a(x)
        seen.append(jax.tree.map(jnp.shape, net.params))
        x = net.f(net.b(x))
        seen.append(jax.tree.map(jnp.shape, net.params))
        return x

    model = jnn.compose(forward, a=jnn.dense(3), b=jnn.dense(2), f=jnp.tanh)
    params, _ = model.init(key, jnp.ones((2, 4)))
    a, b = {"w": (4, 3), "b": (3,)}, {"w": (3, 2), "b": (2,)}
    assert seen == [{}, {"a": a}, {"a": a, "b": b}]
    seen.clear()
    model.apply(params, {}, jnp.ones((2, 4)))
    assert seen == [{"a": a, "b": b}] * 3


def test_children_that_init_never_calls_are_named(key, raises):
    def forward(net, x):
        return net.auxiliary(x) if net.train else net.main(x)

    with raises(ValueError, "compose: the child auxiliary was never called by forward while init ran it"):
        jnn.compose(forward, main=jnp.tanh, auxiliary=jnp.tanh).init(key, jnp.ones(3))
    with raises(ValueError, "body: the children auxiliary, third were never called by forward while init ran it"):
        jnn.serial(body=jnn.compose(forward, main=jnp.tanh, auxiliary=jnp.tanh, third=jnp.tanh)).init(key, jnp.ones(3))


def test_a_misspelt_child_is_an_attribute_error_that_says_what_was_meant(key, raises):
    model = jnn.compose(lambda net, x: net.encodr(x), encoder=jnn.dense(3))
    with raises(AttributeError, "compose: no child is called encodr; did you mean encoder?"):
        model.init(key, jnp.ones(3))
    model = jnn.compose(lambda net, x: net.zzz(x), a=jnn.dense(3), b=jnp.tanh)
    with raises(AttributeError, "compose: no child is called zzz; its children are a, b"):
        model.init(key, jnp.ones(3))


@pytest.mark.parametrize("name", ["params", "train", "key"])
def test_names_of_net_are_no_names_for_children(name, raises):
    with raises(ValueError, f"compose: the name {name} is taken by net.{name}: choose another for the child"):
        jnn.compose(lambda net, x: x, **{name: jnp.tanh})


def test_forward_must_be_a_function(raises):
    for thing in (jnn.dense(3), "encoder"):
        name = type(thing).__name__
        with raises(TypeError, f"compose: forward must be a function of net and the input, got {name}"):
            jnn.compose(thing, encoder=jnn.dense(3))
    # it would stay False in training, too
    with raises(ValueError, "compose: forward has net.key() and net.train, and takes no arguments key and train"):
        jnn.compose(lambda net, x, *, train=False: net.f(x), f=jnp.tanh)


TRANSFORMATIONS = {
    "scan": lambda f, x: jax.lax.scan(lambda carry, x: (carry, f(x)), None, x)[1],
    "map": jax.lax.map,
    "vmap": lambda f, x: jax.vmap(f)(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "grad": lambda f, x: jax.grad(lambda x: jnp.sum(f(x)))(x),
    "cond": lambda f, x: jax.lax.cond(jnp.sum(x) > 0, f, lambda x: x, x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
}
every_transformation = pytest.mark.parametrize("inside", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
WITHIN = "a scan, a vmap or another transformation within forward"


@every_transformation
def test_state_inside_a_transformation_is_refused(inside, key, raises):
    model = jnn.serial(body=jnn.compose(lambda net, x: inside(net.layer, x), layer=jnn.serial(jnp.tanh, counter())))
    message = f"body/layer: has state, which would be lost inside {WITHIN}: call it outside, or use repeat"
    with raises(ValueError, message):
        model.init(key, jnp.ones((3, 4)))
    with raises(ValueError, message):
        model.apply({}, {"body": {"layer": {"counter_1": {"count": jnp.zeros([])}}}}, jnp.ones((3, 4)))


@every_transformation
def test_randomness_inside_a_transformation_is_refused(inside, key, raises):
    random = jnn.serial(jnp.tanh, jnn.repeat(jnn.serial(jnp.sin, jnn.dropout(0.5)), 2))
    model = jnn.serial(body=jnn.compose(lambda net, x: inside(net.layer, x), layer=random))
    message = f"is random, and would draw the same inside {WITHIN} at every turn: call it outside, or use repeat"
    with raises(ValueError, f"body/layer: {message}"):
        model.init(key, jnp.ones((3, 4)))
    with raises(ValueError, f"body/layer: {message}"):
        model.apply({}, {}, jnp.ones((3, 4)), key=key, train=True)


@every_transformation
def test_what_uses_no_key_may_be_called_inside_a_transformation(inside, key):
    layer = deterministic()
    model = jnn.compose(lambda net, x: inside(net.layer, x), layer=layer)
    x = jax.random.normal(key, (3, 4))
    params, state = model.init(key, x)
    expected = inside(lambda x: layer.apply(params["layer"], {}, x)[0], x)
    y, _ = jax.jit(lambda key: model.apply(params, state, x, key=key, train=True))(key)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_child_first_called_inside_a_scan_may_be_called_after_it(key):
    def forward(net, x):
        _, ys = jax.lax.scan(lambda carry, x: (carry, net.f(x)), None, x)
        return ys + net.f(x) + x @ net.params["f"]["w"]

    model = jnn.compose(forward, f=jnn.dense(4))
    x = jax.random.normal(key, (3, 4))
    params, _ = model.init(key, x)
    np.testing.assert_allclose(model.apply(params, {}, x)[0], 3 * x @ params["f"]["w"], rtol=1e-5, atol=1e-6)


def test_noise_does_not_depend_on_calls_inside_a_transformation(key):
    def forward(net, x):
        jax.vmap(net.f)(x)
        return net.dropout(x)

    x = jnp.ones((2, 50))
    model = jnn.compose(forward, f=jnp.tanh, dropout=jnn.dropout(0.5))
    plain = jnn.compose(lambda net, x: net.dropout(x), dropout=jnn.dropout(0.5))
    chex.assert_trees_all_equal(*(m.apply({}, {}, x, key=key, train=True) for m in (model, plain)))


def test_a_composition_may_itself_run_inside_anything(key):
    inner = jnn.compose(noisy, dense=jnn.dense(4), centre=running_mean(), dropout=jnn.dropout(0.5))
    model = jnn.repeat(jnn.remat(inner), 3)
    x = jax.random.normal(key, (5, 4))
    params, state = model.init(key, x)
    y, new_state = jax.jit(lambda key: model.apply(params, state, x, key=key, train=True))(key)
    assert y.shape == x.shape
    assert np.all(np.any(new_state["centre"]["mean"] != 0, axis=-1))


def test_key_is_for_training_with_a_key_and_outside_of_loops(key, raises):
    always = jnn.compose(lambda net, x: (net.key(), x)[1])
    with raises(ValueError, "compose: net.key() is for training: ask net.train before"):
        always.init(key, jnp.ones(3))
    with raises(ValueError, "compose: net.key() is for training: ask net.train before"):
        always.apply({}, {}, jnp.ones(3), key=key)
    with raises(ValueError, "body: needs a key when train=True"):
        jnn.serial(body=always).apply({}, {}, jnp.ones(3), train=True)

    looped = jnn.compose(lambda net, x: jax.vmap(lambda x: jax.random.normal(net.key(), x.shape))(x))
    message = f"compose: net.key() is called inside {WITHIN}: call it before, and split what it gives"
    with raises(ValueError, message):
        looped.apply({}, {}, jnp.ones(3), key=key, train=True)


def test_extra_arguments_go_to_the_child_that_takes_them(key, raises):
    model = jnn.compose(lambda net, x: net.shift(x, by=jnp.float32(2)) + net.shift(x), shift=shift())
    model.init(key, jnp.ones(3))
    np.testing.assert_array_equal(model.apply({}, {}, jnp.ones(3))[0], 4)
    model = jnn.compose(lambda net, x: net.shift(x, mask=x, of=x), shift=jnn.serial(shift()))
    with raises(ValueError, "shift: does not take the argument mask, of; it takes by"):
        model.init(key, jnp.ones(3))
    model = jnn.serial(body=jnn.compose(lambda net, x: net.f(x, axis=0), f=jnp.sum))
    with raises(ValueError, "body/f: does not take the argument axis; it takes none"):
        model.init(key, jnp.ones(3))


def test_keyword_only_arguments_of_forward_are_arguments_of_apply(key, raises):
    def forward(net, x, *, mask=None, scale=None):
        y = net.shift(x, by=mask)
        return y if scale is None else scale * y

    model = jnn.serial(jnn.compose(forward, shift=shift()), jnp.sum)
    x = jnp.ones(3)
    params, state = model.init(key, x)
    assert model.apply(params, state, x, mask=jnp.float32(1), scale=jnp.float32(10))[0] == 60
    assert model.apply(params, state, x)[0] == 3
    with raises(ValueError, "serial: no layer inside takes the argument lengths; they take mask, scale"):
        model.apply(params, state, x, lengths=3)


def test_errors_name_the_path(key, raises):
    body = jnn.compose(siamese, encoder=jnn.serial(jnn.dense(5), jnn.dropout(0.5)), head=jnn.dense(2))
    model = jnn.serial(jnn.branch(jnp.sin, jnp.cos, merge="tuple"), body)
    x = jnp.ones((3, 4))
    params, state = model.init(key, x)
    with raises(ValueError, "compose_1/encoder/dense_0: expected 4 features in the last axis, got (3, 7)"):
        jax.jit(model.apply)(params, state, jnp.ones((3, 7)))
    with raises(ValueError, "compose_1/encoder/dropout_1: needs a key when train=True"):
        model.apply(params, state, x, train=True)
    with raises(ValueError, "compose_1: parameters for decoder, but its children are encoder, head"):
        model.apply({"compose_1": {"decoder": {}}}, state, x)
    with raises(ValueError, "compose_1/encoder/dense_0: expected parameters w and b, got none"):
        model.apply({}, state, x)
    with raises(ValueError, "body/encoder/dense_0: expected floating-point input (..., in), got int32 (3, 4)"):
        jnn.serial(body=body).init(key, (x.astype(jnp.int32), x))


def test_nested_helpers_may_call_children(key):
    def encode(net, xs):
        return [net.encoder(x) for x in xs]

    model = jnn.compose(lambda net, xs: sum(encode(net, xs)), encoder=jnn.dense(2))
    xs = list(jax.random.normal(key, (3, 5, 4)))
    params, _ = model.init(key, xs)
    np.testing.assert_allclose(model.apply(params, {}, xs)[0], sum(xs) @ params["encoder"]["w"], rtol=1e-5, atol=1e-5)


def test_each_call_is_watched_once(key):
    model = jnn.compose(lambda net, x: net.b(jax.vmap(net.a)(net.a(x))), a=jnn.serial(jnn.dense(4)), b=jnn.dense(2))
    x = jnp.ones((3, 4))
    params, state = model.init(key, x)
    calls = []
    with watch(lambda call: calls.append("/".join(call.path))):
        model.apply(params, state, x)
    assert calls == ["a/dense_0", "a", "a/dense_0", "a", "b"]


def test_it_trains_in_a_vmapped_fit(key):
    model = jnn.compose(
        siamese, encoder=jnn.serial(jnn.dense(8), jnn.batch_norm(), jnp.tanh, jnn.dropout(0.1)), head=jnn.dense(1)
    )
    left, right = jax.random.normal(key, (2, 64, 4))
    training = jnn.training(jnn.supervised(model, jnn.losses.squared_error), optax.adam(0.03))
    batch = ((left, right), (left - right)[:, :1])
    fitted = jax.vmap(lambda key: jnn.fit(training, batch, key=key, steps=100))(jax.random.split(key, 2))
    assert np.all(fitted.history["loss"][:, -1] < 0.3 * fitted.history["loss"][:, 0])
    state = fitted.train_state.state["encoder"]["batch_norm_1"]
    assert np.all(state["var"] != 1)
