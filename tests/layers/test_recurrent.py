from typing import Any

import chex
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jnn

from layer_properties import Case, LayerProperties, filled, shapes_of

TIME, WIDTH, FEATURES, OUTPUTS = 5, 3, 4, 2
KINDS = {
    "rnn": lambda **options: jnn.rnn(FEATURES, **options),
    "jordan": lambda **options: jnn.jordan(FEATURES, OUTPUTS, **options),
    "lstm": lambda **options: jnn.lstm(FEATURES, **options),
    "gru": lambda **options: jnn.gru(FEATURES, **options),
    "gru_reset_after": lambda **options: jnn.gru(FEATURES, reset_after=True, **options),
}
BOTH_WAYS = {
    "bidirectional_rnn": lambda **options: jnn.bidirectional(jnn.rnn(FEATURES, **options)),
    "bidirectional_lstm": lambda **options: jnn.bidirectional(jnn.lstm(FEATURES, **options)),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
every_layer = pytest.mark.parametrize("make", [*KINDS.values(), *BOTH_WAYS.values()], ids=[*KINDS, *BOTH_WAYS])
two_layers = pytest.mark.parametrize("make", [KINDS["lstm"], BOTH_WAYS["bidirectional_rnn"]], ids=["lstm", "bidirectional_rnn"])


def columns(a, gates):
    return jnp.split(a, len(gates), -1)


def simple_cell(p):
    return nn.SimpleCell(FEATURES, param_dtype=p["wx"].dtype), {
        "i": {"kernel": p["wx"], "bias": p["b"]},
        "h": {"kernel": p["wh"]},
    }


def lstm_cell(p):
    cell = {}
    for gate, wx, wh, b in zip("ifgo", *(columns(p[name], "ifgo") for name in ("wx", "wh", "b")), strict=True):
        cell[f"i{gate}"] = {"kernel": wx}
        cell[f"h{gate}"] = {"kernel": wh, "bias": b}
    return nn.OptimizedLSTMCell(FEATURES, param_dtype=p["wx"].dtype), cell


def gru_cell(p):
    cell = {}
    for gate, wx, wh, b, bh in zip("rzn", *(columns(p[name], "rzn") for name in ("wx", "wh", "b", "bh")), strict=True):
        # flax has a second bias for n only; the other two are sums
        cell[f"i{gate}"] = {"kernel": wx, "bias": b if gate == "n" else b + bh}
        cell[f"h{gate}"] = {"kernel": wh, "bias": bh} if gate == "n" else {"kernel": wh}
    return nn.GRUCell(FEATURES, param_dtype=p["wx"].dtype), cell


def flax_rnn(cell_of, **options):
    def apply(params, state, x):
        cell, variables = cell_of(params)
        return nn.RNN(cell, **options).apply({"params": {"cell": variables}}, x)

    return apply


def flax_bidirectional(cell_of):
    def apply(params, state, x):
        forward, forward_variables = cell_of(params["forward"])
        backward, backward_variables = cell_of(params["backward"])
        layer = nn.Bidirectional(nn.RNN(forward), nn.RNN(backward))
        variables = {"forward_rnn": {"cell": forward_variables}, "backward_rnn": {"cell": backward_variables}}
        return layer.apply({"params": variables}, x)

    return apply


def over_examples(one):
    """(params, state, x (..., time, in)) -> y, from a function of a single sequence"""

    def apply(params, state, x):
        flat = x.reshape(-1, *x.shape[-2:])
        ys = jax.vmap(lambda x: one(params, x))(flat)
        return ys.reshape(*x.shape[:-2], *ys.shape[1:])

    return apply


@over_examples
def haiku_gru(params, x):
    wx, wh, b = (jnp.concatenate([z, r, n], -1) for r, z, n in (columns(params[name], "rzn") for name in ("wx", "wh", "b")))
    gru = hk.without_apply_rng(hk.transform(lambda x: hk.static_unroll(hk.GRU(FEATURES), x, jnp.zeros(FEATURES, x.dtype))[0]))
    return gru.apply({"gru": {"w_i": wx, "w_h": wh, "b": b}}, x)


def jordan_formula(activation):
    @over_examples
    def apply(p, x):
        y, ys = jnp.zeros(OUTPUTS, x.dtype), []
        for x_t in x:
            h = jnp.tanh(jnp.concatenate([x_t, y]) @ jnp.concatenate([p["wx"], p["wh"]]) + p["b"])
            y = activation(h @ p["wy"] + p["by"])
            ys.append(y)
        return jnp.stack(ys)

    return apply


def row(name, make, oracle):
    return Case(name, make, (TIME, WIDTH), oracle, has_params=True)


CASES = [
    row("rnn", KINDS["rnn"], flax_rnn(simple_cell)),
    row("jordan", KINDS["jordan"], jordan_formula(lambda y: y)),
    row("lstm", KINDS["lstm"], flax_rnn(lstm_cell)),
    row("gru", KINDS["gru"], haiku_gru),
    row("gru_reset_after", KINDS["gru_reset_after"], flax_rnn(gru_cell)),
    row("bidirectional_rnn", BOTH_WAYS["bidirectional_rnn"], flax_bidirectional(simple_cell)),
]


class TestEveryRecurrentLayer(LayerProperties):
    cases = CASES


def example(make, shape=(3, TIME, WIDTH), dtype=jnp.float32, seed=0, **options):
    """-> layer, params of normal numbers, x"""
    layer = make(**options)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), shapes_of(x))
    return layer, filled(params, dtype, seed + 1), x


