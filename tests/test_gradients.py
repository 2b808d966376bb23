import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.gradients import check_gradients

APART = "give real and imaginary parts apart"


def scaled_cotangent(where, factor):
    """x^2 summed, whose derivative is right but for one entry, multiplied by `factor`."""

    @jax.custom_vjp
    def f(x):
        return jnp.sum(x * x)

    def backward(x, g):
        grad = 2 * x * g
        return (grad.at[where].multiply(factor),)

    f.defvjp(lambda x: (f(x), x), backward)
    return f


def test_one_wrong_entry_of_a_custom_derivative_is_found_by_path_and_index():
    wrong = scaled_cotangent((1, 2), 1.5)

    def f(params, x):
        return wrong(params["layer"]["w"]) + jnp.sum(params["layer"]["b"] * x)

    w = np.arange(1.0, 7).reshape(2, 3).astype(np.float32)
    args = {"layer": {"w": w, "b": np.ones((3,), np.float32)}}, np.ones((3,), np.float32)
    with pytest.raises(AssertionError) as error:
        check_gradients(f, args)
    assert str(error.value) == (
        "gradients differ: 0/layer/w[1, 2]: analytic 18, numerical 12, relative error 0.33 (allowed 1e-06)"
    )


def test_an_error_of_a_millionth_is_found_and_a_smaller_one_let_through():
    x = np.linspace(0.5, 1, 5)
    with pytest.raises(AssertionError, match=r"0\[3\]"):
        check_gradients(scaled_cotangent(3, 1 + 3e-6), (x,))
    entry = check_gradients(scaled_cotangent(3, 1 + 3e-8), (x,))
    assert entry.index == (3,)
    assert 2e-8 < entry.error < 4e-8


def test_the_worst_entry_comes_back_with_both_derivatives():
    x = np.array([0.25, 2.0])
    entry = check_gradients(lambda x: jnp.sum(jnp.sin(x)), (x,))
    assert entry.path == "0"
    np.testing.assert_allclose(entry.analytic, np.cos(x[entry.index]), rtol=1e-12)
    np.testing.assert_allclose(entry.numerical, entry.analytic, rtol=1e-8)


def test_several_arguments_trees_integers_and_keys():
    def f(table, x, key):
        rows = table["rows"][x["index"]]
        noise = jax.random.uniform(key, rows.shape, rows.dtype)
        return {"a": rows * noise, "b": (jnp.tanh(x["real"]), x["index"])}, None

    x = {"real": np.float32(0.3), "index": np.array([2, 0, 2])}
    table = {"rows": np.arange(6, dtype=np.float32).reshape(3, 2), "empty": np.ones((0, 2), np.float32)}
    check_gradients(f, (table, x, jax.random.key(3)))

    def wrong(table, x, key):
        return f(table, {**x, "real": jax.lax.stop_gradient(x["real"])}, key)

    with pytest.raises(AssertionError, match=r"differ: 1/real\[\]: analytic 0, numerical"):
        check_gradients(wrong, (table, x, jax.random.key(3)))


def test_it_computes_in_float64_whatever_the_arguments_are():
    seen = []

    def f(x):
        seen.append(x.dtype)
        return jnp.sum(jnp.exp(x))

    for dtype in (jnp.bfloat16, jnp.float32):
        assert check_gradients(f, (jnp.ones((3,), dtype),)).error < 1e-8
    assert set(seen) == {jnp.dtype("float64")}
    assert jnp.ones(()).dtype == jnp.float32


def test_it_works_with_x64_already_on(x64):
    assert check_gradients(lambda x: x**3, (jnp.asarray(2.0),)).error < 1e-8
    assert jnp.ones(()).dtype == jnp.float64


def test_steps_grow_with_large_entries():
    assert check_gradients(lambda x: jnp.sum(jnp.log(x)), (np.array([1.0, 1e8]),)).error < 1e-6


def test_a_kink_at_the_point_fails_and_beside_it_does_not():
    with pytest.raises(AssertionError, match=r"0\[1\]: analytic 0, numerical 0.5"):
        check_gradients(lambda x: jnp.sum(jax.nn.relu(x)), (np.array([1.0, 0.0, -1.0]),))
    check_gradients(lambda x: jnp.sum(jax.nn.relu(x)), (np.array([1.0, 1e-3, -1.0]),))


def test_a_derivative_that_is_not_finite_is_the_worst_entry():
    x = np.array([1.0, 4.0, 2.0])
    with pytest.raises(AssertionError, match=r"differ: 0\[2\]: analytic nan, numerical 4, relative error inf"):
        check_gradients(scaled_cotangent(2, jnp.nan), (x,))
    with pytest.raises(AssertionError, match=r"differ: 0\[0\]: analytic inf, numerical nan"):
        check_gradients(lambda x: jnp.sum(jnp.sqrt(x)), (np.array([0.0, 2.0]),))


def test_a_function_that_is_not_finite_at_the_point_is_said_so(raises):
    with raises(AssertionError, "check_gradients: f itself is nan at this point"):
        check_gradients(lambda x: jnp.sum(jnp.log(x)), (np.array([-1.0, 2.0]),))


def test_zero_derivatives_agree():
    assert check_gradients(lambda x: jnp.sum(jnp.floor(x)), (np.array([0.5, 1.5]),)).error == 0


def test_only_so_many_entries_are_looked_at_and_all_with_none():
    x = np.ones(200)
    wrong = scaled_cotangent(7, 2.0)
    check_gradients(wrong, (x,), entries=1)
    with pytest.raises(AssertionError, match=r"0\[7\]"):
        check_gradients(wrong, (x,), entries=None)


def test_closed_over_float32_is_explained():
    layer = jnn.dense(3)
    x = jnp.ones((2, 4))
    params, state = layer.init(jax.random.key(0), x)
    with pytest.raises(jnn.errors.LayerError) as error:
        check_gradients(lambda p: layer.apply(p, state, x)[0], (params,))
    assert "an array that f closes over stays as it is" in error.value.__notes__[-1]
    check_gradients(lambda p, x: layer.apply(p, state, x)[0], (params, x))


def test_results_too_coarse_for_differences_are_named():
    with pytest.raises(AssertionError, match=r"f returns float32 for float64 arguments, too coarse for differences$"):
        check_gradients(lambda x: jnp.sum(jnp.sin(x.astype(jnp.float32))), (np.linspace(0, 1, 5),))


@pytest.mark.parametrize(
    ("f", "args", "error", "message"),
    [
        (jnp.sum, np.ones(3), TypeError, "args must be a tuple of arguments, got ndarray: write (args,)"),
        (jnp.sum, (np.arange(3),), ValueError, "no floating-point numbers among the arguments"),
        (jnp.argmax, (np.ones(3),), ValueError, "no floating-point numbers among the results"),
        (
            jnp.real,
            (np.ones(3, complex),),
            TypeError,
            "complex numbers among the arguments: give real and imaginary parts apart",
        ),
        (jnp.fft.fft, (np.ones(3),), TypeError, "complex numbers among the results: give real and imaginary parts apart"),
    ],
    ids=["no tuple", "integers", "integer results", "complex", "complex results"],
)
def test_what_cannot_be_checked_is_refused(f, args, error, message, raises):
    with raises(error, f"check_gradients: {message}"):
        check_gradients(f, args)


def test_entries_must_be_a_positive_number(raises):
    with raises(ValueError, "check_gradients: entries must be at least 1, got 0"):
        check_gradients(jnp.sum, (np.ones(3),), entries=0)
