import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import jnn
from jnn.types import Layer

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


def small():
    hidden = jnn.serial(jnn.dense(64), jax.nn.gelu, jnn.dropout(0.1))
    return jnn.serial(jnn.flatten(), hidden, head=jnn.dense(10))


def xla(model, x):
    """XLA's count for the whole model, which is right where nothing loops."""
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.jit(lambda p, s, x: model.apply(p, s, x)[0]).lower(params, state, x).cost_analysis()["flops"]


def rows(summary):
    return {row.path: row for row in summary.rows}


def tied():
    """One dense layer called twice."""
    return jnn.compose(lambda net, x: net.shared(jnp.tanh(net.shared(x))), shared=jnn.dense(8))


def test_rows_come_in_the_order_of_the_tree_with_their_paths_kinds_and_shapes():
    table = jnn.summary(small(), IMAGES)
    assert [(row.path, row.kind, row.outputs[0].shape) for row in table.rows] == [
        ("flatten_0", "flatten", (4, 192)),
        ("serial_1", "serial", (4, 64)),
        ("serial_1/dense_0", "dense", (4, 64)),
        ("serial_1/gelu_1", "gelu", (4, 64)),
        ("serial_1/dropout_2", "dropout", (4, 64)),
        ("head", "dense", (4, 10)),
    ]


def test_parameters_and_bytes_are_those_of_the_trees_that_init_returns(key):
    model = small()
    params, _ = model.init(key, IMAGES)
    table = jnn.summary(model, IMAGES)
    leaves = jax.tree.leaves(params)
    assert table.total.parameters == sum(leaf.size for leaf in leaves)
    assert table.total.parameter_bytes == sum(leaf.nbytes for leaf in leaves)
    assert rows(table)["serial_1/dense_0"].parameters == 192 * 64 + 64
    assert rows(table)["serial_1"].parameters == 192 * 64 + 64
    top = [row for row in table.rows if "/" not in row.path]
    assert sum(row.parameters for row in top) == table.total.parameters
    assert sum(row.flops for row in top) == table.total.flops


def test_flops_of_a_product_are_two_for_each_entry_and_one_for_each_bias():
    row = rows(jnn.summary(small(), IMAGES))["serial_1/dense_0"]
    assert row.flops == 2 * 4 * 192 * 64 + 4 * 64


def test_flops_of_the_whole_are_xlas_where_nothing_loops():
    model = small()
    assert jnn.summary(model, IMAGES).total.flops == xla(model, IMAGES)


def test_flops_of_a_convolution_are_xlas_which_leaves_out_products_with_padding():
    def blur(x, window, padding):
        w = jnp.ones((window, window, 3, 5))
        return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    valid = jnn.summary(lambda x: blur(x, 3, "VALID"), IMAGES).total.flops
    assert valid == 2 * (4 * 6 * 6 * 5) * (9 * 3)
    same = jnn.summary(lambda x: blur(x, 3, "SAME"), IMAGES).total.flops
    # a row of 8 pixels: 6 windows of 3 and two of 2, so 22 of 24
    assert same == 2 * 4 * 5 * 3 * 22 * 22


def looped(times):
    return lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ c) + c, None), x, None, length=times)[0]


@pytest.mark.parametrize("times", [1, 7])
def test_loops_count_as_often_as_they_run(times):
    x = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    once = 2 * 5**3 + 5 * 5
    assert jnn.summary(looped(times), x).total.flops == times * once
    counted = jnn.summary(lambda x: jax.lax.fori_loop(0, times, lambda _, c: c @ c, x), x)
    assert counted.total.flops == times * (2 * 5**3 + 1)  # and the counter
    nested = jnn.summary(lambda x: jax.lax.scan(lambda c, _: (looped(times)(c), None), x, None, length=3)[0], x)
    assert nested.total.flops == 3 * times * once


def test_of_two_branches_the_larger_counts():
    x = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    both = lambda x: jax.lax.cond(True, lambda: looped(3)(x), lambda: x)
    assert jnn.summary(both, x).total.flops == jnn.summary(looped(3), x).total.flops