def apply_jitted(layer):
    return jax.jit(lambda params, x, **arrays: layer.apply(params, {}, x, **arrays)[0])


# the formulas of the docstrings, written out in numpy, for one sequence in float64


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gates(p, name, count):
    return np.split(np.asarray(p[name]), count, -1)


def numpy_rnn(p, x, h):
    for x_t in x:
        h = np.tanh(x_t @ p["wx"] + h @ p["wh"] + p["b"])
        yield h


def numpy_jordan(p, x, y):
    for x_t in x:
        y = np.tanh(x_t @ p["wx"] + y @ p["wh"] + p["b"]) @ p["wy"] + p["by"]
        yield y


def numpy_lstm(p, x, h):
    c = h + 0.5
    (wi, wf, wg, wo), (ui, uf, ug, uo), (bi, bf, bg, bo) = (gates(p, name, 4) for name in ("wx", "wh", "b"))
    for x_t in x:
        i = sigmoid(x_t @ wi + h @ ui + bi)
        f = sigmoid(x_t @ wf + h @ uf + bf)
        g = np.tanh(x_t @ wg + h @ ug + bg)
        o = sigmoid(x_t @ wo + h @ uo + bo)
        c = f * c + i * g
        h = o * np.tanh(c)
        yield h


def numpy_gru(p, x, h):
    (wr, wz, wn), (ur, uz, un), (br, bz, bn) = (gates(p, name, 3) for name in ("wx", "wh", "b"))
    for x_t in x:
        r = sigmoid(x_t @ wr + h @ ur + br)
        z = sigmoid(x_t @ wz + h @ uz + bz)
        n = np.tanh(x_t @ wn + (r * h) @ un + bn)
        h = (1 - z) * h + z * n
        yield h


def numpy_gru_reset_after(p, x, h):
    (wr, wz, wn), (ur, uz, un), (br, bz, bn), (cr, cz, cn) = (gates(p, name, 3) for name in ("wx", "wh", "b", "bh"))
    for x_t in x:
        r = sigmoid(x_t @ wr + br + h @ ur + cr)
        z = sigmoid(x_t @ wz + bz + h @ uz + cz)
        n = np.tanh(x_t @ wn + bn + r * (h @ un + cn))
        h = (1 - z) * n + z * h
        yield h


@pytest.mark.parametrize("name", KINDS)
def test_values_follow_the_formula_in_numpy_from_any_initial_state(name, x64):
    layer, params, x = example(KINDS[name], (TIME, WIDTH), jnp.float64)
    initial = np.random.default_rng(5).normal(size=OUTPUTS if name == "jordan" else FEATURES)
    expected = np.stack(list(globals()[f"numpy_{name}"](jax.tree.map(np.asarray, params), np.asarray(x), initial)))
    given = (initial, initial + 0.5) if name == "lstm" else initial
    np.testing.assert_allclose(apply_jitted(layer)(params, x, initial=given), expected, rtol=1e-12)


def test_jordan_feeds_back_what_its_output_activation_returns():
    layer, params, x = example(KINDS["jordan"], output_activation=jax.nn.softmax)
    expected = jordan_formula(jax.nn.softmax)(params, {}, x)
    np.testing.assert_allclose(apply_jitted(layer)(params, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "cell_of"), [("rnn", simple_cell), ("lstm", lstm_cell), ("gru_reset_after", gru_cell)])
def test_final_states_with_lengths_equal_flaxs(name, cell_of):
    layer, params, x = example(KINDS[name], return_state=True)
    lengths = jnp.array([5, 1, 3])
    _, final = apply_jitted(layer)(params, x, lengths=lengths)
    with jax.numpy_dtype_promotion("standard"):
        cell, variables = cell_of(params)
        options = {"seq_lengths": lengths, "return_carry": True}
        carry, _ = nn.RNN(cell).apply({"params": {"cell": variables}}, x, **options)
    chex.assert_trees_all_close(final, carry[::-1] if name == "lstm" else carry, rtol=1e-5, atol=1e-6)


# torch


def torch_weights(p, suffix, order):
    """torch keeps (gates * features, in), and two biases"""
    turned = {f"weight_ih_l0{suffix}": p["wx"].T, f"weight_hh_l0{suffix}": p["wh"].T, f"bias_ih_l0{suffix}": p["b"]}
    return {**turned, f"bias_hh_l0{suffix}": p.get("bh", jnp.zeros_like(p["b"]))}


