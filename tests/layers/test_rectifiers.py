import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

from layer_properties import Case, LayerProperties


def formula(params, state, x):
    return jnp.maximum(x, 0) + params["slope"] * jnp.minimum(x, 0)


CASES = [
    Case("prelu", lambda: jnn.prelu(), (4,), formula, has_params=True, drawn=False),
]


class TestEveryRectifier(LayerProperties):
    cases = CASES


def test_prelu_begins_with_a_slope_of_a_quarter_and_needs_no_key():
    params, state = jnn.prelu().init(None, jnp.ones((2, 3)))
    np.testing.assert_array_equal(params["slope"], np.full(3, 0.25, np.float32))
    assert (list(params), state) == (["slope"], {})


def test_prelu_with_one_slope_for_all_is_that_of_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    for slope in (-0.3, 0.0, 0.1, 1.0, 2.0):
        expected = nn.PReLU().apply({"params": {"negative_slope": jnp.float32(slope)}}, x)
        np.testing.assert_allclose(jnn.prelu().apply({"slope": jnp.full(4, slope)}, {}, x)[0], expected, rtol=1e-6)


def test_prelu_is_that_of_torch_forward_and_backward():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    x, slope, towards = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4,), (5, 4)))
    their_x, their_slope = (torch.tensor(a, requires_grad=True) for a in (x, slope))
    expected = torch.nn.functional.prelu(their_x, their_slope)
    (expected * torch.tensor(towards)).sum().backward()
    value = lambda slope, x: jnn.prelu().apply({"slope": slope}, {}, x)[0]
    np.testing.assert_allclose(value(slope, jnp.asarray(x)), expected.detach().numpy(), rtol=1e-6)
    by_slope, by_x = jax.grad(lambda *a: jnp.sum(towards * value(*a)), (0, 1))(jnp.asarray(slope), jnp.asarray(x))
    np.testing.assert_allclose(by_slope, their_slope.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(by_x, their_x.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (jnp.ones((2, 5)), "expected 4 features in the last axis, got (2, 5)"),
        (jnp.ones(()), "expected 4 features in the last axis, got ()"),
        (jnp.ones((2, 4), jnp.bfloat16), "expected float32 input, as the parameters are, got bfloat16: cast one of them"),
        (jnp.ones((2, 4), jnp.int32), "expected float32 input, as the parameters are, got int32: cast one of them"),
    ],
    ids=["width", "scalar", "bfloat16", "integers"],
)
def test_prelu_says_what_it_expected_and_what_it_got(x, problem, raises):
    layer = jnn.prelu()
    params, _ = layer.init(None, jnp.ones((2, 4)))
    with raises(ValueError, f"prelu: {problem}"):
        layer.apply(params, {}, x)
    with raises(ValueError, "prelu: expected floating-point input (..., features), got int32 (2, 4)"):
        layer.init(None, jnp.ones((2, 4), jnp.int32))
    with raises(ValueError, "prelu: expected parameters slope, got ['alpha']"):
        layer.apply({"alpha": jnp.ones(4)}, {}, jnp.ones((2, 4)))
    with raises(ValueError, "prelu: expected slope (features,), got ()"):
        layer.apply({"slope": jnp.ones(())}, {}, jnp.ones((2, 4)))