def test_what_cannot_be_known_is_no_number():
    def until(x):
        return jax.lax.while_loop(lambda c: jnp.all(c < 1), lambda c: c @ c, x)

    def outside(x):
        return jax.pure_callback(np.tanh, x, x)

    for function in (until, outside):
        table = jnn.summary(jnn.serial(jnn.dense(4), function, jnn.dense(3)), jax.ShapeDtypeStruct((4, 4), jnp.float32))
        first, unknown, last = table.rows
        assert unknown.flops is None
        assert table.total.flops is None
        assert (first.flops, last.flops) == (2 * 4**3 + 16, 2 * 4 * 4 * 3 + 12)
        assert str(table).count("?") == 3  # the row, the total, and what it means


def test_a_layer_called_twice_has_its_parameters_once_and_its_flops_twice():
    table = jnn.summary(tied(), jax.ShapeDtypeStruct((2, 8), jnp.float32))
    (row,) = table.rows
    assert row.parameters == table.total.parameters == 8 * 8 + 8
    assert row.flops == 2 * (2 * 2 * 8 * 8 + 2 * 8)


def test_a_layer_called_on_two_shapes_shows_both():
    model = jnn.compose(lambda net, x: net.dense(net.dense(x)[0]), dense=jnn.dense(8))
    table = jnn.summary(model, jax.ShapeDtypeStruct((2, 8), jnp.float32))
    assert [y.shape for y in table.rows[0].outputs] == [(2, 8), (8,)]
    assert "(2, 8) | (8,)" in str(table)


def test_repeated_layers_count_as_if_they_stood_in_a_row():
    block = jnn.residual(jnn.serial(jnn.layer_norm(), jnn.dense(16), jax.nn.gelu, jnn.dense(8)))
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    rolled = jnn.summary(jnn.serial(jnn.repeat(jnn.remat(block), 5)), x)
    unrolled = jnn.summary(jnn.serial(*[block] * 5), x)
    assert rolled.total == unrolled.total
    inside = rows(rolled)["repeat_0/layer/dense_1"]
    assert inside.parameters == 5 * (8 * 16 + 16)
    assert inside.flops == 5 * (2 * 4 * 8 * 16 + 4 * 16)
    assert inside.outputs[0].shape == (4, 16)


@pytest.mark.parametrize("layer", [jnn.rnn(6), jnn.lstm(6), jnn.gru(6)], ids=["rnn", "lstm", "gru"])
def test_recurrent_layers_count_every_step(layer):
    def flops(time):
        return jnn.summary(layer, jax.ShapeDtypeStruct((3, time, 4), jnp.float32)).total.flops

    one_more = flops(3) - flops(2)
    assert flops(12) - flops(2) == 10 * one_more
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[jnn.summary(layer, jnp.ones((3, 2, 4))).total.kind]
    assert one_more > 2 * 3 * (4 + 6) * gates * 6  # the products with x and with h


def test_half_precision_is_shown_and_parameters_stay_float32():
    table = jnn.summary(jnn.serial(jnn.precision(jnn.serial(jnn.dense(4)))), jnp.ones((2, 3)))
    outer, inner = table.rows
    assert (outer.path, inner.path) == ("serial_0", "serial_0/dense_0")
    assert inner.outputs[0].dtype == jnp.bfloat16
    assert inner.parameter_bytes == 4 * (3 * 4 + 4)


def test_operations_under_vmap_scan_and_the_users_own_scopes_are_their_layers():
    from jnn.pairs import call

    child = jnn.dense(4)

    def apply(params, state, x, *, key=None, train=False):
        def one(x):
            with jax.named_scope("mine"):
                return call("inner", child, params["inner"], {}, x)[0]

        mapped = jax.vmap(one)(x)
        scanned = jax.lax.scan(lambda c, x: (c, jax.checkpoint(one)(x)), 0, x)[1]
        return mapped + scanned, state

    model = Layer(lambda key, x: ({"inner": child.init(key, x)[0]}, {}), apply)
    for _ in range(2):  # what jax remembers of the first trace takes no row from the second
        table = jnn.summary(model, jax.ShapeDtypeStruct((3, 4), jnp.float32))
        assert rows(table)["inner"].flops == 2 * (2 * 3 * 4 * 4 + 3 * 4)
        assert table.total.flops == rows(table)["inner"].flops + 12


@pytest.mark.parametrize("model", [jnn.dense(3), tuple(jnn.dense(3)), jnp.sin], ids=["layer", "pair", "function"])
def test_a_model_without_children_is_one_row(model):
    table = jnn.summary(model, jnp.ones((2, 4)))
    assert [row.path for row in table.rows] == [""]
    assert table.rows[0].flops == table.total.flops
    assert table.rows[0].kind == ("sin" if model is jnp.sin else "dense")