@pytest.mark.parametrize("both_ways", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize(("name", "theirs"), [("rnn", "RNN"), ("lstm", "LSTM"), ("gru_reset_after", "GRU")])
def test_values_gradients_and_final_states_equal_torchs_with_packed_sequences(name, theirs, both_ways, x64):
    torch = pytest.importorskip("torch", reason="torch is an optional oracle")
    make = (lambda **options: jnn.bidirectional(KINDS[name](**options))) if both_ways else KINDS[name]
    layer, params, x = example(make, (4, TIME, WIDTH), jnp.float64, return_state=True)
    lengths = np.asarray([3, 5, 1, 4])  # torch takes none of length 0

    def value(params, x):
        ys, final = layer.apply(params, {}, x, lengths=lengths)[0]
        finals = [leaf[0] if type(leaf) is tuple else leaf for leaf in (final if both_ways else (final,))]  # h of (h, c)
        return jnp.sum(ys**2) + sum(jnp.sum(h**3) for h in finals), (ys, finals)

    (_, (ys, finals)), (param_grads, x_grad) = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(params, x)

    module = getattr(torch.nn, theirs)(WIDTH, FEATURES, batch_first=True, bidirectional=both_ways).double()
    directions = {"": params["forward"], "_reverse": params["backward"]} if both_ways else {"": params}
    weights = {}
    for suffix, p in directions.items():
        weights |= torch_weights(p, suffix, theirs)
    module.load_state_dict({k: torch.tensor(np.asarray(a)) for k, a in weights.items()})
    x_torch = torch.tensor(np.asarray(x), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x_torch, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    out, final = module(packed)
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=TIME)
    final = final[0] if theirs == "LSTM" else final
    ((out**2).sum() + (final**3).sum()).backward()

    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(ys, out.detach(), **close)
    np.testing.assert_allclose(np.stack(finals), final.detach(), **close)
    np.testing.assert_allclose(x_grad, x_torch.grad, **close)
    grads = {"": param_grads["forward"], "_reverse": param_grads["backward"]} if both_ways else {"": param_grads}
    for suffix, p in grads.items():
        for their_name, ours in torch_weights(p, suffix, theirs).items():
            if not their_name.startswith("bias_hh") or "bh" in p:
                np.testing.assert_allclose(ours, getattr(module, their_name).grad, **close)


# lengths


def batch_of(initial_of, leading):
    """An initial state of normal numbers, of the form and the dtypes of one that a layer returned."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=(*leading, a.shape[-1])), a.dtype), initial_of)


@every_layer
def test_sequences_of_different_length_give_what_each_gives_alone(make, x64):
    layer, params, x = example(make, (2, 2, TIME, WIDTH), jnp.float64, return_state=True)
    lengths = np.asarray([[3, TIME], [0, 3]])
    outside = np.arange(TIME) >= lengths[..., None]
    x = jnp.where(outside[..., None], jnp.nan, x)
    _, final = jax.eval_shape(lambda p, x: layer.apply(p, {}, x)[0], params, x)
    initial = batch_of(final, (2, 2))

    def loss(params, x, initial, lengths=None):
        ys, final = layer.apply(params, {}, x, initial=initial, lengths=lengths)[0]
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(final)), (ys, final)

    of = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, (ys, final)), (param_grads, x_grads, initial_grads) = of(params, x, initial, lengths=lengths)

    summed = jax.tree.map(jnp.zeros_like, params)
    for at in np.ndindex(2, 2):
        length = lengths[at]
        pick = lambda tree, at=at: jax.tree.map(lambda a: a[at], tree)
        (_, (y, last)), (p, dx, di) = of(params, x[at][:length], pick(initial))
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(ys[at][:length], y, **close)
        np.testing.assert_array_equal(ys[at][length:], 0)
        chex.assert_trees_all_close(pick(final), last, **close)
        np.testing.assert_allclose(x_grads[at][:length], dx, **close)
        np.testing.assert_array_equal(x_grads[at][length:], 0)
        chex.assert_trees_all_close(pick(initial_grads), di, **close)
        summed = jax.tree.map(jnp.add, summed, p)
    chex.assert_trees_all_close(param_grads, summed, rtol=1e-10, atol=1e-10)


@two_layers
def test_traced_lengths_outside_the_time_axis_are_clipped(make):
    layer, params, x = example(make)
    apply = apply_jitted(layer)
    np.testing.assert_array_equal(
        apply(params, x, lengths=jnp.array([-2, TIME + 3, 2])), apply(params, x, lengths=jnp.array([0, TIME, 2]))
    )


@two_layers
def test_lengths_under_vmap(make):
    layer, params, x = example(make)
    lengths = jnp.array([2, 5, 0])
    apart = jax.vmap(lambda x, n: layer.apply(params, {}, x, lengths=n)[0])(x, lengths)
    np.testing.assert_allclose(apart, apply_jitted(layer)(params, x, lengths=lengths), rtol=1e-5, atol=1e-6)


def test_lengths_may_be_numbers_of_python_and_of_any_integer_type():
    layer, params, x = example(KINDS["gru"])
    expected = apply_jitted(layer)(params, x, lengths=jnp.array([1, 2, 3]))
    apply = lambda x, lengths: layer.apply(params, {}, x, lengths=lengths)[0]
    close = {"rtol": 1e-5, "atol": 1e-6}
    for lengths in ([1, 2, 3], np.uint8([1, 2, 3])):
        np.testing.assert_allclose(apply(x, lengths), expected, **close)
    np.testing.assert_allclose(apply(x[1], 2), expected[1], **close)
    np.testing.assert_allclose(jax.jit(lambda n: apply(x, [1, n, 3]))(2), expected, **close)


# states


@every_kind
def test_final_state_as_initial_continues_the_sequence(make, x64):
    layer, params, x = example(make, dtype=jnp.float64, return_state=True)
    apply = apply_jitted(layer)
    ys, final = apply(params, x)
    first, middle = apply(params, x[:, :2])
    second, last = apply(params, x[:, 2:], initial=middle)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), ys, rtol=1e-12)
    chex.assert_trees_all_close(last, final, rtol=1e-12)


@every_kind
def test_final_state_is_the_last_output_and_lstm_has_its_memory_too(make):
    layer, params, x = example(make, return_state=True)
    ys, final = layer.apply(params, {}, x)[0]
    h, *memory = final if isinstance(final, tuple) else (final,)
    np.testing.assert_array_equal(h, ys[:, -1])
    for c in memory:
        assert c.shape == h.shape
        assert np.all(np.abs(h) < np.abs(np.tanh(c)))


def test_final_states_of_a_bidirectional_layer_are_the_last_step_forward_and_the_first_step_backward():
    layer, params, x = example(BOTH_WAYS["bidirectional_rnn"], return_state=True)
    ys, (forward, backward) = layer.apply(params, {}, x)[0]
    np.testing.assert_array_equal(forward, ys[:, -1, :FEATURES])
    np.testing.assert_array_equal(backward, ys[:, 0, FEATURES:])


@every_layer
@pytest.mark.parametrize("lengths", [None, np.zeros(3, np.int32)], ids=["whole", "lengths"])
def test_no_steps_give_no_outputs_and_the_initial_state(make, lengths):
    layer, params, x = example(make, (3, 0, WIDTH), return_state=True)
    _, final = layer.apply(params, {}, x, lengths=lengths)[0]
    for leaf in jax.tree.leaves(final):
        np.testing.assert_array_equal(leaf, 0)
    initial = batch_of(final, (3,))
    ys, final = layer.apply(params, {}, x, initial=initial, lengths=lengths)[0]
    assert ys.shape[:2] == (3, 0)
    chex.assert_trees_all_equal(final, initial)


@every_layer
def test_state_is_carried_in_bfloat16(make):
    layer, params, x = example(make, dtype=jnp.bfloat16, return_state=True)
    lengths = np.asarray([1, 0, 4])
    _, final = layer.apply(params, {}, x, lengths=lengths)[0]
    out = layer.apply(params, {}, x, initial=final, lengths=lengths)[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}


# time


@every_kind
def test_an_output_depends_on_no_later_input(make):
    layer, params, x = example(make, (TIME, WIDTH))
    jacobian = jax.jit(jax.jacobian(lambda x: layer.apply(params, {}, x)[0]))(x)
    reach = np.any(jacobian != 0, axis=(1, 3))
    np.testing.assert_array_equal(reach, np.tri(TIME, dtype=bool))


def test_an_output_of_a_bidirectional_layer_depends_on_earlier_inputs_in_one_half_and_later_ones_in_the_other():
    layer, params, x = example(BOTH_WAYS["bidirectional_rnn"], (TIME, WIDTH))
    jacobian = jax.jit(jax.jacobian(lambda x: layer.apply(params, {}, x)[0]))(x)
    forward, backward = (np.any(half != 0, axis=(1, 3)) for half in np.split(jacobian, 2, 1))
    np.testing.assert_array_equal(forward, np.tri(TIME, dtype=bool))
    np.testing.assert_array_equal(backward, np.tri(TIME, dtype=bool).T)


@every_layer
def test_the_program_does_not_grow_with_the_time_axis(make):
    def program(time):
        layer, params, x = example(make, (2, time, WIDTH))
        gradient = jax.grad(lambda p, x, n: jnp.sum(layer.apply(p, {}, x, lengths=n)[0]))
        return jax.jit(gradient).lower(params, x, np.ones(2, np.int32)).as_text().count("\n")

    assert program(4) == program(400)


@two_layers
def test_batches_split_over_devices_inside_a_shard_map(make):
    layer, params, x = example(make, return_state=True)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    apply = lambda p, x, n: layer.apply(p, {}, x, lengths=n)[0]
    split, whole = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(apply, mesh=mesh, in_specs=(whole, split, split), out_specs=split)
    lengths = jnp.array([2, 5, 0])
    chex.assert_trees_all_close(
        jax.jit(sharded)(params, x, lengths), apply_jitted(layer)(params, x, lengths=lengths), rtol=1e-5, atol=1e-6
    )


# initial parameters


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (KINDS["rnn"], {"wx": (3, 4), "wh": (4, 4), "b": (4,)}),
        (KINDS["jordan"], {"wx": (3, 4), "wh": (2, 4), "b": (4,), "wy": (4, 2), "by": (2,)}),
        (KINDS["lstm"], {"wx": (3, 16), "wh": (4, 16), "b": (16,)}),
        (KINDS["gru"], {"wx": (3, 12), "wh": (4, 12), "b": (12,)}),
        (KINDS["gru_reset_after"], {"wx": (3, 12), "wh": (4, 12), "b": (12,), "bh": (12,)}),
    ],
    ids=KINDS,
)
def test_parameters_have_their_names_and_shapes_and_biases_are_zero(make, shapes, key):
    x = jnp.ones((2, TIME, WIDTH))
    params, state = make().init(key, x)
    assert state == {}
    assert jax.tree.map(jnp.shape, params) == shapes
    for name in {"b", "bh", "by"} & set(params):
        np.testing.assert_array_equal(params[name], 0)

    params, state = jax.eval_shape(jnn.bidirectional(make()).init, key, x)
    assert state == {}
    assert jax.tree.map(jnp.shape, params) == {"forward": shapes, "backward": shapes}


def test_directions_start_from_different_parameters(key):
    params, _ = BOTH_WAYS["bidirectional_rnn"]().init(key, jnp.ones((TIME, WIDTH)))
    for name in ("wx", "wh"):
        assert np.all(params["forward"][name] != params["backward"][name])


@pytest.mark.parametrize(("make", "gates"), [(jnn.rnn, 1), (jnn.lstm, 4), (jnn.gru, 3)], ids=["rnn", "lstm", "gru"])
def test_wx_has_variance_one_over_its_inputs_and_each_gate_of_wh_is_orthogonal(make, gates, key):
    params, _ = make(50).init(key, jnp.ones((1, 80)))
    wx = np.ravel(params["wx"])
    np.testing.assert_allclose(wx.var(), 1 / 80, rtol=5 * np.sqrt(2 / wx.size))
    for gate in np.split(np.asarray(params["wh"]), gates, -1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(50), atol=1e-5)
    drawn = np.stack(np.split(np.asarray(params["wh"]), gates, -1))
    assert len(np.unique(drawn[:, 0, 0])) == gates


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (jnn.rnn, {"w": [(3, 4)], "wh": [(4, 4)], "b": [(4,)]}),
        (lambda n, **inits: jnn.jordan(n, 2, **inits), {"w": [(3, 4), (4, 2)], "wh": [(2, 4)], "b": [(4,), (2,)]}),
        (jnn.lstm, {"w": [(3, 4)], "wh": [(4, 4)], "b": [(16,)]}),
        (
            lambda n, **inits: jnn.gru(n, reset_after=True, **inits),
            {"w": [(3, 4)], "wh": [(4, 4)], "b": [(12,), (12,)]},
        ),
    ],
    ids=["rnn", "jordan", "lstm", "gru_reset_after"],
)
def test_initializers_get_a_key_for_each_gate_and_its_shape(make, shapes, key):
    seen = {"w": [], "wh": [], "b": []}

    def spy(name):
        def initializer(key, shape, dtype):
            seen[name].append(shape)
            return jax.random.uniform(key, shape, dtype)

        return initializer

    params = make(4, w_init=spy("w"), wh_init=spy("wh"), b_init=spy("b")).init(key, jnp.ones((TIME, WIDTH)))[0]
    assert seen == shapes
    numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert len(np.unique(numbers)) == len(numbers)  # one key twice would give the same numbers twice


def test_lstm_forget_gate_starts_at_one_with_the_initializer_of_the_docstring(key):
    layer = jnn.lstm(4, b_init=lambda key, shape, dtype: jnp.repeat(jnp.array([0, 1, 0, 0], dtype), 4))
    params, _ = layer.init(key, jnp.ones((TIME, WIDTH)))
    np.testing.assert_array_equal(params["b"], [0] * 4 + [1] * 4 + [0] * 8)


# inside other layers


def test_lengths_reach_every_layer_of_a_serial_and_the_last_step_is_read_off(key):
    layers = jnn.bidirectional(jnn.rnn(4)), jnn.gru(4, return_state=True), lambda ys, final: final, jnn.dense(2)
    model = jnn.serial(*layers)
    x = jax.random.normal(key, (2, TIME, WIDTH))
    params = filled(jax.eval_shape(model.init, key, x)[0])
    assert set(params) == {"bidirectional_0", "gru_1", "dense_3"}
    apply = apply_jitted(model)
    y = apply(params, x, lengths=jnp.array([2, 4]))
    for i, length in enumerate((2, 4)):
        np.testing.assert_allclose(y[i], apply(params, x[i, :length]), rtol=1e-5, atol=1e-6)


def test_an_lstm_in_bfloat16_continues_from_the_states_that_it_returned(key):
    layer = jnn.precision(jnn.lstm(FEATURES, return_state=True))
    x = jax.random.normal(key, (2, TIME, WIDTH))
    params = filled(jax.eval_shape(layer.init, key, x)[0])
    apply = apply_jitted(layer)
    ys, final = apply(params, x)
    first, middle = apply(params, x[:, :3])
    second, last = apply(params, x[:, 3:], initial=middle)
    chex.assert_trees_all_equal_shapes_and_dtypes(final, jax.tree.map(lambda a: a.astype(jnp.float32), final))
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), ys, rtol=0.02, atol=0.02)  # 8 bits, rounded again
    chex.assert_trees_all_close(last, final, rtol=0.02, atol=0.02)


def running_sum():
    """A layer as a user writes one: it takes lengths, but no initial state."""

    def init(key, x):
        return {}, {"calls": jnp.zeros(())}

    def apply(params, state, x, *, key=None, train=False, lengths=None):
        if lengths is not None:
            x = jnp.where((jnp.arange(x.shape[-2]) < lengths[..., None])[..., None], x, 0)
        y = jnp.cumsum(x, -2)
        if train:
            y = y + jax.random.uniform(key, x.shape, x.dtype)
        return y, {"calls": state["calls"] + 1}

    return init, apply


def test_bidirectional_takes_a_pair_of_functions_and_keeps_its_state(key):
    layer = jnn.bidirectional(running_sum())
    x = jax.random.normal(key, (2, TIME, WIDTH))
    params, state = layer.init(key, x)
    y, state = layer.apply(params, state, x, lengths=jnp.array([3, 5]))
    assert jax.tree.map(float, state) == {"forward": {"calls": 1}, "backward": {"calls": 1}}
    for i, length in enumerate((3, 5)):
        valid = np.asarray(x)[i, :length]
        backward = np.cumsum(valid[::-1], 0)[::-1]
        expected = np.concatenate([np.cumsum(valid, 0), backward], -1)
        np.testing.assert_allclose(y[i, :length], expected, rtol=1e-5, atol=1e-6)


def test_bidirectional_gives_its_directions_different_keys(key):
    layer = jnn.bidirectional(running_sum())
    x = jnp.zeros((TIME, WIDTH))
    y, _ = layer.apply(*layer.init(key, x), x, key=key, train=True)
    forward, backward = np.split(np.asarray(y), 2, -1)
    assert np.all(forward != backward[::-1])


def test_bidirectional_takes_a_plain_function():
    x = jnp.arange(6.0).reshape(3, 2)
    y, _ = jnn.bidirectional(lambda x: jnp.cumsum(x, -2)).apply({}, {}, x)
    np.testing.assert_array_equal(y, [[0, 1, 6, 9], [2, 4, 6, 8], [6, 9, 4, 5]])


def test_bidirectional_starts_each_direction_from_its_own_initial_state():
    layer, params, x = example(BOTH_WAYS["bidirectional_rnn"])
    initial = jnp.ones((3, FEATURES))
    apply = lambda initial: np.split(layer.apply(params, {}, x, initial=initial)[0], 2, -1)
    none, forward, backward = apply(None), apply((initial, None)), apply((None, initial))
    assert np.any(forward[0] != none[0])
    assert np.any(backward[1] != none[1])
    np.testing.assert_array_equal(forward[1], none[1])
    np.testing.assert_array_equal(backward[0], none[0])


# errors


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: jnn.rnn(0), "rnn: features must be at least 1, got 0"),
        (lambda: jnn.lstm(-1), "lstm: features must be at least 1, got -1"),
        (lambda: jnn.gru(0), "gru: features must be at least 1, got 0"),
        (lambda: jnn.jordan(0, 2), "jordan: features must be at least 1, got 0"),
        (lambda: jnn.jordan(2, 0), "jordan: outputs must be at least 1, got 0"),
    ],
)
def test_factories_refuse_fewer_than_one_feature(make, problem, raises):
    with raises(ValueError, problem):
        make()


@pytest.mark.parametrize("kind", ["rnn", "jordan", "lstm", "gru"])
@pytest.mark.parametrize(
    ("x", "got"),
    [(jnp.ones((5, 3), jnp.int32), "int32 (5, 3)"), (jnp.ones(3), "float32 (3,)")],
    ids=["integers", "one axis"],
)
def test_init_asks_for_a_sequence_of_real_numbers(kind, x, got, key, raises):
    with raises(ValueError, f"{kind}: expected floating-point input (..., time, in), got {got}"):
        KINDS[kind]().init(key, x)


@pytest.mark.parametrize("kind", ["rnn", "jordan", "lstm", "gru"])
def test_init_needs_a_key(kind, raises):
    x = jnp.ones((5, 3))
    with raises(ValueError, f"{kind}: init needs a key"):
        KINDS[kind]().init(None, x)
    with raises(ValueError, "forward: init needs a key"):
        jnn.bidirectional(KINDS[kind]()).init(None, x)


SEQUENCE = jnp.ones((2, TIME, WIDTH))


@pytest.mark.parametrize(
    ("kind", "x", "arrays", "problem"),
    [
        ("rnn", jnp.ones((2, 5, 7)), {}, "expected 3 features in the last axis, got (2, 5, 7)"),
        ("rnn", jnp.ones(3), {}, "expected an array (..., time, in), got float32 (3,)"),
        ("rnn", (SEQUENCE, SEQUENCE), {}, "expected an array (..., time, in), got a tuple of 2"),
        (
            "rnn",
            jnp.ones((2, 5, 3), jnp.bfloat16),
            {},
            "expected float32 input, as the parameters are, got bfloat16: cast one of them",
        ),
        ("rnn", SEQUENCE, {"initial": jnp.ones((2, 3))}, "expected initial float32 (2, 4), got float32 (2, 3)"),
        ("gru", SEQUENCE, {"initial": jnp.ones(4)}, "expected initial float32 (2, 4), got float32 (4,)"),
        (
            "gru",
            SEQUENCE,
            {"initial": jnp.ones((2, 4), jnp.bfloat16)},
            "expected initial float32 (2, 4), got bfloat16 (2, 4)",
        ),
        ("gru", SEQUENCE, {"initial": 0.0}, "expected initial float32 (2, 4), got float 0.0"),
        ("jordan", SEQUENCE, {"initial": jnp.ones((2, 4))}, "expected initial float32 (2, 2), got float32 (2, 4)"),
        ("lstm", SEQUENCE, {"initial": jnp.ones((2, 4))}, "expected initial as a pair (h, c), got float32 (2, 4)"),
        (
            "lstm",
            SEQUENCE,
            {"initial": (jnp.ones((2, 4)), jnp.ones((2, 5)))},
            "expected c of initial float32 (2, 4), got float32 (2, 5)",
        ),
        ("lstm", SEQUENCE, {"initial": (jnp.ones((2, 4)),)}, "expected initial as a pair (h, c), got a tuple of 1"),
        ("gru", SEQUENCE, {"lengths": jnp.ones(3, jnp.int32)}, "expected lengths as integers (2,), got int32 (3,)"),
        ("gru", SEQUENCE, {"lengths": np.int32(3)}, "expected lengths as integers (2,), got int32 ()"),
        ("gru", SEQUENCE, {"lengths": jnp.ones(2)}, "expected lengths as integers (2,), got float32 (2,)"),
        ("gru", SEQUENCE, {"lengths": jnp.ones(2, bool)}, "expected lengths as integers (2,), got bool (2,)"),
    ],
)
def test_apply_says_what_it_expected_and_what_it_got(kind, x, arrays, problem, raises):
    layer, params, _ = example(KINDS[kind])
    with raises(ValueError, f"{kind}: {problem}"):
        layer.apply(params, {}, x, **arrays)
    arrays = {name: jax.tree.map(jnp.asarray, a) if name == "lengths" else a for name, a in arrays.items()}
    traced = all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(arrays))
    with raises(ValueError, f"{kind}: {problem}"):
        (jax.jit(layer.apply) if traced else layer.apply)(params, {}, x, **arrays)


@every_layer
@pytest.mark.parametrize(
    ("lengths", "got"), [(np.array([2, 6]), "2 to 6"), (jnp.array([-1, 3]), "-1 to 3")], ids=["too long", "negative"]
)
def test_concrete_lengths_outside_the_time_axis_are_refused(make, lengths, got):
    layer, params, x = example(make, (2, TIME, WIDTH))
    with pytest.raises(ValueError, match=r"expected lengths from 0 to 5, as \(2, 5, 3\) has steps, got " + got):
        layer.apply(params, {}, x, lengths=lengths)
    with pytest.raises(ValueError, match="expected lengths from 0 to 5"):
        jax.jit(lambda x: layer.apply(params, {}, x, lengths=lengths))(x)


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("lstm", {"wx": jnp.ones((3, 12))}, "expected wx (in, 16), got (3, 12)"),
        ("lstm", {"wh": jnp.ones((3, 16))}, "expected wh (4, 16), got (3, 16)"),
        ("gru", {"b": jnp.ones((3, 4))}, "expected b (12,), got (3, 4)"),
        ("gru", {"bh": jnp.ones(12)}, "expected parameters wx, wh and b, got ['b', 'bh', 'wh', 'wx']"),
        ("gru_reset_after", {"bh": jnp.ones(4)}, "expected bh (12,), got (4,)"),
        ("jordan", {"wh": jnp.ones((4, 4))}, "expected wh (2, 4), got (4, 4)"),
    ],
)
def test_parameters_of_another_layer_are_refused(kind, change, problem, raises):
    layer, params, x = example(KINDS[kind])
    with raises(ValueError, f"{kind.partition('_')[0]}: {problem}"):
        layer.apply({**params, **change}, {}, x)


def test_bidirectional_says_which_direction_was_wrong(raises):
    layer, params, x = example(BOTH_WAYS["bidirectional_lstm"])
    h = jnp.ones((3, FEATURES))
    with raises(ValueError, "bidirectional: expected initial as a pair (forward, backward), got float32 (3, 4)"):
        layer.apply(params, {}, x, initial=h)
    with raises(ValueError, "forward: expected initial as a pair (h, c), got float32 (3, 4)"):
        layer.apply(params, {}, x, initial=(h, h))
    with raises(ValueError, "backward: expected initial as a pair (h, c), got a tuple of 3"):
        layer.apply(params, {}, x, initial=((h, h), (h, h, h)))
    with raises(ValueError, "bidirectional: expected an array (..., time, in), got float32 (3,)"):
        layer.apply(params, {}, x[0, 0])
    with raises(ValueError, "bidirectional: parameters for lstm_0, but its children are forward, backward"):
        layer.apply({"lstm_0": params["forward"]}, {}, x)
    with raises(ValueError, "bidirectional: expected lengths as integers (3,), got int32 (2,)"):
        layer.apply(params, {}, x, lengths=jnp.ones(2, jnp.int32))


def test_bidirectional_refuses_what_its_layer_does_not_take(key, raises):
    x = jnp.ones((2, TIME, WIDTH))
    layer = jnn.bidirectional(running_sum())
    problem = "bidirectional: no layer inside takes the argument initial; they take lengths"
    with raises(ValueError, problem):
        layer.apply(*layer.init(key, x), x, initial=(None, None))
    layer = jnn.bidirectional(jnn.dense(2))
    with raises(ValueError, "bidirectional: no layer inside takes the argument lengths; none of them takes any"):
        layer.apply(*layer.init(key, x), x, lengths=jnp.array([1, 2]))


def test_bidirectional_refuses_a_layer_that_changes_the_number_of_steps(raises):
    x = jnp.ones((2, TIME, WIDTH))
    problem = "expected forward to return a sequence of as many steps as it got, (2, 5, 3), got float32 (2, 4, 3)"
    with raises(ValueError, f"bidirectional: {problem}"):
        jnn.bidirectional(lambda x: x[:, 1:]).apply({}, {}, x)


def test_bidirectional_refuses_a_factory_that_was_not_called():
    with pytest.raises(TypeError, match=r"lstm is a factory that returns a Layer: call it, as in lstm\(...\)"):
        jnn.bidirectional(jnn.lstm)


@every_kind
def test_a_stateful_layer_goes_on_where_it_stopped(make):
    layer, params, x = example(make)
    going_on = jnn.stateful(make(return_state=True))
    same, state = going_on.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, params)
    ys = []
    for piece in (x[:, :2], x[:, 2:3], x[:, 3:]):
        y, state = jax.jit(going_on.apply)(params, state, piece)
        ys.append(y)
    expected = apply_jitted(layer)(params, x)
    np.testing.assert_allclose(jnp.concatenate(ys, 1), expected, rtol=1e-5, atol=1e-6)


def test_stateful_layers_within_others(key):
    x = jax.random.normal(key, (3, TIME, FEATURES))

    def make(wrap):
        cell = lambda: wrap(jnn.lstm(FEATURES, return_state=wrap is jnn.stateful))
        return jnn.serial(jnn.repeat(cell(), 3), jnn.dense(FEATURES), jnn.precision(cell()))

    plain, going_on = make(lambda layer: layer), make(jnn.stateful)
    params, _ = plain.init(key, x)
    same, state = going_on.init(key, x)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, params)
    assert sorted(jnn.tree.flatten(state)) == [f"{name}/final/{i}" for name in ("lstm_2", "repeat_0") for i in "01"]
    first, state = going_on.apply(params, state, x[:, :3])
    rest, state = going_on.apply(params, state, x[:, 3:])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    expected, _ = plain.apply(params, {}, x)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), expected, atol=0.02)  # bfloat16


def test_a_stateful_layer_goes_on_from_the_last_step_that_counts():
    layer, params, x = example(KINDS["gru"])
    going_on = jnn.stateful(jnn.gru(FEATURES, return_state=True))
    _, state = going_on.init(jax.random.key(0), x)
    _, state = going_on.apply(params, state, x, lengths=jnp.array([2, 5, 0]))
    y, _ = going_on.apply(params, state, x[:, :1])
    alone = [jnp.concatenate([x[i, :length], x[i, :1]]) for i, length in enumerate((2, 5, 0))]
    for i, text in enumerate(alone):
        np.testing.assert_allclose(y[i, 0], layer.apply(params, {}, text)[0][-1], rtol=1e-5, atol=1e-6)


def test_a_stateful_layer_keeps_the_state_of_its_own():
    def init(key, x):
        return {}, {"calls": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, *, key=None, train=False, initial: Any = None):
        before = jnp.zeros((2, 3)) if initial is None else initial["sum"]
        sums = jnp.cumsum(x, axis=-2) + before[..., None, :]
        return (sums, {"sum": sums[..., -1, :]}), {"calls": state["calls"] + 1}

    layer = jnn.stateful(jnn.Layer(init, apply))
    x = jnp.arange(24.0).reshape(2, 4, 3)
    params, state = layer.init(jax.random.key(0), x)
    for piece in (x[:, :1], x[:, 1:]):
        y, state = layer.apply(params, state, piece)
    np.testing.assert_array_equal(y, jnp.cumsum(x, 1)[:, 1:])
    np.testing.assert_array_equal(state["final"]["sum"], x.sum(1))
    assert state["layer"]["calls"] == 2


def test_what_stateful_cannot_carry_is_refused(key, raises):
    x = jnp.ones((2, TIME, WIDTH))
    with raises(TypeError, "stateful: needs a layer that takes `initial`, as jnn.lstm does, got dense"):
        jnn.stateful(jnn.dense(3))
    with raises(ValueError, "stateful: a bidirectional layer begins at the end of a sequence, which is still to come"):
        jnn.stateful(jnn.bidirectional(jnn.rnn(3, return_state=True)))
    message = "rnn: stateful needs the pair (ys, final), got float32 (2, 5, 3): make the layer with return_state=True"
    with raises(ValueError, message):
        jnn.stateful(jnn.rnn(3)).init(key, x)
    layer = jnn.serial(jnn.stateful(jnn.rnn(3, return_state=True)))
    params, state = layer.init(key, x)
    with raises(ValueError, "rnn_0: expected initial float32 (4, 3), got float32 (2, 3)"):
        layer.apply(params, state, jnp.ones((4, TIME, WIDTH)))
    with raises(ValueError, "rnn_0: expected state final, got none"):
        layer.apply(params, {}, x)
    with raises(ValueError, "serial: no layer inside takes the argument initial; they take lengths"):
        layer.apply(params, state, x, initial=jnp.zeros((2, 3)))