def test_state_is_counted_beside_the_parameters():
    def init(key, x):
        return {}, {"count": jnp.zeros((), jnp.int32), "mean": jnp.zeros((x.shape[-1],), jnp.float32)}

    table = jnn.summary(jnn.serial(jnn.Layer(init, lambda p, s, x, *, key=None, train=False: (x, s))), jnp.ones((2, 4)))
    assert (table.total.parameters, table.total.state, table.total.state_bytes) == (0, 5, 20)
    assert str(table).endswith("\nstate: 5 numbers, 20 B")


def test_trees_and_other_dtypes_are_written_out():
    def two(x):
        return {"a": x["a"], "b": x["b"].astype(jnp.bfloat16)}

    x = {"a": np.zeros((3,), np.int32), "b": np.zeros((2, 2), np.float32)}
    assert jnn.summary(two, x).total.cells()[2] == "(3,) int32, (2, 2) bfloat16"


def test_nothing_is_computed():
    huge = jax.ShapeDtypeStruct((10_000, 1_000_000), jnp.float32)
    table = jnn.summary(jnn.serial(jnn.dense(1_000_000), jax.nn.relu), huge)
    assert table.total.parameters == 10**12 + 10**6
    assert "1,000,001,000,000  4.0 TB  20.0 P" in str(table)


def test_further_arguments_of_apply_are_handed_on():
    def apply(params, state, x, *, key=None, train=False, lengths=None):
        return (x if lengths is None else x[..., : lengths.shape[0]]), state

    model = jnn.serial(jnn.Layer(lambda key, x: ({}, {}), apply))
    assert jnn.summary(model, jnp.ones((2, 4)), lengths=jnp.ones((3,))).total.outputs[0].shape == (2, 3)


def test_errors_are_the_models_own(raises):
    with raises(jnn.errors.LayerError, "dense_1: expected floating-point input (..., in), got int32 (2, 4)"):
        jnn.summary(jnn.serial(jnn.flatten(), jnn.dense(3)), jax.ShapeDtypeStruct((2, 2, 2, 1), jnp.int32))


def test_text_is_aligned_and_ends_with_the_total():
    lines = str(jnn.summary(small(), IMAGES)).splitlines()
    assert (
        lines
        == """\
path                kind     output    parameters    bytes    FLOPs
------------------  -------  --------  ----------  -------  -------
flatten_0           flatten  (4, 192)           0      0 B        0
serial_1            serial   (4, 64)       12,352  49.4 kB  100.6 k
serial_1/dense_0    dense    (4, 64)       12,352  49.4 kB   98.6 k
serial_1/gelu_1     gelu     (4, 64)            0      0 B    2.0 k
serial_1/dropout_2  dropout  (4, 64)            0      0 B        0
head                dense    (4, 10)          650   2.6 kB    5.2 k
------------------  -------  --------  ----------  -------  -------
total               serial   (4, 10)       13,002  52.0 kB  105.8 k""".splitlines()
    )
    assert repr(jnn.summary(small(), IMAGES)) == "\n".join(lines)


def test_a_terminal_and_a_notebook_show_every_cell():
    table = jnn.summary(jnn.serial(jnn.dense(3), lambda x: x), jnp.ones((2, 4)))
    html = table._repr_html_()
    for width in (100, 45):  # the second breaks the text, but no number
        console = rich.console.Console(width=width)
        with console.capture() as captured:
            console.print(table)
        for row in (*table.rows, table.total):
            for cell in row.cells() if width == 100 else row.cells()[3:]:
                assert f" {cell} " in captured.get()
    for row in (*table.rows, table.total):
        for cell in row.cells():
            assert f">{cell}</t" in html
    assert html.count("<tr") == html.count("</tr>") == len(table.rows) + 2
    assert not re.search(r"<(?!/?(table|thead|tbody|tfoot|tr|th|td|p|div)\b)", html)


def test_layers_show_their_factory():
    assert repr(jnn.dense(3)) == "Layer(dense)"
    assert repr(jnn.serial(jnn.dense(3))) == "Layer(serial)"
    assert repr(jnn.Layer(max, min)) == "Layer(init, apply)"
